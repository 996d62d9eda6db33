"""TIFF of every depth, colour model and layout: read as its picture, or named when it is not."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.make_photos import GREY, GREYS, SIZE, TRUE, as_type, error_of, in_mode, reject, tiff


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


def test_tiff_that_is_packed_as_pixarlog_is_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody hostile's may write past the memory of OpenCV's libtiff."""
    monkeypatch.setattr("cv2.imdecode", None)
    refusal = reject(raw_tiff(2, bytes(64), {259: [32909]}, [16, 16, 16]))
    assert refusal.reason == "unsupported" and "a TIFF of 16-bit RGB, packed as PixarLog" in refusal.detail


def test_tiff_of_cielab() -> None:
    assert error_of(raw_tiff(8, in_mode("LAB")[0].tobytes(), {}, [8, 8, 8]), TRUE) < 2


def test_tiff_of_twelve_packed_bits() -> None:
    values = GREY.astype(int) * 16
    pairs = values.reshape(-1, 2)
    packed = np.stack([pairs[:, 0] >> 4, (pairs[:, 0] & 15) << 4 | pairs[:, 1] >> 8, pairs[:, 1] & 255], 1)
    assert error_of(raw_tiff(1, packed.astype(np.uint8).tobytes(), {}, [12]), GREYS) < 1.5
