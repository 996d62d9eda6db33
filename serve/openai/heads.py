"""POST /v1/heads and what belongs to it, in the shape of /v1/videos: heads in 3D that are made in their time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Annotated, Any, Final, Literal, cast

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field, model_validator

from factory.config import SculptConfig
from factory.errors import ConsentExpired, IncompatibleIdentity, SceneRefused
from factory.provenance.marks import beside, mark
from factory.provenance.sidecar import SUFFIX
from factory.settings import sculpt_settings
from factory.store.queries import drop_checkpoints, heads
from factory.store.tables import Store
from serve.catalog import Catalog
from serve.ledger import tell
from serve.modelling import KIND, HeadOrder, Modelling
from serve.openai.body import described, read_body
from serve.openai.contract import beside_words
from serve.openai.ranges import Lately, answer
from serve.openai.schemas import RequestRefused, ignoring
from serve.openai.values import Prompt
from serve.openai.work import AT_ONCE, Limit, Order, as_page, find_page, once_of, poll_headers, work_card
from serve.quotas import head_pictures
from serve.refusals import UnknownWork
from serve.work import Work, WorkBook

HeadFile = Literal["ply", "plain-ply", "spz", "gltf", "mp4", "png"]
_KINDS: Final[dict[str, tuple[str, str]]] = {  # media type, suffix
    "ply": ("application/octet-stream", "ply"),
    "plain-ply": ("application/octet-stream", "plain.ply"),
    "spz": ("application/octet-stream", "spz"),
    "gltf": ("model/gltf-binary", "glb"),
    "mp4": ("video/mp4", "mp4"),
    "png": ("image/png", "png"),
}
_MODELS: Final = ("ply", "plain-ply", "spz", "gltf")


class HeadsRequest(BaseModel):
    """POST /v1/heads. An unknown field is named in x-ignored-fields."""

    model_config = ConfigDict(extra="allow")

    prompt: Prompt = Field(default="a photo of <person>", min_length=1, max_length=32_000)
    model: str | None = None  # the identity's name or id
    identity: str | None = None  # name or id; overrides `model`
    seed: int | None = Field(default=None, ge=0, le=2**31 - 1)
    objective: Literal["ism", "reconstruction"] | None = None
    num_iterations: int | None = Field(default=None, ge=1, le=5000)  # updates
    guidance_scale: float | None = Field(default=None, ge=0.0, le=100.0, allow_inf_nan=False)
    num_gaussians: int | None = Field(default=None, ge=8, le=20_000)  # at the start
    max_gaussians: int | None = Field(default=None, ge=8, le=20_000)
    yaw_limit: float | None = Field(default=None, gt=0.0, le=180.0)  # degrees to either side
    pitch_limit: float | None = Field(default=None, ge=0.0, le=60.0)  # degrees up and down

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, fields: Any) -> Any:
        return {k: v for k, v in fields.items() if v is not None} if isinstance(fields, dict) else fields


class Heads:
    """The handlers of /v1/heads."""

    def __init__(self, catalog: Catalog, store: Store, book: WorkBook, modelling: Modelling) -> None:
        self._catalog, self._store, self._book, self._modelling = catalog, store, book, modelling
        self._making, self._lately = asyncio.Semaphore(AT_ONCE), Lately()

    async def create(self, request: Request) -> Response:
        """A head of one identity, to be polled."""
        body = await read_body(request, HeadsRequest)
        once = once_of(request, body)
        if (work := await self._book.again(KIND, once)) is None:
            order = await asyncio.to_thread(self._order, body)
            cost, asked = head_pictures(order.config), order.model_dump(mode="json")
            work = await self._book.submit(KIND, asked, [order.identity], once, pictures=cost)
            tell(request, "asked for a head", [order.identity], prompt=order.prompt)
        headers = ignoring([*(body.model_extra or ()), *beside_words(body.prompt, None)])
        return JSONResponse(self._card(work), status_code=202, headers={**headers, **poll_headers(work)})

    async def list_all(self, limit: Limit = 20, after: str | None = None, order: Order = "desc") -> dict[str, Any]:
        """Heads that were asked for here, newest first."""
        found = await find_page(self._book, limit, after, order, KIND)
        return as_page([self._card(work) for work in found], limit)

    async def show(self, head_id: str) -> Response:
        """How far a head is."""
        work = await self._book.find(head_id, KIND)
        return JSONResponse(self._card(work), headers=poll_headers(work))

    async def content(
        self,
        head_id: str,
        request: Request,
        file_format: Annotated[HeadFile, Query(alias="format")] = "ply",
        credentials: bool = False,
    ) -> Response:
        """The finished head: its Gaussians (`ply`, `plain-ply`, `spz`, `gltf`), its turntable (`mp4`), or from the
        front (`png`).

        With `credentials` the content credentials of the Gaussians' file, which has no place for them: to be kept
        beside it as NAME.c2pa.
        """
        work = await self._book.find(head_id, KIND)
        if work.status != "completed":
            raise RequestRefused(f"this head is {work.status}; its content is there when it is completed", status=409)
        async with self._making:
            make = await asyncio.to_thread(self._file, work.result_id or "", file_format)
            if make is None:  # its person was erased
                raise UnknownWork(f"there is no head {head_id[:100]!r}")
            data = await self._lately.file((work.work_id, file_format), make)
        media_type, suffix = _KINDS[file_format]
        if credentials:
            signed = await asyncio.to_thread(beside, data)
            if signed is None:
                raise RequestRefused("this server has no certificate", status=404)
            data, media_type, suffix = signed, "application/c2pa", f"{suffix}{SUFFIX}"
        headers = {"content-disposition": f'inline; filename="{work.work_id}.{suffix}"'}
        if not credentials and file_format in _MODELS:
            headers["link"] = f'<?format={file_format}&credentials=true>; rel="c2pa-manifest"'  # as C2PA writes it
        return answer(data, media_type, request.headers, headers)

    async def delete(self, head_id: str) -> dict[str, Any]:
        """Forgets a head, and takes it back if it is under way."""
        work = await self._book.remove(head_id, KIND)
        self._lately.forget(work.work_id)
        if work.result_id is not None:
            await asyncio.to_thread(self._store.purge, "models", f"model_id = '{work.result_id}'")
        else:
            order = HeadOrder.model_validate_json(work.request)
            await asyncio.to_thread(drop_checkpoints, self._store, [self._modelling.id_of(order)])
        return {"id": work.work_id, "object": "head.deleted", "deleted": True}

    def _file(self, an_id: str, file_format: HeadFile) -> Callable[[], bytes] | None:
        """What makes the file of a head that may be given out."""
        from factory.draw.splat_files import SplatFormat, export_head, turntable_mp4

        column = {"png": "poster", "mp4": "turntable"}.get(file_format, "splats")
        rows = heads(self._store, [an_id], [column, "prompt", "identity_id"]).to_pylist()
        if not rows:
            return None
        self._catalog.check_consents([rows[0]["identity_id"]])

        def make() -> bytes:
            data: bytes = rows[0][column]
            if column == "splats":
                data = export_head(data, cast(SplatFormat, file_format))
                if file_format == "plain-ply":
                    return data  # with no word in it, of its making neither
            return mark(turntable_mp4(data) if file_format == "mp4" else data, {"prompt": rows[0]["prompt"]})

        return make

    def _order(self, body: HeadsRequest) -> HeadOrder:
        """What is asked for, whole. Raises RequestRefused, UnknownIdentity, IncompatibleIdentity."""
        wanted = body.identity or body.model
        if not wanted:
            raise RequestRefused("name an identity in `model` (or `identity`); GET /v1/models lists them", "model")
        who = self._catalog.find(wanted).identity_id
        order = HeadOrder(identity=who, prompt=body.prompt, config=_config(body))
        try:
            self._modelling.compose(order)
        except SceneRefused as error:
            raise RequestRefused(error.message, error.about) from None
        except (IncompatibleIdentity, ConsentExpired):
            raise
        except ValueError as error:
            raise RequestRefused(str(error), str(error).partition(" ")[0]) from None
        return order

    def _card(self, work: Work) -> dict[str, Any]:
        order = HeadOrder.model_validate_json(work.request)
        config = order.config
        return work_card(
            work,
            self._book,
            model=order.identity,
            prompt=order.prompt,
            seed=config.seed,
            objective=config.objective,
            num_iterations=config.num_iterations,
            yaw_limit=config.yaw_limit,
            pitch_limit=config.pitch_limit,
        )


def _config(body: HeadsRequest) -> SculptConfig:
    fields = body.model_dump(include=set(SculptConfig.model_fields), exclude_none=True)
    most = max(fields.get("num_gaussians", 0), SculptConfig().max_gaussians)
    return sculpt_settings({"max_gaussians": most, **fields})


def head_routes(heads: Heads) -> APIRouter:
    """The routes of heads."""
    router, one = APIRouter(), "/v1/heads/{head_id}"
    router.add_api_route(
        "/v1/heads", heads.create, methods=["POST"], status_code=202, openapi_extra=described(HeadsRequest)
    )
    router.add_api_route("/v1/heads", heads.list_all, methods=["GET"])
    router.add_api_route(one, heads.show, methods=["GET"], response_model=None)
    router.add_api_route(one, heads.delete, methods=["DELETE"])
    router.add_api_route(f"{one}/content", heads.content, methods=["GET"], response_model=None)
    return router
