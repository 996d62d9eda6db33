"""What photos are called: by their file, and where several files are called alike by as much of their path as tells
them apart."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Final

from factory.files import shown

OF_A_FACE: Final = re.compile(r"(.+)-[1-9][0-9]*")  # how faces after the first are called (factory/ids.py)


def text_name(text: str) -> str:
    """A name as it is stored: text, composed (NFC), as keyboards write it and not as some file systems store it."""
    return unicodedata.normalize("NFC", shown(text))


def unique_names(paths: Sequence[str]) -> list[str]:
    """A name for each of these paths: "ada"; "Ada Lovelace/1" beside "Grace Hopper/1"; "a.jpg" beside "a.png". No name
    is also that of a second face of another: "x/ada-1" beside "ada". Paths that are alike (members of an archive), or
    are so but for how their letters are composed, are told apart by a number: "ada (2)"."""
    every = [tuple(text_name(part) for part in PurePosixPath(path).parts if part != "/") for path in paths]
    whole = list(dict.fromkeys(every))
    called = dict(zip(whole, _names(whole), strict=True))
    taken, names, num = set(called.values()), list[str](), Counter[tuple[str, ...]]()
    for path in every:
        num[path] += 1
        name = called[path]
        while num[path] > 1 and (name := f"{called[path]} ({num[path]})") in taken:
            num[path] += 1
        taken.add(name)
        names.append(name)
    return names


def _names(whole: Sequence[tuple[str, ...]]) -> list[str]:
    """Of paths that all differ, by their parts."""
    stems = [(*parts[:-1], PurePosixPath(parts[-1]).stem or parts[-1]) for parts in whole]
    num = Counter(stems)
    parts = [stem if num[stem] == 1 else path for stem, path in zip(stems, whole, strict=True)]
    lengths = [1] * len(parts)
    names = [path[-1] for path in parts]
    unclear = list(range(len(parts)))
    while unclear:
        num_called = Counter(names)
        unclear = [
            row
            for row in unclear
            if (num_called[names[row]] > 1 or ((face := OF_A_FACE.fullmatch(names[row])) and face[1] in num_called))
            and lengths[row] < len(parts[row])
        ]
        for row in unclear:
            lengths[row] += 1
            names[row] = "/".join(parts[row][-lengths[row] :])
    return names
