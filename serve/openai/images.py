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
from factory.records import ImageRequest
from serve.catalog import Catalog, UnknownIdentity
from serve.client import ImageClient
from serve.loop import LoopStats
from serve.openai.body import read_body
from serve.openai.events import stream
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

MAX_PAGE = 10_000  # identities of one answer


class Endpoint:
    """The handlers: `client` makes pictures, `read_stats` says what was made."""

    def __init__(
        self, pack: Pack, catalog: Catalog, client: ImageClient, read_stats: Callable[[], Awaitable[LoopStats]]
    ) -> None:
        self._pack = pack
        self._fingerprint = pack.fingerprint()
        self._defaults = GenerateConfig.model_validate(pack.generate)
        self._catalog = catalog
        self._client = client
        self._read_stats = read_stats

    async def generate_images(self, request: Request) -> Response:
        """Pictures of one identity, in OpenAI's format; see ImagesRequest for the fields."""
        body = await read_body(request, ImagesRequest)
        identity = await asyncio.to_thread(self._catalog.find, body.wanted_identity())
        self._pack.check_fit(identity)
        seed = secrets.randbelow(MAX_SEED) if body.seed is None else body.seed
        config = body.config(self._defaults)
        requests = [
            ImageRequest(identity=identity, prompt=body.prompt, seed=seed + i, config=config) for i in range(body.n)
        ]
        drawn, sent = self._pack.resolution, body.side_px(self._pack.resolution)
        shared: dict[str, Any] = {
            "size": f"{sent}x{sent}",
            "drawn_size": f"{drawn}x{drawn}",
            "output_format": body.output_format,
            "background": "opaque",
            "identity": identity.identity_id,
            "model": identity.name,
            "num_inference_steps": config.num_inference_steps,
            "guidance_scale": config.guidance_scale,
        }
        now = int(time.time())

        async def still_there() -> None:
            await asyncio.to_thread(self._catalog.find, identity.identity_id)  # erased meanwhile: no picture leaves

        if body.stream:
            events = self._client.events(requests, body.partial_images)
            of_events = {"created_at": now, "quality": "auto", **shared}
            return await stream(events, body, seed, of_events, still_there, _notes(body))
        results = await self._client.images(requests)
        await still_there()

        def encoded() -> list[ImageData]:
            return [ImageData.of(made, seed + i, body) for i, made in enumerate(results)]

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
            listed = await asyncio.to_thread(self._catalog.page, self._fingerprint, limit + 1, after)
        except UnknownIdentity as error:
            raise RequestRefused(str(error), "after") from None
        return ModelList.of(listed, limit)

    async def show_model(self, model: str) -> ModelCard:
        """One identity as a model."""
        return ModelCard.of(await asyncio.to_thread(self._catalog.listed, model))

    async def show_identity(self, identity: str, words: bool = False) -> dict[str, Any]:
        """What is known of an identity, by name or id."""
        found = await asyncio.to_thread(self._catalog.find, identity)
        return identity_card(found, compatible=found.fingerprint == self._fingerprint, words=words)

    async def show_stats(self) -> Stats:
        """What was drawn so far, how many pictures share a step of the engine, and how many wait."""
        return Stats.of(await self._read_stats())

    async def show_health(self) -> dict[str, str]:
        """That the endpoint answers, and which pack it serves."""
        return {"status": "ok", "pack": self._pack.name, "fingerprint": self._fingerprint}


def _notes(body: ImagesRequest, answer: ImagesResponse | None = None) -> dict[str, str]:
    """Headers that tell what was not taken as it was given; events tell of the prompts themselves."""
    headers = {}
    if answer is not None:
        cut = {"x-prompt-truncated": answer.prompt_tokens, "x-negative-prompt-truncated": answer.negative_prompt_tokens}
        headers = {name: f"{num.read} of {num.given} tokens read" for name, num in cut.items() if num.read < num.given}
    if ignored := body.ignored_fields():
        headers["x-ignored-fields"] = ignored
    return headers
