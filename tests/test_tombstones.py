"""Who was erased stays out: of every later commit, of reads that began before, of the endpoint."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from factory.errors import IdentityNotFound
from factory.pack import Pack
from factory.records import Reject
from factory.store.erase import erase, find_person
from factory.store.rows import face_row, identity_row, image_row, reject_row
from factory.store.tables import Store
from factory.store.tombstones import tombstone_digest
from serve.app import create_app
from serve.catalog import Catalog
from serve.client import ImageClient
from serve.openai.images import Endpoint
from serve.stopping import Door
from tests.make_people import face, fill, found, photo_id, traces
from tests.serving import FakeGenerator, ask


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


def test_the_endpoint_answers_404_at_once(store: Store, tiny_pack: Pack) -> None:
    fill(store, tiny_pack)
    fake = FakeGenerator()
    client = ImageClient(fake.submit, fake.submit_with_previews, fake.submit_clip, timeout_s=5.0)
    endpoint = Endpoint(tiny_pack, Catalog(store.root), client, fake.stats)
    http = TestClient(create_app(endpoint, Door()), raise_server_exceptions=False)
    assert ask(http, model="person 1").status_code == 200
    erase(store, find_person(store, name="person 1"))
    assert ask(http, model="person 1").status_code == 404
    assert ask(http, model="person 2").status_code == 200


def test_a_picture_in_the_making_does_not_leave_after_the_erasure(store: Store, tiny_pack: Pack) -> None:
    faces, identities, images = fill(store, tiny_pack)

    class SlowGenerator(FakeGenerator):
        async def work(self, job: Any) -> Any:
            erase(store, find_person(store, name=job.identity.name))
            return await super().work(job)

    fake = SlowGenerator()
    client = ImageClient(fake.submit, fake.submit_with_previews, fake.submit_clip, timeout_s=60.0)
    endpoint = Endpoint(tiny_pack, Catalog(store.root), client, fake.stats)
    response = ask(TestClient(create_app(endpoint, Door()), raise_server_exceptions=False), model="person 3")
    assert len(fake.jobs) == 1 and response.status_code == 404
    assert found(store, traces(faces[3], identities[3], images[3])) == set()
