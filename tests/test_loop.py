"""A replica's loop: who joins, who leaves, who is shown what, and what an error costs the others."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import pytest

from factory.config import GenerateConfig
from factory.draw.engine import Engine
from factory.records import ImageRequest, TokenCount
from serve.loop import EngineLoop, ImageResult, LoopStats

NONE = TokenCount(given=0, read=0)


@dataclass(eq=False)
class FakeRow:
    request: ImageRequest
    step: int = 0
    clip: None = None
    prompt: TokenCount = NONE
    negative_prompt: TokenCount = NONE

    @property
    def done(self) -> bool:
        return self.step == self.request.config.num_inference_steps

    @property
    def x_CHW(self) -> int:
        return self.request.seed

    @property
    def guess_CHW(self) -> int:
        return 100 * self.step + self.request.seed


@dataclass
class FakeEngine:
    """Steps when it is told to; its latents are numbers, and its pictures hold them."""

    go: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    rows: list[FakeRow] = field(default_factory=list)
    at_each_step: list[list[int]] = field(default_factory=list)
    fails_at: int | None = None  # step

    def add(self, requests: Sequence[ImageRequest]) -> list[FakeRow]:
        if any(request.prompt == "bad" for request in requests):
            raise ValueError("bad prompt")
        made = [FakeRow(request) for request in requests]
        self.rows += made
        return made

    def drop(self, row: FakeRow) -> None:
        self.rows = [other for other in self.rows if other is not row]

    def step(self) -> list[FakeRow]:
        assert self.go.acquire(timeout=10)
        if len(self.at_each_step) == self.fails_at:
            self.fails_at = None
            raise RuntimeError("the GPU is lost")
        self.at_each_step.append([row.request.seed for row in self.rows])
        for row in self.rows:
            row.step += 1
        finished = [row for row in self.rows if row.done]
        self.rows = [row for row in self.rows if not row.done]
        return finished

    def decode(self, latents: Sequence[int]) -> list[np.ndarray]:
        return [np.full((1, 1, 3), latent % 256, np.uint8) for latent in latents]

    def allow(self, num: int) -> None:
        """So many steps, and waits until they are done."""
        before = len(self.at_each_step)
        self.go.release(num)
        deadline = time.monotonic() + 10
        while len(self.at_each_step) < before + num:
            assert time.monotonic() < deadline, f"only {len(self.at_each_step) - before} of {num} steps were done"
            time.sleep(0.001)
        time.sleep(0.02)  # what follows the step


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def loop(engine: FakeEngine) -> Iterator[EngineLoop]:
    loop = EngineLoop(cast(Engine, engine), max_rows=2)
    yield loop
    engine.go.release(1000)
    loop.close()


def ask(seed: int, steps: int = 4, prompt: str = "snow") -> ImageRequest:
    config = GenerateConfig(num_inference_steps=steps)
    return ImageRequest(identity=cast(Any, None), prompt=prompt, seed=seed, config=config)


def shown(result: ImageResult) -> int:
    return int(result.image[0, 0, 0])


def test_whoever_comes_joins_at_the_next_step_and_makes_room_when_it_is_done(
    engine: FakeEngine, loop: EngineLoop
) -> None:
    first = loop.submit(ask(1, steps=3))
    engine.allow(1)
    second, third = loop.submit(ask(2, steps=4)), loop.submit(ask(3, steps=1))
    engine.allow(5)
    assert [shown(future.result(10)) for future in (first, second, third)] == [1, 2, 3]
    # the step under way when the second came was the first one's alone; the third waits for a row
    assert engine.at_each_step == [[1], [1], [1, 2], [2, 3], [2], [2]]
    assert first.result().rows_per_step == pytest.approx(4 / 3)
    stats = loop.stats()
    assert (stats.images, stats.steps, stats.rows, stats.most_rows) == (3, 6, 8, 2) and stats.step_s > 0
    assert (stats.waiting, stats.in_the_making) == (0, 0)


def held(engine: FakeEngine) -> EngineLoop:
    """A loop of four rows at a step that is not allowed yet: who comes now enters behind it, however fast it comes."""
    loop = EngineLoop(cast(Engine, engine), max_rows=4)
    loop.submit(ask(0, steps=1))
    while not engine.rows:
        time.sleep(0.001)
    return loop


def test_the_patient_take_half_of_the_rows_and_enter_when_no_other_waits(engine: FakeEngine) -> None:
    loop = held(engine)
    batch = [loop.submit(ask(100 + number, steps=3), patient=True) for number in range(4)]
    engine.allow(2)
    assert loop.stats().waiting == loop.stats().in_the_making == 2
    live = [loop.submit(ask(number, steps=1)) for number in (1, 2, 3, 4, 5)]
    engine.allow(6)
    assert [shown(future.result(10)) for future in live] == [1, 2, 3, 4, 5]
    assert [shown(future.result(10)) for future in batch] == [100, 101, 102, 103]
    # one step was under way when the live ones came; the rows that the batch left are theirs at the next one
    assert engine.at_each_step[:4] == [[0], [100, 101], [100, 101], [100, 101, 1, 2]]
    assert engine.at_each_step[4:] == [[3, 4, 5, 102], [102, 103], [102, 103], [103]]
    loop.close()


def test_beside_others_a_batch_goes_on_with_an_eighth_of_the_rows(engine: FakeEngine) -> None:
    loop = held(engine)
    batch = [loop.submit(ask(100 + number, steps=1), patient=True) for number in range(3)]
    live = [loop.submit(ask(number, steps=2)) for number in (1, 2, 3, 4)]
    assert batch[1].cancel()
    engine.allow(3)
    assert engine.at_each_step == [[0], [1, 2, 3, 4], [1, 2, 3, 4]]  # not one row while others need all
    others = [loop.submit(ask(number, steps=1)) for number in (5, 6, 7)]
    engine.allow(2)
    assert engine.at_each_step[3:] == [[100, 102], [5, 6, 7]]
    assert [shown(future.result(10)) for future in live + others] == [1, 2, 3, 4, 5, 6, 7]
    loop.close()


def test_whoever_goes_away_leaves_at_the_next_step_or_never_enters(engine: FakeEngine, loop: EngineLoop) -> None:
    futures = [loop.submit(ask(seed, steps=3)) for seed in (1, 2, 3, 4)]
    engine.allow(1)
    assert loop.stats().waiting == 2 and loop.stats().in_the_making == 2
    assert futures[0].cancel() and futures[2].cancel()
    engine.allow(4)
    assert [shown(futures[n].result(10)) for n in (1, 3)] == [2, 4]
    assert engine.at_each_step[:2] == [[1, 2], [1, 2]]  # one step was under way
    assert all(3 not in rows for rows in engine.at_each_step)
    assert engine.at_each_step[2] == [2, 4] and engine.at_each_step[3] == [4]


def test_a_request_that_cannot_be_drawn_costs_the_others_nothing(engine: FakeEngine, loop: EngineLoop) -> None:
    first = loop.submit(ask(1, steps=1))
    bad, good = loop.submit(ask(2, prompt="bad")), loop.submit(ask(3, steps=1))
    engine.allow(2)
    with pytest.raises(ValueError, match="bad prompt"):
        bad.result(10)
    assert (shown(first.result(10)), shown(good.result(10))) == (1, 3)


def test_when_a_step_fails_those_in_it_hear_of_it_and_the_next_ones_are_drawn(
    engine: FakeEngine, loop: EngineLoop
) -> None:
    engine.fails_at = 0
    lost = loop.submit(ask(1))
    engine.go.release()
    with pytest.raises(RuntimeError, match="the GPU is lost"):
        lost.result(10)
    later = loop.submit(ask(2, steps=1))
    engine.allow(1)
    assert shown(later.result(10)) == 2 and engine.rows == []


@pytest.mark.parametrize(("previews", "steps", "at"), [(1, 4, [2]), (3, 8, [2, 4, 6]), (3, 2, [1]), (0, 4, [])])
def test_previews_are_spread_over_the_steps(
    engine: FakeEngine, loop: EngineLoop, previews: int, steps: int, at: list[int]
) -> None:
    seen: list[tuple[int, int]] = []
    future = loop.submit(
        ask(0, steps=steps), num_previews=previews, on_preview=lambda n, image: seen.append((n, int(image[0, 0, 0])))
    )
    engine.allow(steps)
    future.result(10)
    assert seen == [(number, 100 * step % 256) for number, step in enumerate(at)]


def test_closing_cancels_what_is_not_finished(engine: FakeEngine) -> None:
    loop = EngineLoop(cast(Engine, engine), max_rows=1)
    futures: list[Future[ImageResult]] = [loop.submit(ask(seed)) for seed in (1, 2)]
    engine.go.release(1)
    loop.close()
    for future in futures:
        with pytest.raises(CancelledError):
            future.result(10)


def test_the_thread_begins_with_what_it_is_told(engine: FakeEngine) -> None:
    called: list[int] = []
    loop = EngineLoop(cast(Engine, engine), max_rows=1, start_thread=lambda: called.append(threading.get_ident()))
    future = loop.submit(ask(1, steps=1))
    engine.allow(1)
    future.result(10)
    loop.close()
    assert len(called) == 1 and called[0] != threading.get_ident()


def test_stats_of_replicas_add_up() -> None:
    one = LoopStats(images=3, steps=10, rows=20, step_s=1.5, most_rows=4, waiting=1, in_the_making=2)
    two = LoopStats(images=1, steps=5, rows=5, step_s=0.5, most_rows=1)
    assert one + two == LoopStats(images=4, steps=15, rows=25, step_s=2.0, most_rows=4, waiting=1, in_the_making=2)


def test_a_tenants_one_picture_waits_at_most_two_batches_behind_anothers_200(engine: FakeEngine) -> None:
    loop, steps = EngineLoop(cast(Engine, engine), max_rows=16), 4
    crowd = [loop.submit(ask(seed, steps=steps), tenant="a") for seed in range(200)]
    engine.allow(1)
    came, one = len(engine.at_each_step), loop.submit(ask(255, steps=steps), tenant="b")
    engine.allow(3 * steps)
    assert shown(one.result(10)) == 255
    (*_, last) = (number for number, rows in enumerate(engine.at_each_step, start=1) if 255 in rows)
    assert last - came <= 2 * steps + steps, "steps: two batches, and its own"
    assert sum(future.done() for future in crowd) <= 48 and loop.stats().waiting > 100, "the others still wait"
    engine.go.release(10_000)
    loop.close()
