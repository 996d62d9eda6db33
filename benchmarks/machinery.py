"""What jobs sustain where models take no time: photos and faces through Ray Data, its workers and the tables.

    python -m benchmarks.machinery --photos 4000 --nodes 1 4 --out benchmarks/machinery_MACHINE_YYYY-MM

A cluster of nodes with two logical CPUs each, simulated on this machine. The photos are stubs in one Parquet file; in
place of the networks a worker gives each a face of a few bytes, and in place of the trainer one gives each an identity,
and commits each block it was given. All else is what jobs are made of: listing, reading, batches, pools, commits.

Rates are told twice: of the whole job, with the start of its processes, and steady: of what came behind the first
tenth, before the last one. CPU time, the start of processes included, is told by what they do. With photos of some size
(`--kb 200`) and faces that take their time (`--face-ms 20`) the most that lies in the object store tells whether
read-ahead is bounded: it must be the same for any number of photos.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
from ray.cluster_utils import Cluster

from benchmarks.growth import plot_growth
from benchmarks.known import photo
from benchmarks.measure import hardware, markdown
from benchmarks.processes import cpu_by_process, role_of
from factory.config import Recipe
from factory.ids import identity_ids
from factory.pack import Pack, load_pack
from factory.store.schemas import SCHEMAS, Table
from factory.store.tables import Store
from pipelines.jobs.cluster import connect
from pipelines.jobs.committer import commit_stage, shared
from pipelines.jobs.job import Summary
from pipelines.jobs.pools import Workers, cpu_and_model_pools, model_pool
from pipelines.jobs.stage import Stage, counts_table, tally
from pipelines.photos.batches import read_batches
from pipelines.photos.faces import OUTCOME
from pipelines.photos.new import find_new_photos, work_units
from pipelines.photos.places import find_places
from pipelines.photos.unlearned import find_new_people
from pipelines.prepare import commit
from pipelines.train import FACES_PER_BLOCK, _blocks, read_faces
from tests.make_pack import make_pack

_CPUS: Final = 2  # of a node
_WINDOW: Final = (0.1, 0.9)  # shares of the rows between which the rate is steady
_LEARNED: Final = ("faces", "identities")  # what is plotted
_SHOWN: Final = ("start_s", "whole", "steady", "most_mb")
_ROLES: Final = {  # a part of a process's title -> what it does; what is none of these is Ray's own
    "StubFaces": "finding", "StubTrainer": "learning", "Committing": "committing", "ray::": "light tasks",
    "raylet": "raylet", "gcs_server": "GCS",
}  # fmt: skip


class StubFaces:
    """PACKED -> OUTCOME: a face on each photo."""

    def __init__(self, pack: str, face_s: float = 0.0) -> None:
        self.pack, self.face_s = pack, face_s

    def __call__(self, batch: pa.Table) -> pa.Table:
        photos = pa.concat_tables(pa.ipc.open_stream(one.as_buffer()).read_all() for one in batch["batch"])
        ids, num = photos["photo_id"].to_pylist(), photos.num_rows
        faces = rows_of("faces", num, face_id=[f"{photo}-0" for photo in ids], photo_id=ids, pack=[self.pack] * num,
                        name=photos["name"], face_index=[0] * num)  # fmt: skip
        time.sleep(num * self.face_s)
        struct = faces.to_struct_array().combine_chunks()
        each = pa.ListArray.from_arrays(pa.array(range(num + 1), pa.int32()), struct)
        none = pa.array([[]] * num, OUTCOME.field("rejects").type)
        return pa.table([each.cast(OUTCOME.field("faces").type), none], schema=OUTCOME)


class StubTrainer:
    """Faces -> COUNTS: an identity of each, committed as a trainer does at the end of its block."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def __call__(self, batch: pa.Table) -> pa.Table:
        faces = pa.Table.from_batches([pa.RecordBatch.from_struct_array(batch["faces"].combine_chunks().flatten())])
        ids = identity_ids(faces["face_id"].to_pylist(), Recipe(), "")
        same = {name: faces[name] for name in ("face_id", "photo_id", "name")}
        words = pa.FixedSizeListArray.from_arrays(np.zeros(384 * len(ids), np.float32), 384)
        rows = rows_of("identities", len(ids), identity_id=ids, words=words, **same)
        self.store.upsert_table("identities", rows)
        return counts_table(Counter(identities=len(ids)))


def rows_of(table: Table, num: int, **known: Any) -> pa.Table:
    """Rows of a table with these columns; the others are null."""
    arrays = [
        (known[one.name] if isinstance(known[one.name], (pa.Array, pa.ChunkedArray)) else pa.array(known[one.name]))
        .cast(one.type) if one.name in known else pa.nulls(num, one.type)
        for one in SCHEMAS[table]
    ]  # fmt: skip
    return pa.Table.from_arrays(arrays, schema=SCHEMAS[table])


class Clock:
    """When how many rows were done."""

    def __init__(self) -> None:
        self._started, self._seen, self._num = time.perf_counter(), [(0.0, 0)], 0

    def follow(self, tallies: Iterator[Counter[str]], what: str) -> int:
        """Goes through a job's counts; returns how many there were."""
        for counts in tallies:
            self._num += counts[what]
            self._seen.append((time.perf_counter() - self._started, self._num))
        return self._num

    def rates(self) -> dict[str, float]:
        """Seconds until the first rows, and rows a second: of the whole, and steady where they came in turn."""
        first, last = (next(seen for seen in self._seen if seen[1] >= share * self._num) for share in _WINDOW)
        rates = {"start_s": self._seen[1][0], "whole": self._num / self._seen[-1][0]}
        return rates | ({"steady": (last[1] - first[1]) / (last[0] - first[0])} if last[0] > first[0] else {})


class Watch:
    """The most that lay in the object store of a job, and the CPU time of its processes by what they do."""

    def __init__(self) -> None:
        self.most_mb, self._over = 0.0, threading.Event()
        self._before, self._last = cpu_by_process(), dict[int, tuple[str, float]]()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def cpu_us(self, rows: int) -> dict[str, float]:
        """Microseconds a row."""
        total = Counter[str]()
        for role, seconds in self._last.values():
            total[f"cpu_us {role}"] += 1e6 * seconds / rows  # type: ignore[assignment]
        return dict(total.most_common())

    def _look(self) -> None:
        what, most = "object_store_memory", 0.0
        while not self._over.wait(0.2):
            total, free = ray.cluster_resources(), ray.available_resources()  # type: ignore[no-untyped-call]
            most = max(most, total.get(what, 0.0) - free.get(what, 0.0))
            self.most_mb = most / 1e6
            for process, seconds in cpu_by_process().items():
                role = "driver" if process == os.getpid() else role_of(process, roles=_ROLES)
                told, _ = self._last.get(process, ("light tasks", 0.0))  # one that has no task is called idle
                role = told if role == "light tasks" else role
                self._last[process] = role, seconds - self._before.get(process, 0.0)


def write_photos(path: Path, num: int, kb: int) -> None:
    """Stubs in one Parquet file, of so many kilobytes of noise each, in row groups of 20 MB or 1,000."""
    schema, group = pa.schema([("image", pa.binary())]), max(1, min(1000, 20_000 // max(1, kb)))
    noise = os.urandom(1000 * kb)
    with pq.ParquetWriter(path, schema, compression="none") as file:
        for first in range(0, num, group):
            images = [photo(number) + noise for number in range(first, min(first + group, num))]
            file.write_table(pa.table({"image": pa.array(images, pa.binary())}))


def measure(folder: Path, pack: Pack, num: int, kb: int = 0, face_s: float = 0.0) -> dict[str, dict[str, float]]:
    """Rates of jobs on the cluster that is there. Raises RuntimeError for a lost row."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_photos(folder / "photos.parquet", num, kb)
    store = Store(folder / "root")
    reading = cpu_and_model_pools(Workers())[1]
    listing = Clock()
    places = find_places(str(folder / "photos.parquet"), store.root)
    new, _ = find_new_photos(places, store, pack, Summary(job="prepare", job_id="x"))
    listing.follow(iter([Counter(photos=new.num_rows)]), "photos")
    preparing = Clock()
    stages = (
        Stage(partial(read_batches, max_bytes=2**20), cut=1),
        Stage(StubFaces, [pack.name, face_s], reading, 1),
        commit_stage(commit, store),
    )
    with Watch() as finding:
        faces = preparing.follow(tally(work_units(new), *stages), "faces")
        store.tidy("faces")  # as the job does at its end
    trainers = model_pool(Workers(), at_most=num, pack=pack)
    training = Clock()
    ids = find_new_people(store, pack, Recipe(), Summary(job="train", job_id="x"), False, False)
    blocks = list(_blocks([ids], min(FACES_PER_BLOCK, -(-num // trainers.size))))
    reader = Stage(partial(read_faces, store=store, pack=pack.name))
    chain = (blocks, reader, Stage(StubTrainer, [shared(store)], trainers, FACES_PER_BLOCK))
    with Watch() as learning:
        identities = training.follow(tally(*chain), "identities")
    if not faces == identities == store.count("faces") == store.count("identities") == num:
        raise RuntimeError(f"of {num}: {faces} faces, {identities} identities, {store.count('identities')} there")
    shutil.rmtree(folder)
    rates = {"photos listed": listing.rates(), "faces": preparing.rates(), "identities": training.rates()}
    for what, watch in (("faces", finding), ("identities", learning)):
        rates[what] |= {"most_mb": watch.most_mb, **watch.cpu_us(num)}
    return rates


def main() -> None:
    """Prints a table, and writes it, its numbers and a plot to OUT.md, OUT.json and OUT.png."""
    given = _arguments()
    base = Path("out/bench/machinery").resolve()
    shutil.rmtree(base, ignore_errors=True)
    pack = load_pack(make_pack(base / "tiny"))
    result: dict[str, Any] = {
        "hardware": hardware("cpu"),
        "cpus": os.cpu_count(),
        "load": os.getloadavg()[0],
        "nodes": {},
    }
    for nodes in given.nodes:
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": _CPUS})
        for _ in range(nodes - 1):
            cluster.add_node(num_cpus=_CPUS)
        ray.init(address=cluster.address, log_to_driver=False)
        try:
            connect()  # Ray Data's settings
            measure(base / "warm", pack, 64)
            result["nodes"][nodes] = measure(base / "job", pack, given.photos, given.kb, given.face_ms / 1e3)
        finally:
            ray.shutdown()
            cluster.shutdown()  # type: ignore[no-untyped-call]
        _write(given, result)
    shutil.rmtree(base)
    print(given.out.with_suffix(".md").read_text())


def _write(given: argparse.Namespace, result: dict[str, Any]) -> None:
    rows = [
        [str(nodes), what, *(f"{rates[name]:.3g}" if name in rates else "" for name in _SHOWN), _by_role(rates)]
        for nodes, one in result["nodes"].items()
        for what, rates in one.items()
    ]
    heads = ["nodes", "", "until the first, s", "a second, of the whole", "steady, a second", "MB in the object store"]
    heads += ["CPU time, microseconds a row"]
    text = (
        f"# Jobs whose models take no time\n\n{result['hardware']}, {result['cpus']} CPUs for all nodes together, load "
        f"average {result['load']:.1f} at the start; {given.photos:,} photos of {given.kb} KB, {given.face_ms:g} ms a "
        "face. Each job has its own processes to start.\n\n" + markdown(heads, rows)
    )
    out: Path = given.out
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_suffix(".md").write_text(text)
    out.with_suffix(".json").write_text(json.dumps(result, indent=2) + "\n")
    nodes = [(num, one) for num, one in result["nodes"].items() if all("steady" in one[what] for what in _LEARNED)]
    rates = {what: {num: one[what]["steady"] for num, one in nodes} for what in _LEARNED}
    title = "Jobs whose models take no time"
    if nodes:
        unit = "rows a second, steady"
        plot_growth(rates, out.with_suffix(".png"), title=title, size="nodes on one machine", unit=unit)


def _by_role(rates: Mapping[str, float]) -> str:
    us = {name.removeprefix("cpu_us "): figure for name, figure in rates.items() if name.startswith("cpu_us ")}
    each = ", ".join(f"{role} {figure:.0f}" for role, figure in us.items())
    return f"{sum(us.values()):.0f}: {each}" if us else ""


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=4000)
    parser.add_argument("--kb", type=int, default=0, help="of a photo")
    parser.add_argument("--face-ms", type=float, default=0.0, help="that a stub takes for a photo")
    parser.add_argument("--nodes", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--out", type=Path, default=Path("out/bench/machinery"), help="without suffix")
    return parser.parse_args()


if __name__ == "__main__":
    main()
