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
        told = _of_a_table(error) or "this machine has too little memory for it"
        say(f"error: {told}", error=True)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        say("stopped; what was finished is saved, the same command goes on from there", error=True)
        raise typer.Exit(130) from None


def _of_a_table(error: Exception) -> str:
    """What to do where a table could not be read or written, as on a full disk; of anything else its own text."""
    from factory.store.whole import damage_in, plain

    if damage := damage_in(error):
        return str(damage)
    text = plain(str(error))
    if "LanceError" not in text:
        return text
    from pipelines.jobs.journal import remedy_of

    remedy = remedy_of(error)
    return f"{remedy}, then run the same command again ({text[:300]})" if remedy else text
