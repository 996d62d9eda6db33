"""Pictures as they go over the wire: in the size and the format that was asked for."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageOps

from factory.provenance.marks import mark

OutputFormat = Literal["png", "jpeg", "webp", "gif"]
_URL_SAFE = str.maketrans("-_", "+/")
PNG_LEVEL = 2  # of zlib's 0..9: a third of the usual 6's time for a sixth more bytes, and the pixels are the same


def resized(image: np.ndarray, size: tuple[int, int] | None) -> np.ndarray:
    """A picture (uint8 [H, W, 3] RGB) of another width and height, px, by Lanczos' filter; None: as it is.

    Where the shape is another one, what is too much at the sides is cut off.
    """
    height, width = image.shape[:2]
    if size is None or size == (width, height):
        return image
    picture = ImageOps.fit(Image.fromarray(image), size, Image.Resampling.LANCZOS)
    return np.asarray(picture)


def as_file(
    image: np.ndarray, output_format: OutputFormat, quality: int, made: Mapping[str, Any] | None = None
) -> bytes:
    """A picture (uint8 [H, W, 3] RGB) as a file that says that a model made it, and with `made` how; `quality` 0..100
    is of jpeg and webp."""
    buffer = io.BytesIO()
    if output_format == "png":
        Image.fromarray(image).save(buffer, "PNG", compress_level=PNG_LEVEL)
    else:
        Image.fromarray(image).save(buffer, output_format.upper(), quality=quality)
    return mark(buffer.getvalue(), made)


def encode(image: np.ndarray, output_format: OutputFormat, quality: int, made: Mapping[str, Any] | None = None) -> str:
    """Base64 of a picture as a file, as `as_file` takes it."""
    return base64.b64encode(as_file(image, output_format, quality, made)).decode("ascii")


def from_base64(text: str) -> bytes:
    """A file as clients send it: base64, also URL-safe, in lines, or without its padding, and as a data: URL. Raises
    binascii.Error or another ValueError."""
    plain = "".join((text.partition("base64,")[2] or text).split()).translate(_URL_SAFE).rstrip("=")
    return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
