"""The demo's data set: portraits of people the pack has never seen, one real photo, and two files nobody can use."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from studio.training.dataset import held_out
from studio.world.render import render
from studio.world.scenes import sample_scene

PORTRAIT_PX = 384
REAL_PHOTO = "astronaut"  # scikit-image's: Eileen Collins, NASA, public domain
NO_FACE = "coffee"
CORRUPT = "corrupt"

# Held-out people, chosen for variety of hair, skin and age from the first 24 before any of them had been learned.
PEOPLE: dict[str, int] = {
    "Alex": 0, "Bo": 2, "Charlie": 3, "Dana": 6, "Eli": 8, "Frankie": 12,
    "Gray": 13, "Harper": 14, "Indra": 16, "Jules": 17, "Kim": 20, "Lou": 22,
}  # fmt: skip


NEWCOMER: tuple[str, int] = ("ada", 25)  # whom the demo does not learn: a photo to upload


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the contact sheet."""

    slug: str  # for file names
    caption: str  # above the column
    prompt: str  # with <person> for the identity


COLUMNS = (
    Column("plain", "a photo", "a photo of <person>"),
    Column("beanie", "red beanie", "a photo of <person> wearing a red beanie"),
    Column("glasses", "black glasses", "a photo of <person> wearing black glasses"),
    Column("crown", "golden crown", "a photo of <person> wearing a golden crown"),
    Column("snow", "in the snow", "a photo of <person> in the snow"),
    Column("beach", "on the beach", "a photo of <person> on the beach"),
    Column("spacesuit", "spacesuit, in space", "a photo of <person> wearing a spacesuit in space"),
    Column("sketch", "pencil sketch", "a pencil sketch of <person>"),
)


def portrait(index: int, *, again: bool = False) -> np.ndarray:
    """A plain portrait of a held-out person, uint8 [384, 384, 3] RGB; the same at every call, `again` another one."""
    scene = sample_scene(np.random.default_rng([0xDE31 if again else 0xDE30, index]), context="plain")
    return render(held_out(index), scene, size=PORTRAIT_PX).image


def _encoded(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="JPEG", quality=93)
    return buffer.getvalue()


def write_newcomer(folder: Path) -> Path:
    """A photo of somebody who is in no data set, for whoever tries uploads; returns the file."""
    name, index = NEWCOMER
    file = folder / f"{name}.jpg"
    file.write_bytes(_encoded(portrait(index)))
    return file


def photos() -> dict[str, bytes]:
    """The encoded files by name: twelve portraits, the real photo, the photo without a face, the corrupt file."""
    from skimage import data

    files = {name: _encoded(portrait(index)) for name, index in PEOPLE.items()}
    files[REAL_PHOTO] = _encoded(data.astronaut())
    files[NO_FACE] = _encoded(data.coffee())
    whole = _encoded(portrait(PEOPLE["Alex"]))
    files[CORRUPT] = whole[: len(whole) // 3]  # as an interrupted upload leaves it
    return files


def write_data_set(path: Path) -> int:
    """Write the data set as Parquet (columns `image` bytes, `name`); returns the number of rows."""
    files = photos()
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table({"image": pa.array(files.values(), pa.binary()), "name": pa.array(files.keys(), pa.string())})
    pq.write_table(table, path)
    return table.num_rows
