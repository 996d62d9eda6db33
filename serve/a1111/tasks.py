"""What is being drawn for A1111's clients, so that they see how far it is and can interrupt it.

Each ingress replica knows its own; who asks is told of all.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TaskState:
    """How far a request is, as one server tells another."""

    task_id: str
    num_images: int
    num_steps: int  # of a picture
    began: float  # Unix time, s
    progress: float  # 0..1
    seconds_left: float  # by its own pace; 0 where nothing is known yet
    interrupted: bool
    preview: np.ndarray | None  # uint8 [H, W, 3]: the latest look at a picture in the making

    @property
    def timestamp(self) -> str:
        """As A1111 writes it."""
        return datetime.fromtimestamp(self.began, UTC).strftime("%Y%m%d%H%M%S")


@dataclass(slots=True, kw_only=True, eq=False)
class Task:
    """A request under way."""

    task_id: str
    owner: str  # who asked: a key, or an address
    num_images: int
    num_steps: int  # of a picture
    began: float = field(default_factory=time.time)  # Unix time, s
    shares: dict[int, float] = field(default_factory=dict)  # of the steps of each picture that is begun, 0..1
    preview: np.ndarray | None = None  # uint8 [H, W, 3]: the latest look at a picture in the making
    interrupted: bool = False
    drawing: asyncio.Task[None] | None = None

    def state(self) -> TaskState:
        """As it stands."""
        progress = sum(self.shares.values()) / self.num_images
        return TaskState(
            task_id=self.task_id,
            num_images=self.num_images,
            num_steps=self.num_steps,
            began=self.began,
            progress=progress,
            seconds_left=(time.time() - self.began) * (1 / progress - 1) if progress > 0 else 0.0,
            interrupted=self.interrupted,
            preview=self.preview,
        )


class Tasks:
    """The requests of one server. Nobody sees or interrupts anybody else's."""

    def __init__(self) -> None:
        self._tasks: list[Task] = []  # oldest first

    @contextmanager
    def begun(self, owner: str, task_id: str | None, num_images: int, num_steps: int) -> Iterator[Task]:
        """A request while it is under way."""
        name = task_id or f"task({secrets.token_hex(8)})"
        task = Task(task_id=name, owner=owner, num_images=num_images, num_steps=num_steps)
        self._tasks.append(task)
        try:
            yield task
        finally:
            self._tasks.remove(task)

    def of(self, owner: str, task_id: str | None = None) -> list[Task]:
        """What somebody asked for and has not got, oldest first; by its id if one is given."""
        return [task for task in self._tasks if task.owner == owner and task_id in (None, task.task_id)]

    def interrupt(self, owner: str) -> None:
        """Ends what is under way; what is drawn is answered as it is."""
        for task in self.of(owner):
            task.interrupted = True
            if task.drawing is not None:
                task.drawing.get_loop().call_soon_threadsafe(task.drawing.cancel)


Everywhere = Callable[..., Awaitable[list[Any]]]  # what a method of every ingress replica, by its name, gives


class TasksOfAll:
    """The requests of all ingress replicas: a client's next request may reach another one than draws for it."""

    def __init__(self, own: Tasks, everywhere: Everywhere | None = None) -> None:
        """`everywhere` calls `a1111_tasks` and `a1111_interrupt` of all replicas, this one too; None: it is alone."""
        self.own, self._everywhere = own, everywhere

    async def of(self, owner: str, task_id: str | None = None) -> list[TaskState]:
        """As Tasks.of."""
        if self._everywhere is None:
            return [task.state() for task in self.own.of(owner, task_id)]
        found = await self._everywhere("a1111_tasks", owner, task_id)
        return sorted((state for states in found for state in states), key=lambda state: state.began)

    async def interrupt(self, owner: str) -> None:
        """As Tasks.interrupt."""
        if self._everywhere is None:
            self.own.interrupt(owner)
        else:
            await self._everywhere("a1111_interrupt", owner)
