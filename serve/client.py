"""The ingress's side of drawing: sends requests to the replicas, with a deadline and errors a caller can act on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator, Iterator, Sequence
from contextlib import aclosing, contextmanager, nullcontext
from functools import partial
from typing import Any, Protocol, TypeAlias

import numpy as np
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

from factory.records import ClipRequest, Identity, ImageRequest
from factory.scores import IdentityQuality
from serve.drawing import Choice, Preview
from serve.loop import ClipResult, ImageResult, OnProgress
from serve.quotas import QueueFull as QueueFull
from serve.quotas import Quotas, counted_here
from serve.stopping import Stopping

_PATIENT = 8  # pictures of batches that replicas hold, where nothing else is said
Comparing: TypeAlias = Callable[[Sequence[np.ndarray], np.ndarray | None, str], Awaitable[Choice]]
Event: TypeAlias = tuple[int, Preview | ImageResult]  # which request of several, what came of it


class GenerationTimeout(Exception):
    """The pictures were not ready in time, queue included; those that still waited will not be drawn."""


class GeneratorDown(Exception):
    """No generator replica answers: it is starting, or was lost while it worked."""


class Pending(Protocol):
    """A picture that a replica was asked for: Ray's DeploymentResponse."""

    def __await__(self) -> Generator[Any, None, ImageResult]: ...

    def cancel(self) -> None:
        """Takes the request back from the replica, wherever it is there."""
        ...


class PendingEvents(Protocol):
    """A picture with looks at it: Ray's DeploymentResponseGenerator."""

    def __aiter__(self) -> AsyncIterator[Preview | ImageResult]: ...

    def cancel(self) -> None:
        """As Pending's."""
        ...


class PendingClip(Protocol):
    """A clip, after the shares of its steps that are done: Ray's DeploymentResponseGenerator."""

    def __aiter__(self) -> AsyncIterator[float | ClipResult]: ...

    def cancel(self) -> None:
        """As Pending's."""
        ...


class ImageClient:
    """Asks the replicas for the pictures of one HTTP request after the other."""

    def __init__(
        self,
        submit: Callable[[ImageRequest], Pending],
        submit_with_previews: Callable[[ImageRequest, int], PendingEvents],
        submit_clip: Callable[[ClipRequest], PendingClip],
        *,
        timeout_s: float,
        submit_patiently: Callable[[ImageRequest], Pending] | None = None,
        patient_room: asyncio.Semaphore | None = None,
        quotas: Quotas | None = None,
        compare: Comparing | None = None,
        assess: Callable[[Identity, np.ndarray, float | None], Any] | None = None,
    ) -> None:
        """`submit_patiently` is for batches: such pictures come after all others; None: they are drawn as all are. They
        hold places at the replicas while they wait, so all clients of a server share `patient_room` for them. `quotas`
        are asked before anything is drawn; None: whoever asks gets as much as there is. `compare` is Drawer.choose,
        `assess` Drawer.assess."""
        self._quotas = quotas or Quotas(counted_here(), lasts_s=timeout_s)
        self._submit, self._submit_with_previews, self._submit_clip = submit, submit_with_previews, submit_clip
        self._submit_patiently = submit_patiently or submit
        self._patient_room = patient_room or asyncio.Semaphore(_PATIENT)
        self._timeout_s, self._compare, self._assess = timeout_s, compare, assess
        self._picture_s = 1.0  # of the last picture, the unit of the advice to try again
        self._given_up = False
        self._under_way: set[Callable[[], None]] = set()  # each ends a request at once

    async def images(self, requests: Sequence[ImageRequest], *, patient: bool = False) -> list[ImageResult]:
        """The pictures of one request, which share the engine with whatever else is asked for.

        If one fails, if time is up or if the caller goes away, the others are taken back from the replicas. Patient
        ones, of a batch, come after all others and have no limit of time.

        Raises:
            QueueFull, GenerationTimeout, GeneratorDown, Stopping, IncompatibleIdentity, PromptTooLong
        """
        async with self._quotas.pictures(len(requests), patient=patient):
            return await self._images(requests, patient)

    async def _images(self, requests: Sequence[ImageRequest], patient: bool) -> list[ImageResult]:
        draw = self._patient_image if patient else self._image
        tasks = [asyncio.create_task(draw(request)) for request in requests]
        limit = asyncio.timeout(None if patient else self._timeout_s)
        try:
            with self._told_apart(), self._until_given_up(partial(limit.reschedule, 0.0)):
                async with limit:
                    results = await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
        self._picture_s = results[-1].seconds
        return results

    async def choose(self, pictures: Sequence[np.ndarray], crop: np.ndarray | None, prompt: str) -> Choice:
        """The best of several pictures, as Drawer.choose. Raises GenerationTimeout, GeneratorDown, PackError."""
        assert self._compare is not None
        with self._told_apart():
            async with asyncio.timeout(self._timeout_s):
                return await self._compare(pictures, crop, prompt)

    async def assess(self, identity: Identity, crop: np.ndarray, photo: float | None) -> IdentityQuality:
        """How good an identity is, as Drawer.assess, after all else, so without a limit of time. Raises GeneratorDown,
        Stopping, PackError, IncompatibleIdentity."""
        assert self._assess is not None
        with self._told_apart():
            if self._given_up:
                raise Stopping
            pending = self._assess(identity, crop, photo)
            try:
                found: IdentityQuality = await pending
            except asyncio.CancelledError:
                pending.cancel()
                raise
        return found

    async def events(self, requests: Sequence[ImageRequest], num_previews: int) -> AsyncIterator[Event]:
        """The pictures as they are finished, each after so many looks at its making. Raises as `images`."""
        async with self._quotas.pictures(len(requests)), aclosing(self._events(requests, num_previews)) as events:
            async for event in events:
                yield event

    async def _events(self, requests: Sequence[ImageRequest], num_previews: int) -> AsyncGenerator[Event]:
        queue: asyncio.Queue[Event | Exception | None] = asyncio.Queue()

        async def follow(number: int, request: ImageRequest) -> None:
            pending = self._submit_with_previews(request, num_previews)
            try:
                async for event in pending:
                    queue.put_nowait((number, event))
                queue.put_nowait(None)
            except asyncio.CancelledError:
                pending.cancel()
                raise
            except Exception as error:  # noqa: BLE001 (raised where the events are read)
                queue.put_nowait(error)

        tasks = [asyncio.create_task(follow(*each)) for each in enumerate(requests)]
        # not asyncio.timeout: it belongs to one task, and a response is streamed by another one than began it
        deadline = asyncio.get_running_loop().time() + self._timeout_s
        open_streams = len(tasks)
        try:
            with self._told_apart(), self._until_given_up(lambda: queue.put_nowait(Stopping())):
                while open_streams:
                    left_s = deadline - asyncio.get_running_loop().time()
                    event = await asyncio.wait_for(queue.get(), max(left_s, 0.0))
                    if isinstance(event, Exception):
                        raise event
                    if event is None:
                        open_streams -= 1
                        continue
                    if isinstance(event[1], ImageResult):
                        self._picture_s = event[1].seconds
                    yield event
        finally:
            for task in tasks:
                task.cancel()

    async def clip(
        self, request: ClipRequest, on_progress: OnProgress = lambda _: None, *, paid: bool = False
    ) -> ClipResult:
        """One clip, however long it takes; it is taken back if the caller goes away. `paid`: the book of work, which
        took it in, has asked the quotas.

        Raises:
            QueueFull, GeneratorDown, Stopping, IncompatibleIdentity, PackError, PromptTooLong
        """
        async with nullcontext() if paid else self._quotas.piece(request.config.num_frames):
            return await self._one_clip(request, on_progress)

    async def _one_clip(self, request: ClipRequest, on_progress: OnProgress) -> ClipResult:
        with self._told_apart():
            if self._given_up:
                raise Stopping
            pending = self._submit_clip(request)
            try:
                async for event in pending:
                    if isinstance(event, ClipResult):
                        return event
                    on_progress(event)
            except BaseException:
                pending.cancel()
                raise
        raise GeneratorDown("the generator gave no clip; try again")

    def give_up(self) -> None:
        """Ends all that is under way at once, and whatever comes later: Stopping."""
        self._given_up = True
        for end in self._under_way:
            end()

    async def _image(self, request: ImageRequest) -> ImageResult:
        return await _result(self._submit(request))

    async def _patient_image(self, request: ImageRequest) -> ImageResult:
        async with self._patient_room:
            return await _result(self._submit_patiently(request))

    @contextmanager
    def _told_apart(self) -> Iterator[None]:
        """Ray's errors as ours. Ray replaces an app's own handlers for the first two by plain-text answers, so they
        must not reach the app."""
        try:
            yield
        except TimeoutError as error:
            if self._given_up:
                raise Stopping from error
            raise GenerationTimeout(f"not ready after {self._timeout_s:g} s; it was taken back") from error
        except BackPressureError as error:
            raise QueueFull(min(max(self._picture_s, 0.5), 60.0)) from error
        except (DeploymentUnavailableError, RayActorError) as error:
            raise GeneratorDown("no generator is available just now; try again") from error

    @contextmanager
    def _until_given_up(self, end: Callable[[], None]) -> Iterator[None]:
        if self._given_up:
            raise Stopping
        self._under_way.add(end)
        try:
            yield
        finally:
            self._under_way.discard(end)


async def _result(pending: Pending) -> ImageResult:
    try:
        return await pending
    except asyncio.CancelledError:
        pending.cancel()  # the task that waits is cancelled; what a replica holds must be told
        raise
