"""POST /v1/images/edits: who is on a photo is learned, or known already, and drawn as the prompt says."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, ClassVar, Final

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import ValidationInfo, field_validator

from serve.ledger import tell
from serve.openai.body import whole
from serve.openai.contract import IMAGES_EDIT, Fates
from serve.openai.events import event_text, stream
from serve.openai.forms import PhotoFields, read_form
from serve.openai.generations import Generations, notes_on
from serve.openai.identities import Identities
from serve.openai.schemas import ImagesRequest, RequestRefused
from serve.unlearned import NotLearned, StillLearning
from serve.uploads import KIND, Uploads
from serve.work import Work, WorkBook

_LOOK_EVERY_S: Final = 0.25
_TELL_EVERY_S: Final = 1.0  # in a stream
METHOD: Final = "image_edit"  # how OpenAI's events are called


class EditsRequest(PhotoFields, ImagesRequest):
    """The fields beside the photo: OpenAI's and ours of generations, and those of an upload.

    `<person>` in the prompt is who is on the photo; `pose` and `regions` are JSON.
    """

    fates: ClassVar[Fates] = IMAGES_EDIT
    model: Any = None
    input_fidelity: Any = None
    mask: Any = None
    markup: Any = None

    @field_validator(*(name for name in IMAGES_EDIT.refused if name != "svg"))  # svg: as of generations
    @classmethod
    def _not_here(cls, _value: Any, info: ValidationInfo) -> None:
        raise ValueError(IMAGES_EDIT.refused[str(info.field_name)])

    @field_validator("identity")
    @classmethod
    def _said_by_the_photo(cls, _value: Any) -> None:
        raise ValueError("the photo says who is drawn: leave it out, or ask /v1/images/generations")

    @field_validator("pose", "regions", mode="before")
    @classmethod
    def _as_json(cls, value: Any) -> Any:
        try:
            return json.loads(value) if isinstance(value, str) else value
        except ValueError:
            raise ValueError("in a form it is JSON") from None


class Edits:
    """The handler."""

    def __init__(
        self, generations: Generations, identities: Identities, uploads: Uploads, book: WorkBook, *, timeout_s: float
    ) -> None:
        self._generations, self._identities, self._uploads = generations, identities, uploads
        self._book, self._timeout_s = book, timeout_s

    async def edit(self, request: Request) -> Response:
        """Pictures of who is on the photo, answered as /v1/images/generations does; a stream tells of the learning."""
        if (key := request.scope.get("state", {}).get("key")) is not None:
            key.check_scope({"draw"})  # the route itself asks for `learn`
        async with self._uploads.room:
            photos, body = await read_form(request, EditsRequest)
            about: dict[str, Any] = {"name": body.name, "preset": body.preset, "consent": body.agreed()}
            if len(photos) > 1:
                self._check_several(body)
                chosen = await self._uploads.order_of_one(photos, same_person=body.same_person, **about)
            else:
                chosen = await self._uploads.order(photos[0], face=body.face, **about)
        who = chosen.order.people[0].identity_id
        named = body.model_copy(update={"identity": who})
        work = None if await self._uploads.known(chosen.order) else await self._identities.submit(chosen)
        del photos, chosen  # learning takes minutes
        tell(request, "learned and drew", [who], body.n, prompt=body.prompt)
        if body.stream:
            return await stream(self._events(work, named), notes_on(body))
        if work is not None:
            async for _ in self._until_learned(work, self._timeout_s):
                pass
        return await self._generations.at_once(await self._generations.compose(named), request)

    def _check_several(self, body: EditsRequest) -> None:
        """Several photos are one person's, as in an upload; whoever means to have several people in one picture is
        refused here where it is not seen that these are several. Raises RequestRefused."""
        if body.face is not None:
            raise RequestRefused("of several photos each shows one person: leave it out", "face")
        if not body.same_person and self._uploads.pack.fr_vit.other_person is None:
            text = "send one photo, or say `same_person` if all of them show one person (this pack cannot tell)"
            raise RequestRefused(text, "image")

    async def _events(self, work: Work | None, body: EditsRequest) -> AsyncGenerator[str]:
        told_at = 0.0
        if work is not None:
            async for now in self._until_learned(work, float("inf")):
                if time.monotonic() - told_at < _TELL_EVERY_S:
                    continue
                told_at = time.monotonic()
                kind, left_s = f"{METHOD}.learning", self._book.seconds_left(now)
                own = {"progress": round(100 * now.progress), "seconds_left": left_s and round(left_s, 1)}
                yield event_text(kind, {"type": kind, "identity": work.people[0], "work": work.work_id, **own})
        async for text in self._generations.events(await self._generations.compose(body), METHOD):
            yield text

    async def _until_learned(self, work: Work, limit_s: float) -> AsyncIterator[Work]:
        """The work as it stands, time and again. Raises NotLearned, StillLearning."""
        deadline = time.monotonic() + limit_s
        while (now := await self._book.find(work.work_id, KIND)).under_way:
            yield now
            if time.monotonic() > deadline:
                raise StillLearning
            await asyncio.sleep(_LOOK_EVERY_S)
        if now.status == "cancelled":
            raise NotLearned("cancelled", "the learning of who is on the photo was taken back")
        if now.error is not None:
            error = json.loads(now.error)
            raise NotLearned(error["code"], error["message"])


def edit_routes(edits: Edits) -> APIRouter:
    """POST /v1/images/edits."""
    router = APIRouter()
    schema = whole(EditsRequest.model_json_schema())
    schema["properties"] = {"image": {"type": "string", "format": "binary"}, **schema["properties"]}
    schema["required"] = ["image", "prompt"]
    inline = {"images": {"type": "array", "items": {"properties": {"image_url": {"type": "string"}}}}}  # data: URIs
    as_json = {**schema, "properties": {**schema["properties"], **inline}, "required": ["images", "prompt"]}
    del as_json["properties"]["image"]
    form = {
        "requestBody": {"content": {"multipart/form-data": {"schema": schema}, "application/json": {"schema": as_json}}}
    }
    router.add_api_route("/v1/images/edits", edits.edit, methods=["POST"], openapi_extra=form)
    return router
