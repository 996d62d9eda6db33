"""Which files of a source are its photos, where it holds several sorts: pictures, archives, tables.

Parquet is a data set where it is alone, beside texts, or beside pictures of the page that describes it. Beside photos
it may be a list of them or other photos: it is left out, and that is told.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from os.path import commonpath
from pathlib import PurePosixPath
from typing import Final
from urllib.parse import unquote

from factory.errors import SourceError
from factory.files import shown
from pipelines.photos.archives import FURTHER_PART, further_parts
from pipelines.photos.beside import few_of
from pipelines.photos.entries import faults_of, of_file, open_file
from pipelines.photos.lakes import check_whole
from pipelines.photos.listing import Listed
from pipelines.photos.masks import OF_A_PHOTO, masks_among, worn_among
from pipelines.photos.named import kind_of
from pipelines.photos.parquet import why_no_photos

_OF_A_PAGE: Final = "picture of a data set's page"  # as what it is left out
_TO_PARQUET: Final = (
    'write it so: datasets.load_from_disk("DIR").to_parquet("people.parquet") (split by split, if it has several), or '
    'pandas.read_feather("people.arrow").to_parquet("people.parquet"), with a column image (bytes) or uri'
)
_ARROW: Final = (".arrow", ".feather")
_MARKED: Final = re.compile(r"/_(?!.*/)|/_(?:temporary|delta_log|spark_metadata)/")  # what writers of Parquet keep for
# themselves: files that begin with _, and these folders
_FOLDERS: Final = frozenset(  # of pictures of a page
    "asset assets fig figs figure figures doc docs static preview previews sample samples example examples thumbnail "
    "thumbnails screenshot screenshots logo logos readme resources".split()
)
_STEM: Final = re.compile(  # of such a picture by itself
    r"(?:preview|thumb(?:nail)?|logo|icon|banner|teaser|overview|screenshot|figure|fig|header|social)[-_ .]?\d*"
)
_SHOWN: Final = re.compile(r"!\[[^\]]*\]\(\s*<?([^)\s>]+)|<img[^>]*?\ssrc\s*=\s*[\"']?([^\"'\s>]+)", re.IGNORECASE)
_MOST_SHOWN: Final = 32  # pictures of a folder of which a page shows some: of more it shows examples
_CARD: Final = 2**20  # bytes of a page that are read
_LOOKED_AT: Final = 16  # tables, to see whether there is one with pictures


def sorted_out(listed: Listed) -> Listed:
    """What one source holds, its Parquet put apart where it is a data set. Raises SourceError for tables whose files
    hold more than their rows (lakes.py), and for Arrow's own tables, which are not read."""
    by_kind: dict[str, list[str]] = {"parquet": [], "archive": [], "image": [], "other": []}
    for file in listed.files:
        by_kind[kind_of(file)].append(file)
    parquet, archives, pictures = by_kind["parquet"], by_kind["archive"], by_kind["image"]
    arrow = [file for file in listed.files if file.lower().endswith(_ARROW)]
    tables = [file for file in parquet if not _MARKED.search(file)]
    of_a_page = _of_a_page(pictures, parquet or arrow, archives, listed.cards)
    is_data_set = not archives and len(of_a_page) == len(pictures)
    if is_data_set and arrow and not parquet:
        raise SourceError(f"{shown(arrow[0])} is an Arrow table, which is read as Parquet alone; {_TO_PARQUET}")
    why = _why_no_photos(tables) if tables and (archives or pictures) else ""
    if parquet and is_data_set and not why:
        if tables:
            check_whole(listed.logs)
        listed.leave_out("beside Parquet", len(listed.files) - len(tables) - len(pictures))
        _leave_out_pictures(listed, of_a_page)
        listed.tables, listed.files, listed.lists = tables, [], []
        return listed
    if tables:
        listed.told.append(_told_of_tables(tables, why))
    listed.leave_out("Parquet beside photos", len(parquet))
    if archives:
        _leave_out_pictures(listed, of_a_page)
    else:  # these are all that there is, or some of many
        of_a_page = set()
    gone = of_a_page.union(parquet)
    files = [file for file in listed.files if file not in gone]
    parts = further_parts(files)
    listed.leave_out(FURTHER_PART, len(parts))
    files = [file for file in files if file not in parts]
    masks = masks_among(files)
    masks -= worn_among(masks, lambda file: of_file(file, file))
    listed.leave_out(OF_A_PHOTO, len(masks))
    if masks:
        listed.told.append(
            f"left out as masks or the like of a photo, by their names: {few_of(sorted(masks))}; rename what is none"
        )
    listed.files = [file for file in files if file not in masks]
    return listed


def _of_a_page(
    pictures: Sequence[str], tables: Sequence[str], archives: Sequence[str], cards: Sequence[str]
) -> set[str]:
    """Those pictures that surely are of the page that describes a data set of tables, by their folders and names, or
    as the page shows them; beside archives alone, which may be read together with photos, only what it shows."""
    if not pictures or not (tables or archives):
        return set()
    top = len(_parts(commonpath([_folder(file) for file in (*pictures, *tables, *archives)])))
    named = {file for file in pictures if tables and _is_named_so(file, top)}
    if len(named) == len(pictures):
        return named
    shown_by = dict(map(_shown_by, cards))
    seen = {file for file in pictures if any(_name(file) in shown_by.get(above, ()) for above in _folders_above(file))}
    if not tables:
        return named | seen
    in_all = Counter(map(_folder, pictures))
    few = {own for own in map(_folder, seen) if in_all[own] <= _MOST_SHOWN}
    return named | {file for file in pictures if _folder(file) in few}


def _is_named_so(picture: str, top: int) -> bool:
    *folders, name = _parts(picture.lower())[top:]
    return not _FOLDERS.isdisjoint(folders) or _STEM.fullmatch(PurePosixPath(name).stem) is not None


def _shown_by(card: str) -> tuple[str, set[str]]:
    """The folder of a page, and the names of the pictures that it shows."""
    try:
        with open_file(card) as stream:
            text = stream.read(_CARD).decode(errors="replace")
    except faults_of(card):
        text = ""
    urls = (match[1] or match[2] for match in _SHOWN.finditer(text))
    return _folder(card), {unquote(url.partition("?")[0].rpartition("/")[2]) for url in urls}


def _why_no_photos(tables: Sequence[str]) -> str:
    """Why none of some tables holds photos or names them, as the first says; empty if one does, or cannot be read."""
    faults = [why_no_photos(file) for file in tables[:_LOOKED_AT]]
    return "" if "" in faults else faults[0]


def _leave_out_pictures(listed: Listed, pictures: Iterable[str]) -> None:
    for folder, num in sorted(Counter(map(_folder, pictures)).items()):
        listed.leave_out(_OF_A_PAGE, num)
        listed.told.append(
            f"{num} of the pictures in {shown(folder)} were left out, as those of the page that describes a data set; "
            "if they are photos, give that folder as a --photos of its own, too"
        )


def _told_of_tables(tables: Sequence[str], why: str) -> str:
    which = shown(tables[0]) + (f" and {len(tables) - 1} more were" if len(tables) > 1 else " was")
    if why:
        return f"{which} left out beside photos: {why}"
    return (
        f"{which} left out, as photos lie beside, of which a table may be the list; if it holds others, give the table "
        "(or a folder of tables alone) as a --photos of its own, too"
    )


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part]


def _folder(file: str) -> str:
    return file.rpartition("/")[0]


def _folders_above(file: str) -> Iterator[str]:
    while folder := _folder(file):
        yield (file := folder)


def _name(file: str) -> str:
    return file.rpartition("/")[2]
