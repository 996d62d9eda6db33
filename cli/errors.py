"""How every command reports errors."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from cli.output import say

TRACEBACK = "IDENTITY_FACTORY_TRACEBACK"  # environment variable: errors of a user keep their traceback, too


@contextmanager
def user_errors() -> Iterator[None]:
    """What a user can mend is one line and exit status 1; anything else is our fault and keeps its traceback."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    try:
        yield
    except BrokenPipeError:  # whoever read the output has seen enough
        raise
    except RuntimeError as error:
        if "can't start new thread" not in str(error):
            raise
        say("error: no more threads or processes may be started here; raise the limit (ulimit -u)", error=True)
        raise typer.Exit(1) from None
    except (ValueError, LookupError, OSError, MemoryError) as error:
        if isinstance(error, (KeyError, IndexError)) or os.environ.get(TRACEBACK, "0") not in ("", "0"):
            raise
        if isinstance(error, UnicodeError):
            error = ValueError(f"a text that was given is not written in UTF-8 ({str(error)[:100]})")
        say(f"error: {str(error) or 'this machine has too little memory for it'}", error=True)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        say("stopped; what was finished is saved, the same command goes on from there", error=True)
        raise typer.Exit(130) from None
