"""TIFF of every depth, colour model and layout: read as its picture, or named when it is not."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.make_photos import GREY, GREYS, SIZE, TRUE, as_type, error_of, in_mode, reject, saved, tiff

INKS = np.dstack([255 - TRUE, np.zeros_like(GREY)])


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


@pytest.mark.parametrize("kind", ["u1", "u2", "f2", "f4"])
@pytest.mark.parametrize("packed", [None, "zlib"])
def test_tiff_in_separate_planes(kind: str, packed: str | None) -> None:
    planes, inks = (as_type(np.moveaxis(values, 2, 0), kind) for values in (TRUE, INKS))
    how: dict[str, Any] = {"planarconfig": "separate", "compression": packed, "rowsperstrip": 7}
    assert error_of(tiff(planes, photometric="rgb", **how), TRUE) < 1
    assert error_of(tiff(inks, photometric="separated", **how), TRUE) < 1


@pytest.mark.parametrize("kind", ["u1", "u2", "u4", "f2", "f4", "f8"])
@pytest.mark.parametrize("layout", [{}, {"tile": (32, 48), "compression": "zlib"}, {"bigtiff": True, "byteorder": ">"}])
def test_tiff_with_more_channels_than_colours(kind: str, layout: dict[str, Any]) -> None:
    """Grey and inks with alpha, colours with a depth map: what Pillow and OpenCV know nothing of."""
    half, over_white = np.full_like(GREY, 128), TRUE * (128 / 255) + 127
    how: dict[str, Any] = {"planarconfig": "contig", **layout}
    for values, photometric, true in ((GREY, "minisblack", GREYS), (255 - GREY, "miniswhite", GREYS),
                                      (INKS, "separated", TRUE), (TRUE, "rgb", TRUE)):  # fmt: skip
        two, three = np.dstack([values, half]), np.dstack([values, half, GREY])
        expected = over_white if true is TRUE else GREYS * (128 / 255) + 127
        clear, spot = as_type(two, kind), as_type(three, kind)
        assert error_of(tiff(clear, photometric=photometric, extrasamples=["unassalpha"], **how), expected) < 1.5
        assert error_of(tiff(spot, photometric=photometric, extrasamples=[0, 0], **how), true) < 1.5
    soft = np.dstack([np.round(INKS * (128 / 255)), half])
    how["extrasamples"] = ["assocalpha"]
    assert error_of(tiff(as_type(soft, kind), photometric="separated", **how), over_white) < 1.5


@pytest.mark.parametrize("packing", ["tiff_lzw", "tiff_adobe_deflate", "packbits", "lzma", "zstd"])
@pytest.mark.parametrize(("kind", "predictor"), [("u2", 1), ("u2", 2), ("f4", 1), ("f4", 3)])
def test_tiff_of_deep_greys_packed_in_any_way(packing: str, kind: str, predictor: int) -> None:
    data = saved(Image.fromarray(as_type(GREY, kind)), "TIFF", compression=packing, tiffinfo={317: predictor})
    assert error_of(data, GREYS) < 1


def test_tiff_that_tells_no_lengths_of_its_strips() -> None:
    data = raw_tiff(1, as_type(GREY, "<u2").tobytes(), {}, [16])
    assert error_of(data.replace(struct.pack("<HHI", 279, 4, 1), struct.pack("<HHI", 280, 4, 1), 1), GREYS) < 1


@pytest.mark.parametrize("turn", [3, 6])
@pytest.mark.parametrize("kind", ["u1", "u2"])
def test_a_tiff_is_turned_once(turn: int, kind: str) -> None:
    stored = np.rot90(as_type(TRUE, kind), {3: 2, 6: 1}[turn])
    assert error_of(tiff(stored, photometric="rgb", extratags=[(274, "H", 1, turn, True)]), TRUE) < 1


@pytest.mark.parametrize(
    ("kind", "name"), [("i1", "8-bit signed RGB"), ("c8", "64-bit complex"), ("u1", "8-bit RGB with 9 more channels")]
)
def test_tiff_that_is_not_read_is_named(kind: str, name: str) -> None:
    values = TRUE.astype(np.complex64) if kind == "c8" else as_type(TRUE, kind)
    more = {"planarconfig": "contig", "extrasamples": [0] * 9} if kind == "u1" else {}
    refusal = reject(tiff(np.dstack([values] * 4) if more else values, photometric="rgb", **more))
    assert refusal.reason == "unsupported" and name in refusal.detail and "save it as" in refusal.detail


@pytest.mark.parametrize(
    ("number", "name"), [(34887, "LERC"), (33003, "JPEG 2000"), (52546, "JPEG XL"), (65000, "no. 65000")]
)
def test_tiff_that_is_packed_in_a_way_that_is_not_read_is_named(number: int, name: str) -> None:
    refusal = reject(raw_tiff(2, bytes(64), {259: [number]}, [8, 8, 8]))
    assert refusal.reason == "unsupported" and f"packed as {name}" in refusal.detail
    assert "without compression" in refusal.detail


def test_tiles_that_would_fill_the_memory_are_refused() -> None:
    tags = {322: [65520], 323: [16], 324: [400], 325: [64]}
    data = raw_tiff(2, bytes(64), {**tags, 257: [40_000], 256: [64]}, [16, 16, 16])
    assert reject(data).reason == "damaged"


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


@pytest.mark.parametrize("block", [None, (1, 1), (2, 1), (2, 2), (4, 1), (4, 4)])
def test_tiff_of_colour_differences(block: tuple[int, int] | None) -> None:
    """YCbCr without compression; where the file says nothing, four pixels share a difference."""
    across, down = block or (2, 2)
    ycc = np.asarray(Image.fromarray(TRUE).convert("YCbCr")).astype(int)
    blocks = ycc.reshape(80 // down, down, 96 // across, across, 3).transpose(0, 2, 1, 3, 4)
    blocks = blocks.reshape(-1, down * across, 3)
    units = np.concatenate([blocks[..., 0], blocks[..., 1:].mean(1).round()], 1).astype(np.uint8)
    assert error_of(raw_tiff(6, units.tobytes(), {530: [*block]} if block else {}, [8, 8, 8]), TRUE) < 5


def test_tiff_that_is_packed_as_pixarlog_is_named() -> None:
    refusal = reject(raw_tiff(2, bytes(64), {259: [32909]}, [16, 16, 16]))
    assert refusal.reason == "unsupported" and "a TIFF of 16-bit RGB, packed as PixarLog" in refusal.detail


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("photometric", [8, 9])
def test_tiff_of_cielab(bits: int, photometric: int) -> None:
    """Photoshop writes the first, with signed colours; the other counts them from the middle."""
    lab = np.frombuffer(in_mode("LAB")[0].tobytes(), np.uint8).reshape(*GREY.shape, 3).astype(np.uint16)
    if photometric == 9:
        lab[..., 1:] ^= 128
    if bits == 16:
        lab[..., 0] *= 257 if photometric == 8 else 256
        lab[..., 1:] <<= 8
    assert error_of(raw_tiff(photometric, lab.astype(f"<u{bits // 8}").tobytes(), {}, [bits] * 3), TRUE) < 2


@pytest.mark.parametrize("bits", [2, 4, 6, 10, 12, 14])
def test_tiff_of_packed_bits(bits: int) -> None:
    for values, photometric in ((GREY[..., None], 1), (TRUE, 2)):
        numbers = np.round(values / 255 * (2**bits - 1)).astype(int)
        apart = (numbers[..., None] >> np.arange(bits - 1, -1, -1)) & 1
        packed = np.packbits(apart.reshape(len(numbers), -1).astype(np.uint8), axis=1).tobytes()
        data = raw_tiff(photometric, packed, {}, [bits] * values.shape[2])
        assert error_of(data, np.broadcast_to(numbers / (2**bits - 1) * 255, TRUE.shape)) < 1.5


def test_tiff_whose_palette_was_written_as_eight_bits() -> None:
    few = Image.fromarray(TRUE).quantize(256)
    data = bytearray(saved(few, "TIFF"))
    colours = np.array(few.getpalette(), np.uint16).reshape(-1, 3)
    colours = np.pad(colours, ((0, 256 - len(colours)), (0, 0))).T
    at = data.index((colours * 256).astype("<u2").tobytes()[:60])
    data[at : at + 1536] = colours.astype("<u2").tobytes()
    assert error_of(bytes(data), np.asarray(few.convert("RGB"))) < 1
