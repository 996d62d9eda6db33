"""Routes that show what a root holds: pictures, faces, poses, jobs. They only read."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import re
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from math import isnan
from typing import Annotated, Any, Final

import numpy as np
from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from PIL import Image

from factory.draw.compose import named_pose, takes_heads
from factory.errors import SceneRefused
from factory.faces.pose import draw_skeleton
from factory.pack import Pack
from factory.provenance.marks import mark
from factory.store.jobs import JobRecord, list_jobs, read_report
from factory.store.queries import face_pictures, image_page, likeness_of, pictures
from factory.store.rows import decode_png, encode_png
from serve.catalog import Catalog
from serve.openai.ranges import is_known
from serve.openai.schemas import RequestRefused

MAX_PAGE: Final = 500  # images of one answer
_THUMBNAIL_PX: Final = 320  # longer side
_FACE_RGB, _HAIR_RGB = (233, 128, 82), (86, 135, 214)  # tints of the masks
# A job's report is a page of its own: it may show its pictures, and neither run nor ask for anything.
_REPORT_POLICY: Final = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'self'"
_STATES: Final = {"finished": "completed", "failed": "failed"}


def browse_router(pack: Pack, catalog: Catalog) -> APIRouter:
    """The routes, for an app whose errors are in OpenAI's shape. They come before `/v1/identities/{identity:name}`."""
    router = APIRouter(prefix="/v1", tags=["browse"])
    browser = Browser(pack, catalog)
    router.add_api_route("/images", browser.list_images)
    router.add_api_route("/images/{image_id}/content", browser.show_image)
    router.add_api_route("/images/{image_id}/thumbnail", browser.show_thumbnail)
    router.add_api_route("/identities/{identity:name}/thumbnail", browser.show_face)
    router.add_api_route("/identities/{identity:name}/masks", browser.show_masks)
    router.add_api_route("/poses", browser.list_poses)
    router.add_api_route("/poses/{pose}/content", browser.show_pose)
    router.add_api_route("/jobs", browser.list_jobs)
    router.add_api_route("/jobs/{job_id}/report", browser.show_report)
    return router


class Browser:
    """The handlers."""

    def __init__(self, pack: Pack, catalog: Catalog) -> None:
        self._pack, self._store, self._catalog = pack, catalog.store, catalog

    async def list_images(
        self,
        limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 60,
        after: str | None = None,
        identity: str | None = None,
    ) -> dict[str, Any]:
        """What jobs drew, newest first, from the one that follows `after` on; of one person if one is named."""

        who = None if identity is None else (await asyncio.to_thread(self._catalog.find, identity)).identity_id

        def read() -> tuple[list[dict[str, Any]], dict[str, float]]:
            rows = image_page(self._store, limit + 1, after, who)
            return rows, likeness_of(self._store, [row["image_id"] for row in rows])

        try:
            rows, likeness = await asyncio.to_thread(read)
        except LookupError as error:
            raise RequestRefused(str(error), "after") from None
        side = self._pack.resolution
        cards = [_image_card(row, likeness.get(row["image_id"], row.get("likeness")), side) for row in rows[:limit]]
        first, last = (cards[0]["id"], cards[-1]["id"]) if cards else (None, None)
        return {"object": "list", "data": cards, "first_id": first, "last_id": last, "has_more": len(rows) > limit}

    async def show_image(self, image_id: str, request: Request) -> Response:
        """A picture as it was drawn, PNG."""
        return await self._picture(request, lambda: self._pixels(image_id), "image/png", drawn=True)

    async def show_thumbnail(self, image_id: str, request: Request) -> Response:
        """A picture of at most 320 px, WebP."""
        return await self._picture(request, lambda: _small(self._pixels(image_id)), "image/webp", drawn=True)

    async def show_face(self, identity: str, request: Request) -> Response:
        """The aligned face that an identity was learned from, PNG."""
        return await self._picture(request, lambda: self._face(identity)["crop"], "image/png")

    async def show_masks(self, identity: str, request: Request) -> Response:
        """What was taken for face and hair in that picture, as tints to lay over it, PNG with transparency."""
        return await self._picture(request, lambda: _tints(self._face(identity)), "image/png")

    async def list_poses(self) -> dict[str, Any]:
        """The poses that this pack has names for."""
        control = self._pack.control.get("pose")
        poses = control.poses if control is not None and takes_heads(self._pack) else {}
        return {"object": "list", "data": [{"id": name, "object": "pose", **pose} for name, pose in poses.items()]}

    async def show_pose(self, pose: str, request: Request) -> Response:
        """A pose's skeleton as the pose control sees it, PNG."""
        try:
            head, side = named_pose(self._pack, pose), self._pack.resolution
        except SceneRefused as error:
            raise RequestRefused(error.message, "pose", status=404) from None
        return await self._picture(request, lambda: encode_png(draw_skeleton([head], side, side)), "image/png")

    async def list_jobs(self, limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 50) -> dict[str, Any]:
        """The newest jobs of this root and what they did."""
        jobs = await asyncio.to_thread(list_jobs, self._store.root)
        cards = [_job_card(job) for job in reversed(jobs[-limit:])]
        return {"object": "list", "data": cards, "has_more": len(jobs) > limit}

    async def show_report(self, job_id: str) -> Response:
        """A job's report: a page that can do nothing, whatever is in it."""
        known = re.fullmatch(r"[A-Za-z0-9-]{1,100}", job_id)
        text = await asyncio.to_thread(read_report, self._store.root, job_id) if known else ""
        if not text:
            raise RequestRefused(f"there is no report of a job {job_id[:100]!r}", "job_id", status=404)
        headers = {"content-security-policy": _REPORT_POLICY, "cache-control": "no-store"}
        return Response(text, media_type="text/html; charset=utf-8", headers=headers)

    async def _picture(
        self, request: Request, make: Callable[[], bytes], kind: str, *, drawn: bool = False
    ) -> Response:
        """A picture that a browser keeps, and asks after each time: whoever is erased is gone at once.

        `drawn`: a model made it, and it says so. Its tag is of the bytes before that, as no signature comes twice.
        """
        data = await asyncio.to_thread(make)
        tag = f'"{hashlib.sha256(data).hexdigest()[:32]}"'
        headers = {"etag": tag, "cache-control": "private, no-cache", "x-content-type-options": "nosniff"}
        if is_known(request.headers.get("if-none-match"), tag):
            return Response(status_code=304, headers=headers)
        content = await asyncio.to_thread(mark, data) if drawn else data
        return Response(content, media_type=kind, headers=headers)

    def _pixels(self, image_id: str) -> bytes:
        rows = pictures(self._store, [image_id], ["image", "identity_id", "people"]).to_pylist()
        if not rows:
            raise RequestRefused(f"there is no image {image_id[:100]!r}", "image_id", status=404)
        self._catalog.check_consents(rows[0]["people"] or [rows[0]["identity_id"]])
        return bytes(rows[0]["image"])

    def _face(self, identity: str) -> Mapping[str, bytes]:
        who = self._catalog.find(identity)
        who.check_consent(time.time())
        face = face_pictures(self._store, who.pack, who.face_id)
        if face is None:
            raise RequestRefused("the face that this identity was learned from is not kept here", status=404)
        return face


def _image_card(row: Mapping[str, Any], likeness: float | None, side: int) -> dict[str, Any]:
    config = json.loads(row["config"])
    return {
        "id": row["image_id"],
        "object": "image",
        "created": int(datetime.fromisoformat(row["created_at"]).timestamp()),
        "identity": row["identity_id"],
        "model": row["name"],
        "people": row.get("people") or [row["identity_id"]],
        "prompt": row["prompt"],
        "seed": row["seed"],
        "pose": row.get("pose") or None,
        "num_inference_steps": config.get("num_inference_steps"),
        "guidance_scale": config.get("guidance_scale"),
        "size": "x".join(str(config.get(name) or side) for name in ("width_px", "height_px")),
        "likeness": None if likeness is None or isnan(likeness) else round(likeness, 3),  # Face Sim, -1..1
    }


def _job_card(job: JobRecord) -> dict[str, Any]:
    """Counts are the summary's, or of the last progress that was told."""
    told: dict[str, Any] = next((event["counts"] for event in reversed(job.events) if "counts" in event), {})
    began = job.events[0]["at"] if job.events else job.last_at
    return {
        "id": job.job_id,
        "object": "job",
        "kind": job.summary.get("job") or job.job_id.split("-", 1)[-1].rpartition("-")[0],
        "status": _STATES.get(job.state, "unfinished"),  # it runs, or was killed
        "created_at": _unix(began),
        "last_at": _unix(job.last_at),
        "counts": {name: number for name, number in (job.summary or told).items() if isinstance(number, (int, float))},
        "rejected": job.summary.get("rejected", {}),
        "report": bool(job.summary),
    }


def _unix(text: str) -> int | None:
    return int(datetime.fromisoformat(text).timestamp()) if text else None


def _small(data: bytes) -> bytes:
    picture = Image.open(io.BytesIO(data)).convert("RGB")
    picture.thumbnail((_THUMBNAIL_PX, _THUMBNAIL_PX), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=88)
    return buffer.getvalue()


def _tints(face: Mapping[str, bytes]) -> bytes:
    masks = {name: decode_png(face[f"{name}_mask"]) for name in ("face", "hair")}
    tint = np.zeros((*masks["face"].shape, 4), np.uint8)
    for name, colour in (("face", _FACE_RGB), ("hair", _HAIR_RGB)):
        tint[masks[name]] = (*colour, 140)
    buffer = io.BytesIO()
    Image.fromarray(tint).save(buffer, "PNG")
    return buffer.getvalue()
