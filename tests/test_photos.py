"""Every kind of file either becomes an upright RGB photo or is refused for the right reason."""

from __future__ import annotations

import hashlib
import struct
import zlib
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageDraw

from factory.config import PrepareConfig
from factory.errors import PhotoRejected
from factory.faces.photos import decode_photo
from factory.ids import content_id

CONFIG = PrepareConfig()
RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def corners(size: tuple[int, int] = (96, 64)) -> Image.Image:
    """Red left half, blue right half, a green top left corner: every orientation of it looks different."""
    image = Image.new("RGB", size, BLUE)
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0, size[0] // 2 - 1, size[1]), fill=RED)
    draw.rectangle((0, 0, size[0] // 4 - 1, size[1] // 4 - 1), fill=GREEN)
    return image


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def decode(data: bytes, config: PrepareConfig = CONFIG) -> np.ndarray:
    return decode_photo(data, name="x", config=config).image


def reason(data: bytes, config: PrepareConfig = CONFIG) -> str:
    with pytest.raises(PhotoRejected) as refusal:
        decode_photo(data, name="x", config=config)
    assert refusal.value.detail
    return refusal.value.reason


def near(pixels: np.ndarray, colour: tuple[int, int, int], tolerance: int = 24) -> bool:
    return bool(np.abs(pixels.astype(int) - colour).max() <= tolerance)


def test_photo_has_content_id_name_and_writable_pixels() -> None:
    data = encoded(corners(), "PNG")
    photo = decode_photo(data, name="ada", config=CONFIG)
    assert photo.photo_id == content_id(data) == hashlib.sha256(data).hexdigest()
    assert photo.name == "ada"
    assert photo.image.dtype == np.uint8 and photo.image.shape == (64, 96, 3)
    assert photo.image.flags.writeable and photo.image.flags.c_contiguous
    np.testing.assert_array_equal(photo.image, np.asarray(corners()))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone(kind: str, orientation: int) -> None:
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # orientation -> the transposition that stores it so
    stored = corners() if orientation == 1 else corners().transpose(Image.Transpose(undo[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 95} if kind in ("JPEG", "WEBP") else {}
    pixels = decode(encoded(stored, kind, exif=exif, **options))
    assert pixels.shape == (64, 96, 3)
    assert near(pixels[4, 4], GREEN, 60) and near(pixels[50, 20], RED, 60) and near(pixels[30, 80], BLUE, 60)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize(
    ("number", "count", "value", "turns"),
    [(3, 1, b"\6\0", True), (4, 1, b"\6\0\0\0", True), (3, 1, b"\0\0", False), (3, 1, b"\11\0", False),
     (2, 2, b"6\0", False), (7, 1, b"6", False), (1, 1, b"\6", False), (3, 2, b"\6\0\6\0", True)],
)  # fmt: skip
def test_an_orientation_is_a_whole_number(kind: str, number: int, count: int, value: bytes, *, turns: bool) -> None:
    """As SHORT, or LONG as some programs write it: "6" as a text or as bytes is none, as it is to browsers."""
    exif = b"Exif\0\0II*\0" + struct.pack("<IHHHI4sI", 8, 1, 0x0112, number, count, value, 0)
    assert decode(encoded(corners(), kind, exif=exif)).shape == ((96, 64, 3) if turns else (64, 96, 3))


def test_damaged_exif_does_not_cost_the_photo() -> None:
    data = encoded(corners(), "JPEG", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff\x12")
    assert decode(data).shape == (64, 96, 3)


def test_transparency_becomes_white() -> None:
    image = corners().convert("RGBA")
    image.putalpha(Image.new("L", image.size, 0))
    image.putpixel((0, 0), (*GREEN, 255))
    assert near(decode(encoded(image, "PNG"))[1:], WHITE, 0)
    grey = Image.merge("LA", (Image.new("L", (64, 64), 10), Image.new("L", (64, 64), 128)))
    assert abs(int(decode(encoded(grey, "PNG"))[0, 0, 0]) - 132) <= 1


def test_palette_with_a_transparent_index() -> None:
    image = corners().quantize(8)
    index = image.getpixel((90, 60))
    pixels = decode(encoded(image, "PNG", transparency=index))
    assert near(pixels[60, 90], WHITE, 0) and near(pixels[50, 20], RED)


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr"])
def test_other_colour_modes(mode: str) -> None:
    pixels = decode(encoded(corners().convert(mode), "TIFF"))
    assert pixels.shape == (64, 96, 3)
    if mode in ("P", "CMYK", "YCbCr"):
        assert near(pixels[50, 20], RED) and near(pixels[30, 80], BLUE)
    else:
        assert (pixels[..., 0] == pixels[..., 1]).all()


def test_cmyk_jpeg() -> None:
    pixels = decode(encoded(corners().convert("CMYK"), "JPEG", quality=95))
    assert near(pixels[50, 20], RED, 40) and near(pixels[30, 80], BLUE, 40)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled_not_clipped(kind: str) -> None:
    ramp = np.tile(np.linspace(0, 65535, 256).round().astype(np.uint16), (64, 1))
    pixels = decode(encoded(Image.fromarray(ramp), kind))
    np.testing.assert_allclose(pixels[0, :, 0], np.arange(256), atol=1)


def test_16_bit_colour_is_scaled() -> None:
    colour = np.array([65535, 32768, 257], ">u2").tobytes()
    rows = b"".join(b"\x00" + colour * 64 for _ in range(64))

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 64, 64, 16, 2, 0, 0, 0))
    data = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    assert near(decode(data)[0, 0], (255, 128, 1), 1)


def test_float_and_32_bit_grey() -> None:
    ramp = np.tile(np.linspace(0, 1, 256, dtype=np.float32), (64, 1))
    np.testing.assert_allclose(decode(encoded(Image.fromarray(ramp), "TIFF"))[0, :, 0], np.arange(256), atol=1)
    deep = (ramp * 65535).astype(np.int32)
    np.testing.assert_allclose(decode(encoded(Image.fromarray(deep), "TIFF"))[0, :, 0], np.arange(256), atol=1)
    assert reason(encoded(Image.fromarray(np.full((64, 64), np.nan, np.float32)), "TIFF")) == "damaged"


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_an_animation_the_first_frame_counts(kind: str) -> None:
    others = [Image.new("RGB", (96, 64), WHITE), Image.new("RGB", (96, 64), BLUE)]
    pixels = decode(encoded(corners(), kind, save_all=True, append_images=others))
    assert near(pixels[50, 20], RED, 60) and near(pixels[30, 80], BLUE, 60)


def test_colour_profile_is_converted() -> None:
    linear = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ"))  # another space: must not be applied to RGB
    grey = Image.new("RGB", (64, 64), (100, 150, 200))
    assert near(decode(encoded(grey, "PNG", icc_profile=linear.tobytes()))[0, 0], (100, 150, 200), 0)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    assert near(decode(encoded(grey, "PNG", icc_profile=srgb.tobytes()))[0, 0], (100, 150, 200), 1)
    assert near(decode(encoded(grey, "PNG", icc_profile=b"no profile"))[0, 0], (100, 150, 200), 0)


def test_swapped_primaries_profile_changes_the_colours() -> None:
    """An RGB profile whose red and blue primaries are exchanged turns red into blue."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red, blue = profile.index(b"rXYZ", 128), profile.index(b"bXYZ", 128)
    profile[red : red + 4], profile[blue : blue + 4] = b"bXYZ", b"rXYZ"
    image = Image.new("RGB", (64, 64), RED)
    assert near(decode(encoded(image, "PNG", icc_profile=bytes(profile)))[0, 0], BLUE, 12)


@pytest.mark.parametrize("data", [b"", b"hello, I am a text file\n" * 50, b"%!PS-Adobe-3.0 EPSF-3.0\n", b"\x00" * 5000])
def test_files_that_are_no_images(data: bytes) -> None:
    assert reason(data) == "not_an_image"


def test_a_bitmap_whose_fourth_byte_was_left_alone_is_opaque() -> None:
    colours = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    rows = np.dstack([colours[::-1, :, ::-1], np.zeros((64, 64), np.uint8)]).tobytes()
    masks = struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    head = struct.pack("<IiiHHIIiiII", 108, 64, 64, 1, 32, 3, len(rows), 0, 0, 0, 0) + masks + b"BGRs" + bytes(48)
    file = b"BM" + struct.pack("<IHHI", 122 + len(rows), 0, 0, 122) + head + rows
    np.testing.assert_array_equal(decode_photo(file, name="x", config=PrepareConfig()).image, colours)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"])
@pytest.mark.parametrize("part", [0.02, 0.3, 0.7])
def test_truncated_files(kind: str, part: float) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (96, 96, 3), np.uint8))
    data = encoded(noise, kind)
    assert reason(data[: int(len(data) * part)]) == "damaged"


def test_flipped_bits_never_escape_as_other_errors() -> None:
    rng = np.random.default_rng(0)
    for kind in ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "JPEG2000"):
        data = np.frombuffer(encoded(corners(), kind), np.uint8)
        for _ in range(40):
            broken = data.copy()
            at = rng.integers(0, len(data), 6)
            broken[at] ^= rng.integers(1, 256, 6).astype(np.uint8)
            try:
                decode_photo(broken.tobytes(), name="x", config=CONFIG)
            except PhotoRejected as refusal:
                assert refusal.reason in ("not_an_image", "unsupported", "damaged", "too_large", "too_small")


def test_limits() -> None:
    data = encoded(corners((100, 80)), "PNG")
    assert reason(data, PrepareConfig(max_bytes=len(data) - 1)) == "too_large"
    assert reason(data, PrepareConfig(max_pixels=7999)) == "too_large"
    assert reason(data, PrepareConfig(min_side_px=81)) == "too_small"
    assert decode(data, PrepareConfig(max_bytes=len(data), max_pixels=8000, min_side_px=80)).shape == (80, 100, 3)


@pytest.mark.parametrize("side", [8_001, 12_000, 60_000])
def test_decompression_bomb_is_refused_before_decoding(side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few bytes that claim a huge picture; Pillow itself only warns between 89 and 178 million pixels."""

    def never(*_: object) -> None:
        raise AssertionError("pixels were decoded")

    monkeypatch.setattr(Image.Image, "load", never)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", never)
    body = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    header = struct.pack(">I", 13) + b"IHDR" + body + struct.pack(">I", zlib.crc32(b"IHDR" + body))
    data = b"\x89PNG\r\n\x1a\n" + header + struct.pack(">I", 10) + b"IDAT" + b"\x00" * 14
    assert reason(data) == "too_large"


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "AVIF"])
def test_an_animation_that_fades_in_gives_its_first_picture(kind: str) -> None:
    frames = [Image.new("RGB", (96, 64)), Image.new("RGB", (96, 64), (9, 9, 12)), corners(), Image.new("RGB", (96, 64))]
    photo = decode_photo(encoded(frames[0], kind, save_all=True, append_images=frames[1:]), name="x", config=CONFIG)
    assert photo.origin.frame == 2
    assert near(photo.image[50, 20], RED, 60) and near(photo.image[30, 80], BLUE, 60)
    plain = decode_photo(encoded(frames[0], kind, save_all=True, append_images=frames[:1]), name="x", config=CONFIG)
    assert plain.origin.frame == 0


def test_of_a_tiff_the_largest_page_counts() -> None:
    small, large = corners((96, 64)), corners((192, 128))
    photo = decode_photo(encoded(small, "TIFF", save_all=True, append_images=[large, small]), name="x", config=CONFIG)
    assert photo.origin.frame == 1 and photo.image.shape == (128, 192, 3)
    huge = Image.new("1", (9000, 9000))
    assert reason(encoded(small, "TIFF", save_all=True, append_images=[huge])) == "too_large"


@pytest.mark.parametrize(
    ("sizes", "unread"),
    [([(96, 64)], 0), ([(96, 64)] * 3, 2), ([(96, 64), (80, 60)], 1), ([(256, 256), (128, 128), (64, 64)], 0)],
)
def test_pages_beside_the_one_that_is_read_are_counted(sizes: list[tuple[int, int]], unread: int) -> None:
    """Of a scanner with a feeder; the levels of a pyramid are the same picture again."""
    first, *others = (corners(size) for size in sizes)
    photo = decode_photo(encoded(first, "TIFF", save_all=True, append_images=others), name="x", config=CONFIG)
    assert photo.unread == unread and photo.image.shape[:2] == sizes[0][::-1]


def test_limits_are_told_with_the_setting_that_changes_them() -> None:
    data = encoded(corners((96, 64)), "PNG")
    for name, limit in (("max_bytes", 9), ("max_pixels", 6143), ("min_side_px", 65)):
        with pytest.raises(PhotoRejected, match=rf"\({name}\)"):
            decode(data, PrepareConfig.model_validate({name: limit}))


def test_of_a_picture_in_several_views_the_first_counts() -> None:
    photo = decode(encoded(corners(), "MPO", save_all=True, append_images=[Image.new("RGB", (192, 128), WHITE)]))
    assert photo.shape == (64, 96, 3) and near(photo[50, 20], RED, 60)


def test_limits_follow_the_config_and_no_library() -> None:
    big = encoded(Image.new("1", (14_000, 13_000)), "PNG")  # 182 megapixels, more than Pillow allows
    assert reason(big) == "too_large"
    assert decode(big, PrepareConfig(max_pixels=190_000_000)).shape == (13_000, 14_000, 3)
    assert Image.MAX_IMAGE_PIXELS == 89478485, "left as it is for others"
