"""The routes of AUTOMATIC1111's API: what its clients ask at start, and while they draw."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field

from factory.pack import Pack
from serve.a1111.drawing import Painter, owner_of
from serve.a1111.infotext import KEY, parse, read_png
from serve.a1111.schemas import NEAREST, SAMPLERS, Txt2Img
from serve.a1111.tasks import Tasks, TasksOfAll, TaskState
from serve.catalog import Catalog
from serve.openai.body import described, read_body
from serve.openai.images import Endpoint
from serve.openai.pictures import encode
from serve.openai.schemas import RequestRefused, ignoring

_MOST_EMBEDDINGS = 10_000  # people of one answer
_MODULES = ("none", "openpose", "openpose_full", "openpose_face", "openpose_faceonly", "dw_openpose_full")
_EMPTY = (
    *("latent-upscale-modes", "hypernetworks", "loras", "face-restorers", "realesrgan-models", "prompt-styles"),
    *("sd-vae", "sd-modules", "artists", "artist-categories", "extensions"),
)
_NOT_DONE = {
    "img2img": "pictures begin from noise here, not from a picture: ask for txt2img, and for a pose with ControlNet",
    "extra-single-image": "nothing is upscaled here: ask txt2img for the size",
    "extra-batch-images": "nothing is upscaled here: ask txt2img for the size",
    "interrogate": "pictures are not described here",
}


class PngInfo(BaseModel):
    """POST /sdapi/v1/png-info."""

    image: str  # base64, or a data: URL


class ProgressOf(BaseModel):
    """POST /internal/progress."""

    model_config = ConfigDict(extra="ignore")

    id_task: str = Field(default="", max_length=200)
    id_live_preview: int = -1
    live_preview: bool = True


class Options(BaseModel):
    """POST /sdapi/v1/options: the server has none of its own to be set."""

    model_config = ConfigDict(extra="allow")


def a1111_routes(pack: Pack, catalog: Catalog, endpoint: Endpoint, tasks: TasksOfAll | None = None) -> APIRouter:
    """The routes under /sdapi/v1, /internal and /controlnet. Without `tasks` this is the only server."""
    tasks = tasks or TasksOfAll(Tasks())
    painter = Painter(pack, catalog, endpoint.client, endpoint.generations, tasks.own)
    router, api = APIRouter(), "/sdapi/v1"
    fingerprint = pack.fingerprint()

    @router.post(f"{api}/txt2img", response_model=None, openapi_extra=described(Txt2Img))
    async def txt2img(request: Request) -> Response:
        """Pictures of the people whom the prompt names, by <person:NAME> or as embeddings."""
        return await painter.txt2img(request)

    @router.get(f"{api}/sd-models")
    async def list_models() -> list[dict[str, Any]]:
        """The pack, as the only checkpoint."""
        one = {"title": painter.model, "model_name": pack.name, "hash": fingerprint[:10], "sha256": None}
        return [{**one, "filename": f"{pack.name}.safetensors", "config": None}]

    @router.get(f"{api}/samplers")
    async def list_samplers() -> list[dict[str, Any]]:
        """The samplers; an alias is drawn by the sampler whose alias it is."""
        aliases = {name: [SAMPLERS[name], *(a for a, near in NEAREST.items() if near == name)] for name in SAMPLERS}
        return [{"name": name, "aliases": aliases[name], "options": {}} for name in SAMPLERS]

    @router.get(f"{api}/schedulers")
    async def list_schedulers() -> list[dict[str, Any]]:
        """The pack's own schedule."""
        return [
            {"name": "automatic", "label": "Automatic", "aliases": None, "default_rho": -1, "need_inner_model": False}
        ]

    @router.get(f"{api}/upscalers")
    async def list_upscalers() -> list[dict[str, Any]]:
        """None."""
        empty = {"model_name": None, "model_path": None, "model_url": None}
        return [{"name": "None", **empty, "scale": 1}]

    @router.get(f"{api}/embeddings")
    async def list_embeddings() -> dict[str, Any]:
        """The people who can be drawn, by the names that stand for them in prompts."""
        listed = await asyncio.to_thread(catalog.page, fingerprint, _MOST_EMBEDDINGS)
        if not listed:
            return {"loaded": {}, "skipped": {}}
        first = next(iter((await asyncio.to_thread(catalog.find, listed[0].identity_id)).words.values()))
        words = {"vectors": first.shape[0], "shape": first.shape[1]}
        one = {"step": None, "sd_checkpoint": fingerprint[:10], "sd_checkpoint_name": pack.name, **words}
        return {"loaded": {person.handle: one for person in listed}, "skipped": {}}

    @router.get(f"{api}/options")
    async def show_options() -> dict[str, Any]:
        """What A1111's clients look for among its settings."""
        model = {"sd_model_checkpoint": painter.model, "sd_checkpoint_hash": fingerprint[:10], "sd_vae": "Automatic"}
        return {**model, "samples_format": "png", "CLIP_stop_at_last_layers": 1, "show_progress_every_n_steps": 1}

    @router.post(f"{api}/options", openapi_extra=described(Options))
    async def set_options(request: Request) -> JSONResponse:
        """Sets nothing: a checkpoint must be the one that there is, and other settings are named as ignored."""
        given = await read_body(request, Options)
        ignored = painter.check_settings(dict(given.model_extra or {}))
        return JSONResponse(None, headers=ignoring(ignored))

    @router.get(f"{api}/progress")
    async def show_progress(
        request: Request, skip_current_image: bool = False, force_task_id: str | None = None
    ) -> dict[str, Any]:
        """How far what the caller asked for is: all of it together, or the request with this force_task_id."""
        under_way = await tasks.of(owner_of(request), force_task_id)
        shown = await _preview(under_way, skip_current_image)
        return {**_state(under_way), "current_image": shown, "textinfo": None}

    @router.post("/internal/progress", openapi_extra=described(ProgressOf))
    async def show_task(request: Request) -> dict[str, Any]:
        """The same by the id of a task, as A1111's own page asks."""
        asked = await read_body(request, ProgressOf)
        found = await tasks.of(owner_of(request), asked.id_task)
        told = _state(found)
        shown = await _preview(found, not asked.live_preview)
        return {
            "active": bool(found),
            "queued": False,
            "completed": not found,
            "progress": told["progress"],
            "eta": told["eta_relative"],
            "live_preview": None if shown is None else f"data:image/png;base64,{shown}",
            "id_live_preview": asked.id_live_preview if shown is None else asked.id_live_preview + 1,
            "textinfo": None,
        }

    @router.post(f"{api}/interrupt")
    @router.post(f"{api}/skip")
    async def interrupt(request: Request) -> dict[str, Any]:
        """Ends what the caller asked for; what is drawn is answered as it is."""
        await tasks.interrupt(owner_of(request))
        return {}

    @router.post(f"{api}/png-info", openapi_extra=described(PngInfo))
    async def read_info(request: Request) -> dict[str, Any]:
        """What a PNG says of its making."""
        texts = await asyncio.to_thread(read_png, (await read_body(request, PngInfo)).image)
        text = texts.pop(KEY, "")
        return {"info": text, "items": texts, "parameters": parse(text)}

    @router.get(f"{api}/memory")
    async def show_memory() -> dict[str, Any]:
        """Memory of the machine that answers, bytes; that of its GPUs is not told."""
        page, free, total = (os.sysconf(name) for name in ("SC_PAGE_SIZE", "SC_AVPHYS_PAGES", "SC_PHYS_PAGES"))
        ram = {"free": free * page, "used": (total - free) * page, "total": total * page}
        return {"ram": ram, "cuda": {"error": "unavailable"}}

    @router.get(f"{api}/cmd-flags")
    async def show_flags() -> dict[str, Any]:
        """A1111's flags that mean something here."""
        return {"api": True, "nowebui": False, "ckpt": None}

    @router.get(f"{api}/scripts")
    async def list_scripts() -> dict[str, list[str]]:
        """ControlNet, where the pack follows poses."""
        return {"txt2img": ["controlnet"] if "pose" in pack.control else [], "img2img": []}

    @router.get("/controlnet/version")
    async def show_controlnet() -> dict[str, int]:
        """Of the interface."""
        return {"version": 3}

    @router.get("/controlnet/model_list")
    async def list_controls() -> dict[str, list[str]]:
        """The pack's pose control."""
        return {"model_list": [f"{pack.name}_openpose"] if "pose" in pack.control else []}

    @router.get("/controlnet/module_list")
    async def list_modules() -> dict[str, Any]:
        """What a unit's image may be: a ready skeleton, or a photo whose pose is taken over."""
        return {"module_list": list(_MODULES), "module_detail": {}}

    async def nothing() -> list[Any]:
        """There are none."""
        return []

    for name in _EMPTY:
        router.add_api_route(f"{api}/{name}", nothing, methods=["GET"], include_in_schema=False)
    for name in ("refresh-checkpoints", "refresh-loras", "refresh-vae", "refresh-embeddings"):
        router.add_api_route(f"{api}/{name}", nothing, methods=["POST"], include_in_schema=False)
    for name, why in _NOT_DONE.items():
        router.add_api_route(f"{api}/{name}", _refusing(why), methods=["POST"], include_in_schema=False)
    return router


def _refusing(why: str) -> Any:
    async def refuse() -> None:
        raise RequestRefused(why, status=501)

    return refuse


def _state(under_way: list[TaskState]) -> dict[str, Any]:
    """A1111's state of several requests: idle where there is none."""
    num = sum(task.num_images for task in under_way)
    done = sum(task.progress * task.num_images for task in under_way)
    first = under_way[0] if under_way else None
    steps = first.num_steps if first is not None else 0
    state = {
        "skipped": False,
        "interrupted": any(task.interrupted for task in under_way),
        "stopping_generation": False,
        "job": first.task_id if first is not None else "",
        "job_count": num,
        "job_timestamp": first.timestamp if first is not None else "0",
        "job_no": int(done),
        "sampling_step": round(steps * (done % 1)),
        "sampling_steps": steps,
    }
    left_s = max((task.seconds_left for task in under_way), default=0.0)
    progress = min(max(done / num, 0.01), 0.99) if num else 0.0  # 0 says that nobody draws
    return {
        "progress": progress,
        "eta_relative": round(left_s, 2),
        "state": state,
        "current_task": state["job"] or None,
    }


async def _preview(under_way: list[TaskState], skip: bool) -> str | None:
    """The latest look at a picture in the making, as PNG in base64."""
    latest = next((task.preview for task in under_way if task.preview is not None), None)
    return None if skip or latest is None else await asyncio.to_thread(encode, latest, "png", 100)
