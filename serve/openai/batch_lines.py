"""The work of a batch: each line is drawn, after all that somebody waits for, and becomes a row of `lines`."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import time
from collections.abc import Iterator
from functools import partial
from typing import Any, Final

from pydantic import Field
from pydantic_core import from_json

from factory.config import Config
from factory.store.files import BATCH, find_file
from factory.store.lines import EXPIRED, count_lines, empty_file, finished_lines, write_lines
from factory.store.queries import work_page
from factory.store.tables import Store
from serve.catalog import UnknownIdentity
from serve.client import GeneratorDown, QueueFull
from serve.ledger import Ledger
from serve.openai.batch_file import numbered
from serve.openai.body import as_body
from serve.openai.errors import told
from serve.openai.generations import Asked, Generations, notes_on
from serve.openai.schemas import MAX_SEED, ImagesRequest, RequestRefused
from serve.stopping import Stopping
from serve.work import OnProgress, Work

KIND: Final = "batch"
_MANY: Final = 10_000  # batches that are looked through
_AGAIN_S: Final = 1.0  # until a line is tried again when there is no generator
_WINDOW: Final = re.compile(r"([1-9][0-9]{0,3})([mhd])")
_UNIT_S: Final = {"m": 60.0, "h": 3600.0, "d": 86400.0}


class BatchOrder(Config):
    """A batch that is asked for, as it is kept."""

    input_file_id: str
    endpoint: str
    completion_window: str  # 24h; or another number of minutes, hours or days
    metadata: dict[str, str] | None = None
    output_expires_s: int | None = Field(default=None, ge=1)  # after the end; None: never
    total: int = Field(ge=0)  # requests
    faults: list[dict[str, Any]] = Field(default=[])  # of the input file: with one, no line is done
    actor: str = "anybody"  # who asked, as the audit calls them

    def window_s(self) -> float:
        """From the batch's coming to its expiry."""
        number, unit = match.groups() if (match := _WINDOW.fullmatch(self.completion_window)) else ("24", "h")
        return int(number) * _UNIT_S[unit]


def line_seed(batch_id: str, line: int) -> int:
    """Of a request that names no seed: drawn again after a kill, it is the same picture."""
    return int(hashlib.sha256(f"{batch_id}:{line}".encode()).hexdigest()[:13], 16) % MAX_SEED


class _Pen:
    """Writes rows as they come: what comes during a commit is the next commit, together."""

    def __init__(self, store: Store) -> None:
        self._store, self._rows, self._lock = store, list[dict[str, Any]](), asyncio.Lock()

    async def write(self, row: dict[str, Any]) -> None:
        """Returns when the row is kept."""
        self._rows.append(row)
        async with self._lock:
            rows, self._rows = self._rows, []
            if rows:  # else somebody else's commit had it
                await asyncio.to_thread(write_lines, self._store, rows)


class BatchRunner:
    """Does batches with the generations of an endpoint, so many lines at once."""

    def __init__(self, store: Store, generations: Generations, *, at_once: int, ledger: Ledger | None = None) -> None:
        """`ledger` is told of every line that is drawn."""
        self._store, self._generations, self._at_once, self._ledger = store, generations, at_once, ledger

    async def run(self, work: Work, on_progress: OnProgress) -> str:
        """Does what is not done yet; gives the batch's id. Raises RequestRefused where the input file is of no use."""
        order = BatchOrder.model_validate_json(work.request)
        if order.faults:
            raise RequestRefused("the input file cannot be used: `errors` says why")
        file = await asyncio.to_thread(find_file, self._store, order.input_file_id, 0.0, BATCH)
        if file is None:
            raise RequestRefused("the input file is not there any more", "input_file_id")
        done = await asyncio.to_thread(finished_lines, self._store, work.work_id)
        pen = _Pen(self._store)

        async def keep(row: dict[str, Any]) -> None:
            await pen.write(row)
            done.add(row["line"])
            on_progress(len(done) / order.total)

        async def follow(lines: Iterator[tuple[int, bytes]]) -> None:
            for number, line in lines:  # shared: each line is taken by one
                if number not in done:
                    await keep(await self._row(work.work_id, number, line, order.actor))

        lines = numbered(file["content"])
        try:
            async with asyncio.timeout(work.created_at + order.window_s() - time.time()), asyncio.TaskGroup() as group:
                for _ in range(self._at_once):
                    group.create_task(follow(lines))
        except TimeoutError:
            left = [pair for pair in numbered(file["content"]) if pair[0] not in done]
            await asyncio.to_thread(write_lines, self._store, [_expired(work.work_id, *pair) for pair in left])
        await asyncio.to_thread(_drop_expired, self._store)
        return work.work_id

    async def _row(self, batch_id: str, number: int, line: bytes, actor: str) -> dict[str, Any]:
        """A row of `lines`: the answer to a request, or why there is none."""
        request = from_json(line)
        row = _row_of(batch_id, number, request)
        while True:
            try:
                asked, drawn = await self._drawn(request["body"], line_seed(batch_id, number))
                if self._ledger is not None:
                    told_of = {"batch": batch_id, "prompt": asked.body.prompt}
                    self._ledger.note(actor, "drew", asked.people, asked.body.n, **told_of)
                return {**row, **drawn}
            except (QueueFull, GeneratorDown, Stopping) as error:  # nothing that the request could help
                await asyncio.sleep(getattr(error, "retry_after_s", _AGAIN_S))
            except UnknownIdentity:  # erased meanwhile, perhaps: then their id must not be written down
                shown: Exception = UnknownIdentity("no identity has the name or id that this request gives")
                break
            except Exception as error:  # noqa: BLE001 (a line of the error file)
                shown = error
                break
        status, body, _ = told(shown)
        return {**row, "status": status, "error": json.dumps(body["error"])}

    async def _drawn(self, fields: dict[str, Any], seed: int) -> tuple[Asked, dict[str, Any]]:
        body = as_body(fields, ImagesRequest)
        if body.stream:
            raise RequestRefused("a batch is not streamed: leave it out", "stream")
        if body.response_format != "b64_json":
            raise RequestRefused('the output file holds the pictures: leave it out, or "b64_json"', "response_format")
        if body.seed is None:
            body = body.model_copy(update={"seed": seed})
        asked = await self._generations.compose(body)
        answer = await self._generations.answer(asked, patient=True)
        told_of = notes_on(body, answer)  # headers, of a request that comes alone
        fields = answer.model_dump(exclude_none=True) | ({"headers": told_of} if told_of else {})
        data = await asyncio.to_thread(partial(json.dumps, fields))
        num_tokens = None if answer.usage is None else answer.usage.total_tokens
        return asked, {"status": 200, "people": asked.people, "answer": data.encode(), "num_tokens": num_tokens}


def _row_of(batch_id: str, number: int, request: dict[str, Any]) -> dict[str, Any]:
    return {
        "batch_id": batch_id,
        "line": number,
        "custom_id": request["custom_id"],
        "people": [],
        "answer": None,
        "error": None,
        "created_at": time.time(),
    }


def _expired(batch_id: str, number: int, line: bytes) -> dict[str, Any]:
    error = {"code": "batch_expired", "message": "this request was not begun before the batch expired"}
    return {**_row_of(batch_id, number, from_json(line)), "status": EXPIRED, "error": json.dumps(error)}


def _drop_expired(store: Store) -> None:
    """Deletes the answers of batches whose files have expired."""
    works = [Work(**row) for row in work_page(store, KIND, _MANY, None, newest_first=False)]
    over = [work.work_id for work in works if outputs_expired(work)]
    for batch_id, counts in count_lines(store, over).items():
        for failed, num_bytes in ((False, counts.output_bytes), (True, counts.error_bytes)):
            if num_bytes:
                empty_file(store, batch_id, failed=failed)


def outputs_expired(work: Work) -> bool:
    """Whether the files of answers and errors of a batch are to be had no more."""
    keep_s = BatchOrder.model_validate_json(work.request).output_expires_s
    return keep_s is not None and work.finished_at is not None and work.finished_at + keep_s <= time.time()
