"""Colours of other spaces, by profile, code points, gamma or Exif, become sRGB."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from factory.faces.icc import coded_profile, gamma_profile, rgb_profile
from tests.make_photos import GREY, GREYS, TRUE, as_type, decoded, error_of, png8, saved, tiff, with_primaries


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
