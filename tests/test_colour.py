"""Every depth and colour model becomes 8-bit sRGB: made files against their picture."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pylibjxl
import pytest
from PIL import Image

from factory.faces.colour import CONVERSIONS, full_scale, to_rgb
from factory.faces.icc import coded_profile
from tests.make_photos import GREY, GREYS, TRUE, decoded, error_of, in_mode, png16, reject, saved, tiff, with_primaries

DATA = Path(__file__).parent / "data"


@pytest.mark.parametrize("mode", sorted(CONVERSIONS))
def test_every_mode_in_the_table(mode: str) -> None:
    image, true = in_mode(mode)
    assert image.mode == mode
    rgb = to_rgb(image)
    assert rgb.mode == "RGB"
    assert np.abs(np.asarray(rgb).astype(float) - true).mean() < 1.5


def test_the_table_has_every_mode_that_pillow_knows() -> None:
    from PIL import ImageMode

    for mode in (
        "1",
        "L",
        "I",
        "F",
        "P",
        "RGB",
        "RGBX",
        "RGBA",
        "CMYK",
        "YCbCr",
        "LAB",
        "HSV",
        "RGBa",
        "LA",
        "La",
        "PA",
    ):
        assert ImageMode.getmode(mode).mode == mode and mode in CONVERSIONS


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
def test_fewer_bits_in_sixteen(bits: int) -> None:
    """Cameras write their 12 bits as they are into 16: the range of the values is what white is."""
    grey, colour = (np.round(values / 255 * (2**bits - 1)).astype(np.uint16) for values in (GREY, TRUE))
    assert error_of(saved(Image.fromarray(grey), "PNG"), GREYS) < 1
    assert error_of(png16(colour), TRUE) < 1
    assert error_of(png16(np.dstack([colour, np.full_like(grey, 65535)])), TRUE) < 1
    assert error_of(tiff(grey, photometric="minisblack"), GREYS) < 1
    assert error_of(tiff(colour, photometric="rgb"), TRUE) < 1


def test_transparency_of_deep_greys() -> None:
    key = int(GREY[0, 0]) * 257
    expected = np.where(GREY[0, 0] == GREYS, 255, GREYS)
    assert error_of(png16(GREY.astype(np.uint16) * 257, (b"tRNS", struct.pack(">H", key))), expected) < 1
    pair = np.dstack([GREY.astype(np.uint16) * 257, np.full(GREY.shape, 32768, np.uint16)])
    assert error_of(png16(pair), GREYS / 2 + 127.5) < 1


def test_a_last_channel_that_is_zero_everywhere_hides_nothing() -> None:
    """Of renderers and screenshots that leave it alone; who looks at such a picture without alpha sees it."""
    none, four = np.zeros_like(GREY), np.dstack([TRUE, np.zeros_like(GREY)])
    assert error_of(saved(Image.fromarray(four), "PNG"), TRUE) == 0
    assert error_of(saved(Image.fromarray(four), "WEBP", lossless=True, exact=True), TRUE) == 0
    assert error_of(saved(Image.fromarray(np.dstack([GREY, none])), "PNG"), GREYS) == 0
    assert error_of(png16(four.astype(np.uint16) * 257), TRUE) < 1
    assert error_of(tiff(four, photometric="rgb", extrasamples=["unassalpha"]), TRUE) == 0
    four[0, 0, 3] = 255
    seen = np.full_like(TRUE, 255)
    seen[0, 0] = TRUE[0, 0]
    assert error_of(saved(Image.fromarray(four), "PNG"), seen) == 0, "a dot that is to be seen alone stays so"


def test_full_scale() -> None:
    for top, full in ((200, 255), (1023, 1023), (3000, 4095), (16000, 16383), (17000, 65535), (70000, 2**24 - 1)):
        assert full_scale(np.array([0, top], np.uint32)) == full
    for top, full in ((0.3, 1), (1.2, 1), (200.0, 255), (4000.0, 4095)):
        assert full_scale(np.full(100, top)) == full
    spark = np.append(np.linspace(0, 1, 999), 1e6)
    assert full_scale(spark) == 1, "one reflex does not make the others black"
    assert full_scale(np.array([30000], np.int16)) == 32767


def test_floating_point_that_is_brighter_than_white_or_no_number() -> None:
    grey = (GREY / 255 * 1.2).astype(np.float32)
    image = decoded(tiff(grey, photometric="minisblack")).image
    assert np.abs(image.astype(float) - np.clip(GREYS * 1.2, 0, 255)).mean() < 1
    grey = (GREY / 255).astype(np.float32)
    grey[3, 4], grey[5, 6] = np.nan, np.inf
    assert error_of(tiff(grey, photometric="minisblack"), GREYS) < 1
    assert reject(tiff(np.full((64, 64, 3), np.nan, np.float32), photometric="rgb")).reason == "damaged"


@pytest.mark.parametrize("name", ["plain", "turned", "ten_bits", "alpha"])
def test_heic(name: str) -> None:
    """Red left half, blue right half, a green top left corner; one is stored on its side, one half transparent."""
    image = decoded((DATA / f"{name}.heic").read_bytes()).image.astype(int)
    assert image.shape == (64, 96, 3)
    floor = 127 if name == "alpha" else 0
    for (y, x), channel in (((4, 4), 1), ((50, 20), 0), ((30, 80), 2)):
        expected = np.full(3, floor)
        expected[channel] = 255
        assert np.abs(image[y, x] - expected).max() < 6


def test_jpeg_xl() -> None:
    assert error_of(pylibjxl.encode(TRUE, effort=3, lossless=True), TRUE) == 0
    assert error_of(pylibjxl.encode(GREY[..., None], effort=3, lossless=True), GREYS) == 0
    clear = np.dstack([TRUE, np.full_like(GREY, 128)])
    assert error_of(pylibjxl.encode(clear, effort=3, lossless=True), TRUE * (128 / 255) + 127) < 1
    profile = coded_profile(12, 13)
    assert profile is not None
    assert error_of(pylibjxl.encode(with_primaries(profile), effort=3, lossless=True, icc=profile), TRUE) < 3
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = Image.fromarray(TRUE).transpose(Image.Transpose.ROTATE_90)
    turned = pylibjxl.jpeg_to_jxl(saved(stored, "JPEG", quality=98, exif=exif))
    assert error_of(turned, TRUE) < 4, "upright, and turned once only"
    cut = pylibjxl.encode(TRUE, effort=3)
    assert reject(cut[: len(cut) // 2]).reason == "damaged"
