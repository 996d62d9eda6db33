"""Photos in Parquet: a column of bytes or of uris, and optionally of names. A place is a row group, decoded at once."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import PurePosixPath
from posixpath import normpath
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq

from factory.consent import COLUMNS as CONSENT
from factory.consent import Consent
from factory.errors import SourceError
from factory.files import local_path, shown
from factory.storage import AZURE, plain, scheme_of
from pipelines.photos.allowed import Allowed
from pipelines.photos.entries import Entry, data_uri, faults_of, faulty, of_bytes, of_file, open_file, what_is
from pipelines.photos.lists import to_download
from pipelines.photos.names import text_name

_LONGEST: Final = 4096  # characters of a path or uri
_BYTES: Final = 4 * 2**20  # about so many are decoded at a time, or 16 photos; of lists of uris many rows
_BASE64: Final = re.compile(r"[A-Za-z0-9+/=\s]{200,}")
_ENCODED: Final = ("jpg", "jpeg", "png", "webp")  # what img2dataset calls the column of bytes
_NULL_PARTITION: Final = "__HIVE_DEFAULT_PARTITION__"
_NOBODY: Final = ("nan", "NaN", "None", "<NA>", "null")  # what is left of null where a column was made texts: were it
# somebody, strangers would be learned as one person


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
    "person": (_is_text, "whose photo it is (string), as theirs are learned together; rename it if it tells else"),
}


def row_groups(uri: str) -> list[int]:
    """Rows of each row group. Raises SourceError, with the remedy, if the file is none or has no usable column."""
    try:
        with open_file(uri) as stream, pq.ParquetFile(stream) as parquet:
            schema, metadata = parquet.schema_arrow, parquet.metadata
            groups = [metadata.row_group(group) for group in range(metadata.num_row_groups)]
            rows = [group.num_rows for group in groups]
            read = [n for n in range(metadata.num_columns) if _is_read(metadata.schema.column(n).path)]
            packings = {group.column(n).compression for group in groups for n in read}
    except faults_of(uri) as error:
        if what := what_is(uri, b"PAR1", b"PARE"):
            raise SourceError(f"{shown(uri)} is no Parquet file, but {what}") from None
        raise SourceError(
            f"{shown(uri)} is no readable Parquet file ({shown(str(error))[:300]}); repair it, or take it away"
        ) from None
    _check(shown(uri), schema)
    if "BROTLI" in packings:  # CVE-2026-111497; which Brotli pyarrow 26.0.1 has is not told
        raise SourceError(f"{shown(uri)} is packed by Brotli, in whose unpacking a file can do harm; write it by zstd")
    if unread := sorted(name for name in packings if not _unpacks(name)):
        raise SourceError(f"{shown(uri)} is packed by {' and '.join(unread)}, which is not read here; write it by zstd")
    return rows


def why_no_photos(uri: str) -> str:
    """Why a file's columns neither hold photos nor name them; empty if they do, or cannot be read."""
    try:
        with open_file(uri) as stream, pq.ParquetFile(stream) as parquet:
            schema = parquet.schema_arrow
    except faults_of(uri):
        return ""
    try:
        _check(shown(uri), schema)
    except SourceError as error:
        return str(error)
    return ""


def _unpacks(packing: str) -> bool:
    """Whether this pyarrow reads pages that are packed so, as the footer calls it: LZO is in no build of it."""
    try:
        return packing == "UNCOMPRESSED" or pa.Codec.is_available(packing.lower())
    except ValueError:  # of no name that it knows
        return False


def _is_read(path: str) -> bool:
    """Whether rows are read with this column, by its path in the schema: "image.bytes"."""
    return path.partition(".")[0] in (*_COLUMNS, *_ENCODED, "name", "key", *CONSENT)


def _check(uri: str, schema: pa.Schema) -> None:
    if not {"image", "uri"} & set(schema.names) and _encoded(schema) is None:
        near = [name for name in schema.names if name.strip().lower().rstrip("s") in ("image", "uri", "img", "picture")]
        packed = [field.name for field in schema if _is_image(field.type) and not pa.types.is_null(field.type)]
        hint = f"; rename {(near or packed)[0]}" if near or len(packed) == 1 else ""
        hint = f"; {downloads}" if (downloads := to_download(schema.names)) else hint
        raise SourceError(
            f"{uri} has columns {', '.join(schema.names)}; it needs image (bytes) or uri, and optionally name{hint}"
        )
    for field in schema:
        if field.name in _COLUMNS and not _COLUMNS[field.name][0](field.type):
            raise SourceError(f"{uri}: column {field.name} holds {field.type}; it takes {_COLUMNS[field.name][1]}")


def _encoded(schema: pa.Schema) -> str | None:
    """img2dataset's column of bytes, where there is none called image."""
    if "image" in schema.names:
        return None
    return next((name for name in _ENCODED if name in schema.names and _is_image(schema.field(name).type)), None)


def rows_of(
    uri: str, group: int, first_row: int, num_rows: int, stem: str, allowed: Allowed | None = None
) -> Iterator[Entry]:
    """The photos of a row group, `num_rows` always: what cannot be read any more is an entry that says so, and so is
    what is not `allowed`."""
    row = 0
    try:
        with open_file(uri) as stream, pq.ParquetFile(stream) as parquet:
            encoded = _encoded(parquet.schema_arrow)
            wanted = [name for name in ("image", "uri", "name", "person", *CONSENT, encoded, encoded and "key") if name]
            columns = [name for name in wanted if name in parquet.schema_arrow.names]
            size = parquet.metadata.row_group(group).total_byte_size
            at_once = min(max(16, _BYTES * num_rows // max(size, 1)), 1024)
            for batch in parquet.iter_batches(batch_size=at_once, row_groups=[group], columns=columns):
                for values in batch.to_pylist()[: num_rows - row]:
                    if encoded:
                        values |= {"image": values.get(encoded), "name": values.get("name") or values.get("key")}
                    entry = replace(_entry(values, uri, first_row + row, stem, allowed), person=_person(values, uri))
                    yield _agreed(entry, values)
                    row += 1
        fault = "the Parquet file has fewer rows than it had"
    except faults_of(uri) as error:  # gone, or damaged inside: the rows that are left are told, each one
        fault = f"the Parquet file is damaged or gone: {shown(str(error))[:300]}"
    for number in range(first_row + row, first_row + num_rows):
        yield faulty(f"{stem}-{number}", f"{shown(uri)}#{number}", fault)


def _agreed(entry: Entry, values: dict[str, Any]) -> Entry:
    """The entry with its row's consent; one that cannot be understood makes it a photo that cannot be used."""
    try:
        return replace(entry, consent=Consent.of(values))
    except ValueError as error:
        return faulty(entry.name, entry.uri, str(error))


def _entry(values: dict[str, Any], parquet: str, row: int, stem: str, allowed: Allowed | None) -> Entry:
    image: Any = values.get("image")
    uri: Any = values.get("uri")
    if isinstance(image, dict):  # the struct <bytes, path> that Hugging Face's datasets write
        image, uri = image.get("bytes"), uri or image.get("path")
    here = f"{shown(parquet)}#{row}"
    path = _path(uri)
    name = _called(values, path, parquet) or f"{stem}-{row}"
    if image is not None:
        return of_bytes(name, here, image)
    if not uri or not uri.strip():
        return faulty(name, here, "the row holds no picture: it is null")
    if uri.lower().startswith("data:"):
        try:
            return of_bytes(name, here, data_uri(uri))
        except ValueError as error:
            return faulty(name, here, str(error))
    if path is None:
        return faulty(name, here, f"uri holds {_no_path(uri)}, not where a photo is; bytes belong into a column image")
    scheme = path.partition("://")[0] if "://" in path else ""
    hosted = scheme.startswith("http") or scheme in AZURE
    other_host = hosted and urlsplit(path).netloc != urlsplit(parquet).netloc
    if other_host or scheme not in ("", "s3", scheme_of(parquet)):  # a list may not make a cluster ask any server
        return faulty(name, shown(path), f"{scheme}:// is not read, only paths and s3://; copy the photos there first")
    if scheme == "" and not path.startswith("/"):  # relative to the Parquet file
        path = _beside(parquet, path)
    if allowed is not None and not allowed.holds(path, parquet):
        return faulty(name, here, "it is elsewhere: a tenant's rows name photos beside them, or below uri_prefixes")
    return of_file(name, path)


def _path(uri: str | None) -> str | None:
    """Where a row's photo is. Lists that were texts have line ends, blanks or quotes around it."""
    uri = uri and uri.strip()
    uri = uri[1:-1] if uri and len(uri) > 2 and uri[0] == uri[-1] == '"' else uri
    if not uri or _no_path(uri):
        return None
    return local_path(uri) if uri.startswith(("file:/", "~/")) else plain(uri)


def _called(values: dict[str, Any], path: str | None, parquet: str) -> str:
    """What a row says that its photo is called; empty if nothing."""
    told = _name(values.get("name"))
    told = (told not in _NOBODY and told) or _partition(parquet, "name")
    return told or (text_name(PurePosixPath(path).stem) if path else "")


def names_of(uri: str) -> Iterator[str]:
    """What the rows of a Parquet file are called by what they say; of others nothing, as they are called by their
    number. No picture is read."""
    try:
        with open_file(uri) as stream, pq.ParquetFile(stream) as parquet:
            schema, named = parquet.schema_arrow, _partition(uri, "name")
            encoded = _encoded(schema)
            columns = [name for name in ("name", "uri", encoded and "key") if name and name in schema.names]
            if "image" in schema.names and pa.types.is_struct(schema.field("image").type):
                columns.append("image.path")
            if not columns:
                yield from [named] * parquet.metadata.num_rows if named else ()
                return
            for batch in parquet.iter_batches(batch_size=1024, columns=columns):
                for values in batch.to_pylist():
                    if encoded:
                        values["name"] = values.get("name") or values.get("key")
                    image = values.get("image") or {}
                    if name := _called(values, _path(values.get("uri") or image.get("path")), uri):
                        yield name
    except faults_of(uri):  # its rows are told when they are read
        return


def _beside(parquet: str, path: str) -> str:
    if scheme := scheme_of(parquet):  # whose keys know no parent folder
        return f"{scheme}://" + normpath(f"{parquet.removeprefix(f'{scheme}://').rpartition('/')[0]}/{path}")
    return str(PurePosixPath(parquet).parent / path)


def _no_path(uri: str) -> str:
    """What a text is that cannot be a path or uri; empty if it may be one. It is never repeated: it may be a photo."""
    if uri.lower().startswith("data:"):
        return "a data: uri"
    if _BASE64.fullmatch(uri):
        return f"{len(uri):,} characters of base64"
    return f"{len(uri):,} characters" if len(uri) > _LONGEST else ""


def _name(value: object) -> str:
    if isinstance(value, float):  # what pandas makes of integers where one is missing
        value = int(value) if value.is_integer() else None if value != value else value
    if isinstance(value, bytes):
        value = value.decode("utf-8", "surrogateescape")
    return "" if value is None else text_name(str(value)).strip()


def _person(values: dict[str, Any], parquet: str) -> str | None:
    told = _name(values.get("person"))
    return (told not in _NOBODY and told) or _partition(parquet, "person") or None


@lru_cache(maxsize=64)  # it is asked for each row
def _partition(parquet: str, column: str) -> str:
    """What a Hive partition says: .../name=Ada/part-0.parquet."""
    parts = [part for part in PurePosixPath(parquet).parts if part.startswith(f"{column}=")]
    value = unquote(parts[-1].partition("=")[2]) if parts else ""
    return "" if value == _NULL_PARTITION else text_name(value)
