"""Many writers to one table: what benchmarks.scale measures of them."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import ray

from benchmarks.lookup import rows_of
from factory.store.tables import Store
from pipelines.jobs.committer import committed

HAND_OVER_ROWS: Final = 8
PROCESSES: Final = 8  # of writers, at most


class Writers:
    """Some writers in one process."""

    def write(self, store: Store, writers: Sequence[int], seconds: float) -> dict[str, Any]:
        """Rows that each committed within the time, and the milliseconds each commit took."""
        with ThreadPoolExecutor(len(writers)) as threads:
            done = list(threads.map(lambda writer: self._write(store, writer, seconds), writers))
        return {"rows": [num for num, _ in done], "ms": [ms for _, own in done for ms in own]}

    def _write(self, store: Store, writer: int, seconds: float) -> tuple[int, list[float]]:
        num, times, deadline = 0, list[float](), time.monotonic() + seconds
        while time.monotonic() < deadline:
            rows = rows_of(10_000_000 * (writer + 1) + num, HAND_OVER_ROWS, 192)
            started = time.perf_counter()
            store.upsert_table("identities", rows)
            times.append((time.perf_counter() - started) * 1e3)
            num += HAND_OVER_ROWS
        return num, times


def measure_writers(root: Path, num: int, seconds: float, shared: bool) -> dict[str, float]:
    """Rows a second that so many writers commit, and how long one waits for a commit."""
    shutil.rmtree(root, ignore_errors=True)
    store = committed(str(root)) if shared else Store(root)
    processes = min(num, PROCESSES)
    actors: list[Any] = [ray.remote(num_cpus=0)(Writers).remote() for _ in range(processes)]
    ray.get([actor.write.remote(Store(f"{root}-warm"), [number], 0.5) for number, actor in enumerate(actors)])
    started = time.perf_counter()
    shares = [range(first, num, processes) for first in range(processes)]
    done = ray.get([actor.write.remote(store, share, seconds) for actor, share in zip(actors, shares, strict=True)])
    took_s = time.perf_counter() - started
    written = dict(zip((w for share in shares for w in share), (n for one in done for n in one["rows"]), strict=True))
    expected = {an_id for writer, rows in written.items() for an_id in _ids(writer, rows)}
    there = store.read("identities", columns=["identity_id"])["identity_id"].to_pylist()
    if sorted(there) != sorted(expected):
        raise RuntimeError(f"{len(there)} rows are there, {len(expected)} were written")
    for actor in actors:
        ray.kill(actor)
    shutil.rmtree(root)
    shutil.rmtree(f"{root}-warm")
    times = sorted(ms for one in done for ms in one["ms"])
    return {"rows_a_second": len(there) / took_s, "median_ms": times[len(times) // 2], "slowest_ms": times[-1]}


def _ids(writer: int, num: int) -> list[str]:
    first = 10_000_000 * (writer + 1)
    ids: list[str] = rows_of(first, num, 1)["identity_id"].to_pylist() if num else []
    return ids
