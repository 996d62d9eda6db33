"""One line while a job runs: done of total, rate, rejects, time left."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self, TypeAlias, cast

import ray
from ray.actor import ActorHandle
from rich.console import Console
from rich.live import Live
from rich.text import Text

Board: TypeAlias = ActorHandle[Any]  # of a StepBoard
_LINE_EVERY_S = 10.0  # between lines where the output is a file and a line cannot be redrawn


class Progress:
    """Shows progress on stderr until left. `partial` gives the items' worth of work in flight (training steps)."""

    def __init__(self, what: str, unit: str, total: int, partial: Callable[[], float] | None = None) -> None:
        self.what, self.unit, self.total, self.partial = what, unit, total, partial
        self.done, self.note = 0, ""
        self._in_flight = 0.0
        self._clock = (time.monotonic(), 0.0)  # when what was first done: loading models says nothing of the rate
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._show, daemon=True)

    def add(self, num: int, note: str = "") -> None:
        """Counts finished items; `note` is shown at the end of the line."""
        self.done += num
        self.note = note or self.note

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def line(self) -> str:
        """The line as it stands."""
        worth = min(self.done + self._in_flight, float(self.total))
        since, first = self._clock
        seconds = time.monotonic() - since
        if worth > 0 and first == 0:
            self._clock = (time.monotonic(), worth)
        rate = (worth - first) / seconds if seconds > 0 else 0.0
        left = _clock((self.total - worth) / rate) + " left" if rate > 0 else "starting"
        speed = f"{rate:.1f}/s" if rate >= 1 or rate == 0 else f"{rate * 60:.1f}/min"
        percent = 100 * worth / self.total if self.total else 100
        parts = [f"{self.what}  {self.done}/{self.total} {self.unit}", f"{percent:.0f} %", speed, left, self.note]
        return "  ".join(part for part in parts if part)

    def _show(self) -> None:
        console = Console(stderr=True)
        if console.is_terminal:
            with Live(Text(self.line()), console=console, refresh_per_second=4, transient=True) as live:
                while not self._stop.wait(0.5):
                    self._poll()
                    live.update(Text(self.line(), overflow="ellipsis", no_wrap=True))
        else:
            while not self._stop.wait(_LINE_EVERY_S):
                self._poll()
                console.print(self.line(), highlight=False, soft_wrap=True)

    def _poll(self) -> None:
        if self.partial is not None:
            self._in_flight = self.partial()


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class StepBoard:
    """Where the workers write how far they are, and the driver reads it."""

    def __init__(self) -> None:
        self._worth: dict[str, float] = {}

    def report(self, worker: str, worth: float) -> None:
        """The batch that this worker is at is worth `worth` finished items (0: it is done)."""
        self._worth[worker] = worth

    def total(self) -> float:
        """Over all workers."""
        return sum(self._worth.values())


def open_board() -> Board:
    """A board for one job; it goes when the driver lets go of it."""
    return cast(Board, ray.remote(num_cpus=0)(StepBoard).remote())


def read_board(board: Board) -> float:
    """Items' worth of work in flight."""
    return cast(float, ray.get(board.total.remote()))


class StepReporter:
    """A worker's end of the board; speaks at most once a second, so that steps stay cheap."""

    def __init__(self, board: Board) -> None:
        self._board, self._last = board, 0.0
        self._worker = ray.get_runtime_context().get_actor_id() or ""

    def step(self, num_items: int, done: int, total: int) -> None:
        """`done` of `total` steps of a batch of `num_items`."""
        now = time.monotonic()
        if now - self._last >= 1.0:
            self._last = now
            self._board.report.remote(self._worker, num_items * done / total)

    def finished(self) -> None:
        """The batch is done."""
        self._board.report.remote(self._worker, 0.0)
