"""Erasing a person: no row, no old version, no byte of it under the root."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pytest
from moto.server import ThreadedMotoServer
from typer.testing import CliRunner

from cli.__main__ import app
from factory.errors import IdentityNotFound
from factory.pack import Pack
from factory.records import Reject
from factory.store import erase as erase_module
from factory.store.erase import erase, find_person
from factory.store.quality import assessed
from factory.store.rows import identity_row, reject_row
from factory.store.tables import Store
from tests import make_people
from tests.make_people import fill, found, photo_id, traces


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "test")
        for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
            patch.setenv(name, "us-east-1")
        boto3.client("s3").create_bucket(Bucket="people")
        yield "s3://people"
    server.stop()


def test_no_byte_of_the_person_is_left_and_nobody_else_is_touched(store: Store, tiny_pack: Pack) -> None:
    faces, identities, images = fill(store, tiny_pack)
    needles = traces(faces[1], identities[1], images[1])
    assert found(store, needles) == set(needles.values()), "what is looked for must be there to be found"
    done = erase(store, find_person(store, name="person 1"))
    assert done.rows == {
        "faces": 1, "identities": 1, "quality": 1, "images": 1,
        "videos": 1, "models": 1, "checkpoints": 1, "metrics": 1,
        "rejects": 1, "names": 1, "work": 1, "files": 1, "lines": 1,
    }  # fmt: skip
    assert (done.found, found(store, needles)) == ([], set())
    assert done.files_scanned > 5 and done.bytes_scanned > 10_000
    for one, identity, image in zip(faces, identities, images, strict=True):
        if one is not faces[1]:
            assert found(store, traces(one, identity, image)) == set(needles.values()), one.name
    assert store.count("quality") == 6 and not assessed(store, [identities[1].identity_id])
    store.upsert("quality", [asdict(make_people.assessed(identities[1]))])
    assert store.count("quality") == 6, "a job that assesses them at that moment writes nothing"
    with pytest.raises(IdentityNotFound):
        store.find_identity("person 1")
    with pytest.raises(IdentityNotFound):
        store.find_identity("alias")


def test_a_person_is_erased_by_every_name_that_finds_them(store: Store, tiny_pack: Pack) -> None:
    faces, identities, _ = fill(store, tiny_pack)
    assert store.find_identity("pair-1").identity_id == identities[6].identity_id
    assert find_person(store, name="pair-1").face_ids == {faces[6].face_id}
    assert find_person(store, name="pair").face_ids == {faces[5].face_id}
    with pytest.raises(IdentityNotFound):
        find_person(store, name="pair-2")  # there is no third face
    assert erase(store, find_person(store, name="pair-1")).rows["identities"] == 1
    for name in ("pair-1", "person 20-1"):
        with pytest.raises(IdentityNotFound):
            store.find_identity(name)
    assert store.find_identity("pair").identity_id == identities[5].identity_id


def test_of_a_group_photo_one_goes_and_the_other_stays(store: Store, tiny_pack: Pack) -> None:
    faces, identities, images = fill(store, tiny_pack)
    who = find_person(store, identity_id=identities[6].identity_id)
    assert (who.photo_ids, who.face_ids) == (set(), {faces[6].face_id})
    assert erase(store, who).found == []
    assert found(store, traces(faces[6], identities[6], images[6])) == set()
    assert store.find_identity("pair").face_id == faces[5].face_id
    assert store.tombstones().hold(f"{photo_id(20)}-any")
    store.upsert("identities", [identity_row(replace(identities[5], identity_id="e" * 16))])
    assert store.count("identities") == 7, "the other one can still be learned anew"
    assert erase(store, find_person(store, identity_id=identities[5].identity_id)).rows["names"] == 1
    assert found(store, {photo_id(20).encode(): "photo_id"}) == set(), "nobody is left on it, so it goes altogether"


def test_those_of_several_photos_go_in_one_pass(store: Store, tiny_pack: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    faces, identities, images = fill(store, tiny_pack)
    passes = list[str]()
    scan = erase_module.scan

    def counted(root: str, *how: Any) -> Any:
        passes.append(root)
        return scan(root, *how)

    monkeypatch.setattr(erase_module, "scan", counted)
    done = erase(store, find_person(store, photo_ids=[photo_id(1), photo_id(2), photo_id(20)]))
    assert (done.rows["faces"], done.rows["work"], done.rows["lines"], done.found) == (4, 4, 4, [])
    assert passes == [store.root] and store.count("identities") == 3
    gone = [0 if one.photo_id in (photo_id(number) for number in (1, 2, 20)) else 1 for one in faces]
    for one, identity, image, stays in zip(faces, identities, images, gone, strict=True):
        needles = traces(one, identity, image)
        assert found(store, needles) == (set(needles.values()) if stays else set()), one.name


def test_a_thousand_people_are_asked_for_at_once(store: Store, tiny_pack: Pack) -> None:
    """Each in conditions of its own made an expression as deep, and took Lance a minute of a large table."""
    fill(store, tiny_pack)
    who = find_person(store, name="person 1")
    many = replace(who, identity_ids={*who.identity_ids, *(f"{number:016x}" for number in range(2500))})
    for table in ("work", "files", "lines"):
        own, all_of_them = (store.read(table, where=one.clauses(table)).to_pylist() for one in (who, many))
        assert own == all_of_them and len(own) == 1, table
    assert many.clauses("work").count(" OR ") < 10


def test_a_file_that_a_killed_job_left_goes_too(store: Store, tiny_pack: Pack) -> None:
    fill(store, tiny_pack)
    data = Path(store.root) / "faces.lance" / "data"
    (data / "left.lance").write_bytes(b"..." + photo_id(1).encode())
    index = Path(store.root) / "names.lance" / "_indices" / "some uuid" / "page_data.lance"
    index.parent.mkdir(parents=True)
    index.write_bytes(b"half an index")
    done = erase(store, find_person(store, photo_id=photo_id(1)))
    assert (done.found, done.orphans) == ([], 2)
    assert not (data / "left.lance").exists() and not index.exists()
    assert len(store.faces()) == 6


def test_a_file_that_a_refused_job_is_still_writing_is_waited_for(
    store: Store, tiny_pack: Pack, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store, tiny_pack)
    clean = erase_module.clean_jobs

    def meanwhile(root: str, search: Any) -> int:
        late = Path(root) / "faces.lance" / "data" / "late.lance"
        late.write_bytes(b"..." + photo_id(1).encode())
        return clean(root, search)

    monkeypatch.setattr(erase_module, "clean_jobs", meanwhile)
    done = erase(store, find_person(store, photo_id=photo_id(1)), waits_s=[0.0])
    assert (done.found, done.orphans, done.rows["faces"]) == ([], 1, 1)


def test_leftovers_of_jobs_lose_the_persons_lines_only(store: Store, tiny_pack: Pack) -> None:
    fill(store, tiny_pack)
    folder = Path(store.root) / "jobs" / "j"
    folder.mkdir(parents=True)
    (folder / "report.html").write_text(f"<h1>report</h1>\n<p>{photo_id(1)}</p>\n<p>{photo_id(2)}</p>\n")
    (folder / "summary.json").write_text('{"photos": 7}')
    (folder / "other.bin").write_text(photo_id(1))
    assert erase(store, find_person(store, photo_id=photo_id(1))).job_files == 2
    assert (folder / "report.html").read_text() == f"<h1>report</h1>\n<p>{photo_id(2)}</p>\n"
    assert sorted(file.name for file in folder.iterdir()) == ["report.html", "summary.json"]


def test_a_photo_that_hides_in_a_text_is_found_and_goes(store: Store, tiny_pack: Pack, tmp_path: Path) -> None:
    fill(store, tiny_pack)
    content, others = (np.random.default_rng(seed).bytes(9000) for seed in (1, 2))
    quoted = Reject(
        reject_id="1" * 64, photo_id="", name="x", pack="tiny", stage="prepare", reason="unreadable",
        detail=f"no such file: data:image/jpeg;base64,{base64.b64encode(content).decode()}",
    )  # fmt: skip
    other = replace(quoted, reject_id="2" * 64, detail=base64.b64encode(others).decode())
    store.upsert("rejects", [reject_row(quoted), reject_row(other)])
    folder = Path(store.root) / "jobs" / "j"
    folder.mkdir(parents=True)
    (folder / "report.html").write_bytes(b"<img src=data:," + base64.urlsafe_b64encode(b"?" + content) + b">\n<p>\n")
    hidden = Path(store.root) / "by hand.txt"
    hidden.write_bytes(base64.encodebytes(content))
    file = tmp_path / "photo.jpg"
    file.write_bytes(content)
    done = erase(store, find_person(store, photo_id="3" * 64, content=content), waits_s=[0.0])
    quote = f"{hidden}: a piece of the photo, as base64"
    assert (done.found, done.others) == ([], [quote]), "what is not ours is not removed, but told"
    hidden.unlink()
    assert [reject.reject_id for reject in store.rejects()] == [photo_id(1), "2" * 64]
    assert (folder / "report.html").read_text() == "<p>\n"
    command = ["identities", "erase", "--root", store.root, "--photo", str(file), "--yes"]
    assert "0 traces left" in CliRunner().invoke(app, command).output


def test_erasing_in_a_bucket(bucket: str, tiny_pack: Pack) -> None:
    store = Store(f"{bucket}/root")
    faces, identities, images = fill(store, tiny_pack)
    needles = traces(faces[1], identities[1], images[1])
    assert found(store, needles) == set(needles.values())
    assert erase(store, find_person(store, name="alias")).found == []
    assert found(store, needles) == set()
    assert store.count("faces") == 6


def test_the_command(store: Store, tiny_pack: Pack, tmp_path: Path) -> None:
    fill(store, tiny_pack)
    runner = CliRunner()
    base = ["identities", "erase", "--root", store.root]
    assert runner.invoke(app, base).exit_code == 2
    unknown = runner.invoke(app, [*base, "--name", "nobody", "--yes"])
    assert unknown.exit_code == 1 and "no identity 'nobody'" in unknown.stderr
    mistyped = runner.invoke(app, [*base, "--name", "persn 1", "--yes"])
    assert mistyped.exit_code == 1 and "did you mean person 1" in mistyped.stderr
    assert runner.invoke(app, [*base, "--name", "person 1"], input="n\n").exit_code == 1
    assert store.count("faces") == 7
    file = tmp_path / "photo.jpg"
    file.write_bytes(b"photo 1")  # photo_id() hashes the same bytes
    done = runner.invoke(app, [*base, "--photo", str(file), "--yes"])
    assert done.exit_code == 0 and "0 traces left" in done.output and "erased person 1 (" in done.output
    assert store.count("faces") == 6
    file.write_bytes(b"somebody else's")
    told = runner.invoke(app, [*base, "--photo", str(file), "--yes"])
    assert told.exit_code == 0 and "knew nothing of that photo: nobody was removed" in told.output
    for command in (["erase", "--name", "person 1"], ["expire"]):
        elsewhere = runner.invoke(app, ["identities", *command, "--yes", "--root", str(tmp_path)])
        assert elsewhere.exit_code == 1 and "is no root of ours" in elsewhere.stderr, "not: nothing is left there"
