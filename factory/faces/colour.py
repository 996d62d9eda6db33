"""Pixels of any depth and colour model -> 8-bit sRGB. `CONVERSIONS` is the table of what Pillow's modes become.

Depth is told by the values, not by the file: cameras store 10, 12 or 14 bits in 16, and name 16.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from PIL import Image

from factory.faces.icc import to_srgb

_FULL: Final = tuple(2**bits - 1 for bits in (8, 10, 12, 14, 16, 24, 31, 32))  # the values that may mean white
_SIGNED_FULL: Final = (255, 1023, 4095, 16383, 32767)
_WHITE: Final = 255  # what transparent parts lie on


def to_rgb(image: Image.Image, profile: bytes | None = None) -> Image.Image:
    """A loaded picture as 8-bit sRGB, mode RGB; transparent parts become white. Raises ValueError if it is no numbers.

    `profile` is the ICC profile of its colours.
    """
    convert = _with_alpha if image.has_transparency_data and image.mode not in _DEEP else CONVERSIONS[image.mode]
    return to_srgb(convert(image), profile)


def deep_to_rgb(
    values: np.ndarray,
    profile: bytes | None = None,
    *,
    alpha: np.ndarray | None = None,
    white_is_zero: bool = False,
    premultiplied: bool = False,
) -> Image.Image:
    """Numbers of any type, [H, W] grey, [H, W, 3] red, green, blue or [H, W, 4] inks (CMYK), as `to_rgb`.

    Floating-point numbers are taken as they would be shown, 1 being white, and what is above it (up to a half) as
    white too. `alpha` [H, W] is of the same type; `white_is_zero`: of a grey scan. Raises ValueError if they are hardly
    numbers at all.
    """
    if values.dtype.kind == "f":
        finite = np.isfinite(values)
        if finite.mean() < 0.99:
            raise ValueError("not all pixels are finite numbers")
        values = np.where(finite, values, 0)
    scaled = np.clip(values.astype(np.float32) * (1 / full_scale(values)), 0, 1)
    if white_is_zero:
        scaled = 1 - scaled
    has_inks = scaled.ndim == 3 and scaled.shape[2] == 4
    if alpha is not None and alpha.any():  # else as in `_with_alpha`
        full = full_scale(alpha) if alpha.dtype.kind == "f" else np.iinfo(alpha.dtype).max
        share = np.clip(alpha.astype(np.float32) / full, 0, 1).reshape(*alpha.shape, *[1] * (scaled.ndim - 2))
        scaled = scaled * (1 if premultiplied else share) + (0 if has_inks else 1 - share)
    pixels = (np.clip(scaled, 0, 1) * 255 + 0.5).astype(np.uint8)
    return to_srgb(
        Image.frombytes("CMYK", pixels.shape[1::-1], pixels.tobytes()) if has_inks else Image.fromarray(pixels), profile
    )


def lab_to_rgb(values: np.ndarray, *, is_signed: bool) -> Image.Image:
    """CIELab of 8 or 16 bits, unsigned [H, W, 3], as `to_rgb`. `is_signed`: a and b as two's complement, not from their
    middle on."""
    light, chroma = values[..., :1], values[..., 1:]
    if values.dtype != np.uint8:
        light, chroma = light / (257 if is_signed else 256), chroma >> 8
    if not is_signed:
        chroma = chroma ^ 128
    pixels = np.concatenate([light, chroma], axis=2).round().astype(np.uint8)
    return to_srgb(Image.frombytes("LAB", pixels.shape[1::-1], pixels.tobytes()), None)


def full_scale(values: np.ndarray) -> float:
    """The value that means white: the least of 8, 10, 12, 14, 16, ... bits that holds all values."""
    if values.dtype.kind == "f":
        top = float(np.percentile(values, 99.5))  # of a few reflexes much brighter than white nothing follows
        if top <= 1.5:
            return 1.0
    else:
        top = float(values.max(initial=0))
    known = _SIGNED_FULL if values.dtype == np.int16 else _FULL
    return float(next((full for full in known if top <= full), top))


def is_uniform(image: Image.Image) -> bool:
    """Whether hardly anything is to be seen, as in the first frame of a clip that fades in."""
    grey = np.asarray(to_rgb(image).convert("L").resize((64, 64), Image.Resampling.BOX))
    low, high = np.percentile(grey, (1, 99))
    return bool(high - low < 16)


def _as_it_is(image: Image.Image) -> Image.Image:
    return image


def _rgb(image: Image.Image) -> Image.Image:
    return image.convert("RGB")


def _grey(image: Image.Image) -> Image.Image:
    return image.convert("L")


def _with_alpha(image: Image.Image) -> Image.Image:
    """Over white, in the picture's own colours, so that its profile still fits: grey stays grey.

    Where nothing would be left, whoever wrote the file left the last channel alone: the colours are the picture.
    """
    if image.mode in ("LA", "La"):
        pair = image.convert("LA")
        if _is_zero(pair.getchannel(1)):
            return pair.getchannel(0)
        over = Image.new("L", image.size, _WHITE)
        over.paste(pair.getchannel(0), mask=pair.getchannel(1))
        return over
    four = image.convert("RGBA")
    if _is_zero(four.getchannel(3)):
        return four.convert("RGB")
    opaque = Image.new("RGBA", image.size, "white")
    opaque.alpha_composite(four)
    return opaque.convert("RGB")


def _is_zero(channel: Image.Image) -> bool:
    return channel.getextrema() == (0, 0)


def _deep(image: Image.Image) -> Image.Image:
    values = np.asarray(image)
    grey = deep_to_rgb(values).convert("L")
    key = image.info.get("transparency")  # PNG: the one value that is transparent
    if isinstance(key, int):
        grey.paste(_WHITE, mask=Image.fromarray(values == key))
    return grey


_DEEP: Final = ("I", "I;16", "I;16B", "I;16L", "I;16N", "F")
CONVERSIONS: Final[dict[str, Callable[[Image.Image], Image.Image]]] = {  # to L, RGB, CMYK or LAB of 8 bits
    "1": _grey,
    "L": _as_it_is,
    "LA": _with_alpha,
    "La": _with_alpha,
    "P": _rgb,
    "PA": _with_alpha,
    "RGB": _as_it_is,
    "RGBX": _rgb,
    "RGBA": _with_alpha,
    "RGBa": _with_alpha,
    "CMYK": _as_it_is,
    "YCbCr": _rgb,
    "HSV": _rgb,
    "LAB": _as_it_is,
    **dict.fromkeys(_DEEP, _deep),
}
