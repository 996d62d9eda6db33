"""Heads over HTTP without Ray: made in their time, polled, fetched, taken back, and gone on with after a restart."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from starlette.testclient import TestClient

from factory.draw.clips import decode_mp4
from factory.draw.splat_files import from_ply
from factory.pack import Pack
from factory.provenance.credentials import make_self_signed
from factory.provenance.marks import Marker, mark_with, read_claim
from factory.store.erase import erase, find_person
from factory.store.queries import keep_checkpoint
from factory.store.tables import Store
from serve import sculpting
from serve.app import create_app
from serve.catalog import Catalog
from serve.client import GeneratorDown
from serve.modelling import KIND, Modelling
from serve.openai.errors import kept_of
from serve.openai.heads import Heads, head_routes
from serve.openai.images import Endpoint
from serve.openai.work import work_routes
from serve.sculpting import HeadMaker
from serve.stopping import Door
from serve.work import Kind, WorkBook
from tests.make_heads import make_posed
from tests.serving import error_of, people_store
from tests.test_splat_files import strictly_read

SMALL = {"model": "ada", "num_iterations": 4, "num_gaussians": 30, "seed": 3}


@pytest.fixture(scope="module")
def posed(tiny_pack: Pack, tmp_path_factory: pytest.TempPathFactory) -> Pack:
    return make_posed(tiny_pack, tmp_path_factory.mktemp("posed") / "pack")


@pytest.fixture(scope="module")
def maker(posed: Pack) -> HeadMaker:
    return HeadMaker(str(posed.root), device="cpu", num_threads=1)


@pytest.fixture
def store(tmp_path: Path, posed: Pack) -> Store:
    return people_store(tmp_path, posed)


def served(store: Store, pack: Pack, sculptors: Any) -> TestClient:
    catalog = Catalog(store.root)
    modelling = Modelling(pack, catalog, store, sculptors)
    book = WorkBook(store, {KIND: Kind(do=modelling.sculpt)}, kept_of, beat_s=0.1)
    routers = work_routes(book), head_routes(Heads(catalog, store, book, modelling))
    app = create_app(Endpoint(pack, catalog, None, None), Door(), book, *routers)  # type: ignore[arg-type]
    return TestClient(app, raise_server_exceptions=False)


@pytest.fixture
def http(store: Store, posed: Pack, maker: HeadMaker) -> Iterator[TestClient]:
    with served(store, posed, maker) as http:  # in `with` the app's lifespan runs
        yield http


def until(http: TestClient, an_id: str, *states: str) -> dict[str, Any]:
    deadline = time.monotonic() + 100
    while (card := http.get(f"/v1/heads/{an_id}").json())["status"] not in states:
        assert time.monotonic() < deadline, card
        time.sleep(0.02)
    return dict(card)


def test_a_head_is_made_fetched_in_every_format_listed_and_deleted(http: TestClient, store: Store) -> None:
    made = http.post("/v1/heads", json=SMALL | {"odd": 1})
    assert made.status_code == 202 and made.headers["x-ignored-fields"] == "odd", made.text
    card = until(http, made.json()["id"], "completed", "failed")
    assert (card["status"], card["progress"], card["object"], card["num_iterations"]) == ("completed", 100, "head", 4)
    assert card["prompt"] == "a photo of <person>" and card["seed"] == 3
    content = f"/v1/heads/{card['id']}/content"
    assert len(from_ply(http.get(content).content)) >= 20
    plain = http.get(content, params={"format": "plain-ply"})
    assert b"comment" not in plain.content and len(strictly_read(plain.content)) == len(from_ply(plain.content))
    assert plain.headers["content-disposition"].endswith('.plain.ply"')
    assert http.get(content, params={"format": "gltf"}).content[:4] == b"glTF"
    assert http.get(content, params={"format": "spz"}).content[:2] == b"\x1f\x8b"
    credentials = make_self_signed()
    mark_with(Marker(credentials))
    try:
        for file_format in ("ply", "plain-ply", "spz", "gltf"):
            answer = http.get(content, params={"format": file_format})
            where = answer.headers["link"].partition(">")
            assert where[2] == '; rel="c2pa-manifest"'
            claim = read_claim(answer.content, credentials, http.get(content + where[0].removeprefix("<")).content)
            assert claim is not None and claim.state == "Trusted" and claim.synthetic
    finally:
        mark_with(None)
    assert http.get(content, params={"format": "ply", "credentials": True}).status_code == 404, "nobody signs"
    turntable = http.get(content, params={"format": "mp4"})
    assert turntable.headers["content-type"] == "video/mp4" and decode_mp4(turntable.content).shape == (24, 64, 64, 3)
    assert Image.open(io.BytesIO(http.get(content, params={"format": "png"}).content)).size == (64, 64)
    assert http.get(content, params={"format": "obj"}).status_code == 422
    again = until(http, http.post("/v1/heads", json=SMALL).json()["id"], "completed")
    assert again["id"] != card["id"] and store.count("models") == 1, "the same head is made once"
    assert [one["id"] for one in http.get("/v1/heads").json()["data"]] == [again["id"], card["id"]]
    assert http.delete(f"/v1/heads/{card['id']}").json()["deleted"] and store.count("models") == 0
    assert http.get(f"/v1/heads/{card['id']}").status_code == http.get(content).status_code == 404


@pytest.mark.parametrize(
    ("fields", "param", "says"),
    [
        ({"model": None}, "model", "name an identity"),
        ({"model": "zed"}, "model", "zed"),
        ({"model": "cleo"}, "model", "text encoder"),
        ({"prompt": "<person> and <person:bob>"}, "prompt", "one person"),
        ({"yaw_limit": 90}, "yaw_limit", "beyond the"),
        ({"num_iterations": 0}, "num_iterations", "greater"),
        ({"num_gaussians": 10**9}, "num_gaussians", "less"),
        ({"objective": "guess"}, "objective", "ism"),
    ],
)
def test_what_cannot_be_made_is_told_at_once(
    http: TestClient, store: Store, fields: dict[str, Any], param: str, says: str
) -> None:
    answer = http.post("/v1/heads", json=SMALL | fields)
    assert 400 <= answer.status_code < 500, answer.text
    error = error_of(answer)
    assert error["param"] == param and says in error["message"]
    assert store.count("work") == 0


def test_a_head_taken_back_leaves_nothing_and_frees_the_maker(http: TestClient, store: Store) -> None:
    an_id = http.post("/v1/heads", json=SMALL | {"num_iterations": 5000}).json()["id"]
    while not http.get(f"/v1/heads/{an_id}").json()["seconds_left"]:
        time.sleep(0.02)
    assert http.get(f"/v1/heads/{an_id}/content").status_code == 409
    assert http.post(f"/v1/work/{an_id}/cancel").json()["status"] == "cancelled"
    until(http, http.post("/v1/heads", json=SMALL).json()["id"], "completed")  # the maker goes on with the next
    assert http.delete(f"/v1/heads/{an_id}").json()["deleted"]
    assert store.count("models") == 1 and store.count("checkpoints") == 0


def test_a_checkpoint_that_is_written_while_its_head_is_deleted_goes_too(
    http: TestClient, store: Store, maker: HeadMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    writing, go = threading.Event(), threading.Event()

    def slow(*what: Any) -> None:
        writing.set()
        assert go.wait(60)
        keep_checkpoint(*what)

    monkeypatch.setattr(sculpting, "CHECKPOINT_EVERY_S", 0.0)
    monkeypatch.setattr(sculpting, "keep_checkpoint", slow)
    an_id = http.post("/v1/heads", json=SMALL | {"num_iterations": 5000}).json()["id"]
    assert writing.wait(60)
    assert http.delete(f"/v1/heads/{an_id}").json()["deleted"]
    go.set()
    maker._thread.submit(lambda: None).result()  # what it did before is over
    assert store.count("checkpoints") == store.count("models") == store.count("work") == 0


def test_a_restart_goes_on_from_the_checkpoint(
    store: Store, posed: Pack, maker: HeadMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sculpting, "CHECKPOINT_EVERY_S", 0.0)
    with served(store, posed, maker) as http:
        an_id = http.post("/v1/heads", json=SMALL | {"num_iterations": 100}).json()["id"]
        while not store.count("checkpoints"):
            time.sleep(0.02)
    [row] = store.read("work").to_pylist()
    assert row["status"] == "queued" and store.count("models") == 0, "put down for the next server"
    [kept] = store.read("checkpoints").to_pylist()
    monkeypatch.undo()
    shares: list[float] = []

    class Watched:
        async def sculpt(self, *order: Any) -> Any:
            async for share in maker.sculpt(*order):
                shares.append(share)
                yield share

    with served(store, posed, Watched()) as http:
        assert until(http, an_id, "completed", "failed")["status"] == "completed"
    assert shares[0] > kept["num_iterations"] / 100 and store.count("checkpoints") == 0 and store.count("models") == 1


def test_a_lost_replica_is_tried_again_and_told_at_last(store: Store, posed: Pack, maker: HeadMaker) -> None:
    class Lost:
        def __init__(self, times: int) -> None:
            self.left = times

        async def sculpt(self, *order: Any) -> Any:
            self.left -= 1
            if self.left >= 0:
                raise GeneratorDown("lost")
            async for share in maker.sculpt(*order):
                yield share

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("serve.modelling._PAUSE_S", 0.0)
        for times, status in ((2, "completed"), (3, "failed")):
            with served(store, posed, Lost(times)) as http:
                card = until(http, http.post("/v1/heads", json=SMALL | {"seed": times}).json()["id"], status)
    assert card["error"]["code"] == "generator_unavailable"


def test_who_is_erased_while_a_head_is_made_gets_none(http: TestClient, store: Store) -> None:
    an_id = http.post("/v1/heads", json=SMALL | {"num_iterations": 5000}).json()["id"]
    while http.get(f"/v1/heads/{an_id}").json()["status"] != "in_progress":
        time.sleep(0.02)
    assert erase(store, find_person(store, name="ada")).found == []
    assert http.get(f"/v1/heads/{an_id}").status_code == http.get(f"/v1/work/{an_id}").status_code == 404, "at once"
    # another one is made once the next beat has ended this one
    until(http, http.post("/v1/heads", json=SMALL | {"model": "bob"}).json()["id"], "completed")
    assert store.count("models") == store.count("work") == 1 and store.count("checkpoints") == 0
