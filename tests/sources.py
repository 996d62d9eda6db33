"""What the tests of sources share: files to read photos from, and the photos that are read."""

from __future__ import annotations

import tarfile
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.photos.places import find_places
from pipelines.photos.sources import CONTENT, PHOTO, hash_contents, read_photos


def listed(src: Path | str | list[str]) -> pa.Table:
    places = find_places(src if isinstance(src, list) else str(src))
    contents = pa.concat_tables([CONTENT.empty_table(), *hash_contents(places.table)])
    assert contents.num_rows == places.num_photos
    return contents


def read(contents: pa.Table, max_bytes: int = 10**6) -> list[dict[str, Any]]:
    return pa.concat_tables([PHOTO.empty_table(), *read_photos(contents, max_bytes=max_bytes)]).to_pylist()


def photos_of(src: Path | str | list[str], max_bytes: int = 10**6) -> list[dict[str, Any]]:
    return read(listed(src), max_bytes)


def named(src: Path | str) -> dict[str, bytes | None]:
    photos = photos_of(src)
    assert len({photo["name"] for photo in photos}) == len(photos)
    return {photo["name"]: photo["image"] for photo in photos}


def write(folder: Path, *names: str) -> Path:
    """Files that hold their own path."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    return folder


def table(file: Path, columns: dict[str, Any], **how: Any) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), file, **how)
    return file


def tarred(*names: str) -> bytes:
    """A tar of such members, 3,000 bytes each."""
    file = BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = 3000
            archive.addfile(info, BytesIO(name.encode() * 600))
    return file.getvalue()
