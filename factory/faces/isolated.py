"""A stage in a child process of its own, because a file can kill the process that decodes it.

The actor stays alive and knows which rows its child was at. It gives them to a new child one by one; a row that kills
a child which has done nothing else is the poison, and gets a row that says so. Ray's own retries would give the same
batch to the same code for ever.
"""

from __future__ import annotations

import multiprocessing
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from types import ModuleType
from typing import Any, TypeAlias

import pyarrow as pa

Stage: TypeAlias = Callable[..., Callable[[pa.Table], pa.Table]]  # a class whose objects turn a batch into another


class Isolated:
    """Runs `stage(*arguments)` in a child; `poisoned(row, detail)` gives the output of a row that kills it."""

    def __init__(
        self,
        stage: Stage,
        arguments: Sequence[Any],
        poisoned: Callable[[pa.Table, str], pa.Table],
        max_row_s: float,
    ) -> None:
        """`max_row_s` is how long a row may take, in seconds, before its child is given up as hanging.

        A batch may take no longer either: one that hangs is noticed soon, one that is only slow is done row by row.
        """
        self._stage, self._arguments = stage, arguments
        self._poisoned, self._max_row_s = poisoned, max_row_s
        self._child = _Child(stage, arguments)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """The stage's output for a batch. Raises what the stage raises."""
        return self._run(batch)  # Ray Data runs __call__ in a thread of its own, so it must not call itself

    def _run(self, batch: pa.Table) -> pa.Table:
        was_fresh = self._child.num_batches == 0
        try:
            return self._child.run(batch, self._max_row_s)
        except _ChildDied as death:
            self._child = _Child(self._stage, self._arguments)
            if batch.num_rows > 1:
                # one by one rather than in halves: two children are lost for a poison, not one for each halving
                return pa.concat_tables([self._run(batch.slice(row, 1)) for row in range(batch.num_rows)])
            return self._poisoned(batch, str(death)) if was_fresh else self._run(batch)


class _ChildDied(Exception):
    """How it ended."""


class _Child:
    def __init__(self, stage: Stage, arguments: Sequence[Any]) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, other = context.Pipe()
        self._process: SpawnProcess = context.Process(target=_work, args=(other, stage, arguments), daemon=True)
        with _no_main():
            self._process.start()
        other.close()  # so that a dead child ends what is read here
        self.num_batches = 0
        try:
            answer = self._connection.recv()
        except EOFError:
            raise RuntimeError(f"a worker's process cannot start: it {self._end()}") from None
        if isinstance(answer, Exception):
            raise answer

    def run(self, batch: pa.Table, limit_s: float) -> pa.Table:
        """The child's answer; raises _ChildDied, or what the stage raised."""
        self.num_batches += 1
        try:
            self._connection.send(packed(batch))
            if not self._connection.poll(limit_s):
                self._end()
                raise _ChildDied(f"gave no answer in {limit_s:g} s")
            answer = self._connection.recv()
        except (EOFError, OSError):
            raise _ChildDied(self._end()) from None
        if isinstance(answer, Exception):
            raise answer
        assert isinstance(answer, pa.Table)
        return answer

    def _end(self) -> str:
        self._process.join(5.0)  # one that hangs is killed
        self._process.kill()
        self._process.join()
        self._connection.close()
        code = self._process.exitcode or 0
        if code >= 0:
            return f"ended with status {code}"
        by_whom = " (by the system if memory ran out)" if -code == signal.SIGKILL else ""
        return f"was killed by {signal.Signals(-code).name}{by_whom}"


def packed(batch: pa.Table) -> bytes:
    """A table in Arrow's stream format. A pickled slice would carry all of the block that it was cut from."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as stream:
        stream.write_table(batch)
    return bytes(sink.getvalue())


@contextmanager
def _no_main() -> Iterator[None]:
    """A spawned child runs its parent's main module again: that is Ray's worker, a second and 100 MB for nothing."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _work(connection: Connection, stage: Stage, arguments: Sequence[Any]) -> None:
    """What the child does until its parent is gone."""
    try:
        run = stage(*arguments)
    except Exception as error:  # noqa: BLE001 (the parent raises it)
        connection.send(error)
        return
    connection.send(None)
    while True:
        try:
            batch = pa.ipc.open_stream(connection.recv()).read_all()
        except EOFError:
            return
        try:
            answer: pa.Table | Exception = run(batch)
        except Exception as error:  # noqa: BLE001 (the parent raises it)
            answer = error
        connection.send(answer)
