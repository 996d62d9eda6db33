"""Masks, depths and the like beside the photos that they are of: masks/a.png beside images/a.jpg, a_mask.png or
a.mask.png (of a sample of WebDataset) beside a.jpg. They show nobody, and would take the photo's name from it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath
from typing import Final

OF_A_PHOTO: Final = "mask or the like of a photo"  # as what it is left out
_FOLDERS: Final = frozenset(
    "mask masks matte mattes alpha alphas seg segs segmentation segmentations labels parsing depth depths normals "
    "conditioning".split()
)
_OF_PHOTOS: Final = frozenset(  # only beside one of these: people's folders may be called Alpha, with a 1.jpg in each
    "image images img imgs photo photos picture pictures rgb color jpg jpgs jpeg jpegs original originals input inputs "
    "target targets".split()
)
_STEM: Final = re.compile(
    r"(.+)[._-](?:mask|matte|alpha|seg|segmentation|label|parsing|depth|normals|conditioning)", re.IGNORECASE
)
_AS_A_LOOK: Final = re.compile(r"(.+)[._-]normal", re.IGNORECASE)  # of a face, too, beside ada_smiling.jpg
_PHOTOS: Final = frozenset(".jpg .jpeg .jpe .jfif .heic .heif .avif .gif".split())  # suffixes that no normals have
_ENDS: Final = ("", *(f"{mark}{end}" for mark in "._-" for end in ("image", "img", "rgb", "photo", "input")))

_Parts = tuple[str, ...]


def masks_among(paths: Iterable[str]) -> set[str]:
    """Those of these paths (of files, or of members of one archive) that are a mask of another one's picture."""
    split = {path: _parts(path) for path in paths}
    other = {path: match[1] for path, parts in split.items() if (match := _of_another(path, parts[-1]))}
    stems, photos = set(split.values()), set[tuple[_Parts, _Parts]]()
    for parts in stems:
        photos.update(_around(parts, _OF_PHOTOS))
    return {
        path
        for path, parts in split.items()
        if any(place in photos for place in _around(parts, _FOLDERS))
        or (path in other and any((*parts[:-1], other[path] + end) in stems for end in _ENDS))
    }


def _of_another(path: str, stem: str) -> re.Match[str] | None:
    """Whether a file is called as a mask of another, by its suffix as well."""
    may_be_a_look = PurePosixPath(path).suffix.lower() in _PHOTOS
    return _STEM.fullmatch(stem) or (None if may_be_a_look else _AS_A_LOOK.fullmatch(stem))


def _parts(path: str) -> _Parts:
    """Folders, and the name without its suffix."""
    whole = PurePosixPath(path)
    return (*whole.parts[:-1], whole.stem)


def _around(parts: _Parts, names: frozenset[str]) -> Iterator[tuple[_Parts, _Parts]]:
    """What stands before and behind each folder of one of these names."""
    for number, folder in enumerate(parts[:-1]):
        if folder.lower() in names:
            yield parts[:number], parts[number + 1 :]
