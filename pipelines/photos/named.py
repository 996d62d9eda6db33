"""What files of a source are by their names."""

from __future__ import annotations

import re
from posixpath import splitext
from typing import Final

from pipelines.photos.archives import SUFFIXES

_READ: Final = frozenset(
    "jpg jpeg jpe jfif png webp tif tiff bmp gif avif heic heif jxl jp2 j2k jpf ppm pgm pbm pnm mpo".split()
)
_RAWS: Final = frozenset(
    "dng cr2 cr3 crw nef nrw arw srf sr2 orf rw2 raf pef srw x3f iiq 3fr fff mef mos mrw kdc dcr erf rwl raw".split()
)
_PICTURES: Final = frozenset("tga ico psd psb exr hdr xcf dds svg jxr".split())  # of kinds that are not read
_OTHERS: Final = frozenset(  # videos, also of live photos; sounds; documents; archives
    "mov mp4 m4v avi mkv 3gp mts m2ts webm wmv mpg mpeg insv lrv m4a mp3 wav aac amr opus pdf ai eps doc docx odt "
    "ppt pptx zip tar 7z rar gz tgz bz2 xz zst".split()
)
_IMAGES: Final = _READ | _RAWS | _PICTURES
_NEVER_READ: Final = _RAWS | _PICTURES | _OTHERS
_PARQUET: Final = re.compile(r"\.(?:parquet|parq|pq)(?:\.(?:gz|gzip|snappy|zst|zstd|lz4|brotli))?$")  # as pandas' own
# examples call it (df.parquet.gzip), which says how its pages are packed


def kind_of(file: str) -> str:
    """parquet, archive, image or other."""
    low = file.lower()
    if _PARQUET.search(low):
        return "parquet"
    if low.endswith(SUFFIXES):
        return "archive"
    return "image" if _suffix(low) in _IMAGES else "other"


def is_never_read(file: str) -> bool:
    """Whether a file is of a kind that gives no photo, such as a raw file or a video, if its suffix is right."""
    return _suffix(file.lower()) in _NEVER_READ


def _suffix(low: str) -> str:
    return splitext(low)[1][1:]
