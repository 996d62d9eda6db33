"""What files of a source are by their names, and which of them are its photos."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import PurePosixPath
from typing import Final

from pipelines.photos.archives import SUFFIXES
from pipelines.photos.lakes import check_whole
from pipelines.photos.listing import Listed

_IMAGES: Final = frozenset(
    "jpg jpeg jpe jfif png webp tif tiff bmp gif avif heic heif jxl jp2 j2k jpf ppm pgm pbm pnm mpo tga ico psd exr "
    "dng cr2 cr3 nef nrw arw orf rw2 raf pef srw".split()
)
_MARKED: Final = re.compile(r"/_(?!.*/)|/_(?:temporary|delta_log|spark_metadata)/")  # what writers of Parquet keep for
# themselves: files that begin with _, and these folders


def kind_of(file: str) -> str:
    """parquet, archive, image or other."""
    low = file.lower()
    if low.endswith(".parquet"):
        return "parquet"
    if low.endswith(SUFFIXES):
        return "archive"
    return "image" if PurePosixPath(low).suffix[1:] in _IMAGES else "other"


def sorted_out(listed: Listed) -> Listed:
    """What one source holds, its Parquet put apart where it is a data set: alone, or beside texts. Beside photos it is
    a list of them, and left out. Raises SourceError for tables whose files hold more than their rows (lakes.py)."""
    kinds = Counter(kind_of(file) for file in listed.files)
    parquet = [file for file in listed.files if kind_of(file) == "parquet"]
    if parquet and not kinds["image"] and not kinds["archive"]:
        listed.tables = [file for file in parquet if not _MARKED.search(file)]
        if listed.tables:
            check_whole(listed.logs)
        listed.leave_out("beside Parquet", len(listed.files) - len(listed.tables))
        listed.files = []
    else:
        listed.leave_out("Parquet beside photos", len(parquet))
        listed.files = [file for file in listed.files if kind_of(file) != "parquet"]
    return listed
