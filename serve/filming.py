"""Clips as work of the endpoint: an order, kept as it was given, becomes a row of `videos`."""

from __future__ import annotations

import asyncio
import time
from typing import Final

import numpy as np
from pydantic import Field

from factory.config import AnimateConfig, Config
from factory.draw.compose import compose_clip, named_pose
from factory.draw.poses import path_between
from factory.errors import PackError, SceneRefused
from factory.ids import video_id
from factory.pack import Pack
from factory.records import ClipRequest
from factory.settings import animate_settings
from factory.store.queries import clips
from factory.store.rows import video_row
from factory.store.tables import Store
from serve.catalog import Catalog
from serve.client import ImageClient, QueueFull
from serve.work import OnProgress, Work

KIND: Final = "video"


class ClipOrder(Config):
    """A clip that is asked for, as it is kept."""

    identity: str  # identity_id
    prompt: str
    seed: int = Field(ge=0)
    pose_path: str = ""  # NAME or NAME..NAME of the pack's poses; empty: none
    config: AnimateConfig
    size: str = ""  # WIDTHxHEIGHT, px, as it is sent; empty: as it is drawn


class Filming:
    """Composes clips for a pack, has them drawn, and stores them."""

    def __init__(self, pack: Pack, catalog: Catalog, store: Store, client: ImageClient) -> None:
        self._pack, self._catalog, self._store, self._client = pack, catalog, store, client
        try:
            self._model: str | None = pack.clip_fingerprint()
        except PackError:  # it makes none, or its weights are not there
            self._model = None
        self.defaults = animate_settings(pack)

    @property
    def possible(self) -> bool:
        """Whether the pack makes clips."""
        return self._model is not None

    @property
    def max_frames(self) -> int:
        """Of a clip."""
        maker = self._pack.video or self._pack.motion
        return 0 if maker is None else maker.num_frames

    def compose(self, order: ClipOrder) -> ClipRequest:
        """Raises UnknownIdentity, SceneRefused, IncompatibleIdentity, or ValueError for a path that is none."""
        if self._model is None:
            raise SceneRefused(f"pack {self._pack.name!r} makes no clips", "prompt")
        poses = []
        if order.pose_path:
            poses = path_between(order.pose_path, lambda stop: [named_pose(self._pack, stop)], order.config.num_frames)
        own = self._catalog.find(order.identity)
        request = compose_clip(
            order.prompt,
            order.seed,
            order.config,
            pack=self._pack,
            own=own,
            find=self._catalog.find,
            poses=poses,
        )
        self._pack.check_fit(request.identity)
        return request

    async def film(self, work: Work, on_progress: OnProgress) -> str:
        """Draws a clip that is not there yet; gives its video_id."""
        order = ClipOrder.model_validate_json(work.request)
        request = await asyncio.to_thread(self.compose, order)
        assert self._model is not None
        an_id = video_id(request, self._model)
        if await asyncio.to_thread(clips, self._store, [an_id], ["video_id"]):
            return an_id
        while True:
            try:
                made = await self._client.clip(request, on_progress, paid=True)
                break
            except QueueFull as full:  # pictures that somebody waits for come first
                await asyncio.sleep(full.retry_after_s)
        await asyncio.to_thread(self._keep, an_id, request, made.frames, order)
        return an_id

    def _keep(self, an_id: str, request: ClipRequest, frames: np.ndarray, order: ClipOrder) -> None:
        from factory.draw.clips import as_clip

        clip = as_clip(an_id, request, frames, prompt=order.prompt, poses=order.pose_path)
        self._catalog.find(order.identity).check_consent(time.time())  # erased meanwhile: UnknownIdentity
        self._store.upsert("videos", [video_row(clip)])
