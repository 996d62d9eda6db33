"""Images of stored identities. One UNet batch may mix identities, prompts and seeds: an identity is two vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from diffusers import DPMSolverMultistepScheduler

from factory import ids
from factory.base.diffusion import DiffusionBase
from factory.base.text import tokenise, with_person
from factory.config import GenerateConfig
from factory.errors import IncompatibleIdentity
from factory.pack import Pack
from factory.records import TEXT_ENCODER, Identity

OnStep = Callable[[int, int], None]  # denoising steps done, steps in all
_MAX_BATCH = 32  # images of one UNet batch; guidance doubles it


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRequest:
    """One picture to make."""

    identity: Identity
    prompt: str  # with or without <person>
    seed: int
    config: GenerateConfig


def image_id(request: ImageRequest, model: str) -> str:
    """16 hex digits: the same identity, prompt, seed, config and `model` always give the same image.

    `model` is the pack's `model_fingerprint`.
    """
    prompt = with_person(request.prompt)
    return ids.image_id(request.identity.identity_id, prompt, request.seed, request.config, model)


class ImageGenerator:
    """Puts stored identities into any prompt. Not safe for concurrent calls: one instance per worker."""

    def __init__(self, pack: Pack, *, device: str = "cpu", max_batch: int = _MAX_BATCH) -> None:
        """Load the pack's base model. Raises PackError where it is missing or does not fit."""
        self.base = base = DiffusionBase.load(pack, device=device)
        self.max_batch = max_batch
        self.pipeline = base.pipeline
        # DPM-Solver++, as in the paper, whatever scheduler the pack's folder names
        self.pipeline.scheduler = DPMSolverMultistepScheduler.from_config(
            self.pipeline.scheduler.config, algorithm_type="dpmsolver++", solver_order=2
        )

    def generate(self, requests: Sequence[ImageRequest], *, on_step: OnStep | None = None) -> list[np.ndarray]:
        """One image per request, in their order: uint8 [S, S, 3], RGB.

        Requests with the same GenerateConfig share UNet batches of at most `max_batch` images. A request's noise
        comes from its own seed, so that its picture does not depend on the batch (up to rounding).

        Raises:
            IncompatibleIdentity: an identity was learned for another text encoder than this pack's.
        """
        for request in requests:
            self._check(request.identity)
        batches = self._batches(requests)
        steps_in_all = sum(requests[rows[0]].config.num_inference_steps for rows in batches)
        images: list[np.ndarray | None] = [None] * len(requests)
        done = 0
        for rows in batches:
            batch = [requests[row] for row in rows]
            first = done

            def count(step: int, first: int = first) -> None:
                if on_step is not None:
                    on_step(first + step + 1, steps_in_all)

            for row, image in zip(rows, self._generate_batch(batch, count), strict=True):
                images[row] = image
            done += batch[0].config.num_inference_steps
        return [image for image in images if image is not None]

    def _check(self, identity: Identity) -> None:
        if identity.fingerprint != self.base.fingerprint:
            raise IncompatibleIdentity(
                f"identity {identity.name!r} ({identity.identity_id}) was learned with pack {identity.pack!r} "
                f"(text encoder {identity.fingerprint}); this is pack {self.base.pack.name!r} "
                f"({self.base.fingerprint}). Use that pack, or train the identity again with this one."
            )

    def _batches(self, requests: Sequence[ImageRequest]) -> list[list[int]]:
        rows = sorted(range(len(requests)), key=lambda row: requests[row].config.model_dump_json())
        batches: list[list[int]] = []
        for _, same in groupby(rows, key=lambda row: requests[row].config):
            group = list(same)
            batches += [group[first : first + self.max_batch] for first in range(0, len(group), self.max_batch)]
        return batches

    @torch.inference_mode()
    def _generate_batch(self, requests: Sequence[ImageRequest], on_step: Callable[[int], None]) -> list[np.ndarray]:
        base, config = self.base, requests[0].config
        words_BVD = torch.from_numpy(np.stack([request.identity.words[TEXT_ENCODER] for request in requests]))
        prompts = tokenise([with_person(request.prompt) for request in requests], base.tokenizer).to(base.device)
        text_BLD = base.encode_text(prompts, words_BVD.to(base.device, base.exact_dtype))
        negative = tokenise([config.negative_prompt], base.tokenizer).to(base.device)
        negative_BLD = base.encode_text(negative).expand(len(requests), -1, -1)
        shape = (base.num_channels, base.latent_side, base.latent_side)
        noise = [torch.randn(shape, generator=torch.Generator().manual_seed(r.seed)) for r in requests]

        def after_step(_pipe: object, step: int, _timestep: object, tensors: dict[str, object]) -> dict[str, object]:
            on_step(step)
            return tensors

        output = self.pipeline(
            prompt_embeds=text_BLD.to(base.dtype),
            negative_prompt_embeds=negative_BLD.to(base.dtype),
            latents=torch.stack(noise).to(base.device, base.dtype),
            num_inference_steps=config.num_inference_steps,
            guidance_scale=config.guidance_scale,
            height=base.pack.resolution,
            width=base.pack.resolution,
            output_type="np",
            callback_on_step_end=after_step,
        )
        return [(image * 255).round().astype(np.uint8) for image in output.images]
