"""What the tests of the endpoint share: people, a generator without a model, an app without Ray."""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Sequence
from collections.abc import Generator as PyGenerator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from factory.pack import Pack
from factory.records import TEXT_ENCODER, ClipRequest, Identity, ImageRequest, TokenCount
from factory.store.rows import identity_row
from factory.store.tables import Store
from serve.app import create_app
from serve.catalog import Catalog
from serve.client import ImageClient
from serve.drawing import Choice, Preview
from serve.loop import ClipResult, ImageResult, LoopStats
from serve.openai.images import Endpoint
from serve.stopping import Door

SECRET = "/srv/people/identities.lance"  # of the server; no caller may read it


def person(number: int, name: str, fingerprint: str, created_at: str = "2026-01-01T00:00:00+00:00") -> Identity:
    return Identity(
        identity_id=f"{number:016x}",
        face_id=f"photo-{number}-0",
        photo_id=f"photo-{number}",
        name=name,
        words={TEXT_ENCODER: np.random.default_rng(number).normal(scale=0.02, size=(2, 32)).astype(np.float32)},
        pack="tiny",
        fingerprint=fingerprint,
        preset="paper",
        config="{}",
        num_steps=1,
        final_loss=0.0,
        train_s=0.0,
        created_at=created_at,
    )


@dataclass
class FakePending:
    """Stands for Ray's DeploymentResponse."""

    work: Coroutine[Any, Any, ImageResult]
    cancelled: bool = False

    def __await__(self) -> PyGenerator[Any, None, ImageResult]:
        return self.work.__await__()

    def cancel(self) -> None:
        self.cancelled = True


@dataclass
class FakePendingEvents:
    """Stands for Ray's DeploymentResponseGenerator: previews of grey 0, 1, ..., then the picture."""

    pending: FakePending
    num_previews: int

    async def __aiter__(self) -> AsyncIterator[Preview | ImageResult]:
        for number in range(self.num_previews):
            yield number, np.full((64, 64, 3), number, np.uint8)
        yield await self.pending

    def cancel(self) -> None:
        self.pending.cancel()


@dataclass
class FakePendingClip:
    """Stands for Ray's DeploymentResponseGenerator: a quarter, half of the steps, then grey frames."""

    job: ClipRequest
    fake: "FakeGenerator"
    cancelled: bool = False

    async def __aiter__(self) -> AsyncIterator[float | ClipResult]:
        yield 0.25
        yield 0.5
        if self.fake.endless:
            await asyncio.Event().wait()
        if self.fake.error is not None:
            raise self.fake.error
        yield ClipResult(frames=np.full((self.job.config.num_frames, 64, 64, 3), 99, np.uint8), seconds=1.0)

    def cancel(self) -> None:
        self.cancelled = True


def words_of(text: str) -> TokenCount:
    """A text encoder that reads 30 words."""
    given = len(text.split())
    return TokenCount(given=given, read=min(given, 30))


class FakeGenerator:
    """Stands for the replicas: remembers the jobs, paints the seed, raises what it is told to, or takes for ever."""

    def __init__(self) -> None:
        self.jobs: list[ImageRequest] = []
        self.clips: list[FakePendingClip] = []
        self.pending: list[FakePending] = []
        self.error: Exception | None = None
        self.endless = False
        self.endless_after: int | None = None  # pictures
        self.compared: list[tuple[int, str]] = []

    def submit(self, job: ImageRequest) -> FakePending:
        self.pending.append(FakePending(self.work(job)))
        return self.pending[-1]

    async def work(self, job: ImageRequest) -> ImageResult:
        self.jobs.append(job)
        if self.error is not None and len(self.jobs) > 1:
            raise self.error
        stuck = self.endless_after is not None and len(self.jobs) > self.endless_after
        if self.endless or stuck or self.error is not None:
            await asyncio.Event().wait()
        image = np.full((64, 64, 3), job.seed % 256, np.uint8)
        prompt, negative = (words_of(text) for text in (job.prompt, job.config.negative_prompt))
        return ImageResult(
            image=image, rows_per_step=len(self.jobs), seconds=2.5, prompt=prompt, negative_prompt=negative
        )

    def submit_with_previews(self, job: ImageRequest, num_previews: int) -> FakePendingEvents:
        return FakePendingEvents(self.submit(job), num_previews)

    def submit_clip(self, job: ClipRequest) -> FakePendingClip:
        self.clips.append(FakePendingClip(job, self))
        return self.clips[-1]

    async def compare(self, pictures: Sequence[np.ndarray], crop: np.ndarray | None, prompt: str) -> Choice:
        """The last but one, which has no face where none is kept."""
        self.compared.append((len(pictures), prompt))
        return Choice(number=len(pictures) - 2, likeness=None if crop is None else 0.625, clip_t=0.25)

    async def stats(self) -> LoopStats:
        return LoopStats(images=2, steps=4, rows=6, step_s=1.0, most_rows=2, waiting=1)


def people_store(root: Path, tiny_pack: Pack) -> Store:
    """ada and bob, and cleo of another text encoder."""
    store = Store(root)
    mine, other = tiny_pack.fingerprint(), "f" * 16
    people = [person(1, "ada", mine), person(2, "bob", mine, "2026-01-02T00:00:00+00:00"), person(3, "cleo", other)]
    store.upsert("identities", [identity_row(identity) for identity in people])
    return store


def client_of(store: Store, pack: Pack, fake: FakeGenerator, door: Door | None = None) -> TestClient:
    """The endpoint without Ray."""
    submits = fake.submit, fake.submit_with_previews, fake.submit_clip
    client = ImageClient(*submits, timeout_s=5.0, compare=fake.compare)
    app = create_app(Endpoint(pack, Catalog(store.root), client, fake.stats), door or Door())
    return TestClient(app, raise_server_exceptions=False)


@pytest.fixture
def store(tmp_path: Path, tiny_pack: Pack) -> Store:
    return people_store(tmp_path, tiny_pack)


@pytest.fixture
def fake() -> FakeGenerator:
    return FakeGenerator()


@pytest.fixture
def http(store: Store, tiny_pack: Pack, fake: FakeGenerator) -> TestClient:
    return client_of(store, tiny_pack, fake)


def ask(http: TestClient, **fields: Any) -> Any:
    return http.post("/v1/images/generations", json={"model": "ada", "prompt": "<person> in the snow"} | fields)


def error_of(response: Any) -> dict[str, Any]:
    body = response.json()
    assert body.keys() - {"detail"} == {"error"}
    assert body["error"].keys() - {"faces", "photos"} == {"message", "type", "param", "code"}
    return dict(body["error"])
