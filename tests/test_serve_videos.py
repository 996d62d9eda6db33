"""Clips over HTTP as the openai client asks for them, without Ray: made in their time, polled, fetched, forgotten."""

import io
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import httpx
import numpy as np
import openai
import pytest
from PIL import Image
from starlette.testclient import TestClient

from factory.draw.clips import decode_mp4
from factory.pack import Pack
from factory.store.erase import erase, find_person
from factory.store.tables import Store
from serve.app import create_app
from serve.catalog import Catalog
from serve.client import ImageClient
from serve.filming import KIND, Filming
from serve.openai.errors import kept_of
from serve.openai.images import Endpoint
from serve.openai.videos import Videos, video_routes
from serve.openai.work import work_routes
from serve.stopping import Door
from serve.work import Kind, WorkBook
from tests.serving import FakeGenerator, error_of, people_store

pytestmark = pytest.mark.filterwarnings("ignore:The Sora API:DeprecationWarning")


@pytest.fixture
def store(tmp_path: Path, tiny_pack_moving: Pack) -> Store:
    return people_store(tmp_path, tiny_pack_moving)


@pytest.fixture
def fake() -> FakeGenerator:
    return FakeGenerator()


@pytest.fixture
def http(store: Store, tiny_pack_moving: Pack, fake: FakeGenerator) -> Iterator[TestClient]:
    pack, catalog = tiny_pack_moving, Catalog(store.root)
    client = ImageClient(fake.submit, fake.submit_with_previews, fake.submit_clip, timeout_s=5.0)
    films = Filming(pack, catalog, store, client)
    book = WorkBook(store, {KIND: Kind(do=films.film)}, kept_of, beat_s=0.1)
    routers = work_routes(book), video_routes(Videos(pack, catalog, store, book, films))
    app = create_app(Endpoint(pack, catalog, client, fake.stats), Door(), book, *routers)
    with TestClient(app, raise_server_exceptions=False) as http:  # in `with` the app's lifespan runs
        yield http


@pytest.fixture
def client(http: TestClient) -> openai.OpenAI:
    def send(request: httpx.Request) -> httpx.Response:
        answer = http.request(
            request.method, request.url.raw_path.decode(), content=request.read(), headers=request.headers
        )
        return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)

    transport = httpx.MockTransport(send)
    return openai.OpenAI(base_url="http://test/v1", api_key="x", http_client=httpx.Client(transport=transport))


def test_the_openai_client_makes_polls_fetches_lists_and_deletes(client: openai.OpenAI, store: Store) -> None:
    extra = {"seed": 7, "num_frames": 4, "num_inference_steps": 2}
    made = client.videos.create_and_poll(
        model="ada", prompt="<person> smiling slowly", poll_interval_ms=20, extra_body=extra
    )
    assert (made.status, made.progress, made.object, made.seconds) == ("completed", 100, "video", "0.5")
    assert made.prompt == "<person> smiling slowly" and made.size == "64x64"
    mp4 = client.videos.download_content(made.id).read()
    assert b"trainedAlgorithmicMedia" in mp4, "it says that a model made it"
    frames = decode_mp4(mp4)
    assert frames.shape == (4, 64, 64, 3)
    poster = Image.open(io.BytesIO(client.videos.download_content(made.id, variant="thumbnail").read()))
    assert np.array(poster).mean() == 99
    sheet = Image.open(io.BytesIO(client.videos.download_content(made.id, variant="spritesheet").read()))
    assert sheet.size == (4 * 64, 64)
    again = client.videos.create_and_poll(
        model="ada", prompt="<person> smiling slowly", poll_interval_ms=20, extra_body=extra
    )
    assert again.id != made.id and store.count("videos") == 1  # the same clip is drawn once
    assert [video.id for video in client.videos.list(limit=1)] == [again.id, made.id]  # pages one after the other
    assert client.videos.delete(made.id).deleted and store.count("videos") == 0
    with pytest.raises(openai.NotFoundError):
        client.videos.retrieve(made.id)


@pytest.mark.parametrize("size", ["720x1280", "1280x720"])
def test_a_clip_has_the_size_that_openais_client_asked_for(
    client: openai.OpenAI, http: TestClient, store: Store, size: Literal["720x1280", "1280x720"]
) -> None:
    width, height = map(int, size.split("x"))
    made = client.videos.create_and_poll(
        model="sora-2", prompt="<person:ada> nodding", size=size, poll_interval_ms=20, extra_body={"num_frames": 2}
    )
    assert made.status == "completed" and made.size == size
    drawn = http.get(f"/v1/videos/{made.id}").json()["drawn_size"]
    assert drawn != size and (int(drawn.split("x")[0]) > int(drawn.split("x")[1])) == (width > height)
    frames = decode_mp4(client.videos.download_content(made.id).read())
    assert frames.shape == (2, height, width, 3) and abs(frames.astype(int) - 99).max() <= 2
    poster = client.videos.download_content(made.id, variant="thumbnail").read()
    assert Image.open(io.BytesIO(poster)).size == (width, height) and b"trainedAlgorithmicMedia" in poster
    plain = client.videos.create_and_poll(
        model="ada", prompt="<person:ada> nodding", poll_interval_ms=20, extra_body={"num_frames": 2}
    )
    assert plain.size == "64x64"


@pytest.mark.parametrize(
    ("fields", "param", "says"),
    [
        ({"seconds": 8}, "seconds", "2 to 16 frames"),
        ({"num_frames": 17}, "num_frames", "2 to 16 frames"),
        ({"size": "wide"}, "size", "WIDTHxHEIGHT"),
        ({"size": "511x512"}, "size", "both sides are even"),
        ({"size": "2048x2048"}, "size", "no more pixels than 1792x1024"),
        ({"input_reference": "data:,"}, "input_reference", "leave it out"),
        ({"pose_path": "sideways"}, "pose", "sideways"),
        ({"pose_path": "photo:/etc/passwd"}, "pose", "no pose 'photo:/etc/passwd'"),
        ({"prompt": "<person> and <person:bob>"}, "prompt", "one person"),
        ({"prompt": ""}, "prompt", "at least 1"),
        ({"model": None}, "model", "name an identity"),
        ({"model": "zed"}, "model", "zed"),
        ({"model": "cleo"}, "model", "text encoder"),
        ({"seed": -1}, "seed", "greater"),
    ],
)
def test_what_cannot_be_made_is_told_at_once(
    http: TestClient, store: Store, fields: dict[str, Any], param: str, says: str
) -> None:
    answer = http.post("/v1/videos", json={"model": "ada", "prompt": "<person> nodding"} | fields)
    assert 400 <= answer.status_code < 500, answer.text
    error = error_of(answer)
    assert error["param"] == param and says in error["message"]
    assert store.count("work") == 0


def test_a_clip_under_way_is_told_and_taken_back(http: TestClient, fake: FakeGenerator) -> None:
    fake.endless = True
    made = http.post("/v1/videos", json={"model": "ada", "prompt": "nodding", "num_frames": 4, "odd": 1})
    assert made.headers["x-ignored-fields"] == "odd" and made.headers["openai-poll-after-ms"]
    an_id = made.json()["id"]
    while http.get(f"/v1/videos/{an_id}").json()["progress"] != 50:
        pass
    card = http.get(f"/v1/work/{an_id}").json()
    assert (card["kind"], card["status"], card["queue_position"]) == ("video", "in_progress", None)
    assert card["seconds_left"] is not None
    answer = http.get(f"/v1/videos/{an_id}/content")
    assert answer.status_code == 409 and "in_progress" in error_of(answer)["message"]
    assert [one["id"] for one in http.get("/v1/work", params={"kind": "video"}).json()["data"]] == [an_id]
    assert http.post(f"/v1/work/{an_id}/cancel").json()["status"] == "cancelled"
    assert fake.clips[0].cancelled
    assert http.post("/v1/videos/edits", json={}).status_code == 501


def test_a_failure_is_told_without_the_servers_secrets(http: TestClient, fake: FakeGenerator) -> None:
    fake.error = RuntimeError("/srv/people broke")
    an_id = http.post("/v1/videos", json={"model": "ada", "prompt": "nodding"}).json()["id"]
    while (card := http.get(f"/v1/videos/{an_id}").json())["status"] in ("queued", "in_progress"):
        pass
    assert card["status"] == "failed" and card["error"]["code"] == "internal_error"
    assert "/srv" not in str(card)


def test_who_is_erased_leaves_the_book_too(http: TestClient, store: Store) -> None:
    an_id = http.post("/v1/videos", json={"model": "ada", "prompt": "nodding"}).json()["id"]
    while http.get(f"/v1/videos/{an_id}").json()["status"] != "completed":
        pass
    assert erase(store, find_person(store, name="ada")).found == []
    assert store.count("work") == store.count("videos") == 0
    assert http.get(f"/v1/videos/{an_id}").status_code == 404
    assert http.get(f"/v1/videos/{an_id}/content").status_code == 404


def test_who_is_erased_while_a_clip_is_made_gets_none(http: TestClient, store: Store, fake: FakeGenerator) -> None:
    fake.endless = True
    an_id = http.post("/v1/videos", json={"model": "ada", "prompt": "nodding"}).json()["id"]
    while not fake.clips or http.get(f"/v1/videos/{an_id}").json()["progress"] != 50:
        time.sleep(0.01)
    assert erase(store, find_person(store, name="ada")).found == []
    assert http.post("/v1/videos", json={"model": "ada", "prompt": "nodding"}).status_code == 404, "at once"
    for path in (f"/v1/videos/{an_id}", f"/v1/videos/{an_id}/content", f"/v1/work/{an_id}"):
        assert http.get(path).status_code == 404, "at once"
    while not fake.clips[0].cancelled:  # the next beat sees that its row is gone
        time.sleep(0.01)
    assert store.count("work") == store.count("videos") == 0


def test_a_clip_that_was_drawn_already_is_not_kept_of_who_was_erased(
    http: TestClient, store: Store, fake: FakeGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep, over = Filming._keep, threading.Event()

    def late(self: Filming, *what: Any) -> None:
        try:
            erase(store, find_person(store, name="ada"))
            keep(self, *what)
        finally:
            over.set()

    monkeypatch.setattr(Filming, "_keep", late)
    an_id = http.post("/v1/videos", json={"model": "ada", "prompt": "nodding"}).json()["id"]
    while http.get(f"/v1/videos/{an_id}").status_code != 404:
        time.sleep(0.01)
    assert over.wait(20)  # it is unknown as soon as its row is gone, and the sweep takes longer
    assert store.count("videos") == store.count("work") == 0
    left = [file.read_bytes() for file in Path(store.root).rglob("*") if file.is_file()]
    assert not any(f"{1:016x}".encode() in data for data in left)


def test_the_same_idempotency_key_is_one_clip(http: TestClient) -> None:
    body = {"model": "ada", "prompt": "nodding", "seed": 1}
    ids = {http.post("/v1/videos", json=body, headers={"idempotency-key": "k"}).json()["id"] for _ in range(2)}
    assert len(ids) == 1
    answer = http.post("/v1/videos", json=body | {"seed": 2}, headers={"idempotency-key": "k"})
    assert answer.status_code == 422 and error_of(answer)["code"] == "idempotency_key_reused"
    body = {"model": "ada", "prompt": "nodding"}  # a client that gives no seed, and tries again after a timeout
    made = [http.post("/v1/videos", json=body, headers={"idempotency-key": key}).json() for key in ("l", "l", "m")]
    assert made[0]["id"] == made[1]["id"] != made[2]["id"] and made[0]["seed"] != made[2]["seed"]


def test_a_key_that_comes_again_gives_what_it_began_whatever_has_changed(http: TestClient, store: Store) -> None:
    key, body = {"idempotency-key": "k"}, {"model": "ada", "prompt": "nodding"}  # no seed: one is drawn
    first = http.post("/v1/videos", json=body, headers=key).json()
    while http.get(f"/v1/videos/{first['id']}").json()["status"] != "completed":
        pass
    person = store.read("identities", where="name = 'ada'").to_pylist()[0]
    store.upsert("identities", [person | {"consent": "form", "consent_expires": time.time() - 1}])
    assert http.post("/v1/videos", json=body).status_code == 409, "consent over: nothing new is drawn"
    again = http.post("/v1/videos", json=body, headers=key)
    assert again.status_code == 200 and again.json()["id"] == first["id"] and again.json()["seed"] == first["seed"]
    shown = http.get(f"/v1/videos/{first['id']}/content")
    assert shown.status_code == 409 and error_of(shown)["code"] == "consent_expired", "what was drawn, too"
    assert http.post("/v1/videos", json=body, headers={"idempotency-key": ""}).status_code == 409, "none"
    assert store.count("work") == 1


def test_many_downloads_leave_threads_to_others(http: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    an_id = http.post("/v1/videos", json={"model": "ada", "prompt": "nodding"}).json()["id"]
    while http.get(f"/v1/videos/{an_id}").json()["status"] != "completed":
        pass
    lock, go, at_once, most = threading.Lock(), threading.Event(), [0], [0]

    def slow(*_of: Any) -> bytes:
        with lock:
            at_once[0] += 1
            most[0] = max(most[0], at_once[0])
        go.wait(20)
        with lock:
            at_once[0] -= 1
        return b"sheet"

    monkeypatch.setattr("serve.openai.videos._file", slow)
    with ThreadPoolExecutor(64) as asking:  # more than there are threads in the server
        sheets = [asking.submit(http.get, f"/v1/videos/{an_id}/content?variant=spritesheet") for _ in range(60)]
        try:
            while most[0] < 2:
                time.sleep(0.01)
            assert asking.submit(http.get, f"/v1/videos/{an_id}").result(10).status_code == 200
        finally:
            go.set()
        assert {sheet.result(20).content for sheet in sheets} == {b"sheet"}
    assert most == [2]


def test_a_pack_without_motion_says_so(http: TestClient, tiny_pack: Pack, tmp_path: Path) -> None:
    store = people_store(tmp_path / "other", tiny_pack)
    films = Filming(tiny_pack, Catalog(store.root), store, None)  # type: ignore[arg-type]
    book = WorkBook(store, {KIND: Kind(do=films.film)}, kept_of)
    videos = Videos(tiny_pack, Catalog(store.root), store, book, films)
    app = create_app(Endpoint(tiny_pack, Catalog(store.root), None, None), Door(), book, video_routes(videos))  # type: ignore[arg-type]
    answer = TestClient(app).post("/v1/videos", json={"model": "ada", "prompt": "nodding"})
    assert answer.status_code == 404 and "makes no clips" in error_of(answer)["message"]
