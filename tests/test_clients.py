"""What users of such servers report of clients, proxies and browsers: each case as they have it, without Ray."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.testclient import TestClient

from factory.pack import Pack
from factory.store.keys import SCOPES, create_key
from factory.store.tables import Store
from serve.hosts import address_of
from serve.openai.forms import file_name
from serve.uploads import LearnOrder, Uploads
from tests.serving import FakeGenerator, ask, error_of, people_store
from tests.test_access import a_gate
from tests.uploading import FakeLearner, finished, serving

IMAGES, FRONT = "/v1/images/generations", "https://front.example"
PROXIED = {"x-forwarded-proto": "https", "x-forwarded-host": "people.example", "x-forwarded-prefix": "/faces"}
PART = b'--b\r\ncontent-disposition: form-data; name="image"; %b\r\ncontent-type: image/jpeg\r\n\r\n%b\r\n'


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, tiny_pack: Pack) -> Store:
    return people_store(tmp_path_factory.mktemp("root"), tiny_pack)


@pytest.fixture(scope="module")
def fake() -> FakeGenerator:
    return FakeGenerator()


@pytest.fixture(scope="module")
def http(store: Store, tiny_pack: Pack, fake: FakeGenerator) -> Iterator[TestClient]:
    """All routes of a server without keys, which is asked by its own names alone."""
    gate = a_gate(store.root, tiny_pack, fake, keyless="loopback", cors=[FRONT])
    with TestClient(gate, "http://localhost:8000", raise_server_exceptions=False) as http:
        yield http


@pytest.fixture(scope="module")
def learning(tmp_path_factory: pytest.TempPathFactory, tiny_pack: Pack) -> Iterator[TestClient]:
    store = people_store(tmp_path_factory.mktemp("learning"), tiny_pack)
    learner = FakeLearner(store, tiny_pack)
    learner.go.set()
    with serving(store, tiny_pack, learner) as http:
        yield http


def form(http: TestClient, body: bytes, boundary: str = "b") -> Any:
    return http.post(
        "/v1/identities", content=body, headers={"content-type": f"multipart/form-data; boundary={boundary}"}
    )


def test_a_stream_is_held_back_by_no_proxy_and_kept_by_no_cache(http: TestClient, learning: TestClient) -> None:
    edited = learning.post(
        "/v1/images/edits", files={"image": ("a.png", b"one")}, data={"prompt": "<person>", "stream": "true"}
    )
    for answer in (ask(http, stream=True), edited):
        assert answer.headers["x-accel-buffering"] == "no" and answer.headers["cache-control"] == "no-store"
        assert answer.headers["content-type"].startswith("text/event-stream")


def test_what_cannot_be_drawn_is_no_stream(http: TestClient) -> None:
    for fields, param in (({"model": "zed"}, "model"), ({"size": "x"}, "size"), ({"pose": {}}, "pose")):
        answer = ask(http, stream=True, **fields)
        assert 400 <= answer.status_code < 500 and error_of(answer)["param"] == param


@pytest.mark.parametrize(
    "path", ["/", "/web/main.js", "/v1/models", "/v1/identities", "/v1/files", "/v1/poses", "/sdapi/v1/options", "url"]
)
def test_head_is_get_without_the_body(http: TestClient, path: str) -> None:
    if path == "url":
        path = ask(http, response_format="url").json()["data"][0]["url"].removeprefix("http://localhost:8000")
    head, got = http.head(path), http.get(path)
    assert (head.status_code, head.content) == (got.status_code, b"") == (200, b"")
    assert head.headers["content-length"] == got.headers["content-length"] and int(head.headers["content-length"])
    refused = http.head(IMAGES)
    assert refused.status_code == 405 and refused.headers["allow"] == "POST"


def test_no_cache_keeps_answers_about_people(http: TestClient) -> None:
    answers = [http.get(path) for path in ("/v1/identities", "/v1/models/ada", "/v1/work", "/sdapi/v1/embeddings")]
    assert {answer.headers["cache-control"] for answer in [*answers, ask(http)]} == {"no-store"}
    assert http.get("/web/main.js").headers["cache-control"] == "no-cache"


@pytest.mark.parametrize(
    ("headers", "address"),
    [
        ({}, "http://localhost:8000/"),
        (PROXIED, "https://people.example/faces/"),
        ({"forwarded": 'for=1.2.3.4;Proto=HTTPS;host="people.example:444", for=5.6.7.8'}, "https://people.example:444/"),
        ({"x-forwarded-proto": "https, http", "x-forwarded-host": "[::1]:1, inner"}, "https://[::1]:1/"),
        ({"x-forwarded-proto": "gopher", "x-forwarded-host": 'a"<b', "x-forwarded-prefix": "//evil"}, "http://localhost:8000/"),
    ],
)  # fmt: skip
def test_addresses_are_those_of_the_proxy_in_front(headers: dict[str, str], address: str) -> None:
    raw = Headers({"host": "localhost:8000", **headers}).raw
    scope = {"type": "http", "scheme": "http", "server": ("127.0.0.1", 8000), "path": "/v1", "headers": raw}
    assert address_of(Request(scope | {"query_string": b"", "method": "GET"})) == address


def test_the_page_works_below_a_path_of_a_proxy(http: TestClient) -> None:
    page = http.get("/").text
    assert 'src="' in page and not re.findall(r'(?:src|href)="/', page), "relative to where the page lies"
    body = {"model": "ada", "prompt": "<person>", "response_format": "url"}
    url = http.post(IMAGES, json=body, headers=PROXIED)
    assert url.json()["data"][0]["url"].startswith("https://people.example/faces/v1/pictures/file-")


def test_a_slash_at_the_end_leads_nowhere_else(http: TestClient) -> None:
    body = {"model": "ada", "prompt": "<person>"}
    assert http.post(f"{IMAGES}/", json=body, follow_redirects=False).status_code == 200
    for path in ("/v1/files/", "/v1/batches//", "/v1/work/"):
        assert http.get(path, follow_redirects=False).json() == http.get(path.rstrip("/")).json()
    assert http.get("/v1/nothing/", follow_redirects=False).status_code == 404
    assert http.delete("/v1/identities/", follow_redirects=False).status_code == 404


def test_a_slash_at_the_end_asks_for_the_same_scope(tiny_pack: Pack, tmp_path: Path) -> None:
    store = people_store(tmp_path, tiny_pack)
    key = create_key(store, ["learn"])[0]
    with TestClient(a_gate(store.root, tiny_pack), raise_server_exceptions=False) as http:
        for path in (IMAGES, f"{IMAGES}/", f"{IMAGES}//"):
            answer = http.post(path, json={}, headers={"authorization": f"Bearer {key}"})
            assert answer.status_code == 403 and error_of(answer)["code"] == "insufficient_scope", path


@pytest.mark.parametrize("host", ["localhost:8000", "LOCALHOST", "127.0.0.1:1", "[::1]:8000", None])
def test_own_names_are_served(http: TestClient, host: str | None) -> None:
    request = http.build_request("GET", "/v1/models", headers={} if host is None else {"host": host})
    if host is None:
        del request.headers["host"]  # as programs that speak HTTP/1.0; a browser always sends one
    assert http.send(request).status_code == 200


@pytest.mark.parametrize("host", ["evil.example:8000", "a/b", "localhost@evil.example", "localhost.evil.example", ""])
def test_other_names_are_refused_with_the_remedy(http: TestClient, host: str) -> None:
    answer = http.get("/v1/models", headers={"host": host, "x-forwarded-host": "localhost"})
    assert answer.status_code == 403 and "ask it as 127.0.0.1" in error_of(answer)["message"]


def test_a_page_elsewhere_may_read_what_it_needs_where_it_is_let(tiny_pack: Pack, tmp_path: Path) -> None:
    store = people_store(tmp_path, tiny_pack)
    key = {"authorization": f"Bearer {create_key(store, SCOPES)[0]}", "origin": FRONT}
    with TestClient(a_gate(store.root, tiny_pack, cors=[FRONT]), raise_server_exceptions=False) as http:
        wanted = "authorization, content-type, idempotency-key, x-stainless-os"
        asks = {"access-control-request-method": "POST", "access-control-request-headers": wanted}
        before = http.options(IMAGES, headers={"origin": FRONT, **asks})
        assert before.status_code == 200 and before.headers["access-control-allow-headers"] == wanted
        elsewhere = http.options(IMAGES, headers={"origin": "https://evil.example", **asks})
        assert "access-control-allow-origin" not in elsewhere.headers
        answers = [http.get("/v1/models", headers={"origin": FRONT}), http.get("/v1/models/zed", headers=key)]
        answers += [http.post(IMAGES, json={}, headers=key), http.get("/nothing", headers=key)]
        assert [answer.status_code for answer in answers] == [401, 404, 422, 404]
        for answer in answers:
            assert answer.headers["access-control-allow-origin"] == FRONT
            shown = answer.headers["access-control-expose-headers"].split(", ")
            assert {"x-ignored-fields", "x-prompt-truncated", "x-request-id", "retry-after"} <= set(shown)


def test_a_page_that_is_let_may_send_files(http: TestClient) -> None:
    def send(origin: str, **headers: str) -> Any:
        given = {"origin": origin, **headers}
        return http.post("/v1/files", files={"file": ("a", b"{}")}, data={"purpose": "batch"}, headers=given)

    assert send(FRONT).status_code == 200 and send("http://localhost:8000").status_code == 200
    assert send("https://people.example", **PROXIED).status_code == 200, "the page itself, behind a proxy"
    refused = send("https://evil.example")
    assert refused.status_code == 403 and "--cors" in error_of(refused)["message"]


def test_more_pictures_than_may_ever_wait_are_not_to_be_asked_for_again(tmp_path: Path, tiny_pack: Pack) -> None:
    store = people_store(tmp_path, tiny_pack)
    keys = [create_key(store, SCOPES, max_waiting=4)[0], create_key(store, SCOPES, pictures_per_minute=4)[0]]
    body = {"model": "ada", "prompt": "<person>", "n": 10}
    with TestClient(a_gate(store.root, tiny_pack, FakeGenerator()), raise_server_exceptions=False) as http:
        waits, pays = (http.post(IMAGES, json=body, headers={"authorization": f"Bearer {key}"}) for key in keys)
    assert waits.status_code == 422 and error_of(waits)["param"] == "n" and "4 waiting" in error_of(waits)["message"]
    assert "retry-after" not in waits.headers and waits.headers["x-should-retry"] == "false"
    assert pays.status_code == 200, "paid off in the minutes after it"


@pytest.mark.parametrize(
    "disposition",
    [b"filename*=utf-8''%D1%84%D0%BE.jpg", 'filename="фо.jpg"'.encode(), b'filename="%D1%84%D0%BE.jpg"'],
)
def test_names_of_photos_are_read_however_they_are_written(learning: TestClient, disposition: bytes) -> None:
    answer = form(learning, PART % (disposition, disposition) + b"--b--\r\n")
    assert answer.status_code == 202, answer.text
    [an_id] = answer.json()["identities"]
    assert finished(learning, answer.json())["status"] == "completed"
    assert learning.get(f"/v1/identities/{an_id}").json()["name"] == "фо"


@pytest.mark.parametrize(
    ("sent", "name"),
    [
        ("%D1%84.jpg", "ф.jpg"),
        ("a%22b.jpg", 'a"b.jpg'),
        ("100%.jpg", "100%.jpg"),
        ("sale50%de.jpg", "sale50%de.jpg"),
        ("C:\\photos\\a%2Fb.jpg", "a%2Fb.jpg"),
        (None, ""),
    ],
)
def test_only_codes_are_decoded_in_names(sent: str | None, name: str) -> None:
    assert file_name(sent) == name


def test_a_form_of_which_not_all_came_is_refused(learning: TestClient) -> None:
    one, two = (PART % (b'filename="a.jpg"', data) for data in (b"first of two", b"second of two"))
    assert form(learning, one + b"--b--\r\nafter").status_code == 202
    for body in (one + two, one + two[:-9], one, b""):
        answer = form(learning, body)
        assert answer.status_code == 400 and "not all of it came" in error_of(answer)["message"], body


def test_two_tenants_see_nothing_of_each_other(tmp_path: Path, tiny_pack: Pack) -> None:
    store = people_store(tmp_path, tiny_pack)
    mine, theirs = ({"authorization": f"Bearer {create_key(store, SCOPES, tenant=name)[0]}"} for name in ("a", "b"))
    with TestClient(a_gate(store.root, tiny_pack), raise_server_exceptions=False) as http:
        sent = http.post("/v1/files", files={"file": ("a", b"{}")}, data={"purpose": "batch"}, headers=mine)
        there, nowhere = f"/v1/files/{sent.json()['id']}", f"/v1/files/file-{'0' * 32}"
        for method, more in (("GET", ""), ("GET", "/content"), ("DELETE", "")):
            answers = [http.request(method, f"{path}{more}", headers=theirs) for path in (there, nowhere)]
            told = [error_of(answer)["message"].replace(there[10:], "").replace(nowhere[10:], "") for answer in answers]
            assert [answer.status_code for answer in answers] == [404, 404] and told[0] == told[1]
        assert http.get(there, headers=mine).status_code == 200


def test_a_name_of_two_people_erases_neither(learning: TestClient) -> None:
    ids = list[str]()
    for data in (b"one dora", b"another dora"):
        made = learning.post("/v1/identities", files={"image": ("dora.jpg", data)}, data={"name": "dora"}).json()
        assert finished(learning, made)["status"] == "completed"
        ids += made["identities"]
    refused = learning.delete("/v1/identities/dora")
    assert refused.status_code == 409 and any(an_id in error_of(refused)["message"] for an_id in ids)
    assert learning.delete("/v1/identities/DORA").status_code == 404
    assert learning.delete(f"/v1/identities/{ids[0][:8]}").status_code == 404, "the beginning of an id is nobody"
    assert learning.delete(f"/v1/identities/{ids[0]}").json()["id"] == ids[0]
    assert learning.delete("/v1/identities/dora").json()["id"] == ids[1], "one is left of this name"


def test_the_same_photo_three_times_at_once_is_learned_once(learning: TestClient) -> None:
    with ThreadPoolExecutor(3) as threads:
        sent = list(threads.map(lambda _: learning.post("/v1/identities", files={"image": ("a", b"thrice")}), range(3)))
    works = {answer.json()["id"]: answer.json() for answer in sent if answer.status_code == 202}
    assert len(works) == 1 and {answer.status_code for answer in sent} <= {200, 202}, "200: it was learned meanwhile"
    assert finished(learning, *works.values())["status"] == "completed"


def test_who_was_learned_while_this_one_waited_is_not_learned_again(
    learning: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def send() -> Any:
        return learning.post("/v1/identities", files={"image": ("a", b"late")}).json()

    first, known, looks = send(), Uploads.known, iter([False])
    assert finished(learning, first)["status"] == "completed"

    async def known_late(uploads: Uploads, order: LearnOrder) -> bool:
        return next(looks, None) is None and await known(uploads, order)

    monkeypatch.setattr(Uploads, "known", known_late)
    second = send()
    assert (second["id"], second["status"]) == (first["id"], "completed")


@pytest.mark.parametrize(
    ("prompt", "drawn"),
    [
        ("&lt;person&gt; in the snow", "<person> in the snow"),
        ("&lt;person&gt; and &lt;person:bob&gt;", "<person> and <person:bob>"),
        ("<person> says &lt;b&gt;", "<person> says &lt;b&gt;"),
        ("&lt;lora:film:0.8&gt;<person> in the snow", "<person> in the snow"),
    ],
)
def test_a_front_end_that_escapes_names_the_person_all_the_same(
    http: TestClient, fake: FakeGenerator, prompt: str, drawn: str
) -> None:
    assert ask(http, prompt=prompt).status_code == 200 and fake.jobs[-1].prompt == drawn
