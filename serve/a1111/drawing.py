"""POST /sdapi/v1/txt2img: what is asked for, drawn, and answered as A1111 does."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from base64 import b64encode
from dataclasses import replace
from functools import partial
from typing import Any, Final

import numpy as np
from fastapi import Request
from fastapi.responses import JSONResponse, Response
from PIL import Image

from factory.pack import Pack
from factory.prompts import networks, people_in
from factory.provenance.marks import mark, tells_how
from factory.provenance.xmp import SYSTEM
from factory.store.called import called, called_in_any_case
from serve.a1111.infotext import infotext, with_infotext
from serve.a1111.prompts import has_emphasis, has_syntax, plain, with_people
from serve.a1111.schemas import SAMPLERS, Txt2Img
from serve.a1111.tasks import Task, Tasks
from serve.catalog import Catalog
from serve.client import ImageClient
from serve.ledger import tell
from serve.loop import ImageResult
from serve.openai.body import as_body, read_body
from serve.openai.generations import Asked, Generations, cut_notes
from serve.openai.pictures import PNG_LEVEL, resized
from serve.openai.schemas import MAX_IMAGES, ImagesRequest, RequestRefused, ignoring

_PREVIEWS: Final = 3  # looks at each picture in the making, by which progress is told
_MAX_DRAWN_SEED: Final = 2**32 - MAX_IMAGES  # some clients keep seeds in 32 bits, as A1111's own fit
_NOBODY: Final = (
    "the prompt names nobody: write <person:NAME>, or the name as an embedding's; GET /sdapi/v1/embeddings lists them"
)


class Painter:
    """Draws what A1111's clients ask for, with the generations of an endpoint."""

    def __init__(
        self, pack: Pack, catalog: Catalog, client: ImageClient, generations: Generations, tasks: Tasks
    ) -> None:
        self._pack, self._catalog, self._client, self._generations = pack, catalog, client, generations
        self._tasks, self._fingerprint = tasks, pack.fingerprint()

    @property
    def model(self) -> str:
        """The pack as a checkpoint's title."""
        return f"{self._pack.name} [{self._fingerprint[:10]}]"

    def check_settings(self, settings: dict[str, Any]) -> list[str]:
        """Names of settings that mean nothing here. Raises RequestRefused for a checkpoint that is not there."""
        asked = settings.get("sd_model_checkpoint")
        if asked not in (
            None,
            "",
            self.model,
            self._pack.name,
            self._fingerprint[:10],
            f"{self._pack.name}.safetensors",
        ):
            message = f"there is no checkpoint {str(asked)[:100]!r}: this server draws with {self.model!r}"
            raise RequestRefused(message, "sd_model_checkpoint")
        return [name for name in settings if name != "sd_model_checkpoint"]

    async def txt2img(self, request: Request) -> Response:
        """Pictures of the people whom the prompt names; see Txt2Img for the fields."""
        body = await read_body(request, Txt2Img)
        body.check()
        sampler = body.sampler()
        ignored = [*body.ignored(), *(f"override_settings.{n}" for n in self.check_settings(body.override_settings))]
        lost = [f"prompt.{kind}" for kind in dict.fromkeys(networks(body.prompt).values())]
        asked = await self._compose(body, sampler)
        tell(request, "drew", asked.people, body.num_images, prompt=body.prompt)
        with self._tasks.begun(owner_of(request), body.force_task_id, body.num_images, body.steps) as task:
            pictures, cut = await self._draw(asked, task)
        await self._generations.check_there(asked)
        notes = self._notes(body, sampler, ignored) | {_title(name): text for name, text in cut.items()}
        answer = await asyncio.to_thread(self._answer, body, asked, sampler, pictures, notes)
        return JSONResponse(answer, headers=ignoring([*ignored, *lost]) | cut)

    async def _compose(self, body: Txt2Img, sampler: str) -> Asked:
        for known in (called, called_in_any_case):  # as a text encoder reads them, which makes all letters small
            look_up = partial(known, self._catalog.store, fingerprint=self._fingerprint)
            named = await asyncio.to_thread(with_people, body.prompt, look_up)
            if None not in people_in(named):
                break
        if None in people_in(named):
            raise RequestRefused(_NOBODY, "prompt")
        asked = await self._generations.compose(
            as_body(
                {
                    "prompt": named,
                    "n": body.num_images,
                    "size": f"{body.width}x{body.height}",
                    "seed": secrets.randbelow(_MAX_DRAWN_SEED) if body.seed < 0 else body.seed,
                    "num_inference_steps": body.steps,
                    "guidance_scale": body.cfg_scale,
                    "negative_prompt": plain(body.negative_prompt),
                    "pose": body.poses() or None,
                },
                ImagesRequest,  # people's names make a prompt longer
            )
        )
        config = asked.requests[0].config.model_copy(update={"sampler": SAMPLERS[sampler]})
        return replace(asked, requests=[replace(one, config=config) for one in asked.requests])

    async def _draw(self, asked: Asked, task: Task) -> tuple[dict[int, np.ndarray], dict[str, str]]:
        """The pictures by their numbers (uint8 [H, W, 3]), and headers that tell what of the prompt was not read.
        Interrupted, those that are done, and the last look at one that was in the making."""
        pictures: dict[int, np.ndarray] = {}
        cut: dict[str, str] = {}

        async def draw() -> None:
            async for number, event in self._client.events(asked.requests, _PREVIEWS):
                if isinstance(event, ImageResult):
                    pictures[number], task.shares[number] = event.image, 1.0
                    cut.update(cut_notes(event.prompt, event.negative_prompt))
                else:
                    task.shares[number], task.preview = (event[0] + 1) / (_PREVIEWS + 1), event[1]

        task.drawing = asyncio.create_task(draw())
        try:
            await asyncio.wait([task.drawing])
        finally:
            task.drawing.cancel()
        if not task.drawing.cancelled():
            task.drawing.result()  # raises what was raised
        elif not pictures and task.preview is not None:
            pictures[0] = task.preview
        return pictures, cut

    def _answer(
        self, body: Txt2Img, asked: Asked, sampler: str, pictures: dict[int, np.ndarray], notes: dict[str, str]
    ) -> dict[str, Any]:
        numbers = sorted(pictures)
        seeds = [asked.requests[number].seed for number in numbers]
        texts = [self._infotext(body, sampler, seed, notes) for seed in seeds]
        info = {
            "prompt": body.prompt,
            "all_prompts": [body.prompt] * len(seeds),
            "negative_prompt": body.negative_prompt,
            "all_negative_prompts": [body.negative_prompt] * len(seeds),
            "seed": asked.requests[0].seed,
            "all_seeds": seeds,
            "subseed": asked.requests[0].seed,
            "all_subseeds": seeds,
            "subseed_strength": 0,
            "width": body.width,
            "height": body.height,
            "sampler_name": sampler,
            "cfg_scale": body.cfg_scale,
            "steps": body.steps,
            "batch_size": body.batch_size,
            "restore_faces": False,
            "face_restoration_model": None,
            "sd_model_name": self._pack.name,
            "sd_model_hash": self._fingerprint[:10],
            "sd_vae_name": None,
            "sd_vae_hash": None,
            "seed_resize_from_w": -1,
            "seed_resize_from_h": -1,
            "denoising_strength": 0,
            "extra_generation_params": notes,
            "index_of_first_image": 0,
            "infotexts": texts,
            "styles": [],
            "job_timestamp": time.strftime("%Y%m%d%H%M%S", time.gmtime()),
            "clip_skip": 1,
            "is_using_inpainting_conditioning": False,
            "version": SYSTEM,
        }
        sent = zip(numbers, texts, strict=True) if body.send_images else ()
        images = [self._png(pictures[number], asked, number, text) for number, text in sent]
        told = Txt2Img.model_fields.keys() - {"alwayson_scripts", "override_settings"}  # which may hold anything
        parameters = body.model_dump(include=set(told))
        return {"images": images, "parameters": parameters, "info": json.dumps(info)}

    def _notes(self, body: Txt2Img, sampler: str, ignored: list[str]) -> dict[str, str]:
        """What was done in another way than it was asked for, or not at all."""
        asked = body.sampler_name or body.sampler_index
        notes = {} if asked == sampler else {"Sampler asked for": asked}
        if schedule := body.schedule_asked():
            notes |= {"Schedule asked for": schedule, "Schedule used": "the pack's own"}
        if ignored:
            why = body.undone()
            notes["Not done"] = "; ".join(f"{name}: {why[name]}" if name in why else name for name in ignored)
        written = body.prompt, body.negative_prompt
        notes |= {"Emphasis": "not followed"} if any(map(has_emphasis, written)) else {}
        if lost := networks(body.prompt):
            notes["Networks not found"] = ", ".join(lost)
        return notes | ({"Prompt syntax": "not followed"} if any(has_syntax(text) for text in written) else {})

    def _infotext(self, body: Txt2Img, sampler: str, seed: int, notes: dict[str, str]) -> str:
        settings = {
            "Steps": body.steps,
            "Sampler": sampler,
            "Schedule type": "Automatic",
            "CFG scale": f"{body.cfg_scale:g}",
            "Seed": seed,
            "Size": f"{body.width}x{body.height}",
            "Model hash": self._fingerprint[:10],
            "Model": self._pack.name,
            **notes,
            "Version": SYSTEM,
        }
        return infotext(body.prompt, body.negative_prompt, settings)

    def _png(self, image: np.ndarray, asked: Asked, number: int, text: str) -> str:
        picture = Image.fromarray(resized(image, asked.body.size_px()))
        data = with_infotext(picture, text if tells_how() else "", PNG_LEVEL)
        return b64encode(mark(data, asked.body.told(asked.requests[number].seed))).decode("ascii")


def owner_of(request: Request) -> str:
    """Whose request this is: of a key, or of an address."""
    key = getattr(request.state, "key", None)
    return f"key {key.key_id}" if key is not None else f"address {request.client.host if request.client else ''}"


def _title(header: str) -> str:
    """A header as a setting of an infotext: x-prompt-truncated is "Prompt truncated"."""
    return header.removeprefix("x-").replace("-", " ").capitalize()
