"""POST /v1/files and what belongs to it, as the openai client's `files` asks: requests of batches, and answers."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Iterator
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, field_validator
from starlette.datastructures import UploadFile

from factory.errors import ConsentExpired
from factory.store.consents import expired_people
from factory.store.files import BATCH, drop_expired, files_for, find_file
from factory.store.lines import empty_file, lines_of_file
from factory.store.sql import where_in
from factory.store.tables import Store
from serve.openai.batch_file import MAX_BYTES
from serve.openai.batches import Batches, Output
from serve.openai.body import as_body, described
from serve.openai.errors import told
from serve.openai.forms import check_origin, file_name
from serve.openai.multipart import content_of, form_of
from serve.openai.schemas import RequestRefused
from serve.openai.work import Order, as_page
from serve.shelf import UnknownFile

MIN_EXPIRY_S, MAX_EXPIRY_S = 3600, 2_592_000  # as in OpenAI's API
MAX_PAGE: Final = 10_000  # files of one answer, as in OpenAI's API
_FORM_BYTES: Final = 2**16  # around the file
_MOST_FILES: Final = 1000  # of a root, and
_MOST_BYTES: Final = 20 * 2**30  # of all of them together: nobody fills the disk for others
_JSONL: Final = "application/jsonl"


class FileRequest(BaseModel):
    """The fields of POST /v1/files beside the file."""

    model_config = ConfigDict(extra="ignore")

    purpose: str
    anchor: Literal["created_at"] = Field(default="created_at", alias="expires_after[anchor]")
    expires_s: int = Field(default=MAX_EXPIRY_S, ge=MIN_EXPIRY_S, le=MAX_EXPIRY_S, alias="expires_after[seconds]")

    @field_validator("purpose")
    @classmethod
    def _of_batches(cls, purpose: str) -> str:
        if purpose != BATCH:
            raise ValueError("only files of purpose batch are kept: requests, one a line, for POST /v1/batches")
        return purpose


class _Form(FileRequest):
    """For the schema."""

    file: str = Field(json_schema_extra={"format": "binary"})


class Files:
    """The handlers of /v1/files."""

    def __init__(self, store: Store, batches: Batches) -> None:
        self._store, self._batches = store, batches
        self._room = asyncio.Semaphore(1)  # files are whole in memory when they are kept: one at a time

    async def create(self, request: Request) -> dict[str, Any]:
        """A file with the requests of a batch: multipart/form-data with `file` and `purpose`."""
        check_origin(request)
        if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
            raise RequestRefused("send multipart/form-data, as `curl -F purpose=batch -F file=@FILE`", status=415)
        too_long = RequestRefused(f"a file has at most {MAX_BYTES} bytes", "file", status=413)
        limits = {"max_files": 1, "max_fields": 20, "max_field": _FORM_BYTES}
        async with form_of(request, too_long, MAX_BYTES + _FORM_BYTES, **limits) as parts:
            file = parts.get("file")
            fields = as_body({name: value for name, value in parts.items() if name != "file"}, FileRequest)
            if not isinstance(file, UploadFile):
                raise RequestRefused("send a file, as `curl -F file=@FILE`", "file")
            async with self._room:
                return await self._keep(await content_of(file), _base(file.filename), fields)

    async def _keep(self, content: bytes, filename: str, fields: FileRequest) -> dict[str, Any]:
        now = time.time()
        row = {
            "file_id": f"file-{secrets.token_hex(16)}",
            "purpose": fields.purpose,
            "filename": filename,
            "content": content,
            "num_bytes": len(content),
            "people": [],
            "created_at": now,
            "expires_at": now + fields.expires_s,
        }
        await asyncio.to_thread(drop_expired, self._store, now)
        there = await asyncio.to_thread(files_for, self._store, BATCH, now)
        if len(there) >= _MOST_FILES or sum(file["num_bytes"] for file in there) + len(content) > _MOST_BYTES:
            most = f"{_MOST_FILES} files and {_MOST_BYTES // 2**30} GiB"
            raise RequestRefused(f"input files of batches may be {most} here: delete some", "file", status=413)
        await asyncio.to_thread(self._store.upsert, "files", [row])
        return _card(row)

    async def list_all(
        self,
        limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = MAX_PAGE,
        after: str | None = None,
        order: Order = "desc",
        purpose: str | None = None,
    ) -> dict[str, Any]:
        """Files of batches, newest first; pictures at addresses are not listed."""
        rows = await asyncio.to_thread(files_for, self._store, BATCH, time.time())
        cards = [_card(row) for row in rows] + [_output_card(one) for one in await self._batches.outputs()]
        shown = [card for card in cards if purpose in (None, card["purpose"])]
        shown.sort(key=lambda card: (card["created_at"], card["id"]), reverse=order == "desc")
        if after is not None:
            ids = [card["id"] for card in shown]
            if after not in ids:
                raise RequestRefused(f"there is no file {after[:100]!r}", "after")
            shown = shown[ids.index(after) + 1 :]
        return as_page(shown[: limit + 1], limit)

    async def show(self, file_id: str) -> dict[str, Any]:
        """What a file is."""
        found = await self._find(file_id)
        return _output_card(found) if isinstance(found, Output) else _card(found)

    async def content(self, file_id: str) -> Response:
        """A file's bytes."""
        found = await self._find(file_id, content=True)
        if isinstance(found, Output):
            over = await asyncio.to_thread(expired_people, self._store, time.time())
            _, why, _ = told(ConsentExpired("what somebody on this picture agreed to is over"))
            parts: Iterator[bytes] = lines_of_file(
                self._store, found.batch_id, failed=found.failed, withheld=over, why=why["error"]
            )
            return StreamingResponse(parts, media_type=_JSONL, headers={"x-content-type-options": "nosniff"})
        return Response(found["content"], media_type=_JSONL, headers={"x-content-type-options": "nosniff"})

    async def delete(self, file_id: str) -> dict[str, Any]:
        """Forgets a file, with every byte. What a batch still reads stays."""
        found = await self._find(file_id)
        if isinstance(found, Output):
            await asyncio.to_thread(empty_file, self._store, found.batch_id, failed=found.failed)
        elif await self._batches.reads(file_id):
            raise RequestRefused("a batch that is under way reads this file: cancel it first", status=409)
        else:
            await asyncio.to_thread(self._store.purge, "files", where_in("file_id", [file_id]))
        return {"id": file_id, "object": "file", "deleted": True}

    async def _find(self, file_id: str, *, content: bool = False) -> dict[str, Any] | Output:
        if (output := await self._batches.output(file_id)) is not None:
            return output
        row = await asyncio.to_thread(find_file, self._store, file_id, time.time(), BATCH, content=content)
        if row is None:
            raise UnknownFile(f"there is no file {file_id[:100]!r}, or it has expired")
        return row


def file_routes(files: Files) -> APIRouter:
    """The routes of the openai client's `files`."""
    router, one = APIRouter(), "/v1/files/{file_id}"
    router.add_api_route(
        "/v1/files", files.create, methods=["POST"], openapi_extra=described(_Form, "multipart/form-data")
    )
    router.add_api_route("/v1/files", files.list_all, methods=["GET"])
    router.add_api_route(one, files.show, methods=["GET"])
    router.add_api_route(one, files.delete, methods=["DELETE"])
    router.add_api_route(f"{one}/content", files.content, methods=["GET"], response_model=None)
    return router


def _card(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": row["file_id"],
        "object": "file",
        "bytes": row["num_bytes"],
        "created_at": int(row["created_at"]),
        "expires_at": int(row["expires_at"]),
        "filename": row["filename"],
        "purpose": row["purpose"],
        "status": "processed",
    }


def _output_card(output: Output) -> dict[str, Any]:
    kept = {"num_bytes": output.num_bytes, "created_at": output.created_at, "expires_at": output.expires_at or 0}
    row = {"file_id": output.file_id, "filename": output.filename, "purpose": "batch_output", **kept}
    return {**_card(row), **({} if output.expires_at else {"expires_at": None})}


def _base(filename: str | None) -> str:
    """A file's name without folders, as it may be stored."""
    return file_name(filename)[:200] or "upload.jsonl"
