"""Why Ray's processes may not come up on this machine: its folder, and the limits of the shell. Knows no Ray itself."""

from __future__ import annotations

import os
import resource
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Final

_FEW_BYTES: Final = 2**35  # of a file, and of memory that is mapped: Ray's processes map more than they use
_FEW_PROCESSES: Final = 1000
_FEW_FREE: Final = 2**24  # bytes of a disk


def why_not(error: BaseException | None = None) -> str:
    """What may be why Ray did not start, as ": cause and remedy"; empty if nothing is seen."""
    folder, text = os.environ.get("RAY_TMPDIR") or "/tmp", str(error)
    if "AF_UNIX path length" in text:
        return f": RAY_TMPDIR={folder} is too long for the sockets below it: set it to a folder of some 40 letters"
    if isinstance(error, PermissionError) and "/ray" in text:  # /tmp/ray is whose it is who was first
        return f": {_line(text)}; set RAY_TMPDIR to a folder of your own, of a short path"
    if _free(folder) < _FEW_FREE:
        return f": the disk of {folder} is full: free some space, or set RAY_TMPDIR to a folder on another one"
    return _limited()


def _free(folder: str) -> int:
    for place in (Path(folder).absolute(), *Path(folder).absolute().parents):
        with suppress(OSError):  # not there yet, or another user's
            return shutil.disk_usage(place).free
    return 0


def _limited() -> str:
    limits = (
        ("ulimit -f", resource.RLIMIT_FSIZE),
        ("ulimit -v", resource.RLIMIT_AS),
        ("ulimit -u", resource.RLIMIT_NPROC),
    )
    now = [(name, resource.getrlimit(limit)[0]) for name, limit in limits]
    low = [name for name, value in now if 0 <= value < (_FEW_PROCESSES if name == "ulimit -u" else _FEW_BYTES)]
    return f": raise the limits of this shell ({', '.join(low)})" if low else ""


def _line(text: str) -> str:
    return text.strip().partition("\n")[0][:300]
