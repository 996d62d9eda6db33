"""Why Ray's processes may not come up on this machine: its folder, and the limits of the shell. Knows no Ray itself."""

from __future__ import annotations

import os
import pwd
import resource
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Final

_FEW_BYTES: Final = 2**35  # of a file, and of memory that is mapped: Ray's processes map more than they use
_FEW_PROCESSES: Final = 1000
_FEW_FREE: Final = 2**24  # bytes of a disk
_SOCKET_BYTES: Final = 107  # of a socket's path, on Linux
_OF_RAY: Final = len("/ray/session_2026-11-30_09-01-27_123456_1234567/sockets/plasma_store")  # behind its folder
_ROOM: Final = _SOCKET_BYTES - _OF_RAY


def ray_folder() -> str:
    """The folder below which Ray keeps sockets and logs: RAY_TMPDIR, else TMPDIR, as Ray itself has it; or /tmp where
    TMPDIR will not do, as a batch system's that is longer than a socket's path may be, or one that is gone."""
    if own := os.environ.get("RAY_TMPDIR"):
        return str(Path(own).absolute())
    folder = str(Path(os.environ.get("TMPDIR") or "/tmp").absolute())
    does = len(os.fsencode(folder)) <= _ROOM and _is_writable(folder)
    return folder if does or not _is_writable("/tmp") else "/tmp"


def set_ray_folder() -> None:
    """Has Ray keep to `ray_folder`, as it knows only what is in the environment, and takes what is empty or relative
    there for the current folder."""
    if os.environ.keys() & {"RAY_TMPDIR", "TMPDIR"}:
        os.environ["RAY_TMPDIR"] = ray_folder()


def _is_writable(folder: str) -> bool:
    return os.access(f"{folder}/.", os.W_OK | os.X_OK)


def why_not(error: BaseException | None = None) -> str:
    """What may be why Ray did not start, as ": cause and remedy"; empty if nothing is seen."""
    folder, text = ray_folder(), str(error)
    if "AF_UNIX path length" in text:
        long = f"{folder} is too long for Ray's sockets below it, whose paths have at most {_SOCKET_BYTES} bytes"
        return f": {long}: set RAY_TMPDIR to a folder of at most {_ROOM} letters"
    if isinstance(error, PermissionError) and "/ray" in text:  # /tmp/ray is whose it is who was first
        said = _owned_by_others(Path(folder, "ray")) or _line(text)
        return f": {said}; set RAY_TMPDIR to a folder of your own, of at most {_ROOM} letters"
    if _free(folder) < _FEW_FREE:
        return f": the disk of {folder} is full: free some space, or set RAY_TMPDIR to a folder on another one"
    return _limited()


def _owned_by_others(folder: Path) -> str:
    """Whose folder it is, if not this user's; else empty."""
    try:
        uid = folder.stat().st_uid
    except OSError:
        return ""
    if uid == os.geteuid():
        return ""
    try:
        whose = pwd.getpwuid(uid).pw_name
    except KeyError:
        whose = f"user {uid}"
    return f"{folder} belongs to {whose}, who used Ray here before, and this user may not write there"


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
