"""What a source tells of photos that are known already otherwise than before, or of any twice."""

from __future__ import annotations

import hashlib
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from factory.consent import Consent
from factory.errors import ConsentExpired
from factory.ids import face_id
from factory.pack import Pack
from factory.store.called import as_their_files, namesakes
from factory.store.consents import agreed_people, set_consent
from factory.store.rows import face_row, identity_row
from factory.store.tables import Store
from pipelines.jobs.job import Summary
from pipelines.photos.changes import Changes
from pipelines.photos.places import find_places
from pipelines.photos.sources import CONTENT, hash_contents
from tests.make_people import face, learned
from tests.sources import table, write

YES, NO = "form-1", "no"


def known(store: Store, pack: Pack, name: str, **columns: Any) -> None:
    """Somebody who was learned from the photo that `write` makes of this name."""
    photo_id = hashlib.sha256(name.encode()).hexdigest()
    made = face(len(name), pack)
    row = face_row(made) | {"photo_id": photo_id, "face_id": f"{photo_id}-0", "name": Path(name).stem} | columns
    who = identity_row(learned(made, len(name), pack)) | {"photo_id": photo_id, "face_id": f"{photo_id}-0"}
    consents = {column: value for column, value in columns.items() if column.startswith("consent")}
    store.upsert("faces", [row])
    store.upsert("identities", [who | {"name": Path(name).stem} | consents])


def looked_at(store: Store, pack: Pack, src: Path, person_from: Any = None) -> Summary:
    summary, changes = Summary(job="prepare", job_id="x"), Changes(store, pack.name)
    contents = pa.concat_tables(
        [CONTENT.empty_table(), *hash_contents(find_places(str(src), person_from=person_from).table)]
    )
    changes.look(contents)
    ids = set(store.read("faces", columns=["photo_id"])["photo_id"].to_pylist())
    new = [photo_id not in ids for photo_id in contents["photo_id"].to_pylist()]
    changes.tell(summary, contents.filter(pa.array(new)))
    return summary


def versions_of(store: Store) -> list[int]:
    tables = store.open("faces"), store.open("identities")
    return [table.version for table in tables if table is not None]


@pytest.mark.parametrize("is_table", [False, True])
def test_a_consent_that_is_taken_back_holds_for_whom_is_learned(
    tmp_path: Path, tiny_pack: Pack, is_table: bool
) -> None:
    store, src = Store(tmp_path / "root"), write(tmp_path / "src", "ada.jpg", "bob2.jpg", "eve33.jpg")
    for name in ("ada.jpg", "bob2.jpg", "eve33.jpg"):
        known(store, tiny_pack, name, consent=YES)

    def told(ada: str, bob: str | None, eve: str) -> Summary:
        columns = {"consent": [ada, YES, YES], "consent_expires": [None, bob, eve]}
        names = ["ada.jpg", "bob2.jpg", "eve33.jpg"]
        if is_table:
            return looked_at(
                store, tiny_pack, table(tmp_path / "t.parquet", {"image": [n.encode() for n in names], **columns})
            )
        rows = zip(names, *columns.values(), strict=True)
        lines = ["file,consent,consent_expires", *(",".join(cell or "" for cell in row) for row in rows)]
        (src / "consent.csv").write_text("\n".join(lines))
        return looked_at(store, tiny_pack, src)

    assert told(YES, None, "2999-01-01").ended_consents == 0
    assert {who.name for who in agreed_people(store, None)} == {"ada", "bob2", "eve33"}
    versions = versions_of(store)
    told_now = told(NO, "2020-01-01", "2999-01-01")
    assert versions_of(store) == [version + 1 for version in versions], "one commit each, of however many photos"
    assert told_now.ended_consents == 2 and "consent over" in "\n".join(told_now.lines())
    assert [who.name for who in agreed_people(store, None)] == ["eve33"]
    with pytest.raises(ConsentExpired):
        agreed_people(store, ["ada"])
    assert told(NO, "2020-01-01", "2999-01-01").ended_consents == 0, "it is written down once"


def test_what_somebody_wrote_down_by_hand_stays(tmp_path: Path, tiny_pack: Pack) -> None:
    store, src = Store(tmp_path / "root"), write(tmp_path / "src", "ada.jpg")
    known(store, tiny_pack, "ada.jpg", consent=YES, consent_expires=time.time() - 9)
    set_consent(store, "ada", Consent(reference="form-2", expires=time.time() + 99))
    (src / "consent.csv").write_text(f"file,consent,consent_expires\nada.jpg,{YES},2020-01-01\n")
    told = looked_at(store, tiny_pack, src)
    assert (told.ended_consents, told.other_consents) == (0, 1)
    assert [who.name for who in agreed_people(store, None)] == ["ada"]


def test_a_consent_of_whom_none_was_told_is_written_down(tmp_path: Path, tiny_pack: Pack) -> None:
    store, src = Store(tmp_path / "root"), write(tmp_path / "src", "ada.jpg")
    known(store, tiny_pack, "ada.jpg")
    (src / "consent.csv").write_text(f"file,consent\nada.jpg,{YES}\n")
    assert looked_at(store, tiny_pack, src).other_consents == 0
    assert store.read("identities", columns=["consent"])["consent"].to_pylist() == [YES]


def test_a_photo_that_lies_with_two_people_or_with_others_than_before_is_told(tmp_path: Path, tiny_pack: Pack) -> None:
    store, src = Store(tmp_path / "root"), tmp_path / "src"
    known(store, tiny_pack, "ada/known.jpg", person="ada")
    known(store, tiny_pack, "ada/moved1.jpg", person="ada")
    write(src, "ada/known.jpg", "ada/new.jpg", "ada/alone.jpg")
    assert not any("people" in line or "moved" in line for line in looked_at(store, tiny_pack, src, "folder").lines())
    (src / "bob").mkdir()
    for name in ("known", "new"):
        (src / f"bob/{name}.jpg").write_bytes((src / f"ada/{name}.jpg").read_bytes())
    (src / "bob/moved.jpg").write_bytes(b"ada/moved1.jpg")
    told = looked_at(store, tiny_pack, src, "folder")
    assert (told.of_two_people, told.of_others_before) == (2, 1)
    [line] = told.samples
    assert "ada/new.jpg" in line.html and "bob/new.jpg" in line.html
    assert line.photo_id == hashlib.sha256(b"ada/new.jpg").hexdigest()


def test_whom_a_name_means_beside_the_newest_is_told(tmp_path: Path, tiny_pack: Pack) -> None:
    """A photo that was edited in place is another photo of the same name."""
    store = Store(tmp_path / "root")
    of = {number: face(number, tiny_pack) for number in (1, 2, 3)}
    ada, edited, other = (learned(of[number], number, tiny_pack) for number in (1, 2, 3))
    rows = [(ada, "ada", "2026-01-01", None), (edited, "ada", "2026-01-02", None), (other, "bob", "2026-01-03", None)]
    again = replace(ada, identity_id="f" * 16)  # learned again, with another photo, too
    rows.append((again, "ada", "2026-01-01T01", [ada.face_id, other.face_id]))
    for who, name, at, more in rows:
        store.upsert("identities", [identity_row(who) | {"name": name, "created_at": at, "more_faces": more}])
    assert namesakes(store, ["ada", "bob", "nobody"]) == {"ada": [edited.identity_id, again.identity_id]}
    assert namesakes(store, ["bob"]) == namesakes(store, [edited.identity_id]) == {}


def test_whose_file_is_called_as_a_second_face_is_told(tmp_path: Path, tiny_pack: Pack) -> None:
    """Of ada.jpg, a photo of two, and ada-1.jpg, a second download."""
    store = Store(tmp_path / "root")
    first, second = face(1, tiny_pack), replace(face(1, tiny_pack), face_id=face_id("a" * 64, 1))
    names = {"ada": first, "ada-1": second, "photos/ada-1": face(3, tiny_pack), "bob-1": face(4, tiny_pack)}
    for number, (name, whose) in enumerate({**names, "x/bob-1": face(5, tiny_pack)}.items()):
        who = replace(learned(whose, number, tiny_pack), face_id=whose.face_id, identity_id=f"{number:016x}")
        store.upsert("identities", [identity_row(who) | {"name": name}])
    assert as_their_files(store, ["ada", "ada-1", "bob-1", "nobody-1"]) == {"ada-1": ["photos/ada-1"]}
    assert as_their_files(store, ["photos/ada-1", "0" * 16]) == {}
