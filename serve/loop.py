"""The thread that owns a replica's engine: who asks joins at the next step, who goes away leaves at the next step."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from factory.records import ImageRequest, TokenCount

if TYPE_CHECKING:
    from factory.draw.engine import Engine, Row

OnPreview = Callable[[int, np.ndarray], None]  # which preview, from 0; the picture as it is guessed, uint8 [H, W, 3]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageResult:
    """One picture, and what its making was like."""

    image: np.ndarray  # uint8 [H, W, 3], RGB
    rows_per_step: float  # pictures that shared a step of it, itself included, on average
    seconds: float  # from its first step to the picture
    prompt: TokenCount  # of the prompt with <person> in it
    negative_prompt: TokenCount


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopStats:
    """What a loop has done so far, and what it is at."""

    images: int = 0
    steps: int = 0
    rows: int = 0  # of all steps together
    step_s: float = 0.0  # seconds of all steps together, decoding included
    most_rows: int = 0  # of one step
    waiting: int = 0  # pictures that are not begun
    in_the_making: int = 0

    def __add__(self, other: LoopStats) -> LoopStats:
        sums = {name: getattr(self, name) + getattr(other, name) for name in self.__slots__ if name != "most_rows"}
        return LoopStats(**sums, most_rows=max(self.most_rows, other.most_rows))


@dataclass(slots=True, kw_only=True, eq=False)
class _Ticket:
    """A picture that somebody waits for."""

    request: ImageRequest
    future: Future[ImageResult]  # pending until it is settled, so that its caller can cancel it at any time
    on_preview: OnPreview | None
    num_previews: int
    began: float = 0.0  # monotonic, s
    rows: int = 0  # of its steps, together
    previewed: int = 0

    def preview_due(self, step: int) -> bool:
        """Whether its next preview is to be shown after this many steps."""
        num_steps = self.request.config.num_inference_steps
        return self.previewed < self.num_previews and step >= (self.previewed + 1) * num_steps / (self.num_previews + 1)


class EngineLoop:
    """Draws in a thread of its own until closed. Its methods may be called from any thread."""

    def __init__(self, engine: Engine, *, max_rows: int, start_thread: Callable[[], None] = lambda: None) -> None:
        """`max_rows` pictures are in the making at a time; `start_thread` is called first in the thread."""
        self._engine, self._max_rows, self._start_thread = engine, max_rows, start_thread
        self._waiting: deque[_Ticket] = deque()
        self._making: dict[Row, _Ticket] = {}
        self._wake = threading.Condition()
        self._closed = False
        self._stats = LoopStats()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def submit(
        self, request: ImageRequest, *, num_previews: int = 0, on_preview: OnPreview | None = None
    ) -> Future[ImageResult]:
        """Asks for a picture. Cancelling the future takes it out, wherever it is. Errors are those of `Engine.add`."""
        ticket = _Ticket(request=request, future=Future(), on_preview=on_preview, num_previews=num_previews)
        with self._wake:
            self._waiting.append(ticket)
            self._wake.notify()
        return ticket.future

    def stats(self) -> LoopStats:
        """What was done so far, and what is going on."""
        done = self._stats
        return done + LoopStats(waiting=len(self._waiting), in_the_making=len(self._making))

    def close(self) -> None:
        """Ends the thread after the step it is at; what is not finished by then is cancelled."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        self._thread.join()

    def _run(self) -> None:
        self._start_thread()
        while True:
            with self._wake:
                while not (self._waiting or self._making or self._closed):
                    self._wake.wait()
                if self._closed:
                    break
                self._drop_cancelled()
                new = self._next_tickets()
            try:
                self._admit(new)
                if self._making:
                    self._step()
            except Exception as error:  # noqa: BLE001 (whoever waits must hear of it; the next one may do better)
                self._fail(error)
        for ticket in (*self._waiting, *self._making.values()):
            ticket.future.cancel()

    def _next_tickets(self) -> list[_Ticket]:
        """Those who waited longest, as many as there is room for."""
        new: list[_Ticket] = []
        while self._waiting and len(self._making) + len(new) < self._max_rows:
            ticket = self._waiting.popleft()
            if not ticket.future.cancelled():
                new.append(ticket)
        return new

    def _admit(self, tickets: Sequence[_Ticket]) -> None:
        """A request that cannot be drawn makes no other one suffer: then they enter one by one."""
        try:
            rows = self._engine.add([ticket.request for ticket in tickets])
        except ValueError as error:
            if len(tickets) == 1:
                _settle(tickets[0], error)
                return
            for ticket in tickets:
                self._admit([ticket])
            return
        now = time.monotonic()
        for row, ticket in zip(rows, tickets, strict=True):
            ticket.began = now
            self._making[row] = ticket

    def _drop_cancelled(self) -> None:
        for row in [row for row, ticket in self._making.items() if ticket.future.cancelled()]:
            self._engine.drop(row)
            del self._making[row]

    def _step(self) -> None:
        began, num_rows = time.perf_counter(), len(self._making)
        for ticket in self._making.values():
            ticket.rows += num_rows
        finished = self._engine.step()
        self._show_previews()
        images = self._engine.decode([row.x_CHW for row in finished])
        now = time.monotonic()
        for row, image in zip(finished, images, strict=True):
            ticket = self._making.pop(row)
            result = ImageResult(
                image=image,
                rows_per_step=ticket.rows / row.step,
                seconds=now - ticket.began,
                prompt=row.prompt,
                negative_prompt=row.negative_prompt,
            )
            _settle(ticket, result)
        self._stats += LoopStats(
            images=len(finished),
            steps=1,
            rows=num_rows,
            step_s=time.perf_counter() - began,
            most_rows=num_rows,
        )

    def _show_previews(self) -> None:
        due = [(row, ticket) for row, ticket in self._making.items() if not row.done and ticket.preview_due(row.step)]
        guesses = [row.guess_CHW for row, _ in due]
        images = self._engine.decode([guess for guess in guesses if guess is not None])
        for (_, ticket), image in zip(due, images, strict=True):
            if ticket.on_preview is not None:
                ticket.on_preview(ticket.previewed, image)
            ticket.previewed += 1

    def _fail(self, error: Exception) -> None:
        """Whatever is in the making ends with this error."""
        for row, ticket in self._making.items():
            self._engine.drop(row)
            _settle(ticket, error)
        self._making.clear()


def _settle(ticket: _Ticket, outcome: ImageResult | Exception) -> None:
    if not ticket.future.set_running_or_notify_cancel():  # nobody waits any more
        return
    if isinstance(outcome, Exception):
        ticket.future.set_exception(outcome)
    else:
        ticket.future.set_result(outcome)
