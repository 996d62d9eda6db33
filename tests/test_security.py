"""Attacks that belong to no other file: code in weights, SQL in names, headers in fields, pages of other sites."""

import asyncio
import io
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from urllib.parse import quote

import pytest
import torch
from ray.serve._private.http_util import validate_http_proxy_callback_return
from starlette.testclient import TestClient

from factory.draw.sculpt import _Work
from factory.errors import PackError
from factory.faces.parse import _weights
from factory.pack import Pack
from factory.store.rows import identity_row, image_row
from factory.store.tables import Store
from factory.supply.pickles import convert
from serve.proxy import middlewares
from tests import serving
from tests.serving import ask, person
from tests.test_access import a_gate
from tests.test_page import drawn

store, fake, http = serving.store, serving.fake, serving.http  # fixtures


class _Touches:
    """A pickle that makes a file when it is loaded."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return (Path.touch, (self.file,))


def test_weights_run_no_code(tmp_path: Path) -> None:
    torch.save({"params": _Touches(tmp_path / "ran")}, tmp_path / "evil.pth")
    with pytest.raises(PackError, match="more than tensors"):
        convert(tmp_path / "evil.pth", tmp_path / "good.safetensors")
    with pytest.raises(PackError, match="no pickles"):
        _weights(tmp_path / "evil.pth")
    assert {file.name for file in tmp_path.iterdir()} == {"evil.pth"}
    torch.load(tmp_path / "evil.pth", weights_only=False)
    assert (tmp_path / "ran").exists(), "it would have"


def test_no_checkpoint_of_a_head_runs_code(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.save(_Touches(tmp_path / "ran"), buffer)
    making = _Work.__new__(_Work)  # what it does first is to load
    with pytest.raises(UnpicklingError):
        making.restore(buffer.getvalue())
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["x' OR '1'='1", "'; DROP TABLE identities; --", "x') OR (TRUE", "%", "_da", "\\"])
def test_names_are_no_sql(http: TestClient, store: Store, tiny_pack: Pack, name: str) -> None:
    path = f"/v1/identities/{quote(name, safe='')}"
    assert http.get(path).status_code == 404 and ask(http, model=name).status_code == 404
    store.upsert("images", [image_row(drawn(1))])  # which no such name may list
    for field, status in (("after", 422), ("identity", 404)):
        assert http.get("/v1/images", params={field: name}).status_code == status
    store.upsert("identities", [identity_row(person(7, name, tiny_pack.fingerprint()))])
    assert http.get(path).json()["identity_id"] == f"{7:016x}" and store.count("identities") == 4
    store.delete("identities", f"identity_id = '{7:016x}'")
    assert store.count("identities") == 3


def test_fields_are_no_headers(http: TestClient) -> None:
    answer = ask(http, **{"x\r\nset-cookie: a=b": 1, "\u00e4\n": 2})
    assert answer.status_code == 200 and "set-cookie" not in answer.headers
    assert answer.headers["x-ignored-fields"] == "x%0D%0Aset-cookie%3A%20a%3Db, %C3%A4%0A"


def test_headers_that_are_no_text_do_not_reach_rays_proxy() -> None:
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.extend(scope["headers"])

    middleware = middlewares()[0]
    good = [(b"x-request-id", b"mine"), (b"user-agent", b"\xe9"), (b"x-request-id", "\u00e4".encode())]
    bad = [(b"x-request-id", b"\xff\xfe"), (b"Serve_Multiplexed_Model_Id", b"\xff"), (b"x-session-id", b"a\x01")]
    asyncio.run(middleware.cls(app)({"type": "http", "headers": [*good, *bad]}, None, None))  # type: ignore[arg-type]
    assert seen == good
    assert validate_http_proxy_callback_return(middlewares())


def test_a_page_of_another_site_asks_for_nothing(store: Store, tiny_pack: Pack) -> None:
    gate = TestClient(a_gate(store.root, tiny_pack, keyless="loopback"), base_url="http://127.0.0.1:8000")
    form = {"prompt": (None, "<person>"), "model": (None, "ada")}  # what a browser sends without asking first
    for origin in ("http://evil.example", "null", "http://127.0.0.1:9000"):
        for path in ("/v1/videos", "/v1/identities", "/v1/images/edits", "/v1/files"):
            answer = gate.post(path, files=form, headers={"origin": origin})
            assert answer.status_code == 403, (origin, path)
    friend = a_gate(store.root, tiny_pack, keyless="loopback", cors=["http://front.example"])
    asked = TestClient(friend, base_url="http://127.0.0.1:8000").post(
        "/v1/videos", files=form, headers={"origin": "http://front.example"}
    )
    assert asked.status_code == 404, "one that the operator named, at a pack without clips"
    own = gate.post("/v1/videos", files=form, headers={"origin": "http://127.0.0.1:8000"})
    assert own.status_code == 404, "the page itself"
