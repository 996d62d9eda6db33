"""Images of stored identities. One UNet batch may mix identities, prompts and seeds: an identity is two vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from diffusers import DPMSolverMultistepScheduler

from factory.base.diffusion import DiffusionBase
from factory.base.text import count_tokens, tokenise
from factory.config import GenerateConfig
from factory.pack import Pack
from factory.prompts import with_person
from factory.records import TEXT_ENCODER, ImageRequest, TokenCount

OnStep = Callable[[int, int], None]  # denoising steps done, steps in all
_MAX_BATCH = 32  # images of one UNet batch; guidance doubles it


def unet_batches(requests: Sequence[ImageRequest], max_batch: int) -> list[list[int]]:
    """Which requests share a UNet batch, as rows: those with the same config, at most `max_batch`, first come first."""
    alike: dict[GenerateConfig, list[int]] = {}
    for row, request in enumerate(requests):
        alike.setdefault(request.config, []).append(row)
    return [rows[i : i + max_batch] for rows in alike.values() for i in range(0, len(rows), max_batch)]


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
            PromptTooLong: the text encoder would not read the <person> of a prompt.
        """
        for request in requests:
            self.base.pack.check_fit(request.identity)
        batches = unet_batches(requests, self.max_batch)
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

    def count_tokens(self, text: str) -> TokenCount:
        """How much of a text the text encoder reads."""
        return count_tokens(text, self.base.tokenizer)

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
