"""A server that is killed in the middle of a batch: what comes after it has every line once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import openai
import pytest

from factory.pack import Pack
from factory.store.tables import Store
from studio.demo.port import free_port
from tests.batching import begin, ended, lines, task
from tests.serving import people_store

NUM = 200  # requests
pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(1800)]  # Ray starts three times


class Server:
    """`identity-factory serve` in a process group of its own."""

    def __init__(self, root: str, pack: Pack, log: Path) -> None:
        self.port = free_port(20100)
        serve = [sys.executable, "-m", "cli", "serve", "--root", root, "--pack", str(pack.root)]
        environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        with log.open("ab") as out:
            self.process = subprocess.Popen(
                [*serve, "--port", str(self.port)], start_new_session=True, env=environment, stdout=out, stderr=out
            )
        deadline = time.monotonic() + 1200
        while not self.answers():
            assert self.process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.5)

    def answers(self) -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}/healthz", timeout=5).status_code == 200
        except httpx.HTTPError:
            return False

    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"http://127.0.0.1:{self.port}/v1", api_key="unused")

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def test_killed_twice_a_batch_has_every_line_once(tiny_pack: Pack, tmp_path: Path) -> None:
    store: Store = people_store(tmp_path / "root", tiny_pack)
    tasks = [task(str(number), prompt=f"<person> in room {number}", num_inference_steps=8) for number in range(NUM)]
    batch_id, kept = "", list[dict[str, object]]()
    for share in (0.2, 0.6):
        server = Server(store.root, tiny_pack, tmp_path / "log")
        try:
            if not batch_id:
                batch_id = begin(server.client(), tasks).id
            deadline = time.monotonic() + 1200
            while store.count("lines") < share * NUM:
                assert time.monotonic() < deadline, (tmp_path / "log").read_text()
                time.sleep(0.02)
        finally:
            server.kill()
        rows = store.read("lines").to_pylist()
        print(f"killed with {len(rows)} of {NUM} lines")
        assert share * NUM <= len(rows) < NUM, "killed too late to show anything"
        assert all(row in rows for row in kept)
        kept = rows
    server = Server(store.root, tiny_pack, tmp_path / "log")
    try:
        began = time.monotonic()
        batch = ended(server.client(), batch_id, within_s=1200)
        print(f"completed {time.monotonic() - began:.0f} s after the last start")
        assert batch.status == "completed" and batch.request_counts is not None
        assert batch.request_counts.model_dump() == {"total": NUM, "completed": NUM, "failed": 0}
        answers = lines(server.client(), batch.output_file_id)
    finally:
        server.kill()
    assert sorted(int(answer["custom_id"]) for answer in answers) == list(range(NUM))
    rows = store.read("lines").to_pylist()
    assert len(rows) == len({row["line"] for row in rows}) == NUM and all(row in rows for row in kept)
