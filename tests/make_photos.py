"""One picture as a file of any kind, and how far what is read from it is off."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms

from factory.config import PrepareConfig
from factory.errors import PhotoRejected
from factory.faces.photos import decode_photo
from factory.records import Photo

SIZE = (96, 80)  # width, height


def picture() -> np.ndarray:
    """All hues and greys, soft, uint8 [80, 96, 3]."""
    y, x = np.mgrid[0:1:80j, 0:1:96j]
    return np.round(255 * np.stack([x, y, 0.5 + 0.5 * np.sin(6 * x + 4 * y)], -1)).astype(np.uint8)


TRUE = picture()
GREY = np.asarray(Image.fromarray(TRUE).convert("L"))
GREYS = np.repeat(GREY[..., None], 3, axis=2)


def decoded(data: bytes) -> Photo:
    return decode_photo(data, name="x", config=PrepareConfig())


def error_of(data: bytes, true: np.ndarray) -> float:
    """Mean difference, 0..255."""
    image = decoded(data).image
    assert image.shape == true.shape
    return float(np.abs(image.astype(float) - true).mean())


def reject(data: bytes) -> PhotoRejected:
    with pytest.raises(PhotoRejected) as refusal:
        decoded(data)
    return refusal.value


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def tiff(values: np.ndarray, **options: Any) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, np.ascontiguousarray(values), **options)
    return file.getvalue()


def as_type(values: np.ndarray, kind: str) -> np.ndarray:
    """A picture of 0..255 in the whole range of another type."""
    dtype = np.dtype(kind)
    if dtype.kind == "f":
        return (values / 255).astype(dtype)
    return np.round(values / 255 * np.iinfo(dtype).max).astype(dtype)


def in_mode(mode: str) -> tuple[Image.Image, np.ndarray]:
    """The picture in a mode of Pillow's, and what it shows."""
    colour = Image.fromarray(TRUE)
    if mode in ("I", "I;16", "I;16B", "I;16L", "I;16N"):
        values = GREY.astype(np.int32 if mode == "I" else ">u2" if mode == "I;16B" else "<u2") * 257
        return Image.frombytes("I" if mode == "I" else mode, SIZE, values.tobytes()), GREYS
    if mode == "F":
        return Image.fromarray((GREY / 255).astype(np.float32)), GREYS
    if mode in ("L", "LA", "La"):
        grey = Image.fromarray(GREY)
        return (grey if mode == "L" else grey.convert("LA").convert(mode)), GREYS
    if mode == "1":
        bits = GREY > 127
        return Image.fromarray(bits), np.repeat(bits[..., None] * np.uint8(255), 3, axis=2)
    if mode in ("P", "PA"):
        few = colour.quantize(256)
        return few.convert(mode), np.asarray(few.convert("RGB"))
    if mode == "LAB":
        srgb, lab = (ImageCms.createProfile(space) for space in ("sRGB", "LAB"))
        made = ImageCms.profileToProfile(colour, srgb, lab, outputMode="LAB")
        assert made is not None
        return made, TRUE
    return (colour.convert("RGBA").convert(mode) if mode == "RGBa" else colour.convert(mode)), TRUE


def png(depth: int, colour_type: int, rows: np.ndarray, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of ready-made rows, uint8 [H, bytes]."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", *SIZE, depth, colour_type, 0, 0, 0))
    body = zlib.compress(np.pad(rows, ((0, 0), (1, 0))).tobytes())
    more = b"".join(chunk(*each) for each in chunks)
    return b"\x89PNG\r\n\x1a\n" + header + more + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def png16(values: np.ndarray, *chunks: tuple[bytes, bytes]) -> bytes:
    channels = 1 if values.ndim == 2 else values.shape[2]
    rows = values.astype(">u2").reshape(len(values), -1).view(np.uint8)
    return png(16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], rows, *chunks)


def png8(values: np.ndarray, *chunks: tuple[bytes, bytes]) -> bytes:
    return png(8, 0 if values.ndim == 2 else 2, values.reshape(len(values), -1), *chunks)


def with_primaries(profile: bytes) -> np.ndarray:
    """The true picture's numbers in another RGB space: what a file with this profile holds."""
    srgb, other = ImageCms.createProfile("sRGB"), ImageCms.ImageCmsProfile(io.BytesIO(profile))
    made = ImageCms.profileToProfile(Image.fromarray(TRUE), srgb, other, outputMode="RGB")
    assert made is not None
    return np.asarray(made)
