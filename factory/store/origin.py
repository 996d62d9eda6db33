"""Whether a root made a file: a picture, a clip, a head, or an export of its tables."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from factory.provenance.exports import ModelKind, content_of, model_kind
from factory.store.rows import decode_png
from factory.store.schemas import KEYS, SCHEMAS, Table
from factory.store.tables import Store

_BATCH = 256  # pictures that are held in memory
_MOST_PIXELS = 2**24  # of a picture that somebody brings
_PARQUET: Final = b"PAR1"


class Origin(NamedTuple):
    """A row of a root that a file is."""

    column: str  # image_id, video_id, model_id
    an_id: str


def origin_of(store: Store, data: bytes, head_as: Callable[[bytes, ModelKind], bytes]) -> Origin | None:
    """The row that a file comes from, by a hash of what is in it apart from its marks; None: there is none.

    A picture by its pixels (`stored_picture`), a clip or turntable by its MP4's media data, a head by its Gaussians;
    `head_as` gives a stored head in another format. GIFs and WebPs of clips are drawn anew and are not found.
    """
    if (kind := model_kind(data)) is not None:
        wanted = _digest(content_of(data))
        for an_id, ply in _files(store, "models", "splats"):
            if _digest(content_of(head_as(ply, kind))) == wanted:
                return Origin("model_id", an_id)
        return None
    if data[4:8] == b"ftyp":
        wanted = _digest(_media_data(data))
        clips: list[tuple[Table, str]] = [("videos", "video"), ("models", "turntable")]
        for table, column in clips:
            for an_id, clip in _files(store, table, column):
                if clip[4:8] == b"ftyp" and _digest(_media_data(clip)) == wanted:
                    return Origin(KEYS[table][0], an_id)
        return None
    found = stored_picture(store, data)
    return None if found is None else Origin("image_id", found)


def is_parquet(data: bytes) -> bool:
    """Whether a file is a table as Parquet, by how it begins."""
    return data.startswith(_PARQUET)


def exported_rows(store: Store, data: bytes) -> tuple[int, int] | None:
    """How many of the ids in a Parquet file a root has, and how many there are; None: it is no export."""
    if not is_parquet(data):
        return None
    rows = pq.read_table(pa.BufferReader(data))
    for table, schema in SCHEMAS.items():
        if set(schema.names) == set(rows.column_names):
            ids: list[str] = rows[KEYS[table][0]].to_pylist()
            return len(set(ids) & store.existing_ids(table)), len(set(ids))
    return None


def _files(store: Store, table: Table, column: str) -> Iterator[tuple[str, bytes]]:
    """Each row's id and file, one after the other."""
    dataset, key = store.open(table), KEYS[table][0]
    for batch in dataset.to_batches(columns=[key, column], batch_size=1) if dataset is not None else ():
        for row in batch.to_pylist():
            yield row[key], row[column]


def _media_data(mp4: bytes) -> bytes:
    """The `mdat` boxes: frames as they were encoded, which no mark changes."""
    parts, at = [], 0
    while at + 8 <= len(mp4):
        size, name = int.from_bytes(mp4[at : at + 4], "big"), mp4[at + 4 : at + 8]
        if size < 8:  # to the end, or 64 bits long: not as we write them
            size = len(mp4) - at
        if name == b"mdat":
            parts.append(mp4[at + 8 : at + size])
        at += size
    return b"".join(parts)


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


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
