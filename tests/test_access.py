"""Keys, scopes and tenants: every route of the app that a server runs, generated from its route table, without Ray."""

import base64
import inspect
import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock, MagicMock

import numpy as np
import pytest
from fastapi.routing import iter_route_contexts
from starlette.testclient import TestClient

from factory.files import tenant_root
from factory.pack import Pack
from factory.provenance.marks import mark_with
from factory.store.keys import SCOPES, KeyRing, create_key, revoke_key
from factory.store.rows import encode_png, identity_row
from factory.store.tables import Store
from serve import app as serving_app
from serve.access import Gate
from serve.ingress import Ingress
from serve.loop import LoopStats
from serve.needs import MORE, NEEDS, PUBLIC
from serve.settings import AppArgs
from tests.serving import FakeGenerator, error_of, people_store, person

PICTURE = "ab" * 8
FILE, WORK, JOB = f"file-{'c' * 32}", f"video_{'d' * 24}", "20260101T000000Z-train-abcdef"
# What stands in an address for something that the operator's root has.
THERE = {"model:name": "ada", "identity:name": "ada", "image_id": PICTURE, "file_id": FILE, "work_id": WORK}
THERE |= {"video_id": WORK, "job_id": JOB, "file": "main.js", "pose": "front"}
OWN_NAMES = ["ada", "bob", "cleo", "photo-1", "snow"]  # in the operator's root; no tenant may read one


def a_gate(root: str, pack: Pack, fake: FakeGenerator | None = None, **args: Any) -> Gate:
    """The app that a server runs, as it is wired there; whatever it is wired to draws nothing, or is `fake`."""
    handles = [MagicMock() for _ in list(inspect.signature(Ingress.__init__).parameters)[2:]]
    handles[0].broadcast.return_value.results_async = AsyncMock(return_value=[LoopStats()])
    if fake is not None:
        handles[0].draw.remote = lambda job, tenant: fake.submit(job)
        streaming = handles[0].options.return_value
        streaming.draw_with_previews.remote = lambda job, num, tenant: fake.submit_with_previews(job, num)
        streaming.animate.remote = lambda job, tenant: fake.submit_clip(job)
    try:
        return Ingress(AppArgs(root=root, pack=str(pack.root), **args), *handles).__serve_build_asgi_app__()
    finally:
        mark_with(None)


def fill(store: Store) -> None:
    """One of everything that a route shows."""
    who = f"{1:016x}"
    image = {"image_id": PICTURE, "identity_id": who, "name": "ada", "prompt": "<person> in the snow", "seed": 1}
    image |= {"config": "{}", "created_at": "2026-01-01", "pose": ""}
    store.upsert("images", [image | {"image": encode_png(np.zeros((8, 8, 3), np.uint8))}])
    times = dict.fromkeys(("created_at", "started_at", "finished_at", "beat_at"), 1.0)
    order = {"identity": who, "prompt": "<person> in the snow", "seed": 1, "config": {}}
    work = {"work_id": WORK, "kind": "video", "status": "completed", "request": json.dumps(order), "identity_id": who}
    store.upsert("work", [work | times | {"people": [who], "progress": 1.0, "result_id": PICTURE}])
    file = {"file_id": FILE, "purpose": "picture", "filename": "png", "content": b"png", "num_bytes": 3}
    store.upsert("files", [file | {"people": [who], "created_at": 1.0, "expires_at": time.time() + 3600}])
    folder = Path(store.root) / "jobs" / JOB
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text(json.dumps({"job": "train", "identities": 1}))
    (folder / "report.html").write_text("ada.jpg")


@dataclass(frozen=True, kw_only=True)
class House:
    """An operator's root with everything in it, a tenant's with one person, and keys of all sorts."""

    store: Store
    http: TestClient
    gate: Gate
    operator: str
    tenant: str  # acme's, with all scopes
    refused: dict[str, str | None]  # what is no key that is good now
    of_scope: dict[str, str]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, tiny_pack: Pack) -> Iterator[House]:
    store = people_store(tmp_path_factory.mktemp("house"), tiny_pack)
    fill(store)
    theirs = Store(tenant_root(store.root, "acme"))
    theirs.upsert("identities", [identity_row(person(9, "zoe", tiny_pack.fingerprint()))])

    def key(*scopes: str, **how: Any) -> str:
        return create_key(store, scopes or SCOPES, **how)[0]

    revoked, made = create_key(store, SCOPES)
    revoke_key(store, made.key_id)
    good = key()
    refused = {
        "none": None,
        "empty": "",
        "of another root": "idf_" + good.partition("_")[2][::-1],
        "another secret": good[:-4] + ("AAAA" if good[-4:] != "AAAA" else "BBBB"),
        "revoked": revoked,
        "expired": key(expires_at=time.time() - 1),
    }
    of_scope, theirs_key = {scope: key(scope) for scope in SCOPES}, key(tenant="acme")
    gate = a_gate(store.root, tiny_pack)  # now: of a later key it would hear within a second
    with TestClient(gate, raise_server_exceptions=False) as http:
        yield House(
            store=store, http=http, gate=gate, operator=good, tenant=theirs_key, refused=refused, of_scope=of_scope
        )


def every_route(gate: Gate) -> Iterator[tuple[str, str]]:
    for route in iter_route_contexts(gate._app.routes):
        assert route.path is not None and route.methods, "what is mounted is open to nobody: write a route"
        for method in sorted(route.methods):
            yield ("GET" if method == "HEAD" else method), route.path


def address(path: str) -> str:
    return re.sub(r"\{([^}]+)\}", lambda found: THERE.get(found[1], "x"), path)


def ask(house: House, method: str, path: str, key: str | None) -> Any:
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    return house.http.request(method, path, headers=headers, json={} if method == "POST" else None)


def test_every_route_says_who_may_use_it(house: House) -> None:
    routes = set(every_route(house.gate))
    unsaid = {f"{method} {path}" for method, path in routes - set(NEEDS)}
    assert not unsaid, "write these into serve/needs.py: NEEDS, with the scope that they need"
    assert not set(NEEDS) - routes, "these are no routes any more"
    assert set(MORE) <= routes and len(routes) > 30


def test_every_route_refuses_whoever_has_no_good_key(house: House) -> None:
    for method, path in set(every_route(house.gate)):
        for what, key in house.refused.items():
            answer = ask(house, method, address(path), key)
            if NEEDS[method, path] is PUBLIC:
                assert answer.status_code == 200, (what, path)
            else:
                assert answer.status_code == 401 and error_of(answer)["code"] == "invalid_api_key", (what, path)
                assert answer.headers["www-authenticate"] == "Bearer", "none that makes a browser ask by itself"
            leaks_nothing(house, answer, path)


def test_every_route_refuses_a_key_without_its_scope(house: House) -> None:
    for method, path in set(every_route(house.gate)):
        need = NEEDS[method, path]
        for scope, key in house.of_scope.items():
            if need is not PUBLIC and scope not in need:
                answer = ask(house, method, address(path), key)
                assert answer.status_code == 403 and error_of(answer)["code"] == "insufficient_scope", (scope, path)
                leaks_nothing(house, answer, path)


def test_no_route_shows_a_tenant_anybody_elses(house: House) -> None:
    own, shown = set(), set()
    for method, path in sorted(set(every_route(house.gate))):
        if method == "DELETE":
            continue  # of the operator's, it would be gone; below
        mine, theirs = (ask(house, method, address(path), key) for key in (house.operator, house.tenant))
        if mine.status_code == 200 and "{" in path and not path.startswith(("/web", "/v1/poses")):
            shown.add(path)
            assert theirs.status_code == 404, path
        elif mine.status_code == 200:
            own.add(path)
            assert theirs.status_code == 200, path
        leaks_nothing(house, theirs, path)
    assert {"/v1/models/{model:name}", "/v1/images/{image_id}/content", "/v1/pictures/{file_id}"} <= shown
    assert {"/v1/work/{work_id}", "/v1/videos/{video_id}", "/v1/jobs/{job_id}/report"} <= shown
    assert {"/v1/models", "/v1/images", "/v1/work", "/v1/videos", "/v1/jobs"} <= own


def test_a_tenant_takes_nothing_away(house: House) -> None:
    deleting = [path for method, path in set(every_route(house.gate)) if method == "DELETE"]
    assert deleting
    for path in deleting:
        assert ask(house, "DELETE", address(path), house.tenant).status_code == 404, path
    assert house.store.count("work") == 1 and house.store.count("identities") == 3


def leaks_nothing(house: House, answer: Any, path: str) -> None:
    told = answer.content + str(answer.headers).encode()
    asked = address(path)
    assert house.store.root.encode() not in told, path
    for name in OWN_NAMES:
        assert name in asked or not re.search(rf"\b{name}\b".encode(), told), (name, path)


def test_a_tenant_sees_and_draws_its_own_people(tmp_path: Path, tiny_pack: Pack) -> None:
    store, fake = people_store(tmp_path, tiny_pack), FakeGenerator()
    theirs = Store(tenant_root(store.root, "acme"))
    theirs.upsert("identities", [identity_row(person(9, "zoe", tiny_pack.fingerprint()))])
    theirs.upsert("identities", [identity_row(replace(person(8, "ada", tiny_pack.fingerprint()), pack="another"))])
    text, _ = create_key(store, ["draw"], tenant="acme")
    http = TestClient(a_gate(store.root, tiny_pack, fake), headers={"authorization": f"Bearer {text}"})
    with http:
        assert {one["name"] for one in http.get("/v1/models").json()["data"]} == {"zoe", "ada"}
        asked = {"model": "zoe", "prompt": "<person>"}
        assert http.post("/v1/images/generations", json=asked).status_code == 200
        for somebody in ("bob", f"{2:016x}"):
            answer = http.post("/v1/images/generations", json=asked | {"model": somebody})
            assert answer.status_code == 404 and error_of(answer)["code"] == "model_not_found"
            both = http.post("/v1/images/generations", json=asked | {"prompt": f"<person> and <person:{somebody}>"})
            assert both.status_code == 404
        assert http.get("/v1/models/ada").json()["pack"] == "another", "of two people of a name, its own"
        assert len(fake.jobs) == 1


def test_words_have_a_scope_of_their_own(house: House) -> None:
    path = "/v1/identities/ada?words=true"
    assert ask(house, "GET", path, house.of_scope["draw"]).status_code == 403
    assert ask(house, "GET", path, house.of_scope["words"]).json()["words"]
    assert "words" not in ask(house, "GET", "/v1/identities/ada", house.of_scope["draw"]).json()


def test_a_key_comes_as_bearer_or_as_the_password_of_basic(house: House) -> None:
    def status(header: str) -> int:
        return int(house.http.get("/v1/models", headers={"authorization": header}).status_code)

    basic = base64.b64encode(f"anybody:{house.operator}".encode()).decode()
    assert status(f"bearer  {house.operator}") == 200 and status(f"Basic {basic}") == 200
    wrong = ["Basic", "Basic ***", "Basic " + base64.b64encode(b"\xff:\xff").decode(), f"Digest {house.operator}"]
    assert {status(header) for header in [*wrong, house.operator, "Bearer", "Bearer " + "x" * 10_000]} == {401}


@pytest.mark.parametrize(
    "around", ['"%s"', "'%s'", " %s\t", "\u201c%s\u201d", "\u200b%s\xa0", "Bearer %s", '"Bearer %s"', "<%s>,"]
)
def test_what_files_and_front_ends_leave_around_a_key_is_no_part_of_it(house: House, around: str) -> None:
    key = (around % house.operator).encode()
    basic = b"Basic " + base64.b64encode(b"any:" + key + b"\n")
    for headers in ({"authorization": b"Bearer " + key}, {"x-api-key": key}, {"authorization": basic}):
        assert house.http.get("/v1/models", headers=headers).status_code == 200, headers
    for more in (b"x" + key, key.replace(house.operator.encode(), house.operator.encode()[:-1])):
        refused = house.http.get("/v1/models", headers={"authorization": b"Bearer " + more})
        assert refused.status_code == 401 and house.operator.rpartition("_")[2] not in refused.text


def test_no_key_and_a_wrong_one_are_told_apart(house: House) -> None:
    def told(header: str) -> str:
        answer = house.http.get("/v1/models", headers={"authorization": header})
        assert answer.status_code == 401
        return str(error_of(answer)["message"])

    for none in ("Bearer", "Bearer  ", 'Bearer ""', "Basic", house.operator):
        assert "none came: send the header `authorization: Bearer KEY`" in told(none), none
    other = told("Bearer sk-proj-1234")
    assert "begin with idf_" in other and "`authorization: Bearer KEY`" in other and "1234" not in other
    assert told(f"Bearer {house.operator}x") == told("Bearer idf_x_y") == "there is no such key"


def test_a_path_that_only_looks_public_is_not(house: House) -> None:
    odd = ["/healthz%3F/../v1/models", "/web/..%2Fv1%2Fmodels", "//v1/models", "/HEALTHZ", "/v1/models%3F", "/nowhere"]
    for path in odd:
        assert ask(house, "GET", path, None).status_code == 401, path
        leaks_nothing(house, ask(house, "GET", path, None), path)
    assert ask(house, "PUT", "/v1/models", None).status_code == 401
    assert ask(house, "PUT", "/v1/models", house.operator).status_code == 405
    assert ask(house, "GET", "/nowhere", house.operator).status_code == 404


def test_a_root_without_keys_is_closed_by_its_first_one(tmp_path: Path, tiny_pack: Pack) -> None:
    store = people_store(tmp_path, tiny_pack)
    gate = a_gate(store.root, tiny_pack, keyless="loopback")
    gate._ring = KeyRing(store.root, ttl_s=0.0)
    http = TestClient(gate, base_url="http://127.0.0.1:8000")
    assert http.get("/v1/models").status_code == 200
    for name in ("evil.example", "127.0.0.1.evil.example", "[::1"):  # whose name a page elsewhere may lead here
        assert http.get("/v1/models", headers={"host": name}).status_code == 403, name
    assert http.get("/v1/models", headers={"host": "[::1]:8000"}).status_code == 200
    _, key = create_key(store, ["draw"])
    assert http.get("/v1/models").status_code == 401 and http.get("/healthz").status_code == 200
    revoke_key(store, key.key_id)
    assert http.get("/v1/models").status_code == 401, "it stays closed"
    assert TestClient(a_gate(store.root, tiny_pack)).get("/v1/models").status_code == 401


def test_a_server_does_not_start_open(tmp_path: Path, tiny_pack: Pack) -> None:
    store = people_store(tmp_path, tiny_pack)
    with pytest.raises(ValueError, match=r"keys create.*--insecure"):
        a_gate(store.root, tiny_pack)
    with pytest.raises(ValueError, match=r"keys create.*--insecure"):
        serving_app.start(store.root, str(tiny_pack.root), host="0.0.0.0")
    anyone = TestClient(a_gate(store.root, tiny_pack, keyless="anyone"), base_url="http://10.0.0.1")
    assert anyone.get("/v1/models").status_code == 200
