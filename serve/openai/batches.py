"""POST /v1/batches and what belongs to it, as the openai client's `batches` asks: many requests for pictures, answered
in their time."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator

from factory.store.files import BATCH, find_file
from factory.store.lines import LineCounts, count_lines
from factory.store.tables import Store
from serve.ledger import actor_of, tell
from serve.openai.batch_file import ENDPOINT, check
from serve.openai.batch_lines import KIND, BatchOrder, outputs_expired
from serve.openai.body import described, read_body
from serve.openai.schemas import RequestRefused, ignoring
from serve.openai.work import as_page, find_page, once_of, poll_headers
from serve.refusals import UnknownWork
from serve.work import Work, WorkBook

_OUTPUT: Final = re.compile(r"file-([0-9a-f]{24})-(output|errors)")
_STATUS: Final = {"queued": "validating", "in_progress": "in_progress"}
_ENDS: Final = ("completed_at", "failed_at", "expired_at", "cancelled_at")
_MANY: Final = 10_000  # batches whose files are listed

Key = Annotated[str, StringConstraints(max_length=64)]
Value = Annotated[str, StringConstraints(max_length=512)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """What came of a batch, as a file: its answers, or its errors."""

    batch_id: str
    failed: bool
    num_bytes: int
    created_at: float  # Unix time, s
    expires_at: float | None

    @property
    def file_id(self) -> str:
        """From which the batch is known again."""
        return f"file-{self.batch_id.removeprefix('batch_')}-{'errors' if self.failed else 'output'}"

    @property
    def filename(self) -> str:
        """As OpenAI calls them."""
        return f"{self.batch_id}_{'error' if self.failed else 'output'}.jsonl"


class OutputExpiry(BaseModel):
    """When the files of answers and errors go."""

    model_config = ConfigDict(extra="forbid")

    anchor: Literal["created_at"]
    seconds: int = Field(ge=3600, le=2_592_000)


class BatchRequest(BaseModel):
    """POST /v1/batches. An unknown field is named in x-ignored-fields."""

    model_config = ConfigDict(extra="allow")

    input_file_id: str = Field(max_length=200)
    endpoint: str
    completion_window: str = Field(pattern=r"^[1-9][0-9]{0,3}[mhd]$")  # 24h at OpenAI; here also others, as 90m or 7d
    metadata: dict[Key, Value] | None = Field(default=None, max_length=16)
    output_expires_after: OutputExpiry | None = None

    @field_validator("endpoint")
    @classmethod
    def _of_pictures(cls, endpoint: str) -> str:
        if endpoint != ENDPOINT:
            raise ValueError(f"only {ENDPOINT} is done in batches")
        return endpoint


class Batches:
    """The handlers of /v1/batches; what they give as files is listed by Files."""

    def __init__(self, store: Store, book: WorkBook, pack: str) -> None:
        """`pack` is what batches are done with: lines name people as their models."""
        self._store, self._book, self._pack = store, book, pack
        self._reading = asyncio.Lock()  # a file is whole in memory while it is checked: one at a time

    async def create(self, request: Request) -> Response:
        """A batch of requests for pictures, to be polled."""
        body = await read_body(request, BatchRequest)
        once = once_of(request, body)
        if (work := await self._book.again(KIND, once)) is None:
            order = await self._order(body, actor_of(request.scope))
            work = await self._book.submit(KIND, order.model_dump(), once=once)
            tell(request, "asked for a batch", (), order.total, batch=work.work_id)
        headers = ignoring(body.model_extra or ())
        return JSONResponse(await self._card(work), headers={**headers, **poll_headers(work)})

    async def _order(self, body: BatchRequest, actor: str) -> BatchOrder:
        """What is asked for, whole. Raises RequestRefused."""
        async with self._reading:
            file = await asyncio.to_thread(find_file, self._store, body.input_file_id, time.time(), BATCH)
            if file is None:
                raise RequestRefused("there is no such file of purpose batch, or it has expired", "input_file_id")
            total, faults = await asyncio.to_thread(check, file["content"])
        expiry = body.output_expires_after
        return BatchOrder(
            **body.model_dump(include={"input_file_id", "endpoint", "completion_window", "metadata"}),
            output_expires_s=None if expiry is None else expiry.seconds,
            total=total,
            faults=faults,
            actor=actor,
        )

    async def show(self, batch_id: str) -> Response:
        """How far a batch is."""
        work = await self._book.find(batch_id, KIND)
        return JSONResponse(await self._card(work), headers=poll_headers(work))

    async def list_all(
        self, limit: Annotated[int, Query(ge=1, le=100)] = 20, after: str | None = None
    ) -> dict[str, Any]:
        """Batches, newest first."""
        found = await find_page(self._book, limit, after, "desc", KIND)
        counts = await asyncio.to_thread(count_lines, self._store, [work.work_id for work in found])
        return as_page([_card(work, counts.get(work.work_id, LineCounts()), self._pack) for work in found], limit)

    async def cancel(self, batch_id: str) -> dict[str, Any]:
        """Takes back what is not done yet; what is done is in the output file."""
        return await self._card(await self._book.cancel(batch_id, KIND))

    async def output(self, file_id: str) -> Output | None:
        """The file of answers or errors with this id; None if it is another's, or not there."""
        match = _OUTPUT.fullmatch(file_id)
        if match is None:
            return None
        try:
            work = await self._book.find(f"batch_{match[1]}", KIND)
        except UnknownWork:
            return None
        counts = await asyncio.to_thread(count_lines, self._store, [work.work_id])
        files = _outputs(work, counts.get(work.work_id, LineCounts()))
        return next((file for file in files if file.file_id == file_id), None)

    async def outputs(self) -> list[Output]:
        """All files of answers and errors."""
        over = [work for work in await self._book.page(_MANY, kind=KIND) if not work.under_way]
        counts = await asyncio.to_thread(count_lines, self._store, [work.work_id for work in over])
        return [file for work in over for file in _outputs(work, counts.get(work.work_id, LineCounts()))]

    async def reads(self, file_id: str) -> bool:
        """Whether a batch that is under way needs this input file."""
        works = await self._book.page(_MANY, kind=KIND)
        return any(work.under_way and _order(work).input_file_id == file_id for work in works)

    async def _card(self, work: Work) -> dict[str, Any]:
        counts = await asyncio.to_thread(count_lines, self._store, [work.work_id])
        return _card(work, counts.get(work.work_id, LineCounts()), self._pack)


def batch_routes(batches: Batches) -> APIRouter:
    """The routes of the openai client's `batches`."""
    router, one = APIRouter(), "/v1/batches/{batch_id}"
    router.add_api_route(
        "/v1/batches", batches.create, methods=["POST"], response_model=None, openapi_extra=described(BatchRequest)
    )
    router.add_api_route("/v1/batches", batches.list_all, methods=["GET"])
    router.add_api_route(one, batches.show, methods=["GET"], response_model=None)
    router.add_api_route(f"{one}/cancel", batches.cancel, methods=["POST"])
    return router


def _order(work: Work) -> BatchOrder:
    return BatchOrder.model_validate_json(work.request)


def _outputs(work: Work, counts: LineCounts) -> Iterable[Output]:
    """The files of a batch that is over, as far as they are there."""
    if work.under_way or work.finished_at is None or outputs_expired(work):
        return
    keep_s = _order(work).output_expires_s
    expires_at = None if keep_s is None else work.finished_at + keep_s
    for failed, num_bytes in ((False, counts.output_bytes), (True, counts.error_bytes)):
        if num_bytes:
            yield Output(
                batch_id=work.work_id,
                failed=failed,
                num_bytes=num_bytes,
                created_at=work.finished_at,
                expires_at=expires_at,
            )


def _card(work: Work, counts: LineCounts, pack: str) -> dict[str, Any]:
    """A batch as OpenAI tells it."""
    order = _order(work)
    status = "expired" if counts.expired and not work.under_way else _STATUS.get(work.status, work.status)
    files = {file.failed: file.file_id for file in _outputs(work, counts)}
    ended = None if work.finished_at is None else int(work.finished_at)
    errors = order.faults
    if work.status == "failed" and not errors:
        errors = [{**json.loads(work.error or "{}"), "param": None, "line": None}]
    times = {name: ended if status == name.removesuffix("_at") else None for name in _ENDS}
    return {
        "id": work.work_id,
        "object": "batch",
        "endpoint": order.endpoint,
        "errors": {"object": "list", "data": errors} if work.status == "failed" else None,
        "input_file_id": order.input_file_id,
        "completion_window": order.completion_window,
        "status": status,
        "output_file_id": files.get(False),
        "error_file_id": files.get(True),
        "created_at": int(work.created_at),
        "in_progress_at": None if work.started_at is None else int(work.started_at),
        "expires_at": int(work.created_at + order.window_s()),
        "finalizing_at": ended if status == "completed" else None,
        **times,
        "cancelling_at": times["cancelled_at"],
        "request_counts": {"total": order.total, "completed": counts.completed, "failed": counts.failed},
        "metadata": order.metadata,
        "model": pack,
        "usage": {  # pictures are not made of tokens here
            "input_tokens": counts.num_tokens,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": 0,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": counts.num_tokens,
        },
    }
