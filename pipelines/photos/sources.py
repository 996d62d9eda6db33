"""Reading SRC: Parquet, a folder of images or archives, or an s3:// prefix of either.

A *place* is a file, a member of an archive or a row group of Parquet; the driver holds places and ids, never bytes.
Every entry is a photo, a row that says why it cannot be read, or counted as left out. The id under which a photo is
stored is that of the bytes that are decoded: a file that is replaced after it was listed is the photo that it is then.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from typing import Any, Final

import pyarrow as pa

from factory.consent import Consent
from factory.errors import SourceError
from factory.files import shown
from factory.ids import content_id
from factory.storage import plain
from pipelines.photos.alike import Alike
from pipelines.photos.allowed import Allowed
from pipelines.photos.archives import Archives, Member, Members, list_members, unread_archive
from pipelines.photos.consents import CONSENT, read_consents, with_consents
from pipelines.photos.entries import Entry, faulty, in_order, of_file
from pipelines.photos.listing import CONSENTS, Listed, list_files
from pipelines.photos.named import kind_of, sorted_out
from pipelines.photos.names import unique_names
from pipelines.photos.parquet import row_groups, rows_of
from pipelines.photos.persons import PersonFrom, with_folders

PLACE: Final = pa.schema(
    [
        ("uri", pa.binary()),  # of the file, as Python reads names: UTF-8, or any bytes
        ("stem", pa.string()),  # the file's name among all files, or the member's
        ("row_group", pa.int32()),  # -1: the file itself is a photo
        ("first_row", pa.int64()),  # of the row group; of a member its number in the archive
        ("num_rows", pa.int64()),
        ("member", pa.binary()),  # name in the archive, null if it is none
        ("offset", pa.int64()),  # of the member in a tar, else -1
        ("size", pa.int64()),  # bytes, of a member
        ("folder", pa.string()),  # below SRC, where it tells whose photo this is; else null
        *CONSENT,  # by consent.csv beside the file; of Parquet null, as its rows tell their own
    ]
)
CONTENT: Final = pa.schema(
    [
        *PLACE,
        ("row", pa.int64()),
        ("photo_id", pa.string()),  # null if it cannot be read
        ("name", pa.string()),
        ("where", pa.string()),  # for a person to find it; its sha256 is the reject_id if it cannot be read
        ("person", pa.string()),  # whose photo it is; null: nobody said
    ]
)
_FOUND: Final = CONTENT.names[len(PLACE) :]
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
_FILE: Final[dict[str, Any]] = {  # of PLACE, where it is a file by itself
    "row_group": -1,
    "first_row": 0,
    "num_rows": 1,
    "member": None,
    "offset": -1,
    "size": -1,
    "folder": None,
    **Consent().columns(),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where the photos are."""

    table: pa.Table  # PLACE
    num_photos: int
    left_out: Counter[str]  # files and folders that are no photos, by kind
    alike: Alike = field(default_factory=Alike)  # rows of `table` that are called as others


def find_places(src: str | Sequence[str], root: str | None = None, person_from: PersonFrom | None = None) -> Places:
    """Lists SRC, one or several, without the tables of ROOT. With `person_from` "folder" photos in a folder below SRC,
    or in one of an archive, are one person's, who is called as its path.

    Raises SourceError, with the remedy, if one is missing, or all are empty or have no usable column, or no photo lies
    in a folder.
    """
    sources = [plain(one) for one in ([src] if isinstance(src, str) else src)]
    listed = Listed()
    for one in sources:
        listed.add(sorted_out(list_files(one, root)))
    with Archives() as archives:
        rows, lists = _places(listed, archives)
        lists += [(f"{uri.rpartition('/')[0]}/", of_file(uri, uri)) for uri in listed.consents]
        rows, num_unused = with_consents(rows, read_consents(lists))
    listed.leave_out("rows of consent.csv whose file is not there", num_unused)
    if person_from is not None:
        rows = with_folders(rows, sources)
    table = pa.Table.from_pylist(rows, PLACE)
    num_photos = sum(row["num_rows"] for row in rows)
    if num_photos == 0:
        left_out = ", ".join(f"{num} {kind}" for kind, num in listed.left_out.items())
        raise SourceError(
            f"{shown(' and '.join(sources))} holds no photos{left_out and f' ({left_out} left out)'}; "
            "give a folder of images, or Parquet with a column image or uri"
        )
    tables = {(_unpacked(row["uri"]), row["stem"]): None for row in rows if row["row_group"] >= 0}
    alike = Alike.among(list(tables), (row["stem"] for row in rows if row["row_group"] < 0))
    return Places(table=table, num_photos=num_photos, left_out=listed.left_out, alike=alike)


def hash_contents(places: pa.Table, allowed: Allowed | None = None) -> Iterator[pa.Table]:
    """PLACE -> CONTENT: the id of every photo, null where it cannot be read, or may not."""
    with Archives() as archives:
        looked = in_order(
            (entry.is_far, partial(_looked, number, row, entry))
            for number, place in enumerate(places.to_pylist())
            for row, entry in enumerate(_entries(place, archives, allowed))
        )
        while rows := list(islice(looked, _ROWS)):
            numbers, *found = zip(*rows, strict=True)
            whose = places.select(PLACE.names).take(pa.array(numbers, pa.int64())).columns  # a place has many rows
            arrays = [pa.array(values, CONTENT.field(name).type) for name, values in zip(_FOUND, found, strict=True)]
            yield pa.Table.from_arrays([*whose, *arrays], schema=CONTENT)


def _looked(number: int, row: int, one: Entry) -> tuple[Any, ...]:
    """The place's number, and what is found out (_FOUND)."""
    return number, row, one.digest(), one.name, one.uri, one.person


def read_photos(contents: pa.Table, **how: Any) -> Iterator[pa.Table]:
    """CONTENT -> PHOTO, one row at a time; `how` as `read_rows` takes it."""
    return (pa.Table.from_pylist([photo], PHOTO) for photo in read_rows(contents, **how))


def read_rows(
    contents: pa.Table, *, max_bytes: int, require_consent: bool = False, allowed: Allowed | None = None
) -> Iterator[dict[str, Any]]:
    """Rows of PHOTO; photos over `max_bytes` are not read but refused, as are those whose consent is over, or required
    and not there."""
    wanted: dict[tuple[Any, ...], dict[int, tuple[str | None, str]]] = {}
    for row in contents.to_pylist():
        place = tuple(row[name] for name in PLACE.names)
        wanted.setdefault(place, {})[row["row"]] = row["photo_id"], row["name"]
    with Archives() as archives:
        yield from in_order(
            (entry.is_far, partial(_agreed_photo, entry, place, *listed[row], max_bytes, require_consent))
            for fields, listed in wanted.items()
            for place in [dict(zip(PLACE.names, fields, strict=True))]
            for row, entry in enumerate(_entries(place, archives, allowed))
            if row in listed
        )


def _agreed_photo(
    entry: Entry, place: dict[str, Any], listed_id: str | None, name: str, max_bytes: int, require_consent: bool
) -> dict[str, Any]:
    consent = entry.consent or Consent.of(place)
    photo = _photo(entry, listed_id, max_bytes) | {"name": name} | consent.columns()
    why = consent.lacking(time.time(), required=require_consent)
    if why and photo["image"] is not None:
        photo |= {"image": None, "reason": "no_consent", "detail": why}
    return photo


def _photo(entry: Entry, listed_id: str | None, max_bytes: int) -> dict[str, Any]:
    row = {"name": entry.name, "uri": entry.uri, "image": None, "person": entry.person}
    try:
        data = entry.read(max_bytes)
        size = entry.num_bytes() if data is None else 0
        photo_id = content_id(data) if data is not None else listed_id or entry.digest()
    except OSError as error:
        return {**row, "photo_id": "", "reject_id": entry.source_id, "reason": "unreadable", "detail": str(error)}
    if data is not None:
        return {**row, "photo_id": photo_id, "reject_id": photo_id, "image": data}
    detail = f"{size:,} bytes; the limit is {max_bytes:,} bytes"
    return {**row, "photo_id": photo_id, "reject_id": photo_id, "reason": "too_large", "detail": detail}


def _places(listed: Listed, archives: Archives) -> tuple[list[dict[str, Any]], list[tuple[str, Entry]]]:
    """Rows of PLACE, and the lists of consents in archives, as `read_consents` takes them."""
    with ThreadPoolExecutor(16) as threads:
        found = list(threads.map(_groups, listed.tables))
    faults = [groups for groups in found if isinstance(groups, SourceError)]
    if faults and len(faults) == len(listed.tables) and not listed.files:
        raise faults[0]
    packed = [file for file in listed.files if kind_of(file) == "archive"]
    alone = [file for file in listed.files if kind_of(file) != "archive"]
    with ThreadPoolExecutor(16) as threads:
        inside = dict(zip(packed, threads.map(_members, packed), strict=True))
    for own in inside.values():
        listed.left_out += own.left_out
        listed.leave_out("empty archive", not (own.photos or own.left_out or own.fault))
    lists = [
        (f"{file}#{member.folder}", archives.entry(CONSENTS, file, member))
        for file, own in inside.items()
        for member in own.consents
    ]
    return [*_of_parquet(listed.tables, found), *_of_files(alone, inside)], lists


def _of_files(alone: list[str], inside: Mapping[str, Members]) -> list[dict[str, Any]]:
    """Photos by themselves, and members of archives; an archive that cannot be listed, or not to its end, is a file
    that cannot be read."""
    alone = sorted([*alone, *(file for file, own in inside.items() if own.fault)])
    members = [(file, member) for file, own in inside.items() for member in own.photos]
    stems = unique_names([*alone, *(f"{file}/{member.name}" for file, member in members)])
    rows = [{"uri": _packed(file), "stem": stem, **_FILE} for file, stem in zip(alone, stems, strict=False)]
    for (file, member), stem in zip(members, stems[len(alone) :], strict=True):
        inner = {"first_row": member.number, "member": _packed(member.name), "offset": member.offset}
        rows.append({**_FILE, "uri": _packed(file), "stem": stem, **inner, "size": member.size})
    return rows


def _groups(parquet: str) -> list[int] | SourceError:
    try:
        return row_groups(parquet)
    except SourceError as error:
        return error


def _members(archive: str) -> Members:
    try:
        return list_members(archive)
    except (SourceError, OSError) as error:
        return Members([], Counter(), [], str(error))


def _why_not_listed(archive: str) -> str:
    own = _members(archive)
    return own.fault or f"{len(own.photos)} members, which were not there when it was listed"


def _why_not_read(parquet: str) -> str:
    groups = _groups(parquet)
    return str(groups) if isinstance(groups, SourceError) else "the Parquet file could not be read when it was listed"


def _of_parquet(files: Sequence[str], groups: Sequence[list[int] | SourceError]) -> Iterator[dict[str, Any]]:
    """The row groups; a Parquet file that cannot be used, among others that can, is a file that cannot be read."""
    for file, stem, sizes in zip(files, unique_names(files), groups, strict=True):
        if isinstance(sizes, SourceError):
            yield {"uri": _packed(file), "stem": stem, **_FILE}
            continue
        first_row = 0
        for group, num_rows in enumerate(sizes):
            where = {"row_group": group, "first_row": first_row, "num_rows": num_rows}
            yield {**_FILE, "uri": _packed(file), "stem": stem, **where}
            first_row += num_rows


def _entries(place: dict[str, Any], archives: Archives, allowed: Allowed | None) -> Iterator[Entry]:
    """The photos of a place, `num_rows` always."""
    if place["row_group"] >= 0:
        where = _unpacked(place["uri"]), place["row_group"], place["first_row"], place["num_rows"], place["stem"]
        yield from rows_of(*where, allowed)
    else:
        yield replace(_entry(place, archives), person=place["folder"])


def _entry(place: dict[str, Any], archives: Archives) -> Entry:
    """A file by itself, or a member of an archive."""
    uri, stem = _unpacked(place["uri"]), place["stem"]
    if place["member"] is not None:
        member = Member(_unpacked(place["member"]), place["first_row"], place["offset"], place["size"])
        return archives.entry(stem, uri, member)
    if kind_of(uri) == "parquet":
        return faulty(stem, shown(uri), _why_not_read(uri))
    if kind_of(uri) == "archive":
        return faulty(stem, shown(uri), _why_not_listed(uri))
    if fault := unread_archive(uri):
        return faulty(stem, shown(uri), fault)
    return of_file(stem, uri)


def _packed(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


def _unpacked(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")
