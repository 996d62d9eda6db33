"""Photos of one person, as their source tells: which faces are theirs, and that they are learned once, together."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import skimage.data
from PIL import Image

import pipelines.train
from factory.config import EngineConfig, Recipe, TrainConfig
from factory.consent import Consent
from factory.errors import SourceError
from factory.faces.people import MOST_PHOTOS, of_one_person
from factory.ids import content_id, faces_key, faces_of_key, identity_id
from factory.pack import Pack
from factory.records import FaceFeatures, PreparedFace
from factory.settings import train_settings
from factory.store import told
from factory.store.erase import erase, find_person
from factory.store.rows import face_row
from factory.store.tables import Store
from factory.store.told import UPLOADED, told_people
from pipelines.jobs.job import Summary
from pipelines.photos.places import find_places
from pipelines.photos.sources import CONTENT, hash_contents
from pipelines.photos.unlearned import find_new_people
from pipelines.prepare import prepare
from pipelines.train import IdentityTrainer, _blocks, read_faces
from tests.local_chain import use_local_chain
from tests.make_faces import noise_face
from tests.sources import photos_of, table, write


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "root")


@pytest.fixture
def pack(tiny_pack: Pack) -> Pack:
    return tiny_pack.model_copy(update={"fr_vit": tiny_pack.fr_vit.model_copy(update={"same_person": 0.8})})


def at(degrees: float) -> FaceFeatures:
    """Features in a plane: cosines are those of the angles between."""
    direction = np.array([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))], np.float32)
    return FaceFeatures(crop=direction, mirror=direction)


def rows_of(photo: str, pack: Pack, *degrees: float, side_px: float = 50, **columns: Any) -> list[dict[str, Any]]:
    """Rows of a photo's faces, the largest first."""
    faces = []
    for index, angle in enumerate(degrees):
        ids: dict[str, Any] = {"photo_id": photo, "face_id": f"{photo}-{index}", "face_index": index}
        box = np.array([0, 0, side_px, side_px], np.float32)
        made = replace(noise_face(len(photo) + index, pack), features=at(angle), box=box, **ids)
        faces.append(face_row(replace(made, name=photo if index == 0 else f"{photo}-{index}")) | columns)
    return faces


def new_people(store: Store, pack: Pack, summary: Summary | None = None, recipe: Recipe | None = None) -> list[str]:
    summary = summary or Summary(job="train", job_id="x")
    return sorted(find_new_people(store, pack, recipe or train_settings(pack), summary, False, True))


def persons_in(src: Any, person_from: Any = None) -> dict[str, str | None]:
    places = find_places(src if isinstance(src, list) else str(src), None, person_from)
    contents = pa.concat_tables([CONTENT.empty_table(), *hash_contents(places.table)])
    return dict(zip(contents["name"].to_pylist(), contents["person"].to_pylist(), strict=True))


def test_a_folder_tells_whose_its_photos_are(tmp_path: Path) -> None:
    src = write(tmp_path / "src", "loose.jpg", "ada/1.jpg", "ada/2.jpg", "de/Zoe\u0308/3.jpg", "ada/tours/4.jpg")
    (src / "shards").mkdir()
    with zipfile.ZipFile(src / "shards/000.zip", "w") as packed:
        packed.writestr("eve/5.jpg", b"5")
        packed.writestr("6.jpg", b"6")
    expected = {"loose": None, "1": "ada", "2": "ada", "3": "de/Zoë", "4": "ada/tours", "5": "eve", "6": None}
    assert persons_in(src, "folder") == expected
    assert persons_in([str(src / "ada"), str(src)], "folder") == expected, "the outermost source counts"
    assert set(persons_in(src).values()) == {None}
    with pytest.raises(SourceError, match=r"no photo .*ada lies in a folder below it.*give the folder around them"):
        find_places(str(write(tmp_path / "ada", "1.jpg")), None, "folder")


def test_a_column_or_a_partition_tells_whose_a_photo_is(tmp_path: Path) -> None:
    rows = {"image": [b"1", b"2", b"3", b"4"], "person": ["ada", None, " ", "Zoe\u0308"], "name": list("abcd")}
    photos = photos_of(table(tmp_path / "t.parquet", rows))
    assert {photo["name"]: photo["person"] for photo in photos} == {"a": "ada", "b": None, "c": None, "d": "Zoë"}
    (photo,) = photos_of(table(tmp_path / "hive/person=Ada%20L/part.parquet", {"image": [b"1"]}).parent.parent)
    assert photo["person"] == "Ada L"
    # what writers put in the place of null is nobody: strangers would be learned as one person
    nobodys = tmp_path / "null/person=__HIVE_DEFAULT_PARTITION__/name=__HIVE_DEFAULT_PARTITION__/part.parquet"
    rows = {"image": [b"1", b"2", b"3"], "person": ["nan", "None", "<NA>"]}
    for photo in [*photos_of(table(nobodys, {"image": [b"1"]})), *photos_of(table(tmp_path / "n.parquet", rows))]:
        assert photo["person"] is None and "HIVE" not in photo["name"]
    for wrong in ([1, 0], [True, False], [1.0, None]):
        with pytest.raises(SourceError, match=r"column person holds .*whose photo it is \(string\).*rename it"):
            find_places(str(table(tmp_path / "wrong.parquet", {"image": [b"1", b"2"], "person": wrong})))
    with pytest.raises(SourceError, match="in Parquet a column person"):
        find_places(str(tmp_path / "t.parquet"), None, "folder")


def test_of_a_photo_of_several_it_is_the_one_nearest_to_the_others(store: Store, pack: Pack) -> None:
    ada = {"person": "ada"}
    rows = rows_of("alone", pack, 0, **ada) + rows_of("two", pack, 90, 20, **ada) + rows_of("far", pack, 80, 90, **ada)
    background = rows_of("background", pack, 70, 10, **ada)[1:]  # her larger face was refused, or is somebody's else
    nobody = rows_of("strangers", pack, 5, 6, person="bob")
    store.upsert("faces", rows + background + nobody + rows_of("loose", pack, 0))
    summary = Summary(job="train", job_id="x")
    assert new_people(store, pack, summary) == [faces_key(["alone-0", "background-1", "two-1"]), "loose-0"]
    rejects = {reject.reject_id: (reject.reason, reject.stage, reject.detail) for reject in store.rejects()}
    assert set(rejects) == {"far", "strangers"} and {reason for reason, _, _ in rejects.values()} == {"several_faces"}
    assert "2 faces" in rejects["far"][2] and "0.17" in rejects["far"][2] and "0.80" in rejects["far"][2]
    assert "no other photo" in rejects["strangers"][2]
    assert summary.rejected_faces == {"several_faces": 2} and len(summary.samples) == 2
    assert (summary.faces, summary.photos, summary.skipped_existing) == (9, 6, 5)

    version = store.open("rejects").version  # type: ignore[union-attr]
    again = Summary(job="train", job_id="x")
    assert len(new_people(store, pack, again)) == 2 and again.rejected_faces == {}
    assert store.open("rejects").version == version  # type: ignore[union-attr]
    store.upsert("faces", rows_of("bob alone", pack, 6, person="bob"))
    assert faces_key(["bob alone-0", "strangers-1"]) in new_people(store, pack)
    assert [reject.reject_id for reject in store.rejects()] == ["far"], "it is used now"


def test_without_a_pack_that_knows_likeness_the_nearest_is_taken(store: Store, tiny_pack: Pack) -> None:
    rows = rows_of("alone", tiny_pack, 0, person="ada") + rows_of("far", tiny_pack, 95, 90, person="ada")
    store.upsert("faces", rows)
    assert tiny_pack.fr_vit.same_person is None and new_people(store, tiny_pack) == ["alone-0+far-1"]


def test_of_many_photos_the_largest_faces_are_learned(store: Store, pack: Pack) -> None:
    rows = [rows_of(f"p{number:02}", pack, 0, side_px=100 + number, person="ada")[0] for number in range(20)]
    store.upsert("faces", rows)
    (key,) = new_people(store, pack)
    assert faces_of_key(key) == [f"p{number:02}-0" for number in range(20 - MOST_PHOTOS, 20)]
    store.upsert("faces", rows_of("small", pack, 0, side_px=10, person="ada"))
    assert new_people(store, pack) == [key], "a worse photo changes nothing"


def test_nobodys_faces_are_torn_apart(store: Store, pack: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of a person lie anywhere in the table, between those of others, of other packs, and deleted ones."""
    for turn in range(3):
        some = [rows_of(f"{who} {turn}", pack, 0, person=who)[0] for who in ("ada", "bob", "cleo", "dora")]
        gone = rows_of(f"gone {turn}", pack, 0, person="ada")[0]
        other = some[0] | {"face_id": f"other {turn}-0", "pack": "another"}
        store.upsert("faces", [gone, *some, other, rows_of(f"loose {turn}", pack, 0)[0]])
    store.delete("faces", "photo_id LIKE 'gone%'")
    monkeypatch.setattr(told, "_AT_ONCE", 2)
    found = {person.name: person.face_ids for person in told_people(store, pack)}
    assert found == {who: [f"{who} {turn}-0" for turn in range(3)] for who in ("ada", "bob", "cleo", "dora")}
    assert len(list(told._whole_people(store, pack.name))) > 1


def test_a_photo_that_nobody_agreed_to_is_left_out(store: Store, pack: Pack) -> None:
    Path(store.root).mkdir()
    (Path(store.root) / "settings.toml").write_text("require_consent = true\n")
    agreed = Consent(reference="form").columns()
    store.upsert("faces", rows_of("one", pack, 0, person="ada", **agreed) + rows_of("two", pack, 0, person="ada"))
    summary = Summary(job="train", job_id="x")
    assert new_people(store, pack, summary) == ["one-0"] and summary.rejected_faces == {"no_consent": 1}


def test_uploads_are_not_learned_by_jobs_until_a_job_finds_the_photo(
    store: Store, tiny_pack: Pack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_local_chain(monkeypatch)
    photo = write(tmp_path / "photos", "ada/1.jpg") / "ada/1.jpg"
    photo_id = content_id(photo.read_bytes())
    store.upsert("faces", rows_of(photo_id, tiny_pack, 0, 90, uri=UPLOADED) + rows_of("job's", tiny_pack, 0))
    assert new_people(store, tiny_pack) == ["job's-0"]
    merged = Summary(job="train", job_id="x")
    pack = tiny_pack.model_copy(update={"fr_vit": tiny_pack.fr_vit.model_copy(update={"same_person": 0.8})})
    assert find_new_people(store, pack, train_settings(pack), merged, True, True) == ["job's-0"], "nor do they stand in"
    for _ in range(2):
        summary = prepare(str(tmp_path / "photos"), store.root, tiny_pack.root)
        assert (summary.faces, summary.skipped_existing) == (0, 1)
        assert new_people(store, tiny_pack) == [f"{photo_id}-0", f"{photo_id}-1", "job's-0"]
    uris = {row["face_id"]: row["uri"] for row in store.read("faces").to_pylist()}
    assert uris[f"{photo_id}-1"] == str(photo) and uris["job's-0"] is None


def test_whose_a_known_photo_is_can_be_told_later(
    store: Store, tiny_pack: Pack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_local_chain(monkeypatch)
    src = write(tmp_path / "src", "ada/1.jpg", "ada/2.jpg", "bob/3.jpg")
    (src / "a copy.jpg").write_bytes((src / "bob/3.jpg").read_bytes())
    ids = {file.stem: content_id(file.read_bytes()) for file in src.rglob("*.jpg")}
    for number in "123":
        store.upsert("faces", rows_of(ids[number], tiny_pack, 0))
    assert len(new_people(store, tiny_pack)) == 3
    versions = []
    for _ in range(2):
        prepare(str(src), store.root, tiny_pack.root, person_from="folder")
        pair = faces_key([f"{ids['1']}-0", f"{ids['2']}-0"])
        assert sorted(new_people(store, tiny_pack)) == sorted([pair, f"{ids['3']}-0"])
        versions.append((store.open("faces").version, store.open("names").version))  # type: ignore[union-attr]
    assert versions[0] == versions[1]
    assert store.faces_by_other_name("bob") == [f"{ids['3']}-0"], "who was learned alone is called so, too"
    other = write(tmp_path / "other", "eve/1.jpg")
    (other / "eve/1.jpg").write_bytes((src / "ada/1.jpg").read_bytes())
    prepare(str(other), store.root, tiny_pack.root, person_from="folder")
    assert pair in new_people(store, tiny_pack), "what was told first counts"


def test_any_photo_of_a_person_erases_them_learned_or_not(store: Store, pack: Pack) -> None:
    def found(**by: Any) -> set[str]:
        person = find_person(store, **by)
        return person.photo_ids | person.face_ids

    store.upsert("faces", [row for n in range(3) for row in rows_of(f"p{n}", pack, 0, person="ada")])
    store.upsert("faces", rows_of("p3", pack, 0, 90, person="ada") + rows_of("q", pack, 0, person="bob"))
    for by in ({"photo_id": "p1"}, {"name": "ada"}, {"photo_id": "p3"}):
        assert found(**by) == {"p0", "p1", "p2", "p3"}
    done = erase(store, find_person(store, photo_id="p1"), waits_s=())
    assert done.found == [] and done.rows["faces"] == 5
    assert [row["person"] for row in store.read("faces").to_pylist()] == ["bob"]


class Reporter:
    """In place of the worker's end of the progress board, which needs a cluster."""

    def __init__(self, board: object) -> None: ...

    def step(self, num_items: int, done: int, total: int) -> None: ...

    def finished(self) -> None: ...


def learn(store: Store, pack: Pack, recipe: Recipe, keys: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """As the job `train`, without a cluster."""
    monkeypatch.setattr(pipelines.train, "StepReporter", Reporter)
    board: Any = None
    actor = IdentityTrainer(str(pack.root), [recipe], EngineConfig(slots=2), store, board, "cpu", 1)
    for block in _blocks([keys], 2):
        actor(read_faces(block, store, pack.name))


def test_a_job_learns_photos_of_one_person_as_an_upload_of_them_does(
    store: Store, tiny_pack: Pack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_local_chain(monkeypatch)
    portrait = Image.fromarray(np.asarray(skimage.data.astronaut())[:256, 96:352])
    src = write(tmp_path / "src", "ada/bad.jpg")
    for name, quality in (("ada/1.jpg", 90), ("ada/2.jpg", 91), ("loose.jpg", 92)):
        portrait.save(src / name, quality=quality)
    summary = prepare(str(src), store.root, tiny_pack.root, person_from="folder")
    assert (summary.faces, summary.rejected) == (3, {"not_an_image": 1})
    assert [reject.name for reject in store.rejects()] == ["bad"], "the rest of her photos counts"
    faces = {row["name"]: row["face_id"] for row in store.read("faces").to_pylist()}

    recipe = Recipe(preset="paper", method=train_settings(tiny_pack).method, train=TrainConfig(num_steps=1))
    new = new_people(store, tiny_pack, recipe=recipe)
    assert sorted(new) == sorted([faces_key([faces["1"], faces["2"]]), faces["loose"]])
    learn(store, tiny_pack, recipe, new, monkeypatch)
    people = {identity.name: identity for identity in store.identities()}
    ada = people.pop("ada")
    assert set(people) == {"loose"} and people["loose"].more_faces is None
    uploaded: PreparedFace = of_one_person(store.faces([faces["2"], faces["1"]]))
    assert [ada.face_id, *(ada.more_faces or [])] == uploaded.face_ids == sorted([faces["1"], faces["2"]])
    fingerprint = tiny_pack.learning_fingerprint()
    assert ada.identity_id == identity_id(faces["2"], recipe, fingerprint, [faces["1"]])
    assert people["loose"].identity_id == identity_id(faces["loose"], recipe, fingerprint)

    again = Summary(job="train", job_id="x")
    assert new_people(store, tiny_pack, again, recipe) == [] and again.identities_existing == 2
    portrait.save(src / "ada/3.jpg", quality=93)
    assert prepare(str(src), store.root, tiny_pack.root, person_from="folder").faces == 1
    faces |= {row["name"]: row["face_id"] for row in store.read("faces").to_pylist()}
    learn(store, tiny_pack, recipe, new_people(store, tiny_pack, recipe=recipe), monkeypatch)
    anew = store.find_identity("ada")
    assert len(anew.more_faces or []) == 2 and store.count("identities") == 3, "a new photo: learned anew, from all"
    erase(store, find_person(store, photo_id=store.faces([faces["3"]])[0].photo_id), waits_s=())
    assert [identity.name for identity in store.identities()] == ["loose"]


def test_of_a_person_some_of_whom_was_erased_nothing_is_learned(store: Store, pack: Pack) -> None:
    store.upsert("faces", [row for name in ("a", "b", "c") for row in rows_of(name, pack, 0)])
    wanted = pa.table({"faces": ["a-0+gone-0", "b-0", "a-0+c-0"], "recipe": [0, 0, 1]})
    read = read_faces(wanted, store, pack.name)
    ids = [[row["face_id"] for row in person] for person in read["faces"].to_pylist()]
    assert ids == [["b-0"], ["a-0", "c-0"]] and read["recipe"].to_pylist() == [0, 1]
    none = read_faces(wanted.slice(0, 1), store, pack.name)
    assert none.num_rows == 0
