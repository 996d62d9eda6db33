"""Stages that photos can kill, for tests: what a native crash does to the process that decodes a file."""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import Any

import pyarrow as pa

from pipelines.photos.faces import FindFaces


def obey(data: bytes) -> None:
    """Dies or hangs as these bytes say; anything else is harmless."""
    if data == b"exit":
        os._exit(3)
    if data == b"segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    if data == b"killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if data == b"hang":
        time.sleep(3600)


class Doubler:
    """Doubles numbers; a row's `image` may kill it. `log` gets a line for each child and each row."""

    def __init__(self, log: str) -> None:
        self.log = log
        self._write("start")

    def __call__(self, batch: pa.Table) -> pa.Table:
        for row in batch.to_pylist():
            self._write(str(row["n"]))
            if row["image"] == b"bug":
                raise ValueError("a bug in the stage")
            obey(row["image"])
        return pa.table({"n": [2 * row["n"] for row in batch.to_pylist()]})

    def _write(self, line: str) -> None:
        with open(self.log, "a") as file:
            file.write(line + "\n")


def told(row: pa.Table, detail: str) -> pa.Table:
    """What Doubler's poisoned row becomes."""
    assert row.num_rows == 1 and detail
    return pa.table({"n": [-1 - row["n"][0].as_py()]})


class Loaded:
    """Tells which modules its process has loaded."""

    def __call__(self, batch: pa.Table) -> pa.Table:
        return pa.table({"module": sorted(sys.modules)})


class Obedient:
    """Finds no face in a photo, but may be killed by it."""

    def __call__(self, photo: tuple[bytes, str]) -> list[Any]:
        obey(photo[0])
        return []


class NeverStarts:
    """Dies while it loads."""

    def __init__(self) -> None:
        os._exit(7)

    def __call__(self, batch: pa.Table) -> pa.Table:
        return batch


class PoisonFinder(FindFaces):
    """The real one, but a photo of these bytes kills it."""

    def _find(self, row: dict[str, Any]) -> dict[str, Any]:
        obey(row["image"])
        return super()._find(row)
