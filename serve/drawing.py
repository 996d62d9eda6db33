"""The generation deployment: joins requests for different identities into one UNet batch, one batch at a time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from ray import serve as ray_serve
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.util.metrics import Counter, Histogram

from factory.config import GenerateConfig
from factory.errors import IncompatibleIdentity
from factory.pack import load_pack
from factory.records import Identity
from serve.openai.schemas import RequestRefused, Stats
from serve.settings import Settings

_DEFAULTS = Settings()


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageJob:
    """One picture to make: `factory.draw.images.ImageRequest` for processes that never load torch (the ingress)."""

    identity: Identity
    prompt: str
    seed: int
    config: GenerateConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageResult:
    """One picture, and the UNet batch it was made in."""

    image: np.ndarray  # uint8 [S, S, 3], RGB
    batch_size: int  # images of that batch
    batch_s: float  # seconds that batch took


class QueueFull(Exception):
    """Too many pictures are waiting; try again after `retry_after_s` seconds."""

    def __init__(self, retry_after_s: float) -> None:
        super().__init__(retry_after_s)  # as it came, so that it survives pickling between replicas
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        return f"too many pictures are waiting; try again in {self.retry_after_s:.1f} s"


class GenerationTimeout(Exception):
    """The pictures were not ready in time, queue included; the work was cancelled."""


class GeneratorDown(Exception):
    """No generator replica answers: it is starting, or was lost while it worked."""


class Generator:
    """A replica: one model pack, one UNet batch at a time.

    `@serve.batch` collects what arrives within `batch_wait_s`, but goes on collecting while a batch runs, and what
    it has collected never grows: requests that come one by one during a long batch would each get a batch of their
    own. So requests wait at the door (`_seats`, `_idle`) while the UNet works, and enter together when it is done.
    """

    def __init__(self, pack: str, *, device: str, num_threads: int, max_batch: int, batch_wait_s: float) -> None:
        import torch  # here: only replicas pay for it, not the ingress and not the command line

        from factory.draw.images import ImageGenerator

        # In the thread that computes: OpenMP's number is each thread's own, and Ray starts replicas with 1.
        self._worker = ThreadPoolExecutor(1, "unet", initializer=torch.set_num_threads, initargs=(num_threads,))
        self._generator = ImageGenerator(load_pack(pack), device=device, max_batch=max_batch)
        self._seats = asyncio.Semaphore(max_batch)
        self._idle = asyncio.Event()
        self._idle.set()
        self._batch.set_max_batch_size(max_batch)  # type: ignore[attr-defined]
        self._batch.set_batch_wait_timeout_s(batch_wait_s)  # type: ignore[attr-defined]
        self._stats = Stats()
        self._images_made = Counter("identity_factory_images", "Pictures generated")
        self._batches_made = Counter("identity_factory_unet_batches", "UNet batches; images / batches = sharing")
        self._batch_sizes = Histogram(
            "identity_factory_unet_batch_size", "Images in a UNet batch", boundaries=[1, 2, 4, 8, 16, 32]
        )

    async def generate(self, job: ImageJob) -> ImageResult:
        """Makes one picture, together with whatever else is asked for.

        Raises:
            IncompatibleIdentity: learned for another text encoder than the pack's.
            RequestRefused: the prompt cannot be used.
        """
        async with self._seats:
            await self._idle.wait()
            result: ImageResult | ValueError = await self._batch(job)
        if isinstance(result, IncompatibleIdentity):
            raise result
        if isinstance(result, ValueError):
            raise RequestRefused(str(result), "prompt") from result
        return result

    async def stats(self) -> Stats:
        """What this replica has done so far."""
        return self._stats

    @ray_serve.batch(max_batch_size=_DEFAULTS.max_batch, batch_wait_timeout_s=_DEFAULTS.batch_wait_s)
    async def _batch(self, jobs: list[ImageJob]) -> list[ImageResult | ValueError]:
        self._idle.clear()
        try:
            return await asyncio.get_running_loop().run_in_executor(self._worker, self._make, jobs)
        finally:
            self._idle.set()

    def _make(self, jobs: Sequence[ImageJob]) -> list[ImageResult | ValueError]:
        """Results in the order of `jobs`; jobs with equal sampling settings share a UNet batch."""
        results: dict[int, ImageResult | ValueError] = {}
        for config in dict.fromkeys(job.config for job in jobs):
            rows = [row for row, job in enumerate(jobs) if job.config == config]
            results.update(zip(rows, self._make_alike([jobs[row] for row in rows]), strict=True))
        return [results[row] for row in range(len(jobs))]

    def _make_alike(self, jobs: Sequence[ImageJob]) -> Sequence[ImageResult | ValueError]:
        from factory.draw.images import ImageRequest

        requests = [
            ImageRequest(identity=job.identity, prompt=job.prompt, seed=job.seed, config=job.config) for job in jobs
        ]
        start = time.perf_counter()
        try:
            images = self._generator.generate(requests)
        except ValueError as error:  # one request cannot be used: the others must not suffer for it
            return [error] if len(jobs) == 1 else [result for job in jobs for result in self._make_alike([job])]
        seconds = time.perf_counter() - start
        self._count(len(images))
        return [ImageResult(image=image, batch_size=len(images), batch_s=seconds) for image in images]

    def _count(self, num_images: int) -> None:
        done = Stats(images=num_images, unet_batches=1, max_batch=num_images, batch_sizes={num_images: 1})
        self._stats = self._stats + done
        self._images_made.inc(num_images)
        self._batches_made.inc()
        self._batch_sizes.observe(num_images)


class ImageClient:
    """The ingress's side of generation: sends jobs to the replicas, with a deadline and errors callers can act on."""

    def __init__(self, submit: Callable[[ImageJob], Awaitable[ImageResult]], *, timeout_s: float) -> None:
        self._submit = submit
        self._timeout_s = timeout_s
        self._batch_s = 1.0  # of the last UNet batch, the unit of the advice to try again

    async def images(self, jobs: Sequence[ImageJob]) -> list[ImageResult]:
        """The pictures of one request, which may share a batch. If one fails, the others are cancelled.

        Raises:
            QueueFull, GenerationTimeout, GeneratorDown, IncompatibleIdentity, RequestRefused
        """
        tasks = [asyncio.ensure_future(self._submit(job)) for job in jobs]
        try:
            async with asyncio.timeout(self._timeout_s):
                results = await asyncio.gather(*tasks)
        except TimeoutError as error:
            raise GenerationTimeout(f"not ready after {self._timeout_s:g} s; the work was cancelled") from error
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
