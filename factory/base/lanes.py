"""Lanes: threads of a CPU that take a part of a call's samples each.

Two threads inside one call meet after every operation, some hundred times a call, and whatever else takes a core for a
moment holds up both. Two lanes meet once. Each has half of the caller's intra-op threads; on a GPU there are none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from itertools import accumulate
from threading import Barrier
from typing import TypeVar

import torch

_LANES = 2  # more were not measured
_FEWEST = 2  # samples of a lane: below that Python itself, of which one thread runs at a time, holds up the other

T = TypeVar("T")
Result = TypeVar("Result")


class Lanes:
    """Not safe for concurrent calls: one thread owns it."""

    def __init__(self, device: str, *, gradients: bool = False) -> None:
        """With `gradients` the lanes are in torch's usual mode, else in its inference mode."""
        self._on_cpu = device == "cpu"
        self._gradients = gradients
        self._num_threads = 0  # of the caller, when the lanes began
        self._pool: ThreadPoolExecutor | None = None

    def map(self, task: Callable[[list[T]], Result], units: Sequence[Sequence[T]]) -> list[Result]:
        """What `task` makes of all samples, in one part or in several, in their order; a unit is never cut.

        Raises what a part raised, after all parts have ended.
        """
        parts = _cut(units) if self._on_cpu and torch.get_num_threads() >= _LANES else [[*units]]
        parts_of_samples = [[sample for unit in part for sample in unit] for part in parts]
        if len(parts) == 1:
            return [task(parts_of_samples[0])]
        run = task if self._gradients else partial(_without_gradients, task)
        made = [self._threads().submit(run, part) for part in parts_of_samples]
        wait(made)
        return [future.result() for future in made]

    def _threads(self) -> ThreadPoolExecutor:
        num_threads = torch.get_num_threads()
        if self._pool is None or num_threads != self._num_threads:
            if self._pool is not None:
                self._pool.shutdown()
            self._num_threads = num_threads
            self._pool = ThreadPoolExecutor(
                _LANES, "lane", initializer=torch.set_num_threads, initargs=(num_threads // _LANES,)
            )
            together = Barrier(_LANES)
            wait([self._pool.submit(together.wait) for _ in range(_LANES)])
            torch.set_num_threads(num_threads)  # OpenMP's number is each thread's own, torch's default is not
        return self._pool


@torch.inference_mode()
def _without_gradients(task: Callable[[list[T]], Result], samples: list[T]) -> Result:
    return task(samples)  # the mode is each thread's own


def _cut(units: Sequence[Sequence[T]]) -> list[Sequence[Sequence[T]]]:
    """Two parts as equal as whole units allow; one where there is too little for two."""
    ends = [*accumulate(map(len, units))]
    if not units or len(units) < _LANES or ends[-1] < _FEWEST * _LANES:
        return [units]
    first = min(range(1, len(units)), key=lambda number: abs(ends[-1] - 2 * ends[number - 1]))
    return [units[:first], units[first:]]
