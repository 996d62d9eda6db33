"""Clients that load an endpoint on loopback: some who always wait for their picture, or arrivals by chance."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from benchmarks.processes import cpu_seconds

Body = Mapping[str, Any]  # of a POST to /v1/images/generations
_TIMEOUT_S = 120.0
_MAX_AT_ONCE = 128  # connections of arrivals by chance; the endpoint refuses before they are used up


@dataclass(slots=True, kw_only=True)
class Load:
    """What one or more runs of a load measured."""

    latencies_s: list[float] = field(default_factory=list)  # of pictures that came
    refused: int = 0  # 429
    seconds: float = 0.0  # of all runs, from the first request to the last picture
    steps: int = 0  # of the engine meanwhile
    rows: float = 0.0  # of all these steps together
    cpu_s: Counter[str] = field(default_factory=Counter)  # meanwhile, by role (benchmarks/processes.py)

    @property
    def pictures_per_s(self) -> float:
        return len(self.latencies_s) / self.seconds

    @property
    def rows_per_step(self) -> float:
        return self.rows / max(self.steps, 1)

    def percentile_s(self, percent: float) -> float:
        """Seconds within which so many of the pictures came."""
        return float(np.percentile(self.latencies_s, percent))

    def figures(self) -> dict[str, Any]:
        """All of it, as JSON takes it."""
        return asdict(replace(self, cpu_s=Counter())) | {"cpu_s": dict(self.cpu_s)}  # asdict counts a Counter's items

    def __add__(self, other: Load) -> Load:
        return Load(
            latencies_s=self.latencies_s + other.latencies_s,
            refused=self.refused + other.refused,
            seconds=self.seconds + other.seconds,
            steps=self.steps + other.steps,
            rows=self.rows + other.rows,
            cpu_s=self.cpu_s + other.cpu_s,
        )


class Client:
    """One connection to an endpoint, kept open. For one thread."""

    def __init__(self, url: str) -> None:
        """`url` is the endpoint's, with its prefix; only 127.0.0.1 is asked."""
        parts = urlsplit(url)
        assert parts.hostname == "127.0.0.1"
        self._prefix = parts.path
        self._connection = HTTPConnection("127.0.0.1", parts.port, timeout=_TIMEOUT_S)

    def picture(self, body: Body) -> bool:
        """Whether a picture came; False is a refusal because too many wait."""
        status, answer = self._ask("POST", "/v1/images/generations", json.dumps(body))
        if status not in (200, 429):
            raise RuntimeError(f"{status}: {answer.decode(errors='replace')}")
        return status == 200

    def stats(self) -> dict[str, float]:
        """What /v1/stats says."""
        status, answer = self._ask("GET", "/v1/stats")
        assert status == 200
        stats: dict[str, float] = json.loads(answer)
        return stats

    def _ask(self, method: str, path: str, body: str | None = None) -> tuple[int, bytes]:
        self._connection.request(method, self._prefix + path, body, {"content-type": "application/json"})
        response = self._connection.getresponse()
        return response.status, response.read()


def closed_loop(url: str, bodies: Sequence[Body], clients: int, *, seconds: float) -> Load:
    """Clients that ask for the next picture when they have theirs, until all are asked for or time is up."""
    todo, lock, load = iter(bodies), threading.Lock(), Load()
    deadline = time.perf_counter() + seconds

    def work() -> None:
        client = Client(url)
        while (began := time.perf_counter()) < deadline:
            with lock:
                body = next(todo, None)
            if body is None:
                return
            _record(load, lock, client.picture(body), began)

    return _run(url, load, clients, [work] * clients)


def arrivals(url: str, bodies: Sequence[Body], rate: float, *, seconds: float, seed: int) -> Load:
    """Requests at a Poisson process's times, `rate` a second, whatever became of those before; a latency counts from
    the time at which a request was to be sent."""
    times = _poisson(rate, seconds, np.random.default_rng(seed))
    start, lock, load, own = time.perf_counter(), threading.Lock(), Load(), threading.local()

    def ask(due: float, body: Body) -> None:
        if not hasattr(own, "client"):
            own.client = Client(url)
        _record(load, lock, own.client.picture(body), due)

    def work() -> None:
        with ThreadPoolExecutor(_MAX_AT_ONCE) as pool:
            asked = []
            for number, offset in enumerate(times):
                time.sleep(max(0.0, start + offset - time.perf_counter()))
                asked.append(pool.submit(ask, start + offset, bodies[number % len(bodies)]))
            for one in asked:
                one.result()

    return _run(url, load, 1, [work])


def _run(url: str, load: Load, threads: int, work: Sequence[Any]) -> Load:
    """Does the work, and looks at the engine before and after."""
    client = Client(url)
    before, began, cpu_before = client.stats(), time.perf_counter(), cpu_seconds()
    with ThreadPoolExecutor(threads) as pool:
        for one in [pool.submit(each) for each in work]:
            one.result()
    load.seconds = time.perf_counter() - began
    load.cpu_s = cpu_seconds() - cpu_before
    after = client.stats()
    load.steps = int(after["steps"] - before["steps"])
    load.rows = after["steps"] * after["rows_per_step"] - before["steps"] * before["rows_per_step"]
    return load


def _record(load: Load, lock: threading.Lock, came: bool, began: float) -> None:
    seconds = time.perf_counter() - began
    with lock:
        if came:
            load.latencies_s.append(seconds)
        else:
            load.refused += 1


def _poisson(rate: float, seconds: float, rng: np.random.Generator) -> Iterator[float]:
    at = 0.0
    while (at := at + float(rng.exponential(1 / rate))) < seconds:
        yield at
