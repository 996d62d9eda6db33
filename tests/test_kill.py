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

from factory.config import AnimateConfig, Config, GenerateConfig, Recipe, SculptConfig, TrainConfig
from factory.pack import Pack
from factory.store.rows import face_row, identity_row
from factory.store.tables import Store
from pipelines.animate import animate
from pipelines.sculpt import sculpt
from pipelines.train import train
from tests.make_faces import noise_face
from tests.serving import person

NUM_FACES, PACK_SIZE = 8, 2
RECIPE = Recipe(train=TrainConfig(num_steps=40, views="pool", num_views=2))
JOB = """
import sys
from factory.config import Recipe
from pipelines.train import train
root, pack, recipe, size = sys.argv[1:]
train(root, pack, [Recipe.model_validate_json(recipe)], faces_per_block=int(size))
"""
DRAWING_JOB = """
import sys
from factory.config import AnimateConfig, SculptConfig
from pipelines.animate import animate
from pipelines.sculpt import sculpt
root, pack, job, config, *prompts = sys.argv[1:]
kinds = {"animate": (animate, AnimateConfig), "sculpt": (sculpt, SculptConfig)}
run, kind = kinds[job]
run(root, pack, prompts=prompts, config=kind.model_validate_json(config))
"""
PROMPTS = [f"<person> number {number}" for number in range(8)]
CLIPS = AnimateConfig(num_frames=8, generate=GenerateConfig(num_inference_steps=40))
HEADS = SculptConfig(num_iterations=60, num_gaussians=40, max_gaussians=60, denoising_steps=2, control=False)


def killed_when_there_is_one(command: list[str], store: Store, table: str) -> None:
    """Start a job, and kill -9 it with all its processes once the table holds a row."""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    job = subprocess.Popen([sys.executable, "-c", *command], start_new_session=True, env=environment)
    try:
        deadline = time.monotonic() + 400
        while not store.count(table):
            assert job.poll() is None, "the job ended before it could be killed"
            assert time.monotonic() < deadline, f"nothing was committed to {table}"
            time.sleep(0.05)
    finally:
        os.killpg(job.pid, signal.SIGKILL)
        job.wait()


@pytest.mark.cluster
@pytest.mark.timeout(600)  # Ray starts twice
def test_a_killed_job_goes_on_where_it_was(tiny_pack: Pack, tmp_path: Path) -> None:
    store = Store(tmp_path / "root")
    store.upsert("faces", [face_row(noise_face(number, tiny_pack)) for number in range(NUM_FACES)])
    arguments = [store.root, str(tiny_pack.root), RECIPE.model_dump_json(), str(PACK_SIZE)]
    killed_when_there_is_one([JOB, *arguments], store, "identities")
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


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.timeout(900)  # Ray starts twice
@pytest.mark.parametrize(("job", "config", "table"), [("animate", CLIPS, "videos"), ("sculpt", HEADS, "models")])
def test_a_killed_drawing_job_goes_on_where_it_was(
    tiny_pack_moving: Pack, tmp_path: Path, job: str, config: Config, table: str
) -> None:
    store, pack, key = Store(tmp_path / "root"), tiny_pack_moving, f"{table[:-1]}_id"
    store.upsert("identities", [identity_row(person(1, "ada", pack.fingerprint()))])
    command = [DRAWING_JOB, store.root, str(pack.root), job, config.model_dump_json(), *PROMPTS]
    killed_when_there_is_one(command, store, table)
    columns = [key, "prompt", "created_at"]
    kept = {row[key]: row for row in store.read(table, columns=columns).to_pylist()}
    assert 0 < len(kept) < len(PROMPTS), "killed too late to show anything"

    run = {"animate": animate, "sculpt": sculpt}[job]
    try:
        summary = run(store.root, pack.root, prompts=PROMPTS, config=config)  # type: ignore[operator]
    finally:
        ray.shutdown()
    after = {row[key]: row for row in store.read(table, columns=columns).to_pylist()}
    assert store.count(table) == len(after) == len(PROMPTS)
    assert {row["prompt"] for row in after.values()} == set(PROMPTS)
    assert getattr(summary, table) == len(PROMPTS) - len(kept) and summary.skipped_existing == len(kept)
    assert all(after[made] == row for made, row in kept.items()), "what was there is not made again"
    assert store.count("checkpoints") == 0
