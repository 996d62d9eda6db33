"""Several photos of one person over HTTP: that they show one, what is told where some cannot be used, more of them
later; and what a server leaves that dies at the wrong moment."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient

from factory.ids import content_id
from factory.pack import Pack
from factory.store.tables import Store
from serve.learning import Diverged
from serve.uploads import Uploads
from tests import uploading
from tests.serving import error_of
from tests.uploading import FakeLearner, finished, serving, upload, upload_several

store, learner, http = uploading.store, uploading.learner, uploading.http  # fixtures


@pytest.fixture
def strict(store: Store, tiny_pack: Pack, learner: FakeLearner) -> Iterator[TestClient]:
    """A server with a pack that says from where on a photo is somebody else's."""
    likeness = tiny_pack.fr_vit.model_copy(update={"other_person": 0.5})
    learner.go.set()
    with serving(store, tiny_pack.model_copy(update={"fr_vit": likeness}), learner) as http:
        yield http


def test_photos_that_surely_show_different_people_are_told_and_nobody_is_learned(
    strict: TestClient, store: Store, learner: FakeLearner
) -> None:
    photos = (b"ada:1", b"bob:1", b"ada:2")
    asked = upload_several(strict, *photos, dry_run="true").json()["faces"]
    assert [face["fits"] for face in asked] == [True, False, True]
    assert "fits" not in upload(strict, b"ada:1", dry_run="true").json()["faces"][0]
    answer = upload_several(strict, *photos)
    error = answer.json()["error"]
    assert answer.status_code == 422 and (error["code"], error["param"]) == ("other_person", "same_person")
    assert error["photos"] == [1] and error["message"].startswith("photo 1 (from 0) surely shows somebody else")
    assert [face["fits"] for face in error["faces"]] == [True, False, True] and error["faces"][1]["thumbnail"]
    pair = upload_several(strict, *photos[:2]).json()["error"]
    assert pair["photos"] == [0, 1] and "cannot be told" in pair["message"]
    assert not learner.learned and store.count("faces") == store.count("work") == 0
    work = upload_several(strict, *photos, name="Zoe", same_person="true").json()
    assert [face["fits"] for face in work["faces"]] == [True, False, True], "it is told all the same"
    over = finished(strict, work)
    again = upload_several(strict, *photos)
    assert again.status_code == 200 and again.json()["identity_id"] == over["result_id"], "they are known so"
    fitting = upload_several(strict, b"ada:1", b"ada:2", b"ada:2", name="Ada").json()
    assert all(face["fits"] for face in fitting["faces"]) and finished(strict, fitting)["status"] == "completed"
    assert error_of(upload_several(strict, *photos, same_person="maybe"))["param"] == "same_person"


def test_another_photo_of_somebody_who_is_learned(strict: TestClient, store: Store, learner: FakeLearner) -> None:
    first = finished(strict, upload(strict, b"ada:1", name="Ada").json())
    error = upload(strict, b"bob:1", add_to="Ada").json()["error"]
    assert error["code"] == "other_person" and error["photos"] == [0] and store.count("faces") == 1
    both = finished(strict, upload(strict, b"ada:2", add_to="Ada").json())
    together = upload_several(strict, b"ada:1", b"ada:2")
    assert together.status_code == 200 and together.json()["identity_id"] == both["result_id"] != first["result_id"]
    assert strict.get(f"/v1/identities/{first['result_id']}").status_code == 200, "whoever drew them goes on"
    three = finished(strict, upload_several(strict, b"ada:3", b"bob:2", add_to=both["result_id"], same_person=1).json())
    (row,) = store.read("identities", where=f"identity_id = '{three['result_id']}'").to_pylist()
    assert len(row["more_faces"]) == 3 and row["name"] == "Ada"
    known = upload(strict, b"ada:2", add_to=both["result_id"])
    assert known.status_code == 200 and known.json()["identity_id"] == both["result_id"], "it is one of theirs"
    nobody = upload(strict, b"ada:4", add_to="nobody")
    assert nobody.status_code == 404 and error_of(nobody)["param"] == "add_to"
    assert "not kept here" in upload(strict, b"ada:4", add_to="bob").json()["error"]["message"], "an imported one"
    many = [f"ada:{number}".encode() for number in range(5, 18)]
    assert error_of(upload_several(strict, *many, add_to=three["result_id"]))["param"] == "add_to"
    assert strict.delete("/v1/identities/Ada").json()["deleted"], "all who are called so are one person"
    assert store.count("faces") == 0 and store.read("identities", where="name = 'Ada'").num_rows == 0


def test_each_of_several_photos_that_cannot_be_used_is_told(
    http: TestClient, store: Store, learner: FakeLearner
) -> None:
    asked: list[dict[str, Any]] = [{"dry_run": "true"}, {}, {}]
    for fields in asked:
        error = upload_several(http, b"no face", b"one", b"no face", **fields).json()["error"]
        assert error["code"] == "no_face" and [photo["photo"] for photo in error["photos"]] == [0, 2]
        assert "photo 2 (from 0): no face: no face scores" in error["message"]
        assert error["photos"][0]["code"] == "no_face" and error["photos"][0]["message"].startswith("no face:")
    assert store.count("faces") == 0 and not learner.learned
    assert [row["reason"] for row in store.read("rejects").to_pylist()] == ["no_face"], "as by a job"


def test_several_photos_with_a_key_are_asked_for_once(http: TestClient, learner: FakeLearner) -> None:
    files = [("image[]", (f"{number}.jpg", data)) for number, data in enumerate((b"one", b"two", b"no face"))]
    headers = {"idempotency-key": "k"}
    assert http.post("/v1/identities", files=files, headers=headers).status_code == 422
    first, again = (http.post("/v1/identities", files=files[:2], headers=headers) for _ in range(2))
    assert first.status_code == again.status_code == 202, "a refusal uses no key up"
    assert first.json()["id"] == again.json()["id"]
    learner.go.set()
    finished(http, first.json())
    other = http.post("/v1/identities", files=[files[1], files[0]], headers=headers)
    assert error_of(other)["code"] == "idempotency_key_reused", "whose name is taken depends on the order"
    assert len(learner.learned) == 1


def test_what_a_server_that_died_left_of_photos_is_forgotten_by_the_next(
    store: Store, learner: FakeLearner, tiny_pack: Pack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It dies when a learning has failed or was taken back, and before it has forgotten the photos."""

    async def dies(*_: Any) -> None: ...

    with monkeypatch.context() as dying:
        dying.setattr(Uploads, "forget", dies)
        with serving(store, tiny_pack, learner) as http:
            cancelled = upload(http, b"one").json()
            assert http.post(f"/v1/work/{cancelled['id']}/cancel").json()["status"] == "cancelled"
            learner.go.set()
            finished(http, upload_several(http, b"two", b"three").json())
            learner.error = Diverged()
            assert finished(http, upload_several(http, b"four", b"five").json())["status"] == "failed"
            learner.error = None
            learner.go.clear()
            left = upload(http, b"six").json()  # under way
    assert store.count("faces") == 6
    with serving(store, tiny_pack, learner) as http:
        deadline = time.monotonic() + 20
        while store.count("faces") > 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        learner.go.set()
        assert finished(http, left)["status"] == "completed"
    kept = {row["photo_id"] for row in store.read("faces").to_pylist()}
    assert kept == {content_id(data) for data in (b"two", b"three", b"six")}
