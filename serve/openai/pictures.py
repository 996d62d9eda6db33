"""Pictures as they go over the wire: in the size and the format that was asked for."""

from __future__ import annotations

import base64
import io
from typing import Literal

import numpy as np
from PIL import Image

OutputFormat = Literal["png", "jpeg", "webp"]


def resized(image: np.ndarray, side_px: int) -> np.ndarray:
    """A picture (uint8 [S, S, 3] RGB) with another side, by Lanczos' filter; unchanged where it has that side."""
    if image.shape[:2] == (side_px, side_px):
        return image
    return np.asarray(Image.fromarray(image).resize((side_px, side_px), Image.Resampling.LANCZOS))


def encode(image: np.ndarray, output_format: OutputFormat, quality: int) -> str:
    """Base64 of a picture (uint8 [S, S, 3] RGB) as a file; `quality` 0..100 is of jpeg and webp."""
    buffer = io.BytesIO()
    if output_format == "png":
        Image.fromarray(image).save(buffer, "PNG")
    else:
        Image.fromarray(image).save(buffer, output_format.upper(), quality=quality)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
