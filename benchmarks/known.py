"""A job that has nothing to do: seconds and the driver's memory of `run` over photos that are all known.

    python -m benchmarks.known --photos 100000 1000000 --out benchmarks/known_MACHINE_YYYY-MM

The photos are stubs of a few bytes in one Parquet file, with a row of `faces` and one of `identities` each, on a pack
of random weights. Each number runs in a process of its own; its memory is counted beyond that of a run over one photo.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import lance
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.measure import hardware, markdown
from benchmarks.soak_memory import peak_mb
from factory.ids import identity_ids
from factory.pack import Pack, load_pack
from factory.settings import train_settings
from factory.store.commits import open_to_write
from factory.store.schemas import SCHEMAS, Table
from factory.store.tables import Store
from tests.make_pack import make_pack

_ROWS: Final = 8192  # of a row group, and of a batch that is written


def photo(number: int) -> bytes:
    """A stub."""
    return f"photo {number}".encode()


def fill(folder: Path, num: int, pack: Pack) -> None:
    """photos.parquet, and a root that knows them all."""
    store, recipe, fingerprint = Store(folder / "root"), train_settings(pack), pack.learning_fingerprint()

    def rows(table: Table) -> Iterator[pa.RecordBatch]:
        for first in range(0, num, _ROWS):
            numbers = range(first, min(first + _ROWS, num))
            photos = [hashlib.sha256(photo(number)).hexdigest() for number in numbers]
            faces = [f"{one}-0" for one in photos]
            known: dict[str, list[Any]] = {
                "photo_id": photos, "face_id": faces, "face_index": [0] * len(photos),
                "pack": [pack.name] * len(photos),
                "name": [f"person {number}" for number in numbers],
                "identity_id": identity_ids(faces, recipe, fingerprint),
            }  # fmt: skip
            schema = SCHEMAS[table]
            arrays = [
                pa.array(known[one.name], one.type) if one.name in known else pa.nulls(len(photos), one.type)
                for one in schema
            ]
            yield from pa.Table.from_arrays(arrays, schema=schema).to_batches()

    for table in ("faces", "identities"):
        open_to_write(store.uri(table), table, None)
        reader = pa.RecordBatchReader.from_batches(SCHEMAS[table], rows(table))
        lance.write_dataset(reader, store.uri(table), mode="append")
        store.tidy(table)
    with pq.ParquetWriter(
        folder / "photos.parquet", pa.schema([("image", pa.binary()), ("name", pa.string())])
    ) as file:
        for first in range(0, num, _ROWS):
            numbers = range(first, min(first + _ROWS, num))
            images, names = [photo(number) for number in numbers], [f"person {number}" for number in numbers]
            file.write_table(pa.table({"image": pa.array(images, pa.binary()), "name": names}))


def job(folder: Path, pack: Path) -> None:
    """The job in this process; prints its summary, seconds and peak of memory."""
    from pipelines.jobs.cluster import connect
    from pipelines.run import run

    connect()
    started = time.perf_counter()
    summary = run(str(folder / "photos.parquet"), str(folder / "root"), pack)
    took_s = time.perf_counter() - started
    done = {"photos": summary.photos, "learned": summary.identities, "existing": summary.identities_existing}
    print(json.dumps({**done, "seconds": took_s, "peak_mb": peak_mb(os.getpid())}))


def measure(folder: Path, num: int, pack: Path) -> dict[str, float]:
    """Seconds and MB of one job. Raises RuntimeError if it did something."""
    shutil.rmtree(folder / str(num), ignore_errors=True)
    (folder / str(num)).mkdir(parents=True)
    fill(folder / str(num), num, load_pack(pack))
    command = [sys.executable, "-m", "benchmarks.known", "--job", str(folder / str(num)), "--pack", str(pack)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    if (found["photos"], found["learned"], found["existing"]) != (num, 0, num):
        raise RuntimeError(f"the job was to find {num} known photos and do nothing: {found}")
    shutil.rmtree(folder / str(num))
    return found


def main() -> None:
    """Prints a table, and writes it and its numbers to OUT.md and OUT.json."""
    given = _arguments()
    if given.job is not None:
        job(given.job, given.pack)
        return
    base = Path("out/bench/known").resolve()
    shutil.rmtree(base, ignore_errors=True)
    pack = make_pack(base / "tiny")
    result: dict[str, Any] = {"hardware": hardware("cpu"), "cpus": os.cpu_count(), "load": os.getloadavg()[0]}
    result["runs"] = {num: measure(base, num, pack) for num in (1, *given.photos)}
    shutil.rmtree(base)
    idle = result["runs"][1]
    rows = [
        [f"{num:,}", f"{one['seconds']:.1f}", f"{(one['seconds'] - idle['seconds']) * 1e6 / num:.0f}",
         f"{one['peak_mb'] - idle['peak_mb']:.0f}"]
        for num, one in result["runs"].items() if num > 1
    ]  # fmt: skip
    text = (
        f"# `run` with nothing to do\n\n{result['hardware']}, {result['cpus']} CPUs, load average {result['load']:.1f} "
        f"at the start. A run over one known photo takes {idle['seconds']:.1f} s and {idle['peak_mb']:.0f} MB.\n\n"
        + markdown(["known photos", "seconds", "seconds a million more", "MB of the driver beyond that"], rows)
    )
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.with_suffix(".md").write_text(text)
    given.out.with_suffix(".json").write_text(json.dumps(result, indent=2) + "\n")
    print(text)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--job", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--pack", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=Path("out/bench/known"), help="without suffix")
    return parser.parse_args()


if __name__ == "__main__":
    main()
