"""Whether all files that a table's version names are there and whole: a copy of a root may have broken off, and Lance
tells so where it first reads such a file, in words for programmers of it."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Final

import pyarrow.fs as pafs

from factory.errors import TableDamaged
from factory.files import filesystem

if TYPE_CHECKING:
    import lance

_MISSING: Final = re.compile(r"Not found: \S*?([a-z]+)\.lance/((?:data|_deletions|_indices|_versions)/[^,\s]+)")
_POSITION: Final = re.compile(r",?\s*/\S*?\.rs:\d+(?::\d+)?")  # in the source of Lance
_REMEDY: Final = "copy the whole root again, or the table from a backup, or move the table away to begin it anew"
_OF_LANCE: Final = "__lance"  # begin of the names of indexes that need no files


def damaged(table: str, what: str) -> TableDamaged:
    """The error: what is wrong with a table, by its uri or name."""
    return TableDamaged(f"table {table} is incomplete or damaged: {what}; {_REMEDY}")


def damage_in(error: BaseException) -> TableDamaged | None:
    """The same of an error of Lance that tells of a missing file of a table; None of any other."""
    found = _MISSING.search(str(error))
    return damaged(found[1], f"{found[2]} is missing") if found else None


def plain(text: str) -> str:
    """An error's text without where in Lance's source it was raised."""
    return _POSITION.sub("", text)


def lacking(dataset: lance.LanceDataset, uri: str) -> str:
    """What is wrong with the first of its files that is not there, or not whole; empty if all are. Each of its folders
    is listed once; Raises OSError."""
    named = dict[str, int | None]()  # bytes
    for fragment in dataset.get_fragments():
        named |= {f"data/{file.path}": file.file_size_bytes for file in fragment.metadata.files}
        named |= {deleted: None} if (deleted := fragment.deletion_file()) else {}
    there = dict[str, int | None]()
    for folder in {name.partition("/")[0] for name in named}:
        there |= _files_in(uri, folder)
    for name, size in named.items():
        if name not in there:
            return f"{name} is missing"
        if size and there[name] != size:
            return f"{name} has {there[name]:,} of {size:,} bytes"
    return _lacking_of_indexes(dataset, uri)


def _lacking_of_indexes(dataset: lance.LanceDataset, uri: str) -> str:
    indexes = [index for index in dataset.describe_indices() if not index.name.startswith(_OF_LANCE)]
    if not indexes:
        return ""
    sizes = Counter[str]()  # by the folder of each
    for path, size in _files_in(uri, "_indices").items():
        sizes[path.split("/")[1]] += size or 0
    for segment in (segment for index in indexes for segment in index.segments):
        size, expected = sizes[segment.uuid], segment.size_bytes or 1
        if size < expected:
            return f"_indices/{segment.uuid} " + (f"has {size:,} of {expected:,} bytes" if size else "is missing")
    return ""


def _files_in(uri: str, folder: str) -> dict[str, int | None]:
    """Files of a table's folder with their bytes, by "folder/name"."""
    files, path = filesystem(f"{uri}/{folder}")
    found = files.get_file_info(pafs.FileSelector(path, recursive=True, allow_not_found=True))
    return {f"{folder}{info.path.removeprefix(path)}": info.size for info in found if info.is_file}
