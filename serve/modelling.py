"""Heads as work of the endpoint: an order, kept as it was given, becomes a row of `models`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, Final, Protocol

from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from factory.config import Config, SculptConfig
from factory.draw.compose import check_views
from factory.errors import SceneRefused
from factory.ids import model_id
from factory.pack import Pack
from factory.prompts import people_in
from factory.records import SculptRequest
from factory.store.tables import Store
from serve.catalog import Catalog
from serve.client import GeneratorDown
from serve.refusals import TooMuchWork
from serve.work import OnProgress, Work

KIND: Final = "head"
_ATTEMPTS: Final = 3  # at a head whose replica is lost: each goes on from the last one's checkpoint
_PAUSE_S: Final = 2.0  # between two


class HeadOrder(Config):
    """A head that is asked for, as it is kept."""

    identity: str  # identity_id
    prompt: str
    config: SculptConfig


class Sculptors(Protocol):
    """What makes heads: RemoteSculptor, or the tests' own."""

    def sculpt(
        self, root: str, model_id: str, identity_id: str, prompt: str, config: SculptConfig
    ) -> AsyncIterator[float]:
        """As HeadMaker.sculpt."""
        ...


class RemoteSculptor:
    """The sculpting deployment. Where none runs yet, Serve starts it with the first call."""

    def __init__(self, handle: DeploymentHandle[Any]) -> None:
        self._sculpt: Callable[..., Any] = handle.options(stream=True).sculpt.remote

    async def sculpt(
        self, root: str, model_id: str, identity_id: str, prompt: str, config: SculptConfig
    ) -> AsyncIterator[float]:
        """As HeadMaker.sculpt; closing it takes the head back.

        Raises TooMuchWork where its queue is full, GeneratorDown where no replica answers.
        """
        pending = self._sculpt(root, model_id, identity_id, prompt, config)
        try:
            async for share in pending:
                yield share
        except BackPressureError as error:
            raise TooMuchWork from error
        except (DeploymentUnavailableError, RayActorError) as error:
            raise GeneratorDown("what sculpts is not available just now; try again") from error
        except BaseException:
            pending.cancel()
            raise


class Modelling:
    """Checks orders of heads for a pack and a root, and has them made."""

    def __init__(self, pack: Pack, catalog: Catalog, store: Store, sculptors: Sculptors) -> None:
        self._pack, self._catalog, self._store, self._sculptors = pack, catalog, store, sculptors
        self._model = pack.model_fingerprint()

    def compose(self, order: HeadOrder) -> SculptRequest:
        """Raises UnknownIdentity, SceneRefused, IncompatibleIdentity, or ValueError for views that the pack does not
        know."""
        if any(people_in(order.prompt)):
            raise SceneRefused("a head is one person's: write <person>, and say who in `model`", "prompt")
        check_views(self._pack, order.config)
        identity = self._catalog.find(order.identity)
        self._pack.check_fit(identity)
        return SculptRequest(identity=identity, prompt=order.prompt, config=order.config)

    def id_of(self, order: HeadOrder) -> str:
        """The model_id of what will come of an order. Raises as `compose`."""
        return model_id(self.compose(order), self._model)

    async def sculpt(self, work: Work, on_progress: OnProgress) -> str:
        """Makes a head that is not there yet; gives its model_id."""
        order = HeadOrder.model_validate_json(work.request)
        an_id = await asyncio.to_thread(self.id_of, order)
        for attempt in range(_ATTEMPTS):
            try:
                async for share in self._sculptors.sculpt(
                    self._store.root, an_id, order.identity, order.prompt, order.config
                ):
                    on_progress(share)
                break
            except GeneratorDown:
                if attempt + 1 == _ATTEMPTS:
                    raise
                await asyncio.sleep(_PAUSE_S)
        return an_id
