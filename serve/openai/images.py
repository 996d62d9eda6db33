"""What each route does. Nothing here knows Ray: pictures come from an ImageClient, identities from a Catalog."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from fastapi import Query, Request
from fastapi.responses import Response

from factory.pack import Pack
from factory.store.quality import quality_cards
from serve.catalog import Catalog, UnknownIdentity
from serve.client import ImageClient
from serve.ledger import tell
from serve.loop import LoopStats
from serve.openai.generations import Generations
from serve.openai.lists import ModelCard, ModelList, Stats, identity_card
from serve.openai.schemas import RequestRefused

MAX_PAGE = 10_000  # identities of one answer


class Endpoint:
    """The handlers: `client` makes pictures, `read_stats` says what was made."""

    def __init__(
        self, pack: Pack, catalog: Catalog, client: ImageClient, read_stats: Callable[[], Awaitable[LoopStats]]
    ) -> None:
        self.pack = pack
        self._fingerprint = pack.fingerprint()
        self.catalog = catalog
        self.client = client
        self.generations = Generations(pack, catalog, client)
        self._read_stats = read_stats

    async def generate_images(self, request: Request) -> Response:
        """Pictures of one identity, in OpenAI's format; see ImagesRequest for the fields."""
        return await self.generations.respond(request)

    async def show_picture(self, file_id: str, request: Request) -> Response:
        """A picture at the address that a request with response_format "url" was given. It expires."""
        return await self.generations.show_picture(file_id, request)

    async def list_models(
        self, limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = MAX_PAGE, after: str | None = None
    ) -> ModelList:
        """The identities that can be asked for with this pack, newest first, from the one that follows `after` on. So
        many by default, as OpenAI's list has no pages, and its client asks for no second one."""
        try:
            listed = await asyncio.to_thread(self.catalog.page, self._fingerprint, limit + 1, after)
        except UnknownIdentity as error:
            raise RequestRefused(str(error), "after") from None
        return ModelList.of(listed, limit)

    async def show_model(self, model: str) -> ModelCard:
        """One identity as a model."""
        return ModelCard.of(await asyncio.to_thread(self.catalog.listed, model))

    async def show_identity(self, identity: str, request: Request, words: bool = False) -> dict[str, Any]:
        """What is known of an identity, by name or id."""
        found = await asyncio.to_thread(self.catalog.find, identity)
        if words:
            found.check_consent(time.time())
            tell(request, "took the words", [found.identity_id])
        an_id = found.identity_id
        good = await asyncio.to_thread(quality_cards, self.catalog.store, [an_id])
        return identity_card(found, compatible=found.fingerprint == self._fingerprint, words=words) | good[an_id]

    async def show_stats(self) -> Stats:
        """What was drawn so far, how many pictures share a step of the engine, and how many wait."""
        return Stats.of(await self._read_stats())

    async def show_health(self) -> dict[str, str]:
        """That the endpoint answers, and which pack it serves."""
        return {"status": "ok", "pack": self.pack.name, "fingerprint": self._fingerprint}
