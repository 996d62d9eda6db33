"""Where the photos of SRC are: the driver lists places and ids, never bytes.

A *place* is a file, a member of an archive or a row group of Parquet.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import pyarrow as pa

from factory.consent import Consent
from factory.errors import SourceError
from factory.files import local_path, shown
from factory.storage import plain, scheme_of
from pipelines.photos.alike import Alike
from pipelines.photos.archives import Archives, Members, list_members, unread_archive
from pipelines.photos.beside import CONSENTS, REMEDIES, few_of
from pipelines.photos.consents import CONSENT, read_consents, with_consents
from pipelines.photos.entries import Entry, of_file
from pipelines.photos.listing import Listed, list_files
from pipelines.photos.lists import told_of
from pipelines.photos.metadata import is_read, with_metadata
from pipelines.photos.named import kind_of
from pipelines.photos.names import unique_names
from pipelines.photos.parquet import row_groups
from pipelines.photos.persons import PersonFrom, with_folders
from pipelines.photos.sorting import sorted_out

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
    sources: tuple[str, ...]  # SRC, as absolute paths and uris
    left_out: Counter[str]  # files and folders that are no photos, by kind
    told: list[str] = field(default_factory=list)  # what there is to say of them, in sentences
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
        rows, unused = with_consents(rows, read_consents(lists))
    if person_from is not None:
        rows = with_folders(rows, sources)
    names = [uri for uri in listed.lists if is_read(uri)]
    rows = with_metadata(rows, names, listed.told)
    listed.leave_out("rows of consent.csv whose file is not there", len(unused))
    if unused:
        listed.told.append(f"consent.csv tells of files that are not there: {few_of(unused)}; correct their names")
    aside = [(kind, num) for kind, num in listed.left_out.items() if kind in REMEDIES]
    told = [*listed.told, *told_of(listed.lists, names), *(f"{num} {kind}; {REMEDIES[kind]}" for kind, num in aside)]
    table = pa.Table.from_pylist(rows, PLACE)
    num_photos = sum(row["num_rows"] for row in rows)
    if num_photos == 0:
        left_out = ", ".join(f"{num} {kind}" for kind, num in listed.left_out.items())
        remedy = "; ".join(told) or "give a folder of images, or Parquet with a column image or uri"
        raise SourceError(
            f"{shown(' and '.join(sources))} holds no photos{left_out and f' ({left_out} left out)'}; {remedy}"
        )
    tables = {unpacked(row["uri"]): None for row in rows if row["row_group"] >= 0}
    alike = Alike.among(list(tables), (row["stem"] for row in rows if row["row_group"] < 0))
    return Places(
        table=table,
        num_photos=num_photos,
        sources=tuple(one if scheme_of(one) else local_path(one) for one in sources),
        left_out=listed.left_out,
        told=told,
        alike=alike,
    )


def _places(listed: Listed, archives: Archives) -> tuple[list[dict[str, Any]], list[tuple[str, Entry]]]:
    """Rows of PLACE, and the lists of consents in archives, as `read_consents` takes them."""
    with ThreadPoolExecutor(16) as threads:
        found = list(threads.map(_groups, listed.tables))
    faults = [groups for groups in found if isinstance(groups, SourceError)]
    if faults and len(faults) == len(listed.tables) and not listed.files:
        raise faults[0]
    if listed.files and not listed.tables and all(map(unread_archive, listed.files)):  # told before anything starts
        raise SourceError("; ".join(f"{shown(file)}: {unread_archive(file)}" for file in listed.files[:3]))
    packed = [file for file in listed.files if kind_of(file) == "archive"]
    alone = [file for file in listed.files if kind_of(file) != "archive"]
    with ThreadPoolExecutor(16) as threads:
        inside = dict(zip(packed, threads.map(_members, packed), strict=True))
    for file, own in inside.items():
        listed.told += [f"{shown(file)} {own.told}"] * bool(own.told)
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
    stems = unique_names([*map(_as_written, alone), *(f"{file}/{member.name}" for file, member in members)])
    rows = [{"uri": _packed(file), "stem": stem, **_FILE} for file, stem in zip(alone, stems, strict=False)]
    for (file, member), stem in zip(members, stems[len(alone) :], strict=True):
        inner = {"first_row": member.number, "member": _packed(member.name), "offset": member.offset}
        rows.append({**_FILE, "uri": _packed(file), "stem": stem, **inner, "size": member.size})
    return rows


def _as_written(file: str) -> str:
    """A file's uri, of a web server as its name was before it became part of an address."""
    return unquote(urlsplit(file).path) if scheme_of(file) in ("http", "https") else file


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


def why_not_listed(archive: str) -> str:
    """Why an archive is a file that cannot be read, now."""
    own = _members(archive)
    return own.fault or f"{len(own.photos)} members, which were not there when it was listed"


def why_not_read(parquet: str) -> str:
    """The same of a Parquet file."""
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


def _packed(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


def unpacked(name: bytes) -> str:
    """A name of any bytes as Python reads it, from a column of PLACE."""
    return name.decode("utf-8", "surrogateescape")
