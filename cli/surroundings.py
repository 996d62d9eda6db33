"""What a process finds when it is started: made such that nothing in it stumbles over what is missing."""

from __future__ import annotations

import os
import pwd
import secrets
import signal
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from cli.output import say


def settle() -> None:
    """Where the locale knows no accents (LC_ALL=C with PYTHONUTF8=0), the program begins anew in Python's UTF-8 mode:
    names of files, of people and of options are UTF-8 everywhere. So it does where docstrings are left out
    (PYTHONOPTIMIZE=2), without which Ray does not run, and where warnings are errors, of which Ray has some.

    What is closed of the three standard files (`<&- >&-`, some cron) leads nowhere: else the next file that is opened
    would take its number, and what C++ prints. A user id without a name (`docker run --user 1042`) gets one, as
    libraries ask who that is and where at home; and who has another user's home (`su` without -, `docker run --user`
    with a HOME) has none.
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
    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        os.environ.setdefault("USER", f"user{os.getuid()}")
        os.environ.setdefault("HOME", tempfile.gettempdir())
    if not _may_look_into(Path.home()):
        os.environ["HOME"] = tempfile.gettempdir()
    _hold_token()


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
    """What was printed is written; where it cannot be, as on a full disk, the program ends with status 1. Whoever has
    read enough of a pipe is no error."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # pressed once more it would only disturb how Ray ends
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _give_up()
    except OSError as error:
        _give_up()
        with suppress(OSError):
            say(f"error: {error}", error=True)
        raise SystemExit(1) from None


def _give_up() -> None:
    """Python writes what is left at its end, and would tell of the error once more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
