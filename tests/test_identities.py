"""People learned from uploads, without Ray: what is answered at once and what later, and what erasing leaves."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from starlette.testclient import TestClient

from factory.ids import content_id, face_id, identity_id
from factory.pack import Pack
from factory.settings import train_settings
from factory.store.erase import find_person, finish
from factory.store.rows import identity_row
from factory.store.tables import Store
from factory.store.unfinished import begun
from serve.learning import Diverged
from serve.openai.forms import MAX_PHOTOS
from tests import uploading
from tests.serving import error_of, person
from tests.uploading import MAX_WAITING, FakeLearner, finished, serving, until, upload, upload_several

store, learner, http = uploading.store, uploading.learner, uploading.http  # fixtures


def test_an_upload_is_work_and_then_a_person_as_the_job_would_have_made(
    http: TestClient, store: Store, learner: FakeLearner, tiny_pack: Pack
) -> None:
    answer = upload(http)
    work = answer.json()
    assert answer.status_code == 202 and answer.headers["location"] == f"/v1/work/{work['id']}"
    assert work["object"] == "identity" and work["kind"] == "identity" and work["status"] == "queued"
    learner.go.set()
    over = finished(http, work)
    (row,) = store.read("identities", where="name = 'zoe'").to_pylist()
    recipe = train_settings(tiny_pack, "paper")
    as_a_job = identity_id(face_id(content_id(b"a photo"), 0), recipe, tiny_pack.learning_fingerprint())
    assert over["status"] == "completed" and over["progress"] == 100
    assert row["identity_id"] == over["result_id"] == work["identities"][0] == as_a_job
    assert http.get("/v1/identities/zoe").json()["identity_id"] == as_a_job
    assert http.get("/v1/identities").json()["data"][0]["name"] == "zoe"
    listed = store.read("work").to_pylist()
    assert len(listed) == 1 and b"a photo".hex() not in str(listed) and "a photo" not in listed[0]["request"]


def test_the_same_photo_again_is_the_known_person_at_once(http: TestClient, store: Store, learner: FakeLearner) -> None:
    learner.go.set()
    first = finished(http, upload(http).json())
    again = upload(http, filename="other name.png")
    assert again.status_code == 200 and again.json()["identity_id"] == first["result_id"]
    assert learner.prepared == ["zoe"] and len(learner.learned) == 1 and store.count("work") == 1
    named = upload(http, name="Zoë")
    assert named.status_code == 200 and http.get("/v1/identities/Zo%C3%AB").json()["identity_id"] == first["result_id"]
    other = upload(http, preset="release")
    assert other.status_code == 202 and other.json()["identities"] != [first["result_id"]]


def test_who_is_being_learned_is_not_learned_twice(http: TestClient, store: Store, learner: FakeLearner) -> None:
    one, two = upload(http).json(), upload(http).json()
    assert one["id"] == two["id"] and store.count("work") == 1
    learner.go.set()
    finished(http, one)
    assert len(learner.learned) == 1


def test_several_faces_are_told_with_boxes_and_pictures(http: TestClient, store: Store, learner: FakeLearner) -> None:
    answer = upload(http, b"2 faces")
    error = answer.json()["error"]
    assert answer.status_code == 422 and error["code"] == "several_faces" and error["param"] == "face"
    assert [(face["face"], len(face["box"])) for face in error["faces"]] == [(0, 4), (1, 4)]
    assert Image.open(io.BytesIO(base64.b64decode(error["faces"][1]["thumbnail"]))).size == (64, 64)
    assert learner.learned == [] and store.count("faces") == 0, "nobody is kept of whom nobody was chosen"
    learner.go.set()
    second = finished(http, upload(http, b"2 faces", face=1, name="Yan").json())
    assert learner.learned == [face_id(content_id(b"2 faces"), 1)]
    assert http.get("/v1/identities/Yan").json()["identity_id"] == second["result_id"]
    everybody = upload(http, b"2 faces", all="true").json()
    assert len(everybody["identities"]) == 2 and finished(http, everybody)["status"] == "completed"
    assert sorted(learner.learned)[:1] == [face_id(content_id(b"2 faces"), 0)]
    both = upload(http, b"2 faces", all="true")
    assert both.status_code == 200 and both.json()["identities"] == everybody["identities"]


def test_how_good_a_photo_is_to_learn_from_is_told_before_it_is_learned(http: TestClient, store: Store) -> None:
    asked = upload(http, b"2 faces", dry_run="true")
    faces = asked.json()["faces"]
    assert asked.status_code == 200 and [face["face"] for face in faces] == [0, 1] and faces[0]["thumbnail"]
    assert faces[0]["photo_quality"]["score"] == 0.3 and faces[0]["photo_quality"]["faults"] == ["blurred", "small"]
    assert error_of(upload(http, b"no face", dry_run="true"))["code"] == "no_face"
    several = upload_several(http, b"one", b"2 faces", dry_run="true").json()["faces"]
    assert [(face["photo"], face["face"]) for face in several] == [(0, 0), (1, 0), (1, 1)]
    assert store.count("faces") == store.count("rejects") == store.count("work") == 0
    work = upload_several(http, b"one", b"two").json()
    assert [face["photo_quality"] for face in work["faces"]] == 2 * [faces[0]["photo_quality"]]
    assert "thumbnail" not in work["faces"][0]
    assert upload(http, b"one", dry_run="true").json()["faces"][0]["thumbnail"], "of what is kept, too"
    assert error_of(upload(http, dry_run="perhaps"))["param"] == "dry_run"


def test_a_photo_that_cannot_be_used_is_told_by_the_jobs_reason_and_is_a_reject(
    http: TestClient, store: Store, learner: FakeLearner
) -> None:
    for _ in range(2):
        answer = upload(http, b"no face")
        assert answer.status_code == 422 and error_of(answer)["code"] == "no_face" and "0.5" in answer.text
    (reject,) = store.read("rejects").to_pylist()
    assert reject["photo_id"] == content_id(b"no face") and learner.prepared == ["zoe"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"preset": "best"}, "preset"),
        ({"face": -1}, "face"),
        ({"face": "one"}, "face"),
        ({"face": 0, "all": "true"}, "face"),
        ({"face": 7}, "face"),
        ({"name": "x" * 201}, "name"),
        ({"data": b""}, "image"),
    ],
)
def test_a_bad_field_is_422_and_named(
    http: TestClient, learner: FakeLearner, fields: dict[str, Any], param: str
) -> None:
    answer = upload(http, **fields)
    assert answer.status_code == 422 and error_of(answer)["param"] == param and learner.learned == []


def test_a_form_that_cannot_be_read_is_told_why(http: TestClient) -> None:
    none = http.post("/v1/identities", data={"name": "x"}, files={"other": b"x"})
    assert none.status_code == 422 and error_of(none)["param"] == "image"
    assert http.post("/v1/identities", content=b"x", headers={"content-type": "text/plain"}).status_code == 415
    assert error_of(http.post("/v1/identities", json={"image": "x"}))["param"] == "image", "no base64"
    multipart = {"content-type": "multipart/form-data; boundary=x"}
    assert http.post("/v1/identities", content=b"--x\r\n", headers=multipart).status_code in (400, 422)
    many = [("image[]", (f"{number}.png", b"x")) for number in range(MAX_PHOTOS + 1)]
    assert http.post("/v1/identities", files=many).status_code == 400
    elsewhere = upload(http, headers={"origin": "http://elsewhere.example"})
    assert elsewhere.status_code == 403
    assert upload(http, nmae="x").headers["x-ignored-fields"] == "nmae"


def test_more_than_may_wait_is_429_and_says_when_to_come_again(http: TestClient, store: Store) -> None:
    answers = [upload(http, f"photo {number}".encode()) for number in range(MAX_WAITING + 1)]
    answers.append(upload(http, b"another", headers={"idempotency-key": "k"}))
    assert [answer.status_code for answer in answers] == [202] * MAX_WAITING + 2 * [429]
    assert int(answers[-1].headers["retry-after"]) > 0
    assert store.count("faces") == MAX_WAITING, "of the others nothing is kept"


def test_a_learner_that_is_lost_is_asked_once_more(http: TestClient, learner: FakeLearner) -> None:
    learner.go.set()
    learner.lost = 1
    assert finished(http, upload(http).json())["status"] == "completed"
    learner.lost = 2
    over = finished(http, upload(http, b"another photo").json())
    assert over["status"] == "failed" and over["error"]["code"] == "generator_unavailable"


def test_words_that_diverge_are_told(http: TestClient, learner: FakeLearner) -> None:
    learner.go.set()
    learner.error = Diverged()
    over = finished(http, upload(http).json())
    assert over["status"] == "failed" and over["error"]["code"] == "diverged"


def test_a_restart_goes_on_without_the_photo(store: Store, tiny_pack: Pack, learner: FakeLearner) -> None:
    with serving(store, tiny_pack, learner) as http:
        work = upload(http).json()
    later = FakeLearner(store, tiny_pack)
    with serving(store, tiny_pack, later) as http:
        later.go.set()
        over = finished(http, work)
    assert over["status"] == "completed" and later.prepared == [] and len(later.learned) == 1


def test_erasing_ends_what_is_under_way_and_leaves_nothing(
    http: TestClient, store: Store, learner: FakeLearner
) -> None:
    learner.go.set()
    made = finished(http, upload(http).json())
    learner.go.clear()
    other = upload(http, preset="release").json()  # the same face, to be learned anew
    answer = http.delete("/v1/identities/zoe")
    assert answer.status_code == 200 and answer.json()["deleted"] and answer.json()["id"] == made["result_id"]
    proof = answer.json()["proof"]
    assert proof["rows"]["identities"] == 1 and proof["rows"]["faces"] == 1 and proof["rows"]["work"] == 2
    assert proof["files_searched"] > 0 and proof["traces_found"] == 0
    assert http.get("/v1/identities/zoe").status_code == 404 and http.delete("/v1/identities/zoe").status_code == 404
    assert http.get(f"/v1/work/{other['id']}").status_code == 404
    learner.go.set()
    again = upload(http)
    assert again.status_code == 409 and error_of(again)["code"] == "erased"
    assert http.get("/v1/identities/ada").status_code == 200  # nobody else is touched


def test_a_name_of_several_erases_nobody_and_names_their_ids(http: TestClient, store: Store, tiny_pack: Pack) -> None:
    store.upsert("identities", [identity_row(person(9, "ada", tiny_pack.fingerprint()))])
    told = http.delete("/v1/identities/ada")
    assert told.status_code == 409 and "2 people are called 'ada'" in error_of(told)["message"]
    ids = {found.identity_id for found in store.identities() if found.name == "ada"}
    assert len(ids) == 2 and all(an_id in error_of(told)["message"] for an_id in ids)
    assert http.delete(f"/v1/identities/{min(ids)}").json()["id"] == min(ids)
    assert [found.identity_id for found in store.identities() if found.name == "ada"] == [max(ids)]


def test_an_erasure_that_had_ended_between_is_told_with_the_one_that_goes_on_with_it(
    http: TestClient, store: Store, learner: FakeLearner
) -> None:
    learner.go.set()
    finished(http, upload(http).json())
    zoe, bob = (find_person(store, name=name) for name in ("zoe", "bob"))
    put = Path(store.root) / "mine" / "notes.txt"
    put.parent.mkdir()
    put.write_text(f"{zoe.identity_ids} is Zoe")
    begun(store, zoe)
    told = http.delete("/v1/identities/bob")
    assert told.status_code == 409 and "1 files put under the root hold the person" in error_of(told)["message"]
    assert store.count("identities") == 2, "both are erased: ada and cleo are left"
    put.unlink()
    begun(store, bob)  # killed behind the tables
    again = http.delete("/v1/identities/bob")
    assert again.status_code == 200 and [again.json()["id"]] == list(bob.identity_ids)
    assert http.delete("/v1/identities/bob").status_code == 404 and finish(store) == []


def test_what_a_server_that_starts_cannot_erase_is_told_to_its_operator(
    store: Store, tiny_pack: Pack, learner: FakeLearner, caplog: pytest.LogCaptureFixture
) -> None:
    put = Path(store.root) / "notes.txt"
    with serving(store, tiny_pack, learner) as http:
        learner.go.set()
        finished(http, upload(http).json())
        zoe = find_person(store, name="zoe")
        put.write_text(f"{zoe.identity_ids} is Zoe")
    begun(store, zoe)
    with serving(store, tiny_pack, learner) as http:
        until(lambda: "this is left" in caplog.text)
        assert http.get("/v1/identities/zoe").status_code == 404 and str(put) in caplog.text


def test_where_consent_is_required_a_photo_without_one_is_refused_and_not_kept(
    http: TestClient, store: Store, learner: FakeLearner
) -> None:
    (Path(store.root) / "settings.toml").write_text("require_consent = true\n")
    refused = upload(http)
    assert refused.status_code == 422 and error_of(refused)["code"] == "no_consent"
    assert learner.prepared == [] and store.count("faces") == store.count("rejects") == 0
    assert upload(http, consent="form 7", consent_expires="2020-01-31").status_code == 422
    assert error_of(upload(http, consent="form 7", consent_expires="soon"))["param"] == "consent"
    learner.go.set()
    finished(http, upload(http, consent="form 7", consent_expires="2100-01-31", consent_scope="tests").json())
    row = store.read("identities", where="name = 'zoe'").to_pylist()[0]
    assert (row["consent"], row["consent_scope"]) == ("form 7", "tests")
    assert upload(http).status_code == 200  # it was told before
    assert upload(http, consent="form 8").status_code == 200
    assert store.read("identities", where="name = 'zoe'").to_pylist()[0]["consent"] == "form 8"


def test_a_consent_that_is_over_is_none_where_none_is_required(
    http: TestClient, store: Store, learner: FakeLearner
) -> None:
    over = upload(http, consent="form 7", consent_expires="2020-01-31")
    assert over.status_code == 422 and error_of(over)["code"] == "no_consent" and learner.prepared == []
    assert upload(http).status_code == 202, "and whoever tells of none is not asked for one"


def test_a_key_that_comes_again_is_learned_and_paid_once(store: Store, tiny_pack: Pack, learner: FakeLearner) -> None:
    paid: list[int] = []

    class Counting:
        async def identities(self, num: int) -> None:
            paid.append(num)

    key = {"idempotency-key": "k"}
    with serving(store, tiny_pack, learner, quotas=Counting()) as http:
        first = upload(http, headers=key)
        again = upload(http, headers=key)
        assert (again.status_code, again.json()["id"]) == (202, first.json()["id"]) and paid == [1]
        learner.go.set()
        finished(http, first.json())
        over = upload(http, headers=key)
        assert over.status_code == 202 and over.json()["result_id"] == first.json()["identities"][0] and paid == [1]
        for other in (upload(http, b"another photo", headers=key), upload(http, name="other", headers=key)):
            assert other.status_code == 422 and error_of(other)["code"] == "idempotency_key_reused"
        for photo in (b"third", b"fourth"):
            assert upload(http, photo, headers={"idempotency-key": ""}).status_code == 202, "an empty one is none"


def test_identities_are_listed_page_by_page(http: TestClient) -> None:
    first = http.get("/v1/identities?limit=1").json()
    assert [one["id"] for one in first["data"]] == ["bob"] and first["has_more"]
    rest = http.get(f"/v1/identities?after={first['last_id']}").json()
    assert [one["id"] for one in rest["data"]] == ["ada"] and not rest["has_more"]
    assert error_of(http.get("/v1/identities?after=nobody"))["param"] == "after"
    assert http.get("/v1/identities?limit=0").status_code == 422
