"""Every depth and colour model becomes 8-bit sRGB, or is refused for what it is: made files against their picture."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pylibjxl
import pytest
import tifffile
from PIL import Image, ImageCms

from factory.config import PrepareConfig
from factory.errors import PhotoRejected
from factory.faces.colour import CONVERSIONS, full_scale, to_rgb
from factory.faces.icc import coded_profile, gamma_profile, rgb_profile
from factory.faces.photos import decode_photo
from factory.records import Photo

DATA = Path(__file__).parent / "data"
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


@pytest.mark.parametrize("kind", ["u1", "u2", "u4", "i2", "f4", "f8"])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("packed", [None, "zlib"])
def test_tiff_of_any_depth(kind: str, order: str, packed: str | None) -> None:
    how: dict[str, Any] = {"byteorder": order, "compression": packed}
    assert error_of(tiff(as_type(TRUE, kind), photometric="rgb", **how), TRUE) < 1
    assert error_of(tiff(as_type(GREY, kind), photometric="minisblack", **how), GREYS) < 1
    assert error_of(tiff(as_type(255 - GREY, kind), photometric="miniswhite", **how), GREYS) < 1, "white is zero"
    half = np.dstack([as_type(TRUE, kind), as_type(np.full_like(GREY, 128), kind)])
    over_white = TRUE * (128 / 255) + 127
    assert error_of(tiff(half, photometric="rgb", extrasamples=["unassalpha"], **how), over_white) < 1


@pytest.mark.parametrize("kind", ["u1", "u2"])
def test_tiff_of_printers(kind: str) -> None:
    inks = np.dstack([255 - TRUE, np.zeros_like(GREY)])
    assert error_of(tiff(as_type(inks, kind), photometric="separated"), TRUE) < 1


def test_tiff_in_separate_planes() -> None:
    planes = np.moveaxis(TRUE, 2, 0)
    for packed in (None, "zlib"):
        how: dict[str, Any] = {"photometric": "rgb", "planarconfig": "separate", "compression": packed}
        assert error_of(tiff(planes, **how), TRUE) == 0
        refusal = reject(tiff(as_type(planes, "u2"), **how))
        assert refusal.reason == "unsupported" and "a TIFF of 16-bit RGB in separate planes" in refusal.detail


@pytest.mark.parametrize(
    ("kind", "name"), [("f2", "16-bit floating-point RGB"), ("i1", "8-bit signed RGB"), ("c8", "64-bit complex")]
)
def test_tiff_that_is_not_read_is_named(kind: str, name: str) -> None:
    values = TRUE.astype(np.complex64) if kind == "c8" else as_type(TRUE, kind)
    refusal = reject(tiff(values, photometric="rgb"))
    assert refusal.reason == "unsupported" and name in refusal.detail and "save it as" in refusal.detail


def raw_tiff(photometric: int, pixels: bytes, more: dict[int, list[int]], bits: list[int]) -> bytes:
    """An uncompressed TIFF of one strip, from its tags."""
    tags = {256: [SIZE[0]], 257: [SIZE[1]], 258: bits, 259: [1], 262: [photometric], 277: [len(bits)], 278: [SIZE[1]]}
    tags |= {273: [400], 279: [len(pixels)], **more}
    entries, extra = b"", b""
    for tag, values in sorted(tags.items()):
        kind, letter = (4, "I") if tag in (273, 279) else (3, "H")
        packed = struct.pack(f"<{len(values)}{letter}", *values)
        if len(packed) > 4:
            place, extra = 300 + len(extra), extra + packed
            packed = struct.pack("<I", place)
        entries += struct.pack("<HHI", tag, kind, len(values)) + packed.ljust(4, b"\0")
    head = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)
    return (head.ljust(300, b"\0") + extra).ljust(400, b"\0") + pixels


@pytest.mark.parametrize("said", [True, False])
def test_tiff_of_colour_differences(said: bool) -> None:
    """YCbCr without compression, four pixels to a difference: which is also the default."""
    ycc = np.asarray(Image.fromarray(TRUE).convert("YCbCr")).astype(int)
    blocks = ycc.reshape(40, 2, 48, 2, 3).transpose(0, 2, 1, 3, 4).reshape(-1, 4, 3)
    units = np.concatenate([blocks[..., 0], blocks[..., 1:].mean(1).round()], 1).astype(np.uint8)
    assert error_of(raw_tiff(6, units.tobytes(), {530: [2, 2]} if said else {}, [8, 8, 8]), TRUE) < 4


def test_tiff_of_cielab() -> None:
    assert error_of(raw_tiff(8, in_mode("LAB")[0].tobytes(), {}, [8, 8, 8]), TRUE) < 2


def test_tiff_of_twelve_packed_bits() -> None:
    values = GREY.astype(int) * 16
    pairs = values.reshape(-1, 2)
    packed = np.stack([pairs[:, 0] >> 4, (pairs[:, 0] & 15) << 4 | pairs[:, 1] >> 8, pairs[:, 1] & 255], 1)
    assert error_of(raw_tiff(1, packed.astype(np.uint8).tobytes(), {}, [12]), GREYS) < 1.5


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
def test_fewer_bits_in_sixteen(bits: int) -> None:
    """Cameras write their 12 bits as they are into 16: the range of the values is what white is."""
    grey, colour = (np.round(values / 255 * (2**bits - 1)).astype(np.uint16) for values in (GREY, TRUE))
    assert error_of(saved(Image.fromarray(grey), "PNG"), GREYS) < 1
    assert error_of(png16(colour), TRUE) < 1
    assert error_of(png16(np.dstack([colour, np.full_like(grey, 65535)])), TRUE) < 1
    assert error_of(tiff(grey, photometric="minisblack"), GREYS) < 1
    assert error_of(tiff(colour, photometric="rgb"), TRUE) < 1


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


def test_transparency_of_deep_greys() -> None:
    key = int(GREY[0, 0]) * 257
    expected = np.where(GREY[0, 0] == GREYS, 255, GREYS)
    assert error_of(png16(GREY.astype(np.uint16) * 257, (b"tRNS", struct.pack(">H", key))), expected) < 1
    pair = np.dstack([GREY.astype(np.uint16) * 257, np.full(GREY.shape, 32768, np.uint16)])
    assert error_of(png16(pair), GREYS / 2 + 127.5) < 1


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


def with_primaries(profile: bytes) -> np.ndarray:
    """The true picture's numbers in another RGB space: what a file with this profile holds."""
    srgb, other = ImageCms.createProfile("sRGB"), ImageCms.ImageCmsProfile(io.BytesIO(profile))
    made = ImageCms.profileToProfile(Image.fromarray(TRUE), srgb, other, outputMode="RGB")
    assert made is not None
    return np.asarray(made)


def test_profiles_that_we_write_say_what_they_should() -> None:
    """sRGB by its own numbers changes nothing; reds of a wide space are told apart from sRGB's."""
    same = rgb_profile((0.64, 0.33, 0.30, 0.60, 0.15, 0.06, 0.3127, 0.3290), lambda v: v**2.2)
    assert np.abs(with_primaries(same).astype(float) - TRUE).mean() < 4
    for primaries in (9, 11, 12):
        profile = coded_profile(primaries, 13)
        assert profile is not None and np.abs(with_primaries(profile).astype(float) - TRUE).mean() > 4
    assert coded_profile(1, 13) is None and gamma_profile(0.45455, None) is None


@pytest.mark.parametrize("primaries", [9, 12])
def test_wide_colours_by_code_points(primaries: int) -> None:
    profile = coded_profile(primaries, 13)
    assert profile is not None
    wide = with_primaries(profile)
    assert error_of(png8(wide, (b"cICP", bytes([primaries, 13, 0, 1]))), TRUE) < 3
    assert error_of(png8(wide, (b"iCCP", b"p\0\0" + zlib.compress(profile))), TRUE) < 3
    assert error_of(saved(Image.fromarray(wide), "TIFF", icc_profile=profile), TRUE) < 3
    assert error_of(saved(Image.fromarray(wide), "JPEG", quality=98, icc_profile=profile), TRUE) < 5
    assert error_of(saved(Image.fromarray(wide), "WEBP", lossless=True, icc_profile=profile), TRUE) < 3
    assert error_of(tiff(as_type(wide, "u2"), photometric="rgb", iccprofile=profile), TRUE) < 3


def test_wide_colours_of_avif() -> None:
    profile = coded_profile(9, 13)
    assert profile is not None
    data = saved(Image.fromarray(with_primaries(profile)), "AVIF", quality=95, icc_profile=profile)
    assert error_of(data, TRUE) < 5
    plain = saved(Image.fromarray(with_primaries(profile)), "AVIF", quality=95)
    at = plain.index(b"colrnclx") + 8
    assert error_of(plain[:at] + struct.pack(">HH", 9, 13) + plain[at + 4 :], TRUE) < 6


def test_gamma_and_chromaticities_of_png() -> None:
    linear = np.round(255 * (TRUE / 255) ** 2.2).astype(np.uint8)
    assert error_of(png8(linear, (b"gAMA", struct.pack(">I", 100_000))), TRUE) < 4
    assert error_of(png8(TRUE, (b"gAMA", struct.pack(">I", 45_455))), TRUE) == 0
    assert error_of(png8(TRUE, (b"gAMA", struct.pack(">I", 100_000)), (b"sRGB", b"\0")), TRUE) == 0


def test_brightness_of_hdr_is_cut_at_white() -> None:
    for transfer, white in ((16, 0.5807), (18, 0.75)):
        flat = np.full_like(TRUE, round(255 * white))
        bright = decoded(png8(flat, (b"cICP", bytes([9, transfer, 0, 1])))).image
        assert bright.min() > 250
        assert decoded(png8(flat // 3, (b"cICP", bytes([9, transfer, 0, 1])))).image.max() < 110


def test_grey_profile_of_a_picture_with_alpha() -> None:
    dark = np.round(255 * (GREY / 255) ** 2.2).astype(np.uint8)  # linear light
    steps = np.round(np.linspace(0, 65535, 1024)).astype(">u2")
    trc = b"curv" + struct.pack(">II", 0, 1024) + steps.tobytes()
    body = struct.pack(">I4sII4sII", 2, b"wtpt", 156, 20, b"kTRC", 176, len(trc))
    body += b"XYZ " + bytes(4) + struct.pack(">3i", 63190, 65536, 54061) + trc
    head = struct.pack(">I4sI4s4s4s", 128 + len(body), b"", 0x02400000, b"mntr", b"GRAY", b"XYZ ") + bytes(12) + b"acsp"
    profile = head + bytes(28) + struct.pack(">3i", 63190, 65536, 54061) + bytes(48) + body
    opaque = Image.fromarray(dark).convert("LA")
    for image in (opaque, Image.fromarray(dark)):
        assert error_of(saved(image, "PNG", icc_profile=profile), GREYS) < 4


def test_adobe_rgb_that_only_exif_tells_of() -> None:
    from factory.faces.icc import adobe_profile

    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA001] = 65535
    exif.get_ifd(0x8769)[0xA005] = {1: "R03"}
    wide = with_primaries(adobe_profile())
    assert error_of(saved(Image.fromarray(wide), "JPEG", quality=98, exif=exif), TRUE) < 5


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
