"""The endpoint without Ray: formats, errors, the catalog, and how a replica makes batches."""

import asyncio
import base64
import io
import json
import re
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from collections.abc import Generator as PyGenerator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar
from unittest.mock import Mock

import numpy as np
import pytest
import torch
import yaml
from fastapi.exceptions import RequestValidationError
from PIL import Image
from ray.exceptions import ActorDiedError, RayTaskError
from ray.serve.exceptions import BackPressureError
from ray.serve.schema import ServeDeploySchema
from starlette.exceptions import HTTPException
from starlette.testclient import TestClient

import factory.draw.images
from factory.config import GenerateConfig
from factory.errors import IdentityNotFound, IncompatibleIdentity, PackError, PromptTooLong
from factory.pack import Pack
from factory.records import TEXT_ENCODER, Identity, ImageRequest
from factory.store.rows import identity_row
from factory.store.tables import Store
from serve.app import create_app
from serve.catalog import Catalog, UnknownIdentity
from serve.client import GenerationTimeout, GeneratorDown, ImageClient, QueueFull
from serve.drawing import Generator, GeneratorStats, ImageResult, _Ticket
from serve.openai.errors import ANSWERS
from serve.openai.images import Endpoint
from serve.openai.schemas import RequestRefused
from serve.settings import AppArgs, Settings

SECRET = "/srv/people/identities.lance"  # of the server; no caller may read it


def person(number: int, name: str, fingerprint: str, created_at: str = "2026-01-01T00:00:00+00:00") -> Identity:
    return Identity(
        identity_id=f"{number:016x}",
        face_id=f"face-{number}",
        photo_id=f"photo-{number}",
        name=name,
        words={TEXT_ENCODER: np.random.default_rng(number).normal(scale=0.02, size=(2, 32)).astype(np.float32)},
        pack="tiny",
        fingerprint=fingerprint,
        preset="paper",
        config="{}",
        num_steps=1,
        final_loss=0.0,
        train_s=0.0,
        created_at=created_at,
    )


@dataclass
class FakePending:
    """Stands for Ray's DeploymentResponse."""

    work: Coroutine[Any, Any, ImageResult]
    cancelled: bool = False

    def __await__(self) -> PyGenerator[Any, None, ImageResult]:
        return self.work.__await__()

    def cancel(self) -> None:
        self.cancelled = True


class FakeGenerator:
    """Stands for the replicas: remembers the jobs, paints the seed, raises what it is told to, or takes for ever."""

    def __init__(self) -> None:
        self.jobs: list[ImageRequest] = []
        self.pending: list[FakePending] = []
        self.error: Exception | None = None
        self.endless = False

    def submit(self, job: ImageRequest) -> FakePending:
        self.pending.append(FakePending(self.work(job)))
        return self.pending[-1]

    async def work(self, job: ImageRequest) -> ImageResult:
        self.jobs.append(job)
        if self.error is not None and len(self.jobs) > 1:
            raise self.error
        if self.endless or self.error is not None:
            await asyncio.Event().wait()
        image = np.full((64, 64, 3), job.seed % 256, np.uint8)
        return ImageResult(image=image, batch_size=len(self.jobs), batch_s=2.5)

    async def stats(self) -> GeneratorStats:
        return GeneratorStats(images=2, unet_batches=1, max_batch=2, batch_sizes={2: 1})


@pytest.fixture
def store(tmp_path: Path, tiny_pack: Pack) -> Store:
    store = Store(tmp_path)
    mine, other = tiny_pack.fingerprint(), "f" * 16
    people = [person(1, "ada", mine), person(2, "bob", mine, "2026-01-02T00:00:00+00:00"), person(3, "cleo", other)]
    store.upsert("identities", [identity_row(identity) for identity in people])
    return store


@pytest.fixture
def fake() -> FakeGenerator:
    return FakeGenerator()


@pytest.fixture
def http(store: Store, tiny_pack: Pack, fake: FakeGenerator) -> TestClient:
    client = ImageClient(fake.submit, timeout_s=5.0)
    app = create_app(Endpoint(tiny_pack, Catalog(store.root), client, fake.stats))
    return TestClient(app, raise_server_exceptions=False)


def ask(http: TestClient, **fields: Any) -> Any:
    return http.post("/v1/images/generations", json={"model": "ada", "prompt": "<person> in the snow"} | fields)


def error_of(response: Any) -> dict[str, Any]:
    body = response.json()
    assert body.keys() == {"error"} and body["error"].keys() == {"message", "type", "param", "code"}
    return dict(body["error"])


def test_n_pictures_have_consecutive_seeds(http: TestClient, fake: FakeGenerator) -> None:
    answer = ask(http, n=3, seed=7, size="64x64", user="someone", quality="high", style=None).json()
    assert [picture["seed"] for picture in answer["data"]] == [7, 8, 9]
    for picture, job in zip(answer["data"], fake.jobs, strict=True):
        image = np.array(Image.open(io.BytesIO(base64.b64decode(picture["b64_json"]))))
        assert image.shape == (64, 64, 3) and (image == job.seed).all()
        assert picture["batch_size"] >= 1 and "url" not in picture
    assert answer["identity"] == "0000000000000001" and answer["model"] == "ada" and answer["size"] == "64x64"
    assert answer["num_inference_steps"] == 2  # the tiny pack's own default
    assert isinstance(answer["created"], int)


def test_without_a_seed_each_request_draws_one_and_tells_it(http: TestClient) -> None:
    first, second = (ask(http).json()["data"][0]["seed"] for _ in range(2))
    assert first != second


def test_extensions_reach_the_generator(http: TestClient, fake: FakeGenerator) -> None:
    ask(http, model="dall-e-3", identity="bob", num_inference_steps=9, guidance_scale=1.5, negative_prompt="hat")
    (job,) = fake.jobs
    assert job.identity.name == "bob" and job.prompt == "<person> in the snow"
    assert job.config == GenerateConfig(num_inference_steps=9, guidance_scale=1.5, negative_prompt="hat")


@pytest.mark.parametrize(("name", "pillow"), [("png", "PNG"), ("jpeg", "JPEG"), ("webp", "WEBP")])
def test_output_formats_and_data_urls(http: TestClient, name: str, pillow: str) -> None:
    (picture,) = ask(http, output_format=name, response_format="url").json()["data"]
    head, data = picture["url"].split(",")
    assert head == f"data:image/{name};base64" and "b64_json" not in picture
    assert Image.open(io.BytesIO(base64.b64decode(data))).format == pillow


def test_stream_sends_one_completed_event_a_picture(http: TestClient) -> None:
    response = ask(http, stream=True, n=2, seed=1)
    assert response.headers["content-type"].startswith("text/event-stream")
    events = [dict(line.split(": ", 1) for line in part.split("\n")) for part in response.text.strip().split("\n\n")]
    assert [event["event"] for event in events] == ["image_generation.completed"] * 2
    data = [json.loads(event["data"]) for event in events]
    assert [item["seed"] for item in data] == [1, 2] and all(item["b64_json"] for item in data)
    assert data[0]["type"] == "image_generation.completed" and data[0]["size"] == "64x64"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"model": None}, "model"),
        ({"n": 11}, "n"),
        ({"n": 0}, "n"),
        ({"size": "1024x1024"}, "size"),
        ({"seed": -1}, "seed"),
        ({"num_inference_steps": 0}, "num_inference_steps"),
        ({"guidance_scale": -1}, "guidance_scale"),
        ({"output_format": "gif"}, "output_format"),
        ({"background": "transparent"}, "background"),
        ({"stream": True, "partial_images": 2}, "partial_images"),
        ({"seeed": 1}, "seeed"),
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
        assert "64x64" in error["message"]


def test_a_body_that_is_no_json_is_422(http: TestClient) -> None:
    response = http.post("/v1/images/generations", content=b"{", headers={"content-type": "application/json"})
    assert response.status_code == 422 and error_of(response)["param"] is None
    assert http.post("/v1/images/generations", json=[1]).status_code == 422


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
    client = ImageClient(fake.submit, timeout_s=0.05)
    http = TestClient(create_app(Endpoint(tiny_pack, Catalog(store.root), client, fake.stats)))
    response = ask(http, n=3)
    assert response.status_code == 504 and response.headers["x-should-retry"] == "false"
    assert error_of(response)["code"] == "timeout" and "taken back" in error_of(response)["message"]
    assert [pending.cancelled for pending in fake.pending] == [True] * 3


PROVOKED: dict[type[Exception], Callable[[TestClient, FakeGenerator], Any]] = {
    UnknownIdentity: lambda http, _fake: ask(http, model="adda"),
    IncompatibleIdentity: lambda http, _fake: ask(http, model="cleo"),
    RequestValidationError: lambda http, _fake: http.get("/v1/models?limit=0"),
    RequestRefused: lambda http, _fake: ask(http, model=None),
    PromptTooLong: lambda http, fake: failing(http, fake, PromptTooLong("<person> lies beyond the 75 tokens")),
    HTTPException: lambda http, _fake: http.get("/v2"),
    QueueFull: lambda http, fake: failing(http, fake, BackPressureError(64, 64)),
    GeneratorDown: lambda http, fake: failing(http, fake, ActorDiedError()),
    GenerationTimeout: lambda http, fake: failing(http, fake, TimeoutError(SECRET)),
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
    assert response.status_code == ANSWERS[kind].status and error_of(response)["code"] == ANSWERS[kind].code
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
    assert http.get("/v1/images/generations").status_code == 405


def test_models_are_what_can_be_asked_for(http: TestClient, store: Store, tiny_pack: Pack) -> None:
    mine, newer = tiny_pack.fingerprint(), "2026-02-01T00:00:00+00:00"
    store.upsert("identities", [identity_row(person(4, "ada", mine, newer)), identity_row(person(5, "a/b", mine))])
    listed = {card["id"]: card for card in http.get("/v1/models").json()["data"]}
    # the older ada and the name with a slash go by their ids; cleo belongs to another base model
    assert listed.keys() == {"ada", "bob", f"{1:016x}", f"{5:016x}"}
    assert listed["ada"]["identity_id"] == f"{4:016x}" and listed["ada"]["object"] == "model"
    for model_id, card in listed.items():
        assert http.get(f"/v1/models/{model_id}").json() == card
    assert http.get("/v1/models/nobody").status_code == 404
    assert error_of(http.get("/v1/models?limit=0"))["param"] == "limit"


def test_models_come_in_pages_newest_first(http: TestClient, store: Store, tiny_pack: Pack) -> None:
    mine = tiny_pack.fingerprint()
    store.upsert("identities", [identity_row(person(n, "ada" if n == 9 else f"p{n}", mine)) for n in range(4, 11)])
    whole = http.get("/v1/models").json()
    ids = [card["id"] for card in whole["data"]]
    assert ids[:2] == ["bob", "p10"] and len(ids) == 9 and len(set(ids)) == 9 and not whole["has_more"]
    pages, after = [], ""
    while True:
        page = http.get(f"/v1/models?limit=4{after}").json()
        pages.append([card["id"] for card in page["data"]])
        assert (page["first_id"], page["last_id"]) == (pages[-1][0], pages[-1][-1])
        if not page["has_more"]:
            break
        after = f"&after={page['last_id']}"
    assert [len(page) for page in pages] == [4, 4, 1] and [i for page in pages for i in page] == ids
    response = http.get("/v1/models?after=nobody")
    assert response.status_code == 422 and error_of(response)["param"] == "after"
    store.delete("identities", "TRUE")
    empty = {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}
    assert http.get("/v1/models").json() == empty


def test_an_identity_shows_its_words_only_when_asked(http: TestClient) -> None:
    card = http.get("/v1/identities/ada").json()
    assert card["identity_id"] == "0000000000000001" and card["compatible"] and "words" not in card
    assert np.array(http.get("/v1/identities/ada?words=true").json()["words"]["text_encoder"]).shape == (2, 32)
    assert not http.get("/v1/identities/cleo").json()["compatible"]


def test_health_and_stats(http: TestClient, tiny_pack: Pack) -> None:
    assert http.get("/healthz").json() == {"status": "ok", "pack": "tiny", "fingerprint": tiny_pack.fingerprint()}
    assert http.get("/v1/stats").json() == {"images": 2, "unet_batches": 1, "max_batch": 2, "batch_sizes": {"2": 1}}
    both = GeneratorStats(images=3, unet_batches=2, max_batch=2, batch_sizes={1: 1, 2: 1}) + GeneratorStats(
        images=4, unet_batches=1, max_batch=4, batch_sizes={4: 1}
    )
    assert both == GeneratorStats(images=7, unet_batches=3, max_batch=4, batch_sizes={1: 1, 2: 1, 4: 1})


def test_the_catalog_follows_the_table(store: Store, tiny_pack: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    catalog = Catalog(store.root, ttl_s=1.0, clock=lambda: now)
    first = catalog.find("ada")
    reads: list[str] = []
    read = Store.find_identity
    monkeypatch.setattr(Store, "find_identity", lambda self, name: reads.append(name) or read(self, name))
    assert catalog.find("ada") is first and not reads  # cached
    with pytest.raises(UnknownIdentity):
        catalog.find("dora")
    newer = person(4, "ada", tiny_pack.fingerprint(), "2026-02-01T00:00:00+00:00")
    store.upsert("identities", [identity_row(newer), identity_row(person(5, "dora", tiny_pack.fingerprint()))])
    assert catalog.find("dora").identity_id == f"{5:016x}"  # what was not there is always looked up again
    now = 1.5
    assert catalog.find("ada").identity_id == f"{4:016x}"  # and what was replaced, after ttl_s


def test_a_slow_storage_holds_up_nobody_whose_identity_is_cached(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog = Catalog(store.root)
    catalog.find("ada")
    reading, answer = threading.Event(), threading.Event()
    newest = catalog._read_version

    def slow() -> int:
        if not reading.is_set():
            reading.set()
            assert answer.wait(10)
            return -1  # older than what others were told meanwhile: it must not count
        return newest()

    monkeypatch.setattr(catalog, "_read_version", slow)
    with ThreadPoolExecutor(1) as pool:
        held_up = pool.submit(catalog.find, "bob")
        assert reading.wait(10)
        start = time.perf_counter()
        first = catalog.find("ada")
        assert time.perf_counter() - start < 2 and not held_up.done()
        answer.set()
        assert held_up.result().name == "bob"
    assert catalog.find("ada") is first and catalog._version == newest()


class FakeImages:
    """`factory.draw.images.ImageGenerator` without a model: notes its batches, refuses the prompt "bad"."""

    batches: ClassVar[list[list[str]]] = []

    def __init__(self, _pack: Pack, *, device: str, max_batch: int) -> None:
        FakeImages.batches.clear()

    def generate(self, requests: Sequence[ImageRequest]) -> list[np.ndarray]:
        if any(request.prompt == "bad" for request in requests):
            raise ValueError("bad prompt")
        FakeImages.batches.append([request.prompt for request in requests])
        return [np.full((8, 8, 3), request.seed, np.uint8) for request in requests]


def test_a_bad_prompt_does_not_spoil_its_batch(tiny_pack: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(factory.draw.images, "ImageGenerator", FakeImages)
    generator = Generator(str(tiny_pack.root), device="cpu", num_threads=1, max_batch=8, batch_wait_s=0.0)
    who, few, many = person(1, "ada", ""), GenerateConfig(num_inference_steps=2), GenerateConfig()
    wanted = [("a", few), ("b", many), ("bad", many), ("c", few), ("d", many)]
    jobs = [ImageRequest(identity=who, prompt=text, seed=i, config=config) for i, (text, config) in enumerate(wanted)]
    tickets = [_Ticket(job) for job in jobs]
    generator._make(tickets)
    results = [ticket.result for ticket in tickets]
    assert FakeImages.batches == [["a", "c"], ["b"], ["d"]]  # equal settings share; the spoilt batch goes one by one
    assert isinstance(results[2], ValueError)
    good = [(i, result) for i, result in enumerate(results) if isinstance(result, ImageResult)]
    assert [(i, result.batch_size) for i, result in good] == [(0, 2), (1, 1), (3, 2), (4, 1)]
    assert all((result.image == i).all() for i, result in good)


def test_what_was_cancelled_while_it_waited_for_its_batch_is_not_drawn(
    tiny_pack: Pack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(factory.draw.images, "ImageGenerator", FakeImages)
    generator = Generator(str(tiny_pack.root), device="cpu", num_threads=1, max_batch=8, batch_wait_s=0.0)
    who, few, many = person(1, "ada", ""), GenerateConfig(num_inference_steps=2), GenerateConfig()
    wanted = [("a", few), ("b", many), ("c", many), ("d", GenerateConfig(guidance_scale=1.0))]
    tickets = [_Ticket(ImageRequest(identity=who, prompt=text, seed=0, config=config)) for text, config in wanted]
    tickets[2].cancelled = tickets[3].cancelled = True
    generator._make(tickets)
    assert FakeImages.batches == [["a"], ["b"]] and generator._stats.images == 2
    assert [ticket.result is None for ticket in tickets] == [False, False, True, True]


def test_the_thread_that_computes_has_its_share_of_cores(tiny_pack: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(factory.draw.images, "ImageGenerator", FakeImages)
    called: list[tuple[int, int]] = []
    monkeypatch.setattr(torch, "set_num_threads", lambda number: called.append((number, threading.get_ident())))
    generator = Generator(str(tiny_pack.root), device="cpu", num_threads=3, max_batch=8, batch_wait_s=0.0)
    worker = generator._worker.submit(threading.get_ident).result()
    assert called == [(3, worker)] and worker != threading.get_ident()


def test_serve_yaml_is_what_ray_and_the_builder_accept() -> None:
    text = (Path(__file__).parent.parent / "serve" / "serve.yaml").read_text()
    deployed = ServeDeploySchema.model_validate(yaml.safe_load(text))
    (app,) = deployed.applications
    args = AppArgs.model_validate(app.args)
    assert app.import_path == "serve.app:builder"
    assert {deployment.name for deployment in app.deployments} == {"Ingress", "Generator"}
    assert deployed.http_options.request_timeout_s > args.timeout_s
    with pytest.raises(ValueError, match="max_batch"):
        Settings(max_batch=16, max_ongoing=8)
