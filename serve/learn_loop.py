"""The thread that owns a replica's trainer: who comes joins the running slots, who is done or goes away leaves them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from factory.config import Recipe
from factory.records import PreparedFace

if TYPE_CHECKING:
    from factory.learn.trainer import Learned, Learning, Trainer

OnProgress = Callable[[float], None]  # share of the steps that is done, 0..1


@dataclass(slots=True, kw_only=True, eq=False)
class _Ticket:
    """Somebody who is to be learned, and all who wait for that."""

    key: str
    face: PreparedFace
    recipe: Recipe
    waiters: list[tuple[Future[Learned], OnProgress]] = field(default_factory=list)

    @property
    def wanted(self) -> bool:
        """Whether anybody still waits."""
        return not all(future.cancelled() for future, _ in self.waiters)

    def settle(self, outcome: Learned | Exception) -> None:
        """Tells all who wait."""
        for future, _ in self.waiters:
            if not future.set_running_or_notify_cancel():
                continue
            if isinstance(outcome, Exception):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)


class LearnLoop:
    """Learns in a thread of its own until closed. Its methods may be called from any thread.

    Those of one recipe share a batch, as many as the trainer has slots; recipes take turns, step by step.
    """

    def __init__(self, load: Callable[[], Trainer]) -> None:
        """`load` is called first in the thread; where it fails, all who wait and whoever comes later hear of it."""
        self._load = load
        self._new: list[_Ticket] = []
        self._tickets: dict[str, _Ticket] = {}  # waiting for the next step, or learned
        self._open: dict[Recipe, Learning] = {}  # only those in which somebody is
        self._wake = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="trainer", daemon=True)
        self._thread.start()

    def submit(
        self, key: str, face: PreparedFace, recipe: Recipe, on_progress: OnProgress = lambda _: None
    ) -> Future[Learned]:
        """Asks for somebody to be learned; whoever asks for the same key (identity and root) shares what is under way.

        Cancelling the future takes it back: the slot is free at the next step, unless others wait for the same.
        """
        future: Future[Learned] = Future()
        with self._wake:
            ticket = self._tickets.get(key)
            if ticket is None:
                ticket = self._tickets[key] = _Ticket(key=key, face=face, recipe=recipe)
                self._new.append(ticket)
            ticket.waiters.append((future, on_progress))
            self._wake.notify()
        return future

    def close(self) -> None:
        """Ends the thread after the step it is at; what is not finished by then is cancelled."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        self._thread.join()

    def _run(self) -> None:
        try:
            trainer = self._load()
        except Exception as error:  # noqa: BLE001 (whoever waits must hear of it)
            self._refuse_all(error)
            return
        while True:
            with self._wake:
                while not (self._tickets or self._closed):
                    self._wake.wait()
                if self._closed:
                    break
                self._drop_unwanted()
                new, self._new = self._new, []
            try:
                for ticket in new:
                    if ticket.recipe not in self._open:
                        self._open[ticket.recipe] = trainer.open(ticket.recipe)
                    self._open[ticket.recipe].add(ticket.face)
                for learning in list(self._open.values()):
                    self._step(learning)
            except Exception as error:  # noqa: BLE001 (the next one may do better)
                self._fail(error)
        for ticket in self._tickets.values():
            for future, _ in ticket.waiters:
                future.cancel()

    def _drop_unwanted(self) -> None:
        for ticket in [ticket for ticket in self._tickets.values() if not ticket.wanted]:
            del self._tickets[ticket.key]
            if ticket in self._new:
                self._new.remove(ticket)
                continue
            self._open[ticket.recipe].drop(ticket.face)
            self._close_if_empty(ticket.recipe)

    def _step(self, learning: Learning) -> None:
        done = learning.step()
        tickets = {id(ticket.face): ticket for ticket in self._tickets.values()}
        for face, share in learning.progress():
            for _, tell in list(tickets[id(face)].waiters):
                tell(share)
        for one in done:
            ticket = tickets[id(one.face)]
            with self._wake:  # `submit` adds to no ticket that is settled
                del self._tickets[ticket.key]
            ticket.settle(one)
        self._close_if_empty(learning.recipe)

    def _close_if_empty(self, recipe: Recipe) -> None:
        if not self._open[recipe]:
            del self._open[recipe]  # and with it the memory of its slots

    def _fail(self, error: Exception) -> None:
        """Whoever has entered hears of it; slots are made anew for the next."""
        with self._wake:
            failed = [ticket for ticket in self._tickets.values() if ticket not in self._new]
            for ticket in failed:
                del self._tickets[ticket.key]
        self._open.clear()
        for ticket in failed:
            ticket.settle(error)

    def _refuse_all(self, error: Exception) -> None:
        while True:
            with self._wake:
                while not (self._new or self._closed):
                    self._wake.wait()
                self._new.clear()
                tickets, self._tickets = list(self._tickets.values()), {}
            for ticket in tickets:
                ticket.settle(error)
            if self._closed:
                return
