"""Files and batches as the openai client asks for them, without Ray: a request a line, an answer a line, each once."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_type_hints

import openai
import pytest
from openai.types import Batch, FileObject, batch_create_params, batch_list_params, file_create_params, file_list_params
from PIL import Image
from starlette.testclient import TestClient

from factory.pack import Pack
from factory.store.erase import erase, find_person
from factory.store.lines import lines_of_file
from factory.store.tables import Store
from serve.app import create_app
from serve.catalog import Catalog
from serve.client import GeneratorDown, ImageClient
from serve.openai import contract
from serve.openai.batch_file import MAX_LINES, check
from serve.openai.batch_lines import KIND, BatchRunner, line_seed
from serve.openai.batches import Batches, batch_routes
from serve.openai.errors import kept_of
from serve.openai.files import Files, file_routes
from serve.openai.images import Endpoint
from serve.stopping import Door
from serve.work import Kind, WorkBook
from tests import serving
from tests.serving import FakeGenerator, error_of
from tests.test_contract import as_client

store, fake = serving.store, serving.fake  # fixtures


@contextmanager
def server(
    store: Store, pack: Pack, fake: FakeGenerator, room: asyncio.Semaphore | None = None
) -> Iterator[TestClient]:
    """A server of its own on this root; left, it puts down what it has not done."""
    submits = fake.submit, fake.submit_with_previews, fake.submit_clip
    client = ImageClient(*submits, timeout_s=5.0, submit_patiently=fake.submit, patient_room=room)
    endpoint = Endpoint(pack, Catalog(store.root), client, fake.stats)
    lines = BatchRunner(store, endpoint.generations, at_once=2)
    book = WorkBook(store, {KIND: Kind(do=lines.run, max_waiting=2)}, kept_of, beat_s=0.1)
    batches = Batches(store, book)
    routers = batch_routes(batches), file_routes(Files(store, batches))
    with TestClient(create_app(endpoint, Door(), book, *routers), raise_server_exceptions=False) as http:
        yield http


@pytest.fixture
def http(store: Store, tiny_pack: Pack, fake: FakeGenerator) -> Iterator[TestClient]:
    with server(store, tiny_pack, fake) as http:
        yield http


@pytest.fixture
def client(http: TestClient) -> openai.OpenAI:
    return as_client(http)


def task(custom_id: str, **fields: Any) -> dict[str, Any]:
    body = {"model": "ada", "prompt": "<person> in the snow"} | fields
    return {"custom_id": custom_id, "method": "POST", "url": "/v1/images/generations", "body": body}


def upload(client: openai.OpenAI, tasks: list[dict[str, Any]]) -> FileObject:
    return client.files.create(file=("people.jsonl", as_jsonl(tasks)), purpose="batch")


def as_jsonl(tasks: list[dict[str, Any]]) -> bytes:
    return "\n".join(map(json.dumps, tasks)).encode()


def begin(client: openai.OpenAI, tasks: list[dict[str, Any]], **fields: Any) -> Batch:
    given: dict[str, Any] = {"completion_window": "24h", "endpoint": "/v1/images/generations"} | fields
    return client.batches.create(input_file_id=upload(client, tasks).id, **given)


def ended(client: openai.OpenAI, batch_id: str, within_s: float = 20) -> Batch:
    deadline = time.monotonic() + within_s
    while (batch := client.batches.retrieve(batch_id)).status in ("validating", "in_progress", "finalizing"):
        assert time.monotonic() < deadline, batch
        time.sleep(0.01)
    return batch


def lines(client: openai.OpenAI, file_id: str | None) -> list[dict[str, Any]]:
    return [json.loads(line) for line in client.files.content(file_id or "").read().splitlines()]


def test_the_openai_client_uploads_begins_polls_and_reads_the_answers(client: openai.OpenAI) -> None:
    tasks = [task("first", seed=7), task("wrong", model="zed"), task("two", n=2, model="bob", size="32x32")]
    file = upload(client, tasks)
    FileObject.model_validate(file.model_dump(), strict=True)
    assert (file.filename, file.purpose, file.bytes) == ("people.jsonl", "batch", len(as_jsonl(tasks)))
    assert client.files.content(file.id).read() == as_jsonl(tasks)
    made = client.batches.create(
        input_file_id=file.id, completion_window="24h", endpoint="/v1/images/generations", metadata={"for": "a test"}
    )
    batch = ended(client, made.id)
    Batch.model_validate(batch.model_dump(), strict=True)
    assert batch.status == "completed" and batch.metadata == {"for": "a test"}
    assert batch.request_counts is not None and batch.expires_at == batch.created_at + 24 * 3600
    assert batch.request_counts.model_dump() == {"total": 3, "completed": 2, "failed": 1}
    first, two = lines(client, batch.output_file_id)
    assert (first["custom_id"], first["error"], first["response"]["status_code"]) == ("first", None, 200)
    picture = first["response"]["body"]["data"][0]
    assert picture["seed"] == 7
    assert Image.open(io.BytesIO(base64.b64decode(picture["b64_json"]))).getpixel((0, 0)) == (7, 7, 7)
    seeds = [image["seed"] for image in two["response"]["body"]["data"]]
    assert seeds == [line_seed(batch.id, 3), line_seed(batch.id, 3) + 1] and two["response"]["body"]["size"] == "32x32"
    (wrong,) = lines(client, batch.error_file_id)
    assert (wrong["custom_id"], wrong["response"]["status_code"]) == ("wrong", 404)
    assert wrong["response"]["body"]["error"]["code"] == "model_not_found"
    listed = list(client.files.list())
    assert {one.id for one in listed} == {file.id, batch.output_file_id, batch.error_file_id}
    for one in listed:
        FileObject.model_validate(one.model_dump(), strict=True)
        assert one.bytes == len(client.files.content(one.id).read()) and client.files.retrieve(one.id) == one
    assert [one.id for one in client.files.list(purpose="batch_output", limit=1, order="asc")] == [
        one.id for one in reversed(listed) if one.purpose == "batch_output"
    ]


def test_the_fields_are_those_of_the_clients_own_types() -> None:
    for fates, params in (
        (contract.FILES_CREATE, file_create_params.FileCreateParams),
        (contract.FILES_LIST, file_list_params.FileListParams),
        (contract.BATCHES_CREATE, batch_create_params.BatchCreateParams),
        (contract.BATCHES_LIST, batch_list_params.BatchListParams),
    ):
        told = [*fates.honoured, *fates.without_effect, *fates.refused]
        assert sorted(told) == sorted(get_type_hints(params)), params.__name__


def test_a_line_that_cannot_be_done_is_a_line_of_the_error_file(client: openai.OpenAI, fake: FakeGenerator) -> None:
    bad: dict[str, dict[str, Any]] = {
        "unknown": {"model": "zed"}, "another encoder": {"model": "cleo"}, "nobody": {"model": None},
        "size": {"size": "huge"}, "seed": {"seed": -1}, "refused": {"svg": {}}, "pose": {"pose": {"name": "sideways"}},
        "streamed": {"stream": True}, "at an address": {"response_format": "url"}, "prompt": {"prompt": ""},
        "strict": {"strict": True, "odd": 1}, "no clips": {"output_format": "gif"}, "type": {"n": "many"},
    }  # fmt: skip
    batch = ended(client, begin(client, [task("good"), *(task(name, **fields) for name, fields in bad.items())]).id)
    assert batch.request_counts is not None and batch.request_counts.failed == len(bad)
    assert [line["custom_id"] for line in lines(client, batch.output_file_id)] == ["good"] and len(fake.jobs) == 1
    told = {line["custom_id"]: line["response"] for line in lines(client, batch.error_file_id)}
    assert list(told) == list(bad)
    params = {name: answer["body"]["error"]["param"] for name, answer in told.items()}
    assert params | {"strict": None, "no clips": "output_format"} == params
    assert (params["streamed"], params["at an address"], params["size"]) == ("stream", "response_format", "size")
    assert all(400 <= answer["status_code"] < 500 for answer in told.values())


@pytest.mark.parametrize(
    ("content", "code", "line"),
    [
        (b"", "empty_file", None),
        (b"\n \r\n", "empty_file", None),
        (b"{", "invalid_json_line", 1),
        (b"\xff\xfe", "invalid_json_line", 1),
        (b"\n[1]", "invalid_json_line", 2),
        (b'{"custom_id": "\\ud83d"}', "invalid_json_line", 1),
        (b"[" * 100_000, "invalid_json_line", 1),
        (b'{"custom_id": 1}', "missing_required_parameter", 1),
        (as_jsonl([task("a"), task("a")]), "duplicate_custom_id", 2),
        (as_jsonl([task("a") | {"url": "/v1/responses"}]), "invalid_url", 1),
        (as_jsonl([task("a") | {"method": "GET"}]), "invalid_method", 1),
        (as_jsonl([task("a") | {"body": "x"}]), "missing_required_parameter", 1),
    ],
)
def test_what_is_wrong_with_an_input_file_is_told_by_line(content: bytes, code: str, line: int | None) -> None:
    _, faults = check(content)
    assert [(fault["code"], fault["line"]) for fault in faults] == [(code, line)]


def test_an_input_file_that_is_none_fails_the_batch(client: openai.OpenAI, fake: FakeGenerator) -> None:
    batch = ended(client, begin(client, [task("a"), task("a"), task("b") | {"url": "/v1/responses"}]).id)
    Batch.model_validate(batch.model_dump(), strict=True)
    assert batch.status == "failed" and batch.errors is not None and batch.errors.data is not None
    assert [(error.code, error.line) for error in batch.errors.data] == [("duplicate_custom_id", 2), ("invalid_url", 3)]
    assert batch.output_file_id is None and batch.failed_at and not fake.jobs


def test_a_file_is_held_to_the_number_of_requests() -> None:
    one = as_jsonl([task("a")]).replace(b'"a"', b'"%d"')
    total, faults = check(b"\n".join(one % number for number in range(MAX_LINES)))
    assert (total, faults) == (MAX_LINES, [])
    _, [fault] = check(b"\n".join(one % number for number in range(MAX_LINES + 1)))
    assert fault["code"] == "too_many_requests"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"endpoint": "/v1/responses"}, "endpoint"),
        ({"completion_window": "soon"}, "completion_window"),
        ({"input_file_id": "file-none"}, "input_file_id"),
        ({"metadata": {"a": "x" * 513}}, "metadata.a"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 60}}, "output_expires_after.seconds"),
    ],
)
def test_a_batch_that_cannot_begin_is_refused_by_name(
    http: TestClient, client: openai.OpenAI, store: Store, fields: dict[str, Any], param: str
) -> None:
    file = upload(client, [task("a")])
    body = {"input_file_id": file.id, "endpoint": "/v1/images/generations", "completion_window": "24h"} | fields
    answer = http.post("/v1/batches", json=body)
    assert answer.status_code == 422 and error_of(answer)["param"] == param
    assert store.count("work") == 0


def test_files_of_other_purposes_and_pictures_at_addresses_are_none(http: TestClient, client: openai.OpenAI) -> None:
    with pytest.raises(openai.UnprocessableEntityError, match="only files of purpose batch"):
        client.files.create(file=b"x", purpose="vision")
    picture = http.post("/v1/images/generations", json={"model": "ada", "prompt": "x", "response_format": "url"})
    an_id = picture.json()["data"][0]["url"].rpartition("/")[2]
    assert http.get(f"/v1/files/{an_id}").status_code == 404 and list(client.files.list()) == []
    file = upload(client, [task("a")])
    assert http.get(f"/v1/pictures/{file.id}").status_code == 404
    with pytest.raises(openai.UnprocessableEntityError, match="batch_0"):
        client.batches.list(after="batch_0")


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
    left = [file.read_bytes() for file in Path(store.root).rglob("*") if file.is_file()]
    for needle in (ada.identity_id.encode(), of_ada.encode(), as_jsonl(tasks[:1]), as_jsonl(tasks[2:3])):
        assert not any(needle in data for data in left)
    assert [line["custom_id"] for line in lines(client, batch.output_file_id)] == ["b", "d"]
    kept = client.files.content(batch.input_file_id).read().split(b"\n")
    assert [json.loads(line)["custom_id"] if line else "" for line in kept] == ["", "b", "", ""]


def test_a_large_output_file_is_read_in_pieces(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"batch_id": "batch_a", "people": [], "status": 200, "error": None, "created_at": 0.0, "answer": b"{}"}
    numbers = [3, 1, 2, 10, 5]
    store.upsert("lines", [{**row, "line": n, "custom_id": str(n), "num_bytes": 100} for n in numbers])
    monkeypatch.setattr("factory.store.lines._AT_ONCE", 250)
    pieces = list(lines_of_file(store, "batch_a", failed=False))
    assert [len(piece.splitlines()) for piece in pieces] == [2, 2, 1]
    assert [json.loads(line)["custom_id"] for line in b"".join(pieces).splitlines()] == ["1", "2", "3", "5", "10"]
    assert list(lines_of_file(store, "batch_a", failed=True)) == []


def test_a_file_that_is_too_large_and_other_bodies_are_refused(
    http: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve.openai.files.MAX_BYTES", 1000)
    answer = http.post("/v1/files", data={"purpose": "batch"}, files={"file": b"x" * 100_000})
    assert answer.status_code == 413 and error_of(answer)["param"] == "file"
    assert http.post("/v1/files", json={"purpose": "batch"}).status_code == 415
    assert http.post("/v1/files", data={"purpose": "batch", "file": "no file"}).status_code == 415
    parts = {"files": {"other": b"x"}, "data": {"purpose": "batch"}}
    assert error_of(http.post("/v1/files", **parts))["param"] == "file"  # type: ignore[arg-type]
    assert http.post("/v1/files", **parts, headers={"origin": "http://evil"}).status_code == 403  # type: ignore[arg-type]
    form = {"content-type": "multipart/form-data; boundary=x"}
    for body in (b"", b"--x", b"--x\r\n\r\n--x--", b"\x00" * 50, b"--x\r\nContent-Disposition: form-data\r\n\r\n--x--"):
        assert http.post("/v1/files", content=body, headers=form).status_code in (400, 422)
