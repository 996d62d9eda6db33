"""BMP of pixels that are packed by masks (of 16 or 32 bits), of which Pillow knows the usual ones alone."""

from __future__ import annotations

import struct

import numpy as np


def size_of_masked(data: bytes) -> tuple[int, int] | None:
    """Width and height of a file with masks, px; None if it has none."""
    if len(data) < 70:
        return None
    header, width, height, _, bits, packing = struct.unpack_from("<IiiHHI", data, 14)
    return (width, abs(height)) if header >= 40 and packing in (3, 6) and bits in (16, 32) else None


def pixels_of_masked(data: bytes) -> np.ndarray:
    """The picture of such a file, uint8 [H, W, 3] or, with alpha, [H, W, 4]. Raises ValueError if it is cut short."""
    start, header, width, height, _, bits, packing = struct.unpack_from("<IIiiHHI", data, 10)
    masks = struct.unpack_from("<4I" if header >= 56 or packing == 6 else "<3I", data, 54)
    row, used = (width * bits + 31) // 32 * 4, width * bits // 8  # bytes
    rows = np.frombuffer(data, np.uint8, row * abs(height), start).reshape(abs(height), row)[:, :used]
    values = np.ascontiguousarray(rows).view(f"<u{bits // 8}").astype(np.uint32)
    channels = [_channel(values, mask) for mask in (masks if any(masks[3:]) else masks[:3])]
    return np.dstack(channels)[:: -1 if height > 0 else 1]


def _channel(values: np.ndarray, mask: int) -> np.ndarray:
    low = mask & -mask
    return np.round((values & mask) / max(low, 1) * (255 / max(mask // max(low, 1), 1))).astype(np.uint8)
