"""The command line with a face finder that writes down each photo it starts, and dies of poison.

What is started is what a killed job loses; what is started again is what the next one does anew.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any, Final

import pipelines.prepare
from benchmarks.soak_photos import POISON
from cli.__main__ import app
from pipelines.photos.faces import FindFaces

LOG: Final = "SOAK_STARTED"  # environment variable: the file that gets a line "photo_id" for each photo started
MAIN: Final = "from benchmarks.soak_stage import main; main()"  # for `python -c`: a child must find the class by name


class WatchedFinder(FindFaces):
    """The real one, watched."""

    def _find(self, row: dict[str, Any]) -> dict[str, Any]:
        with Path(os.environ[LOG]).open("a") as stream:  # one short write: whole lines from any number of processes
            stream.write(f"{row['photo_id']}\n")
        data = row["image"] or b""
        if data.startswith(POISON):
            way = int(data.removeprefix(POISON)) // 50 % 3
            if way == 0:
                os._exit(3)
            os.kill(os.getpid(), signal.SIGSEGV if way == 1 else signal.SIGKILL)
        return super()._find(row)


def main() -> None:
    """`identity-factory`, but `prepare` uses the watched finder."""
    pipelines.prepare.FindFaces = WatchedFinder  # type: ignore[attr-defined]
    app()
