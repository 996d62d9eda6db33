"""Images of stored identities: any number of requests through one engine, a row each."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from factory.base.diffusion import DiffusionBase
from factory.draw.engine import Engine
from factory.draw.rows import Row
from factory.pack import Pack
from factory.records import ImageRequest

OnStep = Callable[[int, int], None]  # denoising steps done, steps in all, of all pictures together
_MAX_BATCH = 32  # pictures in the making at a time; guidance doubles their samples


class ImageGenerator:
    """Puts stored identities into any prompt. Not safe for concurrent calls: one instance per worker."""

    def __init__(self, pack: Pack, *, device: str = "cpu", max_batch: int = _MAX_BATCH) -> None:
        """Load the pack's base model. Raises PackError where it is missing or does not fit."""
        self.base = DiffusionBase.load(pack, device=device)
        self.max_batch = max_batch
        self.engine = Engine(self.base, max_samples=2 * max_batch)

    def generate(self, requests: Sequence[ImageRequest], *, on_step: OnStep | None = None) -> list[np.ndarray]:
        """One image per request, in their order: uint8 [H, W, 3], RGB.

        A request whose picture is finished makes room for the next one at once. Its noise comes from its own seed, so
        that its picture does not depend on the others (up to rounding).

        Raises:
            IncompatibleIdentity: an identity was learned for another text encoder than this pack's.
            PromptTooLong: the text encoder would not read the <person> of a prompt.
        """
        for request in requests:
            self.base.pack.check_fit(request.identity)
        steps_in_all = sum(request.config.num_inference_steps for request in requests)
        images: list[np.ndarray | None] = [None] * len(requests)
        in_the_making: dict[Row, int] = {}
        done = entered = 0
        while done < steps_in_all:
            room = self.max_batch - len(in_the_making)
            new = range(entered, min(entered + room, len(requests)))
            in_the_making |= zip(self.engine.add([requests[number] for number in new]), new, strict=True)
            entered = new.stop
            done += len(in_the_making)
            finished = self.engine.step()
            for row, image in zip(finished, self.engine.decode([row.x_CHW for row in finished]), strict=True):
                images[in_the_making.pop(row)] = image
            if on_step is not None:
                on_step(done, steps_in_all)
        return [image for image in images if image is not None]
