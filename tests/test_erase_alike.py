"""Who looks like somebody that is erased: told with how they would go, and left alone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from starlette.testclient import TestClient
from typer.testing import CliRunner

from cli.__main__ import app
from factory.files import tenant_root
from factory.pack import Pack, load_pack
from factory.records import FaceFeatures, PreparedFace
from factory.store import alike as alike_module
from factory.store.alike import alike, looks_of
from factory.store.erase import erase, find_person, finish
from factory.store.rows import face_row, identity_row
from factory.store.tables import Store
from tests import uploading
from tests.make_people import face, learned
from tests.serving import people_store
from tests.uploading import FakeLearner, finished, upload

run = CliRunner()


@pytest.fixture
def pack(monkeypatch: pytest.MonkeyPatch) -> Pack:
    studio = load_pack("studio")
    likeness = {"same_person": 0.8, "near_duplicate": 0.98}
    pack = studio.model_copy(update={"fr_vit": studio.fr_vit.model_copy(update=likeness)})
    monkeypatch.setattr(alike_module, "load_pack", lambda name: pack if name == "studio" else load_pack(name))
    return pack


def turned(of: PreparedFace, name: str, degrees: float, width: int = 2) -> PreparedFace:
    looks = np.zeros(width, np.float32)
    looks[:2] = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return replace(of, name=name, features=FaceFeatures(crop=looks, mirror=looks))


def put(store: Store, pack: Pack) -> dict[str, str]:
    """Ada, a copy of her photo, another photo of hers that nobody learned, and Bob: identity_ids by name."""
    made = {"ada": 0, "IMG-WA0001": 3, "holiday": 30, "bob": 90}  # 36.9 degrees are a cosine of 0.8, 11.5 of 0.98
    faces = [turned(face(number, pack), name, degrees) for number, (name, degrees) in enumerate(made.items())]
    people = [learned(one, number, pack) for number, one in enumerate(faces) if one.name != "holiday"]
    store.upsert("faces", [face_row(one) for one in faces])
    store.upsert("identities", [identity_row(one) for one in people])
    return {one.name: one.identity_id for one in people}


def test_others_who_look_alike_are_named_with_how_they_would_go(store: Store, pack: Pack) -> None:
    ids = put(store, pack)
    done = run.invoke(app, ["identities", "erase", "--root", store.root, "--name", "ada", "--yes"])
    assert done.exit_code == 0 and "0 traces left" in done.output and "2 others look alike and stay" in done.output
    copy, other = (line for line in done.output.splitlines() if f"--root {store.root}" in line)
    assert copy.startswith("IMG-WA0001") and "nearly the same picture" in copy and "0.999" in copy
    assert other.startswith("holiday") and "the same person" in other and "0.866" in other
    assert "bob" not in done.output
    assert {row["name"] for row in store.read("identities").to_pylist()} == {"IMG-WA0001", "bob"}, "nobody else goes"
    assert ids["IMG-WA0001"] in copy
    for line in (copy, other):  # as they are told, they work
        command = line[line.index("identities erase") :].split()
        assert run.invoke(app, [*command, "--yes"]).exit_code == 0
    assert {row["name"] for row in store.read("faces").to_pylist()} == {"bob"}


def test_nobody_is_told_where_nobody_looks_alike(store: Store, pack: Pack) -> None:
    put(store, pack)
    done = run.invoke(app, ["identities", "erase", "--root", store.root, "--name", "bob", "--yes"])
    assert done.exit_code == 0 and "alike" not in done.output + done.stderr, done.output
    assert {row["name"] for row in store.read("faces").to_pylist()} == {"ada", "IMG-WA0001", "holiday"}


def test_a_pack_that_cannot_tell_is_named(store: Store, pack: Pack) -> None:
    put(store, pack.model_copy(update={"name": "elsewhere"}))
    done = run.invoke(app, ["identities", "erase", "--root", store.root, "--name", "ada", "--yes"])
    assert done.exit_code == 0 and "pack elsewhere is not here" in done.stderr, done.stderr
    for name in ("IMG-WA0001", "holiday"):
        run.invoke(app, ["identities", "erase", "--root", store.root, "--name", name, "--yes"])
    last = run.invoke(app, ["identities", "erase", "--root", store.root, "--name", "bob", "--yes"])
    assert last.exit_code == 0 and "not known" not in last.stderr, "nobody is left to compare with"


def test_the_same_picture_in_another_file_is_no_trace(store: Store, pack: Pack) -> None:
    """As of a messenger that took the EXIF out: another photo_id, but crop and features are the same to the bit."""
    put(store, pack)
    [ada] = [one for one in store.faces() if one.name == "ada"]
    other = face(21, pack)
    copy = replace(ada, name="no exif", photo_id=other.photo_id, face_id=other.face_id)
    acme = Store(tenant_root(store.root, "acme"))
    for one in (store, acme):
        one.upsert("faces", [face_row(copy)])
        one.upsert("identities", [identity_row(learned(copy, 21, pack))])
    done = erase(store, find_person(store, name="ada"), waits_s=())
    assert done.found == [] and done.alike[0].name == "no exif" and store.find_identity("no exif")
    everywhere = ["identities", "erase", "--root", store.root, "--all-tenants", "--yes"]
    put(other_store := Store(tenant_root(store.root, "beta")), pack)
    told = run.invoke(app, [*everywhere, "--identity", other_store.find_identity("ada").identity_id])
    assert told.exit_code == 0 and told.output.count("no exif") == 2, told.output


def test_features_of_another_width_are_no_ones(store: Store, pack: Pack) -> None:
    """As of another pack that has the same name."""
    put(store, pack)
    store.upsert("faces", [face_row(turned(face(7, pack), "wide", 0, width=5))])
    own = find_person(store, name="ada").clauses("faces")
    others, _ = alike(store, looks_of(store, own), own)
    assert [one.name for one in others] == ["IMG-WA0001", "holiday"]
    own = find_person(store, name="wide").clauses("faces")
    assert alike(store, looks_of(store, own), own) == ([], [])


def test_a_person_of_several_photos_is_told_once(store: Store, pack: Pack) -> None:
    put(store, pack)
    several = [turned(face(number, pack), f"zoe-{number}", degrees) for number, degrees in ((8, 2), (9, 10))]
    zoe = replace(learned(several[0], 8, pack), name="zoe", more_faces=[several[1].face_id])
    store.upsert("faces", [face_row(one) for one in several])
    store.upsert("identities", [identity_row(zoe)])
    done = erase(store, find_person(store, name="ada"))
    assert [(one.name, round(one.similarity, 4)) for one in done.alike] == [
        ("zoe", 0.9994),
        ("IMG-WA0001", 0.9986),
        ("holiday", 0.866),
    ]


def test_an_erasure_that_is_gone_on_with_tells_them_too(
    store: Store, pack: Pack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Her own face has gone then, and one of the others since."""
    ids = put(store, pack)
    purge = Store.purge

    def killed_behind(of: Store, table: str, where: str) -> int:
        num = purge(of, table, where)  # type: ignore[arg-type]
        if table == "faces":
            raise KeyboardInterrupt
        return num

    with monkeypatch.context() as patch:
        patch.setattr(Store, "purge", killed_behind)
        with pytest.raises(KeyboardInterrupt):
            erase(store, find_person(store, name="ada"))
    [file] = (Path(store.root) / "erasing").iterdir()
    assert [one["name"] for one in json.loads(file.read_text())["alike"]] == ["IMG-WA0001", "holiday"]
    store.delete("faces", "name = 'holiday'")
    [(person, done)] = finish(store)
    assert [one.identity_id for one in done.alike] == [ids["IMG-WA0001"]] and person.alike and not file.exists()


def test_of_all_tenants_roots_others_are_told_by_root(store: Store, pack: Pack) -> None:
    """Also where the person is not known."""
    put(store, pack)
    acme = Store(tenant_root(store.root, "acme"))
    copy = turned(face(21, pack), "ada again", 1)
    acme.upsert("faces", [face_row(copy)])
    acme.upsert("identities", [identity_row(learned(copy, 21, pack))])
    photo = find_person(store, name="ada").photo_ids.pop()
    base = ["identities", "erase", "--root", store.root, "--all-tenants", "--yes"]
    done = run.invoke(app, [*base, "--photo", photo])
    assert done.exit_code == 0, done.output
    told = [line for line in done.output.splitlines() if "identities erase" in line]
    assert [line.split("  ")[0] for line in told] == ["IMG-WA0001", "holiday", "ada again"]
    assert f"--root {acme.root}" in told[2] and acme.count("identities") == 1


def test_over_http_they_are_part_of_the_answer(
    tmp_path: Path, tiny_pack: Pack, monkeypatch: pytest.MonkeyPatch
) -> None:
    likeness = {"same_person": 0.8, "near_duplicate": 0.98}
    tiny = tiny_pack.model_copy(update={"fr_vit": tiny_pack.fr_vit.model_copy(update=likeness)})
    monkeypatch.setattr(alike_module, "load_pack", lambda _: tiny)
    store = people_store(tmp_path, tiny_pack)
    learner = FakeLearner(store, tiny_pack)
    learner.go.set()
    with uploading.serving(store, tiny_pack, learner) as http:
        first = finished(http, upload(http, b"ada:1", name="one").json())
        second = finished(http, upload(http, b"ada:2", name="two").json())
        finished(http, upload(http, b"bob:1", name="bobby").json())
        answer = http.delete("/v1/identities/one").json()
        assert answer["deleted"] and answer["id"] == first["result_id"]
        assert answer["looks_alike"] == [
            {
                "id": second["result_id"],
                "name": "two",
                "looks_like": "nearly the same picture",
                "similarity": 1.0,
                "erased_by": f"DELETE /v1/identities/{second['result_id']}",
            }
        ]
        method, path = answer["looks_alike"][0]["erased_by"].split()
        again: TestClient = http
        assert again.request(method, path).json()["looks_alike"] == []
        assert http.get("/v1/identities/bobby").status_code == 200
