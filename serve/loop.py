"""The thread that owns a replica's engine: who asks joins at the next step, who goes away leaves at the next step."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from factory.errors import PackError
from factory.records import ClipRequest, ImageRequest, TokenCount
from serve.turns import Turns

if TYPE_CHECKING:
    from factory.draw.engine import Engine
    from factory.draw.rows import Row

OnPreview = Callable[[int, np.ndarray], None]  # which preview, from 0; the picture as it is guessed, uint8 [H, W, 3]
OnProgress = Callable[[float], None]  # share of a clip's steps that are done


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageResult:
    """One picture, and what its making was like."""

    image: np.ndarray  # uint8 [H, W, 3], RGB
    rows_per_step: float  # pictures that shared a step of it, itself included, on average
    seconds: float  # from its first step to the picture
    prompt: TokenCount  # of the prompt with <person> in it
    negative_prompt: TokenCount


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipResult:
    """One clip, and what its making was like."""

    frames: np.ndarray  # uint8 [F, H, W, 3], RGB
    seconds: float  # from its first step to the frames


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
    patient: bool
    began: float = 0.0  # monotonic, s
    rows: int = 0  # of its steps, together
    previewed: int = 0

    def preview_due(self, step: int) -> bool:
        """Whether its next preview is to be shown after this many steps."""
        num_steps = self.request.config.num_inference_steps
        return self.previewed < self.num_previews and step >= (self.previewed + 1) * num_steps / (self.num_previews + 1)


@dataclass(slots=True, kw_only=True, eq=False)
class _ClipTicket:
    """A clip that somebody waits for."""

    request: ClipRequest
    future: Future[ClipResult]
    on_progress: OnProgress
    frames: list[Row] = field(default_factory=list)  # while it is in the making
    began: float = 0.0  # monotonic, s


class EngineLoop:
    """Draws in a thread of its own until closed. Its methods may be called from any thread.

    Beside the pictures one clip at a time is in the making: its frames are many rows, and pictures join its steps.
    """

    def __init__(self, engine: Engine, *, max_rows: int, start_thread: Callable[[], None] = lambda: None) -> None:
        """`max_rows` pictures are in the making at a time; `start_thread` is called first in the thread."""
        self._engine, self._max_rows, self._start_thread = engine, max_rows, start_thread
        self._waiting: Turns[_Ticket] = Turns()
        self._patient: Turns[_Ticket] = Turns()  # of batches
        self._making: dict[Row, _Ticket] = {}
        self._clips: Turns[_ClipTicket] = Turns()
        self._clip: _ClipTicket | None = None  # in the making
        self._wake = threading.Condition()
        self._closed = False
        self._stats = LoopStats()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def submit(
        self,
        request: ImageRequest,
        *,
        tenant: str = "",
        num_previews: int = 0,
        on_preview: OnPreview | None = None,
        patient: bool = False,
    ) -> Future[ImageResult]:
        """Asks for a picture, in a tenant's turn. Cancelling the future takes it out, wherever it is. Errors are those
        of `Engine.add`.

        A patient one enters when no other waits, into half of the rows at most, and an eighth while others are drawn.
        """
        ticket = _Ticket(
            request=request, future=Future(), on_preview=on_preview, num_previews=num_previews, patient=patient
        )
        with self._wake:
            (self._patient if patient else self._waiting).add(ticket, tenant)
            self._wake.notify()
        return ticket.future

    def submit_clip(
        self, request: ClipRequest, *, tenant: str = "", on_progress: OnProgress = lambda _: None
    ) -> Future[ClipResult]:
        """Asks for a clip, in a tenant's turn. Cancelling the future takes it out. Errors are `Engine.add_clip`'s."""
        ticket = _ClipTicket(request=request, future=Future(), on_progress=on_progress)
        with self._wake:
            self._clips.add(ticket, tenant)
            self._wake.notify()
        return ticket.future

    def stats(self) -> LoopStats:
        """What was done so far, and what is going on; frames are not counted among the pictures."""
        done = self._stats
        return done + LoopStats(waiting=len(self._waiting) + len(self._patient), in_the_making=len(self._making))

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
                while not (self._waiting or self._patient or self._making or self._clips or self._clip or self._closed):
                    self._wake.wait()
                if self._closed:
                    break
                self._drop_cancelled()
                new = self._next_tickets()
            try:
                self._admit(new)
                self._admit_clip()
                if self._making or self._clip:
                    self._step()
            except Exception as error:  # noqa: BLE001 (whoever waits must hear of it; the next one may do better)
                self._fail(error)
        for ticket in (*self._waiting, *self._patient, *self._making.values(), *self._clips, self._clip):
            if ticket is not None:
                ticket.future.cancel()

    def _next_tickets(self) -> list[_Ticket]:
        """Those whose turn it is, as many as there is room for; the patient ones after all others."""
        new = _next(self._waiting, self._max_rows - len(self._making))
        num_rows = len(self._making) + len(new)
        num_patient = sum(ticket.patient for ticket in self._making.values())
        alone = num_rows == num_patient and self._clip is None
        most = self._max_rows // (2 if alone else 8)  # each row makes the others' steps longer
        return new + _next(self._patient, min(max(most, 1) - num_patient, self._max_rows - num_rows))

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
        if self._clip is not None and self._clip.future.cancelled():
            self._engine.drop(self._clip.frames[0])
            self._clip = None

    def _admit_clip(self) -> None:
        """The next clip enters if none is in the making."""
        while self._clip is None and self._clips:
            ticket = self._clips.take()
            if ticket.future.cancelled():
                continue
            try:
                ticket.frames = self._engine.add_clip(ticket.request)
            except (ValueError, PackError) as error:
                _settle(ticket, error)
                continue
            ticket.began = time.monotonic()
            self._clip = ticket

    def _step(self) -> None:
        began, num_rows = time.perf_counter(), len(self._making)
        for ticket in self._making.values():
            ticket.rows += num_rows
        finished = [row for row in self._engine.step() if row.clip is None]
        self._show_previews()
        self._see_to_clip()
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
        step_s = time.perf_counter() - began
        self._stats += LoopStats(images=len(finished), steps=1, rows=num_rows, step_s=step_s, most_rows=num_rows)

    def _show_previews(self) -> None:
        due = [(row, ticket) for row, ticket in self._making.items() if not row.done and ticket.preview_due(row.step)]
        guesses = [row.guess_CHW for row, _ in due]
        images = self._engine.decode([guess for guess in guesses if guess is not None])
        for (_, ticket), image in zip(due, images, strict=True):
            if ticket.on_preview is not None:
                ticket.on_preview(ticket.previewed, image)
            ticket.previewed += 1

    def _see_to_clip(self) -> None:
        """Tells how far the clip is, and gives it out once it is finished."""
        ticket = self._clip
        if ticket is None:
            return
        row = ticket.frames[0]
        ticket.on_progress(row.step / len(row.plan))
        if row.done:
            frames = np.stack(self._engine.decode([frame.x_CHW for frame in ticket.frames]))
            self._clip = None
            _settle(ticket, ClipResult(frames=frames, seconds=time.monotonic() - ticket.began))

    def _fail(self, error: Exception) -> None:
        """Whatever is in the making ends with this error."""
        if self._clip is not None:
            self._engine.drop(self._clip.frames[0])
            _settle(self._clip, error)
            self._clip = None
        for row, ticket in self._making.items():
            self._engine.drop(row)
            _settle(ticket, error)
        self._making.clear()


def _next(waiting: Turns[_Ticket], num: int) -> list[_Ticket]:
    """Takes out those whose turn it is, at most so many; who has gone away is left out."""
    taken: list[_Ticket] = []
    while waiting and len(taken) < num:
        ticket = waiting.take()
        if not ticket.future.cancelled():
            taken.append(ticket)
    return taken


def _settle(ticket: _Ticket | _ClipTicket, outcome: Any) -> None:
    """`outcome`: what was waited for, or an exception."""
    if not ticket.future.set_running_or_notify_cancel():  # nobody waits any more
        return
    if isinstance(outcome, Exception):
        ticket.future.set_exception(outcome)
    else:
        ticket.future.set_result(outcome)
