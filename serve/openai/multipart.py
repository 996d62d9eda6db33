"""A multipart form, whole: its parts, or the reason why it cannot be read."""

from __future__ import annotations

import base64
import quopri
import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Final
from urllib.parse import unquote_to_bytes

from fastapi import Request
from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect
from starlette.types import Message

from serve.openai.body import check_encoding
from serve.openai.schemas import RequestRefused

_EXTENDED: Final = re.compile(rb"\bfilename\*=(utf-8|iso-8859-1)'[^']*'([^;\s]*)", re.IGNORECASE)
_PLAIN: Final = re.compile(rb"\bfilename=", re.IGNORECASE)
_MOST_BEFORE: Final = 64 * 2**10  # bytes that a form may begin with before its first boundary


@asynccontextmanager
async def form_of(
    request: Request, too_long: RequestRefused, max_bytes: int, *, max_files: int, max_fields: int, max_field: int
) -> AsyncIterator[FormData]:
    """A request's form, open; a field that is no file has at most `max_field` bytes.

    Raises RequestRefused: `too_long` where the body has more than `max_bytes`, 400 where it is none, or not all of it
    is there: of several photos the last would be missing, and nobody would know.
    """
    check_encoding(request)
    body = _from_boundary(limited(request, too_long, max_bytes).stream(), request.headers.get("content-type", ""))
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


async def content_of(file: UploadFile) -> bytes:
    """A file's bytes, decoded where its sender encoded them as for a mail. Raises RequestRefused."""
    encoding = file.headers.get("content-transfer-encoding", "").strip().lower()
    try:
        return _plain_of(await file.read(), encoding)
    except ValueError:
        raise RequestRefused(f"{(file.filename or 'a file')[:100]!r} is no {encoding}, as its part says") from None


async def _from_boundary(body: AsyncGenerator[bytes], content_type: str) -> AsyncGenerator[bytes]:
    """A form from its first boundary on: what some mail libraries write before it is for people."""
    boundary = parse_options_header(content_type)[1].get(b"boundary")
    before = None if boundary is None else b"\r\n"
    async for chunk in body:
        if before is not None and boundary is not None:
            before += chunk
            start = before.find(b"\r\n--" + boundary, 0, _MOST_BEFORE)
            if start < 0 and len(before) < _MOST_BEFORE:
                continue
            chunk, before = before[max(start, 0) + 2 :], None
        yield chunk
    if before is not None:
        yield before[2:]


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

    def on_part_end(self) -> None:
        part = self._current_part
        if part.file is None:  # a file's is decoded as it is read
            encoding = dict(part.item_headers).get(b"content-transfer-encoding", b"").strip().lower().decode("latin-1")
            try:
                part.data = bytearray(_plain_of(bytes(part.data), encoding))
            except ValueError:
                raise MultiPartException(f"a field is no {encoding}, as its part says") from None
        super().on_part_end()


def _plain_of(data: bytes, encoding: str) -> bytes:
    """Raises ValueError where it is not encoded so; encodings that change nothing are many."""
    if encoding == "base64":
        return base64.b64decode(b"".join(data.split()), validate=True)
    return quopri.decodestring(data) if encoding == "quoted-printable" else data


def _as_plain(found: re.Match[bytes]) -> bytes:
    charset, data = found[1].decode("ascii"), unquote_to_bytes(found[2])
    text = data.decode(charset, errors="replace").replace("\\", "/").replace('"', "'")
    return b'filename="%b"' % text.encode()
