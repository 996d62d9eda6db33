"""What the endpoint answers to requests that cannot be met: statuses, shapes, and nothing of the server."""

import gzip
import re
from collections.abc import Callable
from typing import Any
from unittest.mock import Mock

import pytest
from fastapi.exceptions import RequestValidationError
from ray.exceptions import ActorDiedError, RayTaskError
from ray.serve.exceptions import BackPressureError
from starlette.exceptions import HTTPException
from starlette.testclient import TestClient

from factory.errors import (
    ConsentExpired,
    IdentityNotFound,
    IncompatibleIdentity,
    PackError,
    PhotoRejected,
    PromptTooLong,
    TableDamaged,
)
from factory.pack import Pack
from factory.store.keys import KeyRefused, ScopeLacking
from factory.store.tables import Store
from serve.app import create_app
from serve.catalog import Catalog, UnknownIdentity
from serve.client import GenerationTimeout, GeneratorDown, ImageClient, QueueFull
from serve.learning import Diverged, FaceGone
from serve.openai.body import MAX_BODY
from serve.openai.errors import ANSWERS
from serve.openai.images import Endpoint
from serve.openai.schemas import RequestRefused
from serve.quotas import BeyondQuota, QuotaExceeded
from serve.reading import PoseReader
from serve.refusals import KeyReused, TooMuchWork, UnknownWork
from serve.shelf import UnknownFile
from serve.stopping import Door, Stopping
from serve.unlearned import (
    Erased,
    NoSuchFace,
    NotLearned,
    OtherPerson,
    PhotosRefused,
    SeveralFaces,
    StillLearning,
)
from tests import serving
from tests.serving import SECRET, FakeGenerator, ask, error_of

store, fake, http = serving.store, serving.fake, serving.http  # fixtures


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"model": None}, "model"),
        ({"n": 11}, "n"),
        ({"n": 0}, "n"),
        ({"n": True}, "n"),  # which Python counts as 1
        ({"seed": False}, "seed"),
        ({"guidance_scale": True}, "guidance_scale"),
        ({"size": "4096x4096"}, "size"),
        ({"size": "8x512"}, "size"),
        ({"size": "large"}, "size"),
        ({"size": "١٢٨x١٢٨"}, "size"),  # digits of another script
        ({"seed": -1}, "seed"),
        ({"num_inference_steps": 0}, "num_inference_steps"),
        ({"guidance_scale": -1}, "guidance_scale"),
        ({"output_format": "gif"}, "output_format"),
        ({"background": "transparent"}, "background"),
        ({"stream": True, "partial_images": 4}, "partial_images"),
        ({"guidance_scale": 1e308}, "guidance_scale"),
        ({"model": 7}, "model"),
        ({"pose": {"scale": 1}}, "pose"),
        ({"pose": {"name": "front", "scale": -1}}, "pose.scale"),
        ({"pose": {"photo": "%"}}, "pose"),
        ({"regions": [7]}, "regions.0"),
    ],
)
def test_a_bad_field_is_422_and_named(
    http: TestClient, fake: FakeGenerator, fields: dict[str, Any], param: str
) -> None:
    response = ask(http, **fields)
    error = error_of(response)
    assert response.status_code == 422 and error["param"] == param and error["type"] == "invalid_request_error"
    assert not fake.jobs
    if param == "size":
        assert "512x512" in error["message"] and "2048" in error["message"]


@pytest.mark.parametrize(
    ("body", "headers", "status", "told"),
    [
        (b"{", {}, 422, "no JSON"),
        (b"", {}, 422, "empty"),
        (b"[1]", {}, 422, "an array"),
        (b"7", {}, 422, "a number"),
        (b"model=ada&prompt=snow", {"content-type": "application/x-www-form-urlencoded"}, 422, "x-www-form-urlencoded"),
        (b"--x\r\n", {"content-type": "multipart/form-data; boundary=x"}, 422, "multipart/form-data"),
        ('{"model": "Zoë"}'.encode("latin-1"), {}, 422, "UTF-8"),
        (gzip.compress(b"{}", mtime=0), {"content-encoding": "gzip"}, 415, "gzip"),
        (b" " * (MAX_BODY + 1), {}, 413, str(MAX_BODY)),
        (b"{}", {"content-type": "text/plain", "origin": "http://elsewhere.example"}, 415, "application/json"),
        (b'{"model": "a\\ud83d", "prompt": "x"}', {}, 422, "surrogate"),
    ],
)
def test_a_body_that_cannot_be_read_is_told_why(
    http: TestClient, body: bytes, headers: dict[str, str], status: int, told: str
) -> None:
    response = http.post("/v1/images/generations", content=body, headers={"content-type": "application/json"} | headers)
    assert response.status_code == status and told in error_of(response)["message"]
    assert error_of(response)["param"] is None


def test_strict_refuses_unknown_fields_by_name(http: TestClient) -> None:
    response = ask(http, strict=True, seeed=1)
    assert response.status_code == 422 and "seeed" in error_of(response)["message"]
    assert ask(http, strict=True, quality="auto", style=None, user="someone").status_code == 200


def test_unknown_identity_is_404_and_tells_neither_the_root_nor_other_names(http: TestClient, store: Store) -> None:
    for response in (ask(http, model="adda"), http.get("/v1/models/adda"), http.get("/v1/identities/adda")):
        error = error_of(response)
        assert response.status_code == 404 and error["code"] == "model_not_found" and error["param"] == "model"
        assert "'adda'" in error["message"] and "GET /v1/models" in error["message"]
        assert store.root not in error["message"] and not re.search(r"\b(ada|bob|cleo)\b", error["message"])
    with pytest.raises(IdentityNotFound, match="did you mean ada"):  # the command line keeps its hints
        store.find_identity("adda")
    assert len(error_of(ask(http, model="x" * 5000))["message"]) < 300


def test_identity_of_another_base_model_is_409(http: TestClient, fake: FakeGenerator, tiny_pack: Pack) -> None:
    response = ask(http, model="cleo")
    assert response.status_code == 409 and not fake.jobs
    assert response.headers["x-should-retry"] == "false"  # the openai client retries a 409 otherwise
    message = error_of(response)["message"]
    assert "f" * 16 in message and tiny_pack.fingerprint() in message


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (BackPressureError(64, 64), 429, "queue_full"),
        (ActorDiedError(), 503, "generator_unavailable"),
        (TimeoutError(), 504, "timeout"),
        (RayTaskError("generate", "trace", PromptTooLong("too long")).as_instanceof_cause(), 422, "invalid_value"),
        (RayTaskError("generate", "trace", IncompatibleIdentity("no fit")).as_instanceof_cause(), 409, None),
        (RuntimeError("secret path"), 500, "internal_error"),
        (RayTaskError("generate", "trace", OSError("secret path")).as_instanceof_cause(), 500, "internal_error"),
        (RayTaskError("generate", "trace", ValueError("secret path")).as_instanceof_cause(), 500, "internal_error"),
        (RayTaskError("generate", "trace", PackError("secret path")).as_instanceof_cause(), 500, "internal_error"),
    ],
)
def test_what_fails_behind_the_endpoint(
    http: TestClient, fake: FakeGenerator, error: Exception, status: int, code: str | None
) -> None:
    fake.error = error
    response = ask(http, n=2)
    told = error_of(response)
    assert response.status_code == status and (code is None or told["code"] == code)
    assert "secret" not in told["message"] and "trace" not in told["message"]
    if status == 429:
        assert int(response.headers["retry-after-ms"]) > 0 and int(response.headers["retry-after"]) > 0
    if status == 422:
        assert told["param"] == "prompt" and told["message"] == "too long"
    assert [pending.cancelled for pending in fake.pending] == [True, False]  # one failed: the other is taken back
    retry = {429: "true", 503: "true", 504: "false", 409: "false"}.get(status)
    assert response.headers.get("x-should-retry") == retry


def test_when_time_is_up_all_is_taken_back_and_the_client_does_not_ask_again(
    store: Store, tiny_pack: Pack, fake: FakeGenerator
) -> None:
    fake.endless = True
    client = ImageClient(fake.submit, fake.submit_with_previews, fake.submit_clip, timeout_s=0.05)
    http = TestClient(create_app(Endpoint(tiny_pack, Catalog(store.root), client, fake.stats), Door()))
    response = ask(http, n=3)
    assert response.status_code == 504 and response.headers["x-should-retry"] == "false"
    assert error_of(response)["code"] == "timeout" and "taken back" in error_of(response)["message"]
    assert [pending.cancelled for pending in fake.pending] == [True] * 3


PROVOKED: dict[type[Exception], Callable[[TestClient, FakeGenerator], Any]] = {
    KeyRefused: lambda http, fake: failing(http, fake, KeyRefused("there is no such key")),
    ScopeLacking: lambda http, fake: failing(http, fake, ScopeLacking("this key lacks the scope draw")),
    UnknownIdentity: lambda http, _fake: ask(http, model="adda"),
    IncompatibleIdentity: lambda http, _fake: ask(http, model="cleo"),
    ConsentExpired: lambda http, fake: failing(http, fake, ConsentExpired("what 'ada' agreed to is over")),
    RequestValidationError: lambda http, _fake: http.get("/v1/models?limit=0"),
    RequestRefused: lambda http, _fake: ask(http, model=None),
    PhotoRejected: lambda http, fake: failing(http, fake, PhotoRejected("out_of_memory", SECRET)),
    SeveralFaces: lambda http, fake: failing(http, fake, SeveralFaces([{"face": 0}, {"face": 1}])),
    PhotosRefused: lambda http, fake: failing(http, fake, PhotosRefused({1: PhotoRejected("out_of_memory", SECRET)})),
    OtherPerson: lambda http, fake: failing(http, fake, OtherPerson([{"photo": 0}], [0], unknown=False)),
    NoSuchFace: lambda http, fake: failing(http, fake, NoSuchFace("face 7: the photo has one")),
    Erased: lambda http, fake: failing(http, fake, Erased()),
    FaceGone: lambda http, fake: failing(http, fake, FaceGone()),
    NotLearned: lambda http, fake: failing(http, fake, NotLearned("not_learned", "it went wrong")),
    StillLearning: lambda http, fake: failing(http, fake, StillLearning()),
    Diverged: lambda http, fake: failing(http, fake, Diverged()),
    UnknownFile: lambda http, _fake: http.get("/v1/pictures/file-0"),
    PromptTooLong: lambda http, fake: failing(http, fake, PromptTooLong("<person> lies beyond the 75 tokens")),
    HTTPException: lambda http, _fake: http.get("/v2"),
    QueueFull: lambda http, fake: failing(http, fake, BackPressureError(64, 64)),
    QuotaExceeded: lambda http, fake: failing(http, fake, QuotaExceeded(30.0)),
    BeyondQuota: lambda http, fake: failing(http, fake, BeyondQuota("so many are never granted")),
    UnknownWork: lambda http, fake: failing(http, fake, UnknownWork("there is no work")),
    KeyReused: lambda http, fake: failing(http, fake, KeyReused("it came before")),
    TooMuchWork: lambda http, fake: failing(http, fake, TooMuchWork()),
    GeneratorDown: lambda http, fake: failing(http, fake, ActorDiedError()),
    Stopping: lambda http, fake: failing(http, fake, Stopping()),
    GenerationTimeout: lambda http, fake: failing(http, fake, TimeoutError(SECRET)),
    TableDamaged: lambda http, fake: failing(http, fake, TableDamaged(SECRET)),
    Exception: lambda http, fake: failing(http, fake, PackError(SECRET)),
}


def failing(http: TestClient, fake: FakeGenerator, error: Exception) -> Any:
    fake.error = error
    return ask(http, n=2)


@pytest.mark.parametrize("kind", ANSWERS)
def test_no_answer_tells_what_belongs_to_the_server(
    http: TestClient, fake: FakeGenerator, store: Store, tiny_pack: Pack, kind: type[Exception]
) -> None:
    response = PROVOKED[kind](http, fake)
    code = "out_of_memory" if kind in (PhotoRejected, PhotosRefused) else ANSWERS[kind].code
    assert response.status_code == ANSWERS[kind].status and error_of(response)["code"] == code
    assert not any(text in response.text for text in (SECRET, store.root, str(tiny_pack.root)))


@pytest.mark.parametrize("kind", [IdentityNotFound, OSError, ValueError, PackError, RuntimeError, PermissionError])
def test_a_storage_that_fails_is_a_500_without_its_message(
    http: TestClient, kind: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    for method in ("identity_page", "open"):
        monkeypatch.setattr(Store, method, Mock(side_effect=kind(SECRET)))
    routes = ("/v1/models", "/v1/models/ada", "/v1/identities/ada")
    for response in (ask(http), *(http.get(route) for route in routes)):
        assert response.status_code == 500 and SECRET not in response.text


def test_unknown_routes_answer_in_the_same_shape(http: TestClient) -> None:
    assert http.get("/v2").status_code == 404 and error_of(http.get("/v2"))["code"] == "no_such_route"
    response = http.get("/v1/images/generations")
    assert response.status_code == 405 and response.headers["allow"] == "POST"


@pytest.mark.parametrize(("error", "status"), [(PackError(SECRET), 500), (TimeoutError(SECRET), 429)])
def test_what_fails_while_a_pose_is_read_is_not_the_callers(
    http: TestClient, error: Exception, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PoseReader, "read", Mock(side_effect=error))
    response = ask(http, pose={"photo": "aaaa"})
    assert response.status_code == status and SECRET not in response.text
