"""Photos that kill the process working on them: exactly those are refused, and the job ends."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

import pipelines.prepare
from factory.config import PrepareConfig
from factory.errors import IdentityNotFound
from factory.faces.isolated import Isolated, packed
from factory.pack import Pack
from factory.store.erase import erase, find_person
from factory.store.rows import identity_row
from factory.store.tables import Store
from pipelines.photos.faces import OUTCOME, find_poisoned, read_poisoned
from pipelines.photos.sources import PHOTO
from pipelines.prepare import prepare
from tests.local_chain import use_local_chain
from tests.poison import Doubler, Loaded, NeverStarts, PoisonFinder, told
from tests.test_serve import person

pytestmark = pytest.mark.timeout(600)  # processes start slowly on a busy machine


def rows(images: list[bytes]) -> pa.Table:
    return pa.table({"n": list(range(len(images))), "image": pa.array(images, pa.binary())})


def test_exactly_the_poison_is_singled_out(tmp_path: Path) -> None:
    details: list[str] = []

    def poisoned(row: pa.Table, detail: str) -> pa.Table:
        details.append(detail)
        return told(row, detail)

    log = tmp_path / "log"
    isolated = Isolated(Doubler, [str(log)], poisoned, max_row_s=60)
    assert isolated(rows([b"", b"exit", b"", b"segfault", b""]))["n"].to_pylist() == [0, -2, 4, -4, 8]
    assert [detail.split(" (")[0] for detail in details] == ["ended with status 3", "was killed by SIGSEGV"]
    done = Counter(log.read_text().split())
    assert done["start"] == 1 + 1 + 2 + 2, "the first, one after the batch, two for each poison"
    assert isolated(rows([b"", b""]))["n"].to_pylist() == [0, 2], "it goes on afterwards"
    assert Counter(log.read_text().split())["start"] == done["start"]


def test_a_child_loads_no_more_than_its_stage_and_is_sent_no_more_than_its_rows() -> None:
    loaded = Isolated(Loaded, [], told, max_row_s=60)(rows([b""]))["module"].to_pylist()
    assert "tests.poison" in loaded and not {"ray", "lance", "pytest"} & set(loaded)
    block = rows([bytes(30_000)] * 64)
    sent = packed(block.slice(5, 1))
    assert len(sent) < 40_000 and pa.ipc.open_stream(sent).read_all() == block.slice(5, 1)


def test_one_that_hangs_is_given_up(tmp_path: Path) -> None:
    isolated = Isolated(Doubler, [str(tmp_path / "log")], told, max_row_s=1.0)
    assert isolated(rows([b"hang"]))["n"].to_pylist() == [-1]


def test_a_bug_is_no_poison(tmp_path: Path) -> None:
    isolated = Isolated(Doubler, [str(tmp_path / "log")], told, max_row_s=60)
    with pytest.raises(ValueError, match="a bug in the stage"):
        isolated(rows([b"bug"]))
    with pytest.raises(RuntimeError, match="cannot start: it ended with status 7"):
        Isolated(NeverStarts, [], told, max_row_s=60)


def test_what_becomes_of_a_poisonous_photo() -> None:
    photo = {"photo_id": "p", "reject_id": "p", "name": "n", "image": b""}
    for outcome in (
        find_poisoned(pa.Table.from_pylist([photo], PHOTO), "died", "tiny"),
        read_poisoned(
            pa.Table.from_pylist(
                [{"faces": [{"photo_id": "p", "name": "n", "face_id": "p-0"}], "rejects": []}], OUTCOME
            ),
            "died",
            "tiny",
        ),
    ):
        [row] = outcome.to_pylist()
        [reject] = row["rejects"]
        assert row["faces"] == [] and (reject["reject_id"], reject["reason"]) == ("p", "crashed_worker")
        assert reject["detail"].startswith("its process died")


@pytest.fixture
def local() -> Iterator[None]:
    """`prepare` without a cluster; on one it runs in test_pipelines.py. Not the test's own patch, which is undone."""
    with pytest.MonkeyPatch.context() as patch:
        use_local_chain(patch)
        yield


def test_a_job_with_poison_ends_and_a_retry_takes_only_the_rejects(
    local: None, tiny_pack: Pack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import skimage.data

    folder = tmp_path / "photos"
    folder.mkdir()
    whole = skimage.data.astronaut()
    for number in range(6):
        Image.fromarray(np.asarray(whole)[: 250 + number, 96:352]).save(folder / f"good{number}.jpg")
    for poison in ("exit", "killed"):
        (folder / f"{poison}.jpg").write_bytes(poison.encode())
    (folder / "text.jpg").write_bytes(b"no image")
    monkeypatch.setattr(pipelines.prepare, "FaceFinder", PoisonFinder)
    store = Store(tmp_path / "root")
    summary = prepare(str(folder), store.root, tiny_pack.root)
    assert summary.rejected == {"crashed_worker": 2, "not_an_image": 1} and summary.photos_with_faces == 6
    assert {row.name for row in store.rejects() if row.reason == "crashed_worker"} == {"exit", "killed"}
    faces = store.existing_ids("faces")

    monkeypatch.undo()  # a mended decoder: the same bytes are now merely no image
    again = prepare(str(folder), store.root, tiny_pack.root, PrepareConfig(), retry=["crashed_worker"])
    assert (again.rejected, again.skipped_existing, again.faces) == ({"not_an_image": 2}, 7, 0)
    assert {row.name: row.reason for row in store.rejects()} == dict.fromkeys(
        ["exit", "killed", "text"], "not_an_image"
    )
    assert store.existing_ids("faces") == faces

    strict = PrepareConfig(min_face_px=900)
    (folder / "late.jpg").write_bytes((folder / "good0.jpg").read_bytes() + b"\0")  # other bytes, the same picture
    assert prepare(str(folder), store.root, tiny_pack.root, strict).rejected == {"face_too_small": 1}
    third = prepare(str(folder), store.root, tiny_pack.root, retry=["face_too_small"])
    assert (third.photos_with_faces, third.rejected, third.skipped_existing) == (1, {}, 9)
    assert "late" not in {row.name for row in store.rejects()}


def test_copies_are_prepared_once_and_found_by_every_name(local: None, tiny_pack: Pack, tmp_path: Path) -> None:
    import skimage.data

    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("b", "a", "c"):
        Image.fromarray(np.asarray(skimage.data.astronaut())[:256, 96:352]).save(folder / f"{name}.jpg")
    store = Store(tmp_path / "root")
    summary = prepare(str(folder), store.root, tiny_pack.root)
    assert (summary.faces, summary.duplicates, summary.skipped_existing) == (1, 2, 2)
    assert [face.name for face in store.faces()] == ["a"]
    (folder / "d.jpg").write_bytes((folder / "a.jpg").read_bytes())
    later = prepare(str(folder), store.root, tiny_pack.root)
    assert (later.faces, later.duplicates, later.skipped_existing) == (0, 0, 4)
    assert set(store.read("names")["name"].to_pylist()) == {"b", "c", "d"}
    store.upsert("identities", [identity_row(replace(person(1, "a", "f"), face_id=store.faces()[0].face_id))])
    assert {store.find_identity(name).name for name in ("a", "b", "c", "d")} == {"a"}
    with pytest.raises(IdentityNotFound):
        store.find_identity("b-1")
    version = store.open("names").version  # type: ignore[union-attr]
    prepare(str(folder), store.root, tiny_pack.root)
    assert store.open("names").version == version  # type: ignore[union-attr]


def test_an_erased_photo_is_not_prepared_again(local: None, tiny_pack: Pack, tmp_path: Path) -> None:
    import skimage.data

    photo = tmp_path / "photos" / "a.jpg"
    photo.parent.mkdir()
    Image.fromarray(np.asarray(skimage.data.astronaut())[:256, 96:352]).save(photo)
    store = Store(tmp_path / "root")
    assert prepare(str(photo.parent), store.root, tiny_pack.root).faces == 1
    assert erase(store, find_person(store, name="a")).found == []
    again = prepare(str(photo.parent), store.root, tiny_pack.root)
    assert (again.faces, again.skipped_existing, store.count("faces")) == (0, 1, 0)


def _interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_photo_that_can_be_read_again_loses_its_reject(
    local: None, tiny_pack: Pack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pyarrow.parquet as pq
    import skimage.data

    table, photo = tmp_path / "p.parquet", tmp_path / "late.jpg"
    pq.write_table(pa.table({"uri": ["late.jpg"], "name": ["Ada"]}), table)
    store = Store(tmp_path / "root")
    assert prepare(str(table), store.root, tiny_pack.root).rejected == {"unreadable": 1}
    Image.fromarray(np.asarray(skimage.data.astronaut())[:256, 96:352]).save(photo)
    assert prepare(str(table), store.root, tiny_pack.root, retry=["blurred"]).faces == 0
    assert [row.reason for row in store.rejects()] == ["unreadable"], "not asked for: its row stays"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(pipelines.prepare, "cpu_and_model_pools", _interrupted)  # before anything is prepared
        prepare(str(table), store.root, tiny_pack.root, retry=["unreadable"])
    assert [row.reason for row in store.rejects()] == ["unreadable"], "not prepared yet: its row stays"
    assert prepare(str(table), store.root, tiny_pack.root).faces == 1
    assert store.rejects() == [] and [face.name for face in store.faces()] == ["Ada"]
