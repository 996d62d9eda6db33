"""What the tests of uploads share: a learner without models, an app without Ray."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from starlette.testclient import TestClient

from factory.config import Recipe
from factory.consent import Consent
from factory.errors import PhotoRejected
from factory.faces.people import of_one_person
from factory.ids import content_id, face_id, identity_id
from factory.pack import Pack
from factory.scores import PhotoQuality
from factory.store.rows import face_row, identity_row, refusal_rows
from factory.store.tables import Store
from factory.store.told import UPLOADED
from serve.assessing import KIND as ASSESS
from serve.assessing import Assessing
from serve.catalog import Catalog
from serve.client import GeneratorDown, ImageClient
from serve.found import Found
from serve.ingress import create_app
from serve.openai.edits import Edits, edit_routes
from serve.openai.errors import kept_of
from serve.openai.identities import Identities, identity_routes
from serve.openai.images import Endpoint
from serve.openai.work import work_routes
from serve.stopping import Door
from serve.uploads import KIND, Uploads
from serve.work import Kind, WorkBook
from tests.make_faces import noise_face
from tests.serving import FakeGenerator, people_store, person

MAX_WAITING = 3
BLURRED = PhotoQuality(sharpness=0.3, size=0.75, frontal=1.0, visible=0.9, exposure=1.0)  # of every photo


@dataclass
class FakeLearner:
    """Stands for the learning deployment: a photo b"2 faces" has two, b"no face" none, b"ada:1" and b"ada:2" show one
    person; learns when it is let."""

    store: Store
    pack: Pack
    go: threading.Event = field(default_factory=threading.Event)
    prepared: list[str] = field(default_factory=list)
    learned: list[str] = field(default_factory=list)  # ids of faces
    lost: int = 0  # how often the replica dies on the way
    error: Exception | None = None

    async def prepare(self, data: bytes, name: str, consent: Consent) -> Found:
        self.prepared.append(name)
        photo_id = content_id(data)
        if data == b"no face":
            refused = [(0, PhotoRejected("no_face", "no face scores 0.5 in 64 x 64 pixels"))]
            return Found(faces=[], refused=refusal_rows(photo_id, name, self.pack.name, refused, whole=True))
        faces = []
        for index in range(2 if data.startswith(b"2 faces") else 1):
            ids: dict[str, Any] = {"face_id": face_id(photo_id, index), "photo_id": photo_id, "face_index": index}
            ids["name"] = name if index == 0 else f"{name}-{index}"
            noise = replace(noise_face(int(photo_id[:8], 16) + index, self.pack), quality=BLURRED)
            if b":" in data:  # photos b"ada:1" and b"ada:2" show one person
                looks = noise_face(int(content_id(data.partition(b":")[0])[:8], 16) + index, self.pack)
                noise = replace(noise, features=looks.features)
            faces.append(face_row(replace(noise, consent=consent, **ids)))
        return Found(faces=[{**row, "uri": UPLOADED} for row in faces], refused=[])

    async def learn(self, face_ids: list[str], recipe: Recipe, name: str) -> AsyncIterator[float | str]:
        yield 0.5
        while not self.go.is_set():
            await asyncio.sleep(0.005)
        if self.lost:
            self.lost -= 1
            raise GeneratorDown("the learner is not available just now; try again")
        if self.error is not None:
            raise self.error
        face = of_one_person(self.store.faces(face_ids, pack=self.pack.name))
        an_id = identity_id(face.face_id, recipe, self.pack.learning_fingerprint(), face.face_ids[1:])
        made = person(len(self.learned) + 10, name or face.name, self.pack.fingerprint(), "2026-02-01T00:00:00+00:00")
        of: dict[str, Any] = {"identity_id": an_id, "face_id": face.face_id, "photo_id": face.photo_id}
        of |= {**face.consent.columns(), "more_faces": face.face_ids[1:] or None}
        self.store.upsert("identities", [identity_row(replace(made, **of, pack=self.pack.name))])
        self.learned.append("+".join(face.face_ids))
        yield an_id


@pytest.fixture
def store(tmp_path: Any, tiny_pack: Pack) -> Store:
    return people_store(tmp_path, tiny_pack)


@pytest.fixture
def learner(store: Store, tiny_pack: Pack) -> FakeLearner:
    return FakeLearner(store, tiny_pack)


def serving(
    store: Store,
    pack: Pack,
    learner: FakeLearner,
    fake: FakeGenerator | None = None,
    timeout_s: float = 20.0,
    assess: Any = None,
    assess_after_s: float = 0.0,
    quotas: Any = None,
) -> TestClient:
    """With `assess` whoever is learned is assessed by it."""
    fake, catalog = fake or FakeGenerator(), Catalog(store.root)
    client = ImageClient(fake.submit, fake.submit_with_previews, fake.submit_clip, timeout_s=5.0, assess=assess)
    uploads, assessing = Uploads(pack, store, learner), Assessing(store, client, after_s=assess_after_s)
    learn = uploads.learn if assess is None else assessing.following(uploads.learn, lambda: book)
    kind = Kind(do=learn, undo=uploads.forget, sweep=uploads.sweep, at_once=2, max_waiting=MAX_WAITING)
    book = WorkBook(store, {KIND: kind, ASSESS: Kind(do=assessing.assess)}, kept_of, beat_s=0.1)
    identities = Identities(catalog, store, book, uploads, pack.fingerprint(), quotas)
    endpoint = Endpoint(pack, catalog, client, fake.stats)
    edits = Edits(endpoint.generations, identities, uploads, book, timeout_s=timeout_s)
    app = create_app(endpoint, Door(), book, work_routes(book), identity_routes(identities), edit_routes(edits))
    return TestClient(app, raise_server_exceptions=False)


@pytest.fixture
def http(store: Store, tiny_pack: Pack, learner: FakeLearner) -> Iterator[TestClient]:
    with serving(store, tiny_pack, learner) as http:  # in `with` the app's lifespan runs
        yield http


def upload(http: TestClient, data: bytes = b"a photo", filename: str = "zoe.jpg", **fields: Any) -> Any:
    headers = fields.pop("headers", {})
    return http.post("/v1/identities", files={"image": (filename, data)}, data=fields, headers=headers)


def finished(http: TestClient, work: dict[str, Any]) -> dict[str, Any]:
    """The work when it is over."""
    deadline = time.monotonic() + 20
    while work["status"] in ("queued", "in_progress"):
        assert time.monotonic() < deadline
        time.sleep(0.01)
        work = http.get(f"/v1/work/{work['id']}").json()
    return work


def until(true: Callable[[], bool]) -> None:
    """Work is over shortly before what is left of it is gone."""
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def upload_several(http: TestClient, *photos: bytes, **fields: Any) -> Any:
    files = [("image[]", (f"{number}.jpg", data)) for number, data in enumerate(photos)]
    return http.post("/v1/identities", files=files, data=fields)
