"""Behind the routes: the catalogue, and the settings on a cluster."""

import inspect
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from ray.serve._private import constants
from ray.serve._private.proxy import HTTPProxy
from ray.serve.schema import ServeDeploySchema
from starlette.responses import JSONResponse
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send

from factory.pack import Pack
from factory.store.rows import identity_row
from factory.store.tables import Store
from serve.catalog import Catalog, UnknownIdentity
from serve.openai.schemas import MAX_IMAGES
from serve.proxy import ENVIRONMENT, NotYet, middlewares, set_environment
from serve.settings import AppArgs, Settings
from tests import serving
from tests.serving import person

store = serving.store  # a fixture


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


def test_ray_serve_reads_what_its_proxy_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ENVIRONMENT:
        assert f'"{name}"' in inspect.getsource(constants), "a later Ray calls it otherwise"
    mine = {"RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "45"}
    monkeypatch.setattr(os, "environ", mine)
    set_environment()
    assert mine == {**ENVIRONMENT, "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "45"}, "what somebody has set stays"


def test_while_there_is_no_application_the_proxy_says_so() -> None:
    """Ray's own answer, as its proxy makes it, becomes one that clients try again."""

    async def starting(scope: Scope, _receive: Receive, send: Send) -> None:
        answer = HTTPProxy.not_found_response(None, SimpleNamespace(path=scope["path"]))  # type: ignore[arg-type]
        async for message in answer:
            if isinstance(message, dict):
                await send(message)

    async def started(scope: Scope, receive: Receive, send: Send) -> None:
        await JSONResponse({"error": {"code": "no_such_route"}}, status_code=404)(scope, receive, send)

    assert NotYet in [middleware.cls for middleware in middlewares()]
    early, later = (TestClient(NotYet(app)) for app in (starting, started))
    assert TestClient(starting).get("/v1/models").status_code == 404
    for answer in (early.get("/v1/models"), early.post("/v1/images/generations", json={}), early.head("/")):
        assert answer.status_code == 503 and int(answer.headers["retry-after"]) > 0
    assert early.get("/").json()["error"]["code"] == "server_starting"
    assert later.get("/").status_code == 404 and later.get("/").json()["error"]["code"] == "no_such_route"


def test_serve_yaml_is_what_ray_and_the_builder_accept() -> None:
    text = (Path(__file__).parent.parent / "serve" / "serve.yaml").read_text()
    deployed = ServeDeploySchema.model_validate(yaml.safe_load(text))
    (app,) = deployed.applications
    args = AppArgs.model_validate(app.args)
    assert app.import_path == "serve.app:builder"
    assert {deployment.name for deployment in app.deployments} == {"Ingress", "Drawer"}
    assert deployed.http_options.request_timeout_s > args.timeout_s
    with pytest.raises(ValueError, match="max_batch"):
        Settings(max_batch=16, max_ongoing=8)


def test_ingresses_have_equal_parts_that_hold_two_of_the_largest_requests() -> None:
    most, ingresses = (8, 64), (1, 2, 8)
    parts = {(m, num): Settings(max_queued=m, num_ingresses=num).queued_each for m in most for num in ingresses}
    assert parts == {(8, 1): 8, (8, 2): 8, (8, 8): 8, (64, 1): 64, (64, 2): 32, (64, 8): 2 * MAX_IMAGES}
