"""POST /v1/images/generations: what is asked for, composed, drawn, and answered; edits are answered by the same."""

from __future__ import annotations

import asyncio
import secrets
import time
from base64 import b64encode
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from fastapi import Request
from fastapi.responses import JSONResponse, Response

from factory.config import AnimateConfig, GenerateConfig
from factory.pack import Pack
from factory.provenance.marks import mark
from factory.records import ClipRequest, Identity, ImageRequest, TokenCount
from factory.store.quality import crops_of
from serve.assessing import can_measure
from serve.catalog import Catalog, UnknownIdentity
from serve.client import ImageClient
from serve.hosts import address_of
from serve.ledger import tell
from serve.loop import ImageResult
from serve.openai.answers import ImageData, ImagesResponse, Usage
from serve.openai.body import read_body
from serve.openai.events import picture_events, stream
from serve.openai.pictures import as_file, resized
from serve.openai.ranges import answer as file_answer
from serve.openai.scene import Scene, several
from serve.openai.schemas import MAX_SEED, OPENAIS, ImagesRequest, RequestRefused
from serve.reading import PoseReader
from serve.shelf import Shelf

_LONGEST_FRAME_MS = 655_350  # that a GIF can say
_MOST_DRAWN = 32  # pictures of one request, those that are not sent included
_MEDIA_TYPES = {name: f"image/{name}" for name in ("png", "jpeg", "webp", "gif")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request, composed."""

    body: ImagesRequest
    requests: list[ImageRequest]  # one a picture
    people: list[str]  # identity_ids of all who are in them
    shared: dict[str, Any]  # fields that the answer and all events have

    def file_of(self, image: np.ndarray, seed: int) -> bytes:
        """A picture in the size and the format that are asked for; it says how it was made."""
        body = self.body
        return as_file(resized(image, body.size_px()), body.output_format, body.output_compression, body.told(seed))


class Generations:
    """Draws what is asked for, in OpenAI's shape."""

    def __init__(self, pack: Pack, catalog: Catalog, client: ImageClient) -> None:
        self._pack, self._catalog, self._client = pack, catalog, client
        self._defaults = GenerateConfig.model_validate(pack.generate)
        self._scene = Scene(pack, catalog, PoseReader(pack.portable_name()))
        self._shelf = Shelf(catalog.store)

    async def respond(self, request: Request) -> Response:
        """Pictures of one identity; see ImagesRequest for the fields."""
        asked = await self.compose(await read_body(request, ImagesRequest))
        tell(request, "drew", asked.people, asked.body.n, prompt=asked.body.prompt)
        if asked.body.stream:
            return await stream(self.events(asked), notes_on(asked.body))
        return await self.at_once(asked, request)

    async def at_once(self, asked: Asked, request: Request) -> Response:
        """All pictures in one answer."""
        key = request.scope.get("state", {}).get("key")
        answer = await self.answer(asked, address_of(request), "" if key is None else f"?of={key.key_id}")
        return JSONResponse(answer.model_dump(exclude_none=True), headers=notes_on(asked.body, answer))

    def events(self, asked: Asked, method: str = "image_generation") -> AsyncGenerator[str]:
        """Server-sent events while the pictures are drawn; `method` is how their names begin."""
        drawn = self._client.events(asked.requests, asked.body.partial_images)
        shared = {"created_at": int(time.time()), "quality": "auto", **asked.shared}
        seed = asked.requests[0].seed
        return picture_events(drawn, asked.body, seed, shared, lambda: self.check_there(asked), method)

    async def answer(self, asked: Asked, base_url: str = "", of: str = "", *, patient: bool = False) -> ImagesResponse:
        """The pictures, drawn; those at an address (response_format "url") are on the server `base_url`, which ends
        with a "/", and `of` ends their addresses: whose key asked for them. Patient ones come after all others. Raises
        as `ImageClient.images`, and UnknownIdentity."""
        body, now = asked.body, int(time.time())
        rows: list[float | None] = [None] * body.n
        choices: list[dict[str, Any]] = [{}] * body.n
        counts: dict[str, Any] = {}
        if body.output_format == "gif":
            files = await self._clips(asked)
        else:
            results = await self._client.images(asked.requests, patient=patient)
            if body.best_of > 1:
                asked, results, choices = await self._best(asked, results)
            drawn = list(zip(results, asked.requests, strict=True))
            files = await asyncio.to_thread(lambda: [asked.file_of(made.image, order.seed) for made, order in drawn])
            rows = [round(made.rows_per_step, 2) for made in results]
            first = results[0]
            counts = {"prompt_tokens": first.prompt, "negative_prompt_tokens": first.negative_prompt}
            counts["usage"] = Usage.of(first.prompt)
        await self.check_there(asked)
        places = await self._places(base_url, of, asked, files)
        data = [
            ImageData(**{**place, **choice}, seed=picture.seed, rows_per_step=shared)
            for place, picture, shared, choice in zip(places, asked.requests, rows, choices, strict=True)
        ]
        return ImagesResponse(created=now, data=data, **asked.shared, **counts)

    async def _best(
        self, asked: Asked, results: Sequence[ImageResult]
    ) -> tuple[Asked, list[ImageResult], list[dict[str, Any]]]:
        """Of each picture's seeds the best one, and what was measured of it."""
        who, num = asked.requests[0].identity, asked.body.best_of
        crop = (await asyncio.to_thread(crops_of, self._catalog.store, [who])).get(who.identity_id)
        kept, told = list[int](), list[dict[str, Any]]()
        for first in range(0, len(results), num):
            pictures = [result.image for result in results[first : first + num]]
            choice = await self._client.choose(pictures, crop, asked.requests[first].prompt)
            kept.append(first + choice.number)
            like = None if choice.likeness is None else round(choice.likeness, 3)
            told.append({"likeness": like, "clip_t": round(choice.clip_t, 3)})
        return replace(asked, requests=[asked.requests[one] for one in kept]), [results[one] for one in kept], told

    async def compose(self, body: ImagesRequest) -> Asked:
        """What is to be drawn. Raises RequestRefused, UnknownIdentity, IncompatibleIdentity."""
        wanted = body.wanted_identity()
        own = None if wanted is None else await asyncio.to_thread(self._find, wanted)
        picture = await self._scene.compose(
            body.prompt,
            secrets.randbelow(MAX_SEED) if body.seed is None else body.seed,
            body.config(self._defaults),
            own=own,
            size=body.size_px(),
            poses=body.poses(),
            regions=body.regions,
        )
        if body.best_of > 1:
            _check_comparable(body, picture, self._pack)
        config, identity = picture.config, picture.identity
        drawn = config.width_px or self._pack.resolution, config.height_px or self._pack.resolution
        sent = body.size_px() or drawn
        shared = {
            "size": f"{sent[0]}x{sent[1]}",
            "drawn_size": f"{drawn[0]}x{drawn[1]}",
            "output_format": body.output_format,
            "background": "opaque",
            "identity": identity.identity_id,
            "model": identity.name,
            "num_inference_steps": config.num_inference_steps,
            "guidance_scale": config.guidance_scale,
        }
        people = {identity.identity_id, *(region.identity.identity_id for region in picture.regions)}
        return Asked(body=body, requests=several(picture, body.n * body.best_of), people=sorted(people), shared=shared)

    def _find(self, wanted: str) -> Identity:
        try:
            return self._catalog.find(wanted)
        except UnknownIdentity as error:
            if OPENAIS.fullmatch(wanted) is None:
                raise
            text = f"{error}; where a client says `model` by itself, write <person:NAME> in the prompt"
            raise UnknownIdentity(text) from None

    async def check_there(self, asked: Asked) -> None:
        """Raises UnknownIdentity if somebody was erased meanwhile, ConsentExpired: no picture leaves."""
        for who in asked.people:
            (await asyncio.to_thread(self._catalog.find, who)).check_consent(time.time())

    async def show_picture(self, file_id: str, request: Request) -> Response:
        """A picture at the address that a request with response_format "url" was given. It expires."""
        row = await self._shelf.find(file_id)
        await asyncio.to_thread(self._catalog.check_consents, row["people"])
        age_s = max(int(row["expires_at"] - time.time()), 0)
        headers = {"cache-control": f"private, max-age={age_s}", "x-content-type-options": "nosniff"}
        return file_answer(row["content"], _MEDIA_TYPES[row["filename"]], request.headers, headers)

    async def _places(self, base_url: str, of: str, asked: Asked, files: Sequence[bytes]) -> list[dict[str, str]]:
        """Where each picture is: in the answer, or at an address."""
        if asked.body.response_format == "b64_json":
            return await asyncio.to_thread(lambda: [{"b64_json": b64encode(data).decode("ascii")} for data in files])
        ids = await self._shelf.put(files, asked.body.output_format, asked.people)
        return [{"url": f"{base_url}v1/pictures/{file_id}{of}"} for file_id in ids]

    async def _clips(self, asked: Asked) -> list[bytes]:
        """The pictures as GIFs: each a clip of the engine."""
        from factory.draw.clips import encode_gif  # PyAV

        body = asked.body
        frame_ms = min(body.frame_duration_ms, _LONGEST_FRAME_MS)
        orders = [self._clip(picture, body.frame_count, frame_ms) for picture in asked.requests]
        made = [await self._client.clip(order) for order in orders]
        size = body.size_px()

        def encoded() -> list[bytes]:
            gifs = [encode_gif(np.stack([resized(f, size) for f in clip.frames]), frame_ms) for clip in made]
            return [mark(gif, body.told(order.seed)) for gif, order in zip(gifs, orders, strict=True)]

        return await asyncio.to_thread(encoded)

    def _clip(self, picture: ImageRequest, num_frames: int, frame_ms: int) -> ClipRequest:
        maker = self._pack.video or self._pack.motion
        if maker is None:
            raise RequestRefused(f"pack {self._pack.name!r} draws no clips: ask for png, jpeg or webp", "output_format")
        if num_frames > maker.num_frames:
            raise RequestRefused(f"this pack draws clips of 2 to {maker.num_frames} frames", "frame_count")
        if picture.regions:
            raise RequestRefused("a clip shows one person, and this prompt names several", "prompt")
        if picture.pose is not None and self._pack.video is not None:
            raise RequestRefused("clips of this pack follow no poses, and are square", "pose")
        fps = min(max(round(1000 / frame_ms), 1), 60)
        config = AnimateConfig(num_frames=num_frames, fps=fps, generate=picture.config)
        poses = () if picture.pose is None else (picture.pose,) * num_frames
        return ClipRequest(
            identity=picture.identity, prompt=picture.prompt, seed=picture.seed, config=config, poses=poses
        )


def _check_comparable(body: ImagesRequest, picture: ImageRequest, pack: Pack) -> None:
    """Raises RequestRefused where there is no best picture to be found."""
    if not can_measure(pack):
        raise RequestRefused(f"pack {pack.name!r} has nothing to compare pictures with: leave it out", "best_of")
    if body.stream or body.output_format == "gif":
        raise RequestRefused("finished pictures are compared: leave it out of streams and of gif", "best_of")
    if picture.regions:
        raise RequestRefused("one person's likeness is compared, and this prompt names several", "best_of")
    if body.n * body.best_of > _MOST_DRAWN:
        raise RequestRefused(f"n x best_of is {body.n * body.best_of}; {_MOST_DRAWN} are the most", "best_of")
    if picture.seed > MAX_SEED - _MOST_DRAWN:
        raise RequestRefused(f"with best_of it is at most {MAX_SEED - _MOST_DRAWN}", "seed")


def notes_on(body: ImagesRequest, answer: ImagesResponse | None = None) -> dict[str, str]:
    """Headers that tell what was not taken as it was given; events tell of the prompts themselves."""
    headers = {} if answer is None else cut_notes(answer.prompt_tokens, answer.negative_prompt_tokens)
    if ignored := body.ignored_fields():
        headers["x-ignored-fields"] = ignored
    return headers


def cut_notes(prompt: TokenCount | None, negative: TokenCount | None) -> dict[str, str]:
    """Headers that tell how much of prompts was read, where that is not all."""
    cut = {"x-prompt-truncated": prompt, "x-negative-prompt-truncated": negative}
    return {name: f"{num.read} of {num.given} tokens read" for name, num in cut.items() if num and num.read < num.given}
