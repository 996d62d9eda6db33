"""Hostile requests to every route that the server has: each is refused or done, in OpenAI's shape; none is a 500."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock, MagicMock

import pytest
from pydantic import BaseModel
from starlette.testclient import TestClient
from starlette.types import ASGIApp

from factory.pack import Pack
from factory.provenance.marks import mark_with
from serve.a1111.routes import Options, PngInfo, ProgressOf
from serve.a1111.schemas import Txt2Img
from serve.ingress import Ingress
from serve.loop import LoopStats
from serve.needs import NEEDS
from serve.openai.batches import BatchRequest
from serve.openai.videos import VideosRequest
from serve.settings import AppArgs
from tests.page_server import Events
from tests.serving import FakeGenerator, error_of, people_store
from tests.test_serve_hostile import HALF, PATHS, RAW, STRINGS, VALUES
from tests.uploading import FakeLearner

GOOD = {"model": '"ada"', "prompt": '"ada"', "input_file_id": '"file-0"', "endpoint": '"/v1/images/generations"'}
GOOD |= {"completion_window": '"24h"', "image": '"AAAA"', "num_frames": "2", "identity": '"ada"'}
BODIES: dict[str, type[BaseModel] | None] = {
    "/sdapi/v1/txt2img": Txt2Img,
    "/sdapi/v1/options": Options,
    "/sdapi/v1/png-info": PngInfo,
    "/internal/progress": ProgressOf,
    "/v1/batches": BatchRequest,
    "/v1/videos": VideosRequest,
    "/v1/heads": None,
}
ODD_NAMES = ["", r"\u0008", r"\u4e2d", r"a\r\nb"]
DEEP = '{"args": [' * 60 + "1" + "]}" * 60
ODD = [f'{{"ControlNet": {value}}}' for value in (*VALUES, DEEP, '{"args": [{"image": {"image": 1}, "weight": "x"}]}')]


@contextmanager
def wired(root: Path, pack: Pack, learner: FakeLearner | None = None) -> Iterator[ASGIApp]:
    """The app as the server wires it, on a generator without a model; clips and heads fail behind it, and learning does
    where no learner is given."""
    fake, store = FakeGenerator(), people_store(root, pack)
    handles = [MagicMock() for _ in list(inspect.signature(Ingress.__init__).parameters)[2:]]
    drawer = handles[0]
    drawer.broadcast.return_value.results_async = AsyncMock(return_value=[LoopStats()])
    drawer.draw.remote = drawer.draw_patiently.remote = lambda job, tenant: fake.submit(job)
    streaming = drawer.options.return_value.draw_with_previews
    streaming.remote = lambda job, num, tenant: fake.submit_with_previews(job, num)
    if learner is not None:
        handles[2].prepare.remote = learner.prepare
        handles[2].options.return_value.learn.remote = lambda _root, *of: Events(learner.learn(*of))
    try:
        yield Ingress(
            AppArgs(root=store.root, pack=str(pack.root), keyless="anyone"), *handles
        ).__serve_build_asgi_app__()
    finally:
        mark_with(None)


@pytest.fixture(scope="module")
def http(tmp_path_factory: pytest.TempPathFactory, tiny_pack: Pack) -> Iterator[TestClient]:
    with wired(tmp_path_factory.mktemp("root"), tiny_pack) as app:
        http = TestClient(app, raise_server_exceptions=False, client=("127.0.0.1", 1))
        with http:
            yield http


def bodies(kind: type[BaseModel] | None) -> Iterator[bytes]:
    fields = [*(kind.model_fields if kind is not None else GOOD), "unknown", f"un{HALF}known", *ODD_NAMES]
    texts = [f'"{text}"' for text in STRINGS]
    for field, value in [*product(fields, VALUES + texts[:14]), *product(("alwayson_scripts", "metadata"), ODD)]:
        good = GOOD if kind is None else {name: text for name, text in GOOD.items() if name in kind.model_fields}
        yield ("{" + ", ".join(f'"{name}": {text}' for name, text in {**good, field: value}.items()) + "}").encode()
    yield from RAW


def check(answer: Any, shown: Any) -> None:
    assert answer.status_code < 500 or answer.status_code == 501, (shown, answer.text)
    if answer.status_code >= 400:
        assert len(error_of(answer)["message"]) < 1000, shown
    if answer.status_code == 429:
        assert int(answer.headers["retry-after"]) > 0, shown


@pytest.mark.parametrize("path", BODIES)
def test_no_body_is_a_500(http: TestClient, path: str, every: int = 11) -> None:
    for body in [*dict.fromkeys(bodies(BODIES[path]))][::every]:
        check(http.post(path, content=body), body[:300])


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("path", BODIES)
def test_no_body_of_all_is_a_500(http: TestClient, path: str) -> None:
    test_no_body_is_a_500(http, path, every=1)


def test_no_id_is_a_500(http: TestClient) -> None:
    """Each route with something in its address, and each that lists, asked for what is not there."""
    routes = [(method, path) for method, path in NEEDS if "{" in path]
    assert len(routes) > 20
    for (method, path), strange in [*product(routes, PATHS[::4])]:
        address = path[: path.index("{")] + strange + path[path.index("}") + 1 :]
        check(http.request(method, address), (method, address[:300]))
    for (method, path), query in product(NEEDS, ("limit=-1", "limit=x", "after=%00", "order=up", "limit=99999999999")):
        if method == "GET" and "{" not in path:
            check(http.get(f"{path}?{query}"), (path, query))


@pytest.mark.parametrize("path", ["/v1/files", "/v1/identities", "/v1/videos"])
def test_no_form_is_a_500(http: TestClient, path: str) -> None:
    line = b'--x\r\ncontent-disposition: form-data; name="%s"%s\r\n\r\n%s\r\n'
    parts = [line % (b"purpose", b"", b"batch"), line % (b"file", b'; filename="../../a.jsonl"', b"{}")]
    parts += [line % (b"image", b'; filename="a.png"', b""), line % (b"file", b"", b"text")]
    parts += [line % (b"name", b"", b"\xff\xfe"), line % (b"\xff", b"", b"x"), line % (b"", b"", b"")]
    parts += [line % (b"expires_after[seconds]", b"", b"9" * 400), line % (b"file", b'; filename="\xff\x00"', b"\0")]
    bodies = [b"", b"--x--", b"--x", b"--y\r\n", b"--x\r\n\r\n\r\n--x--", *(part + b"--x--" for part in parts)]
    bodies += [parts[0] + part + b"--x--" for part in parts] + [b"".join(parts), b"".join(parts) * 20 + b"--x--"]
    for body, boundary in product(bodies, ("; boundary=x", "; boundary=", "", "; boundary=" + "x" * 300)):
        kind = {"content-type": f"multipart/form-data{boundary}"}
        check(http.post(path, content=body, headers=kind), (path, body[:200], boundary))
