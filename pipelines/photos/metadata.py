"""metadata.csv or metadata.jsonl beside photos, as Hugging Face's ImageFolder has it: what the photos are called and
whose they are, by the columns file_name, name and person. Others of its columns are not read."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any, Final

from factory.files import shown
from pipelines.photos.beside import few_of
from pipelines.photos.consents import file_of, matched, rows_of_csv, text_of
from pipelines.photos.entries import of_file
from pipelines.photos.lists import columns_of
from pipelines.photos.names import text_name

METADATA: Final = ("metadata.csv", "metadata.jsonl")
_FILE: Final = "file_name"
_TOLD: Final = frozenset(("name", "person"))
_NOBODY: Final = ("", "nan", "None", "<NA>", "null")
_MOST: Final = 2**28  # bytes

_Told = tuple[str, str]  # name and person, empty if not told


def with_metadata(places: list[dict[str, Any]], lists: Sequence[str], told: list[str]) -> list[dict[str, Any]]:
    """Rows of PLACE with the names and persons that `lists` (uris, which `is_read`) tell. Puts what there is to say of
    them into `told`: a list that cannot be understood is left out."""
    known = dict[str, _Told]()
    for uri in lists:
        try:
            known |= {f"{uri.rpartition('/')[0]}/{file}": (name, person) for file, name, person in _read(uri)}
        except (OSError, ValueError, csv.Error) as error:
            told.append(f"{shown(uri)} is not read: {shown(str(error))[:300]}")
    if not known:
        return places
    meant = matched([file_of(place) for place in places], known)
    names = Counter(known[row][0] for row in meant.values())
    taken = Counter(place["stem"] for place in places if file_of(place) not in meant)
    num_names = num_persons = 0
    for place in places:
        if (row := meant.get(file_of(place))) is None:
            continue
        name, person = known[row]
        if name:
            place["stem"] = name if names[name] == 1 and not taken[name] else f"{name}/{place['stem']}"
        place["folder"] = person or place["folder"]
        num_names, num_persons = num_names + bool(name), num_persons + bool(person)
    told.append(f"{few_of(lists)}: names of {num_names:,} photos, persons of {num_persons:,}")
    return places


def is_read(file: str) -> bool:
    """Whether a list beside photos is such a one, and tells names or persons."""
    columns = {name.strip().lower() for name in columns_of(file)[0]} if _name(file) in METADATA else set()
    return _FILE in columns and not _TOLD.isdisjoint(columns)


def _name(file: str) -> str:
    return PurePosixPath(file).name.lower()


def _read(uri: str) -> Iterator[tuple[str, str, str]]:
    """File, name and person of each row that tells one of the two. Raises OSError, ValueError, csv.Error."""
    data = of_file(uri, uri).read(_MOST)
    if data is None:
        raise ValueError(f"it has more than {_MOST:,} bytes")
    text = text_of(data)
    rows = _of_json(text) if uri.lower().endswith(".jsonl") else (row for _, row in rows_of_csv(text, (_FILE,)))
    for row in rows:
        file, name, person = (_plain(row.get(column)) for column in (_FILE, "name", "person"))
        if file and (name or person):
            yield file, name, person


def _of_json(text: str) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError(f"line {number} is no object of JSON")
            yield row


def _plain(value: Any) -> str:
    text = "" if value is None else text_name(str(value)).strip()
    return "" if text in _NOBODY else text
