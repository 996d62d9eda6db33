"""Bytes -> Photo: decode, turn upright, flatten to RGB. A file that is no usable photo raises PhotoRejected.

Files come from strangers, so limits are checked on the header, before any pixel is decoded.
"""

from __future__ import annotations

import struct
import zlib
from io import BytesIO

import numpy as np
from PIL import ExifTags, Image, ImageCms, UnidentifiedImageError

from factory.config import PrepareConfig
from factory.errors import PhotoRejected
from factory.ids import content_id
from factory.records import Photo

Image.init()  # loads every decoder, so that Image.OPEN says which there are
# Photo formats only: Pillow would also open PostScript (by starting an interpreter), fonts and scientific containers.
_PHOTO_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "JPEG2000", "AVIF", "PPM")
FORMATS = tuple(name for name in _PHOTO_FORMATS if name in Image.OPEN)  # this build of Pillow may lack some

# What Pillow's decoders raise on corrupt bytes, found by flipping bits of every format.
_CORRUPT: tuple[type[Exception], ...] = (
    *(OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, RuntimeError, ArithmeticError),
    *(struct.error, zlib.error, AttributeError),
)

_UPRIGHT = {  # EXIF orientation -> what turns the picture upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode_photo(data: bytes, *, name: str, config: PrepareConfig) -> Photo:
    """Decode an image file to an upright sRGB photo of its full size.

    Transparent parts become white, 16-bit greys are scaled to 8 bits, of an animation the first frame counts, colours
    with an ICC profile are converted to sRGB. Raises PhotoRejected: not_an_image (also empty, truncated, corrupt),
    too_large (bytes or pixels), too_small.
    """
    if len(data) > config.max_bytes:
        raise PhotoRejected("too_large", f"{len(data)} bytes; the limit is {config.max_bytes}")
    if not data:
        raise PhotoRejected("not_an_image", "the file is empty")
    try:
        with Image.open(BytesIO(data), formats=FORMATS) as image:
            _check_size(image.size, config)
            image.load()
            pixels = np.array(_upright(_to_rgb(image), _orientation(image)))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise PhotoRejected("too_large", f"{error}; the limit is {config.max_pixels} pixels") from error
    except UnidentifiedImageError as error:
        raise PhotoRejected("not_an_image", f"none of {', '.join(FORMATS)}, or its header is damaged") from error
    except _CORRUPT as error:
        raise PhotoRejected("not_an_image", f"{type(error).__name__}: {error}"[:500]) from error
    return Photo(photo_id=content_id(data), name=name, image=pixels)


def _check_size(size: tuple[int, int], config: PrepareConfig) -> None:
    width, height = size
    if width * height > config.max_pixels:
        raise PhotoRejected("too_large", f"{width} x {height} pixels; the limit is {config.max_pixels} in all")
    if min(size) < config.min_side_px:
        raise PhotoRejected("too_small", f"{width} x {height} pixels; a side needs {config.min_side_px}")


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except _CORRUPT:  # a damaged EXIF block says nothing about the pixels
        return 1


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _deep_grey_to_rgb(image)
    profile = image.info.get("icc_profile")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        opaque = Image.new("RGBA", rgba.size, "white")
        opaque.alpha_composite(rgba)
        return _to_srgb(opaque.convert("RGB"), profile)
    return _to_srgb(image.convert("RGB") if image.mode in ("P", "PA", "RGBX") else image, profile)


def _deep_grey_to_rgb(image: Image.Image) -> Image.Image:
    """Greys of more than 8 bits: Pillow's own conversion would clip them at 255, which leaves a white page."""
    grey = np.asarray(image, np.float64)
    if not np.isfinite(grey).all():
        raise ValueError("not all pixels are finite numbers")
    if image.mode == "F" and grey.max() <= 1.0:
        full = 1.0
    elif grey.max() <= 255.0 and not image.mode.startswith("I;16"):
        full = 255.0
    else:
        full = max(65535.0, float(grey.max()))  # 16 bits; more than that only in 32-bit files, whose scale is unknown
    return Image.fromarray(np.clip(grey * (255.0 / full) + 0.5, 0, 255).astype(np.uint8)).convert("RGB")


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Through the embedded ICC profile if it fits the pixels; cameras and scanners embed wide ones, CMYK needs one."""
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(BytesIO(profile))
            # littlecms leaves the channels it does not know undefined when colour space and mode disagree
            if source.profile.xcolor_space.strip() == {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK"}.get(image.mode):
                converted = ImageCms.profileToProfile(image, source, _SRGB, outputMode="RGB")
                assert converted is not None
                return converted
        except (ImageCms.PyCMSError, OSError):  # a damaged profile: the numbers are taken as sRGB, as browsers do
            pass
    return image.convert("RGB")


_SRGB = ImageCms.createProfile("sRGB")
