"""What a process finds when it is started: made such that nothing in it stumbles over what is missing."""

from __future__ import annotations

import errno
import io
import os
import pwd
import secrets
import signal
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from cli.output import say

_UNREAD: Final = (errno.EPIPE, errno.EIO)  # who read a pipe has had enough; a terminal was closed


def settle() -> None:
    """Where the locale knows no accents (LC_ALL=C with PYTHONUTF8=0), the program begins anew in Python's UTF-8 mode:
    names of files, of people and of options are UTF-8 everywhere. So it does where docstrings are left out
    (PYTHONOPTIMIZE=2), without which Ray does not run, and where warnings are errors, of which Ray has some.

    What is closed of the three standard files (`<&- >&-`, some cron) leads nowhere: else the next file that is opened
    would take its number, and what C++ prints. What is printed for nobody any more (`| head -1`) is dropped, and the
    work goes on to its end. A user id without a name (`docker run --user 1042`) gets one, as libraries ask who that is
    and where at home; and who has another user's home (`su` without -, `docker run --user` with a HOME) has none.
    """
    if sys.getfilesystemencoding() != "utf-8" and os.environ.get("PYTHONUTF8") != "1":  # -I and -X utf8=0 outdo it
        _begin_anew("PYTHONUTF8", "1")
    if sys.flags.optimize > 1 and os.environ.get("PYTHONOPTIMIZE") != "1":  # -OO outdoes it
        _begin_anew("PYTHONOPTIMIZE", "1")
    if any(option.startswith("error") for option in sys.warnoptions) and os.environ.get("PYTHONWARNINGS"):
        _begin_anew("PYTHONWARNINGS", "")
    if not os.environ.get("COLUMNS", "80").strip("0").isdecimal():
        del os.environ["COLUMNS"]  # 0, as some terminals without a size have: help would be empty
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the least number that is free
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:  # as Python leaves what is closed
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w"))  # noqa: SIM115 (as long as the program)
        elif name != "stdin" and isinstance(stream := getattr(sys, name), io.TextIOWrapper):
            setattr(sys, name, _dropped_where_unread(stream))
    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        os.environ.setdefault("USER", f"user{os.getuid()}")
        os.environ.setdefault("HOME", tempfile.gettempdir())
    if not _may_look_into(Path.home()):
        os.environ["HOME"] = tempfile.gettempdir()
    _hold_token()


class _Standard(io.FileIO):
    """A standard output; what is written once nobody reads it any more leads nowhere. Of errors and notes (2) nothing
    that cannot be written, as on a full disk, ends the work."""

    def write(self, data: Any) -> int:
        """As a file's."""
        try:
            return super().write(data)
        except OSError as error:
            if error.errno in _UNREAD:
                _lead_nowhere(self.fileno())
            elif self.fileno() != 2:
                raise
            return memoryview(data).nbytes


def _dropped_where_unread(stream: io.TextIOWrapper) -> io.TextIOWrapper:
    """A standard output like this one, that stays usable where its reader goes."""
    raw = _Standard(stream.fileno(), "wb", closefd=False)
    unbuffered = isinstance(stream.buffer, io.RawIOBase)
    return io.TextIOWrapper(
        raw if unbuffered else io.BufferedWriter(raw),  # as Python itself does
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


def _lead_nowhere(number: int) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, number)
    os.close(nowhere)


def _hold_token() -> None:
    """Local clusters of Ray ask for a token, which Ray keeps in the home folder. Where nothing can be written there
    (HOME=/ of containers without a user, a read-only file system) it lives as long as the program."""
    kept = Path.home() / ".ray" / "auth_token"
    local = os.environ.get("RAY_ADDRESS", "") in ("", "local") and "RAY_AUTH_TOKEN_PATH" not in os.environ
    if local and not _can_keep(kept):
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


def _can_keep(file: Path) -> bool:
    """Whether a file can be read, or made where it is not there yet."""
    if not _may_look_into(file.parent):
        return False
    nearest = next(path for path in (file, *file.parents) if path.exists())
    return os.access(nearest, os.R_OK if nearest == file else os.W_OK)


def _may_look_into(folder: Path) -> bool:
    """Whether what is in a folder can be asked for; also of one that is not there."""
    try:
        (folder / "any").stat()
    except OSError as error:
        return not isinstance(error, PermissionError)
    return True


def _begin_anew(variable: str, value: str) -> None:
    os.environ[variable] = value  # of Ray's workers, too
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def finish() -> None:
    """What was printed is written; where it cannot be, as on a full disk, the program ends with status 1."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # pressed once more it would only disturb how Ray ends
    try:
        sys.stdout.flush()
    except OSError as error:
        _lead_nowhere(sys.stdout.fileno())  # Python writes what is left at its end, and would tell of it once more
        with suppress(OSError):
            say(f"error: {error}", error=True)
        raise SystemExit(1) from None
