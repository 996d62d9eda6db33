"""Work on files in a child process of its own, because a file can kill the process that decodes it.

The parent stays alive and knows what its child was at. What kills a child that has done nothing else is the poison, and
is told as such; what kills a child that has been at work is given to a new one, by itself. Jobs use `Isolated` (Ray's
own retries would give the same batch to the same code for ever), servers `IsolatedCalls`.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeAlias

import pyarrow as pa

from factory.config import PrepareConfig
from factory.errors import PhotoRejected
from factory.records import PreparedFace

if TYPE_CHECKING:
    from factory.faces.read import ReadFaces

Stage: TypeAlias = Callable[..., Callable[[Any], Any]]  # what a child makes once, to call it for each piece of work


class Isolated:
    """Runs `stage(*arguments)`, which turns a table into another, in a child; `poisoned(row, detail)` gives the output
    of a row that kills it."""

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
        self._poisoned, self._max_row_s = poisoned, max_row_s
        self._children = _Children(_on_tables, [stage, arguments])

    def __call__(self, batch: pa.Table) -> pa.Table:
        """The stage's output for a batch. Raises what the stage raises."""
        return self._run(batch)  # Ray Data runs __call__ in a thread of its own, so it must not call itself

    def _run(self, batch: pa.Table) -> pa.Table:
        try:
            output = self._children.run(packed(batch), self._max_row_s)
            assert isinstance(output, pa.Table)
            return output
        except _ChildDied as death:
            if batch.num_rows > 1:
                # one by one rather than in halves: two children are lost for a poison, not one for each halving
                return pa.concat_tables([self._run(batch.slice(row, 1)) for row in range(batch.num_rows)])
            return self._poisoned(batch, str(death)) if death.was_fresh else self._run(batch)


class IsolatedCalls:
    """Calls what `stage(*arguments)` makes in a child, for a server. Any thread may call; the child does one thing at a
    time."""

    def __init__(self, stage: Stage, arguments: Sequence[Any]) -> None:
        """Starts the child, which may take some seconds. Raises what the stage raises at its start."""
        self._lock = threading.Lock()
        self._children = _Children(stage, arguments)

    def call(self, work: object, *, limit_s: float) -> Any:
        """The answer, for `limit_s` seconds at most, but for the start of a new child after one died.

        Raises what the stage raises; PhotoRejected ("crashed_worker") for work that kills the child or has no end;
        TimeoutError if other work took all of the time.
        """
        deadline = time.monotonic() + limit_s
        if not self._lock.acquire(timeout=limit_s):
            raise TimeoutError(f"other photos were at work for {limit_s:g} s")
        try:
            while True:
                try:
                    return self._children.run(work, deadline - time.monotonic())
                except _ChildDied as death:
                    if death.was_fresh or time.monotonic() >= deadline:
                        raise PhotoRejected("crashed_worker", f"its process {death}") from death
        finally:
            self._lock.release()


class IsolatedPreparer:
    """`Preparer` in a child, for a server; as IsolatedCalls."""

    def __init__(self, pack: str, config: PrepareConfig, *, device: str = "cpu", num_threads: int = 1) -> None:
        """Starts the child, which loads the models of a pack (name, folder or s3://): some seconds.

        Raises PackError where one is missing or does not fit.
        """
        self._calls = IsolatedCalls(_preparer, [pack, config, device, num_threads])

    def prepare(self, data: bytes, name: str, *, limit_s: float) -> list[PreparedFace]:
        """As `Preparer.prepare`. Raises PhotoRejected and TimeoutError, as IsolatedCalls."""
        return self.read(data, name, limit_s=limit_s).usable()

    def read(self, data: bytes, name: str, *, limit_s: float) -> ReadFaces:
        """As `Preparer.read`. Raises PhotoRejected and TimeoutError, as IsolatedCalls."""
        outcome: ReadFaces = self._calls.call((data, name), limit_s=limit_s)
        return outcome


class _ChildDied(Exception):
    """How it ended, and whether this was the first it had to do."""

    def __init__(self, how: str, *, was_fresh: bool) -> None:
        super().__init__(how)
        self.was_fresh = was_fresh


class _Children:
    """A child, and a new one for each that dies."""

    def __init__(self, stage: Stage, arguments: Sequence[Any]) -> None:
        self._stage, self._arguments = stage, arguments
        self._child = _Child(stage, arguments)

    def run(self, work: object, limit_s: float) -> Any:
        """The child's answer; raises _ChildDied, or what the stage raised."""
        try:
            return self._child.run(work, limit_s)
        except _ChildDied:
            self._child = _Child(self._stage, self._arguments)
            raise


class _Child:
    def __init__(self, stage: Stage, arguments: Sequence[Any]) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, other = context.Pipe()
        self._process: SpawnProcess = context.Process(target=_work, args=(other, stage, arguments), daemon=True)
        os.environ["PYTHONSAFEPATH"] = "1"  # the child imports nothing that happens to lie in the current folder
        with _no_main():
            self._process.start()
        other.close()  # so that a dead child ends what is read here
        self._is_fresh = True
        try:
            answer = self._connection.recv()
        except EOFError:
            raise RuntimeError(f"a worker's process cannot start: it {self._end()}") from None
        if isinstance(answer, Exception):
            raise answer

    def run(self, work: object, limit_s: float) -> Any:
        was_fresh, self._is_fresh = self._is_fresh, False
        try:
            self._connection.send(work)
            if not self._connection.poll(max(0.0, limit_s)):
                self._end(0.0)
                raise _ChildDied(f"gave no answer in {max(0.0, limit_s):.4g} s", was_fresh=was_fresh)
            answer = self._connection.recv()
        except (EOFError, OSError):
            raise _ChildDied(self._end(), was_fresh=was_fresh) from None
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _end(self, patience_s: float = 5.0) -> str:
        self._process.join(patience_s)  # one that is ending tells how
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


def _on_tables(stage: Stage, arguments: Sequence[Any]) -> Callable[[bytes], pa.Table]:
    run = stage(*arguments)
    return lambda batch: run(pa.ipc.open_stream(batch).read_all())


def _preparer(
    pack: str, config: PrepareConfig, device: str, num_threads: int
) -> Callable[[tuple[bytes, str]], ReadFaces]:
    import cv2  # these here: this module is for processes that load none of them
    import torch

    from factory.faces.prepare import Preparer
    from factory.pack import load_pack

    cv2.setNumThreads(num_threads)
    torch.set_num_threads(num_threads)
    preparer = Preparer(load_pack(pack), config, device=device)
    return lambda photo: preparer.read(*photo)


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
            work = connection.recv()
        except EOFError:
            return
        try:
            answer = run(work)
        except Exception as error:  # noqa: BLE001 (the parent raises it)
            answer = error
        connection.send(answer)
