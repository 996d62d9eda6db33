"""POST /v1/videos and what belongs to it, as the openai client's `videos` asks: clips that are made in their time."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import re
import secrets
from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from factory.config import AnimateConfig
from factory.draw.compose import drawn_size
from factory.errors import ConsentExpired, IncompatibleIdentity, SceneRefused
from factory.pack import Pack
from factory.prompts import people_in
from factory.provenance.marks import mark
from factory.provenance.xmp import told
from factory.store.queries import clips
from factory.store.tables import Store
from serve.catalog import Catalog
from serve.filming import KIND, ClipOrder, Filming
from serve.ledger import tell
from serve.openai.body import MAX_BODY, described, first_fault, read_body
from serve.openai.contract import beside_words
from serve.openai.multipart import form_of
from serve.openai.pictures import encode, resized
from serve.openai.ranges import Lately, answer
from serve.openai.schemas import MAX_SEED, MAX_SIDE_PX, MIN_SIDE_PX, RequestRefused, chosen_model, ignoring
from serve.openai.values import Prompt, Real, Whole
from serve.openai.work import AT_ONCE, Limit, Order, as_page, find_page, once_of, poll_headers, work_card
from serve.refusals import UnknownWork
from serve.work import Work, WorkBook

_SIZE = re.compile(r"([0-9]{1,5})x([0-9]{1,5})")
_MOST_PX = 1792 * 1024  # of a frame as it is sent: OpenAI's largest
_MAX_FIELD = 2**20  # bytes of one field; pictures are not taken
_VARIANTS = {"video": ("video", "video/mp4"), "thumbnail": ("poster", "image/png")}


class VideosRequest(BaseModel):
    """POST /v1/videos: OpenAI's fields, then ours. An unknown field is named in x-ignored-fields."""

    model_config = ConfigDict(extra="allow")

    prompt: Prompt = Field(min_length=1, max_length=32_000)  # it names the motion, too
    model: str | None = None  # the identity's name or id
    seconds: Real | None = Field(default=None, gt=0, le=60)  # None: as long as the pack's clips are
    size: str | None = None  # WIDTHxHEIGHT; drawn in the nearest shape that the pack does well, and resampled
    input_reference: Any = None  # refused
    identity: str | None = None  # name or id; overrides `model`
    seed: Whole | None = Field(default=None, ge=0, le=MAX_SEED)
    num_frames: Whole | None = Field(default=None, ge=2, le=64)
    fps: Whole | None = Field(default=None, ge=1, le=60)
    num_inference_steps: Whole | None = Field(default=None, ge=1, le=200)
    guidance_scale: Real | None = Field(default=None, ge=0.0, le=100.0, allow_inf_nan=False)
    negative_prompt: str | None = Field(default=None, max_length=32_000)
    pose_path: str = Field(default="", max_length=1000)  # NAME..NAME of the pack's poses

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, fields: Any) -> Any:
        if not isinstance(fields, dict):
            return fields
        return {k: v for k, v in fields.items() if v is not None and (v != "" or k in ("prompt", "negative_prompt"))}

    @field_validator("input_reference")
    @classmethod
    def _no_reference(cls, value: Any) -> None:
        raise ValueError("clips begin from an identity, not from a picture: leave it out, and name who in `model`")

    @field_validator("size")
    @classmethod
    def _readable(cls, size: str) -> str:
        found = _SIZE.fullmatch(size)
        sides = () if found is None else tuple(map(int, found.groups()))
        if not sides or not all(MIN_SIDE_PX <= side <= MAX_SIDE_PX for side in sides):
            raise ValueError(f"must be WIDTHxHEIGHT, {MIN_SIDE_PX} to {MAX_SIDE_PX} pixels each, as 512x512")
        if any(side % 2 for side in sides) or sides[0] * sides[1] > _MOST_PX:
            raise ValueError("both sides are even, and a frame has no more pixels than 1792x1024")
        return size


class Videos:
    """The handlers of /v1/videos."""

    def __init__(self, pack: Pack, catalog: Catalog, store: Store, book: WorkBook, filming: Filming) -> None:
        self._pack, self._catalog, self._store, self._book, self._filming = pack, catalog, store, book, filming
        self._making, self._lately = asyncio.Semaphore(AT_ONCE), Lately()

    async def create(self, request: Request) -> Response:
        """A clip of one identity, to be polled."""
        body = await _read(request)
        once = once_of(request, body)
        if (work := await self._book.again(KIND, once)) is None:
            seed = secrets.randbelow(MAX_SEED) if once is None else once.seed
            order = await asyncio.to_thread(self._order, body, seed)
            frames = order.config.num_frames  # each is a picture's work
            work = await self._book.submit(KIND, order.model_dump(), [order.identity], once, pictures=frames)
            tell(request, "asked for a clip", [order.identity], prompt=order.prompt)
        unused = ["model"] if body.model and chosen_model(body.model, body.prompt) is None else []
        unused += beside_words(body.prompt, body.negative_prompt)
        headers = ignoring([*(body.model_extra or ()), *unused])
        return JSONResponse(self._card(work), headers={**headers, **poll_headers(work)})

    async def list_all(self, limit: Limit = 20, after: str | None = None, order: Order = "desc") -> dict[str, Any]:
        """Clips that were asked for here, newest first."""
        found = await find_page(self._book, limit, after, order, KIND)
        return as_page([self._card(work) for work in found], limit)

    async def show(self, video_id: str) -> Response:
        """How far a clip is."""
        work = await self._book.find(video_id, KIND)
        return JSONResponse(self._card(work), headers=poll_headers(work))

    async def content(
        self,
        video_id: str,
        request: Request,
        variant: Literal["video", "thumbnail", "spritesheet"] = "video",
    ) -> Response:
        """The finished clip, or a part of it: MP4, its first frame as PNG, or all frames side by side as PNG."""
        work = await self._book.find(video_id, KIND)
        if work.status != "completed":
            raise RequestRefused(f"this clip is {work.status}; its content is there when it is completed", status=409)
        column, media_type = _VARIANTS.get(variant, ("video", "image/png"))
        async with self._making:
            rows = await asyncio.to_thread(clips, self._store, [work.result_id or ""], ["video_id", "people", column])
            if not rows:  # its person was erased
                raise UnknownWork(f"there is no video {video_id[:100]!r}")
            await asyncio.to_thread(self._catalog.check_consents, rows[0]["people"])
            order = ClipOrder.model_validate_json(work.request)
            make = partial(_file, variant, rows[0][column], order, told(json.loads(work.request)))
            data = await self._lately.file((work.work_id, variant), make)
        return answer(data, media_type, request.headers, {})

    async def delete(self, video_id: str) -> dict[str, Any]:
        """Forgets a clip, and takes it back if it is under way."""
        work = await self._book.remove(video_id, KIND)
        self._lately.forget(work.work_id)
        if work.result_id is not None:
            await asyncio.to_thread(self._store.purge, "videos", f"video_id = '{work.result_id}'")
        return {"id": work.work_id, "object": "video.deleted", "deleted": True}

    def _order(self, body: VideosRequest, seed: int) -> ClipOrder:
        """What is asked for, whole; `seed` is for a request without one. Raises RequestRefused, UnknownIdentity,
        IncompatibleIdentity."""
        wanted = body.identity or chosen_model(body.model, body.prompt)
        named = people_in(body.prompt)
        if not wanted and None in named:
            raise RequestRefused("name an identity in `model` (or `identity`); GET /v1/models lists them", "model")
        order = ClipOrder(
            identity=self._catalog.find(wanted or named[0] or "").identity_id,
            prompt=body.prompt,
            seed=seed if body.seed is None else body.seed,
            pose_path=body.pose_path,
            config=self._config(body),
            size=body.size or "",
        )
        try:
            request = self._filming.compose(order)
        except SceneRefused as error:
            raise RequestRefused(error.message, error.about) from None
        except (IncompatibleIdentity, ConsentExpired):
            raise
        except ValueError as error:
            raise RequestRefused(str(error), "pose_path" if body.pose_path else None) from None
        return order.model_copy(update={"identity": request.identity.identity_id})

    def _config(self, body: VideosRequest) -> AnimateConfig:
        defaults, most = self._filming.defaults, self._filming.max_frames
        if not self._filming.possible:
            raise RequestRefused(f"pack {self._pack.name!r} makes no clips", status=404)
        fps = body.fps or defaults.fps
        frames = body.num_frames or defaults.num_frames
        if body.seconds is not None and body.num_frames is None:
            frames = round(body.seconds * fps)
        if not 2 <= frames <= most:
            raise RequestRefused(
                f"{frames} frames: this pack makes clips of 2 to {most} frames, {most / fps:g} s at {fps} a second",
                "seconds" if body.seconds is not None else "num_frames",
            )
        changes: dict[str, Any] = body.model_dump(
            include={"num_inference_steps", "guidance_scale", "negative_prompt"}, exclude_none=True
        )
        if body.size is not None:
            width, height = map(int, body.size.split("x"))
            if width != height:
                sides = drawn_size(width, height, side=(self._pack.video or self._pack).resolution)
                changes |= {"width_px": sides[0], "height_px": sides[1]}
        generate = defaults.generate.model_validate({**defaults.generate.model_dump(), **changes})
        return AnimateConfig(num_frames=frames, fps=fps, generate=generate)

    def _card(self, work: Work) -> dict[str, Any]:
        order = ClipOrder.model_validate_json(work.request)
        config = order.config
        maker = self._pack.video or self._pack
        sides = config.generate.width_px or maker.resolution, config.generate.height_px or maker.resolution
        drawn = f"{sides[0]}x{sides[1]}"
        return work_card(
            work,
            self._book,
            model=order.identity,
            prompt=order.prompt,
            seconds=f"{config.num_frames / config.fps:g}",
            size=order.size or drawn,
            drawn_size=drawn,
            seed=order.seed,
            num_frames=config.num_frames,
            fps=config.fps,
            pose_path=order.pose_path,
        )


def video_routes(videos: Videos) -> APIRouter:
    """The routes of the openai client's `videos`."""
    router, one = APIRouter(), "/v1/videos/{video_id}"
    router.add_api_route("/v1/videos", videos.create, methods=["POST"], openapi_extra=described(VideosRequest))
    router.add_api_route("/v1/videos", videos.list_all, methods=["GET"])
    router.add_api_route(one, videos.show, methods=["GET"], response_model=None)
    router.add_api_route(one, videos.delete, methods=["DELETE"])
    router.add_api_route(f"{one}/content", videos.content, methods=["GET"], response_model=None)
    for path in (f"{one}/remix", "/v1/videos/edits", "/v1/videos/extensions", "/v1/videos/characters"):
        router.add_api_route(path, _refuse, methods=["POST"], include_in_schema=False)
    return router


async def _refuse() -> None:
    """What the openai client has and this server cannot do."""
    raise RequestRefused("clips are not edited here: ask for a new one in POST /v1/videos", status=501)


async def _read(request: Request) -> VideosRequest:
    """JSON, or the form that the openai client sends."""
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        return await read_body(request, VideosRequest)
    too_long = RequestRefused(f"the form is longer than {MAX_BODY} bytes", status=413)
    async with form_of(request, too_long, MAX_BODY, max_files=1, max_fields=100, max_field=_MAX_FIELD) as form:
        fields: Mapping[str, Any] = {name: value for name, value in form.items() if value != ""}
    try:
        return VideosRequest.model_validate(fields)
    except ValidationError as error:
        param, message = first_fault([(fault["loc"], fault["msg"]) for fault in error.errors()])
        raise RequestRefused(message, param) from None


def _file(variant: str, stored: bytes, order: ClipOrder, made: Mapping[str, Any]) -> bytes:
    """A clip or its first frame in the size that was asked for, or all frames side by side as they were drawn."""
    from factory.draw.clips import decode_mp4, encode_mp4  # PyAV

    if variant == "spritesheet":
        return _png(np.concatenate(list(decode_mp4(stored)), axis=1), made)
    if not order.size:
        return mark(stored, made)
    width, height = map(int, order.size.split("x"))
    if variant == "thumbnail":
        return _png(resized(np.asarray(Image.open(io.BytesIO(stored)).convert("RGB")), (width, height)), made)
    frames = decode_mp4(stored)
    if frames.shape[1:3] == (height, width):
        return mark(stored, made)
    return mark(encode_mp4(np.stack([resized(frame, (width, height)) for frame in frames]), order.config.fps), made)


def _png(image: np.ndarray, made: Mapping[str, Any]) -> bytes:
    return base64.b64decode(encode(image, "png", 100, made))
