"""What files of a source are by their names, and which of them are its photos."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import PurePosixPath
from typing import Final

from factory.errors import SourceError
from factory.files import shown
from pipelines.photos.archives import SUFFIXES
from pipelines.photos.lakes import check_whole
from pipelines.photos.listing import Listed
from pipelines.photos.masks import OF_A_PHOTO, masks_among

_IMAGES: Final = frozenset(
    "jpg jpeg jpe jfif png webp tif tiff bmp gif avif heic heif jxl jp2 j2k jpf ppm pgm pbm pnm mpo tga ico psd exr "
    "dng cr2 cr3 nef nrw arw orf rw2 raf pef srw".split()
)
_TO_PARQUET: Final = (
    'write it so: datasets.load_from_disk("DIR").to_parquet("people.parquet") (split by split, if it has several), or '
    'pandas.read_feather("people.arrow").to_parquet("people.parquet"), with a column image (bytes) or uri'
)
_ARROW: Final = (".arrow", ".feather")
_PARQUET: Final = re.compile(r"\.(?:parquet|parq|pq)(?:\.(?:gz|gzip|snappy|zst|zstd|lz4|brotli))?$")  # as pandas' own
# examples call it (df.parquet.gzip), which says how its pages are packed
_MARKED: Final = re.compile(r"/_(?!.*/)|/_(?:temporary|delta_log|spark_metadata)/")  # what writers of Parquet keep for
# themselves: files that begin with _, and these folders


def kind_of(file: str) -> str:
    """parquet, archive, image or other."""
    low = file.lower()
    if _PARQUET.search(low):
        return "parquet"
    if low.endswith(SUFFIXES):
        return "archive"
    return "image" if PurePosixPath(low).suffix[1:] in _IMAGES else "other"


def sorted_out(listed: Listed) -> Listed:
    """What one source holds, its Parquet put apart where it is a data set: alone, or beside texts. Beside photos it is
    a list of them, and left out. Raises SourceError for tables whose files hold more than their rows (lakes.py)."""
    kinds = Counter(kind_of(file) for file in listed.files)
    parquet = [file for file in listed.files if kind_of(file) == "parquet"]
    arrow = [file for file in listed.files if file.lower().endswith(_ARROW)]
    if arrow and not (parquet or kinds["image"] or kinds["archive"]):
        raise SourceError(f"{shown(arrow[0])} is an Arrow table, which is read as Parquet alone; {_TO_PARQUET}")
    if parquet and not kinds["image"] and not kinds["archive"]:
        listed.tables = [file for file in parquet if not _MARKED.search(file)]
        if listed.tables:
            check_whole(listed.logs)
        listed.leave_out("beside Parquet", len(listed.files) - len(listed.tables))
        listed.files = []
    else:
        listed.leave_out("Parquet beside photos", len(parquet))
        files = [file for file in listed.files if kind_of(file) != "parquet"]
        masks = masks_among(files)
        listed.leave_out(OF_A_PHOTO, len(masks))
        listed.files = [file for file in files if file not in masks]
    return listed
