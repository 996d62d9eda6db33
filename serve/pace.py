"""How long something will still take, by how fast it has been done here."""

from __future__ import annotations

import time
from collections.abc import Callable


class Pace:
    """Of one thing that is being done. Nothing before the first share that it told counts: a network was loaded, or a
    head begun at the checkpoint of a server before this one."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began: tuple[float, float] | None = None  # share, when
        self._share = 0.0

    def tell(self, share: float) -> None:
        """So much of it is done, 0..1. Less than before: what did it was lost, and another one goes on from less."""
        if self._began is None or share < self._share:
            self._began = share, self._clock()
        self._share = share

    def seconds_left(self) -> float | None:
        """Until it is done; None where nothing is known yet."""
        if self._began is None or self._share <= self._began[0]:
            return None
        share, at = self._began
        return (self._clock() - at) * (1 - self._share) / (self._share - share)
