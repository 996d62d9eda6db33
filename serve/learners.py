"""The ingress's side of learning: asks the learning deployment, with errors that a caller can act on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, Protocol

from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from factory.config import Recipe
from factory.consent import Consent
from serve.client import GeneratorDown
from serve.found import Found
from serve.refusals import TooMuchWork

_START_LIMIT_S: Final = 180.0  # of one preparation; with it a replica may have to start


class Learners(Protocol):
    """What prepares and learns: RemoteLearner, or the tests' own."""

    async def prepare(self, data: bytes, name: str, consent: Consent) -> Found:
        """As Learner.prepare."""
        ...

    def learn(self, face_ids: list[str], recipe: Recipe, name: str) -> AsyncIterator[float | str]:
        """As Learner.learn."""
        ...


class RemoteLearner:
    """The learning deployment, for the people of one root. Where none runs yet, Serve starts it with the first call.

    Raises TooMuchWork where its queue is full, GeneratorDown where no replica answers.
    """

    def __init__(self, handle: DeploymentHandle[Any], root: str) -> None:
        self._root = root
        self._prepare: Callable[..., Any] = handle.prepare.remote
        self._learn: Callable[..., Any] = handle.options(stream=True).learn.remote

    async def prepare(self, data: bytes, name: str, consent: Consent) -> Found:
        """As Learner.prepare."""
        with _told_apart():
            async with asyncio.timeout(_START_LIMIT_S):
                found: Found = await self._prepare(data, name, consent)
                return found

    async def learn(self, face_ids: list[str], recipe: Recipe, name: str) -> AsyncIterator[float | str]:
        """As Learner.learn; closing it takes the slot back."""
        with _told_apart():
            pending = self._learn(self._root, face_ids, recipe, name)
            try:
                async for event in pending:
                    yield event
            except BaseException:
                pending.cancel()
                raise


@contextmanager
def _told_apart() -> Iterator[None]:
    try:
        yield
    except (BackPressureError, TimeoutError) as error:
        raise TooMuchWork from error
    except (DeploymentUnavailableError, RayActorError) as error:
        raise GeneratorDown("the learner is not available just now; try again") from error
