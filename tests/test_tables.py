"""The store: upserts, concurrent writers, look-ups, schema checks, exports."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from factory.errors import IdentityNotFound
from factory.records import TEXT_ENCODER, FaceFeatures, FaceMasks, GeneratedImage, Identity, PreparedFace, Reject
from factory.store import tables
from factory.store.commits import open_to_write
from factory.store.erase import find_person
from factory.store.export import export_identity
from factory.store.rows import face_row, identity_row, image_row, reject_row
from factory.store.schemas import SCHEMAS, Table
from factory.store.tables import Store

RNG = np.random.default_rng(0)


def face(index: int = 0, pack: str = "tiny") -> PreparedFace:
    side = 8 + index  # packs of different resolutions share a table
    return PreparedFace(
        face_id=f"photo{index}-0",
        photo_id=f"photo{index}",
        name=f"name {index}",
        face_index=0,
        box=np.array([1, 2, 3, 4.5], np.float32),
        landmarks=RNG.random((5, 2), np.float32),
        score=0.5,
        crop=RNG.integers(0, 256, (side, side, 3), np.uint8),
        masks=FaceMasks(face=RNG.random((side, side)) > 0.5, hair=RNG.random((side, side)) > 0.5),
        features=FaceFeatures(crop=RNG.random(side, np.float32), mirror=RNG.random(side, np.float32)),
        pack=pack,
    )


def identity(name: str, identity_id: str = "0" * 16, created_at: str = "2026-01-01T00:00:00+00:00") -> Identity:
    return Identity(
        identity_id=identity_id,
        face_id="photo-0",
        photo_id="photo",
        name=name,
        words={TEXT_ENCODER: RNG.random((2, 6), np.float32)},
        pack="tiny",
        fingerprint="f" * 16,
        preset="paper",
        config="{}",
        num_steps=450,
        final_loss=0.25,
        train_s=1.5,
        created_at=created_at,
    )


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "a root")


def test_records_come_back_as_they_went_in(store: Store) -> None:
    faces = [face(0), face(1)]
    image = GeneratedImage(
        image_id="1" * 16,
        identity_id="0" * 16,
        name="Ann",
        prompt="<person> 'quoted'",
        seed=2**40,
        image=RNG.integers(0, 256, (4, 6, 3), np.uint8),
        config="{}",
        created_at="2026-01-01T00:00:00+00:00",
    )
    reject = Reject(
        reject_id="r", photo_id="", name="x", pack="tiny", stage="prepare", reason="unreadable", detail="gone"
    )
    store.upsert("faces", [face_row(f) for f in faces])
    store.upsert("images", [image_row(image)])
    store.upsert("rejects", [reject_row(reject)])
    for wrote, read in zip(faces[::-1], store.faces(["photo1-0", "photo0-0"]), strict=True):
        assert (wrote.face_id, wrote.name, wrote.score, wrote.pack) == (read.face_id, read.name, read.score, read.pack)
        np.testing.assert_array_equal(wrote.crop, read.crop)
        np.testing.assert_array_equal(wrote.landmarks, read.landmarks)
        np.testing.assert_array_equal(wrote.masks.hair, read.masks.hair)
        np.testing.assert_array_equal(wrote.features.mirror, read.features.mirror)
        assert read.masks.face.dtype == bool
    [back] = store.images(["0" * 16])
    np.testing.assert_array_equal(back.image, image.image)
    assert replace(back, image=image.image) == image
    assert store.rejects() == [reject]
    assert store.images([]) == [] == store.faces(ids=[])


def test_a_row_written_twice_is_one_row_and_the_last_one_counts(store: Store) -> None:
    store.upsert("identities", [identity_row(identity("Ann"))] * 2)
    second = identity("Ann B")
    store.upsert("identities", [identity_row(second)])
    assert store.count("identities") == 1
    np.testing.assert_array_equal(store.find_identity("Ann B").words[TEXT_ENCODER], second.words[TEXT_ENCODER])


def test_the_same_face_may_be_prepared_by_two_packs(store: Store) -> None:
    store.upsert("faces", [face_row(face(pack="a")), face_row(face(pack="b"))])
    assert [f.pack for f in store.faces(pack="b")] == ["b"]
    assert store.count("faces") == 2


def _write_some(root: str, worker: int) -> None:
    store = Store(root)
    for i in range(5):
        rows = [identity("shared", f"shared {i}"), identity("own", f"{worker} {i}")]
        store.upsert("identities", [identity_row(row) for row in rows])


def test_a_table_is_created_once_however_many_start_at_once(tmp_path: Path) -> None:
    """Lance's own `create` lets a late creator replace the table, with the rows that others have written meanwhile."""
    for attempt in range(20):
        store = Store(tmp_path / str(attempt))
        rows = [[identity_row(identity("x", f"{worker}"))] for worker in range(4)]
        with ThreadPoolExecutor(4) as threads:
            list(threads.map(store.upsert, ["identities"] * 4, rows))
        assert store.existing_ids("identities") == set("0123")


def test_four_writers_at_once(store: Store) -> None:
    with ThreadPoolExecutor(4) as threads:  # each has its own Store; Lance knows nothing of the others
        list(threads.map(_write_some, [store.root] * 4, range(4)))
    ids = store.read("identities", columns=["identity_id"])["identity_id"].to_pylist()
    assert len(ids) == 25
    assert set(ids) == store.existing_ids("identities") == {f"{w} {i}" for w in [*range(4), "shared"] for i in range(5)}


def test_tidy_joins_small_files_and_keeps_the_rows(store: Store) -> None:
    for i in range(10):
        store.upsert("identities", [identity_row(identity(f"n{i}", f"{i}"))])
    store.tidy("identities")
    dataset = store.open("identities")
    assert dataset is not None
    assert len(dataset.get_fragments()) == 1
    assert store.existing_ids("identities") == set(map(str, range(10)))


def test_another_schema_is_refused_with_the_remedy(store: Store) -> None:
    lance.write_dataset(pa.table({"face_id": ["x"], "old_column": [1]}), store.uri("faces"))
    with pytest.raises(ValueError, match=r"faces\.lance has other columns.*old_column.*another --root"):
        store.upsert("faces", [face_row(face())])


def test_identities_are_found_by_id_then_by_newest_name(store: Store) -> None:
    old, new = identity("Ann's", "a" * 16), identity("Ann's", "b" * 16, "2026-02-01T00:00:00+00:00")
    store.upsert("identities", [identity_row(new), identity_row(old), identity_row(identity("Zed", "c" * 16))])
    assert store.find_identity("a" * 16).identity_id == "a" * 16
    assert store.find_identity("Ann's").identity_id == "b" * 16
    assert [i.identity_id for i in store.identities(["Zed", "Ann's"])] == ["c" * 16, "b" * 16]
    assert [i.name for i in store.identities()] == ["Ann's", "Zed", "Ann's"]
    with pytest.raises(IdentityNotFound, match="did you mean Ann's"):
        store.find_identity("Anns")


def test_many_names_are_looked_up_together_each_as_if_alone(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "_NAMES_AT_ONCE", 2)
    old, new = identity("Ann", "a" * 16), identity("Ann", "b" * 16, "2026-02-01T00:00:00+00:00")
    named_as_an_id = identity("a" * 16, "c" * 16, "2026-03-01T00:00:00+00:00")
    store.upsert("identities", [identity_row(one) for one in (old, new, named_as_an_id)])
    store.upsert("names", [{"photo_id": "photo", "name": "alias"}])
    wanted = ["Ann", "b" * 16, "a" * 16, "Ann", "alias"]
    alone = [store.find_identity(name).identity_id for name in wanted]
    assert alone[:4] == ["b" * 16, "b" * 16, "a" * 16, "b" * 16]
    for order in (slice(None), slice(None, None, -1)):
        assert [one.identity_id for one in store.identities(wanted[order])] == alone[order]
    with pytest.raises(IdentityNotFound, match="did you mean Ann"):
        store.identities(["Ann", "Anne"])


def test_a_name_is_found_however_its_accents_are_written(store: Store) -> None:
    composed, apart = "Zo\u00eb", "Zoe\u0308"
    store.upsert("identities", [identity_row(replace(identity(apart, "a" * 16), face_id="other-1", photo_id="other"))])
    store.upsert("names", [{"photo_id": "other", "name": f"{composed} too"}])
    assert store.find_identity(composed).identity_id == "a" * 16
    assert store.find_identity(f"{apart} too-1").identity_id == "a" * 16
    assert find_person(store, name=composed).identity_ids == {"a" * 16}


def test_nobody_is_called_by_what_no_table_can_hold(store: Store) -> None:
    store.upsert("identities", [identity_row(identity("Ann"))])
    for name in ("", "'", "a\0b", "\ud800", "Ann\udcff", "%", "x" * 100_000):
        with pytest.raises(IdentityNotFound):
            store.find_identity(name)


def test_near_names_are_not_sought_among_very_many(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "_NEAR_AMONG", 1)
    store.upsert("identities", [identity_row(identity(name, name[0] * 16)) for name in ("Ann", "Bob")])
    with pytest.raises(IdentityNotFound, match="which holds 2; `identity-factory identities list`"):
        store.find_identity("Anne")


def test_an_empty_root_reads_as_empty_tables(store: Store) -> None:
    assert (store.faces(), store.identities(), store.existing_ids("images")) == ([], [], set())
    with pytest.raises(IdentityNotFound, match="holds no identities yet"):
        store.find_identity("Ann")
    assert not Path(store.root).exists()


@pytest.mark.parametrize("table", SCHEMAS)
def test_every_table_exports_to_parquet_with_its_documentation(store: Store, table: Table, tmp_path: Path) -> None:
    store.upsert("identities", [identity_row(identity("Ann"))])
    store.export_parquet(table, tmp_path / "t.parquet")
    exported = pq.read_table(tmp_path / "t.parquet")
    assert exported.num_rows == store.count(table)
    assert all(exported.schema.field(name).metadata[b"doc"] for name in SCHEMAS[table].names)


def test_embedding_files_are_what_other_tools_read(tmp_path: Path) -> None:
    ann = identity("Ann/B")
    kohya = export_identity(ann, tmp_path)
    assert kohya.name == "Ann_B.safetensors"
    words = torch.from_numpy(ann.words[TEXT_ENCODER])
    assert load_file(kohya).keys() == {"emb_params"}
    torch.testing.assert_close(load_file(kohya)["emb_params"], words)
    diffusers = load_file(export_identity(ann, tmp_path / "learned_embeds.safetensors", "diffusers", token="<ann>"))
    torch.testing.assert_close(diffusers, {"<ann>": words})
    a1111 = torch.load(export_identity(ann, tmp_path / "a.pt", "a1111"), weights_only=True)
    assert (a1111["string_to_token"], a1111["name"], a1111["step"]) == ({"*": 265}, "a", 450), "its name is the file's"
    torch.testing.assert_close(a1111["string_to_param"], {"*": words})
    release = torch.load(export_identity(ann, tmp_path / "r.pt", "release"), weights_only=True)
    torch.testing.assert_close(release, words[None])
    with pytest.raises(ValueError, match=r"\.safetensors file"):
        export_identity(ann, tmp_path / "x.pt", "kohya")


def test_a_damaged_table_is_named(store: Store) -> None:
    what = {"name": "n", "pack": "p", "stage": "prepare", "reason": "no_face", "detail": ""}
    store.upsert("rejects", [{"reject_id": "r", "photo_id": "r", **what}])
    for manifest in Path(store.uri("rejects"), "_versions").iterdir():
        manifest.write_bytes(manifest.read_bytes()[:20])
    with pytest.raises(
        OSError, match=r"rejects\.lance is incomplete or damaged: its newest version cannot be .*a backup"
    ):
        Store(store.root).count("rejects")


def test_a_table_that_lost_its_versions_is_told_and_not_begun_anew(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.upsert("faces", [face_row(face(0))])
    versions = Path(store.uri("faces")) / "_versions"
    kept = {file: file.read_bytes() for file in versions.iterdir()}
    for file in kept:
        file.unlink()
    for use in (lambda: store.count("faces"), lambda: store.upsert("faces", [face_row(face(1))]), store.faces):
        with pytest.raises(OSError, match=r"faces\.lance is damaged: .*copy .*_versions from a backup, or move"):
            use()
    versions.rmdir()
    with pytest.raises(OSError, match="is damaged"):
        store.count("faces")
    versions.mkdir()
    for file, content in kept.items():
        file.write_bytes(content)
    assert store.count("faces") == 1


def test_a_table_whose_first_commit_was_killed_is_begun_by_the_next_one(tmp_path: Path) -> None:
    """All that may be there is what Lance writes before the version, which has no rows."""
    whole = Store(tmp_path / "whole")
    open_to_write(whole.uri("faces"), "faces", None)
    begun = Path(whole.uri("faces"))
    assert not (begun / "data").exists() and whole.count("faces") == 0
    for file in (begun / "_versions").iterdir():
        file.rename(file.with_name(f".tmp_{file.name}"))
    assert whole.count("faces") == 0
    whole.upsert("faces", [face_row(face(0))])
    assert [one.name for one in whole.faces()] == ["name 0"]
