"""Rows of Parquet that are called alike, told apart as files of one name are (names.py); so is a row "Ada-1" beside
"Ada", as the second face of Ada's photo is called.

Names are read before anything else, as which rows are alike must not depend on what an earlier job has done.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa

from factory.files import shown
from factory.store.digests import DigestSet, digests
from pipelines.photos.names import OF_A_FACE, text_name
from pipelines.photos.parquet import names_of

_AT_ONCE = 4096  # names of which digests are made together


class Alike:
    """The names that several photos of a source have: 16 bytes each, and while they are looked for 16 a photo."""

    def __init__(self, names: DigestSet | None = None) -> None:
        self._names = names if names is not None else DigestSet()

    @classmethod
    def among(cls, tables: Sequence[str], others: Iterable[str]) -> Alike:
        """Of Parquet files (uris), and of photos that are called otherwise already."""
        if not tables:
            return cls()
        with ThreadPoolExecutor(16) as threads:
            rows = list(threads.map(lambda table: _Called.of_all(names_of(table)), tables))
        files = _Called.of_all(others)
        names, num = np.unique(np.concatenate([one.names for one in (*rows, files)]), return_counts=True)
        known = DigestSet([names])
        faces = [one.faces[known.hold(one.of)] for one in rows]
        of = files.of[known.hold(files.of)]  # files keep their names
        return cls(DigestSet([names[num > 1], *faces, of]))

    def told_apart(self, contents: pa.Table) -> pa.Table:
        """CONTENT in which no row of Parquet is called as another photo: where a row tells a path it is called by that,
        else by its number, "Ada/people-3"."""
        if not len(self._names):
            return contents
        names = contents["name"].to_pylist()
        return by_own_names(contents, self._names.hold(digests(names)) & (contents["row_group"].to_numpy() >= 0))


def by_own_names(contents: pa.Table, which: np.ndarray) -> pa.Table:
    """CONTENT of which these rows (bool [n]) are called by where they are: "ada.jpg", "Ada/1.jpg", "Ada/people-3"."""
    if not which.any():
        return contents
    names = contents["name"].to_pylist()
    for row in np.flatnonzero(which):
        names[row] = _own_name(**contents.slice(row, 1).to_pylist()[0])
    column = contents.schema.get_field_index("name")
    return contents.set_column(column, contents.schema.field(column), pa.array(names, pa.string()))


@dataclass(frozen=True, slots=True)
class _Called:
    """Digests of names, S16 [n]."""

    names: np.ndarray
    faces: np.ndarray  # those of the names that are as a second face's
    of: np.ndarray  # for each of these, the name that is left without the face's number

    @classmethod
    def of_all(cls, names: Iterable[str]) -> _Called:
        """Of names that are read but once, some at a time."""
        parts, every = [(digests(()),) * 3], iter(names)
        while some := list(islice(every, _AT_ONCE)):
            faces = [(name, face[1]) for name in some if (face := OF_A_FACE.fullmatch(name))]
            parts.append((digests(some), digests(name for name, _ in faces), digests(of for _, of in faces)))
        return cls(*(np.concatenate(each) for each in zip(*parts, strict=True)))


def _own_name(
    *, name: str, uri: bytes, stem: str, where: str, member: bytes | None, first_row: int, row: int, **_: Any
) -> str:
    table = shown(uri.decode("utf-8", "surrogateescape"))
    if member is not None:
        return text_name(f"{PurePosixPath(table).name}/{shown(member.decode('utf-8', 'surrogateescape'))}")
    if where.startswith(f"{table}#"):
        return f"{name}/{stem}-{first_row + row}"
    beside = f"{table.rpartition('/')[0]}/"
    path = where.removeprefix(beside) if where.startswith(beside) else where.partition("://")[2] or where
    parts = [part for part in PurePosixPath(path).parts if part != "/"]
    own = text_name("/".join(parts))
    return own if PurePosixPath(own).stem == name else f"{name}/{own}"
