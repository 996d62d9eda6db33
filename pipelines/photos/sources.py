"""Reading SRC: Parquet, a folder of images or archives, or an s3:// prefix of either.

Every entry of a place (places.py) is a photo, or a row that says why it cannot be read. The id under which a photo is
stored is that of the bytes that are decoded: a file that is replaced after it was listed is the photo that it is then.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any, Final

import pyarrow as pa

from factory.consent import COLUMNS, Consent
from factory.files import shown
from factory.ids import content_id
from pipelines.photos.allowed import Allowed
from pipelines.photos.archives import Archives, Member, unread_archive
from pipelines.photos.consents import CONSENT
from pipelines.photos.entries import Entry, faulty, in_order, of_file
from pipelines.photos.named import kind_of
from pipelines.photos.parquet import rows_of
from pipelines.photos.places import PLACE, unpacked, why_not_listed, why_not_read
from pipelines.photos.standing import check_sources

_OF_PLACE: Final = [field for field in PLACE if field.name not in COLUMNS]  # the same in all rows of a place
CONTENT: Final = pa.schema(
    [
        *_OF_PLACE,
        *CONSENT,  # of the photo itself
        ("row", pa.int64()),
        ("photo_id", pa.string()),  # null if it cannot be read
        ("name", pa.string()),
        ("where", pa.string()),  # for a person to find it; its sha256 is the reject_id if it cannot be read
        ("person", pa.string()),  # whose photo it is; null: nobody said
    ]
)
_PLACED, _FOUND = CONTENT.names[: len(_OF_PLACE)], CONTENT.names[len(_OF_PLACE) :]
PHOTO: Final = pa.schema(
    [
        ("photo_id", pa.string()),  # sha256 of `image`, or of what is too large; "" if unreadable
        ("reject_id", pa.string()),  # photo_id, or sha256 of the uri if unreadable
        ("name", pa.string()),
        ("uri", pa.string()),  # where it is, for a person to find it
        ("image", pa.binary()),  # null if there is a reason
        ("reason", pa.string()),  # unreadable, too_large
        ("detail", pa.string()),
        ("person", pa.string()),
        *CONSENT,
    ]
)
_ROWS: Final = 1024  # of CONTENT in a table


def hash_contents(places: pa.Table, allowed: Allowed | None = None, sources: Sequence[str] = ()) -> Iterator[pa.Table]:
    """PLACE -> CONTENT: the id of every photo, null where it cannot be read, or may not.

    Raises SourceError or OSError if that is because one of `sources` is gone as a whole.
    """
    with Archives() as archives:
        looked = in_order(
            (entry.is_far, partial(_looked, number, row, entry, place, sources))
            for number, place in enumerate(places.to_pylist())
            for row, entry in enumerate(_entries(place, archives, allowed))
        )
        while rows := list(islice(looked, _ROWS)):
            numbers, *found = zip(*rows, strict=True)
            whose = places.select(_PLACED).take(pa.array(numbers, pa.int64())).columns  # a place has many rows
            arrays = [pa.array(values, CONTENT.field(name).type) for name, values in zip(_FOUND, found, strict=True)]
            yield pa.Table.from_arrays([*whose, *arrays], schema=CONTENT)


def _looked(number: int, row: int, one: Entry, place: dict[str, Any], sources: Sequence[str]) -> tuple[Any, ...]:
    """The place's number, and what is found out (_FOUND)."""
    consent, digest = one.consent or Consent.of(place), one.digest()
    if digest is None:
        check_sources(sources)
    return number, *consent.columns().values(), row, digest, one.name, one.uri, one.person


def read_photos(contents: pa.Table, **how: Any) -> Iterator[pa.Table]:
    """CONTENT -> PHOTO, one row at a time; `how` as `read_rows` takes it."""
    return (pa.Table.from_pylist([photo], PHOTO) for photo in read_rows(contents, **how))


def read_rows(
    contents: pa.Table,
    *,
    max_bytes: int,
    require_consent: bool = False,
    allowed: Allowed | None = None,
    sources: Sequence[str] = (),
) -> Iterator[dict[str, Any]]:
    """Rows of PHOTO; photos over `max_bytes` are not read but refused, as are those whose consent is over, or required
    and not there. Raises SourceError or OSError if one of `sources` is gone as a whole."""
    wanted: dict[tuple[Any, ...], dict[int, tuple[Consent, str | None, str]]] = {}
    for row in contents.to_pylist():
        place = tuple(row[name] for name in _PLACED)
        wanted.setdefault(place, {})[row["row"]] = Consent.of(row), row["photo_id"], row["name"]
    with Archives() as archives:
        yield from in_order(
            (entry.is_far, partial(_agreed_photo, entry, *listed[row], max_bytes, require_consent, sources))
            for fields, listed in wanted.items()
            for place in [dict(zip(_PLACED, fields, strict=True))]
            for row, entry in enumerate(_entries(place, archives, allowed))
            if row in listed
        )


def _agreed_photo(
    entry: Entry,
    told: Consent,
    listed_id: str | None,
    name: str,
    max_bytes: int,
    require_consent: bool,
    sources: Sequence[str],
) -> dict[str, Any]:
    consent = entry.consent or told
    photo = _photo(entry, listed_id, max_bytes) | {"name": name} | consent.columns()
    if photo["reason"] == "unreadable":
        check_sources(sources)
    why = consent.lacking(time.time(), required=require_consent)
    if why and photo["image"] is not None:
        photo |= {"image": None, "reason": "no_consent", "detail": why}
    return photo


def _photo(entry: Entry, listed_id: str | None, max_bytes: int) -> dict[str, Any]:
    row = {"name": entry.name, "uri": entry.uri, "image": None, "reason": None, "person": entry.person}
    try:
        data = entry.read(max_bytes)
        size = entry.num_bytes() if data is None else 0
        photo_id = content_id(data) if data is not None else listed_id or entry.digest()
    except OSError as error:
        return {**row, "photo_id": "", "reject_id": entry.source_id, "reason": "unreadable", "detail": str(error)}
    if data is not None:
        return {**row, "photo_id": photo_id, "reject_id": photo_id, "image": data}
    detail = f"{size:,} bytes; the limit is {max_bytes:,} bytes (max_bytes)"
    return {**row, "photo_id": photo_id, "reject_id": photo_id, "reason": "too_large", "detail": detail}


def _entries(place: dict[str, Any], archives: Archives, allowed: Allowed | None) -> Iterator[Entry]:
    """The photos of a place, `num_rows` always."""
    if place["row_group"] >= 0:
        where = unpacked(place["uri"]), place["row_group"], place["first_row"], place["num_rows"], place["stem"]
        yield from rows_of(*where, allowed)
    else:
        yield replace(_entry(place, archives), person=place["folder"])


def _entry(place: dict[str, Any], archives: Archives) -> Entry:
    """A file by itself, or a member of an archive."""
    uri, stem = unpacked(place["uri"]), place["stem"]
    if place["member"] is not None:
        member = Member(unpacked(place["member"]), place["first_row"], place["offset"], place["size"])
        return archives.entry(stem, uri, member)
    if kind_of(uri) == "parquet":
        return faulty(stem, shown(uri), why_not_read(uri))
    if kind_of(uri) == "archive":
        return faulty(stem, shown(uri), why_not_listed(uri))
    if fault := unread_archive(uri):
        return faulty(stem, shown(uri), fault)
    return of_file(stem, uri)
