"""Files that lack their end, and metadata that is broken or huge: what is there of a picture is used, or refused."""

from __future__ import annotations

import io
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from factory.config import PrepareConfig
from factory.errors import PhotoRejected
from factory.faces.photos import decode_photo
from factory.records import Photo

SALVAGE = PrepareConfig(salvage=True)


def picture(height: int = 400) -> Image.Image:
    """Soft, and with some noise, so that its files are not tiny."""
    y, x = np.mgrid[0 : 1 : height * 1j, 0:1:300j]
    soft = 255 * np.stack([x, y, 0.5 + 0.5 * np.sin(9 * x + 7 * y)], -1)
    return Image.fromarray(np.clip(soft + np.random.default_rng(0).normal(0, 6, soft.shape), 1, 255).astype(np.uint8))


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def decode(data: bytes, config: PrepareConfig | None = None) -> Photo:
    return decode_photo(data, name="x", config=config or PrepareConfig())


def reject(data: bytes, config: PrepareConfig | None = None) -> PhotoRejected:
    with pytest.raises(PhotoRejected) as refusal:
        decode(data, config)
    return refusal.value


@pytest.mark.parametrize("how", [{}, {"subsampling": 0}, {"progressive": True}, {"restart_marker_rows": 1}])
@pytest.mark.parametrize("rest", [b"", bytes(5000)])
def test_a_jpeg_without_its_end_marker_is_whole(how: dict[str, Any], rest: bytes) -> None:
    """Also one whose download had reserved its room."""
    data = saved(picture(), "JPEG", quality=90, **how)
    photo = decode(data[:-2] + rest)
    assert not photo.origin.salvaged
    np.testing.assert_array_equal(photo.image, decode(data).image)


@pytest.mark.parametrize("how", [{}, {"subsampling": 0}, {"restart_marker_rows": 1}])
def test_a_jpeg_that_lacks_its_last_bytes_loses_its_last_rows(how: dict[str, Any]) -> None:
    data = saved(picture(), "JPEG", quality=90, **how)
    photo = decode(data[:-40])
    assert photo.origin.salvaged and 380 <= len(photo.image) < 400
    np.testing.assert_array_equal(photo.image, decode(data).image[: len(photo.image)])


def test_half_a_jpeg_is_refused_unless_it_is_asked_for() -> None:
    data = saved(picture(), "JPEG", quality=90)
    half = data[: len(data) // 2]
    refusal = reject(half)
    assert refusal.reason == "damaged" and "cut short" in refusal.detail and "salvage=true" in refusal.detail
    rows = int(refusal.detail.split("short: ")[1].split()[0])
    photo = decode(half, SALVAGE)
    assert photo.origin.salvaged and len(photo.image) == rows and 120 < rows < 260
    np.testing.assert_array_equal(photo.image, decode(data).image[:rows])
    assert reject(data[:150], SALVAGE).reason == "damaged", "nothing of it is there"
    end = half + bytes(20_000)
    assert len(decode(end, SALVAGE).image) == rows, "zeros are no picture"


def test_a_progressive_jpeg_is_used_once_all_its_details_have_begun() -> None:
    data = saved(picture(), "JPEG", quality=90, progressive=True)
    photo = decode(data[:-400])
    assert len(photo.image) == 400 and np.abs(photo.image.astype(float) - decode(data).image).mean() < 1
    assert "cut short: what is there is coarse" in reject(data[: len(data) // 3]).detail
    coarse = decode(data[: len(data) // 3], SALVAGE)
    assert coarse.origin.salvaged and len(coarse.image) == 400


def test_the_end_of_a_thumbnail_is_not_the_end_of_its_photo() -> None:
    exif = Image.Exif()
    data = saved(picture(), "JPEG", quality=90, exif=exif.tobytes() + saved(picture().resize((90, 120)), "JPEG"))
    assert b"\xff\xd9" in data[:-2]
    assert not decode(data[:-2]).origin.salvaged
    assert reject(data[: len(data) // 2]).reason == "damaged"


@pytest.mark.parametrize(("kind", "how"), [("PNG", {}), ("BMP", {}), ("TIFF", {}), ("PPM", {})])
def test_the_rows_that_are_there_of_other_files(kind: str, how: dict[str, Any]) -> None:
    image = picture()
    data = saved(image, kind, **how)
    half = data[: len(data) // 2]
    refusal = reject(half)
    assert refusal.reason == "damaged" and "cut short" in refusal.detail and "salvage=true" in refusal.detail
    if kind == "BMP":  # begins with its last row
        return
    photo = decode(half, SALVAGE)
    assert photo.origin.salvaged and 120 < len(photo.image) < 280
    np.testing.assert_array_equal(photo.image, np.asarray(image)[: len(photo.image)])


@pytest.mark.parametrize("kind", ["WEBP", "AVIF", "JPEG2000", "GIF"])
def test_files_of_which_nothing_can_be_saved(kind: str) -> None:
    data = saved(picture(), kind)
    for config in (PrepareConfig(), SALVAGE):
        try:
            photo = decode(data[: len(data) // 2], config)
            assert config.salvage and photo.origin.salvaged
        except PhotoRejected as refusal:
            assert refusal.reason == "damaged" and ("salvage" not in refusal.detail or not config.salvage)


def test_a_png_without_its_last_chunk_is_whole() -> None:
    data = saved(picture(), "PNG")
    photo = decode(data[:-12])
    assert not photo.origin.salvaged
    np.testing.assert_array_equal(photo.image, np.asarray(picture()))


def test_text_in_a_png_never_costs_the_picture() -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("workflow", "x" * 3_000_000, zip=True)
    info.add_itxt("prompt", "y" * 3_000_000, zip=True)
    info.add_text("XML:com.adobe.xmp", "z" * 3_000_000, zip=True)
    data = saved(picture(), "PNG", pnginfo=info)
    np.testing.assert_array_equal(decode(data).image, np.asarray(picture()))
    at = data.index(b"zTXt") + 20
    damaged = data[:at] + bytes([data[at] ^ 255]) + data[at + 1 :]  # its checksum is wrong now
    np.testing.assert_array_equal(decode(damaged).image, np.asarray(picture()))


def test_a_large_profile_in_a_png_is_applied() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    swapped = bytearray(profile)
    red, blue = swapped.index(b"rXYZ", 128), swapped.index(b"bXYZ", 128)
    swapped[red : red + 4], swapped[blue : blue + 4] = b"bXYZ", b"rXYZ"
    data = saved(Image.new("RGB", (64, 64), (255, 0, 0)), "PNG", icc_profile=bytes(swapped) + bytes(2_000_000))
    assert tuple(decode(data).image[0, 0]) == (0, 0, 255)


def test_the_orientation_is_kept_where_programs_put_it() -> None:
    """ImageMagick writes EXIF into a text chunk; others XMP."""
    exif = Image.Exif()
    exif[0x0112] = 6
    text = "\nexif\n" + f"{len(exif.tobytes()):8d}\n" + exif.tobytes().hex() + "\n"
    for name, value, packed in (
        ("Raw profile type exif", text, False),
        ("Raw profile type exif", text, True),
        ("XML:com.adobe.xmp", '<x><rdf tiff:Orientation="6"/></x>', False),
    ):
        info = PngImagePlugin.PngInfo()
        (info.add_itxt if name.startswith("XML") else info.add_text)(name, value, zip=packed)
        assert decode(saved(picture(), "PNG", pnginfo=info)).image.shape == (300, 400, 3)


def test_nothing_is_written_to_the_terminal() -> None:
    """Damaged EXIF, a picture beyond Pillow's own limit, unknown tags of a deep TIFF."""
    code = """
import io, numpy as np, tifffile
from PIL import Image
from factory.config import PrepareConfig
from factory.faces.photos import decode_photo
def shape(data, **limits):
    return decode_photo(data, name="x", config=PrepareConfig(**limits)).image.shape
file = io.BytesIO()
Image.new("RGB", (64, 64)).save(file, "JPEG", exif=b"Exif\\0\\0MM\\0*\\xff\\xff\\xff\\xff\\x12")
assert shape(file.getvalue()) == (64, 64, 3)
file = io.BytesIO()
Image.new("1", (14_000, 13_000)).save(file, "PNG")
assert shape(file.getvalue(), max_pixels=200_000_000) == (13_000, 14_000, 3)
file = io.BytesIO()
tifffile.imwrite(file, np.zeros((64, 64), np.uint16), extratags=[(65000, "s", 0, "x", True)])
assert shape(file.getvalue()) == (64, 64, 3)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stderr == "" and done.stdout == "", done.stderr


@pytest.mark.parametrize(
    "limits",
    [{"max_pixels": 0}, {"max_bytes": 0}, {"min_side_px": 0}, {"min_score": 2}, {"min_score": 0}, {"min_visible": 1.5},
     {"min_face_px": -1}, {"min_face_px": float("nan")}, {"min_sharpness": -0.1}, {"max_photo_s": 0},
     {"max_photo_s": float("inf")}, {"min_mask_fraction": 1.01}],
)  # fmt: skip
def test_limits_that_make_no_sense_are_refused(limits: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(limits))):
        PrepareConfig(**limits)


def scan_of(data: bytes) -> int:
    """Where a JPEG's coded blocks begin."""
    at = data.index(b"\xff\xda")
    return at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")


@pytest.mark.parametrize("how", [{}, {"progressive": True}, {"restart_marker_rows": 1}])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("with_what", ["zeros", "noise", "less", "rest zero", "cut", "line ends"])
def test_a_jpeg_that_is_damaged_inside_is_no_photo(how: dict[str, Any], mode: str, with_what: str) -> None:
    """Its end is there: libjpeg goes on behind the damage with blocks that are shifted, or grey. (Not seen: a few of
    the last refinements of inks, which change nothing that is to be seen.)"""
    data = saved(picture().convert(mode), "JPEG", quality=90, **how)
    middle = (scan_of(data) + len(data)) // 2
    damaged = {
        "zeros": data[:middle] + bytes(1024) + data[middle + 1024 :],
        "noise": data[:middle] + np.random.default_rng(1).bytes(512).replace(b"\xff", b"\x7f") + data[middle + 512 :],
        "less": data[:middle] + data[middle + 700 :],
        "rest zero": data[:middle] + bytes(len(data) - middle - 2) + data[-2:],
        "cut": data[:middle] + data[-2:],
        "line ends": data.replace(b"\n", b"\r\n"),  # also in its head
    }[with_what]
    if how.get("progressive") and (mode, with_what) == ("CMYK", "less"):
        assert np.abs(decode(damaged).image.astype(int) - decode(data).image).mean() < 1
        return
    for config in (None, SALVAGE):
        refusal = reject(damaged, config)
        assert refusal.reason == "damaged", refusal
    assert "damaged inside" in refusal.detail or with_what in ("zeros", "noise", "line ends"), refusal.detail


@pytest.mark.parametrize("how", [{}, {"optimize": True}, {"subsampling": 0}])
@pytest.mark.parametrize("num", [64, 200, 512])
def test_zeros_in_the_middle_of_a_jpeg_are_a_hole(how: dict[str, Any], num: int) -> None:
    """As many blocks may come of them as were there, so that libjpeg has nothing to warn of."""
    data = saved(picture(), "JPEG", quality=90, **how)
    for share in (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8):
        at = int(share * len(data))
        damaged = data[:at] + bytes(num) + data[at + num :]
        for file in (damaged, damaged[:-40]):
            assert "hole" in reject(file).detail


@pytest.mark.parametrize("how", [{}, {"optimize": True}, {"progressive": True}, {"restart_marker_rows": 1}])
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_zeros_that_are_blank_are_no_hole(how: dict[str, Any], mode: str) -> None:
    page = Image.new("RGB", (1600, 1600), "white")
    page.paste(picture(), (600, 700))
    slope = Image.linear_gradient("L").resize((1024, 512)).transpose(Image.Transpose.ROTATE_90)
    for image in (Image.new("RGB", (2000, 2000)), Image.new("RGB", (2000, 2000), "red"), page, slope):
        for quality in (30, 90):
            data = saved(image.convert(mode), "JPEG", quality=quality, **how)
            assert decode(data).image.shape == (*image.size[::-1], 3)
    if how in ({"optimize": True}, {"progressive": True}):
        assert bytes(200) in saved(Image.new(mode, (2000, 2000)), "JPEG", **how)


@pytest.mark.parametrize("rest", [b"\0", b"\0" * 500, b"\xff" * 333, b"\x12\x34"])
def test_bytes_that_cameras_leave_before_the_end_do_no_harm(rest: bytes) -> None:
    for kind in ("L", "RGB"):
        data = saved(picture().convert(kind), "JPEG", quality=90)
        np.testing.assert_array_equal(decode(data[:-2] + rest + data[-2:]).image, decode(data).image)
    behind = data + b"\0" * 50 + data[:200]  # a second picture, an appended clip
    np.testing.assert_array_equal(decode(behind).image, decode(data).image)


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_a_whole_jpeg_has_the_pixels_that_pillow_sees(mode: str, subsampling: int) -> None:
    for size in ((300, 400), (301, 227)):
        data = saved(picture().resize(size).convert(mode), "JPEG", quality=85, subsampling=subsampling)
        seen = Image.open(io.BytesIO(data)).convert("RGB")
        np.testing.assert_array_equal(decode(data).image, np.asarray(seen))


def test_a_jpeg_whose_height_comes_last_is_told() -> None:
    data = bytearray(saved(picture(), "JPEG"))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 7] = b"\0\0"
    refusal = reject(bytes(data))
    assert refusal.reason == "unsupported" and "DNL" in refusal.detail
