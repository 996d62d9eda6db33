"""Photos a second of `prepare` on one machine, against the bare library functions called in a loop.

    python -m benchmarks.prepare --photos 400 --rounds 3 --out benchmarks/prepare_MACHINE_YYYY-MM

Both see the same rendered photos, in turn (A B A B). The loop is `factory.faces.prepare.Preparer`, a photo after the
other, in one process with all threads and its models loaded; it commits nothing. The job is the whole of
`pipelines.prepare` on an empty root; starting Ray is told apart. `at work` leaves out what a job of any size does once:
from its first commit on.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import ray
import torch

import pipelines.prepare
from benchmarks.measure import hardware, markdown
from benchmarks.soak_photos import write
from factory.errors import PhotoRejected
from factory.faces.prepare import Preparer
from factory.pack import load_pack
from pipelines.jobs.cluster import connect
from pipelines.jobs.stage import Stage, tally

_BAR = 0.8  # of the loop's photos a second


def loop(preparer: Preparer, photos: list[dict[str, Any]]) -> float:
    """Photos a second of the bare functions."""
    started = time.perf_counter()
    for photo in photos:
        with suppress(PhotoRejected):
            preparer.prepare(photo["image"], photo["name"])
    return len(photos) / (time.perf_counter() - started)


def job(photos: Path, num: int, pack: str) -> tuple[float, float]:
    """Photos a second of a whole job, and of the part of it that is at work."""
    commits: list[tuple[float, int]] = []

    def watched(blocks: Sequence[pa.Table], *stages: Stage) -> Iterator[Counter[str]]:
        for counts in tally(blocks, *stages):
            commits.append((time.perf_counter(), counts["photos"]))
            yield counts

    pipelines.prepare.tally = watched  # type: ignore[attr-defined]
    with tempfile.TemporaryDirectory() as root:
        started = time.perf_counter()
        summary = pipelines.prepare.prepare(str(photos), root, pack)
        seconds = time.perf_counter() - started
    assert summary.photos == num and sum(done for _, done in commits) + summary.skipped_existing == num
    (first, _), *later = commits
    return num / seconds, sum(done for _, done in later) / (later[-1][0] - first)


def main() -> None:
    """Prints a table, and writes it and its numbers to OUT.md and OUT.json."""
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    file = Path(f"out/bench/photos-{arguments.photos}.parquet").resolve()
    write(file, arguments.photos, copies=0.0)
    photos = pq.read_table(file).to_pylist()
    started = time.perf_counter()
    connect()
    start_s = time.perf_counter() - started
    preparer = Preparer(load_pack(arguments.pack))
    loop(preparer, photos[:16])
    job(file, len(photos), arguments.pack)  # fills the machine's file cache
    rates: dict[str, list[float]] = {"loop": [], "job": [], "job, at work": []}
    for _ in range(arguments.rounds):
        rates["loop"].append(loop(preparer, photos))
        whole, at_work = job(file, len(photos), arguments.pack)
        rates["job"].append(whole)
        rates["job, at work"].append(at_work)
    ray.shutdown()
    result = {
        "photos": len(photos),
        "rounds": arguments.rounds,
        "hardware": hardware("cpu"),
        "cpus": os.cpu_count(),
        "ray_start_s": round(start_s, 1),
        "bar": _BAR,
        "photos_per_s": rates,
        "of_the_loop": {
            name: statistics.median(one / bare for one, bare in zip(each, rates["loop"], strict=True))
            for name, each in rates.items()
        },
    }
    text = report(result)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.with_suffix(".md").write_text(text)
    arguments.out.with_suffix(".json").write_text(json.dumps(result, indent=2) + "\n")
    print(text)


def report(result: dict[str, Any]) -> str:
    """The table."""
    rows = []
    for name, each in result["photos_per_s"].items():
        median = statistics.median(each)
        spread = (max(each) - min(each)) / 2 / median
        rows.append([name, f"{median:.1f}", f"± {spread:.0%}", f"{result['of_the_loop'][name]:.2f}"])
    return (
        f"# prepare, {result['photos']} photos\n\n{result['hardware']}, {result['cpus']} CPUs. Medians of "
        f"{result['rounds']} interleaved rounds; ratios are medians of the rounds' own ratios; the bar is "
        f"{result['bar']}. Starting Ray: {result['ray_start_s']} s, not counted.\n\n"
        + markdown(["", "photos / s", "spread", "of the loop"], rows)
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=400, help="64 at least")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pack", default="studio")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of the loop")
    parser.add_argument("--out", type=Path, default=Path("out/bench/prepare"), help="without suffix")
    return parser.parse_args()


if __name__ == "__main__":
    main()
