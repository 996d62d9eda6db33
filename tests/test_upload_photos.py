"""Uploads and the jobs' people: several photos of one person, the same photo by both ways, what is taken back."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from factory.ids import content_id, face_id, faces_key, faces_of_key, identity_ids
from factory.pack import Pack
from factory.settings import train_settings
from factory.store.erase import erase, find_person
from factory.store.rows import identity_row
from factory.store.tables import Store
from factory.store.uploads import claim_upload, forget_uploads
from pipelines.jobs.job import Summary
from pipelines.photos.unlearned import find_new_people
from pipelines.prepare import prepare
from serve.learning import Diverged
from tests import uploading
from tests.local_chain import use_local_chain
from tests.serving import error_of
from tests.sources import write
from tests.uploading import FakeLearner, finished, serving, until, upload, upload_several

store, learner, http = uploading.store, uploading.learner, uploading.http  # fixtures


def test_several_photos_of_one_person_are_one_identity(http: TestClient, store: Store, learner: FakeLearner) -> None:
    learner.go.set()
    alone = finished(http, upload(http, b"one").json())
    work = upload_several(http, b"two", b"one", b"three", name="Zoë").json()
    over = finished(http, work)
    (row,) = store.read("identities", where="name = 'Zoë'").to_pylist()
    faces = sorted(face_id(content_id(data), 0) for data in (b"one", b"two", b"three"))
    assert over["result_id"] == row["identity_id"] != alone["result_id"]  # who was learned from one photo stays
    assert [row["face_id"], *row["more_faces"]] == faces and learner.learned[-1] == "+".join(faces)
    again = upload_several(http, b"three", b"two", b"one")
    assert again.status_code == 200 and again.json()["identity_id"] == row["identity_id"]
    twice = upload_several(http, b"one", b"one")
    assert twice.status_code == 200 and twice.json()["identity_id"] == alone["result_id"]


def test_of_several_photos_each_shows_one_person_alone(http: TestClient, store: Store, learner: FakeLearner) -> None:
    error = upload_several(http, b"one", b"2 faces").json()["error"]
    assert error["code"] == "several_faces" and error["message"].startswith("photo 1 (from 0) shows 2 faces")
    assert error_of(upload_several(http, b"one", b"no face"))["code"] == "no_face"
    assert error_of(upload_several(http, b"one", b"two", face=0))["param"] == "face" and not learner.learned
    assert store.count("faces") == 0 and store.count("rejects") == 1


def test_erasing_one_of_several_photos_erases_the_person(http: TestClient, store: Store, learner: FakeLearner) -> None:
    learner.go.set()
    finished(http, upload_several(http, b"one", b"two", name="Zoë").json())
    finished(http, upload(http, b"somebody else").json())
    done = erase(store, find_person(store, photo_id=content_id(b"two")))
    assert not done.found and done.rows["faces"] == 2 and done.rows["identities"] == 1 and done.rows["work"] == 1
    assert store.count("faces") == 1
    assert error_of(upload(http, b"one"))["code"] == "erased" and http.get("/v1/identities/Zo%C3%AB").status_code == 404


def face_of(photo: bytes, index: int = 0) -> str:
    return face_id(content_id(photo), index)


def to_learn(store: Store, pack: Pack) -> tuple[list[str], int]:
    """Whom the job `train` would learn, and how many it finds learned."""
    summary = Summary(job="train", job_id="x")
    new = find_new_people(store, pack, train_settings(pack, "paper"), summary, False, True)
    return sorted(new), summary.identities_existing


@pytest.fixture
def chain(monkeypatch: pytest.MonkeyPatch) -> None:
    use_local_chain(monkeypatch)


def test_what_was_uploaded_the_job_knows_once_it_finds_the_photo(
    http: TestClient, store: Store, learner: FakeLearner, tiny_pack: Pack, tmp_path: Path, chain: None
) -> None:
    learner.go.set()
    finished(http, upload(http, b"alone.jpg").json())
    finished(http, upload(http, b"2 faces", face=1, name="Yan").json())
    finished(http, upload_several(http, b"ada/1.jpg", b"ada/2.jpg", name="Zoe").json())
    assert to_learn(store, tiny_pack) == ([], 0), "nobody is learned whom nobody chose"
    src = write(tmp_path / "photos", "alone.jpg", "ada/1.jpg", "ada/2.jpg")
    (src / "two.jpg").write_bytes(b"2 faces")
    for _ in range(2):
        summary = prepare(str(src), store.root, tiny_pack.root, person_from="folder")
        assert (summary.faces, summary.skipped_existing) == (0, 4)
        # each by the id that the upload gave: one alone, one of two, one of two photos; left is whom nobody chose
        assert to_learn(store, tiny_pack) == ([face_of(b"2 faces", 0)], 3)


def test_what_a_job_learned_an_upload_knows(
    http: TestClient, store: Store, learner: FakeLearner, tiny_pack: Pack
) -> None:
    """The jobs' rows are made by the fake's own face, with a place and a person; the identity by the key of the job."""
    learner.go.set()
    for data in (b"one", b"two", b"alone"):
        finished(http, upload(http, data, preset="release").json())  # prepares it
    rows = store.read("faces").to_pylist()
    of_ada = {content_id(data): "ada" for data in (b"one", b"two")}
    store.upsert("faces", [row | {"uri": "/photos/x", "person": of_ada.get(row["photo_id"])} for row in rows])
    keys, _ = to_learn(store, tiny_pack)
    assert keys == sorted([faces_key([face_of(b"one"), face_of(b"two")]), face_of(b"alone")])
    recipe, fingerprint = train_settings(tiny_pack, "paper"), tiny_pack.learning_fingerprint()
    ids = dict(zip(keys, identity_ids(keys, recipe, fingerprint), strict=True))
    for key, an_id in ids.items():
        first, *more = faces_of_key(key)
        made = replace(store.find_identity("ada"), identity_id=an_id, face_id=first, photo_id=first[:-2], name=key[:8])
        store.upsert("identities", [identity_row(replace(made, more_faces=more or None))])
    count = len(learner.learned)
    for answer in (upload(http, b"alone"), upload_several(http, b"two", b"one")):
        assert answer.status_code == 200 and answer.json()["identity_id"] in ids.values()
    assert len(learner.learned) == count and to_learn(store, tiny_pack)[0] == []


def cancelled(http: TestClient, work: dict[str, Any]) -> None:
    assert http.post(f"/v1/work/{work['id']}/cancel").json()["status"] == "cancelled"


def test_of_an_upload_that_is_taken_back_nothing_is_kept(
    http: TestClient, store: Store, learner: FakeLearner, tiny_pack: Pack
) -> None:
    cancelled(http, upload(http, b"2 faces", face=1, name="Yan").json())
    assert store.count("faces") == 0, "nor of who else is on the photo"
    again = upload(http, b"2 faces", face=0).json()
    also = upload(http, b"2 faces", face=1).json()
    cancelled(http, also)
    assert store.count("faces") == 2, "somebody on it is being learned"
    learner.go.set()
    assert finished(http, again)["status"] == "completed"
    learner.go.clear()
    cancelled(http, upload(http, b"2 faces", face=1).json())
    cancelled(http, upload_several(http, b"one", b"two").json())
    assert {row["photo_id"] for row in store.read("faces").to_pylist()} == {content_id(b"2 faces")}
    learner.go.set()
    finished(http, upload_several(http, b"one", b"two").json())
    learner.go.clear()
    cancelled(http, upload(http, b"two").json())
    assert store.count("faces") == 4, "it is one of a person's photos"
    rows = store.read("faces", where=f"photo_id = '{content_id(b'two')}'").to_pylist()
    cancelled(http, upload(http, b"three").json())
    ids = {"photo_id": content_id(b"three"), "face_id": face_of(b"three")}
    store.upsert("faces", [{**rows[0], **ids, "uri": "/x.jpg"}])
    cancelled(http, upload(http, b"three").json())
    assert store.count("faces") == 5, "a job found it"


def test_of_an_upload_whose_learning_fails_nothing_is_kept(
    http: TestClient, store: Store, learner: FakeLearner
) -> None:
    learner.error = Diverged()
    failing = upload(http, b"2 faces", face=1).json()
    other = upload(http, b"2 faces", face=0).json()
    assert store.count("faces") == 2
    learner.go.set()
    assert finished(http, failing)["status"] == finished(http, other)["status"] == "failed"
    until(lambda: store.count("faces") == 0)
    learner.error = None
    learned = finished(http, upload(http, b"2 faces", face=0).json())
    learner.error = Diverged()
    assert finished(http, upload(http, b"2 faces", face=1).json())["status"] == "failed"
    time.sleep(0.2)  # for what is left of the failed one
    assert learned["status"] == "completed" and store.count("faces") == 2, "somebody on it was learned"


def test_with_the_last_one_who_was_learned_of_an_upload_nothing_is_kept_of_it(
    http: TestClient, store: Store, learner: FakeLearner
) -> None:
    learner.go.set()
    for face, name in enumerate(("Yan", "Zoe")):
        finished(http, upload(http, b"2 faces", face=face, name=name).json())
    finished(http, upload(http, b"another", name="Una").json())
    assert http.delete("/v1/identities/Zoe").json()["deleted"] and store.count("faces") == 2
    assert http.delete("/v1/identities/Yan").json()["deleted"] and store.count("faces") == 1
    finished(http, upload(http, b"2 faces and more", face=1, name="Ian").json())
    assert http.delete("/v1/identities/Ian").json()["deleted"] and store.count("faces") == 1


def test_who_asks_for_a_photo_while_it_is_forgotten_finds_it_kept(
    store: Store, learner: FakeLearner, tiny_pack: Pack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other server writes its work, and then claims the faces, after the one that forgets has read the work."""
    learner.go.set()
    with serving(store, tiny_pack, learner) as http:
        finished(http, upload(http, b"one").json())
    (face,) = store.read("faces").to_pylist()
    (work,) = store.read("work").to_pylist()
    store.delete("identities", f"identity_id = '{work['identity_id']}'")
    read, looks = Store.read, list[str]()

    def reading(own: Store, table: Any, **how: Any) -> Any:
        rows = read(own, table, **how)
        if table == "work":
            looks.append(table)
            if len(looks) == 1:
                store.upsert("work", [{**work, "work_id": "identity_of another server", "status": "queued"}])
                assert claim_upload(store, tiny_pack.name, face["photo_id"])
        return rows

    monkeypatch.setattr(Store, "read", reading)
    forget_uploads(store, [face["photo_id"]])
    assert looks == ["work", "work"], "begun anew"
    monkeypatch.undo()
    assert store.read("faces").to_pylist() == [face]
    store.delete("work", "status = 'queued'")
    forget_uploads(store, [face["photo_id"]])
    assert store.count("faces") == 0 and not claim_upload(store, tiny_pack.name, face["photo_id"])


def test_a_known_photo_that_is_forgotten_meanwhile_is_prepared_again(
    http: TestClient, store: Store, learner: FakeLearner, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = upload(http, b"one", name="Zoe").json()

    def gone(*about: str) -> bool:
        if len(learner.prepared) == 1:
            store.purge("faces", "TRUE")
        return claim_upload(*about)  # type: ignore[arg-type]

    monkeypatch.setattr("serve.uploads.claim_upload", gone)
    again = upload(http, b"one", preset="release").json()
    assert learner.prepared == ["Zoe", "Zoe"] and store.count("faces") == 1
    learner.go.set()
    assert finished(http, again)["status"] == finished(http, first)["status"] == "completed"
