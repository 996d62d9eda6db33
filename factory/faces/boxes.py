"""The boxes that JPEG 2000, JPEG XL, HEIF and AVIF files are made of, and what is taken out of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

_JXL: Final = b"\0\0\0\x0cJXL "  # how a JPEG XL file with boxes begins


def boxes(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """The kind of each box, and where its content begins and ends: beyond the data, if that is cut short."""
    at = 0
    while at + 8 <= len(data):
        size, start = int.from_bytes(data[at : at + 4], "big"), at + 8
        if size == 1:
            size, start = int.from_bytes(data[at + 8 : at + 16], "big"), at + 16
        end = at + max(size, 8) if size else len(data)
        yield data[at + 4 : at + 8], start, end
        at = end


def jxl_codestream(data: bytes) -> bytes:
    """The picture of a JPEG XL file, which holds its size, way up and colours, out of the boxes around it. Other boxes
    may be packed by Brotli, in whose unpacking a file can do harm (CVE-2026-111497, in pylibjxl 0.5). Raises ValueError
    if there is none."""
    if not data.startswith(_JXL):
        return data
    found = [(kind, data[start:end]) for kind, start, end in boxes(data) if kind in (b"jxlc", b"jxlp")]
    if not found:
        raise ValueError("no picture in its boxes")
    return b"".join(body[4:] if kind == b"jxlp" else body for kind, body in found)  # of several, behind its number


def jp2_profile(data: bytes) -> bytes | None:
    """The ICC profile of a JPEG 2000 file, which Pillow does not look at."""
    heads = (data[start:end] for kind, start, end in boxes(data) if kind == b"jp2h")
    colours = (head[start:end] for head in heads for kind, start, end in boxes(head) if kind == b"colr")
    return next((body[3:] for body in colours if body[:1] in (b"\2", b"\3")), None)
