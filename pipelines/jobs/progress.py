"""One line while a job runs: done of total, rate, time left, what came of it; the time left also for Prometheus."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeAlias, cast

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError
from ray.util.metrics import Gauge
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from rich.console import Console
from rich.live import Live
from rich.text import Text

from pipelines.jobs.cluster import held_cpus
from pipelines.jobs.rate import Rate

Board: TypeAlias = ActorHandle[Any]  # of a StepBoard
_PATIENCE_S = 20.0  # nothing came for so long: others may hold the CPUs
_NOTICEABLE = 0.05  # CPUs; below it is rounding
_LINE_EVERY_S = 10.0  # between lines where the output is a file and a line cannot be redrawn


def say(sentences: Sequence[str]) -> None:
    """Tells what a job is to be begun with in mind, on stderr."""
    console = Console(stderr=True)
    for sentence in sentences:
        text = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in sentence)
        console.print(f"note: {text}", highlight=False, soft_wrap=True, markup=False)


class Progress:
    """Shows progress on stderr until left.

    `partial` gives the items' worth of work in flight (training steps); `counts` gives what came of the items so far
    (name -> number), shown with its rate.
    """

    def __init__(
        self,
        what: str,
        unit: str,
        total: int,
        partial: Callable[[], float] | None = None,
        counts: Callable[[], Mapping[str, int]] | None = None,
    ) -> None:
        self.what, self.unit, self.total, self.partial, self.counts = what, unit, total, partial, counts
        self.done = 0
        self._in_flight = 0.0
        self._rate = Rate()
        self._rates: defaultdict[str, Rate] = defaultdict(Rate)
        self._left: Gauge | None = None
        self._began = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._show, daemon=True)

    def add(self, num: int) -> None:
        """Counts finished items."""
        self.done += num

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._export(0.0)

    def line(self) -> str:
        """The line as it stands."""
        worth = min(self.done + self._in_flight, float(self.total))
        self._rate.see(worth)
        seconds = self._rate.seconds_for(self.total - worth)
        self._export(seconds)
        percent = 100 * worth / self.total if self.total else 100
        parts = [f"{self.what}  {self.done}/{self.total} {self.unit}", f"{percent:.0f} %", _speed(self._rate)]
        parts.append(self._start() if seconds is None else f"{_clock(seconds)} left")
        for name, num in (self.counts() if self.counts else {}).items():
            self._rates[name].see(num)
            parts.append(f"{num} {name} {_speed(self._rates[name])}".rstrip())
        return "  ".join(part for part in parts if part)

    def _start(self) -> str:
        """What is told while nothing has come: also whom a job waits for that gets no CPUs."""
        if held_cpus() < _NOTICEABLE or time.monotonic() - self._began < _PATIENCE_S:
            return "starting"
        total = ray.cluster_resources().get("CPU", 0.0)  # type: ignore[no-untyped-call]
        return (
            f"waiting for CPUs: {held_cpus():.1f} of {total:g} are held by an endpoint or another job of this cluster; "
            "end it, or unset RAY_ADDRESS for a cluster of the job's own"
        )

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

    def _export(self, seconds: float | None) -> None:
        if seconds is None or not ray.is_initialized():
            return
        if self._left is None:
            about = "Seconds until a stage of a job is done, at the rate so far"
            self._left = Gauge("identity_factory_job_left_s", about, tag_keys=("stage",))
        self._left.set(seconds, tags={"stage": self.what})


def _speed(rate: Rate) -> str:
    if rate.per_s == 0:
        return ""
    return f"{rate.per_s:.1f}/s" if rate.per_s >= 1 else f"{rate.per_s * 60:.1f}/min"


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
    """A board for one job, on the driver's node, so that no other one takes it along when it is lost."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    return cast(Board, ray.remote(num_cpus=0)(StepBoard).options(scheduling_strategy=here).remote())


def read_board(board: Board) -> float:
    """Items' worth of work in flight; 0 if the board is lost: a line on a terminal may not end a job."""
    try:
        return cast(float, ray.get(board.total.remote()))
    except RayError:
        return 0.0


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
