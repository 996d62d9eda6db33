"""kill -9 in the middle of a job: the tables are the checkpoint, so nothing is lost and nothing is done twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import ray

from factory.config import Recipe, TrainConfig
from factory.pack import Pack
from factory.store.rows import face_row
from factory.store.tables import Store
from pipelines.train import train
from tests.make_faces import noise_face

NUM_FACES, PACK_SIZE = 8, 2
RECIPE = Recipe(train=TrainConfig(num_steps=40, views="pool", num_views=2))
JOB = """
import sys
from factory.config import Recipe
from pipelines.train import train
root, pack, recipe, size = sys.argv[1:]
train(root, pack, [Recipe.model_validate_json(recipe)], faces_per_block=int(size))
"""


@pytest.mark.cluster
@pytest.mark.timeout(600)  # Ray starts twice
def test_a_killed_job_goes_on_where_it_was(tiny_pack: Pack, tmp_path: Path) -> None:
    store = Store(tmp_path / "root")
    store.upsert("faces", [face_row(noise_face(number, tiny_pack)) for number in range(NUM_FACES)])
    arguments = [store.root, str(tiny_pack.root), RECIPE.model_dump_json(), str(PACK_SIZE)]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    job = subprocess.Popen([sys.executable, "-c", JOB, *arguments], start_new_session=True, env=environment)
    try:
        deadline = time.monotonic() + 400
        while not store.count("identities"):
            assert job.poll() is None, "the job ended before it could be killed"
            assert time.monotonic() < deadline, "no identity was committed"
            time.sleep(0.05)
    finally:
        os.killpg(job.pid, signal.SIGKILL)
        job.wait()
    kept = {identity.identity_id: identity for identity in store.identities()}
    assert 0 < len(kept) < NUM_FACES, "killed too late to show anything"

    try:
        summary = train(store.root, tiny_pack.root, [RECIPE], faces_per_block=PACK_SIZE)
    finally:
        ray.shutdown()
    after = {identity.identity_id: identity for identity in store.identities()}
    assert store.count("identities") == len(after) == NUM_FACES
    assert {identity.face_id for identity in after.values()} == store.existing_ids("faces")
    assert summary.identities == NUM_FACES - len(kept)
    assert all(after[key].created_at == identity.created_at for key, identity in kept.items())
