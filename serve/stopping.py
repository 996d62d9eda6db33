"""Ending the endpoint: what is being drawn is finished, what is new is told to come back later."""

from __future__ import annotations

import signal
import threading
import time
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from ray.serve.handle import DeploymentHandle

from serve.held import Held

_LOOK_S = 0.2  # from one look at what is under way to the next
_GRACE_S = 1.0  # for the last answers to leave the proxies


class Stopping(Exception):
    """The endpoint is being stopped; who asks another one, or this one's successor, may be served."""

    retry_after_s = 5.0

    def __str__(self) -> str:
        return "the server is stopping; try again"


@dataclass(slots=True)
class Door:
    """Of an ingress replica: who came in is counted, and nobody comes in once it is closed."""

    num_inside: int = 0  # HTTP requests that are being answered
    closed: bool = False
    held: Held = field(default_factory=Held)  # of their bodies


class StopSignals:
    """SIGINT, SIGTERM and SIGHUP: the first one ends `wait` (before it, it is a KeyboardInterrupt), the second one says
    to hurry, any other one is a KeyboardInterrupt. For the main thread."""

    def __init__(self) -> None:
        self._num_heard = 0
        self._asked = threading.Event()
        self._waiting = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignals:
        numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
        if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
            numbers.remove(signal.SIGHUP)  # nohup
        self._before = {number: signal.getsignal(number) for number in numbers}
        self._listen()
        return self

    def __exit__(self, *_: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before if before is not None else signal.SIG_DFL)

    def wait(self) -> None:
        """Returns when somebody asks to stop."""
        self._listen()  # again: Ray's core has put its own handler, which aborts, in the place of SIGTERM's meanwhile
        self._waiting = True
        while not self._asked.wait(_LOOK_S):  # Python's handlers run here; the kernel may tell any other thread instead
            pass

    def _listen(self) -> None:
        for number in self._before:
            signal.signal(number, self._heard)

    def _heard(self, _number: int, _frame: FrameType | None) -> None:
        self._num_heard += 1
        if self._num_heard > 2 or (self._num_heard == 1 and not self._waiting):
            raise KeyboardInterrupt
        self._asked.set()

    @property
    def urgent(self) -> bool:
        """Whether we were asked more than once."""
        return self._num_heard > 1


def finish(ingress: DeploymentHandle[Any], limit_s: float, signals: StopSignals) -> int:
    """Lets nobody in and waits until what is under way is answered; after `limit_s` seconds the rest is given up, or
    when asked to hurry.

    Returns how many requests were given up; they are answered with 503.
    """
    deadline = time.monotonic() + limit_s
    inside = first = sum(ingress.broadcast("close").results())
    while inside and time.monotonic() < deadline and not signals.urgent:
        time.sleep(_LOOK_S)
        inside = sum(ingress.broadcast("close").results())
    if inside:
        ingress.broadcast("give_up").results()
    if first:
        time.sleep(_GRACE_S)
    return inside
