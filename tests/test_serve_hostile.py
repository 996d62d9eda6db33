"""Hundreds of hostile requests: each is refused, or drawn, in OpenAI's shape; none is a 500."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import pytest
from starlette.testclient import TestClient

from factory.pack import Pack
from serve.openai.schemas import ImagesRequest
from tests.serving import FakeGenerator, client_of, error_of, people_store

HALF = r"\ud83d"  # of a surrogate pair, as JSON writes it
STRINGS = [  # inside quotes of a JSON text
    *("", " ", HALF, f"a{HALF}b", r"\ude00", r"\ud83d\ud83d", r"\ud83d\ude00", r"\u0000", r"a\u0000b", r"\uffff"),
    *(r"\u202e", r"\n", r"\r\n", r"\u001b[31m", "é" * 3, "' OR 1=1 --", "%00%s%n", "../../etc/passwd", "<person>" * 40),
    *("x" * 40_000, "{}", "${jndi:ldap://x}", r"\ud800" * 3, "\U0001f600" * 500, "null", "NaN", "0x10", "1e5"),
]
VALUES = [  # of any field
    *("null", "true", "0", "-1", "1e400", "-1e400", "1E-400", "1" * 400, "1" * 5000, "-0", "0.5", "NaN", "Infinity"),
    *("-Infinity", "[]", "{}", "[null]", '{"a": 1}', "[" * 150 + "]" * 150, '"x"', "9007199254740993", "[1, 2, 3]"),
]
FIELDS = [*ImagesRequest.model_fields, "unknown", f"un{HALF}known", r"a\u0000b", "", "__class__", "config"]
RAW = [
    *(b"", b" ", b"\x00", b"{", b"}", b"[]", b"[1]", b"null", b"true", b"7", b'"text"', b"{}{}", b"{},", b"{'a': 'b'}"),
    *(b"[" * 100_000, b'{"a":' * 100_000, b'{"prompt": ' + b"[" * 5000 + b"]" * 5000 + b"}", b"\xff\xfe"),
    *(b"\xef\xbb\xbf", b"\xff\xfe{\x00", b"\x00\x00\xfe\xff", b"\x1f\x8b\x08\x00broken", b"\xed\xa0\xbd"),
    *(b'{"model": "\xed\xa0\xbd"}', b'{"model": "\xc3"}', b'{"model": "a\x00"}', b'{"model": "a\nb"}'),
    *(b"model=ada&prompt=x", b"--x\r\n\r\n--x--"),
    *(b'{"model": "ada", "model": "bob", "prompt": "x"}', b'{"a": 1,}', b"// no\n{}", b"\x80" * 100, b"9" * 100_000),
    *('{"model": "ada", "prompt": "x"}'.encode(name) for name in ("utf-16", "utf-16-le", "utf-32-be", "utf-7")),
]


def bodies() -> Iterator[bytes]:
    """JSON texts with one strange value, and bytes that are no such text."""
    texts = [f'"{text}"' for text in STRINGS]
    strange = [*product(FIELDS, VALUES + texts[:8]), *product(("prompt", "model", "negative_prompt", "user"), texts)]
    for field, value in strange:
        fields = {"model": '"ada"', "prompt": '"snow"'} | {field: value}
        yield ("{" + ", ".join(f'"{name}": {value}' for name, value in fields.items()) + "}").encode()
    yield from RAW


@pytest.fixture(scope="module")
def http(tmp_path_factory: pytest.TempPathFactory, tiny_pack: Pack) -> TestClient:
    return client_of(people_store(tmp_path_factory.mktemp("root"), tiny_pack), tiny_pack, FakeGenerator())


def test_no_body_is_a_500(http: TestClient) -> None:
    sent = dict.fromkeys(bodies())
    assert len(sent) > 700
    statuses = set[int]()
    for body in sent:
        response = http.post("/v1/images/generations", content=body)
        shown = body if len(body) < 200 else body[:100] + b"..." + body[-50:]
        assert response.status_code in (200, 404, 413, 415, 422), (shown, response.text)
        if response.status_code != 200:
            assert len(error_of(response)["message"]) < 1000, shown
        statuses.add(response.status_code)
        assert response.text.isprintable() or response.status_code == 200, (shown, response.text)

    assert statuses >= {200, 404, 422}, "some are drawn, and some refused"


PATHS = [
    *("%00", "a%00b", "%ED%A0%BD", "%FF%FE", "%C3", "..%2F..%2Fetc", "%2e%2e", "a%0Ab", "%0D%0Ax-a:%20b", "%", "%zz"),
    *("%25", "a/" * 500, "x" * 60_000, "'%20OR%201=1%20--", "%F0%9F%98%80", "?", "%3F", "#", "%E2%80%AE"),
]


@pytest.mark.parametrize("path", PATHS)
def test_no_path_is_a_500(http: TestClient, path: str) -> None:
    for route in ("/v1/models/", "/v1/identities/", "/v1/models?after=", "/v1/models?limit=", "/v1/", "/"):
        for response in (http.get(route + path), http.head(route + path)):
            assert response.status_code in (200, 404, 422), (route, response.text)
    assert http.request("BREW", "/v1/models").status_code == 405
