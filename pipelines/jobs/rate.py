"""How fast something grows: for the line on the terminal, the journal and the time that is left."""

from __future__ import annotations

import time
from collections.abc import Callable


class Rate:
    """Items per second since the first ones were done: the minute in which models load says nothing of the rate."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock  # s
        self._start: tuple[float, float] | None = None  # when the first were done (s), and how many
        self.per_s = 0.0  # 0 until more than the first are done

    def see(self, done: float) -> None:
        """`done` items are done by now."""
        now = self._clock()
        if self._start is None:
            self._start = (now, done) if done > 0 else None
            return
        since, first = self._start
        self.per_s = (done - first) / (now - since) if now > since else 0.0

    def seconds_for(self, num: float) -> float | None:
        """How long `num` more items take, in seconds; None while that cannot be told."""
        return num / self.per_s if self.per_s > 0 else None
