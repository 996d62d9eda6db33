"""The job that makes heads: interruptions, erasing, its table and its files."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
import ray
from typer.testing import CliRunner

from cli.__main__ import app
from factory.draw.clips import decode_mp4
from factory.draw.sculpt import Sculptor
from factory.draw.splat_files import from_ply, to_ply
from factory.ids import model_id
from factory.pack import Pack
from factory.store.erase import erase, find_person
from factory.store.rows import identity_row, model_from_row
from factory.store.tables import Store
from pipelines import sculpt as job
from tests.make_heads import CONFIG, head_request, make_posed
from tests.serving import person


@pytest.fixture(scope="module")
def posed(tiny_pack: Pack, tmp_path_factory: pytest.TempPathFactory) -> Pack:
    return make_posed(tiny_pack, tmp_path_factory.mktemp("posed") / "pack")


@pytest.fixture(scope="module")
def sculptor(posed: Pack) -> Sculptor:
    return Sculptor(posed)


class Killed(BaseException):
    """As kill -9: nothing is caught, nothing is tidied up."""


def worker(sculptor: Sculptor, store: Store) -> job.HeadSculptor:
    made = job.HeadSculptor.__new__(job.HeadSculptor)
    made.sculptor, made.config, made.store = sculptor, CONFIG, store
    made.reporter = type("Reporter", (), {"step": lambda *_: None, "finished": lambda _: None})()  # type: ignore[assignment]
    return made


def batch(pack: Pack, store: Store) -> pa.Table:
    rows = list(job._requests(store.identities(), ["a photo of <person>"], CONFIG, pack))
    assert rows[0]["model_id"] == model_id(head_request(pack), pack.model_fingerprint())
    return pa.Table.from_pylist(rows, job.REQUEST)


def test_a_killed_job_goes_on_from_its_checkpoint_and_does_nothing_twice(
    sculptor: Sculptor, posed: Pack, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.upsert("identities", [identity_row(head_request(posed).identity)])
    asked, working = batch(posed, store), worker(sculptor, store)
    monkeypatch.setattr(job, "CHECKPOINT_EVERY_S", 0.0)

    def dies(_items: int, done: int, _of: int) -> None:
        if done == 4:
            raise Killed

    monkeypatch.setattr(working.reporter, "step", dies, raising=False)
    with pytest.raises(Killed):
        working(asked)
    (kept,) = store.read("checkpoints").to_pylist()
    assert kept["num_iterations"] == 3 and store.count("models") == 0
    seen: list[int] = []
    monkeypatch.setattr(working.reporter, "step", lambda _items, done, _of: seen.append(done), raising=False)
    counts = dict(zip(*working(asked).to_pydict().values(), strict=True))
    assert seen == [4, 5, 6] and counts == {"models": 1, "done": 1}
    assert store.count("checkpoints") == 0
    (model,) = (model_from_row(row) for row in store.read("models").to_pylist())
    assert model.num_iterations == 6 and model.seconds > kept["seconds"] > 0
    whole = sculptor.sculpt(head_request(posed))
    assert to_ply(whole) == model.splats, "the same as made in one go"
    assert decode_mp4(model.turntable).shape[0] == 24
    working(asked)
    assert seen == [4, 5, 6] and store.count("models") == 1, "the second time nothing is done"


def test_erasing_reaches_heads_and_heads_in_the_making(
    sculptor: Sculptor, posed: Pack, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.upsert("identities", [identity_row(head_request(posed).identity)])
    asked, working = batch(posed, store), worker(sculptor, store)
    working(asked)
    ids = asked.to_pylist()[0]
    row = {"model_id": "f" * 16, "identity_id": ids["identity_id"], "num_iterations": 1, "seconds": 1.0, "state": b"x"}
    store.upsert("checkpoints", [row])
    done = erase(store, find_person(store, name="ada"))
    assert (done.rows["models"], done.rows["checkpoints"], done.found) == (1, 1, [])
    store.upsert("checkpoints", [row])
    assert store.count("checkpoints") == 0, "a running job's checkpoint is refused"
    counts = dict(zip(*working(asked).to_pydict().values(), strict=True))
    assert counts == {"models": 0, "done": 1} and store.count("models") == 0


def test_heads_are_listed_and_exported(sculptor: Sculptor, posed: Pack, store: Store, tmp_path: Path) -> None:
    store.upsert("identities", [identity_row(head_request(posed).identity)])
    nothing = CliRunner().invoke(app, ["heads", "export", "--root", store.root])
    assert nothing.exit_code == 1 and "holds no heads yet" in nothing.stderr
    worker(sculptor, store)(batch(posed, store))
    (an_id,) = store.existing_ids("models")
    shown = CliRunner().invoke(app, ["heads", "list", "ada", "--root", store.root, "--json"])
    assert shown.exit_code == 0 and f'"model_id": "{an_id}"' in shown.stdout
    for kind, suffix in (("ply", "ply"), ("gltf", "glb"), ("mp4", "mp4")):
        export = ["heads", "export", "ada", "--root", store.root, "--out", str(tmp_path / "out"), "--format", kind]
        assert CliRunner().invoke(app, export).exit_code == 0
        assert (tmp_path / "out" / f"ada-{an_id}.{suffix}").stat().st_size > 500
    unknown = CliRunner().invoke(app, ["heads", "list", "nobody", "--root", store.root])
    assert unknown.exit_code == 1 and "no head of 'nobody'" in unknown.stderr


@pytest.mark.cluster
@pytest.mark.timeout(600)  # Ray starts
def test_the_job_on_a_cluster_and_its_files(posed: Pack, store: Store, tmp_path: Path) -> None:
    for number, name in ((1, "ada"), (2, "bob")):
        store.upsert("identities", [identity_row(person(number, name, posed.fingerprint()))])
    prompts = ["a photo of <person>", "<person> at sea"]
    try:
        first = job.sculpt(store.root, posed.root, prompts=prompts, identities=["ada"], config=CONFIG)
        again = job.sculpt(store.root, posed.root, prompts=prompts, config=CONFIG, out=tmp_path / "out")
    finally:
        ray.shutdown()
    assert (first.models, first.skipped_existing) == (2, 0) and (again.models, again.skipped_existing) == (2, 2)
    assert store.count("models") == 4 and store.count("checkpoints") == 0
    heads = store.read("models", columns=["model_id", "name"]).to_pylist()
    kinds = ("mp4", "ply", "ply.c2pa")
    stems = {f"{head['name']}-{head['model_id']}" for head in heads}
    assert {file.name for file in (tmp_path / "out").iterdir()} == {
        f"{stem}.{kind}" for stem in stems for kind in kinds
    }
    assert all(len(from_ply((tmp_path / "out" / f"{stem}.ply").read_bytes())) > 8 for stem in stems)
