"""How every command reports errors."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer

TRACEBACK = "IDENTITY_FACTORY_TRACEBACK"  # environment variable: errors of a user keep their traceback, too


@contextmanager
def user_errors() -> Iterator[None]:
    """What a user can mend is one line and exit status 1; anything else is our fault and keeps its traceback."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    try:
        yield
    except (ValueError, LookupError, OSError) as error:
        if isinstance(error, (KeyError, IndexError, UnicodeError)) or os.environ.get(TRACEBACK, "0") not in ("", "0"):
            raise
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        print("stopped; what was finished is saved, the same command goes on from there", file=sys.stderr)
        raise typer.Exit(130) from None
