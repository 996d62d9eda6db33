"""The drawing deployment: a replica holds a base model and an engine, in which pictures of all callers meet."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from functools import partial
from math import isnan
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import numpy as np
from ray.util.metrics import Counter, Gauge

from factory.pack import load_pack
from factory.records import ClipRequest, Identity, ImageRequest
from factory.scores import IdentityQuality
from factory.settings import assess_settings
from serve.loop import ClipResult, EngineLoop, ImageResult, LoopStats

if TYPE_CHECKING:
    from factory.measure.quality import Scorer

Preview: TypeAlias = tuple[int, np.ndarray]  # which one, from 0; the picture as it is guessed, uint8 [H, W, 3]
Event = TypeVar("Event")
Result = TypeVar("Result")
_STATS_EVERY_S = 5.0  # between two looks for Prometheus


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Which of several pictures is the best, and what was measured of it."""

    number: int  # from 0
    likeness: float | None  # Face Sim to the photo, -1..1; None: no face, in the picture or of the photo
    clip_t: float  # CLIP-T, -1..1


class Drawer:
    """A replica: one model pack, up to `max_batch` pictures in the making, each at its own step."""

    def __init__(self, pack: str, *, device: str, num_threads: int, max_batch: int) -> None:
        import torch  # here: only replicas pay for it, not the ingress and not the command line

        from factory.base.diffusion import DiffusionBase
        from factory.draw.engine import Engine

        engine = Engine(DiffusionBase.load(load_pack(pack), device=device), max_samples=2 * max_batch)
        # In the thread that computes: OpenMP's number is each thread's own, and Ray starts replicas with 1.
        self._start_thread = partial(torch.set_num_threads, num_threads)
        self._loop = EngineLoop(engine, max_rows=max_batch, start_thread=self._start_thread)
        self._pack, self._device = engine.base.pack, device
        self._scorer: Scorer | None = None  # loaded where pictures are first compared, or people assessed
        self._whole_clips: EngineLoop | None = None  # of the pack's text-to-video model, loaded with the first clip
        self._loading = asyncio.Lock()
        self._exported = LoopStats()
        self._made = {
            "images": Counter("identity_factory_images", "Pictures drawn"),
            "steps": Counter("identity_factory_unet_steps", "Steps of the engine"),
            "rows": Counter("identity_factory_unet_rows", "Rows of all steps; rows / steps = pictures that share one"),
            "step_s": Counter("identity_factory_unet_step_s", "Seconds of all steps; / steps = seconds a step"),
        }
        self._waiting = Gauge("identity_factory_waiting", "Pictures that a replica holds and has not begun")
        self._exported_at = float("-inf")

    async def draw(self, request: ImageRequest, tenant: str = "") -> ImageResult:
        """One picture, together with whatever else is asked for, in a tenant's turn.

        Cancelled, its row is free at the next step.

        Raises:
            IncompatibleIdentity: learned for another text encoder than the pack's.
            PromptTooLong: the text encoder would not read its <person>.
        """
        self._export()
        return await asyncio.wrap_future(self._loop.submit(request, tenant=tenant))

    async def draw_patiently(self, request: ImageRequest, tenant: str = "") -> ImageResult:
        """As `draw`, for a batch: whoever else asks comes first."""
        self._export()
        return await asyncio.wrap_future(self._loop.submit(request, tenant=tenant, patient=True))

    async def draw_with_previews(
        self, request: ImageRequest, num_previews: int, tenant: str = ""
    ) -> AsyncIterator[Preview | ImageResult]:
        """As `draw`, with so many looks at the guess of the finished picture before it."""
        self._export()
        loop, events = asyncio.get_running_loop(), asyncio.Queue[Preview | None]()

        def show(number: int, image: np.ndarray) -> None:
            loop.call_soon_threadsafe(events.put_nowait, (number, image))

        made = self._loop.submit(request, tenant=tenant, num_previews=num_previews, on_preview=show)
        future = asyncio.wrap_future(made)
        async for event in until_done(events, future):
            yield event

    async def choose(self, pictures: Sequence[np.ndarray], crop: np.ndarray | None, prompt: str) -> Choice:
        """The best of several pictures, uint8 [H, W, 3], of one person, whose aligned face is `crop` (None: it is not
        kept). Raises PackError where the pack has no judge or no CLIP."""
        scorer, word = await self._scoring(), self._pack.quality.class_word
        chosen, likeness, clip_t = await asyncio.to_thread(scorer.choose, pictures, crop, prompt, word)
        return Choice(number=chosen, likeness=None if isnan(likeness) else likeness, clip_t=clip_t)

    async def assess(
        self, identity: Identity, crop: np.ndarray, photo: float | None, tenant: str = ""
    ) -> IdentityQuality:
        """How good an identity is, as the job `assess` tells it: by pictures that come after all others. `crop` is its
        aligned face, `photo` that one's score. Raises IncompatibleIdentity, PackError."""
        from factory.measure.quality import assessment_protocol, probes

        config, scorer = assess_settings(self._pack), await self._scoring()
        protocol = await asyncio.to_thread(assessment_protocol, self._pack, config)
        drawn = [self.draw_patiently(request, tenant) for request in probes(identity, self._pack, config)]
        pictures = [made.image for made in await asyncio.gather(*drawn)]
        return await asyncio.to_thread(scorer.assess, identity.identity_id, pictures, crop, config, protocol, photo)

    async def _scoring(self) -> Scorer:
        async with self._loading:
            if self._scorer is None:
                self._scorer = await asyncio.to_thread(self._load_scorer)
        return self._scorer

    def _load_scorer(self) -> Scorer:
        from factory.measure.quality import Scorer

        return Scorer(self._pack, device=self._device)

    async def animate(self, request: ClipRequest, tenant: str = "") -> AsyncIterator[float | ClipResult]:
        """One clip, after the shares of its steps that are done. Closed, its rows are free at the next step.

        Raises:
            PackError: the pack makes no clips, or not with poses.
            IncompatibleIdentity, ValueError: as `Engine.add_clip`.
        """
        loop, events = asyncio.get_running_loop(), asyncio.Queue[float | None]()
        maker = self._loop if self._pack.video is None else await self._video_loop()

        def progressed(share: float) -> None:
            loop.call_soon_threadsafe(events.put_nowait, share)

        future = asyncio.wrap_future(maker.submit_clip(request, tenant=tenant, on_progress=progressed))
        async for event in until_done(events, future):
            yield event

    async def _video_loop(self) -> EngineLoop:
        """Of the whole text-to-video model, which is another network than the one of pictures."""
        async with self._loading:
            if self._whole_clips is None:
                self._whole_clips = await asyncio.to_thread(self._load_video)
        return self._whole_clips

    def _load_video(self) -> EngineLoop:
        from factory.draw.engine import Engine
        from factory.draw.video import VideoBase

        base = VideoBase.load(self._pack, device=self._device)
        return EngineLoop(Engine(base, motion=base), max_rows=1, start_thread=self._start_thread)

    async def stats(self) -> LoopStats:
        """What this replica has done so far, and what it is at."""
        self._export()
        return self._loop.stats()

    def _export(self) -> None:
        """Tells Prometheus what has grown, not more often than it asks."""
        now = time.monotonic()
        if now - self._exported_at < _STATS_EVERY_S:
            return
        stats, self._exported_at = self._loop.stats(), now
        for name, counter in self._made.items():
            if grown := getattr(stats, name) - getattr(self._exported, name):
                counter.inc(grown)
        self._waiting.set(stats.waiting)
        self._exported = stats


async def until_done(
    events: asyncio.Queue[Event | None], future: asyncio.Future[Result]
) -> AsyncIterator[Event | Result]:
    """What comes before the result, and the result. Whoever closes it takes the work back."""
    future.add_done_callback(lambda _: events.put_nowait(None))
    try:
        while (event := await events.get()) is not None:
            yield event
        yield await future
    finally:
        future.cancel()
