"""Finding one of many identities by name, and committing to their table: with scalar indexes, and without.

    python -m benchmarks.lookup --identities 300000 --out benchmarks/lookup_MACHINE_YYYY-MM

Both tables hold the same rows in files of 1,024, as a tidied root does. A look-up is `Store.find_identity` of a name at
random, its words read; `beside a job` is the same with seven commits of 32 identities that no index knows yet, the most
that there are while a job runs. Then erasures: what it takes to ask 100,000 photos whether they were erased, where all
of 1,000 erasures share a salt, and where each has its own, as in older roots.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import torch

from benchmarks.measure import hardware, markdown
from factory.store.commits import open_to_write
from factory.store.schemas import SCHEMAS
from factory.store.tables import Store
from factory.store.tombstones import Tombstones, tombstone_digest
from factory.store.upkeep import INDEX_EVERY, indexed_columns

_BAR_MS, _FILE_ROWS, _COMMIT_ROWS = 5.0, 1024, 32
_START = datetime(2026, 1, 1, tzinfo=UTC)


def identities(first: int, num: int, width: int) -> pa.Table:
    """Rows of `identities` with two words of this width."""
    photos = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(first, first + num)]
    words = np.random.default_rng(first).standard_normal((num, 2 * width), np.float32)
    same = {
        "num_words": 2, "pack": "studio", "fingerprint": "f" * 16, "preset": "paper", "config": "c" * 500,
        "num_steps": 150, "final_loss": 0.1, "train_s": 1.0, "created_at": "2026-11-27T12:00:00+00:00",
        "encoders": [{"name": "text_encoder", "width": width}],
    }  # fmt: skip
    columns = {
        "identity_id": [photo[:16] for photo in photos],
        "face_id": [f"{photo}-0" for photo in photos],
        "photo_id": photos,
        "name": [f"person {number}" for number in range(first, first + num)],
        "words": list(words),
        **{name: [value] * num for name, value in same.items()},
    }
    schema = SCHEMAS["identities"]
    arrays = [
        pa.array(columns[field.name], field.type) if field.name in columns else pa.nulls(num, field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


def rows_of(first: int, num: int, width: int) -> pa.Table:
    """Identities of which each came a second after the one before."""
    table = identities(first, num, width)
    times = [(_START + timedelta(seconds=number)).isoformat() for number in range(first, first + num)]
    place = table.schema.get_field_index("created_at")
    return table.set_column(place, table.schema.field(place), pa.array(times))


def fill(root: Path, num: int, width: int) -> Store:
    """A store of so many identities, without indexes."""
    store = Store(root)
    uri = store.uri("identities")
    open_to_write(uri, "identities", None)
    for first in range(0, num, _FILE_ROWS):
        lance.write_dataset(identities(first, min(_FILE_ROWS, num - first), width), uri, mode="append")
    return store


def milliseconds(action: Callable[[], object], repeats: int) -> dict[str, float]:
    """Median and 95th percentile."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        action()
        times.append((time.perf_counter() - started) * 1e3)
    return {"median": statistics.median(times), "p95": sorted(times)[int(0.95 * repeats)]}


def measure(store: Store, num: int, width: int, repeats: int, commits: int) -> dict[str, dict[str, float]]:
    """Times in milliseconds of one table as it is."""
    draw, fresh = random.Random(0), iter(range(num, 10**9, _COMMIT_ROWS))

    def find() -> None:
        name = f"person {draw.randrange(num)}"
        assert store.find_identity(name).name == name

    def commit() -> None:
        store.upsert("identities", rows.pop())

    result = {"look-up by name": milliseconds(find, repeats)}
    rows = [identities(next(fresh), _COMMIT_ROWS, width).to_pylist() for _ in range(commits)]
    result[f"upsert of {_COMMIT_ROWS}"] = milliseconds(commit, commits)
    store.tidy("identities")
    rows = [identities(next(fresh), _COMMIT_ROWS, width).to_pylist() for _ in range(2 * INDEX_EVERY)]
    while rows and _last_version(store) % INDEX_EVERY != INDEX_EVERY - 2:  # the next commit brings the indexes up
        commit()
    result["look-up beside a job"] = milliseconds(find, repeats)
    return result


def hold_s(num_erased: int, num_salts: int, num_photos: int) -> float:
    """Seconds to ask so many photos whether they were erased; of many salts measured on a thousandth of them."""
    salts = [f"{number:032x}" for number in range(num_salts)]
    digests = frozenset(tombstone_digest(salts[number % num_salts], f"{number}") for number in range(num_erased))
    tombstones, asked = Tombstones(frozenset(salts), digests), num_photos // min(num_salts, 1000)
    photos = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(asked)]
    started = time.perf_counter()
    assert not any(map(tombstones.hold, photos))
    return (time.perf_counter() - started) * num_photos / asked


def main() -> None:
    """Prints a table, and writes it and its numbers to OUT.md and OUT.json."""
    arguments = _arguments()
    num, width = arguments.identities, arguments.width
    root = Path("out/bench/lookup").resolve()
    shutil.rmtree(root, ignore_errors=True)
    plain, indexed = fill(root / "plain", num, width), fill(root / "indexed", num, width)
    started = time.perf_counter()
    indexed.tidy("identities")
    make_s = time.perf_counter() - started
    names = indexed_columns("identities")
    result: dict[str, Any] = {
        "identities": num, "width": width, "repeats": arguments.repeats, "hardware": hardware("cpu"),
        "cpus": os.cpu_count(), "bar_ms": _BAR_MS, "indexes": names, "indexes_made_s": make_s, "ms": {},
        "hold_100000_s": {salts: hold_s(1000, salts, 100_000) for salts in (1, 1000)},
    }  # fmt: skip
    with_indexes = measure(indexed, num, width, arguments.repeats, arguments.commits)
    _keep_without(plain)
    result["ms"] = {"indexed": with_indexes, "plain": measure(plain, num, width, arguments.repeats, arguments.commits)}
    text = report(result)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.with_suffix(".md").write_text(text)
    arguments.out.with_suffix(".json").write_text(json.dumps(result, indent=2) + "\n")
    shutil.rmtree(root)
    print(text)


def report(result: dict[str, Any]) -> str:
    """The table."""
    ms = result["ms"]
    rows = [
        [what, *(f"{ms[which][what][kind]:.1f}" for which in ("indexed", "plain") for kind in ("median", "p95"))]
        for what in ms["indexed"]
    ]
    one, many = (seconds for seconds in result["hold_100000_s"].values())
    return (
        f"# look-ups, {result['identities']:,} identities of words of {result['width']}\n\n{result['hardware']}, "
        f"{result['cpus']} CPUs. Milliseconds; {result['repeats']} look-ups each; the bar for one by name is "
        f"{result['bar_ms']:g}. Making the indexes ({', '.join(result['indexes'])}) took "
        f"{result['indexes_made_s']:.1f} s.\n\n"
        + markdown(["", "with indexes", "95 %", "without", "95 %"], rows)
        + f"\nAsking 100,000 photos whether they were erased, after 1,000 erasures: {one:.2f} s with one salt a root, "
        f"{many:.0f} s with one an erasure.\n"
    )


def _last_version(store: Store) -> int:
    dataset = store.open("identities")
    assert dataset is not None
    return int(dataset.version)


def _keep_without(store: Store) -> None:
    """Nothing looks after indexes from here on in this process."""
    import factory.store.upkeep

    factory.store.upkeep.keep_indexes = lambda dataset, table: None


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--identities", type=int, default=300_000)
    parser.add_argument("--width", type=int, default=192, help="of a word")
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--commits", type=int, default=30)
    parser.add_argument("--out", type=Path, default=Path("out/bench/lookup"), help="without suffix")
    return parser.parse_args()


if __name__ == "__main__":
    torch.set_num_threads(os.cpu_count() or 1)
    main()
