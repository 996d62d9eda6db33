"""Bytes -> Photo: decode, turn upright, 8-bit sRGB. A file that is no usable photo raises PhotoRejected.

Files come from strangers, so limits are checked on the header, before any pixel is decoded, and details of a refusal
never hold anything out of the file.
"""

from __future__ import annotations

import re
from typing import Final

import numpy as np
from PIL import Image

from factory.config import PrepareConfig
from factory.errors import PhotoRejected
from factory.faces import jpeg, tiff
from factory.faces.kinds import kind_of
from factory.faces.readers import CORRUPT, READERS, check_size
from factory.ids import content_id
from factory.records import Origin, Photo

_UPRIGHT: Final = {  # EXIF orientation -> what turns the picture upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


_BY_ROWS: Final = ("PNG", "GIF", "BMP", "TIFF", "PPM")  # formats of which a part shows a part of the picture


def decode_photo(data: bytes, *, name: str, config: PrepareConfig, photo_id: str | None = None) -> Photo:
    """Decode an image file to an upright sRGB photo of its full size. `photo_id` is its `content_id`, where known.

    Transparent parts become white; deep pixels are scaled by their range; colours go through the file's profile. Of an
    animation the first frame counts in which something is to be seen, of a TIFF the largest page (`unread`: of so
    many others). Of a file that is cut short the whole rows count: of a JPEG that lacks its last few, and of any with
    `config.salvage`.

    Raises PhotoRejected: not_an_image, unsupported, damaged (also cut short), too_large (bytes or pixels), too_small.
    """
    if len(data) > config.max_bytes:
        raise PhotoRejected("too_large", f"{len(data):,} bytes; the limit is {config.max_bytes:,} bytes (max_bytes)")
    if not data:
        raise PhotoRejected("not_an_image", "the file is empty")
    kind = kind_of(data)
    if kind.reason:
        raise PhotoRejected(kind.reason, kind.detail)
    try:
        decoded = READERS[kind.name](data, config)
    except Image.DecompressionBombError as error:  # of a later frame that is larger than the first
        raise PhotoRejected("too_large", f"a frame of more than {config.max_pixels:,} pixels (max_pixels)") from error
    except CORRUPT as error:
        raise _fault(data, kind.name) from error
    turn = _UPRIGHT.get(decoded.orientation)
    upright = decoded.image if turn is None else decoded.image.transpose(turn)
    check_size(upright.size, config)
    return Photo(
        photo_id=photo_id or content_id(data),
        name=name,
        image=np.array(upright),
        origin=Origin(frame=decoded.frame, salvaged=decoded.salvaged),
        unread=decoded.unread,
    )


def _fault(data: bytes, kind: str) -> PhotoRejected:
    """What is wrong with a file that a decoder gave up. The decoder's words may quote it, and tell a user nothing."""
    rare = jpeg.structure(data).unsupported if kind == "JPEG" else None
    if rare is not None:
        return PhotoRejected("unsupported", f"{rare}, which is not read; save it as an ordinary JPEG or PNG")
    article = "an" if kind == "AVIF" else "a"
    if _is_cut_short(data, kind):
        salvage = ", or let --set salvage=true use what is there" if kind in _BY_ROWS else ""
        return PhotoRejected("damaged", f"{article} {kind} that is cut short; copy it again{salvage}")
    what = "damaged, or of a rare sort; copy it again, or if it opens elsewhere save it as JPEG or PNG"
    return PhotoRejected("damaged", f"{article} {kind} that cannot be decoded: {what}")


def _is_cut_short(data: bytes, kind: str) -> bool:
    """Whether a file ends before its own end."""
    if kind == "JPEG":
        return not jpeg.has_end(data)
    if kind == "PNG":
        return b"IEND" not in data[-4096:]
    if kind == "GIF":
        return data.rstrip(b"\0")[-1:] != b";"
    if kind in ("WebP", "BMP"):
        stated = int.from_bytes(data[4:8], "little") + 8 if kind == "WebP" else int.from_bytes(data[2:6], "little")
        return stated > len(data)
    if kind == "TIFF":
        return not all(page.is_whole(data) for page in tiff.pages(data)) or not tiff.pages(data)
    if kind == "PPM":
        header = re.match(rb"P([56])\s+(\d{1,7})\s+(\d{1,7})\s+(\d{1,5})\s", data)
        colours, width, height, top = map(int, header.groups()) if header else (5, 0, 0, 1)
        return width * height * (3 if colours == 6 else 1) * (2 if top > 255 else 1) > len(data)
    return kind in ("HEIF", "AVIF", "JPEG XL") and _boxes_pass(data)


def _boxes_pass(data: bytes) -> bool:
    """Whether a box of an ISO file is longer than what is left of it."""
    at = 0
    while data[4:8] in (b"ftyp", b"JXL ") and at + 8 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        size = int.from_bytes(data[at + 8 : at + 16], "big") if size == 1 else size
        if size == 0:
            return False
        at += max(size, 8)
    return at > len(data)
