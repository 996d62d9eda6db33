"""What is being drawn for A1111's clients, so that they see how far it is and can interrupt it."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np


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

    @property
    def progress(self) -> float:
        """0..1"""
        return sum(self.shares.values()) / self.num_images

    @property
    def seconds_left(self) -> float:
        """By its own pace; 0 where nothing is known yet."""
        return (time.time() - self.began) * (1 / self.progress - 1) if self.progress > 0 else 0.0

    @property
    def timestamp(self) -> str:
        """As A1111 writes it."""
        return datetime.fromtimestamp(self.began, UTC).strftime("%Y%m%d%H%M%S")


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
