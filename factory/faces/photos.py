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
from factory.faces.boxes import boxes
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


_BLANK: Final = 1024  # zeros at the end of a picture that surely mean nothing
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
    if (num := _blank_end(data, kind.name)) >= _BLANK:
        what = f"whose last {num:,} bytes are zero, as a download that broke off leaves them; copy it again"
        raise PhotoRejected("damaged", f"{_with_article(kind.name)} {what}")
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
    name = _with_article(kind)
    if _is_cut_short(data, kind):
        salvage = ", or let --set salvage=true use what is there" if kind in _BY_ROWS else ""
        return PhotoRejected("damaged", f"{name} that is cut short; copy it again{salvage}")
    what = "damaged, or of a rare sort; copy it again, or if it opens elsewhere save it as JPEG or PNG"
    return PhotoRejected("damaged", f"{name} that cannot be decoded: {what}")


def _with_article(kind: str) -> str:
    return f"{'an' if kind == 'AVIF' else 'a'} {kind}"


def _blank_end(data: bytes, kind: str) -> int:
    """How many bytes at the end of a picture are zero, of those kinds whose decoders make something of anything; what
    lies behind the picture does not count."""
    if kind not in ("WebP", "HEIF", "AVIF"):
        return 0
    end = int.from_bytes(data[4:8], "little") + 8
    if kind != "WebP":
        end = max((end for name, _, end in boxes(data) if name.strip(b"\0")), default=0)
    picture = data[:end]
    return len(picture) - len(picture.rstrip(b"\0"))


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
    has_boxes = data[4:8] in (b"ftyp", b"JXL ", b"jP  ")
    return has_boxes and any(end > len(data) for _, _, end in boxes(data))
