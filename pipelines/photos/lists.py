"""Tables that are no Parquet, given as a source or lying beside photos: what they hold, and the call that makes one
Parquet."""

from __future__ import annotations

import codecs
import csv
import json
from collections.abc import Collection, Iterator, Sequence
from pathlib import PurePosixPath
from typing import Final

from factory.files import shown
from pipelines.photos.beside import CONSENTS
from pipelines.photos.entries import faults_of, open_file

_CALLS: Final = {  # suffix -> how pandas reads such a file
    ".csv": 'read_csv("{file}"{how})',
    ".tsv": 'read_csv("{file}", sep="\\t"{how})',
    ".tab": 'read_csv("{file}", sep="\\t"{how})',
    ".txt": 'read_csv("{file}", names=["uri"], sep="\\t"{how})',  # a path or an address a line
    ".json": 'read_json("{file}")',
    ".jsonl": 'read_json("{file}", lines=True)',
    ".ndjson": 'read_json("{file}", lines=True)',
    ".xls": 'read_excel("{file}")',
    ".xlsx": 'read_excel("{file}")',
    ".ods": 'read_excel("{file}")',
    ".orc": 'read_orc("{file}")',
}
_PACKED: Final = (".gz", ".bz2", ".xz", ".zst")  # which pandas unpacks by the name
_PATHS: Final = frozenset(
    "file filename file_name filepath file_path path image image_path image_file img img_path photo photo_path".split()
)
_URLS: Final = frozenset("url image_url img_url photo_url link".split())
_NAMES: Final = frozenset("name full_name fullname person identity subject".split())
_HEAD: Final = 2**16  # bytes that are looked at
_LOOKED_AT: Final = 16  # files beside photos


def is_list(file: str) -> bool:
    """Whether a file is such a table, or may be one, by its name."""
    return _suffix(file) in _CALLS


def tells_of_others(file: str) -> bool:
    """Whether such a table may tell of photos beside it: most texts and objects of JSON tell of one photo each."""
    return is_list(file) and _suffix(file) not in (".txt", ".json")


def to_parquet(file: str) -> str:
    """How to write such a file as Parquet that is read here."""
    columns, how = columns_of(file)
    call = f"pandas.{_CALLS[_suffix(file)].format(file=shown(file), how=how)}"
    paths = [name for name in columns if name.strip().lower() in _PATHS]
    if paths and "uri" not in columns:
        call += f'.rename(columns={{"{paths[0]}": "uri"}})'
    stem = shown(file).removesuffix("".join(PurePosixPath(file).suffixes[-2 if _is_packed(file) else -1 :]))
    call += f'.to_parquet("{stem}.parquet")'
    text = f"write it so, with a column image (bytes) or uri, and optionally name and person: {call}"
    return "; ".join(filter(None, (text, to_download(columns))))


def to_download(columns: Collection[str]) -> str:
    """What downloads the photos of a table with these columns that lists addresses; empty if it lists none."""
    urls = [name for name in columns if name.strip().lower() in _URLS]
    if not urls or {"uri", "image"} & set(columns):
        return ""
    return f"img2dataset --url_col={urls[0]} --resize_mode=no downloads what it lists, into a folder that is read"


def told_of(lists: Sequence[str], read: Collection[str] = ()) -> Iterator[str]:
    """What to say of such tables that lie beside photos, where they are read by nobody and tell something of them; of
    those whose names are `read` (metadata.py), of consents alone."""
    for file in lists[:_LOOKED_AT]:
        plain = {name.strip().lower() for name in columns_of(file)[0]}
        if "consent" in plain or PurePosixPath(file).name.lower().startswith("consent"):
            yield f"{shown(file)} is not read: a list of who agreed to what is called {CONSENTS}"
        elif file not in read and _NAMES & plain and (_PATHS | {"uri"}) & plain:
            how = f"{to_parquet(file)}, and give that as --photos"
            yield f"{shown(file)} tells whose photos these are, which is read as Parquet alone; {how}"


def columns_of(file: str) -> tuple[list[str], str]:
    """The columns of a table of texts or of JSON, none if they are not known, and what pandas is told to read it."""
    suffix = _suffix(file)
    if suffix not in (".csv", ".tsv", ".tab", ".jsonl", ".ndjson") or _is_packed(file):
        return [], ""
    try:
        with open_file(file) as stream:
            data = stream.read(_HEAD)
    except faults_of(file):
        return [], ""
    is_wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    line = data.decode("utf-16" if is_wide else "utf-8-sig", errors="replace").partition("\n")[0].strip()
    how = ', encoding="utf-16"' if is_wide else ""
    if suffix in (".jsonl", ".ndjson"):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        return list(row) if isinstance(row, dict) else [], ""
    if suffix == ".csv" and ";" in line and "," not in line:
        return next(csv.reader([line], delimiter=";"), []), f', sep=";"{how}'
    return next(csv.reader([line], delimiter="," if suffix == ".csv" else "\t"), []), how


def _suffix(file: str) -> str:
    name = PurePosixPath(file.lower())
    return PurePosixPath(name.stem).suffix if _is_packed(file) else name.suffix


def _is_packed(file: str) -> bool:
    return file.lower().endswith(_PACKED)
