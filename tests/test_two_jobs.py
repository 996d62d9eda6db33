"""Two jobs on one root at once, and a node that is lost in the middle: every row once."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster

from factory.config import Recipe, TrainConfig
from factory.pack import Pack
from factory.store.rows import face_row
from factory.store.tables import Store
from pipelines.jobs.pools import Workers
from pipelines.train import train
from tests.make_faces import noise_face

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(1800)]
NUM_FACES = 12
RECIPE = Recipe(train=TrainConfig(num_steps=20, views="pool", num_views=2))
JOB = """
import sys
from factory.config import Recipe
from pipelines.train import train
root, pack, recipe = sys.argv[1:]
train(root, pack, [Recipe.model_validate_json(recipe)], faces_per_block=2)
"""


def filled(tmp_path: Path, pack: Pack) -> Store:
    store = Store(tmp_path / "root")
    store.upsert("faces", [face_row(noise_face(number, pack)) for number in range(NUM_FACES)])
    return store


def check_every_row_once(store: Store) -> None:
    ids = [identity.identity_id for identity in store.identities()]
    assert len(ids) == len(set(ids)) == NUM_FACES
    assert {identity.face_id for identity in store.identities()} == store.existing_ids("faces")


def test_two_jobs_on_one_root(tiny_pack: Pack, tmp_path: Path) -> None:
    store = filled(tmp_path, tiny_pack)
    arguments = [sys.executable, "-c", JOB, store.root, str(tiny_pack.root), RECIPE.model_dump_json()]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    jobs = [subprocess.Popen(arguments, env=environment) for _ in range(2)]
    assert [job.wait() for job in jobs] == [0, 0]
    check_every_row_once(store)


def test_a_node_is_lost_in_the_middle(tiny_pack: Pack, tmp_path: Path) -> None:
    store = filled(tmp_path, tiny_pack)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    nodes = [cluster.add_node(num_cpus=2) for _ in range(2)]
    killed: list[int] = []

    def kill_one_after_the_first_commit() -> None:
        while not store.count("identities"):
            time.sleep(0.05)
        killed.append(store.count("identities"))
        cluster.remove_node(nodes[1], allow_graceful=False)

    try:
        ray.init(address=cluster.address, log_to_driver=False)
        killer = threading.Thread(target=kill_one_after_the_first_commit, daemon=True)
        killer.start()
        train(store.root, tiny_pack.root, [RECIPE], workers=Workers(num=2), faces_per_block=2)
        killer.join(10)
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert killed and killed[0] < NUM_FACES, "the node was lost too late to show anything"
    check_every_row_once(store)
