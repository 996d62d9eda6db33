"""Pictures as rarer programs write them: their colours are those that were meant, and what is not read says why."""

from __future__ import annotations

import struct
from io import BytesIO

import numpy as np
import pillow_heif
import pytest
from PIL import Image

from factory.faces.icc import adobe_profile, coded_profile
from tests.make_photos import GREY, SIZE, TRUE, decoded, error_of, png8, reject, saved, with_primaries

_INKS = np.dstack([255 - TRUE, np.zeros_like(GREY)])
_P3 = (0.3127, 0.3290, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060)  # x y of white, red, green, blue


def heif(image: np.ndarray) -> bytes:
    file = BytesIO()
    pillow_heif.from_pillow(Image.fromarray(image)).save(file, quality=90)
    return file.getvalue()


def jp2(image: np.ndarray, profile: bytes, method: int) -> bytes:
    """A JPEG 2000 file with a profile in place of the number of its colours."""
    data = saved(Image.fromarray(image), "JPEG2000")
    at, colours = data.index(b"jp2h") - 4, data.index(b"colr") - 4
    size, old = (int.from_bytes(data[start : start + 4], "big") for start in (at, colours))
    box = struct.pack(">I4s3B", 11 + len(profile), b"colr", method, 0, 0) + profile
    head = struct.pack(">I", size - old + len(box)) + data[at + 4 : colours] + box + data[colours + old : at + size]
    return data[:at] + head + data[at + size :]


@pytest.mark.parametrize("method", [2, 3])
def test_the_profile_of_a_jpeg_2000(method: int) -> None:
    for profile in (adobe_profile(), coded_profile(12, 13)):
        assert profile is not None
        assert error_of(jp2(with_primaries(profile), profile, method), TRUE) < 3
    assert error_of(jp2(TRUE, b"no profile", method), TRUE) == 0


def bmp(bits: int, fields: tuple[tuple[int, int], ...], header: int, image: np.ndarray = TRUE) -> bytes:
    """Each channel's first bit and number of bits -> a bitmap of such masks."""
    values = sum(np.round(image[::-1, :, channel] / 255 * (2**num - 1)).astype(np.uint32) << low
                 for channel, (low, num) in enumerate(fields))  # fmt: skip
    pixels = np.asarray(values).astype(f"<u{bits // 8}").tobytes()
    masks = struct.pack("<4I", *((2**num - 1) << low for low, num in fields), *[0] * (4 - len(fields)))
    head = struct.pack("<IiiHHIIiiII", header, *SIZE, 1, bits, 3, len(pixels), 0, 0, 0, 0)
    head += masks[:12] if header == 40 else masks
    return b"BM" + struct.pack("<IHHI", 14 + len(head) + len(pixels), 0, 0, 14 + len(head)) + head + pixels


@pytest.mark.parametrize("header", [40, 56])
@pytest.mark.parametrize(
    ("bits", "fields"),
    [
        (32, ((16, 8), (8, 8), (0, 8))),
        (32, ((0, 8), (8, 8), (16, 8))),
        (32, ((8, 8), (16, 8), (24, 8))),
        (32, ((0, 8), (16, 8), (8, 8))),
        (32, ((20, 10), (10, 10), (0, 10))),
        (16, ((0, 5), (5, 6), (11, 5))),
        (16, ((8, 4), (4, 4), (0, 4))),
    ],
)
def test_a_bitmap_of_any_masks(bits: int, fields: tuple[tuple[int, int], ...], header: int) -> None:
    assert error_of(bmp(bits, fields, header), TRUE) < (5 if fields[0][1] == 4 else 2.5)


def test_a_bitmap_of_rare_masks_with_alpha_or_cut_short() -> None:
    clear = np.dstack([TRUE, np.full_like(GREY, 128)])
    data = bmp(32, ((8, 8), (16, 8), (24, 8), (0, 8)), 56, clear)
    assert error_of(data, TRUE * (128 / 255) + 127) < 1
    assert reject(data[:-5000]).reason == "damaged" and "cut short" in reject(data[:-5000]).detail
    huge = bytearray(data)
    huge[18:26] = struct.pack("<2i", 2**15, 2**15)
    assert reject(bytes(huge)).reason == "too_large"


def test_chromaticities_of_png_alone_and_such_as_mean_no_colours() -> None:
    profile = coded_profile(12, 13)
    assert profile is not None
    chunk = struct.pack(">8I", *(round(value * 100_000) for value in _P3))
    assert error_of(png8(with_primaries(profile), (b"cHRM", chunk)), TRUE) < 3
    linear = np.round(255 * (TRUE / 255) ** 2.2).astype(np.uint8)
    for nonsense in (bytes(32), struct.pack(">8I", *[33_333] * 8), struct.pack(">8I", *[2**31] * 8)):
        assert error_of(png8(TRUE, (b"cHRM", nonsense)), TRUE) == 0
        assert error_of(png8(linear, (b"gAMA", struct.pack(">I", 100_000)), (b"cHRM", nonsense)), TRUE) < 4


@pytest.mark.parametrize("transform", [0, 2])
def test_inks_of_a_jpeg(transform: int) -> None:
    """As Adobe's programs write them, as they are or as colour differences (YCCK)."""
    inks = Image.merge("CMYK", [Image.fromarray(_INKS[..., number]) for number in range(4)])
    if transform:  # of 255 minus the inks, the last one apart
        differences = Image.fromarray(_INKS[..., :3]).convert("YCbCr").split()
        inks = Image.merge("CMYK", [*(Image.eval(one, lambda v: 255 - v) for one in differences), inks.getchannel(3)])
    data = bytearray(saved(inks, "JPEG", quality=98, subsampling=0))
    data[data.index(b"Adobe") + 11] = transform
    assert error_of(bytes(data), TRUE) < 2


def test_what_lies_behind_a_jpeg_or_in_it_for_brighter_screens_changes_nothing() -> None:
    plain = saved(Image.fromarray(TRUE), "JPEG", quality=95)
    depth = saved(Image.fromarray(GREY).resize((300, 200)), "JPEG")
    xmp = b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta><hdrgm:Version>1.0</hdrgm:Version></x:xmpmeta>"
    gain_map = plain[:2] + b"\xff\xe1" + struct.pack(">H", len(xmp) + 2) + xmp + plain[2:] + depth
    for data in (plain + depth, plain + b"\0\0\0\x18ftypmp42" + bytes(5000), gain_map):
        np.testing.assert_array_equal(decoded(data).image, decoded(plain).image)


def test_a_heif_of_another_size_than_its_header_says_is_told() -> None:
    data = heif(np.asarray(Image.fromarray(TRUE).resize((480, 400))))
    assert decoded(data).image.shape == (400, 480, 3)
    for size in ((478, 398), (240, 200), (400, 480)):
        other = bytearray(data)
        at = other.index(b"ispe") + 8
        other[at : at + 8] = struct.pack(">2I", *size)
        assert "not as large as its header says" in reject(bytes(other)).detail


def noisy(kind: str) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (200, 240, 3), np.uint8)
    return heif(noise) if kind == "HEIF" else saved(Image.fromarray(noise), kind)


@pytest.mark.parametrize("kind", ["WEBP", "AVIF", "HEIF"])
def test_a_picture_that_ends_in_zeros_is_no_photo(kind: str) -> None:
    """Their decoders go on with anything; a download that reserved its room, and broke off, leaves them."""
    data = noisy(kind)
    assert "bytes are zero" in reject(data[: len(data) // 2] + bytes(len(data) - len(data) // 2)).detail
    np.testing.assert_array_equal(decoded(data + bytes(5000)).image, decoded(data).image, "behind it they mean nothing")


def test_a_tiff_whose_directory_became_zeros_is_cut_short() -> None:
    data = saved(Image.fromarray(TRUE), "TIFF", compression="tiff_lzw")
    assert "cut short" in reject(data[: len(data) // 2] + bytes(len(data) - len(data) // 2)).detail
