"""Pictures at addresses of this server, for a time.

They are kept in a table of the root: so any server finds them, they outlive this one, and erasing a person reaches
them. An address needs no signature: it is a random number of 128 bits, told only to whoever asked for the picture.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Sequence
from typing import Any, Final

from factory.store.files import drop_expired, find_file
from factory.store.tables import Store

PICTURE_S: Final = 3600.0  # how long a picture is at its address, as at OpenAI
_SWEEP_S: Final = 600.0  # between two looks for what has expired


class UnknownFile(LookupError):
    """There is no such file, it has expired, or somebody in it was erased."""


class Shelf:
    """The files of one root."""

    def __init__(self, store: Store, *, keep_s: float = PICTURE_S, most: int = 4096, sweep_s: float = _SWEEP_S) -> None:
        """Beyond `most` files the oldest make room, at the latest `sweep_s` seconds later if more come."""
        self._store, self._keep_s, self._most, self._sweep_s = store, keep_s, most, sweep_s
        self._swept = time.monotonic()

    async def put(self, contents: Sequence[bytes], filename: str, people: Sequence[str]) -> list[str]:
        """Keeps pictures of these people in one commit; gives their ids."""
        now = time.time()
        rows: list[dict[str, Any]] = [
            {
                "file_id": f"file-{secrets.token_hex(16)}",
                "purpose": "picture",
                "filename": filename,
                "content": content,
                "num_bytes": len(content),
                "people": list(people),
                "created_at": now,
                "expires_at": now + self._keep_s,
            }
            for content in contents
        ]
        await asyncio.to_thread(self._store.upsert, "files", rows)
        if time.monotonic() - self._swept > self._sweep_s:
            self._swept = time.monotonic()
            await asyncio.to_thread(drop_expired, self._store, now, self._most)
        return [row["file_id"] for row in rows]

    async def find(self, file_id: str) -> dict[str, Any]:
        """A file's row. Raises UnknownFile."""
        row = await asyncio.to_thread(find_file, self._store, file_id, time.time())
        if row is None:
            raise UnknownFile(f"there is no picture {file_id[:100]!r}, or its address has expired")
        return row
