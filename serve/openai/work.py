"""Work of every kind over the wire: one shape, to poll, to list and to take back."""

from __future__ import annotations

import json
import math
import time
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from serve.assessing import KIND as ASSESS
from serve.openai.schemas import RequestRefused
from serve.refusals import UnknownWork
from serve.uploads import KIND as LEARN
from serve.work import Once, Work, WorkBook

MAX_PAGE = 1000  # pieces of one answer
AT_ONCE = 2  # files of one kind that are made of results at a time, each on a thread that other routes need
MAX_WAIT_S = 60  # that an answer is held back
MOST_HELD = 200  # such answers, of 1000 that an ingress has in hand; beyond that they are given at once
_POLL_MS = 1000  # how soon a client is to ask again

Order = Literal["asc", "desc"]
Limit = Annotated[int, Query(ge=1, le=MAX_PAGE)]


def once_of(request: Request, body: BaseModel, **more: Any) -> Once | None:
    """A request with an Idempotency-Key, by the fields that it gave, and what else there is of it; None without."""
    given = body.model_dump(exclude_unset=True)
    return Once.of(request.headers.get("idempotency-key"), {"fields": given, **more})


def work_card(work: Work, book: WorkBook, **own: Any) -> dict[str, Any]:
    """A piece of work as it is told, with the fields of its kind beside those that all have."""
    left_s = book.seconds_left(work)
    return {
        "id": work.work_id,
        "object": work.kind,
        "kind": work.kind,
        "status": work.status,
        "progress": math.floor(100 * work.progress),
        "queue_position": book.position(work),
        "seconds_left": None if left_s is None else round(left_s, 1),
        "created_at": int(work.created_at),
        "started_at": None if work.started_at is None else int(work.started_at),
        "completed_at": None if work.finished_at is None else int(work.finished_at),
        "error": None if work.error is None else json.loads(work.error),
        "result_id": work.result_id,
        **own,
    }


def poll_headers(work: Work) -> dict[str, str]:
    """When to ask again, as the openai client reads it."""
    return {"openai-poll-after-ms": str(_POLL_MS)} if work.under_way else {}


def as_page(cards: list[dict[str, Any]], limit: int) -> dict[str, Any]:
    """The first `limit` of the cards; more of them than that means that there are more."""
    shown = cards[:limit]
    first, last = (shown[0]["id"], shown[-1]["id"]) if shown else (None, None)
    return {"object": "list", "data": shown, "first_id": first, "last_id": last, "has_more": len(cards) > limit}


async def find_page(book: WorkBook, limit: int, after: str | None, order: Order, kind: str | None = None) -> list[Work]:
    """One more than `limit`, so that it shows whether there are more. Raises RequestRefused."""
    try:
        return await book.page(limit + 1, after, kind=kind, newest_first=order == "desc")
    except UnknownWork as error:
        raise RequestRefused(str(error), "after") from None


_held = set[object]()  # answers that this process holds back, of all roots


async def _until_over(book: WorkBook, work_id: str, wait_s: float) -> Work:
    """A piece of work once it is over, or as it stands after so many seconds, or once its server puts it down."""
    ends, one = time.monotonic() + (wait_s if len(_held) < MOST_HELD else 0.0), object()
    _held.add(one)
    try:
        while (work := await book.find(work_id)).under_way and not book.closed:
            if (left_s := ends - time.monotonic()) <= 0:
                break
            await book.pause(work_id, left_s)
    finally:
        _held.remove(one)
    return work


def work_routes(book: WorkBook) -> APIRouter:
    """GET /v1/work, GET /v1/work/{id}, POST /v1/work/{id}/cancel."""
    router = APIRouter()

    @router.get("/v1/work")
    async def list_work(
        limit: Limit = 20, after: str | None = None, order: Order = "desc", kind: str | None = None
    ) -> dict[str, Any]:
        """What was asked for and is answered later, newest first."""
        found = await find_page(book, limit, after, order, kind)
        return as_page([work_card(work, book) for work in found], limit)

    @router.get("/v1/work/{work_id}")
    async def show_work(work_id: str, wait: Annotated[float, Query(ge=0, le=MAX_WAIT_S)] = 0.0) -> JSONResponse:
        """How far a piece of work is, how long it may still take, and what came of it; once it is over, or after `wait`
        seconds: then a client need not ask again and again."""
        work = await _until_over(book, work_id, wait)
        return JSONResponse(work_card(work, book), headers=poll_headers(work))

    @router.post("/v1/work/{work_id}/cancel")
    async def cancel_work(work_id: str, request: Request) -> dict[str, Any]:
        """Takes back what is under way; what is over stays as it is. A key needs the scope that asked for it."""
        work = await book.find(work_id)
        if (key := request.scope.get("state", {}).get("key")) is not None:
            key.check_scope({"learn" if work.kind in (LEARN, ASSESS) else "draw"})
        return work_card(await book.cancel(work_id), book)

    return router
