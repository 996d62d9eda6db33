"""Colours to sRGB through ICC profiles: those that files embed, and those that files describe in numbers instead.

PNG (cICP, gAMA and cHRM), AVIF and HEIF (nclx) name primaries and a transfer curve; such a profile is written here, so
that littlecms does the work for all of them.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from io import BytesIO
from typing import Final, TypeAlias

import numpy as np
from PIL import Image, ImageCms

Curve: TypeAlias = Callable[[np.ndarray], np.ndarray]  # a channel's value, 0..1, to light, 0..1 (white)

SRGB: Final = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
_LAB: Final = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
_D65, _D50 = (0.3127, 0.3290), (0.96422, 1.0, 0.82521)  # xy; XYZ, of the profiles' connection space
# x y of red, green, blue and white, by their number in ITU-T H.273; others (709, 601) are taken as sRGB's
PRIMARIES: Final = {
    9: (0.708, 0.292, 0.170, 0.797, 0.131, 0.046, *_D65),  # BT.2020
    11: (0.680, 0.320, 0.265, 0.690, 0.150, 0.060, 0.314, 0.351),  # DCI-P3
    12: (0.680, 0.320, 0.265, 0.690, 0.150, 0.060, *_D65),  # Display P3
}
_BT709: Final = (0.640, 0.330, 0.300, 0.600, 0.150, 0.060, *_D65)
_ADOBE: Final = (0.640, 0.330, 0.210, 0.710, 0.150, 0.060, *_D65)
_BRADFORD: Final = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])


def to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """A picture of mode L, RGB, CMYK or LAB as sRGB, mode RGB; through the profile if it fits the pixels.

    A damaged profile, or one of another kind of pixels, says nothing: the numbers are taken as sRGB, as browsers do.
    """
    if image.mode == "LAB":
        return _through(image, _LAB)
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(BytesIO(profile))
            # littlecms leaves the channels it does not know undefined when colour space and mode disagree
            if source.profile.xcolor_space.strip() == {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK"}[image.mode]:
                return _through(image, source)
        except (ImageCms.PyCMSError, OSError):
            pass
    return image.convert("RGB")


def adobe_profile() -> bytes:
    """Adobe RGB (1998): cameras mark it in EXIF without embedding it."""
    return rgb_profile(_ADOBE, lambda values: values ** (563 / 256))


def coded_profile(primaries: int, transfer: int) -> bytes | None:
    """A profile of H.273's code points (PNG's cICP, AVIF's and HEIF's nclx); None if it would be sRGB's."""
    curve = _CURVES.get(transfer)
    if curve is None and primaries not in PRIMARIES:
        return None
    return rgb_profile(PRIMARIES.get(primaries, _BT709), curve or _srgb)


def gamma_profile(gamma: float | None, primaries: tuple[float, ...] | None) -> bytes | None:
    """A profile of PNG's gAMA (of the encoding: 0.45455) and cHRM (white first, as x y); None if it would be sRGB's.

    What is not told is sRGB's, as browsers take it, and so are primaries that mean no colours.
    """
    gamma = 0.45455 if gamma is None else gamma
    usual = 0.44 < gamma < 0.47
    colours = _BT709 if primaries is None else (*primaries[2:], *primaries[:2])
    if not _are_colours(colours):
        colours = _BT709
    if (usual and np.allclose(colours, _BT709, atol=0.01)) or not 0.05 <= gamma <= 5:
        return None
    return rgb_profile(colours, _srgb if usual else lambda values: values ** (1 / gamma))


def rgb_profile(primaries: tuple[float, ...], curve: Curve) -> bytes:
    """An ICC profile (version 2, matrix and curve) of x y of red, green, blue and white."""
    columns_XYZ = _colorants(primaries)
    steps = np.round(np.clip(curve(np.linspace(0, 1, 1024)), 0, 1) * 65535).astype(">u2")
    trc = b"curv" + struct.pack(">II", 0, len(steps)) + steps.tobytes()
    bodies = {b"wtpt": _xyz(_D50)}
    bodies |= {name: _xyz(column) for name, column in zip((b"rXYZ", b"gXYZ", b"bXYZ"), columns_XYZ.T, strict=True)}
    bodies |= {b"rTRC": trc, b"gTRC": trc, b"bTRC": trc}
    table, data = struct.pack(">I", len(bodies)), b""
    for name, body in bodies.items():
        table += name + struct.pack(">II", 132 + 12 * len(bodies) + len(data), len(body))
        data += body
    header = struct.pack(">I4sI4s4s4s", 132 + len(table) - 4 + len(data), b"", 0x02400000, b"mntr", b"RGB ", b"XYZ ")
    header += bytes(12) + b"acsp" + bytes(28) + struct.pack(">3i", *_fixed(_D50)) + bytes(48)
    return header + table + data


def _through(image: Image.Image, source: ImageCms.ImageCmsProfile) -> Image.Image:
    converted = ImageCms.profileToProfile(image, source, SRGB, outputMode="RGB")
    assert converted is not None
    return converted


def _are_colours(primaries: tuple[float, ...]) -> bool:
    """Whether x y of red, green, blue and white are a triangle and a point in it; some programs write zeros."""
    xy = np.array(primaries, np.float64).reshape(4, 2)
    if (xy[:, 1] <= 0).any() or abs(np.linalg.det(np.column_stack([xy[:3], np.ones(3)]))) < 1e-3:
        return False
    return bool((np.linalg.solve(np.column_stack([xy[:3], np.ones(3)]).T, [*xy[3], 1]) > 0).all())


def _colorants(primaries: tuple[float, ...]) -> np.ndarray:
    """XYZ of red, green and blue as columns, adapted to D50 (Bradford)."""
    xy = np.array(primaries, np.float64).reshape(4, 2)
    xyz = np.column_stack([xy, 1 - xy.sum(1)]) / xy[:, 1:]
    colours, white = xyz[:3].T, xyz[3]
    native = colours * np.linalg.solve(colours, white)
    gain = (_BRADFORD @ _D50) / (_BRADFORD @ white)
    return np.asarray(np.linalg.inv(_BRADFORD) @ np.diag(gain) @ _BRADFORD @ native)


def _xyz(values: tuple[float, ...] | np.ndarray) -> bytes:
    return b"XYZ " + bytes(4) + struct.pack(">3i", *_fixed(values))


def _fixed(values: tuple[float, ...] | np.ndarray) -> list[int]:
    return [round(float(value) * 65536) for value in values]


def _srgb(values: np.ndarray) -> np.ndarray:
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def _pq(values: np.ndarray) -> np.ndarray:
    """SMPTE ST 2084; white is at 203 cd/m2 (ITU-R BT.2408), what is brighter is cut off."""
    root = values ** (1 / 78.84375)
    light = np.maximum(root - 0.8359375, 0) / (18.8515625 - 18.6875 * root)
    return 10000 / 203 * light ** (1 / 0.1593017578125)


def _hlg(values: np.ndarray) -> np.ndarray:
    """ARIB STD-B67 with a system gamma of 1.2; white is at three quarters of the signal, as in BT.2408."""

    def shown(signal: np.ndarray) -> np.ndarray:
        bright = (np.exp((np.maximum(signal, 0.5) - 0.55991073) / 0.17883277) + 0.28466892) / 12
        return np.where(signal <= 0.5, signal**2 / 3, bright) ** 1.2

    return shown(values) / shown(np.array(0.75))


_CURVES: Final[dict[int, Curve]] = {
    4: lambda values: values**2.2,
    5: lambda values: values**2.8,
    8: lambda values: values,
    16: _pq,
    18: _hlg,
}
