"""Stopping the endpoint: what is under way is finished, what is new is refused; and roots that are none."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from factory.config import GenerateConfig
from factory.pack import Pack
from factory.records import ImageRequest
from factory.store.tables import Store
from serve import app, stopping
from serve.client import ImageClient
from serve.stopping import Door, Stopping, StopSignals, finish
from tests import serving
from tests.serving import FakeGenerator, ask, client_of, error_of, person

store, fake = serving.store, serving.fake  # fixtures


@dataclass
class FakeIngress:
    """Stands for the handle of the ingress: each look finds one request less."""

    inside: int
    called: list[str] = field(default_factory=list)

    def broadcast(self, method: str) -> FakeIngress:
        self.called.append(method)
        return self

    def results(self) -> list[int]:
        self.inside -= 1
        return [max(self.inside + 1, 0)]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping, "_LOOK_S", 0.001)
    monkeypatch.setattr(stopping, "_GRACE_S", 0.0)


@pytest.fixture(autouse=True)
def hangup_is_heard() -> Iterator[None]:
    """Under nohup a process ignores SIGHUP from its start, and these tests would wait for what never comes."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def send(number: signal.Signals) -> None:
    """The signal, once this thread waits."""
    threading.Timer(0.05, os.kill, (os.getpid(), number)).start()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_one_signal_asks_two_hurry_three_interrupt(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with StopSignals() as signals:
        send(number)
        signals.wait()
        assert not signals.urgent
        send(number)
        time.sleep(0.2)
        assert signals.urgent
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
    assert signal.getsignal(number) == before


def test_a_signal_that_another_thread_gets_ends_the_wait() -> None:
    with StopSignals() as signals:
        threading.Timer(0.05, lambda: signal.pthread_kill(threading.get_ident(), signal.SIGHUP)).start()
        signals.wait()
        assert not signals.urgent


def test_a_signal_before_the_server_is_ready_interrupts_and_nohup_is_respected() -> None:
    with StopSignals(), pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGTERM)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignals():
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_finishing_waits_for_what_is_under_way() -> None:
    ingress = FakeIngress(3)
    assert finish(ingress, 60.0, StopSignals()) == 0 and ingress.called == ["close"] * 4  # type: ignore[arg-type]


def test_after_the_limit_or_in_a_hurry_the_rest_is_given_up() -> None:
    late, hurried = FakeIngress(3), StopSignals()
    assert finish(late, 0.0, StopSignals()) == 3 and late.called == ["close", "give_up"]  # type: ignore[arg-type]
    hurried._num_heard = 2
    assert finish(FakeIngress(2), 60.0, hurried) == 2  # type: ignore[arg-type]


def test_behind_a_closed_door_everything_is_503(store: Store, tiny_pack: Pack, fake: FakeGenerator) -> None:
    door = Door()
    http = client_of(store, tiny_pack, fake, door)
    assert ask(http).status_code == 200 and door.num_inside == 0
    door.closed = True
    for response in (ask(http), http.get("/v1/models"), http.get("/healthz"), http.get("/nowhere")):
        assert response.status_code == 503 and response.headers["x-should-retry"] == "true"
        assert error_of(response)["code"] == "server_stopping" and int(response.headers["retry-after"]) > 0


def test_who_is_inside_is_counted_until_the_answer_is_sent(store: Store, tiny_pack: Pack) -> None:
    counted: list[int] = []

    class Counting(FakeGenerator):
        async def work(self, job: ImageRequest) -> Any:
            counted.append(door.num_inside)
            return await super().work(job)

    door = Door()
    http = client_of(store, tiny_pack, Counting(), door)
    assert ask(http).status_code == 200 and ask(http, model="nobody").status_code == 404
    assert counted == [1] and door.num_inside == 0


def test_what_is_given_up_is_taken_back_and_told(fake: FakeGenerator) -> None:
    fake.endless = True
    client = ImageClient(fake.submit, fake.submit_with_previews, fake.submit_clip, timeout_s=60.0)
    request = ImageRequest(identity=person(1, "ada", ""), prompt="snow", seed=0, config=GenerateConfig())

    async def given_up() -> None:
        waiting = asyncio.create_task(client.images([request, request]))
        await asyncio.sleep(0.01)
        client.give_up()
        with pytest.raises(Stopping):
            await waiting
        with pytest.raises(Stopping):  # it was inside already, but asks only now
            await client.images([request])

    asyncio.run(given_up())
    assert [pending.cancelled for pending in fake.pending[:2]] == [True, True]


def test_streams_are_given_up_too(fake: FakeGenerator) -> None:
    fake.endless = True
    client = ImageClient(fake.submit, fake.submit_with_previews, fake.submit_clip, timeout_s=60.0)
    request = ImageRequest(identity=person(1, "ada", ""), prompt="snow", seed=0, config=GenerateConfig())

    async def given_up() -> None:
        events = client.events([request], 2)
        assert [(await anext(events))[0] for _ in range(2)] == [0, 0]
        asyncio.get_running_loop().call_later(0.01, client.give_up)
        with pytest.raises(Stopping):
            await anext(events)

    asyncio.run(given_up())
    assert fake.pending[0].cancelled


def test_a_root_that_is_none_is_refused_before_anything_starts(tmp_path: Path, tiny_pack: Pack) -> None:
    (tmp_path / "file").write_text("")
    for root, told in ((tmp_path / "mistyped", "does not exist"), (tmp_path / "file", "is a file")):
        with pytest.raises(ValueError, match=told):
            app.start(str(root), str(tiny_pack.root), port=20299)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "to"),
    [
        (signal.SIGINT, os.killpg),  # Ctrl-C: a terminal tells the whole group
        (signal.SIGTERM, os.kill),  # `docker stop`, Kubernetes
    ],
)
def test_the_command_finishes_what_it_draws_and_exits_with_0(
    store: Store, tiny_pack: Pack, number: signal.Signals, to: Callable[[int, int], None]
) -> None:
    command = [sys.executable, "-m", "cli", "serve", "--root", store.root, "--pack", str(tiny_pack.root)]
    command += ["--port", "20298"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        assert server.stdout is not None
        while not (line := server.stdout.readline()).startswith("serving"):
            assert line, "it ended before it served"
        url, body = "http://127.0.0.1:20298/v1/images/generations", {"model": "ada", "prompt": "snow"}
        with httpx.Client(trust_env=False, timeout=120) as http, ThreadPoolExecutor(1) as pool:
            under_way = pool.submit(http.post, url, json=body | {"n": 8, "num_inference_steps": 200})
            time.sleep(1.5)  # until it is inside
            to(server.pid, number)
            time.sleep(0.5)
            assert http.post(url, json=body).status_code == 503
            assert under_way.result().status_code == 200
        assert server.wait(60) == 0
    finally:
        if server.poll() is None:
            os.killpg(server.pid, signal.SIGKILL)
