"""Consent that comes with photos: lists beside files, columns, photos that nobody agreed to."""

import tarfile
import time
import zipfile
from datetime import date
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import skimage.data
from PIL import Image

import pipelines.prepare
from factory.config import PrepareConfig, Recipe, TrainConfig
from factory.consent import Consent, as_time
from factory.errors import SourceError
from factory.learn.trainer import load_trainer
from factory.pack import Pack
from factory.settings import train_settings
from factory.store.rows import face_row
from factory.store.tables import Store
from pipelines.jobs.job import Summary
from pipelines.jobs.stage import Stage
from pipelines.photos.batches import read_batches
from pipelines.photos.faces import FindFaces, ReadFaces
from pipelines.photos.places import find_places
from pipelines.photos.samples import samples
from pipelines.photos.sources import read_photos
from pipelines.photos.unlearned import find_new_people
from pipelines.prepare import commit, prepare
from tests.local_chain import use_local_chain
from tests.make_faces import noise_face
from tests.sources import listed, photos_of, table, write


def consents_of(src: Path) -> dict[str, tuple[Any, ...]]:
    return {
        photo["name"]: (photo["consent"], photo["consent_expires"], photo["consent_scope"]) for photo in photos_of(src)
    }


def test_a_list_beside_photos(tmp_path: Path) -> None:
    folder = write(tmp_path / "photos", "a.jpg", "b.jpg", "inner/c.jpg", "inner/a.jpg")
    with zipfile.ZipFile(folder / "more.zip", "w") as packed:
        packed.writestr("d/e.jpg", b"e")
    (folder / "consent.csv").write_text(
        "\ufefffile,consent,consent_expires,consent_scope\na.jpg,form-1,2027-01-31,web\nmore.zip#d/e.jpg,form-2,,\n"
    )
    (folder / "inner" / "consent.csv").write_text("consent,file\nform-3,c.jpg\n")
    found = consents_of(folder)
    assert found.pop("photos/a") == ("form-1", as_time("2027-01-31"), "web")
    assert found.pop("e") == ("form-2", None, None) and found.pop("c") == ("form-3", None, None)
    assert set(found.values()) == {(None, None, None)} and set(found) == {"b", "inner/a"}, "nothing is filled in"


@pytest.mark.parametrize(
    "text",
    [
        *("name,consent\na,b\n", "file,consent,consent_expires\na.jpg,f,soon\n", "", "file,consent\n,f\n"),
        *("file,consent\na.jpg,f\na.jpg,g\n", "file,consent\na.jpg,f,for all, and ever\n"),
    ],
)
def test_a_list_that_cannot_be_understood_ends_the_job(tmp_path: Path, text: str) -> None:
    folder = write(tmp_path / "photos", "a.jpg")
    (folder / "consent.csv").write_text(text)
    with pytest.raises(SourceError, match=r"consent\.csv cannot be used .* its columns are file, consent,"):
        photos_of(folder)


@pytest.mark.parametrize(
    "text",
    [
        "File;Consent ;consent_expires\n./Zo\u00eb.jpg;form 1;2031-05-01\n",  # of a spreadsheet, where 1,5 is a number
        "sep=\t\nfile\tconsent\tconsent_expires\n Zo\u00eb.jpg \tform 1\t2031-05-01\n\t\t\n",
        'file,consent,consent_expires\r\n".\\Zo\u00eb.jpg",form 1,2031-05-01\r\n\r\n',
    ],
)
def test_a_list_as_spreadsheets_and_other_systems_write_it(tmp_path: Path, text: str) -> None:
    folder = write(tmp_path / "photos", "Zoe\u0308.jpg", "b.jpg")  # as macOS stores it
    (folder / "Consent.csv").write_text(text)
    assert consents_of(folder) == {"Zo\u00eb": ("form 1", as_time("2031-05-01"), None), "b": (None, None, None)}


def test_a_list_in_other_letters_than_utf_8(tmp_path: Path) -> None:
    folder, text = write(tmp_path / "photos", "Zoë.jpg"), "file\tconsent\nZoë.jpg\tform 1\n"
    (folder / "consent.csv").write_bytes(text.encode("utf-16"))  # a spreadsheet's Unicode text
    assert consents_of(folder) == {"Zoë": ("form 1", None, None)}
    (folder / "consent.csv").write_bytes(text.encode("cp1252"))
    with pytest.raises(SourceError, match=r"it is not written in UTF-8: save it anew, in spreadsheets as CSV UTF-8"):
        find_places(str(folder))


def test_a_row_of_no_file_is_counted_and_nobody_is_given_anothers_consent(tmp_path: Path) -> None:
    folder = write(tmp_path / "photos", " a.jpg", "a.jpg ", "b.jpg")
    (folder / "consent.csv").write_text("file,consent\na.jpg,form 1\nc.jpg,form 2\nb.jpg,form 3\nb.jpg,form 3\n")
    places = find_places(str(folder))
    assert places.left_out["rows of consent.csv whose file is not there"] == 2
    told = f"consent.csv tells of files that are not there: {folder}/a.jpg, {folder}/c.jpg; correct their names"
    assert places.told == [told]
    assert sorted(str(place["consent"]) for place in places.table.to_pylist()) == ["None", "None", "form 3"]


def test_a_file_that_a_list_calls_with_other_capitals(tmp_path: Path) -> None:
    folder = write(tmp_path / "photos", "ada.jpg", "Bob.jpg", "bob.JPG", "inner/Cy.jpg")
    (folder / "consent.csv").write_text("file,consent\nADA.JPG,form 1\nBOB.jpg,form 2\nINNER\\cy.jpg,no\n")
    places = find_places(str(folder))
    consents = {
        place["uri"].decode().removeprefix(f"{folder}/"): place["consent"] for place in places.table.to_pylist()
    }
    assert consents == {"ada.jpg": "form 1", "Bob.jpg": None, "bob.JPG": None, "inner/Cy.jpg": "no"}, "of two, neither"
    assert places.told == [f"consent.csv tells of files that are not there: {folder}/BOB.jpg; correct their names"]


@pytest.mark.parametrize("before", ["", "sep=,\n"])
def test_a_date_that_is_none_is_told_with_its_row(tmp_path: Path, before: str) -> None:
    folder = write(tmp_path / "photos", "a.jpg", "b.jpg")
    rows = "file,consent,consent_expires\na.jpg,form,2027-01-31\nb.jpg,form,01/02/2027\n"
    (folder / "consent.csv").write_text(before + rows)
    number = 4 if before else 3
    with pytest.raises(
        SourceError, match=rf"consent\.csv cannot be used \(line {number}, of b\.jpg: .*'01/02/2027' is no date"
    ):
        find_places(str(folder))


def test_a_list_in_an_archive(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with zipfile.ZipFile(tmp_path / "in/photos.zip", "w") as packed:
        packed.writestr("a.jpg", b"a")
        packed.writestr("party/b.jpg", b"b")
        packed.writestr("party/Consent.csv", "file,consent\nb.jpg,form 2\n")
        packed.writestr("__MACOSX/consent.csv", "no list")
    with tarfile.open(tmp_path / "in/more.tar", "w") as shard:
        for name, text in (("c.jpg", "c"), ("consent.csv", "file,consent\n./c.jpg,form 3\nd.jpg,form 4\n")):
            info = tarfile.TarInfo(name)
            info.size = len(text)
            shard.addfile(info, BytesIO(text.encode()))
    none = (None, None, None)
    assert consents_of(tmp_path / "in") == {"a": none, "b": ("form 2", None, None), "c": ("form 3", None, None)}
    assert find_places(str(tmp_path / "in")).left_out["rows of consent.csv whose file is not there"] == 1
    with zipfile.ZipFile(tmp_path / "in/photos.zip", "a") as packed:
        packed.writestr("consent.csv", "file,consent\na.jpg,form,\n")
    with pytest.raises(SourceError, match=r"photos\.zip#consent\.csv cannot be used"):
        photos_of(tmp_path / "in")


def test_a_zip_whose_folders_are_parted_as_windows_parts_them(tmp_path: Path) -> None:
    files = {"in\\": "", "in\\a.jpg": "a", "in\\consent.csv": "file,consent\na.jpg,form 1\n", "in\\@eaDir\\b.jpg": "b"}
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as packed:
        for name, text in files.items():
            info = zipfile.ZipInfo(name)
            info.create_system = 0  # MS-DOS, which is what .NET says
            packed.writestr(info, text)
    [photo] = photos_of(tmp_path)
    assert (photo["name"], photo["image"], photo["consent"]) == ("a", b"a", "form 1")
    assert photo["uri"].endswith("photos.zip#in/a.jpg")
    assert find_places(str(tmp_path)).left_out == {"sidecar": 1, "system": 1}


@pytest.mark.parametrize("no", ["no", "False", " N ", False, "0"])
def test_who_said_no_is_not_learned_also_where_no_consent_is_required(tmp_path: Path, no: object) -> None:
    columns = {"image": [b"1", b"2", b"3"], "consent": [no, None if isinstance(no, bool) else "form", None]}
    said, *others = photos_of(table(tmp_path / "t.parquet", columns))
    assert (said["image"], said["reason"]) == (None, "no_consent") and "nobody agreed" in said["detail"]
    assert [photo["image"] for photo in others] == [b"2", b"3"]


def test_texts_that_are_left_of_null_are_no_consent() -> None:
    assert {Consent.of({"consent": text}).reference for text in ("nan", "None", "<NA>", "-", float("nan"))} == {None}
    assert Consent.of({"consent": "form 0"}).lacking(0, required=True) == ""


def test_the_columns_of_a_parquet_file(tmp_path: Path) -> None:
    columns = {
        "image": [b"1", b"2", b"3"],
        "name": ["a", "b", "c"],
        "consent": ["form-1", None, "form-3"],
        "consent_expires": ["2027-01-31", None, "soon"],
    }
    photos = {photo["name"]: photo for photo in photos_of(table(tmp_path / "t.parquet", columns))}
    assert (photos["a"]["consent"], photos["a"]["consent_expires"]) == ("form-1", as_time("2027-01-31"))
    assert photos["b"]["consent"] is None and photos["b"]["image"] == b"2"
    assert photos["c"]["reason"] == "unreadable" and "is no date" in photos["c"]["detail"]
    days = {"image": [b"1"], "consent": ["f"], "consent_expires": [date(2027, 1, 31)]}
    (photo,) = photos_of(table(tmp_path / "d.parquet", days))
    assert photo["consent_expires"] == as_time("2027-01-31")


def test_photos_that_nobody_agreed_to(tmp_path: Path, tiny_pack: Pack) -> None:
    folder, store = tmp_path / "photos", Store(tmp_path / "root")
    folder.mkdir()
    portrait = Image.fromarray(np.asarray(skimage.data.astronaut())[:256, 96:352])
    for name, quality in (("ada", 90), ("bob", 91), ("cleo", 92)):
        portrait.save(folder / f"{name}.jpg", quality=quality)
    (folder / "consent.csv").write_text(
        "file,consent,consent_expires,consent_scope\nada.jpg,form-1,2099-01-31,web\nbob.jpg,form-2,2020-01-31,\n"
    )
    contents, config = listed(folder), PrepareConfig()
    photos = pa.concat_tables(read_photos(contents, max_bytes=10**6, require_consent=True))
    found = FindFaces(str(tiny_pack.root), config, 1)(photos)
    commit(ReadFaces(str(tiny_pack.root), config, "cpu", 1)(found), store)
    rejects = {reject.name: reject for reject in store.rejects()}
    assert {reject.reason for reject in rejects.values()} == {"no_consent"} and set(rejects) == {"bob", "cleo"}
    assert "expired at 2020-02-01" in rejects["bob"].detail and "nobody's consent" in rejects["cleo"].detail
    (face,) = store.faces()
    agreed = Consent(reference="form-1", expires=as_time("2099-01-31"), scope="web")
    assert face.name == "ada" and face.consent == agreed
    shown = "".join(sample.html for sample in samples(store, tiny_pack.name, contents, config))
    assert shown.count("<figure") == 3 and shown.count("data:image/jpeg") == 1, "nobody agreed that they are shown"

    recipe = Recipe(preset="paper", method=train_settings(tiny_pack).method, train=TrainConfig(num_steps=1))
    (made,) = load_trainer(tiny_pack).train([face], recipe)
    assert (made.consent, made.consent_expires, made.consent_scope) == ("form-1", agreed.expires, "web")


def test_a_root_that_requires_consent(tmp_path: Path, tiny_pack: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    root, chain = tmp_path / "root", list[Stage]()
    folder = write(tmp_path / "photos", "a.jpg")
    use_local_chain(monkeypatch)
    monkeypatch.setattr(pipelines.prepare, "tally", lambda _units, *stages: chain.extend(stages) or iter(()))
    prepare(str(folder), str(root), str(tiny_pack.root))
    (root / "settings.toml").write_text("require_consent = true\n")
    prepare(str(folder), str(root), str(tiny_pack.root))
    reading = [stage.work.keywords for stage in chain if getattr(stage.work, "func", None) is read_batches]
    assert [how["require_consent"] for how in reading] == [False, True]
    # what was prepared before is not learned
    store, recipe, summary = Store(root), train_settings(tiny_pack), Summary(job="train", job_id="")
    faces = [face_row(noise_face(number, tiny_pack)) for number in range(2)]
    store.upsert("faces", [faces[0], faces[1] | {"consent": "form", "consent_expires": time.time() + 86_400}])
    assert find_new_people(store, tiny_pack, recipe, summary, False, False) == ["face-1"]
    assert summary.rejected_faces == {"no_consent": 1}
