"""What a root costs as it grows, and how many can write to it at once.

    python -m benchmarks.scale --sizes 10000 100000 1000000 --out benchmarks/scale_MACHINE_YYYY-MM.md

For each size a root with so many identities, of photos of their own, in full files as a tidied one has: the first
look-up, look-ups by name and by id (words read) of a root that was warmed as a server does, pages of 20, upserts of 32
(with what falls due every few commits), an erasure with its proof, which reads every byte. Then, on an empty root each,
writers in eight processes that commit 8 rows at a time for some seconds: by themselves, and through a job's committer.
Every row must be there once.

What OUT.json holds is not measured again: after an interruption the same command goes on with what is missing.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import lance
import pyarrow as pa

from benchmarks.growth import plot_growth
from benchmarks.lookup import milliseconds, rows_of
from benchmarks.measure import hardware, markdown
from benchmarks.writers import HAND_OVER_ROWS, PROCESSES, measure_writers
from factory.store.commits import open_to_write
from factory.store.erase import erase, find_person
from factory.store.schemas import SCHEMAS
from factory.store.tables import Store
from factory.store.upkeep import file_rows, warm
from pipelines.jobs.cluster import connect

_FILE_ROWS: Final = file_rows("identities")
_COMMIT_ROWS: Final = 32
_PAGE: Final = 20
_BARS: Final = {"look-up by name": 5.0, "look-up by id": 5.0, "page of 20": 20.0, "page of 20 from anywhere": 20.0}
_BEFORE: Final = {  # ms, of 300,000 identities without indexes; on the same kind of machine (docs/log.md)
    "look-up by name": "75",
    "page of 20": "1,300",
    "upsert of 32": "50",
    "erasure": "351,000 at 1,000,000",
}
_WRITERS_BEFORE: Final = "before: eight by themselves 64 rows/s, 900 ms a commit, 19,000 ms at worst"


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


def measure(store: Store, num: int, width: int, repeats: int) -> Iterator[tuple[str, dict[str, float]]]:
    """Milliseconds, median and 95th percentile, of what is done to a root of `num` identities."""
    draw, fresh = random.Random(0), iter(range(num, 10**9, _COMMIT_ROWS))
    ids = rows_of(num // 2, min(64, num // 4), 4)["identity_id"].to_pylist()
    names = [f"person {draw.randrange(num)}" for _ in range(repeats + 1)]
    commits = [rows_of(next(fresh), _COMMIT_ROWS, width) for _ in range(repeats // 2 + 1)]
    yield "first look-up by name", milliseconds(lambda: store.find_identity(names.pop()), 1)
    yield "warming up", milliseconds(lambda: warmed(store), 1)
    yield "look-up by name", milliseconds(lambda: store.find_identity(names.pop()), repeats)
    yield "look-up by id", milliseconds(lambda: store.find_identity(draw.choice(ids)), repeats)
    yield "page of 20", milliseconds(lambda: store.identity_page(_PAGE), repeats // 4)
    yield "page of 20 from anywhere", milliseconds(lambda: store.identity_page(_PAGE, draw.choice(ids)), repeats // 4)
    yield "upsert of 32", milliseconds(lambda: store.upsert_table("identities", commits.pop()), repeats // 2)
    who = f"person {num // 3}"
    yield "erasure", milliseconds(lambda: erased(store, who), 1)


def warmed(store: Store) -> None:
    """As a server does at its start."""
    dataset = store.open("identities")
    assert dataset is not None
    warm(dataset, "identities")


def erased(store: Store, name: str) -> None:
    """Raises RuntimeError if anything is left."""
    if found := erase(store, find_person(store, name=name), waits_s=()).found:
        raise RuntimeError(f"{name} is still in {found[:3]}")


def report(result: dict[str, Any]) -> str:
    """The tables."""
    sizes = list(result["ms"])
    rows = []
    for what in result["ms"][sizes[0]] if sizes else ():
        own = [result["ms"][size][what] for size in sizes if what in result["ms"][size]]
        figures = [f"{one['median']:.1f}" for one in own] + [""] * (len(sizes) - len(own))
        bar = f"{_BARS[what]:g}" if what in _BARS else "1.5 x" if what == "upsert of 32" else ""
        rows.append([what, _BEFORE.get(what, ""), *figures, f"{own[-1]['p95']:.1f}", bar])
    text = (
        f"# A root as it grows, and its writers\n\n{result['hardware']}, {result['cpus']} CPUs, load average "
        f"{result['load']:.1f} at the start. Milliseconds, median of {result['repeats']} or fewer; words of "
        f"{result['width']}. Before: 300,000 identities, no indexes, no committer.\n\n"
        + markdown(["", "before", *(f"{int(size):,}" for size in sizes), "95 % of the last", "bar"], rows)
    )
    writers = [
        [one["how"], str(one["writers"]), *(f"{one[k]:.0f}" for k in ("rows_a_second", "median_ms", "slowest_ms"))]
        for one in result["writers"]
    ]
    if writers:
        text += f"\nWriters of {HAND_OVER_ROWS} rows a commit, in at most {PROCESSES} processes; {_WRITERS_BEFORE}.\n\n"
        text += markdown(["", "writers", "rows/s", "a commit, ms", "slowest, ms"], writers)
    return text


def main() -> None:
    """Prints the tables, and writes them, their numbers and a plot to OUT.md, OUT.json and OUT.png after each part."""
    arguments = _arguments()
    base = Path("out/bench/scale").resolve()
    result = _begun(arguments)
    for num in arguments.sizes:
        if "erasure" in result["ms"].get(str(num), {}):  # the last
            continue
        shutil.rmtree(base, ignore_errors=True)
        own = result["ms"][str(num)] = dict[str, dict[str, float]]()
        for what, ms in measure(fill(base, num, arguments.width), num, arguments.width, arguments.repeats):
            own[what] = ms
            _write(arguments.out, result)
        shutil.rmtree(base)
    done = {(one["how"], one["writers"]) for one in result["writers"]}
    cases = [(how, num) for num in arguments.writers for how in ("committer", "by themselves")]
    cases = [(how, num) for how, num in cases if how == "committer" or num <= arguments.most_direct]
    if missing := [case for case in cases if case not in done]:
        connect()
        for how, num in missing:
            figures = measure_writers(base, num, arguments.seconds, how == "committer")
            result["writers"].append({"how": how, "writers": num, **figures})
            _write(arguments.out, result)
    print(report(result))


def _begun(arguments: argparse.Namespace) -> dict[str, Any]:
    """What an interrupted run with these settings left, or nothing yet."""
    settings = {"hardware": hardware("cpu"), "width": arguments.width, "repeats": arguments.repeats}
    kept = arguments.out.with_suffix(".json")
    result: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {}
    if all(result.get(name) == value for name, value in settings.items()):
        return result
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    return {**settings, "cpus": os.cpu_count(), "load": os.getloadavg()[0], "ms": {}, "writers": []}


def _write(out: Path, result: dict[str, Any]) -> None:
    out.with_suffix(".md").write_text(report(result))
    out.with_suffix(".json").write_text(json.dumps(result, indent=2) + "\n")
    series = dict[str, dict[float, float]]()
    for size, own in result["ms"].items():
        for what, ms in own.items():
            series.setdefault(what, {})[float(size)] = ms["median"]
    if series:
        title = "What a root costs as it grows"
        plot_growth(series, out.with_suffix(".png"), title=title, size="identities", unit="ms, median")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--width", type=int, default=192, help="of a word")
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--writers", type=int, nargs="*", default=[1, 8, 64])
    parser.add_argument("--most-direct", type=int, default=8, help="writers without a committer")
    parser.add_argument("--seconds", type=float, default=10.0, help="of writing")
    parser.add_argument("--out", type=Path, default=Path("out/bench/scale.md"), help="and beside it .json, .png")
    return parser.parse_args()


if __name__ == "__main__":
    main()
