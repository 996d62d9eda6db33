"""Photos that kill the process working on them: exactly those are refused, and the job ends."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

import pipelines.prepare
from factory.config import PrepareConfig
from factory.errors import IdentityNotFound, PhotoRejected
from factory.faces.isolated import Isolated, IsolatedCalls, IsolatedPreparer, packed
from factory.faces.prepare import Preparer
from factory.pack import Pack
from factory.store.erase import erase, find_person
from factory.store.rows import encode_png, identity_row
from factory.store.tables import Store
from pipelines.photos.faces import FOUND, ReadFaces, find_poisoned, read_poisoned
from pipelines.photos.sources import PHOTO
from pipelines.prepare import prepare
from tests.local_chain import use_local_chain
from tests.poison import Doubler, Loaded, NeverStarts, Obedient, PoisonFinder, told
from tests.serving import person

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


def test_what_becomes_of_a_poisonous_photo(tiny_pack: Pack) -> None:
    """Of one that kills its finder, and of one whose faces kill the reader: the photo is refused."""
    photo = {"photo_id": "p", "reject_id": "p", "name": "n", "image": b""}
    found = find_poisoned(pa.Table.from_pylist([photo], PHOTO), "died")
    [outcome] = ReadFaces(str(tiny_pack.root), PrepareConfig(), "cpu", 1)(found).to_pylist()
    whole = {**photo, "faces": [{"face_index": 0}], "refused": [{"face_index": 1, "reason": "blurred", "detail": "d"}]}
    [later] = read_poisoned(pa.Table.from_pylist([whole], FOUND), "died", "tiny").to_pylist()
    for row in (outcome, later):
        assert row["faces"] == []
        reject = row["rejects"][0]
        assert (reject["reject_id"], reject["photo_id"], reject["reason"]) == ("p", "p", "crashed_worker")
        assert reject["detail"].startswith("its process died")
    assert [reject["reject_id"] for reject in later["rejects"]] == ["p", "p-1"]


def test_one_photo_for_a_server(tiny_pack: Pack) -> None:
    """The same faces as in this process; refusals come as such; a limit is kept; two threads may ask at once."""
    import skimage.data

    data = encode_png(np.asarray(skimage.data.astronaut())[:256, 96:352])
    isolated = IsolatedPreparer(str(tiny_pack.root), PrepareConfig())
    with ThreadPoolExecutor(2) as threads:
        both = list(threads.map(lambda name: isolated.prepare(data, name, limit_s=60), ["a", "b"]))
    [here] = Preparer(tiny_pack).prepare(data, "a")
    assert [face.name for faces in both for face in faces] == ["a", "b"]
    np.testing.assert_array_equal(both[0][0].crop, here.crop)
    np.testing.assert_allclose(both[0][0].features.crop, here.features.crop, atol=1e-5)
    with pytest.raises(PhotoRejected, match="not_an_image"):
        isolated.prepare(b"text", "c", limit_s=60)
    with pytest.raises(PhotoRejected, match="crashed_worker: its process gave no answer in 0"):
        isolated.prepare(data, "d", limit_s=0)
    assert len(isolated.prepare(data, "e", limit_s=60)) == 1, "it goes on afterwards"


def test_a_server_s_photo_that_kills_is_refused_and_others_wait_no_longer_than_they_said() -> None:
    isolated = IsolatedCalls(Obedient, [])
    assert isolated.call((b"", "a"), limit_s=60) == []
    with pytest.raises(PhotoRejected, match="its process was killed by SIGSEGV"):
        isolated.call((b"segfault", "b"), limit_s=60)
    with ThreadPoolExecutor(1) as threads:
        hanging = threads.submit(isolated.call, (b"hang", "c"), limit_s=3.0)
        while not isolated._lock.locked():
            time.sleep(0.01)
        with pytest.raises(TimeoutError, match="other photos"):
            isolated.call((b"", "d"), limit_s=0.1)
        with pytest.raises(PhotoRejected, match="gave no answer"):
            hanging.result()


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
    monkeypatch.setattr(pipelines.prepare, "FindFaces", PoisonFinder)
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
