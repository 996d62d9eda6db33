"""Whether a root drew a picture."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from factory.store.rows import decode_png
from factory.store.tables import Store

_BATCH = 256  # pictures that are held in memory
_MOST_PIXELS = 2**24  # of a picture that somebody brings


def stored_picture(store: Store, data: bytes) -> str | None:
    """The image_id of the stored picture with just these pixels, whatever lossless file they come in; None: there is
    none, or this is no picture. One that was resized or compressed with loss is not found."""
    try:
        with Image.open(io.BytesIO(data)) as picture:
            size = picture.size
            if size[0] * size[1] > _MOST_PIXELS:
                return None
            pixels = np.asarray(picture.convert("RGB"))
    except (OSError, SyntaxError, Image.DecompressionBombError):
        return None
    dataset = store.open("images")
    for batch in dataset.to_batches(columns=["image_id", "image"], batch_size=_BATCH) if dataset is not None else ():
        for row in batch.to_pylist():
            with Image.open(io.BytesIO(row["image"])) as stored:
                if stored.size != size:
                    continue
            if np.array_equal(decode_png(row["image"]), pixels):
                return str(row["image_id"])
    return None
