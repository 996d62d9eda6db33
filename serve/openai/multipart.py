"""A multipart form, whole: its parts, or the reason why it cannot be read."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final
from urllib.parse import unquote_to_bytes

from fastapi import Request
from starlette.datastructures import FormData
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect
from starlette.types import Message

from serve.openai.schemas import RequestRefused

_EXTENDED: Final = re.compile(rb"\bfilename\*=(utf-8|iso-8859-1)'[^']*'([^;\s]*)", re.IGNORECASE)
_PLAIN: Final = re.compile(rb"\bfilename=", re.IGNORECASE)


@asynccontextmanager
async def form_of(
    request: Request, too_long: RequestRefused, max_bytes: int, *, max_files: int, max_fields: int, max_field: int
) -> AsyncIterator[FormData]:
    """A request's form, open; a field that is no file has at most `max_field` bytes.

    Raises RequestRefused: `too_long` where the body has more than `max_bytes`, 400 where it is none, or not all of it
    is there: of several photos the last would be missing, and nobody would know.
    """
    body = limited(request, too_long, max_bytes).stream()
    parser = _Parser(request.headers, body, max_files=max_files, max_fields=max_fields, max_part_size=max_field)
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise RequestRefused(f"the form cannot be read: {error.message}", status=400) from None
    except ClientDisconnect:
        raise RequestRefused("the body ended before its content-length", status=400) from None
    try:
        if not parser.ended:
            raise RequestRefused("the form ended before its last boundary: not all of it came", status=400)
        yield form
    finally:
        await form.close()


def limited(request: Request, refusal: RequestRefused, max_bytes: int) -> Request:
    """The same request, which ends with this refusal where its body becomes too long."""
    num = 0

    async def receive() -> Message:
        nonlocal num
        message = await request.receive()
        num += len(message.get("body", b""))
        if num > max_bytes:
            raise refusal
        return message

    return Request(request.scope, receive)


class _Parser(MultiPartParser):
    """Starlette's, which also says whether the last boundary came, and takes a file whose name is written as RFC 5987
    has it alone (clients of before 2019) for a file."""

    ended = False

    def on_end(self) -> None:
        self.ended = True

    def on_header_end(self) -> None:
        name, value = self._current_partial_header_name.lower(), self._current_partial_header_value
        if name == b"content-disposition" and not _PLAIN.search(value):
            self._current_partial_header_value = _EXTENDED.sub(_as_plain, value)
        super().on_header_end()


def _as_plain(found: re.Match[bytes]) -> bytes:
    charset, data = found[1].decode("ascii"), unquote_to_bytes(found[2])
    text = data.decode(charset, errors="replace").replace("\\", "/").replace('"', "'")
    return b'filename="%b"' % text.encode()
