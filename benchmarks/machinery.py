"""What jobs sustain where models take no time: photos and faces through Ray Data, its workers and the tables.

    python -m benchmarks.machinery --photos 4000 --nodes 1 4 --out benchmarks/machinery_MACHINE_YYYY-MM

A cluster of nodes with two logical CPUs each, simulated on this machine. The photos are stubs in one Parquet file; in
place of the networks a worker gives each a face of a few bytes, and in place of the trainer one gives each an identity.
All else is what jobs are made of: listing, reading, batches, pools, commits (through a committer from 8 CPUs on).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
import ray
from ray.cluster_utils import Cluster

from benchmarks.known import photo
from benchmarks.measure import hardware, markdown
from factory.config import Recipe
from factory.ids import identity_id
from factory.pack import Pack, load_pack
from factory.store.schemas import SCHEMAS
from factory.store.tables import Store
from pipelines.jobs.cluster import connect
from pipelines.jobs.committer import shared
from pipelines.jobs.job import Summary
from pipelines.jobs.pools import Workers, cpu_and_model_pools, model_pool
from pipelines.jobs.stage import Stage, counts_table, tally
from pipelines.photos.batches import read_batches
from pipelines.photos.faces import OUTCOME
from pipelines.photos.new import find_new_photos, work_units
from pipelines.photos.sources import find_places
from pipelines.prepare import commit
from pipelines.train import FACES_PER_BLOCK, _blocks, read_faces
from tests.make_pack import make_pack

_CPUS: Final = 2  # of a node
_COMMIT_ROWS: Final = 32  # identities that a trainer commits together


class StubFaces:
    """PACKED -> OUTCOME: a face on each photo."""

    def __init__(self, pack: str) -> None:
        self.pack = pack

    def __call__(self, batch: pa.Table) -> pa.Table:
        rows = [row for one in batch["batch"] for row in pa.ipc.open_stream(one.as_buffer()).read_all().to_pylist()]
        empty = dict.fromkeys(SCHEMAS["faces"].names)
        faces = [
            {**empty, "face_id": f"{row['photo_id']}-0", "photo_id": row["photo_id"], "pack": self.pack,
             "name": row["name"], "face_index": 0}
            for row in rows
        ]  # fmt: skip
        return pa.Table.from_pylist([{"faces": [face], "rejects": []} for face in faces], OUTCOME)


class StubTrainer:
    """Faces -> COUNTS: an identity of each, committed as a trainer commits."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def __call__(self, batch: pa.Table) -> pa.Table:
        faces = pa.Table.from_batches([pa.RecordBatch.from_struct_array(batch["faces"].combine_chunks().flatten())])
        rows = faces.select(["face_id", "photo_id", "name"]).to_pylist()
        empty = dict.fromkeys(SCHEMAS["identities"].names)
        for first in range(0, len(rows), _COMMIT_ROWS):
            some = rows[first : first + _COMMIT_ROWS]
            ids = [{"identity_id": identity_id(row["face_id"], Recipe(), ""), "words": [0.0] * 384} for row in some]
            self.store.upsert("identities", [{**empty, **row, **an_id} for row, an_id in zip(some, ids, strict=True)])
        return counts_table(Counter(identities=len(rows)))


def measure(folder: Path, pack: Pack, num: int) -> dict[str, float]:
    """Faces, and identities, a second of jobs on the cluster that is there. Raises RuntimeError for a lost row."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    images = pa.array([photo(number) for number in range(num)], pa.binary())
    pq.write_table(pa.table({"image": images}), folder / "photos.parquet", row_group_size=1000)
    store = shared(Store(folder / "root"))
    reading = cpu_and_model_pools(Workers())[1]
    started = time.perf_counter()
    places = find_places(str(folder / "photos.parquet"), store.root)
    new, _ = find_new_photos(places, store, pack, Summary(job="prepare", job_id="x"))
    listed_s = time.perf_counter() - started
    stages = (
        Stage(partial(read_batches, max_bytes=2**20)),
        Stage(StubFaces, [pack.name], reading, 1, cut=True),
        Stage(partial(commit, store=store)),
    )
    faces = sum(counts["faces"] for counts in tally(work_units(new), *stages))
    faces_s = time.perf_counter() - started
    trainers = model_pool(Workers(), at_most=num, pack=pack)
    ids = sorted(store.read("faces", columns=["face_id"])["face_id"].to_pylist())
    started = time.perf_counter()
    blocks = list(_blocks([ids], min(FACES_PER_BLOCK, -(-num // trainers.size))))
    reader = Stage(partial(read_faces, store=store, pack=pack.name))
    chain = (blocks, reader, Stage(StubTrainer, [store], trainers, FACES_PER_BLOCK))
    identities = sum(counts["identities"] for counts in tally(*chain))
    took_s = time.perf_counter() - started
    if not faces == identities == store.count("faces") == store.count("identities") == num:
        raise RuntimeError(f"of {num}: {faces} faces, {identities} identities, {store.count('identities')} there")
    shutil.rmtree(folder)
    return {"listed_s": listed_s, "faces_a_second": num / faces_s, "identities_a_second": num / took_s}


def main() -> None:
    """Prints a table, and writes it and its numbers to OUT.md and OUT.json."""
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
            result["nodes"][nodes] = measure(base / "job", pack, given.photos)
        finally:
            ray.shutdown()
            cluster.shutdown()  # type: ignore[no-untyped-call]
        _write(given.out, result, given.photos)
    shutil.rmtree(base)
    print(given.out.with_suffix(".md").read_text())


def _write(out: Path, result: dict[str, Any], num: int) -> None:
    rows = [[str(nodes), *(f"{figure:.3g}" for figure in one.values())] for nodes, one in result["nodes"].items()]
    text = (
        f"# Jobs whose models take no time\n\n{result['hardware']}, {result['cpus']} CPUs for all nodes together, load "
        f"average {result['load']:.1f} at the start; {num:,} photos.\n\n"
        + markdown(["nodes", "photos listed, s", "faces/s, with that", "identities/s"], rows)
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_suffix(".md").write_text(text)
    out.with_suffix(".json").write_text(json.dumps(result, indent=2) + "\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=4000)
    parser.add_argument("--nodes", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--out", type=Path, default=Path("out/bench/machinery"), help="without suffix")
    return parser.parse_args()


if __name__ == "__main__":
    main()
