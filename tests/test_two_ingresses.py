"""Two ingress replicas under Ray: quotas count together, and whoever asks is told of what the other one does."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
import ray
from ray import serve as ray_serve

from factory.pack import Pack
from factory.store.keys import create_key
from factory.store.tables import Store
from serve.app import APP_NAME, start, stop
from serve.proxy import set_environment
from serve.settings import Settings
from studio.demo.port import free_port
from tests.serving import people_store

pytestmark = [pytest.mark.slow, pytest.mark.cluster, pytest.mark.timeout(600)]
SETTINGS = Settings(max_batch=4, max_ongoing=8, max_queued=8, num_threads=1, num_ingresses=2)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, tiny_pack: Pack) -> Store:
    return people_store(Path(tmp_path_factory.mktemp("root")), tiny_pack)


@pytest.fixture(scope="module")
def url(store: Store, tiny_pack: Pack) -> Iterator[str]:
    mine = not ray.is_initialized()
    if mine:
        set_environment()  # as `serve` does
        ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    create_key(store, ["draw"])  # from now on keys are asked for
    yield start(store.root, str(tiny_pack.root), port=free_port(20100), settings=SETTINGS)
    stop()
    if mine:
        ray.shutdown()


def client_of(url: str, store: Store, **limits: int) -> httpx.Client:
    """A key's own client. It keeps no connection, so that its requests reach both replicas."""
    text, _ = create_key(store, ["draw"], **limits)
    time.sleep(1.5)  # until both replicas know the key
    headers = {"authorization": f"Bearer {text}", "connection": "close"}
    return httpx.Client(base_url=url, headers=headers, timeout=120, limits=httpx.Limits(max_keepalive_connections=0))


def test_there_are_two(url: str) -> None:
    handle = ray_serve.get_app_handle(APP_NAME)
    assert handle.broadcast("a1111_tasks", "nobody").results() == [[], []]


def test_a_request_id_that_is_no_text_is_left_out(url: str) -> None:
    where = urlsplit(url)
    with socket.create_connection((where.hostname or "", where.port or 0), timeout=30) as connection:
        head = f"GET /healthz HTTP/1.1\r\nhost: {where.netloc}\r\nconnection: close\r\nx-request-id: "
        connection.sendall(head.encode() + b"\xff\xfe\r\n\r\n")
        answer = b"".join(iter(lambda: connection.recv(4096), b""))
    assert answer.startswith(b"HTTP/1.1 200") and b"x-request-id: " in answer.lower()


def test_the_counter_is_one(url: str, store: Store) -> None:
    with client_of(url, store, pictures_per_minute=6) as http:
        body = {"model": "ada", "prompt": "<person>", "num_inference_steps": 1}
        codes = [http.post("/v1/images/generations", json=body).status_code for _ in range(16)]
    assert codes.count(200) == 6 and codes.count(429) == 10, codes


def test_progress_and_interrupt_reach_whoever_draws(url: str, store: Store) -> None:
    with client_of(url, store) as http, ThreadPoolExecutor() as threads:
        asked = {"prompt": "ada", "steps": 150, "n_iter": 8, "seed": 1}
        drawing = threads.submit(http.post, "/sdapi/v1/txt2img", json=asked)
        while http.get("/sdapi/v1/progress").json()["state"]["job_count"] == 0 and not drawing.done():
            time.sleep(0.05)
        seen = [http.get("/sdapi/v1/progress").json()["state"]["job_count"] for _ in range(20)]
        assert not drawing.done(), drawing.result().text[:300]
        assert seen == [8] * 20, "whichever replica was asked"
        assert http.post("/sdapi/v1/interrupt").status_code == 200
        answer = drawing.result(60)
        assert answer.status_code == 200 and len(answer.json()["images"]) < 8


def test_work_is_one_book(url: str, store: Store) -> None:
    with client_of(url, store) as http, ThreadPoolExecutor(8) as threads:
        order = {"model": "ada", "num_iterations": 4000, "num_gaussians": 30}
        asked = [
            threads.submit(http.post, "/v1/heads", json=order, headers={"idempotency-key": "one"}) for _ in range(8)
        ]
        ids = {answer.result().json()["id"] for answer in asked}
        assert len(ids) == 1, "one key is one head, at whichever replica"
        [an_id] = ids
        deadline = time.monotonic() + 240
        while http.get(f"/v1/work/{an_id}").json()["progress"] == 0:
            assert time.monotonic() < deadline
            time.sleep(0.5)
        cards = [http.get(f"/v1/work/{an_id}").json() for _ in range(20)]
        assert {card["status"] for card in cards} <= {"in_progress", "queued"}
        assert http.post(f"/v1/work/{an_id}/cancel").json()["status"] == "cancelled"
        states = {http.get(f"/v1/work/{an_id}").json()["status"] for _ in range(10)}
        time.sleep(8)  # the other replica's beat
        assert {http.get(f"/v1/work/{an_id}").json()["status"] for _ in range(10)} == {"cancelled"}, states
        assert len(store.read("work").to_pylist()) == 1
