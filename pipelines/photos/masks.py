"""Masks, depths and the like beside the photos that they are of: masks/a.png beside images/a.jpg, a_mask.png or
a.mask.png (of a sample of WebDataset) beside a.jpg. They show nobody, and would take the photo's name from it.

What is called a mask is looked at: it may be a photo of somebody who wears one."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import PurePosixPath
from typing import Final

import numpy as np
from PIL import Image

from pipelines.photos.entries import Entry

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

_MAYBE_WORN: Final = re.compile(r"(?:^|[/._-])masks?(?:/|\.[^/.]*$|$)", re.IGNORECASE)
_OF_PHONES: Final = (".heic", ".heif")  # which hold photos alone
_GREY: Final = ("1", "L", "LA", "P", "PA", "I", "I;16", "F")  # Pillow's modes that no colour photo has
_MOST: Final = 2**26  # bytes of a file that is looked at
_LOOKED_AT_PX: Final = 64
_MOST_COLOURS: Final = 40  # of 16 levels a channel, in a mask of classes, also as a JPEG; of a photo some hundreds
_LEAST_COLOURED: Final = 0.05  # share of pixels
_COLOURED: Final = 24  # of 255, between channels

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


def worn_among(masks: Iterable[str], entry_of: Callable[[str], Entry]) -> set[str]:
    """Those of these that are called masks alone, and are colour photos: of people who wear one."""
    called = [path for path in masks if _MAYBE_WORN.search(path)]
    with ThreadPoolExecutor(16) as threads:
        are_photos = threads.map(lambda path: _is_photo(path, entry_of(path)), called)
        return {path for path, is_photo in zip(called, are_photos, strict=True) if is_photo}


def _is_photo(path: str, file: Entry) -> bool:
    """Whether it has colours, and many. What cannot be decoded is what it is called."""
    if path.lower().endswith(_OF_PHONES):
        return True
    try:
        data = file.read(_MOST)
        if data is None:
            return False
        with Image.open(BytesIO(data)) as image:
            if image.mode in _GREY:
                return False
            image.draft("RGB", (_LOOKED_AT_PX, _LOOKED_AT_PX))  # of a JPEG an eighth is decoded
            small = image.convert("RGB").resize((_LOOKED_AT_PX, _LOOKED_AT_PX), Image.Resampling.NEAREST)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False
    pixels = np.asarray(small, int).reshape(-1, 3)
    coloured = (np.ptp(pixels, axis=1) > _COLOURED).mean()
    return bool(coloured > _LEAST_COLOURED) and len(np.unique(pixels // 16, axis=0)) > _MOST_COLOURS


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
