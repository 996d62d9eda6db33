"""Files that are asked for in parts, as players of clips do: Safari plays nothing of a server that gives none."""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections.abc import Callable, Mapping
from typing import Final

from fastapi.responses import Response

_RANGE: Final = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")
_NUM: Final = 8  # files
_KEPT_S: Final = 120.0  # from one part of a file to the next


class Lately:
    """The last few files as they left: parts that are asked for one after the other are to be of one, and no signature
    comes twice."""

    def __init__(self) -> None:
        self._files: dict[tuple[str, ...], tuple[float, bytes]] = {}

    async def file(self, key: tuple[str, ...], make: Callable[[], bytes]) -> bytes:
        """The file of this key, made in a thread if it did not leave lately."""
        now = time.monotonic()
        self._files = {one: kept for one, kept in self._files.items() if now - kept[0] < _KEPT_S}
        data = self._files[key][1] if key in self._files else await asyncio.to_thread(make)
        self._files[key] = now, data
        if len(self._files) > _NUM:
            del self._files[min(self._files, key=lambda one: self._files[one][0])]
        return data

    def forget(self, name: str) -> None:
        """Drops the files whose key begins so."""
        self._files = {one: kept for one, kept in self._files.items() if one[0] != name}


def answer(data: bytes, media_type: str, asked: Mapping[str, str], headers: Mapping[str, str]) -> Response:
    """A file that shows somebody, whole or the part that the header `Range` of what is `asked` names (206; 416 beyond
    its end), or that whoever asks has it (304). No cache gives it to anybody else, nor without asking whether it may
    still be given out.

    Of several parts, of what cannot be understood, and if `If-Range` names another file, it is the whole (RFC 9110).
    """
    tag = f'"{hashlib.sha256(data).hexdigest()[:32]}"'
    told = {"accept-ranges": "bytes", "cache-control": "private, no-cache", "etag": tag, **headers}
    if is_known(asked.get("if-none-match"), tag):
        return Response(status_code=304, headers=told)
    part = _part(asked.get("range"), len(data)) if asked.get("if-range") in (None, tag) else None
    if part is None:
        return Response(data, media_type=media_type, headers=told)
    start, end = part
    if start >= end:
        return Response(status_code=416, headers={**told, "content-range": f"bytes */{len(data)}"})
    told["content-range"] = f"bytes {start}-{end - 1}/{len(data)}"
    return Response(data[start:end], status_code=206, media_type=media_type, headers=told)


def is_known(asked: str | None, tag: str) -> bool:
    """Whether the header `If-None-Match` has this tag. A proxy that compresses makes tags weak, and caches ask for
    several; both are the same here."""
    tags = {one.strip().removeprefix("W/") for one in (asked or "").split(",")}
    return tag in tags or "*" in tags


def _part(asked: str | None, size: int) -> tuple[int, int] | None:
    """Where the part begins and ends, or None for the whole."""
    found = _RANGE.fullmatch((asked or "").replace(" ", ""))
    if found is None or not (found[1] or found[2]):
        return None
    if not found[1]:  # so many at the end
        return max(size - int(found[2]), 0) if int(found[2]) else size, size
    start, end = int(found[1]), min(int(found[2]) + 1, size) if found[2] else size
    return None if found[2] and int(found[2]) < start else (start, end)
