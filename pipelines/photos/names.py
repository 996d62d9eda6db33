"""What photos are called: by their file, and where several files are called alike by as much of their path as tells
them apart."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Container, Sequence
from pathlib import PurePosixPath
from typing import Final

from factory.files import shown
from pipelines.photos.named import is_never_read

OF_A_FACE: Final = re.compile(r"(.+)-[1-9][0-9]*")  # how faces after the first are called (factory/ids.py)

_Parts = tuple[str, ...]  # of a path


def text_name(text: str) -> str:
    """A name as it is stored: text, composed (NFC), as keyboards write it and not as some file systems store it."""
    return unicodedata.normalize("NFC", shown(text))


def unique_names(paths: Sequence[str]) -> list[str]:
    """A name for each of these paths: "ada"; "Ada Lovelace/1" beside "Grace Hopper/1"; "a.jpg" beside "a.png". No name
    is also that of a second face of another: "x/ada-1" beside "ada". Paths that are alike (members of an archive), or
    are so but for how their letters are composed, are told apart by a number: "ada (2)". What is never read, such as
    raw files and videos beside their pictures, takes no name from what may be: "ada.cr3" beside "ada" for ada.jpg."""
    every = [tuple(text_name(part) for part in PurePosixPath(path).parts if part != "/") for path in paths]
    whole = list(dict.fromkeys(every))
    photos = [parts for parts in whole if not is_never_read(parts[-1])]
    others = [parts for parts in whole if is_never_read(parts[-1])]
    called = dict(zip(photos, _names(photos), strict=True))
    called |= dict(zip(others, _names(others, set(called.values())), strict=True))
    taken, names, num = set(called.values()), list[str](), Counter[_Parts]()
    for path in every:
        num[path] += 1
        name = called[path]
        while num[path] > 1 and (name := f"{called[path]} ({num[path]})") in taken:
            num[path] += 1
        taken.add(name)
        names.append(name)
    return names


def _names(whole: Sequence[_Parts], taken: Collection[str] = ()) -> list[str]:
    """Of paths that all differ, by their parts; none is one of those `taken`."""
    stems = [(*parts[:-1], PurePosixPath(parts[-1]).stem or parts[-1]) for parts in whole]
    num = Counter(stems)
    entire = {path for path, stem in zip(whole, stems, strict=True) if num[stem] > 1}  # "a.cr3" and "a.jpg", so that
    # "a.cr3.jpg" cannot be called by its stem
    parts = [
        stem if num[stem] == 1 and stem not in entire and stem[-1] not in taken else path
        for stem, path in zip(stems, whole, strict=True)
    ]
    lengths = [1] * len(parts)
    names = [path[-1] for path in parts]
    unclear = list(range(len(parts)))
    while unclear:
        num_called = Counter(names)
        unclear = [
            row
            for row in unclear
            if (num_called[names[row]] > 1 or names[row] in taken or _is_as_a_face(names[row], num_called))
            and lengths[row] < len(parts[row])
        ]
        for row in unclear:
            lengths[row] += 1
            names[row] = "/".join(parts[row][-lengths[row] :])
    return names


def _is_as_a_face(name: str, others: Container[str]) -> bool:
    """Whether it is what a second face of another's photo is called."""
    face = OF_A_FACE.fullmatch(name)
    return face is not None and face[1] in others
