"""The trainer's loop: who joins, who leaves, who hears of what."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from factory.config import Recipe, TrainConfig
from factory.learn.trainer import Learned
from factory.records import PreparedFace
from serve.learn_loop import LearnLoop

STEPS = 3
RECIPE = Recipe(train=TrainConfig(num_steps=STEPS))
OTHER = Recipe(train=TrainConfig(num_steps=STEPS, seed=1))


@dataclass(eq=False)
class FakeFace:
    name: str


@dataclass(eq=False)
class FakeLearning:
    """Two slots; steps when it is told to."""

    trainer: FakeTrainer
    recipe: Recipe
    waiting: list[FakeFace] = field(default_factory=list)
    steps: dict[FakeFace, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.waiting) + len(self.steps)

    def add(self, face: FakeFace) -> None:
        self.waiting.append(face)

    def drop(self, face: FakeFace) -> None:
        self.waiting = [other for other in self.waiting if other is not face]
        self.steps.pop(face, None)

    def progress(self) -> list[tuple[FakeFace, float]]:
        return [(face, done / STEPS) for face, done in self.steps.items()]

    def step(self) -> list[Learned]:
        assert self.trainer.go.acquire(timeout=10)
        if self.trainer.fails:
            self.trainer.fails = False
            raise RuntimeError("the GPU is lost")
        while self.waiting and len(self.steps) < 2:
            self.steps[self.waiting.pop(0)] = 0
        self.trainer.log.append("".join(face.name for face in self.steps))
        for face in self.steps:
            self.steps[face] += 1
        done = [face for face, num in self.steps.items() if num == STEPS]
        for face in done:
            del self.steps[face]
        return [Learned(face=cast(PreparedFace, face), words_VD=cast(Any, None), identity=None) for face in done]


@dataclass
class FakeTrainer:
    go: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    log: list[str] = field(default_factory=list)
    fails: bool = False

    def open(self, recipe: Recipe) -> FakeLearning:
        return FakeLearning(self, recipe)

    def allow(self, num: int) -> None:
        """So many steps, and waits until they are done."""
        before = len(self.log)
        self.go.release(num)
        deadline = time.monotonic() + 10
        while len(self.log) < before + num:
            assert time.monotonic() < deadline, f"only {len(self.log) - before} of {num} steps were done"
            time.sleep(0.001)
        time.sleep(0.02)  # what follows the step


@pytest.fixture
def trainer() -> FakeTrainer:
    return FakeTrainer()


@pytest.fixture
def loop(trainer: FakeTrainer) -> Iterator[LearnLoop]:
    loop = LearnLoop(lambda: cast(Any, trainer))
    yield loop
    trainer.go.release(1000)
    loop.close()


def ask(loop: LearnLoop, name: str, recipe: Recipe = RECIPE, **how: Any) -> Any:
    return loop.submit(name, cast(PreparedFace, FakeFace(name)), recipe, **how)


def test_whoever_comes_joins_the_running_slots_and_leaves_when_done(trainer: FakeTrainer, loop: LearnLoop) -> None:
    shares: list[float] = []
    first = ask(loop, "a", on_progress=shares.append)
    trainer.allow(1)
    second, third = ask(loop, "b"), ask(loop, "c")
    trainer.allow(5)
    assert [future.result(10).face.name for future in (first, second, third)] == ["a", "b", "c"]
    assert trainer.log[:3] == ["a", "a", "ab"] and trainer.log[3:] == ["bc", "bc", "c"]
    assert shares == pytest.approx([1 / 3, 2 / 3])


def test_cancelling_frees_the_slot_and_the_others_go_on(trainer: FakeTrainer, loop: LearnLoop) -> None:
    futures = {name: ask(loop, name) for name in "abc"}
    trainer.allow(1)
    assert futures["a"].cancel()
    trainer.allow(4)
    assert [futures[name].result(10).face.name for name in "bc"] == ["b", "c"]
    assert trainer.log[0] == "ab" or trainer.log[0] == "a"
    assert all("a" not in names for names in trainer.log[2:])


def test_the_same_person_asked_for_twice_is_learned_once(trainer: FakeTrainer, loop: LearnLoop) -> None:
    one, two = ask(loop, "a"), ask(loop, "a")
    trainer.allow(1)
    assert one.cancel()  # the other still waits
    trainer.allow(2)
    assert two.result(10).face.name == "a" and trainer.log == ["a", "a", "a"]


def test_recipes_take_turns(trainer: FakeTrainer, loop: LearnLoop) -> None:
    futures = [ask(loop, "a"), ask(loop, "b", OTHER)]
    trainer.allow(6)
    assert all(future.result(10) for future in futures)
    assert sorted(trainer.log) == ["a"] * 3 + ["b"] * 3 and trainer.log != ["a"] * 3 + ["b"] * 3


def test_when_a_step_fails_those_in_it_hear_of_it_and_the_next_are_learned(
    trainer: FakeTrainer, loop: LearnLoop
) -> None:
    trainer.fails = True
    lost = ask(loop, "a")
    trainer.go.release()
    with pytest.raises(RuntimeError, match="the GPU is lost"):
        lost.result(10)
    later = ask(loop, "b")
    trainer.allow(3)
    assert later.result(10).face.name == "b"


def test_a_trainer_that_does_not_load_is_told_to_all() -> None:
    def load() -> Any:
        raise OSError("no weights")

    loop = LearnLoop(load)
    for _ in range(2):
        with pytest.raises(OSError, match="no weights"):
            ask(loop, "a").result(10)
    loop.close()


def test_closing_cancels_what_is_not_finished(trainer: FakeTrainer) -> None:
    loop = LearnLoop(lambda: cast(Any, trainer))
    future = ask(loop, "a")
    trainer.go.release(1)
    time.sleep(0.05)
    trainer.go.release(100)
    loop.close()
    assert future.cancelled() or future.result(0)  # as it came: three steps take no time
    with pytest.raises(CancelledError):
        closed = LearnLoop(lambda: cast(Any, FakeTrainer(go=threading.Semaphore(0))))
        waiting = ask(closed, "b")
        waiting.cancel()
        waiting.result(1)
