"""What a root costs as it grows, and how many can write to it at once.

    python -m benchmarks.scale --sizes 10000 100000 --out benchmarks/scale_MACHINE_YYYY-MM

For each size a root with so many identities, of photos of their own, in files of 1,024 as a tidied one has: look-ups by
name and by id (words read), pages of 20, upserts of 32 (with what falls due every few commits), an erasure with its
proof, which reads every byte. Then, on an empty root each, writers in eight processes that commit 8 rows at a time for
some seconds: by themselves, and through a job's committer. Every row must be there once.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import lance
import pyarrow as pa
import ray

from benchmarks.lookup import identities, milliseconds
from benchmarks.measure import hardware, markdown
from factory.store.commits import open_to_write
from factory.store.erase import erase, find_person
from factory.store.schemas import SCHEMAS
from factory.store.tables import Store
from pipelines.jobs.cluster import connect
from pipelines.jobs.committer import CommittedStore

_FILE_ROWS: Final = 1024
_COMMIT_ROWS: Final = 32
_HAND_OVER_ROWS: Final = 8
_PAGE: Final = 20
_PROCESSES: Final = 8  # of writers, at most
_START: Final = datetime(2026, 1, 1, tzinfo=UTC)
_BARS: Final = {"look-up by name": 5.0, "look-up by id": 5.0, "page of 20": 20.0, "page of 20 from anywhere": 20.0}


def rows_of(first: int, num: int, width: int) -> pa.Table:
    """Identities of which each came a second after the one before."""
    table = identities(first, num, width)
    times = [(_START + timedelta(seconds=number)).isoformat() for number in range(first, first + num)]
    place = table.schema.get_field_index("created_at")
    return table.set_column(place, table.schema.field(place), pa.array(times))


def fill(root: Path, num: int, width: int) -> Store:
    """A tidied store of so many identities."""

    def batches() -> Iterator[pa.RecordBatch]:
        for first in range(0, num, _FILE_ROWS):
            yield from rows_of(first, min(_FILE_ROWS, num - first), width).to_batches()

    store = Store(root)
    uri = store.uri("identities")
    open_to_write(uri, "identities", None)
    reader = pa.RecordBatchReader.from_batches(SCHEMAS["identities"], batches())
    lance.write_dataset(reader, uri, mode="append", max_rows_per_file=_FILE_ROWS)
    store.tidy("identities")
    return store


def measure(store: Store, num: int, width: int, repeats: int) -> dict[str, dict[str, float]]:
    """Milliseconds, median and 95th percentile, of what is done to a root of `num` identities."""
    draw, fresh = random.Random(0), iter(range(num, 10**9, _COMMIT_ROWS))
    ids = rows_of(num // 2, min(64, num // 4), 4)["identity_id"].to_pylist()
    names = [f"person {draw.randrange(num)}" for _ in range(repeats + 1)]
    commits = [rows_of(next(fresh), _COMMIT_ROWS, width) for _ in range(repeats // 2 + 1)]
    return {
        "look-up by name": milliseconds(lambda: store.find_identity(names.pop()), repeats),
        "look-up by id": milliseconds(lambda: store.find_identity(draw.choice(ids)), repeats),
        "page of 20": milliseconds(lambda: store.identity_page(_PAGE), repeats // 4),
        "page of 20 from anywhere": milliseconds(lambda: store.identity_page(_PAGE, draw.choice(ids)), repeats // 4),
        "upsert of 32": milliseconds(lambda: store.upsert_table("identities", commits.pop()), repeats // 2),
        "erasure": milliseconds(lambda: erase(store, find_person(store, name=f"person {num // 3}"), waits_s=()), 1),
    }


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
            rows = rows_of(10_000_000 * (writer + 1) + num, _HAND_OVER_ROWS, 192)
            started = time.perf_counter()
            store.upsert_table("identities", rows)
            times.append((time.perf_counter() - started) * 1e3)
            num += _HAND_OVER_ROWS
        return num, times


def measure_writers(root: Path, num: int, seconds: float, shared: bool) -> dict[str, float]:
    """Rows a second that so many writers commit, and how long one waits for a commit."""
    shutil.rmtree(root, ignore_errors=True)
    store = CommittedStore(str(root)) if shared else Store(root)
    processes = min(num, _PROCESSES)
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


def report(result: dict[str, Any]) -> str:
    """The tables."""
    sizes = list(result["ms"])
    rows = []
    for what in result["ms"][sizes[0]] if sizes else ():
        own = [result["ms"][size][what] for size in sizes]
        bar = f"{_BARS[what]:g}" if what in _BARS else ""
        rows.append([what, *(f"{one['median']:.1f}" for one in own), f"{own[-1]['p95']:.1f}", bar])
    text = (
        f"# A root as it grows, and its writers\n\n{result['hardware']}, {result['cpus']} CPUs, load average "
        f"{result['load']:.1f} at the start. Milliseconds, median of {result['repeats']} or fewer; words of "
        f"{result['width']}.\n\n"
        + markdown(["", *(f"{int(size):,}" for size in sizes), "95 % of the last", "bar"], rows)
    )
    writers = [
        [one["how"], str(one["writers"]), *(f"{one[k]:.0f}" for k in ("rows_a_second", "median_ms", "slowest_ms"))]
        for one in result["writers"]
    ]
    if writers:
        text += f"\nWriters of {_HAND_OVER_ROWS} rows a commit, in at most {_PROCESSES} processes.\n\n"
        text += markdown(["", "writers", "rows/s", "a commit, ms", "slowest, ms"], writers)
    return text


def main() -> None:
    """Prints the tables, and writes them and their numbers to OUT.md and OUT.json after each part."""
    arguments = _arguments()
    base = Path("out/bench/scale").resolve()
    result: dict[str, Any] = {
        "hardware": hardware("cpu"), "cpus": os.cpu_count(), "load": os.getloadavg()[0], "width": arguments.width,
        "repeats": arguments.repeats, "ms": {}, "writers": [],
    }  # fmt: skip
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    for num in arguments.sizes:
        shutil.rmtree(base, ignore_errors=True)
        store = fill(base, num, arguments.width)
        result["ms"][str(num)] = measure(store, num, arguments.width, arguments.repeats)
        shutil.rmtree(base)
        _write(arguments.out, result)
    if arguments.writers:
        connect()
    for num in arguments.writers:
        for how in ("committer", "by themselves") if num <= arguments.most_direct else ("committer",):
            figures = measure_writers(base, num, arguments.seconds, how == "committer")
            result["writers"].append({"how": how, "writers": num, **figures})
            _write(arguments.out, result)
    print(report(result))


def _write(out: Path, result: dict[str, Any]) -> None:
    out.with_suffix(".md").write_text(report(result))
    out.with_suffix(".json").write_text(json.dumps(result, indent=2) + "\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--width", type=int, default=192, help="of a word")
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--writers", type=int, nargs="*", default=[1, 8, 64])
    parser.add_argument("--most-direct", type=int, default=8, help="writers without a committer")
    parser.add_argument("--seconds", type=float, default=10.0, help="of writing")
    parser.add_argument("--out", type=Path, default=Path("out/bench/scale"), help="without suffix")
    return parser.parse_args()


if __name__ == "__main__":
    main()
