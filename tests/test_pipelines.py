"""The jobs: sources and stages by themselves, then the whole chain on one local cluster."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import ray
import skimage.data
from PIL import Image

from factory.config import GenerateConfig, PrepareConfig, Recipe, TrainConfig
from factory.errors import IdentityNotFound, IncompatibleIdentity, PackError, SourceError
from factory.faces.isolated import Isolated
from factory.pack import Pack
from factory.settings import train_settings
from factory.store.tables import Store
from pipelines.generate import generate
from pipelines.jobs.cluster import connect
from pipelines.jobs.job import Summary, open_job
from pipelines.jobs.pools import Pool
from pipelines.jobs.stage import Stage, stream, tally
from pipelines.photos.faces import OUTCOME, FindFaces, ReadFaces
from pipelines.photos.sources import PHOTO
from pipelines.photos.standing import check_sources
from pipelines.prepare import commit
from pipelines.run import run
from pipelines.train import train
from tests.poison import Doubler, told

STEPS = TrainConfig(num_steps=2)
pytestmark = pytest.mark.timeout(600)  # Ray starts slowly on a busy machine


def two_steps(pack: Pack) -> Recipe:
    return Recipe(preset="paper", method=train_settings(pack).method, train=STEPS)


def jpeg(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def portrait() -> np.ndarray:
    return np.asarray(skimage.data.astronaut())[:256, 96:352]


def outcomes(images: list[bytes], pack: Pack, config: PrepareConfig) -> pa.Table:
    rows = [
        {"photo_id": f"{i:064}", "reject_id": f"{i:064}", "name": f"n{i}", "image": b} for i, b in enumerate(images)
    ]
    found = FindFaces(str(pack.root), config, 1)(pa.Table.from_pylist(rows, PHOTO))
    return ReadFaces(str(pack.root), config, "cpu", 2)(found)


def test_a_batch_becomes_faces_and_rejects(tiny_pack: Pack, portrait: np.ndarray, tmp_path: Path) -> None:
    two = jpeg(np.concatenate([portrait, portrait[:, ::-1]], axis=1))
    batch = outcomes([two, b"corrupt", jpeg(np.full((99, 99, 3), 200, np.uint8))], tiny_pack, PrepareConfig())
    store = Store(tmp_path)
    counts = commit(batch, store)
    assert dict(zip(*counts.to_pydict().values(), strict=True)) == {
        "photos": 3,
        "faces": 2,
        "photos_with_faces": 1,
        "rejected:not_an_image": 1,
        "rejected:no_face": 1,
    }
    assert sorted(face.name for face in store.faces()) == ["n0", "n0-1"]
    assert {(reject.name, reject.reason) for reject in store.rejects()} == {("n1", "not_an_image"), ("n2", "no_face")}
    commit(batch, store)
    assert (store.count("faces"), store.count("rejects")) == (2, 2)
    largest = outcomes([two], tiny_pack, PrepareConfig(faces="largest"))
    assert commit(largest, Store(tmp_path / "largest")).to_pylist()[-1] == {"what": "smaller face of a photo", "num": 1}


def test_a_photo_whose_faces_are_all_refused_is_one_rejected_photo(tiny_pack: Pack, portrait: np.ndarray) -> None:
    two = jpeg(np.concatenate([portrait, portrait[:, ::-1]], axis=1))
    for config in (PrepareConfig(min_face_px=900), PrepareConfig(min_mask_fraction=1.0)):
        [photo] = outcomes([two], tiny_pack, config).to_pylist()
        assert photo["faces"] == []
        ids = [reject["reject_id"] for reject in photo["rejects"]]
        assert len(ids) == 2
        assert ids[1] == f"{ids[0]}-1"


def test_a_killed_commit_leaves_the_photo_to_be_done_again(
    tiny_pack: Pack, portrait: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A photo counts as done through its faces or its own reject: what is written first must be neither."""
    written: list[str] = []
    monkeypatch.setattr(Store, "upsert_table", lambda self, table, rows: written.append(table))
    commit(OUTCOME.empty_table(), Store(tmp_path))
    assert written == ["rejects", "faces"]


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    connect()
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def photos(portrait: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("photos")
    (folder / "more").mkdir()
    (folder / "pair.jpg").write_bytes(jpeg(np.concatenate([portrait, portrait[:, ::-1]], axis=1)))
    (folder / "alone.jpg").write_bytes(jpeg(portrait))
    (folder / "more/copy.jpg").write_bytes(jpeg(portrait))
    (folder / "text.jpg").write_text("no image")
    (folder / "plain.jpg").write_bytes(jpeg(np.full((99, 99, 3), 200, np.uint8)))
    return str(folder)


@pytest.fixture(scope="module")
def learned(
    cluster: None, photos: str, tiny_pack: Pack, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Summary]:
    root = str(tmp_path_factory.mktemp("root"))
    return root, run(photos, root, tiny_pack.root, two_steps(tiny_pack))


@pytest.mark.cluster
def test_run_learns_every_face_and_its_summary_adds_up(learned: tuple[str, Summary]) -> None:
    root, summary = learned
    assert (summary.photos, summary.photos_with_faces, summary.faces, summary.identities) == (5, 2, 3, 3)
    assert summary.rejected == {"not_an_image": 1, "no_face": 1}
    assert summary.duplicates == summary.skipped_existing == 1
    assert summary.photos == summary.photos_with_faces + sum(summary.rejected.values()) + summary.skipped_existing
    store = Store(root)
    assert {identity.num_steps for identity in store.identities()} == {2}
    assert {identity.face_id for identity in store.identities()} == store.existing_ids("faces")
    [file] = Path(root).glob("jobs/*/summary.json")
    written = json.loads(file.read_text())
    assert {"job", "photos", "faces", "identities", "rejected", "skipped_existing", "seconds"} <= set(written)
    assert (written["job"], file.parent.name) == ("run", written["job_id"])


@pytest.mark.cluster
def test_poison_in_a_batch_is_singled_out_by_an_actor_of_ray_data(cluster: None, tmp_path: Path) -> None:
    """Ray Data calls an actor's class through a thread of its own, so the class must not call itself."""
    rows = pa.table({"n": [0, 1, 2, 3], "image": [b"", b"exit", b"", b"segfault"]})
    pool = Pool(size=1, num_cpus=1, num_gpus=0, threads=1)
    doubled = stream([rows], Stage(Isolated, [Doubler, [str(tmp_path / "log")], told, 60.0], pool, rows=4))
    assert sorted(number for table in doubled for number in table["n"].to_pylist()) == [-4, -2, 0, 4]


@pytest.mark.cluster
def test_tasks_that_make_rows_cut_them_themselves(cluster: None) -> None:
    """Tasks of Ray Data's own would book a whole CPU, and find no room beside a cluster's workers."""

    def numbers(units: pa.Table) -> Iterator[pa.Table]:
        yield from (pa.table({"n": [number]}) for number in range(units["num"][0].as_py()))

    units = ray.data.from_arrow([pa.table({"num": [num]}) for num in (5, 3)])
    made = Stage(numbers, cut=1).after(units).materialize()
    assert sorted(block.num_rows for ref in made.to_arrow_refs() for block in [ray.get(ref)]) == [1] * 8
    operators = [line for line in made.stats().splitlines() if line.startswith("Operator")]
    assert len(operators) == 2 and "MapBatches(numbers)->StreamingRepartition" in operators[1], operators


@pytest.mark.cluster
def test_a_full_disk_of_a_worker_is_told_in_one_line(cluster: None, tmp_path: Path) -> None:
    def full(batch: pa.Table) -> pa.Table:
        raise OSError("LanceError(IO): No space left on device (os error 28)\n at x.rs")

    store = Store(tmp_path / "root")
    with pytest.raises(OSError, match="the disk is full: free some space") as told, open_job("prepare", store):
        list(tally([pa.table({"n": range(4)})], Stage(full)))
    assert "\n" not in str(told.value) and "UDF" not in str(told.value)


@pytest.mark.cluster
def test_a_source_that_goes_away_ends_the_job_in_one_line(cluster: None, tmp_path: Path) -> None:
    def gone(batch: pa.Table) -> pa.Table:
        check_sources([str(tmp_path / "share")])
        return batch

    told_so = (
        r"share is not there on \S+ any more: mount it, or put it back; then the same command goes on where it was$"
    )
    with pytest.raises(SourceError, match=told_so), open_job("prepare", Store(tmp_path / "root")):
        list(tally([pa.table({"n": range(4)})], Stage(gone)))


@pytest.mark.cluster
def test_a_second_run_does_nothing_and_says_so(learned: tuple[str, Summary], photos: str, tiny_pack: Pack) -> None:
    root, _ = learned
    before = {table: Store(root).open(table).version for table in ("faces", "identities", "rejects")}  # type: ignore
    summary = run(photos, root, tiny_pack.root, two_steps(tiny_pack))
    assert (summary.faces, summary.identities, summary.rejected, summary.skipped_existing) == (0, 0, {}, 5)
    assert "nothing was left to do" in summary.lines()
    after = {table: Store(root).open(table).version for table in before}  # type: ignore
    assert after == before


@pytest.mark.cluster
def test_other_settings_are_other_identities(learned: tuple[str, Summary], tiny_pack: Pack) -> None:
    root, _ = learned
    changed = train_settings(tiny_pack, "paper", {"num_steps": "1", "adain": "false"})
    summary = train(root, tiny_pack.root, [two_steps(tiny_pack), changed, changed])
    assert changed.preset == "custom"
    assert (summary.identities, summary.identities_existing) == (3, 3)
    assert (summary.faces, summary.skipped_existing) == (3, 3)
    assert Store(root).count("identities") == 6


@pytest.mark.cluster
def test_one_face_of_a_person_is_learned_where_that_is_asked_for(
    learned: tuple[str, Summary], tiny_pack: Pack, tmp_path: Path
) -> None:
    root, _ = learned  # three faces of one portrait, one of them mirrored
    alike = shutil.copytree(tiny_pack.root, tmp_path / tiny_pack.name)
    known = (alike / "pack.toml").read_text()
    (alike / "pack.toml").write_text(known.replace('path = "fr_vit"', 'path = "fr_vit"\nsame_person = 0.9'))
    recipe = train_settings(tiny_pack, "paper", {"num_steps": "1", "seed": "5"})
    for merged, learned_before in ((2, 0), (2, 1)):
        summary = train(root, alike, [recipe], merge_people=True)
        assert (summary.identities + summary.identities_existing, summary.merged) == (1, merged)
        assert summary.identities_existing == learned_before
        assert any("same person" in line for line in summary.lines())
    summary = train(root, tiny_pack.root, [recipe])
    assert (summary.identities, summary.identities_existing, summary.merged) == (2, 1, 0), "nobody is lost by it"
    with pytest.raises(PackError, match="same_person"):
        train(root, tiny_pack.root, [recipe], merge_people=True)


@pytest.mark.cluster
def test_generate_makes_each_picture_once(learned: tuple[str, Summary], tiny_pack: Pack, tmp_path: Path) -> None:
    root, _ = learned
    store = Store(root)
    names = ["pair", "pair-1"]
    prompts, config = ["a photo of <person>", "wearing a hat"], GenerateConfig(num_inference_steps=2)
    for made, skipped in ((8, 0), (0, 8)):
        summary = generate(
            root, tiny_pack.root, prompts=prompts, seeds=[0, 1], identities=names, config=config, out=tmp_path / "out"
        )
        assert (summary.images, summary.skipped_existing, summary.identities) == (made, skipped, 2)
    files = sorted(file.name for file in (tmp_path / "out").iterdir())
    assert files == [f"{name}_{n}.png" for name in names[::-1] for n in range(4)]
    stored = {(image.name, image.prompt, image.seed): image.image for image in store.images()}
    shown = np.asarray(Image.open(tmp_path / "out/pair_3.png"))
    np.testing.assert_array_equal(shown, stored["pair", "wearing a hat", 1])
    assert len({image.tobytes() for image in stored.values()}) == 8


@pytest.mark.cluster
def test_generate_refuses_what_it_cannot_make(
    learned: tuple[str, Summary], tiny_pack: Pack, tiny_pack_v: Pack, tmp_path: Path
) -> None:
    root, _ = learned
    with pytest.raises(IdentityNotFound, match="did you mean"):
        generate(root, tiny_pack.root, prompts=["x"], identities=["paiir"])
    with pytest.raises(IncompatibleIdentity, match=r"learned with pack 'tiny'.*not with 'tiny_v'"):
        generate(root, tiny_pack_v.root, prompts=["x"])
    with pytest.raises(IdentityNotFound, match="no identities yet"):
        generate(str(tmp_path), tiny_pack.root, prompts=["x"])
