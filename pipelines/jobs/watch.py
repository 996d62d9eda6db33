"""While a job runs: its counts every few seconds, as events of its journal and as Prometheus metrics of Ray."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self

import ray
from ray.util.metrics import Counter

from pipelines.jobs.journal import Journal
from pipelines.jobs.memory import short_of_memory
from pipelines.jobs.progress import say
from pipelines.jobs.rate import Rate


class Watch:
    """Looks at a job's counts (name -> number, growing) until left."""

    def __init__(self, job: str, counts: Callable[[], Mapping[str, int]], journal: Journal) -> None:
        self._job, self._counts, self._journal = job, counts, journal
        self._last: dict[str, int] = {}
        self._rates: defaultdict[str, Rate] = defaultdict(Rate)
        self._exported: Counter | None = None
        self._stop, self._told = threading.Event(), False
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        if kind is None:
            self.look()

    def look(self) -> None:
        """Tells what has grown since the last look: all counts, and how fast those grow (per second)."""
        counts = dict(self._counts())
        grown = {what: num - self._last.get(what, 0) for what, num in counts.items() if num > self._last.get(what, 0)}
        self._last = counts
        if not grown:
            self._tell_why()
            return
        for what in grown:
            self._rates[what].see(counts[what])
        self._export(grown)
        per_s = {what: round(self._rates[what].per_s, 3) for what in grown}
        self._journal.write("progress", {"counts": counts, "per_s": per_s})

    def _tell_why(self) -> None:
        """Once: what may hold up a job whose workers Ray ends one after the other, without a word."""
        if not self._told and (short := short_of_memory()):
            self._told = True
            say([short])

    def _run(self) -> None:
        while not self._stop.wait(self._journal.every_s):
            try:
                self.look()
            except OSError:  # a full disk ends the job where it commits, with its remedy; a lost line may not
                continue

    def _export(self, grown: Mapping[str, int]) -> None:
        if not ray.is_initialized():
            return
        if self._exported is None:
            self._exported = Counter("identity_factory_job_rows", "What jobs have done", tag_keys=("job", "what"))
        for what, num in grown.items():
            self._exported.inc(num, tags={"job": self._job, "what": what})
