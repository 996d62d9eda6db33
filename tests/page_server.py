"""The endpoint for the tests in a browser: people of the studio world, its real engine in this process, no Ray."""

from __future__ import annotations

import asyncio
import io
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
from fastapi import FastAPI
from PIL import Image
from starlette.types import ASGIApp

from factory.config import Recipe, SculptConfig
from factory.consent import Consent
from factory.faces.pose import HeadPose
from factory.faces.prepare import Preparer
from factory.pack import load_pack
from factory.records import TEXT_ENCODER, ClipRequest, ImageRequest
from factory.scores import IdentityQuality
from factory.store.rows import face_row, identity_row
from factory.store.tables import Store
from serve.app import create_app
from serve.assessing import KIND as ASSESS
from serve.assessing import Assessing
from serve.catalog import Catalog
from serve.client import ImageClient
from serve.drawing import Drawer, Preview
from serve.filming import KIND as FILM
from serve.filming import Filming
from serve.found import Found
from serve.learning import Learner
from serve.loop import ClipResult, ImageResult
from serve.modelling import KIND as HEAD
from serve.modelling import Modelling
from serve.openai.errors import kept_of
from serve.openai.heads import Heads, head_routes
from serve.openai.identities import Identities, identity_routes
from serve.openai.images import Endpoint
from serve.openai.videos import Videos, video_routes
from serve.openai.work import work_routes
from serve.sculpting import HeadMaker
from serve.stopping import Door
from serve.uploads import KIND as LEARN
from serve.uploads import Uploads
from serve.work import Kind, WorkBook
from studio.training.dataset import held_out
from studio.training.words import true_words
from studio.world.render import render
from studio.world.scenes import sample_scene
from tests.make_people import assessed
from tests.serving import person

FEW_STEPS = 10
NAMES = {100: "Ada", 103: "Bob", 105: "Cleo"}  # held-out people, by their numbers


def photo_of(*numbers: int, seed: int = 5) -> bytes:
    """A plain portrait of held-out people from the front, side by side, PNG; with another seed another one."""
    scene = sample_scene(np.random.default_rng(seed), context="plain", smile=0.1, **asdict(HeadPose()))
    heads = [render(held_out(number), scene, size=256).image for number in numbers]
    buffer = io.BytesIO()
    Image.fromarray(np.concatenate(heads, axis=1)).save(buffer, "PNG")
    return buffer.getvalue()


def write_camera(file: Path) -> Path:
    """What a browser's camera films: a portrait of somebody who is not known, YUV4MPEG2."""
    picture = Image.open(io.BytesIO(photo_of(113))).resize((480, 480)).convert("YCbCr")
    y, u, v = (np.asarray(plane) for plane in picture.split())
    halves = [plane.reshape(240, 2, 240, 2).mean((1, 3)).astype(np.uint8) for plane in (u, v)]
    frame = b"FRAME\n" + b"".join(plane.tobytes() for plane in (y, *halves))
    file.write_bytes(b"YUV4MPEG2 W480 H480 F10:1 Ip A1:1 C420jpeg\n" + 10 * frame)
    return file


def studio_root(root: Path) -> Store:
    """NAMES with their faces, and with their true words: learning them would take longer than all else."""
    store, pack = Store(root), load_pack("studio")
    preparer = Preparer(pack)
    faces = [preparer.prepare(photo_of(number), name=name)[0] for number, name in NAMES.items()]
    words = true_words(pack, [held_out(number) for number in NAMES])
    store.upsert("faces", [face_row(face) for face in faces])
    people = [
        replace(
            person(number, face.name, pack.fingerprint()), face_id=face.face_id, photo_id=face.photo_id,
            words={TEXT_ENCODER: of_them}, pack=pack.name, created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        for number, face, of_them in zip(NAMES, faces, words, strict=True)
    ]  # fmt: skip
    store.upsert("identities", [identity_row(identity) for identity in people])
    good, weak = assessed(people[0]), replace(assessed(people[1], 0.61), verdict="weak")
    store.upsert("quality", [asdict(good), asdict(weak)])
    return store


@dataclass
class Events:
    """Stands for Ray's DeploymentResponseGenerator."""

    source: AsyncIterator[Any]

    def __aiter__(self) -> AsyncIterator[Any]:
        return self.source

    def cancel(self) -> None:
        """The source is closed with the task that reads it."""


class HereLearner:
    """Learns in this process. It loads with the first photo."""

    def __init__(self, root: str) -> None:
        self._root, self._learner = root, cache(lambda: Learner("studio", device="cpu", num_threads=1, slots=2))

    async def prepare(self, data: bytes, name: str, consent: Consent) -> Found:
        return await self._learner().prepare(data, name, consent)

    def learn(self, face_ids: list[str], recipe: Recipe, name: str) -> AsyncIterator[float | str]:
        return self._learner().learn(self._root, face_ids, recipe, name)


class HastySculptor(HeadMaker):
    """Makes a rough head in a few updates, whatever was asked for."""

    def sculpt(
        self, root: str, model_id: str, identity_id: str, prompt: str, config: SculptConfig
    ) -> AsyncIterator[float]:
        rough = config.model_copy(update={"num_iterations": FEW_STEPS, "num_gaussians": 500, "max_gaussians": 500})
        return super().sculpt(root, model_id, identity_id, prompt, rough)


def local_app(store: Store) -> FastAPI:
    """The app on a root, with all that it makes made in this process. People and heads are made in a few steps."""
    pack, catalog = load_pack("studio"), Catalog(store.root)
    drawer = Drawer("studio", device="cpu", num_threads=1, max_batch=8)

    def draw(request: ImageRequest) -> asyncio.Future[ImageResult]:
        return asyncio.ensure_future(drawer.draw(request))

    def draw_with_previews(request: ImageRequest, num_previews: int) -> AsyncIterator[Preview | ImageResult]:
        return Events(drawer.draw_with_previews(request, num_previews))  # type: ignore[return-value]

    def film(request: ClipRequest) -> AsyncIterator[float | ClipResult]:
        return Events(drawer.animate(request))  # type: ignore[return-value]

    def assess(*of: Any) -> asyncio.Future[IdentityQuality]:
        return asyncio.ensure_future(drawer.assess(*of))

    client = ImageClient(
        draw, draw_with_previews, film, timeout_s=120.0, compare=drawer.choose, assess=assess  # type: ignore[arg-type]
    )
    films = Filming(pack, catalog, store, client)
    modelling = Modelling(pack, catalog, store, HastySculptor("studio", device="cpu", num_threads=1))
    hasty = pack.model_copy(update={"train": {**pack.train, "num_steps": FEW_STEPS}})
    uploads = Uploads(hasty, store, HereLearner(store.root))
    assessing = Assessing(store, client, after_s=0.0)
    kinds = {
        FILM: Kind(do=films.film),
        HEAD: Kind(do=modelling.sculpt),
        LEARN: Kind(do=assessing.following(uploads.learn, lambda: book), undo=uploads.forget),
        ASSESS: Kind(do=assessing.assess),
    }
    book = WorkBook(store, kinds, kept_of)
    routers = [
        identity_routes(Identities(catalog, store, book, uploads, pack.fingerprint())),
        work_routes(book),
        video_routes(Videos(pack, catalog, store, book, films)),
        head_routes(Heads(catalog, store, book, modelling)),
    ]
    return create_app(Endpoint(pack, catalog, client, drawer.stats), Door(), book, *routers)


@contextmanager
def served(app: ASGIApp) -> Iterator[str]:
    """The app's address while it is served, by uvicorn in a thread of its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(20)
