"""The generation deployment: joins requests for different identities into one UNet batch, one batch at a time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from ray import serve as ray_serve
from ray.util.metrics import Counter, Histogram

from factory.pack import load_pack
from factory.prompts import with_person
from factory.records import ImageRequest, TokenCount
from serve.settings import Settings

_DEFAULTS = Settings()


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageResult:
    """One picture, and the UNet batch it was made in."""

    image: np.ndarray  # uint8 [S, S, 3], RGB
    batch_size: int  # images of that batch
    batch_s: float  # seconds that batch took
    prompt: TokenCount  # of the prompt with <person> in it
    negative_prompt: TokenCount


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratorStats:
    """What a replica, or all of them, has done so far."""

    images: int = 0
    unet_batches: int = 0
    max_batch: int = 0  # images of the largest UNet batch
    batch_sizes: Mapping[int, int] = field(default_factory=dict)  # images of a UNet batch -> how many such batches

    def __add__(self, other: GeneratorStats) -> GeneratorStats:
        sizes = sorted({*self.batch_sizes, *other.batch_sizes})
        return GeneratorStats(
            images=self.images + other.images,
            unet_batches=self.unet_batches + other.unet_batches,
            max_batch=max(self.max_batch, other.max_batch),
            batch_sizes={size: self.batch_sizes.get(size, 0) + other.batch_sizes.get(size, 0) for size in sizes},
        )


@dataclass(slots=True)
class _Ticket:
    """A request on its way through a batch."""

    request: ImageRequest
    cancelled: bool = False  # nobody waits for it any more
    result: ImageResult | ValueError | None = None  # None: not made yet


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
        self._stats = GeneratorStats()
        self._images_made = Counter("identity_factory_images", "Pictures generated")
        self._batches_made = Counter("identity_factory_unet_batches", "UNet batches; images / batches = sharing")
        self._batch_sizes = Histogram(
            "identity_factory_unet_batch_size", "Images in a UNet batch", boundaries=[1, 2, 4, 8, 16, 32]
        )

    async def generate(self, request: ImageRequest) -> ImageResult:
        """Makes one picture, together with whatever else is asked for. Cancelled while it waits, it is never made.

        Raises:
            IncompatibleIdentity: learned for another text encoder than the pack's.
            PromptTooLong: the text encoder would not read its <person>.
        """
        ticket = _Ticket(request)
        async with self._seats:
            await self._idle.wait()
            try:
                await self._batch(ticket)
            except asyncio.CancelledError:
                ticket.cancelled = True
                raise
        if isinstance(ticket.result, ValueError):
            raise ticket.result
        assert ticket.result is not None, "only cancelled requests are left out"
        return ticket.result

    async def stats(self) -> GeneratorStats:
        """What this replica has done so far."""
        return self._stats

    @ray_serve.batch(max_batch_size=_DEFAULTS.max_batch, batch_wait_timeout_s=_DEFAULTS.batch_wait_s)
    async def _batch(self, tickets: list[_Ticket]) -> list[None]:
        self._idle.clear()
        try:
            await asyncio.get_running_loop().run_in_executor(self._worker, self._make, tickets)
        finally:
            self._idle.set()
        return [None] * len(tickets)

    def _make(self, tickets: Sequence[_Ticket]) -> None:
        from factory.draw.images import unet_batches

        for rows in unet_batches([ticket.request for ticket in tickets], len(tickets)):
            self._make_alike([tickets[row] for row in rows])

    def _make_alike(self, tickets: Sequence[_Ticket]) -> None:
        """One UNet batch. A request that cannot be used makes no other one suffer: the rest are made one by one."""
        waiting = [ticket for ticket in tickets if not ticket.cancelled]
        if not waiting:
            return
        start = time.perf_counter()
        try:
            images = self._generator.generate([ticket.request for ticket in waiting])
        except ValueError as error:
            if len(waiting) == 1:
                waiting[0].result = error
                return
            for ticket in waiting:
                self._make_alike([ticket])
            return
        seconds = time.perf_counter() - start
        self._count(len(images))
        for ticket, image in zip(waiting, images, strict=True):
            ticket.result = ImageResult(
                image=image,
                batch_size=len(images),
                batch_s=seconds,
                prompt=self._generator.count_tokens(with_person(ticket.request.prompt)),
                negative_prompt=self._generator.count_tokens(ticket.request.config.negative_prompt),
            )

    def _count(self, num_images: int) -> None:
        done = GeneratorStats(images=num_images, unet_batches=1, max_batch=num_images, batch_sizes={num_images: 1})
        self._stats = self._stats + done
        self._images_made.inc(num_images)
        self._batches_made.inc()
        self._batch_sizes.observe(num_images)
