"""Erasing a person: no row, no old version, no byte of it under the root, and no way back in."""

from __future__ import annotations

import base64
import hashlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pytest
from moto.server import ThreadedMotoServer
from starlette.testclient import TestClient
from typer.testing import CliRunner

from cli.__main__ import app
from factory.errors import IdentityNotFound
from factory.pack import Pack
from factory.records import TEXT_ENCODER, GeneratedImage, Identity, PictureMetrics, PreparedFace, Reject
from factory.store import erase as erase_module
from factory.store.erase import erase, find_person
from factory.store.rows import encode_png, face_row, identity_row, image_row, metrics_row, reject_row
from factory.store.tables import Store
from factory.store.tombstones import tombstone_digest
from factory.store.traces import scan
from serve.app import create_app
from serve.catalog import Catalog
from serve.client import ImageClient
from serve.openai.images import Endpoint
from serve.stopping import Door
from tests.make_faces import noise_face
from tests.serving import FakeGenerator, ask, person


def photo_id(number: int) -> str:
    return hashlib.sha256(f"photo {number}".encode()).hexdigest()


def face(number: int, pack: Pack, index: int = 0) -> PreparedFace:
    name = f"person {number}" if index == 0 else f"person {number}-{index}"
    made = noise_face(100 * index + number, pack, width=32)
    ids = {"photo_id": photo_id(number), "face_id": f"{photo_id(number)}-{index}", "face_index": index}
    return replace(made, name=name, **ids)  # type: ignore[arg-type]


def learned(of: PreparedFace, number: int, pack: Pack) -> Identity:
    made = person(number, of.name, pack.fingerprint())
    unique = hashlib.sha256(of.face_id.encode()).hexdigest()[:16]
    return replace(made, identity_id=unique, face_id=of.face_id, photo_id=of.photo_id)


def picture(of: Identity, number: int) -> GeneratedImage:
    image = np.random.default_rng([7, number]).integers(0, 256, (64, 64, 3), np.uint8)
    unique = hashlib.sha256(f"{of.identity_id} picture".encode()).hexdigest()[:16]
    return GeneratedImage(
        image_id=unique, identity_id=of.identity_id, name=of.name, prompt="x", seed=0, image=image, config="{}",
        created_at="2026-01-01T00:00:00+00:00",
    )  # fmt: skip


def measured(image: GeneratedImage) -> PictureMetrics:
    embedding, features = np.random.default_rng(list(image.image_id.encode())).random((2, 8), np.float32)
    return PictureMetrics(
        image_id=image.image_id, protocol="p", identity_id=image.identity_id, prompt=image.prompt, seed=image.seed,
        clip_i=0.0, clip_t=0.0, face_sim=0.0, face_div=0.0, trusted_div=0.0,
        face_embedding=embedding, features=features, created_at="",
    )  # fmt: skip


def fill(store: Store, pack: Pack) -> tuple[list[PreparedFace], list[Identity], list[GeneratedImage]]:
    """Five people on photos of their own, and 20 and 20-1 on one photo; committed in several versions."""
    faces = [*(face(number, pack) for number in range(5)), face(20, pack), face(20, pack, 1)]
    identities = [learned(one, number, pack) for number, one in enumerate(faces)]
    images = [picture(one, number) for number, one in enumerate(identities)]
    for some in (slice(0, 3), slice(3, None)):
        store.upsert("faces", [face_row(one) for one in faces[some]])
        store.upsert("identities", [identity_row(one) for one in identities[some]])
        store.upsert("images", [image_row(one) for one in images[some]])
        store.upsert("metrics", [metrics_row(measured(one)) for one in images[some]])
    refused = Reject(
        reject_id=photo_id(1), photo_id=photo_id(1), name="person 1", pack="another", stage="prepare",
        reason="no_face", detail="",
    )  # fmt: skip
    store.upsert("rejects", [reject_row(refused)])
    store.upsert("names", [{"photo_id": photo_id(1), "name": "alias"}, {"photo_id": photo_id(20), "name": "pair"}])
    return faces, identities, images


def traces(of: PreparedFace, identity: Identity, image: GeneratedImage) -> dict[bytes, str]:
    """What is looked for here, written down apart from what `erase` itself looks for."""
    return {
        of.face_id.encode(): "face_id",
        identity.identity_id.encode(): "identity_id",
        image.image_id.encode(): "image_id",
        identity.words[TEXT_ENCODER][0, :6].tobytes(): "words",
        of.features.crop[:6].tobytes(): "features",
        encode_png(of.crop)[60:200]: "crop",
        encode_png(image.image)[60:200]: "image",
    }


def found(store: Store, needles: dict[bytes, str]) -> set[str]:
    return {hit.rpartition(": ")[2] for hit in scan(store.root, needles)[2]}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "root")


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
        "faces": 1, "identities": 1, "images": 1, "metrics": 1, "rejects": 1, "names": 1
    }  # fmt: skip
    assert (done.found, found(store, needles)) == ([], set())
    assert done.files_scanned > 5 and done.bytes_scanned > 10_000
    for one, identity, image in zip(faces, identities, images, strict=True):
        if one is not faces[1]:
            assert found(store, traces(one, identity, image)) == set(needles.values()), one.name
    with pytest.raises(IdentityNotFound):
        store.find_identity("person 1")
    with pytest.raises(IdentityNotFound):
        store.find_identity("alias")


def test_a_tombstone_keeps_the_person_out_and_tells_nothing(store: Store, tiny_pack: Pack) -> None:
    faces, identities, images = fill(store, tiny_pack)
    erase(store, find_person(store, photo_id=photo_id(1)))
    store.upsert("faces", [face_row(faces[1]), face_row(face(1, tiny_pack, 1))])
    store.upsert("identities", [identity_row(identities[1]), identity_row(identities[2])])
    store.upsert("images", [image_row(images[1])])
    assert photo_id(1) not in store.read("faces", columns=["photo_id"])["photo_id"].to_pylist()
    assert (store.count("identities"), store.count("images")) == (6, 6)
    rows = store.read("tombstones").to_pylist()
    assert rows and not any(photo_id(1)[:12] in str(row) for row in rows)
    assert store.tombstones().hold(photo_id(1)) and not store.tombstones().hold(photo_id(2))


def test_a_commit_that_looked_before_the_tombstone_was_set_does_not_succeed(
    store: Store, tiny_pack: Pack, monkeypatch: pytest.MonkeyPatch
) -> None:
    faces, _, _ = fill(store, tiny_pack)
    real, asked = Store.tombstones, list[int]()

    def erased_just_then(self: Store) -> Any:
        seen = real(self)
        asked.append(1)
        if len(asked) == 1:
            erase(store, find_person(store, photo_id=photo_id(1)))
        return seen

    monkeypatch.setattr(Store, "tombstones", erased_just_then)
    store.upsert("faces", [face_row(faces[1]), face_row(face(30, tiny_pack))])
    assert found(store, {photo_id(1).encode(): "photo_id"}) == set()
    assert store.count("faces") == 7, "what else was in it is there"


def test_who_reads_while_somebody_is_erased_reads_anew(
    store: Store, tiny_pack: Pack, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store, tiny_pack)
    stale = {table: store.open(table) for table in ("faces", "identities")}
    erase(store, find_person(store, photo_id=photo_id(1)))
    real = Store.open
    monkeypatch.setattr(Store, "open", lambda self, table: stale.pop(table, None) or real(self, table))
    assert len(store.faces()) == 6
    assert store.find_identity("person 2").name == "person 2"
    assert stale == {}


KILLED = """
import os, signal, sys, time
from pathlib import Path
from lance.dataset import MergeInsertBuilder
from factory.store.tables import Store
root, mark = sys.argv[1], Path(sys.argv[2])
seen, execute = Store.tombstones, MergeInsertBuilder.execute

def wait_for_the_eraser(self):
    tombstones = seen(self)
    mark.with_suffix(".looked").touch()
    while not mark.with_suffix(".erased").exists():
        time.sleep(0.01)
    return tombstones

def die_once_it_is_committed(self, *arguments):
    execute(self, *arguments)
    os.kill(os.getpid(), signal.SIGKILL)

Store.tombstones, MergeInsertBuilder.execute = wait_for_the_eraser, die_once_it_is_committed
rows = Store(root + "-source").read("identities").to_pylist()
Store(root).upsert("identities", rows)
"""


def test_a_job_that_is_killed_right_behind_its_commit_leaves_nobody_who_was_erased(
    store: Store, tiny_pack: Pack, tmp_path: Path
) -> None:
    _, identities, _ = fill(store, tiny_pack)
    more = replace(identities[2], identity_id="a" * 16)
    Store(f"{store.root}-source").upsert("identities", [identity_row(identities[1]), identity_row(more)])
    mark = tmp_path / "mark"
    job = subprocess.Popen([sys.executable, "-c", KILLED, store.root, str(mark)])
    try:
        while not mark.with_suffix(".looked").exists():
            assert job.poll() is None
            time.sleep(0.01)
        assert erase(store, find_person(store, photo_id=photo_id(1))).found == []
        mark.with_suffix(".erased").touch()
        assert job.wait(60) == -signal.SIGKILL
    finally:
        job.kill()
    assert store.find_identity("a" * 16).name == "person 2", "it was killed behind its commit"
    with pytest.raises(IdentityNotFound):
        store.find_identity("person 1")
    assert store.existing_ids("identities", where=f"photo_id = '{photo_id(1)}'") == set()


def test_nobody_who_was_erased_comes_back_as_a_reject(store: Store, tiny_pack: Pack) -> None:
    faces, identities, _ = fill(store, tiny_pack)
    refused = Reject(
        reject_id=faces[6].face_id, photo_id=photo_id(20), name="person 20-1", pack="tiny", stage="prepare",
        reason="blurred", detail="",
    )  # fmt: skip
    # what training refuses has the identity's id, and that may be one that the root never held
    diverged = replace(refused, reject_id="d" * 16, stage="train", reason="diverged")
    unread = replace(refused, reject_id="e" * 64, photo_id="", name="unread", reason="unreadable")
    alone = replace(refused, reject_id=identities[1].identity_id, photo_id="", name="person 1", stage="train")
    store.upsert("rejects", [reject_row(unread)])
    for name in ("person 20-1", "person 1", "unread"):
        erase(store, find_person(store, name=name))
    store.upsert("rejects", [reject_row(one) for one in (refused, diverged, unread, alone)])
    assert store.rejects() == []
    store.upsert("names", [{"photo_id": photo_id(20), "name": "still there"}])
    erase(store, find_person(store, name="still there"))  # the largest face of that photo
    store.upsert("names", [{"photo_id": photo_id(20), "name": "back"}])
    store.upsert("faces", [face_row(face(20, tiny_pack, 2))])
    assert (store.count("names"), store.read("faces", where=f"photo_id = '{photo_id(20)}'").num_rows) == (0, 0)


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


def test_all_erasures_of_a_root_share_a_salt(store: Store, tiny_pack: Pack) -> None:
    fill(store, tiny_pack)
    for number in (1, 2, 3):
        erase(store, find_person(store, photo_id=photo_id(number)))
    assert len(store.tombstones().salts) == 1
    # an older version gave each its own; so do two first erasures at once
    old = {"digest": tombstone_digest("5a17", photo_id(4)), "salt": "5a17", "erased_at": ""}
    store.upsert("tombstones", [old])
    erase(store, find_person(store, photo_id=photo_id(0)))
    tombstones = store.tombstones()
    assert len(tombstones.salts) == 2
    assert all(tombstones.hold(photo_id(number)) for number in range(5))
    assert not tombstones.hold(photo_id(20))


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
    clean = erase_module._clean_jobs

    def meanwhile(store: Store, needles: Any) -> int:
        late = Path(store.root) / "faces.lance" / "data" / "late.lance"
        late.write_bytes(b"..." + photo_id(1).encode())
        return clean(store, needles)

    monkeypatch.setattr(erase_module, "_clean_jobs", meanwhile)
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


def test_the_endpoint_answers_404_at_once(store: Store, tiny_pack: Pack) -> None:
    fill(store, tiny_pack)
    fake = FakeGenerator()
    client = ImageClient(fake.submit, fake.submit_with_previews, timeout_s=5.0)
    endpoint = Endpoint(tiny_pack, Catalog(store.root), client, fake.stats)
    http = TestClient(create_app(endpoint, Door()), raise_server_exceptions=False)
    assert ask(http, model="person 1").status_code == 200
    erase(store, find_person(store, name="person 1"))
    assert ask(http, model="person 1").status_code == 404
    assert ask(http, model="person 2").status_code == 200


def test_a_picture_in_the_making_does_not_leave_after_the_erasure(store: Store, tiny_pack: Pack) -> None:
    fill(store, tiny_pack)

    class SlowGenerator(FakeGenerator):
        async def work(self, job: Any) -> Any:
            erase(store, find_person(store, name=job.identity.name))
            return await super().work(job)

    fake = SlowGenerator()
    client = ImageClient(fake.submit, fake.submit_with_previews, timeout_s=60.0)
    endpoint = Endpoint(tiny_pack, Catalog(store.root), client, fake.stats)
    response = ask(TestClient(create_app(endpoint, Door()), raise_server_exceptions=False), model="person 3")
    assert len(fake.jobs) == 1 and response.status_code == 404


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
    assert done.found == [f"{hidden}: a piece of the photo, as base64"], "what is not ours is not removed, but told"
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
    assert unknown.exit_code == 1 and "knows nobody by 'nobody'" in unknown.stderr
    assert runner.invoke(app, [*base, "--name", "person 1"], input="n\n").exit_code == 1
    assert store.count("faces") == 7
    file = tmp_path / "photo.jpg"
    file.write_bytes(b"photo 1")  # photo_id() hashes the same bytes
    done = runner.invoke(app, [*base, "--photo", str(file), "--yes"])
    assert done.exit_code == 0 and "0 traces left" in done.output
    assert store.count("faces") == 6
