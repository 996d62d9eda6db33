"""Whether SRC is there at all, asked where one of its photos cannot be read.

A share that was unmounted, a session that is over, a node that has no such folder are no fault of thousands of photos:
the job ends, and the same command goes on, instead of refusing all that is left.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Final

from factory.errors import SourceError
from factory.files import shown
from factory.reach import check_stores
from factory.storage import PHOTOS_STORAGE, scheme_of

_EACH_S: Final = 10.0  # a store is asked so often at most, however many photos cannot be read
_TRIES: Final = 3  # one answer of a busy store is no proof
_WAIT_S: Final = 2.0  # between them


def check_sources(sources: Iterable[str]) -> None:
    """Raises SourceError, or OSError of a store, with the remedy, if one of SRC, absolute paths or uris, is not there,
    on this node and now."""
    for src in sources:
        if scheme_of(src):
            _asked(src, int(time.monotonic() / _EACH_S))
        elif fault := _fault(Path(src)):
            raise SourceError(
                f"{shown(src)} {fault} on {socket.gethostname()} any more: mount it, or put it back; "
                "then the same command goes on where it was"
            )


def _fault(src: Path) -> str:
    """What is wrong with a file or folder as a whole; empty if nothing is. What was mounted leaves an empty folder."""
    try:
        if src.is_dir():
            with os.scandir(src) as entries:
                return "" if next(entries, None) else "holds nothing"
        src.stat()
    except PermissionError:
        return ""
    except OSError:
        return "is not there"
    return ""


@lru_cache(maxsize=64)
def _asked(src: str, period: int) -> None:
    for _ in range(_TRIES - 1):
        try:
            check_stores([src], by=PHOTOS_STORAGE)
        except OSError:
            time.sleep(_WAIT_S)
        else:
            return
    check_stores([src], by=PHOTOS_STORAGE)
