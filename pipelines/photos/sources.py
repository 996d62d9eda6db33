"""Reading SRC: a Parquet file or folder, a folder of images, or an s3:// prefix of either.

A *place* is a file and, in Parquet, a row group; the driver holds places and ids, never bytes. Whatever cannot be
read becomes a row that says so.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Final

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from factory.errors import SourceError
from factory.files import filesystem
from factory.ids import content_id, unread_photo_id

_CHUNK = 2**20  # bytes read at a time while hashing
PLACE: Final = pa.schema([("uri", pa.string()), ("row_group", pa.int32()), ("first_row", pa.int64())])
CONTENT: Final = pa.schema(
    [
        *PLACE,
        ("row", pa.int64()),
        ("photo_id", pa.string()),  # null if it cannot be read
        ("name", pa.string()),
        ("source_id", pa.string()),  # sha256 of the uri: the reject_id if it cannot be read
    ]
)
PHOTO: Final = pa.schema(
    [
        ("photo_id", pa.string()),  # "" if unreadable
        ("reject_id", pa.string()),  # photo_id, or sha256 of the uri if unreadable
        ("name", pa.string()),
        ("image", pa.binary()),  # null if there is a reason
        ("reason", pa.string()),  # unreadable, too_large
        ("detail", pa.string()),
    ]
)


def _is_text(type_: pa.DataType) -> bool:
    if pa.types.is_dictionary(type_):
        return _is_text(type_.value_type)
    return type_ in (pa.string(), pa.large_string(), pa.string_view(), pa.null())


def _is_image(type_: pa.DataType) -> bool:
    if pa.types.is_struct(type_):  # <bytes, path>, as Hugging Face's datasets write it
        return any(field.name == "bytes" and _is_image(field.type) for field in type_)
    return type_ in (pa.binary(), pa.large_binary(), pa.binary_view(), pa.null())


_COLUMNS: Final = {  # column -> what its type must be, and how to say that
    "image": (_is_image, "the bytes of the file (binary), or a struct of bytes and path; paths belong into uri"),
    "uri": (_is_text, "a path or s3:// uri (string)"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where the photos are."""

    table: pa.Table  # PLACE; row_group -1: the file itself is a photo
    num_photos: int


def find_places(src: str) -> Places:
    """Lists SRC. Raises SourceError, with the remedy, if it is missing, empty or has no usable column."""
    files = _list_files(src)
    parquet = [file for file in files if file.endswith(".parquet")]
    others = [file for file in files if file not in set(parquet) and not PurePosixPath(file).name.startswith("_")]
    if parquet and not others:  # a data set; beside other files a Parquet file is just a file that is no image
        with ThreadPoolExecutor(16) as threads:
            groups = list(threads.map(_row_groups, parquet))
        rows = [place for file_places, _ in groups for place in file_places]
        num_photos = sum(num_rows for _, num_rows in groups)
    else:
        rows = [{"uri": file, "row_group": -1, "first_row": 0} for file in files]
        num_photos = len(rows)
    if num_photos == 0:
        raise SourceError(f"{src} holds no photos; give a folder of images, or Parquet with a column image or uri")
    return Places(table=pa.Table.from_pylist(rows, PLACE), num_photos=num_photos)


def hash_contents(places: pa.Table) -> Iterator[pa.Table]:
    """PLACE -> CONTENT: the id of every photo, null where it cannot be read."""
    for place in places.to_pylist():
        rows = [
            {**place, "row": row, "photo_id": _hash(entry), "name": entry.name, "source_id": entry.source_id}
            for row, entry in _entries(place)
        ]
        yield pa.Table.from_pylist(rows, CONTENT)


def read_photos(contents: pa.Table, *, max_bytes: int) -> Iterator[pa.Table]:
    """CONTENT -> PHOTO, one row at a time; photos over `max_bytes` are not read but refused."""
    wanted: dict[tuple[str, int, int], dict[int, str]] = {}
    for row in contents.to_pylist():
        wanted.setdefault((row["uri"], row["row_group"], row["first_row"]), {})[row["row"]] = row["photo_id"]
    for (uri, row_group, first_row), ids in wanted.items():
        for row, entry in _entries({"uri": uri, "row_group": row_group, "first_row": first_row}):
            if row in ids:
                yield pa.Table.from_pylist([_photo(entry, ids[row], max_bytes)], PHOTO)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """A photo's bytes, or where they are."""

    name: str
    data: bytes | None  # the image column
    uri: str  # of the photo's own file, else of its row
    fault: str | None = None  # why there is nothing to read

    @property
    def source_id(self) -> str:
        """What stands for the photo while its bytes are not known."""
        return unread_photo_id(self.uri)


def _photo(entry: _Entry, photo_id: str | None, max_bytes: int) -> dict[str, Any]:
    refused = {"name": entry.name, "image": None}
    try:
        size = _size(entry)
        if size <= max_bytes:
            data = b"".join(_chunks(entry))
            photo_id = photo_id or content_id(data)
            return {**refused, "photo_id": photo_id, "reject_id": photo_id, "image": data}
        photo_id = photo_id or _hash(entry)
    except OSError as error:
        detail = f"{entry.uri}: {error}"
        return {**refused, "photo_id": "", "reject_id": entry.source_id, "reason": "unreadable", "detail": detail}
    detail = f"{size:,} bytes; the limit is {max_bytes:,} bytes"
    return {**refused, "photo_id": photo_id, "reject_id": photo_id, "reason": "too_large", "detail": detail}


def _hash(entry: _Entry) -> str | None:
    digest = hashlib.sha256()
    try:
        for chunk in _chunks(entry):
            digest.update(chunk)
    except OSError:
        return None
    return digest.hexdigest()


def _chunks(entry: _Entry) -> Iterator[bytes]:
    if entry.fault is not None:
        raise OSError(entry.fault)
    if entry.data is not None:
        yield entry.data
        return
    files, path = filesystem(entry.uri)
    with files.open_input_stream(path) as stream:
        while chunk := stream.read(_CHUNK):
            yield chunk


def _size(entry: _Entry) -> int:
    if entry.fault is not None:
        raise OSError(entry.fault)
    if entry.data is not None:
        return len(entry.data)
    files, path = filesystem(entry.uri)
    info = files.get_file_info(path)
    if info.type != pafs.FileType.File:
        raise FileNotFoundError("no such file")
    return int(info.size)


def _entries(place: dict[str, Any]) -> Iterator[tuple[int, _Entry]]:
    """The photos of a place, each with its row in the place."""
    uri, group = place["uri"], place["row_group"]
    if group < 0:
        yield 0, _Entry(name=PurePosixPath(uri).stem, data=None, uri=uri)
        return
    files, path = filesystem(uri)
    with pq.ParquetFile(path, filesystem=files) as parquet:
        columns = [name for name in ("image", "uri", "name") if name in parquet.schema_arrow.names]
        row, num_rows = 0, parquet.metadata.row_group(group).num_rows
        try:
            for batch in parquet.iter_batches(batch_size=16, row_groups=[group], columns=columns):
                for values in batch.to_pylist():
                    yield row, _parquet_entry(values, uri, place["first_row"] + row)
                    row += 1
        except (pa.ArrowInvalid, OSError) as error:  # damaged inside: the rows that are left are told, each one
            for lost in range(row, num_rows):
                number = place["first_row"] + lost
                name, fault = f"{PurePosixPath(uri).stem}-{number}", f"the Parquet file is damaged: {error}"
                yield lost, _Entry(name=name, data=None, uri=f"{uri}#{number}", fault=fault)


def _parquet_entry(values: dict[str, Any], parquet: str, row: int) -> _Entry:
    image: Any = values.get("image")
    uri: Any = values.get("uri")
    if isinstance(image, dict):  # the struct <bytes, path> that Hugging Face's datasets write
        image, uri = image.get("bytes"), uri or image.get("path")
    fallback = PurePosixPath(uri).stem if uri else f"{PurePosixPath(parquet).stem}-{row}"
    name = str(values.get("name") or fallback)
    if image is not None or not uri:
        return _Entry(name=name, data=image or b"", uri=f"{parquet}#{row}")
    scheme = uri.partition("://")[0] if "://" in uri else ""
    if scheme not in ("", "file", "s3"):
        fault = f"{scheme}:// is not read, only paths and s3://; copy the photos there first"
        return _Entry(name=name, data=None, uri=uri, fault=fault)
    if "://" not in uri and not uri.startswith("/"):  # relative to the Parquet file
        uri = str(PurePosixPath(parquet).parent / uri).replace("s3:/", "s3://", 1)
    return _Entry(name=name, data=None, uri=uri)


def _row_groups(uri: str) -> tuple[list[dict[str, Any]], int]:
    files, path = filesystem(uri)
    try:
        with pq.ParquetFile(path, filesystem=files) as parquet:
            schema, metadata = parquet.schema_arrow, parquet.metadata
    except pa.ArrowInvalid as error:
        raise SourceError(
            f"{uri} is no readable Parquet file ({error}); repair it or take it out of the folder"
        ) from None
    if not {"image", "uri"} & set(schema.names):
        raise SourceError(
            f"{uri} has columns {', '.join(schema.names)}; it needs image (bytes) or uri, and optionally name"
        )
    for field in schema:
        if field.name in _COLUMNS and not _COLUMNS[field.name][0](field.type):
            raise SourceError(f"{uri}: column {field.name} holds {field.type}; it takes {_COLUMNS[field.name][1]}")
    places, first_row = [], 0
    for group in range(metadata.num_row_groups):
        places.append({"uri": uri, "row_group": group, "first_row": first_row})
        first_row += metadata.row_group(group).num_rows
    return places, first_row


def _list_files(src: str) -> list[str]:
    """Every file of SRC as a uri, sorted; hidden files and folders are left out."""
    files, path = filesystem(src)
    prefix = "s3://" if src.startswith("s3://") else ""
    info = files.get_file_info(path)
    if info.type == pafs.FileType.File:
        return [prefix + path]
    if info.type == pafs.FileType.NotFound:
        raise SourceError(f"there is nothing at {src}; --photos takes a Parquet file, a folder or an s3:// prefix")
    try:
        found = files.get_file_info(pafs.FileSelector(path, recursive=True))
    except OSError as error:
        raise SourceError(f"{src} cannot be listed ({error}); let this user read all of it, or give a part") from None
    shown = (f.path for f in found if f.type == pafs.FileType.File and not _hidden(f.path.removeprefix(path)))
    return sorted(prefix + path for path in shown)


def _hidden(path: str) -> bool:
    return any(part.startswith(".") for part in path.split("/"))
