"""Files and batches as the openai client asks for them, without Ray: a request a line, an answer a line, each once."""

from __future__ import annotations

import base64
import io
from typing import Any, get_type_hints

import openai
import pytest
from openai.types import Batch, FileObject, batch_create_params, batch_list_params, file_create_params, file_list_params
from PIL import Image
from starlette.testclient import TestClient

from factory.store.tables import Store
from serve.openai import contract
from serve.openai.batch_file import MAX_LINES, check
from serve.openai.batch_lines import line_seed
from tests import batching, serving
from tests.batching import as_jsonl, begin, ended, lines, task, upload
from tests.serving import FakeGenerator, error_of

store, fake, http, client = serving.store, serving.fake, batching.http, batching.client  # fixtures


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
    assert batch.model == "tiny" and batch.usage is not None
    first, two = lines(client, batch.output_file_id)
    assert (first["custom_id"], first["error"], first["response"]["status_code"]) == ("first", None, 200)
    picture = first["response"]["body"]["data"][0]
    assert picture["seed"] == 7
    assert Image.open(io.BytesIO(base64.b64decode(picture["b64_json"]))).getpixel((0, 0)) == (7, 7, 7)
    seeds = [image["seed"] for image in two["response"]["body"]["data"]]
    assert seeds == [line_seed(batch.id, 3), line_seed(batch.id, 3) + 1] and two["response"]["body"]["size"] == "32x32"
    usages = [one["response"]["body"]["usage"] for one in (first, two)]
    assert batch.usage.total_tokens == batch.usage.input_tokens == sum(one["input_tokens"] for one in usages) > 0
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
        (b"\xff\xfe", "invalid_encoding", 1),
        (as_jsonl([task("a"), task("b")]).decode().encode("utf-16"), "invalid_encoding", 1),
        (as_jsonl([task("a"), task("b")]).decode().encode("utf-16-be"), "invalid_encoding", 1),
        (as_jsonl([task("a"), task("Zoe")]).replace(b"Zoe", b"Zo\xeb"), "invalid_encoding", 2),
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


def test_a_file_in_another_encoding_is_told_with_its_place() -> None:
    line = as_jsonl([task("Zoe")])
    _, [fault] = check(b"\n" + line.replace(b"Zoe", b"Zo\xeb"))
    place = line.index(b"Zoe") + 3
    assert fault["message"].startswith(f"this line is not UTF-8: its byte {place} is 0xeb") and fault["line"] == 2
    _, [fault] = check(b"\xff\xfe" + line.decode().encode("utf-16-le"))
    assert "UTF-16" in fault["message"] and "save it as UTF-8" in fault["message"]
    assert check(b"\xef\xbb\xbf" + line.replace(b"Zoe", "Zo\u00eb".encode()) + b"\r\n\r\n") == (1, [])


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


def test_a_key_that_comes_again_gives_the_batch_it_began_also_without_its_file(
    http: TestClient, client: openai.OpenAI, store: Store
) -> None:
    file, key = upload(client, [task("a")]), {"idempotency-key": "k"}
    body = {"input_file_id": file.id, "endpoint": "/v1/images/generations", "completion_window": "24h"}
    first = http.post("/v1/batches", json=body, headers=key).json()
    ended(client, first["id"])
    client.files.delete(file.id)
    assert http.post("/v1/batches", json=body).status_code == 422
    again = http.post("/v1/batches", json=body, headers=key)
    assert again.status_code == 200 and again.json()["id"] == first["id"] and store.count("work") == 1
    other = http.post("/v1/batches", json=body | {"completion_window": "1h"}, headers=key)
    assert error_of(other)["code"] == "idempotency_key_reused"


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
