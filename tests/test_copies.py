"""Photos that are called as copies of others."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from factory.pack import Pack, load_pack
from factory.records import FaceFeatures
from factory.store.copies import called_copies, made_of
from factory.store.people import seen_again
from factory.store.rows import face_row
from factory.store.tables import Store
from pipelines.jobs.job import Summary
from pipelines.photos.people import tell_people
from tests.make_faces import noise_face


@pytest.mark.parametrize(
    ("copy", "original"),
    [
        ("IMG_E0001", "IMG_0001"),
        ("IMG_0001(Edited)", "IMG_0001"),
        ("IMG_2020-edited", "IMG_2020"),
        ("IMG_2020-bearbeitet(1)", "IMG_2020"),
        ("IMG_2020-modifie\u0301", "IMG_2020"),
        ("IMG_2020-編集済み", "IMG_2020"),
        ("20200101_120000~2", "20200101_120000"),
        ("00100PORTRAIT_00100_BURST2019_COVER", "00100PORTRAIT_00100_BURST2019"),
        ("PXL_20210101_123456789.PORTRAIT-01.COVER", "PXL_20210101_123456789"),
        ("ada copy", "ada"),
        ("ada copy 2", "ada"),
        ("ada - Kopie (2)", "ada"),
        ("Kopie von ada", "ada"),
        ("Copy of ada-edited", "ada"),
        ("ada-300x200", "ada"),
        ("ada@2x", "ada"),
    ],
)
def test_names_of_copies(copy: str, original: str) -> None:
    assert made_of(copy) == original


@pytest.mark.parametrize(
    "name", ["ada", "IMG_0001", "ada (1)", "ada-1", "Edith", "credit", "Ada Lovelace", "IMG_Eve", "photocopy", "edited"]
)
def test_names_of_others(name: str) -> None:
    assert made_of(name) == name


@pytest.fixture
def pack() -> Pack:
    studio = load_pack("studio")
    likeness = {"same_person": 0.9, "other_person": 0.5, "near_duplicate": 0.98}  # so copies are from 0.7 on
    return studio.model_copy(update={"fr_vit": studio.fr_vit.model_copy(update=likeness)})


def row(pack: Pack, number: int, cosine: float, uri: str, name: str | None = None) -> dict[str, Any]:
    """Of a face whose cosine to those of 1 is this."""
    at = np.zeros(16, np.float32)
    at[[0, number]] = cosine, np.sqrt(1 - cosine**2)
    photo = f"{number:064x}"
    made = replace(noise_face(number, pack), photo_id=photo, face_id=f"{photo}-0", name=name or f"name {number}")
    return {**face_row(replace(made, features=FaceFeatures(crop=at, mirror=at))), "uri": uri}


def test_a_copy_by_its_name_is_told_and_not_merged(store: Store, pack: Pack) -> None:
    uris = {1: ("/p/IMG_1000.HEIC", 1.0), 2: ("/p/IMG_E1000.JPG", 0.8), 3: ("/q/IMG_E1000.JPG", 0.8)}
    uris |= {4: ("/p/IMG_1001.HEIC", 1.0), 5: ("/p/IMG_E1001.JPG", 0.6), 6: ("/p/z.zip#a/b.jpg", 1.0)}
    uris |= {7: ("/p/z.zip#a/b-edited.jpg", 0.75), 8: ("/p/t.parquet#0", 1.0), 9: ("/p/t.parquet#1", 0.75)}
    store.upsert("faces", [row(pack, number, cosine, uri) for number, (uri, cosine) in uris.items()])
    told = {(one.name, one.of_name): round(one.similarity, 3) for one in called_copies(store, pack, [])}
    assert told == {("name 2", "name 1"): 0.8, ("name 7", "name 6"): 0.75}
    assert called_copies(store, pack, [], of={f"{5:064x}"}) == []
    assert [one.name for one in called_copies(store, pack, [], of={f"{1:064x}"})] == ["name 2"]
    again = {one.name for one in seen_again(store, pack)}
    assert not again & {"name 2", "name 7"}, "who is merged is found by the likeness alone"
    summary = Summary(job="prepare", job_id="x")
    tell_people(summary, store, pack, {f"{number:064x}" for number in uris})
    assert summary.called_copies == 2 and any("called as a copy of another" in line for line in summary.lines())
    assert sum("probably the same photo (by name) as name 1" in sample.html for sample in summary.samples) == 1


def test_rows_of_a_table_are_known_by_their_names(store: Store, pack: Pack) -> None:
    rows = [row(pack, 1, 1.0, "/p/t.parquet#0", "ada"), row(pack, 2, 0.8, "/p/t.parquet#1", "ada copy")]
    store.upsert("faces", rows)
    [one] = called_copies(store, pack, [])
    assert (one.name, one.of_name, one.kind) == ("ada copy", "ada", "probably the same photo (by name)")
    assert called_copies(store, pack, [one]) == [], "what is told already"


def test_a_pack_that_does_not_know_who_is_another_tells_none(store: Store, pack: Pack) -> None:
    store.upsert("faces", [row(pack, n, 1.0, f"/p/{name}") for n, name in ((1, "a.jpg"), (2, "a copy.jpg"))])
    unknown = pack.model_copy(update={"fr_vit": pack.fr_vit.model_copy(update={"other_person": None})})
    assert len(called_copies(store, pack, [])) == 1 and called_copies(store, unknown, []) == []
