"""The ingress's side of drawing: sends requests to the replicas, with a deadline and errors a caller can act on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Sequence
from typing import Any, Protocol

from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

from factory.records import ImageRequest
from serve.drawing import ImageResult


class QueueFull(Exception):
    """Too many pictures are waiting; try again after `retry_after_s` seconds."""

    def __init__(self, retry_after_s: float) -> None:
        super().__init__(retry_after_s)  # as it came, so that it survives pickling between replicas
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        return f"too many pictures are waiting; try again in {self.retry_after_s:.1f} s"


class GenerationTimeout(Exception):
    """The pictures were not ready in time, queue included; those that still waited will not be drawn."""


class GeneratorDown(Exception):
    """No generator replica answers: it is starting, or was lost while it worked."""


class Pending(Protocol):
    """A picture that a replica was asked for: Ray's DeploymentResponse."""

    def __await__(self) -> Generator[Any, None, ImageResult]: ...

    def cancel(self) -> None:
        """Takes the request back, also from a replica where it waits."""
        ...


class ImageClient:
    """Asks the replicas for the pictures of one HTTP request after the other."""

    def __init__(self, submit: Callable[[ImageRequest], Pending], *, timeout_s: float) -> None:
        self._submit = submit
        self._timeout_s = timeout_s
        self._batch_s = 1.0  # of the last UNet batch, the unit of the advice to try again

    async def images(self, requests: Sequence[ImageRequest]) -> list[ImageResult]:
        """The pictures of one request, which may share a batch.

        If one fails, if time is up or if the caller goes away, what still waits is taken back from the replicas.

        Raises:
            QueueFull, GenerationTimeout, GeneratorDown, IncompatibleIdentity, PromptTooLong
        """
        tasks = [asyncio.create_task(self._image(request)) for request in requests]
        try:
            async with asyncio.timeout(self._timeout_s):
                results = await asyncio.gather(*tasks)
        except TimeoutError as error:
            raise GenerationTimeout(
                f"not ready after {self._timeout_s:g} s; what was not begun by then was taken back"
            ) from error
        # Ray replaces an app's own handlers for these two by plain-text answers, so they must not reach the app.
        except BackPressureError as error:
            raise QueueFull(min(max(self._batch_s, 0.5), 60.0)) from error
        except (DeploymentUnavailableError, RayActorError) as error:
            raise GeneratorDown("no generator is available just now; try again") from error
        finally:
            for task in tasks:
                task.cancel()
        self._batch_s = results[-1].batch_s
        return results

    async def _image(self, request: ImageRequest) -> ImageResult:
        pending = self._submit(request)
        try:
            return await pending
        except asyncio.CancelledError:
            pending.cancel()  # the task that waits is cancelled; what a replica holds must be told
            raise
