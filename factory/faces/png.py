"""PNG: the chunks that say how the picture looks. The others can cost the picture: Pillow refuses a file for a text
that is long once it is unpacked, or for the checksum of a chunk that nobody needs."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import Final

_SIGNATURE: Final = 8  # bytes
_KEPT: Final = {b"tRNS", b"gAMA", b"cHRM", b"sRGB", b"eXIf", b"acTL", b"fcTL", b"fdAT"}
_TEXTS: Final = (b"XML:com.adobe.xmp\0", b"Raw profile type ")  # where programs put the orientation
_MAX_TEXT, _MAX_PROFILE = 2**20, 2**24  # bytes, unpacked


@dataclass(frozen=True, slots=True)
class Png:
    """A file without what the picture does not need."""

    data: bytes
    profile: bytes | None  # ICC
    coded: tuple[int, int] | None  # primaries and transfer curve (cICP), before any profile
    depth: int  # bits a sample


def pared(data: bytes) -> Png:
    """Takes a file apart, and together without metadata. What is damaged in the picture itself stays so."""
    parts, profile, coded, depth = [data[:_SIGNATURE]], None, None, 8
    at, name = _SIGNATURE, b""
    while at + 12 <= len(data) and name != b"IEND":
        (length,) = struct.unpack_from(">I", data, at)
        name, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        is_intact = zlib.crc32(name + body) == int.from_bytes(data[at + 8 + length : at + 12 + length], "big")
        if name == b"IHDR" and length >= 9:
            depth = body[8]
        if name[:1].isupper():  # critical; one that is cut short becomes a chunk of what is left
            parts.append(data[at : at + 12 + length] if at + 12 + length <= len(data) else _chunk(name, body))
        elif is_intact and (name in _KEPT or _is_of_use(name, body)):
            parts.append(_chunk(name, body))
        elif is_intact and name == b"cICP" and length >= 2:
            coded = body[0], body[1]
        elif is_intact and name == b"iCCP":
            profile = _unpacked(body.partition(b"\0")[2][1:], _MAX_PROFILE)
        at += 12 + length
    if name != b"IEND":
        parts.append(_chunk(b"IEND", b""))
    return Png(data=b"".join(parts), profile=profile, coded=coded, depth=depth)


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def _is_of_use(name: bytes, body: bytes) -> bool:
    """Whether a text tells the orientation, and stays within limits when it is unpacked."""
    if not body.startswith(_TEXTS) or len(body) > _MAX_TEXT:
        return False
    rest = body.partition(b"\0")[2]
    if name == b"zTXt":
        return _unpacked(rest[1:], _MAX_TEXT) is not None
    return name == b"tEXt" or (name == b"iTXt" and rest[:1] == b"\0")


def _unpacked(packed: bytes, limit: int) -> bytes | None:
    """What zlib makes of it; None if that is more than `limit` bytes, or if it is damaged."""
    stream = zlib.decompressobj()
    try:
        data = stream.decompress(packed, limit + 1)
    except zlib.error:
        return None
    return data if len(data) <= limit else None
