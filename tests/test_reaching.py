"""How clients reach the server: origins of pages, ports of proxies, headers of keys, base addresses, and addresses of
pictures that are fetched without a key."""

from __future__ import annotations

import base64
import json
import re
import time
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.testclient import TestClient

from factory.pack import Pack
from factory.store.keys import SCOPES, create_key, revoke_key
from factory.store.rows import identity_row
from factory.store.tables import Store
from serve.hosts import address_of, page_origin
from serve.settings import Settings
from tests.serving import FakeGenerator, ask, error_of, people_store, person
from tests.test_access import a_gate

IMAGES, OBSIDIAN = "/v1/images/generations", "app://obsidian.md"
STAINLESS = "os arch lang runtime runtime-version package-version retry-count timeout helper-method"


@pytest.fixture(scope="module")
def http(tmp_path_factory: pytest.TempPathFactory, tiny_pack: Pack) -> Iterator[TestClient]:
    store = people_store(tmp_path_factory.mktemp("root"), tiny_pack)
    gate = a_gate(store.root, tiny_pack, FakeGenerator(), keyless="loopback", cors=[OBSIDIAN, "HTTPS://Front.example/"])
    with TestClient(gate, "http://localhost:8000", raise_server_exceptions=False) as http:
        yield http


@pytest.fixture
def keyed(tmp_path: Any, tiny_pack: Pack) -> Iterator[tuple[TestClient, Store, str, str]]:
    """A server with a tenant's key: the client, the operator's root, the key and its id."""
    operators = Store(str(tmp_path))
    key, made = create_key(operators, list(SCOPES), tenant="acme")
    people_store(tmp_path / "tenants" / "acme", tiny_pack)
    gate = a_gate(str(tmp_path), tiny_pack, FakeGenerator())
    with TestClient(gate, "http://localhost:8000", raise_server_exceptions=False) as http:
        yield http, operators, key, made.key_id


def test_the_openai_client_in_a_page_may_ask(http: TestClient) -> None:
    names = ["authorization", "content-type", *(f"x-stainless-{name}" for name in STAINLESS.split())]
    asked = {"access-control-request-method": "POST", "access-control-request-headers": ",".join(names)}
    answer = http.options(IMAGES, headers={"origin": OBSIDIAN, **asked})
    assert answer.status_code == 200 and answer.headers["access-control-allow-origin"] == OBSIDIAN
    assert answer.headers["access-control-allow-headers"].split(",") == names


@pytest.mark.parametrize(("origin", "status"), [(OBSIDIAN, 200), ("https://evil.example", 400)])
def test_a_page_of_the_internet_may_ask_a_private_server_where_it_is_let(
    http: TestClient, origin: str, status: int
) -> None:
    asked = {"access-control-request-method": "POST", "access-control-request-private-network": "true"}
    answer = http.options(IMAGES, headers={"origin": origin, **asked})
    assert answer.status_code == status
    assert (answer.headers.get("access-control-allow-origin") == origin) == (status == 200)
    if status == 200:
        assert answer.headers["access-control-allow-private-network"] == "true"


def test_errors_are_readable_for_pages_that_may_ask(http: TestClient, keyed: Any) -> None:
    told = {"origin": "https://front.example"}
    answers = [http.get("/v1/nothing", headers=told), http.put(IMAGES, headers=told)]
    answers += [http.post(IMAGES, json={}, headers=told), http.get("/v1/images/x/content", headers=told)]
    assert [answer.status_code for answer in answers[:3]] == [404, 405, 422]
    assert all(answer.headers["access-control-allow-origin"] == "https://front.example" for answer in answers)


@pytest.mark.parametrize(
    ("written", "sent"),
    [
        ("https://front.example/", "https://front.example"),
        ("HTTPS://Front.Example", "https://front.example"),
        ("https://front.example:443", "https://front.example"),
        ("http://[::1]:3000", "http://[::1]:3000"),
        (" app://obsidian.md ", "app://obsidian.md"),
        ("null", "null"),
    ],
)
def test_origins_are_as_browsers_send_them(written: str, sent: str) -> None:
    assert page_origin(written) == sent and Settings(cors=[written]).cors == [sent]


@pytest.mark.parametrize(
    "written",
    [
        "front.example",
        "https://front.example/app",
        "https://",
        "http://localhost:*",
        "https://me@front",
        "https://*.example",
        "",
    ],
)
def test_what_no_browser_sends_is_told(written: str) -> None:
    with pytest.raises(ValueError, match="is no origin of a page"):
        page_origin(written)


@pytest.mark.parametrize(
    ("headers", "address"),
    [
        ({"x-forwarded-port": "8443"}, "https://people.example:8443/"),
        ({"x-forwarded-port": "8443, 80"}, "https://people.example:8443/"),
        ({"x-forwarded-port": "443"}, "https://people.example/"),
        ({"x-forwarded-port": "80"}, "https://people.example/"),
        ({"x-forwarded-port": "none"}, "https://people.example/"),
        ({"x-forwarded-port": "8443", "x-forwarded-host": "other.example:99"}, "https://other.example:99/"),
        ({"x-forwarded-port": "8443", "x-forwarded-host": "[2001:db8::1]"}, "https://[2001:db8::1]:8443/"),
    ],
)
def test_a_port_that_a_proxy_tells_apart_is_in_addresses(headers: dict[str, str], address: str) -> None:
    given = Headers({"host": "people.example", "x-forwarded-proto": "https", **headers}).raw
    scope = {"type": "http", "scheme": "http", "server": ("127.0.0.1", 8000), "path": "/", "headers": given}
    assert address_of(Request(scope)) == address


def test_the_page_behind_a_proxy_of_another_port_is_the_servers_own(http: TestClient) -> None:
    headers = {"host": "localhost", "x-forwarded-port": "8443", "origin": "https://localhost:8443"}
    assert http.post(IMAGES, json={"model": "ada", "prompt": "x"}, headers=headers).status_code == 200


@pytest.mark.parametrize("name", ["x-api-key", "api-key"])
def test_a_key_may_come_in_a_header_of_its_own_beside_a_proxys(keyed: Any, name: str) -> None:
    http, _, key, _ = keyed
    proxys = f"Basic {base64.b64encode(b'proxy:secret').decode()}"
    for authorization in (None, proxys, "Bearer of-the-proxy"):
        headers = {name: f" {key} ", **({"authorization": authorization} if authorization else {})}
        assert http.get("/v1/models", headers=headers).status_code == 200
    assert http.get("/v1/models", headers={name: "none", "authorization": f"Bearer {key}"}).status_code == 200
    assert http.get("/v1/models", headers={name: key[:-1]}).status_code == 401


def test_blanks_around_a_key_are_none_of_it(keyed: Any) -> None:
    http, _, key, _ = keyed
    basic = base64.b64encode(f"me:{key} \n".encode()).decode()
    for sent in (f"bearer {key}", f"Bearer   {key} ", f"BEARER\t{key}", f"Basic {basic}", f"basic  {basic}"):
        assert http.get("/v1/models", headers={"authorization": sent}).status_code == 200, sent


def test_an_address_of_a_picture_is_fetched_without_a_key_as_long_as_its_key_is_good(keyed: Any) -> None:
    http, operators, key, key_id = keyed
    made = ask_with(http, key, response_format="url").json()["data"][0]["url"]
    assert made.startswith("http://localhost:8000/v1/pictures/file-") and made.endswith(f"?of={key_id}")
    for headers in ({}, {"authorization": "Bearer none"}, {"authorization": f"Bearer {key}"}):
        answer = http.get(made, headers=headers)
        assert answer.status_code == 200 and answer.headers["content-type"] == "image/png"
    assert http.head(made).status_code == 200
    assert http.get(made, headers={"range": "bytes=0-7"}).content == b"\x89PNG\r\n\x1a\n"
    assert http.get(made, headers={"if-none-match": answer.headers["etag"]}).status_code == 304
    assert http.get(made.partition("?")[0]).status_code == 401, "without its end it needs the key"
    assert http.get(made.partition("?")[0], headers={"authorization": f"Bearer {key}"}).status_code == 200
    assert http.get(f"{made[:60]}{'0' * 8}?of={key_id}").status_code == 404, "of another picture it says nothing"
    assert http.get(f"/v1/pictures/file-{'0' * 32}?of=nobody").status_code == 401
    for path in ("/v1/models", "/v1/images", "/v1/identities/ada/thumbnail", "/v1/files/file-0/content"):
        assert http.get(path, params={"of": key_id}).status_code == 401, path
    revoke_key(operators, key_id)
    time.sleep(1.1)  # a server hears of it within a second
    assert http.get(made).status_code == 401


def test_another_tenants_key_shows_no_picture_at_an_address(keyed: Any) -> None:
    http, operators, key, key_id = keyed
    _, other = create_key(operators, ["draw"], tenant="other")
    _, learns = create_key(operators, ["learn"], tenant="acme")
    made = ask_with(http, key, response_format="url").json()["data"][0]["url"]
    assert http.get(made.replace(key_id, other.key_id)).status_code in (401, 404)
    assert http.get(made.replace(key_id, learns.key_id)).status_code in (401, 403)


def ask_with(http: TestClient, key: str, **fields: Any) -> Any:
    body = {"model": "ada", "prompt": "<person>", **fields}
    return http.post(IMAGES, json=body, headers={"authorization": f"Bearer {key}"})


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/images/generations", "/v1/images/generations"),
        ("/v1/v1/images/generations", "/v1/images/generations"),
        ("/v1/images/generations/images/generations", "/v1/images/generations"),
        ("/openai/deployments/ada/images/generations", "/v1/images/generations"),
        ("/models", "/v1/models"),
        ("/api/v1/models", "/v1/models"),
    ],
)
def test_a_base_address_without_v1_or_with_two_is_told(http: TestClient, path: str, route: str) -> None:
    answer = http.post(path, json={"model": "ada", "prompt": "x"})
    assert answer.status_code == 404 and error_of(answer)["code"] == "no_such_route"
    message = error_of(answer)["message"]
    assert f"there is no {path}, but {route}: " in message and "end with /v1, once" in message


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "//v1/images/generations"),
        ("POST", "/v1//images/generations/"),
        ("GET", "//v1/models"),
        ("GET", "//v1//models/ada"),
        ("GET", "//sdapi/v1/options"),
        ("GET", "//healthz"),
    ],
)
def test_doubled_slashes_lead_where_single_ones_do(http: TestClient, method: str, path: str) -> None:
    body: dict[str, Any] = {"json": {"model": "ada", "prompt": "x"}} if method == "POST" else {}
    assert http.request(method, f"http://localhost:8000{path}", **body).status_code == 200


def test_doubled_slashes_open_no_door(keyed: Any) -> None:
    http = keyed[0]
    for path in ("//v1/models", "//healthz//../v1/models", "/web//../v1/models", "//sdapi/v1/options", "/healthz//x"):
        assert http.get(f"http://localhost:8000{path}").status_code == 401, path


def test_the_list_of_an_openai_client_is_of_everybody(tmp_path: Any, tiny_pack: Pack) -> None:
    store, mine = people_store(tmp_path, tiny_pack), tiny_pack.fingerprint()
    many = [person(number, f"p{number}", mine) for number in range(100, 1200)]
    store.upsert("identities", [identity_row(one) for one in many])
    gate = a_gate(store.root, tiny_pack, keyless="loopback")
    with TestClient(gate, "http://localhost:8000") as http:
        client = openai.OpenAI(base_url="http://localhost:8000/v1", api_key="none", http_client=http)
        assert len(list(client.models.list())) == 1102, "and of nobody whom this pack cannot draw"


@pytest.mark.parametrize("site", ["same-site", "cross-site"])
def test_a_page_elsewhere_shows_the_pictures_that_its_server_was_given(http: TestClient, site: str) -> None:
    shown = {"sec-fetch-site": site, "sec-fetch-mode": "no-cors", "referer": "http://localhost:3000/"}
    made = ask(http, response_format="url").json()["data"][0]["url"]
    assert http.get(made, headers=shown).status_code == 200
    for path in ("/v1/identities/ada/thumbnail", "/v1/models/ada", "/v1/poses/front/content"):
        assert http.get(path, headers=shown).status_code == 403, "of these it would learn who is known"


@pytest.mark.parametrize("path", ["/people/", "/people/v1/models", "/people/web/main.js"])
def test_a_proxy_that_leaves_its_path_on_is_told(http: TestClient, path: str) -> None:
    message = error_of(http.get(path))["message"]
    assert "let the proxy that leads here take /people off" in message or "takes its own path off" in message


def test_who_means_to_erase_a_model_is_told_how(http: TestClient) -> None:
    answer = http.delete("/v1/models/ada")
    assert answer.status_code == 405 and "DELETE /v1/identities/NAME" in error_of(answer)["message"]
    assert http.get("/v1/models/ada").status_code == 200
    assert "is not asked by PUT" in error_of(http.put(IMAGES))["message"]


def test_a_form_that_is_compressed_is_refused_as_such(http: TestClient) -> None:
    headers = {"content-type": "multipart/form-data; boundary=b", "content-encoding": "gzip"}
    answer = http.post("/v1/files", content=b"\x1f\x8b", headers=headers)
    assert answer.status_code == 415 and "'gzip' is not read" in error_of(answer)["message"]


def test_the_schema_leads_to_what_it_names(http: TestClient) -> None:
    schema = http.get("/openapi.json").json()
    operations = [one["operationId"] for path in schema["paths"].values() for one in path.values()]
    assert len(operations) == len(set(operations)) > 50
    for ref in set(re.findall(r'"\$ref": "#/([^"]+)"', json.dumps(schema))):
        place: Any = schema
        for part in ref.split("/"):
            place = place[part]
