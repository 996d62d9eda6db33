"""One person several times, and copies of a picture: who is found, and who stands for whom."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from cli.__main__ import app
from factory.errors import PackError
from factory.faces.people import embeddings, seen_before, strangers
from factory.pack import Pack, load_pack
from factory.records import FaceFeatures, PreparedFace
from factory.store.people import seen_again
from factory.store.rows import face_row
from factory.store.tables import Store
from factory.store.tombstones import Tombstones, tombstone_digest
from pipelines.jobs.job import Summary
from pipelines.photos import people
from tests.make_faces import noise_face


@pytest.fixture
def pack() -> Pack:
    studio = load_pack("studio")
    likeness = {"same_person": 0.8, "near_duplicate": 0.98}
    return studio.model_copy(update={"fr_vit": studio.fr_vit.model_copy(update=likeness)})


def at(degrees: float) -> np.ndarray:
    """A direction in the plane: cosines are those of the angles between."""
    return np.array([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))], np.float32)


def face(pack: Pack, number: int, degrees: float, side_px: float) -> PreparedFace:
    features = FaceFeatures(crop=at(degrees), mirror=at(degrees))
    photo = f"{number:064x}"
    made = replace(noise_face(number, pack), photo_id=photo, face_id=f"{photo}-0", features=features)
    return replace(made, box=np.array([0, 0, side_px, side_px], np.float32))


def test_a_mirrored_photo_has_the_same_embedding() -> None:
    crops, mirrors = np.random.default_rng(0).normal(size=(2, 3, 8)).astype(np.float32)
    np.testing.assert_allclose(embeddings(crops, mirrors), embeddings(mirrors, crops))
    np.testing.assert_allclose(np.linalg.norm(embeddings(crops, mirrors), axis=1), 1, rtol=1e-6)


def test_likenesses_do_not_chain_strangers_and_the_nearest_counts() -> None:
    angles = [0, 20, 40, 38, 90]  # 36.9 degrees are a cosine of 0.8
    earlier, cosine = seen_before(np.stack([at(angle) for angle in angles]), 0.8)
    assert earlier.tolist() == [-1, 0, -1, 2, -1]  # 40 is like 20, but not like 0, who stands for both
    np.testing.assert_allclose(cosine[[1, 3]], np.cos(np.radians([20, 2])), rtol=1e-6)
    assert np.isnan(cosine[[0, 2, 4]]).all()
    kept, _ = seen_before(np.stack([at(angle) for angle in angles]), 0.8, first=2)
    assert kept.tolist() == [-1, -1, 1, 1, -1]  # the first two are nobody again, whatever they are like
    nearest, _ = seen_before(np.stack([at(angle) for angle in (0, 40, 30)]), 0.8)
    assert nearest.tolist() == [-1, -1, 1]


@pytest.mark.parametrize(
    ("angles", "odd"),
    [
        ([0, 10, 20], set()),
        ([0, 10, 90], {2}),
        ([90, 0, 10, 80, 5], {0, 3}),  # two of somebody else, who are alike, are fewer
        ([0, 90], {0, 1}),  # nobody can say who is meant,
        ([0, 5, 90, 95], {0, 1, 2, 3}),  # nor here,
        ([0, 120, 240], {0, 1, 2}),  # nor where nobody fits anybody
        ([0, 50, 98], {0}),  # the one in the middle fits both; the worst goes first, and then the others fit
        ([0], set()),
        ([], set()),
    ],
)
def test_of_photos_of_one_person_those_of_others_are_told(angles: list[int], odd: set[int]) -> None:
    faces_NF = np.array([at(angle) for angle in angles], np.float32).reshape(-1, 2)
    assert set(strangers(faces_NF, 0.6)) == odd


def test_a_stranger_is_told_by_the_mean_cosine_to_whoever_fits() -> None:
    faces_NF = np.stack([at(angle) for angle in (0, 10, 90, 100)])
    assert strangers(faces_NF[:3], 0.6) == {2: pytest.approx((0 + np.cos(np.radians(80))) / 2, abs=1e-6)}
    alike, other = np.cos(np.radians(10)), np.cos(np.radians(80)) + np.cos(np.radians(100))
    everybody = strangers(faces_NF, 0.6)
    assert everybody[1] == pytest.approx((alike + np.cos(np.radians(80)) + 0) / 3, abs=1e-6)
    assert everybody[0] == pytest.approx((alike + 0 + np.cos(np.radians(100))) / 3, abs=1e-6) and other < 1e-6


def test_ten_thousand_faces_take_seconds() -> None:
    faces = np.random.default_rng(0).normal(size=(5000, 768)).astype(np.float32)
    unit = embeddings(np.concatenate([faces, faces]), np.concatenate([faces, faces]))
    started = time.process_time()
    earlier, _ = seen_before(unit, 0.9)
    assert earlier.tolist() == [-1] * 5000 + list(range(5000))
    assert time.process_time() - started < 30


def test_the_largest_face_stands_for_a_person(store: Store, pack: Pack) -> None:
    faces = [face(pack, 1, 0, 50), face(pack, 2, 25, 90), face(pack, 3, 90, 70), face(pack, 4, 24, 60)]
    store.upsert("faces", [face_row(one) for one in faces])
    again = {one.name: (one.of_name, one.near_duplicate, round(one.similarity, 3)) for one in seen_again(store, pack)}
    assert again == {"person 1": ("person 2", False, 0.906), "person 4": ("person 2", True, 1.0)}
    before = seen_again(store, pack, before={faces[0].face_id})
    assert {(one.name, one.of_name) for one in before} == {("person 2", "person 1"), ("person 4", "person 2")}
    assert [one.name for one in seen_again(store, pack, but={faces[1].face_id})] == ["person 1"]
    assert seen_again(store, pack, least=0.9999) == []
    unknown = pack.model_copy(update={"fr_vit": pack.fr_vit.model_copy(update={"same_person": None})})
    with pytest.raises(PackError, match=r"same_person under \[fr_vit\]"):
        seen_again(store, unknown)
    assert len(seen_again(store, unknown, least=0.8)) == 2


def test_the_command_lists_them(store: Store, pack: Pack) -> None:
    store.upsert("faces", [face_row(face(pack, number, 0, 50 + number)) for number in (1, 2)])
    listed = CliRunner().invoke(app, ["identities", "people", "--root", store.root])
    [line] = listed.output.splitlines()[1:]
    assert line.split() == ["person", "2", "person", "1", "nearly", "the", "same", "picture", "1.000"]
    listed = CliRunner().invoke(app, ["identities", "people", "--root", store.root, "--json", "--at", "0.5"])
    assert json.loads(listed.output)["of_face_id"] == f"{2:064x}-0"
    (Path(store.root) / "empty").mkdir()
    assert CliRunner().invoke(app, ["identities", "people", "--root", f"{store.root}/empty"]).exit_code == 0


def test_a_job_tells_what_is_new_to_it(store: Store, pack: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    faces = [face(pack, 1, 0, 50), face(pack, 2, 1, 90), face(pack, 3, 25, 70), face(pack, 4, 26, 60)]
    store.upsert("faces", [face_row(one) for one in faces])
    summary = Summary(job="prepare", job_id="x")
    people.tell_people(summary, store, pack, {faces[2].photo_id, faces[3].photo_id})
    assert (summary.near_duplicates, summary.same_person) == (1, 1)
    assert any("same person" in line and "identities people" in line for line in summary.lines())
    person, picture = summary.samples
    assert "the same person as person 2" in person.html and "nearly the same picture as person 3" in picture.html
    for told in (faces[1].photo_id, faces[1].face_id, faces[2].photo_id):
        assert person.shows(Tombstones(frozenset({"s"}), frozenset({tombstone_digest("s", told)})))
        assert told in person.html
    assert not person.shows(Tombstones(frozenset({"s"}), frozenset({tombstone_digest("s", faces[0].photo_id)})))

    monkeypatch.setattr(people, "MOST_FACES", 3)
    too_many = Summary(job="prepare", job_id="x")
    people.tell_people(too_many, store, pack, {faces[3].photo_id})
    assert (too_many.not_compared, too_many.same_person) == (4, 0) and "not compared" in "".join(too_many.lines())


def test_a_person_with_two_photos_keeps_one_report_line_each_on_one_line(store: Store, pack: Pack) -> None:
    odd = [replace(face(pack, number, 0, 50), name=f"<b>\n{number}") for number in (1, 2)]
    store.upsert("faces", [face_row(one) for one in odd])
    summary = Summary(job="prepare", job_id="x")
    people.tell_people(summary, store, pack, {one.photo_id for one in odd})
    [line] = summary.samples
    assert "\n" not in line.html and "<b>" not in line.html
