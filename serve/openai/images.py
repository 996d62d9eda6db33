"""What each route does. Nothing here knows Ray: pictures come from an ImageClient, identities from a Catalog."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from fastapi import Query, Request
from fastapi.responses import JSONResponse, Response

from factory.config import GenerateConfig
from factory.pack import Pack
from serve.catalog import Catalog, UnknownIdentity
from serve.client import ImageClient
from serve.loop import LoopStats
from serve.openai.body import read_body
from serve.openai.events import stream
from serve.openai.scene import Scene, several
from serve.openai.schemas import (
    MAX_SEED,
    ImageData,
    ImagesRequest,
    ImagesResponse,
    ModelCard,
    ModelList,
    RequestRefused,
    Stats,
    identity_card,
)
from serve.reading import PoseReader

MAX_PAGE = 10_000  # identities of one answer


class Endpoint:
    """The handlers: `client` makes pictures, `read_stats` says what was made."""

    def __init__(
        self, pack: Pack, catalog: Catalog, client: ImageClient, read_stats: Callable[[], Awaitable[LoopStats]]
    ) -> None:
        self.pack = pack
        self._fingerprint = pack.fingerprint()
        self._defaults = GenerateConfig.model_validate(pack.generate)
        self.catalog = catalog
        self._scene = Scene(pack, catalog, PoseReader(pack.portable_name()))
        self._client = client
        self._read_stats = read_stats

    async def generate_images(self, request: Request) -> Response:
        """Pictures of one identity, in OpenAI's format; see ImagesRequest for the fields."""
        body = await read_body(request, ImagesRequest)
        wanted = body.wanted_identity()
        own = None if wanted is None else await asyncio.to_thread(self.catalog.find, wanted)
        picture = await self._scene.compose(
            body.prompt,
            secrets.randbelow(MAX_SEED) if body.seed is None else body.seed,
            body.config(self._defaults),
            own=own,
            size=body.size_px(),
            poses=body.poses(),
            regions=body.regions,
        )
        requests = several(picture, body.n)
        config, identity = picture.config, picture.identity
        drawn = config.width_px or self.pack.resolution, config.height_px or self.pack.resolution
        sent = body.size_px() or drawn
        people = {who.identity_id for who in (identity, *(region.identity for region in picture.regions))}
        shared: dict[str, Any] = {
            "size": f"{sent[0]}x{sent[1]}",
            "drawn_size": f"{drawn[0]}x{drawn[1]}",
            "output_format": body.output_format,
            "background": "opaque",
            "identity": identity.identity_id,
            "model": identity.name,
            "num_inference_steps": config.num_inference_steps,
            "guidance_scale": config.guidance_scale,
        }
        now = int(time.time())

        async def still_there() -> None:
            for who in people:  # erased meanwhile: no picture leaves
                await asyncio.to_thread(self.catalog.find, who)

        if body.stream:
            events = self._client.events(requests, body.partial_images)
            of_events = {"created_at": now, "quality": "auto", **shared}
            return await stream(events, body, picture.seed, of_events, still_there, _notes(body))
        results = await self._client.images(requests)
        await still_there()

        def encoded() -> list[ImageData]:
            return [ImageData.of(made, picture.seed + i, body) for i, made in enumerate(results)]

        answer = ImagesResponse(
            created=now,
            data=await asyncio.to_thread(encoded),
            prompt_tokens=results[0].prompt,
            negative_prompt_tokens=results[0].negative_prompt,
            **shared,
        )
        return JSONResponse(answer.model_dump(exclude_none=True), headers=_notes(body, answer))

    async def list_models(
        self, limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 1000, after: str | None = None
    ) -> ModelList:
        """The identities that can be asked for with this pack, newest first, from the one that follows `after` on."""
        try:
            listed = await asyncio.to_thread(self.catalog.page, self._fingerprint, limit + 1, after)
        except UnknownIdentity as error:
            raise RequestRefused(str(error), "after") from None
        return ModelList.of(listed, limit)

    async def show_model(self, model: str) -> ModelCard:
        """One identity as a model."""
        return ModelCard.of(await asyncio.to_thread(self.catalog.listed, model))

    async def show_identity(self, identity: str, words: bool = False) -> dict[str, Any]:
        """What is known of an identity, by name or id."""
        found = await asyncio.to_thread(self.catalog.find, identity)
        return identity_card(found, compatible=found.fingerprint == self._fingerprint, words=words)

    async def show_stats(self) -> Stats:
        """What was drawn so far, how many pictures share a step of the engine, and how many wait."""
        return Stats.of(await self._read_stats())

    async def show_health(self) -> dict[str, str]:
        """That the endpoint answers, and which pack it serves."""
        return {"status": "ok", "pack": self.pack.name, "fingerprint": self._fingerprint}


def _notes(body: ImagesRequest, answer: ImagesResponse | None = None) -> dict[str, str]:
    """Headers that tell what was not taken as it was given; events tell of the prompts themselves."""
    headers = {}
    if answer is not None:
        cut = {"x-prompt-truncated": answer.prompt_tokens, "x-negative-prompt-truncated": answer.negative_prompt_tokens}
        headers = {name: f"{num.read} of {num.given} tokens read" for name, num in cut.items() if num.read < num.given}
    if ignored := body.ignored_fields():
        headers["x-ignored-fields"] = ignored
    return headers
