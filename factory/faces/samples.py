"""The numbers of a TIFF's page, of any type, number and layout.

A page is also a grey picture of its bytes. As such, by a directory behind the file, Pillow's decoders unpack it; what
is done to numbers (predictors, byte order, packed bits, planes, shared colour differences) is undone here.
"""

from __future__ import annotations

import struct
from io import BytesIO
from typing import TYPE_CHECKING, Final

import numpy as np
from PIL.TiffImagePlugin import TiffImageFile

if TYPE_CHECKING:
    from factory.faces.tiff import Page

UNPACKED: Final = {1, 5, 8, 32773, 32946, 34925, 50000}  # as they are, LZW, Deflate, PackBits, Deflate, LZMA, Zstandard
_PREDICTED: Final = UNPACKED - {1, 32773}  # with which a predictor counts; with others its tag means nothing
_COMPRESSION, _FILL_ORDER, _SAMPLES, _ROWS, _PLANAR, _PREDICTOR = 259, 266, 277, 278, 284, 317
_STRIPS, _STRIP_LENGTHS, _TILE_WIDTH, _TILE_HEIGHT, _TILES, _TILE_LENGTHS = 273, 279, 322, 323, 324, 325
_FORMAT, _SHARED = 339, 530
_TYPES: Final = {1: "u", 2: "i", 3: "f", 4: "u"}  # by SampleFormat
_PACKED_ROWS: Final = 32  # are taken apart at once
_MUCH_LARGER, _TILE_PX = 4, 2**26  # times its picture, px: tiles beyond are made to fill the memory


def samples(data: bytes, page: Page) -> np.ndarray:
    """Numbers [H, W, samples] of a page whose compression is one of `UNPACKED`. Those of 2 to 15 bits that fill no
    bytes come in the range of 16.

    Raises whatever Pillow and numpy raise for damaged bytes.
    """
    num, bits, (width, height) = page.one(_SAMPLES, 1), page.bits, page.size
    planes = num if page.one(_PLANAR, 1) == 2 else 1
    together = num // planes  # samples of a pixel that lie side by side
    piece = page.one(_TILE_WIDTH, width)  # px
    across = -(-width // piece)
    row = -(-piece * together * bits // 8)  # bytes
    if across * piece * height > _MUCH_LARGER * width * height + _TILE_PX:
        raise ValueError("tiles that are much larger than the picture")
    found = []
    for plane in range(planes):
        parts = _bytes(data, page, row, across, height, part=(plane, planes)).reshape(height, across, row)
        numbers = _numbers(parts, page, together, little=data[:2] == b"II")
        found.append(numbers.reshape(height, across * piece, together)[:, :width])
    return found[0] if planes == 1 else np.concatenate(found, axis=2)


def colour_differences(data: bytes, page: Page) -> np.ndarray:
    """YCbCr uint8 [H, W, 3] of a page without compression, whose pixels share their differences in blocks."""
    (width, height), (across, down) = page.size, page.tags.get(_SHARED, (2, 2))
    if not {across, down} <= {1, 2, 4}:
        raise ValueError("blocks of no size that is known")
    columns, rows = -(-width // across), -(-height // down)
    unit = across * down + 2  # bytes: each pixel's Y, and Cb and Cr of all
    found = _bytes(data, page, columns * unit, 1, rows, shrunk=down).reshape(rows, columns, unit)
    luma = found[..., :-2].reshape(rows, columns, down, across).transpose(0, 2, 1, 3).reshape(rows * down, -1)
    shared = found[..., -2:].repeat(down, axis=0).repeat(across, axis=1)
    return np.dstack([luma, shared])[:height, :width]


def _bytes(
    data: bytes, page: Page, row: int, across: int, height: int, *, part: tuple[int, int] = (0, 1), shrunk: int = 1
) -> np.ndarray:
    """Unpacked rows, uint8 [height, row * across]: of one plane (`part`: which of how many), `shrunk` rows in each."""
    is_tiled = _TILES in page.tags
    places = page.tags[_TILES if is_tiled else _STRIPS]
    lengths = page.tags.get(_TILE_LENGTHS if is_tiled else _STRIP_LENGTHS, ())
    each = len(places) // part[1]
    mine = slice(part[0] * each, (part[0] + 1) * each)
    tags = {256: [row * across], 257: [height], 258: [8], 262: [1], _SAMPLES: [1]}
    tags |= {tag: [page.one(tag, 1)] for tag in (_COMPRESSION, _FILL_ORDER)}
    if is_tiled:
        tags |= {_TILE_WIDTH: [row], _TILE_HEIGHT: [page.one(_TILE_HEIGHT, height)], _TILES: list(places[mine])}
    else:
        rows_of_strip = min(page.one(_ROWS, height * shrunk), height * shrunk)
        tags |= {_ROWS: [-(-rows_of_strip // shrunk)], _STRIPS: list(places[mine])}
    if lengths:  # some old programs leave them out
        tags[_TILE_LENGTHS if is_tiled else _STRIP_LENGTHS] = list(lengths[mine])
    image = TiffImageFile(BytesIO(_with_directory(data, tags)), "")
    image.load()
    return np.asarray(image)


def _with_directory(data: bytes, tags: dict[int, list[int]]) -> bytes:
    """The file as one of a single page, of these tags; what they point at stays where it is."""
    order = "<" if data[:2] == b"II" else ">"
    start = len(data) + len(data) % 2
    behind = start + 2 + 12 * len(tags) + 4
    entries, more = b"", b""
    for tag, values in sorted(tags.items()):
        packed = struct.pack(f"{order}{len(values)}I", *values)
        if len(values) != 1:
            packed, more = struct.pack(order + "I", behind + len(more)), more + packed
        entries += struct.pack(order + "HHI", tag, 4, len(values)) + packed
    head, num = data[:2] + struct.pack(order + "HI", 42, start), struct.pack(order + "H", len(tags))
    return b"".join([head, data[8:], bytes(start - len(data)), num, entries, bytes(4), more])


def _numbers(parts: np.ndarray, page: Page, together: int, *, little: bool) -> np.ndarray:
    """Bytes of strips' or tiles' rows [H, across, bytes] -> their numbers [H, across, px * together]."""
    size, predictor = page.bits // 8, page.one(_PREDICTOR, 1) if page.one(_COMPRESSION, 1) in _PREDICTED else 1
    if page.bits not in (8, 16, 32, 64):
        rows = range(0, len(parts), _PACKED_ROWS)
        return np.concatenate([_unpacked(parts[at : at + _PACKED_ROWS], page, together) for at in rows])
    kind = f"{_TYPES[page.one(_FORMAT, 1)]}{size}"
    if predictor == 3:  # of floating-point numbers: differences of bytes, the most significant of all numbers first
        summed = parts.reshape(*parts.shape[:2], -1, together).cumsum(2, np.uint8).reshape(*parts.shape[:2], size, -1)
        return np.ascontiguousarray(np.moveaxis(summed, 2, 3)).view(">" + kind)[..., 0]
    whole = np.ascontiguousarray(parts).view(f"{'<' if little else '>'}u{size}")
    if predictor == 2:
        whole = whole.reshape(*parts.shape[:2], -1, together).cumsum(2, f"u{size}").reshape(whole.shape)
    return whole.astype(f"u{size}", copy=False).view(kind)


def _unpacked(parts: np.ndarray, page: Page, together: int) -> np.ndarray:
    bits = page.bits
    num = page.one(_TILE_WIDTH, page.size[0]) * together
    apart = np.unpackbits(parts, axis=2)[..., : num * bits].reshape(*parts.shape[:2], num, bits)
    numbers = apart @ (1 << np.arange(bits - 1, -1, -1, dtype=np.uint32))
    return (numbers * np.float32(65535 / (2**bits - 1)) + 0.5).astype(np.uint16)
