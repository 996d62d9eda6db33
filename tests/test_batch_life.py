"""Batches over time: cancelled, restarted, expired, waiting; what is told of them, and what erasing leaves."""

from __future__ import annotations

import asyncio
import json
import re
import time
from pathlib import Path
from typing import Any

import openai
import pytest
from starlette.testclient import TestClient

from factory.files import tenant_root
from factory.pack import Pack
from factory.store.audit import read_audit
from factory.store.erase import Erasure, erase, find_person
from factory.store.keys import KeyRing, create_key
from factory.store.lines import lines_of_file
from factory.store.tables import Store
from serve.access import Gate, Rooms
from serve.client import GeneratorDown
from serve.openai.batch_lines import line_seed
from tests import batching, serving
from tests.batching import app_of, as_jsonl, begin, ended, lines, server, task
from tests.serving import FakeGenerator, people_store
from tests.test_contract import as_client

store, fake, http, client = serving.store, serving.fake, batching.http, batching.client  # fixtures


def test_cancelled_a_batch_keeps_what_is_done(client: openai.OpenAI, fake: FakeGenerator) -> None:
    fake.endless_after = 3
    batch = begin(client, [task(str(number)) for number in range(9)])
    while (counts := client.batches.retrieve(batch.id).request_counts) is None or counts.completed < 3:
        time.sleep(0.01)
    reading = client.batches.retrieve(batch.id)
    assert reading.status == "in_progress" and reading.output_file_id is None
    with pytest.raises(openai.ConflictError, match="cancel it first"):
        client.files.delete(batch.input_file_id)
    batch = client.batches.cancel(batch.id)
    assert (
        batch.status == "cancelled" and batch.cancelled_at and [one.id for one in client.batches.list()] == [batch.id]
    )
    assert all(pending.cancelled for pending in fake.pending[3:]) and len(fake.pending) == 5
    assert len(lines(client, batch.output_file_id)) == 3
    assert client.files.delete(batch.input_file_id).deleted
    assert client.files.delete(batch.output_file_id or "").deleted
    again = client.batches.retrieve(batch.id)
    assert again.output_file_id is None and again.request_counts == counts  # what was counted stays
    with pytest.raises(openai.NotFoundError):
        client.files.content(batch.output_file_id or "")


def test_a_restart_goes_on_where_it_was_and_draws_no_line_twice(
    store: Store, tiny_pack: Pack, fake: FakeGenerator
) -> None:
    tasks = [task(str(number)) for number in range(8)]
    fake.endless_after = 4
    with server(store, tiny_pack, fake) as http:
        batch = begin(as_client(http), tasks)
        while store.count("lines") < 4:
            time.sleep(0.01)
    before = store.read("lines").to_pylist()
    other = FakeGenerator()
    with server(store, tiny_pack, other) as http:
        assert ended(as_client(http), batch.id).status == "completed"
    assert sorted(job.seed for job in other.jobs) == sorted(
        line_seed(batch.id, line) for line in {*range(1, 9)} - {row["line"] for row in before}
    )
    rows = store.read("lines").to_pylist()
    assert sorted(row["line"] for row in rows) == [*range(1, 9)] and all(row in rows for row in before)


def test_what_is_not_begun_in_time_expires(store: Store, tiny_pack: Pack, fake: FakeGenerator) -> None:
    fake.endless_after = 1
    with server(store, tiny_pack, fake) as http:
        batch = begin(as_client(http), [task("a"), task("b"), task("c")], completion_window="2h")
        while store.count("lines") < 1:
            time.sleep(0.01)
    (row,) = store.read("work").to_pylist()
    store.upsert("work", [{**row, "created_at": time.time() - 2 * 3600 + 0.5}])
    with server(store, tiny_pack, fake) as http:
        over = ended(as_client(http), batch.id)
        assert over.status == "expired" and over.expired_at is not None and over.request_counts is not None
        assert over.request_counts.model_dump() == {"total": 3, "completed": 1, "failed": 2}
        late = lines(as_client(http), over.error_file_id)
        assert [(line["response"], line["error"]["code"]) for line in late] == [(None, "batch_expired")] * 2


def test_a_line_waits_for_a_generator_that_is_lost(
    client: openai.OpenAI, fake: FakeGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = iter([True, True])
    draw = FakeGenerator.work

    async def work(self: FakeGenerator, job: Any) -> Any:
        if next(lost, False):
            raise GeneratorDown("gone")
        return await draw(self, job)

    monkeypatch.setattr(FakeGenerator, "work", work)
    monkeypatch.setattr("serve.openai.batch_lines._AGAIN_S", 0.01)
    batch = ended(client, begin(client, [task("a"), task("b")]).id)
    assert batch.request_counts is not None and batch.request_counts.completed == 2


def test_answers_expire_if_that_is_asked_for(client: openai.OpenAI, store: Store) -> None:
    asked = {"output_expires_after": {"anchor": "created_at", "seconds": 3600}}
    batch = ended(client, begin(client, [task("a")], **asked).id)
    file = client.files.retrieve(batch.output_file_id or "")
    assert file.expires_at == file.created_at + 3600
    (row,) = store.read("work").to_pylist()
    store.upsert("work", [{**row, "finished_at": row["finished_at"] - 3601}])
    assert client.batches.retrieve(batch.id).output_file_id is None
    ended(client, begin(client, [task("b")]).id)  # the next one's end sweeps
    rows = {row["custom_id"]: row["answer"] for row in store.read("lines").to_pylist()}
    assert rows["a"] is None and rows["b"] is not None


def test_a_line_of_many_pictures_takes_no_more_places_at_the_replicas(
    store: Store, tiny_pack: Pack, fake: FakeGenerator
) -> None:
    fake.endless_after = 5
    room = asyncio.Semaphore(2)
    with server(store, tiny_pack, fake, room) as http:
        begin(as_client(http), [task("a", n=10), task("b", n=10)])
        while len(fake.pending) < 7:
            time.sleep(0.01)
        time.sleep(0.1)
        assert len(fake.pending) == 7 and http.post("/v1/images/generations", json={}).status_code == 422


def test_too_many_batches_are_told_to_come_again(client: openai.OpenAI, fake: FakeGenerator) -> None:
    fake.endless_after = 0
    for _ in range(2):
        begin(client, [task("a")])
    with pytest.raises(openai.RateLimitError) as refused:
        begin(client, [task("a")])
    assert refused.value.response.headers["retry-after"] == "10"


def test_who_is_erased_leaves_lines_and_requests(client: openai.OpenAI, store: Store) -> None:
    [ada] = store.identities(["ada"])
    both = "<person> and <person:bob>"
    tasks = [task("a"), task("b", model="bob"), task("c", prompt=both), task("d", model="bob", user=ada.identity_id)]
    batch = ended(client, begin(client, tasks, metadata={"who": "bob"}).id)
    of_ada = lines(client, batch.output_file_id)[0]["response"]["body"]["data"][0]["b64_json"]
    done = erase(store, find_person(store, name="ada"))
    assert done.rows["lines"] == 2 and not done.found
    for needle in (ada.identity_id.encode(), of_ada.encode(), as_jsonl(tasks[:1]), as_jsonl(tasks[2:3])):
        assert not _holding(store, needle)
    assert [line["custom_id"] for line in lines(client, batch.output_file_id)] == ["b", "d"]
    kept = client.files.content(batch.input_file_id).read().split(b"\n")
    assert [json.loads(line)["custom_id"] if line else "" for line in kept] == ["", "b", "", ""]


def test_who_is_erased_while_a_batch_runs_is_drawn_no_more(store: Store, tiny_pack: Pack) -> None:
    class Erasing(FakeGenerator):
        async def work(self, job: Any) -> Any:
            if job.identity.name == "ada" and not done:
                done.append(await asyncio.to_thread(erase, store, find_person(store, name="ada")))
            return await super().work(job)

    [ada] = store.identities(["ada"])
    done: list[Erasure] = []
    room = asyncio.Semaphore(1)  # one after the other
    with server(store, tiny_pack, Erasing(), room) as http:
        client = as_client(http)
        tasks = [task("a"), task("b", model="bob"), task("c"), task("d", prompt="<person> and <person:bob>"), task("e")]
        batch = ended(client, begin(client, tasks).id)
        assert http.get("/v1/models/ada").status_code == 404
        assert [line["custom_id"] for line in lines(client, batch.output_file_id)] == ["b"]
        refused = {line["custom_id"]: line["response"]["status_code"] for line in lines(client, batch.error_file_id)}
    assert batch.status == "completed" and {"c", "d", "e"} <= set(refused) and set(refused.values()) == {404}
    assert len(done) == 1 and done[0].found == []
    assert not _holding(store, ada.identity_id.encode())


def _holding(store: Store, needle: bytes) -> list[Path]:
    """Files in which something is left. Ids of tests are mostly zeros: so are the 64 that the audit's first row
    follows, and Lance's names of files begin with 24 digits that are 0 or 1."""
    files = [file for file in Path(store.root).rglob("*") if file.is_file()]
    return [file for file in files if needle in re.sub(rb"[01]{17,}", b"", file.read_bytes())]


def test_a_large_output_file_is_read_in_pieces(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"batch_id": "batch_a", "people": [], "status": 200, "error": None, "created_at": 0.0, "answer": b"{}"}
    numbers = [3, 1, 2, 10, 5]
    store.upsert("lines", [{**row, "line": n, "custom_id": str(n), "num_bytes": 100} for n in numbers])
    monkeypatch.setattr("factory.store.lines._AT_ONCE", 250)
    pieces = list(lines_of_file(store, "batch_a", failed=False))
    assert [len(piece.splitlines()) for piece in pieces] == [2, 2, 1]
    assert [json.loads(line)["custom_id"] for line in b"".join(pieces).splitlines()] == ["1", "2", "3", "5", "10"]
    assert list(lines_of_file(store, "batch_a", failed=True)) == []


def test_the_audit_tells_of_every_line_that_was_drawn(client: openai.OpenAI, store: Store) -> None:
    [ada, bob] = store.identities(["ada", "bob"])
    tasks = [task("a", n=2), task("b", prompt="<person> and <person:bob>"), task("wrong", model="zed")]
    batch = ended(client, begin(client, tasks).id)
    deadline = time.monotonic() + 10
    while len(rows := [row for row in read_audit(store) if row["action"] == "drew"]) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert sorted(row["num"] for row in rows) == [1, 2] and {row["actor"] for row in rows} == {"anybody"}
    assert {json.loads(row["detail"])["batch"] for row in rows} == {batch.id} and "snow" not in str(rows)
    drew = {who.name: [row for row in read_audit(store, [who.identity_id]) if row in rows] for who in (ada, bob)}
    assert len(drew["ada"]) == 2 and len(drew["bob"]) == 1
    (asked,) = [row for row in read_audit(store) if row["action"] == "asked for a batch"]
    assert asked["num"] == 3


def test_a_tenants_batch_goes_on_after_a_restart_before_the_tenant_asks_again(
    tmp_path: Path, tiny_pack: Pack, fake: FakeGenerator
) -> None:
    own = people_store(tmp_path / "root", tiny_pack)
    tenants = people_store(Path(tenant_root(own.root, "acme")), tiny_pack)
    key, _ = create_key(own, ["draw"], tenant="acme")

    def behind_a_gate(fake: FakeGenerator) -> TestClient:
        rooms = Rooms(lambda tenant: app_of(Store(tenant_root(own.root, tenant)), tiny_pack, fake))
        gate = Gate(app_of(own, tiny_pack, fake), KeyRing(own.root), rooms, keyless="refuse")
        return TestClient(gate, raise_server_exceptions=False)

    fake.endless_after = 2
    with behind_a_gate(fake) as http:
        http.headers["authorization"] = f"Bearer {key}"
        requests = as_jsonl([task(str(number)) for number in range(5)])
        file = http.post("/v1/files", data={"purpose": "batch"}, files={"file": requests})
        order = {"input_file_id": file.json()["id"], "endpoint": "/v1/images/generations", "completion_window": "24h"}
        assert http.post("/v1/batches", json=order).status_code == 200
        while tenants.count("lines") < 2:
            time.sleep(0.01)
    (row,) = tenants.read("work").to_pylist()
    tenants.upsert("work", [{**row, "status": "in_progress", "beat_at": time.time() - 60}])  # as a kill leaves it
    before = tenants.read("lines").to_pylist()
    with behind_a_gate(FakeGenerator()):
        deadline = time.monotonic() + 20
        while tenants.read("work").to_pylist()[0]["status"] != "completed":
            assert time.monotonic() < deadline
            time.sleep(0.02)
    rows = tenants.read("lines").to_pylist()
    assert sorted(row["line"] for row in rows) == [1, 2, 3, 4, 5] and all(row in rows for row in before)
    assert own.count("lines") == own.count("work") == 0
