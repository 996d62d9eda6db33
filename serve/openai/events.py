"""An answer as server-sent events: looks at pictures in the making, and each picture as it is finished."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import asdict
from typing import Any, Final

from fastapi.responses import StreamingResponse

from serve.client import Event
from serve.loop import ImageResult
from serve.openai.answers import Usage
from serve.openai.errors import told
from serve.openai.pictures import encode, resized
from serve.openai.schemas import ImagesRequest

# nginx holds an answer back until it is whole, or large, unless it is told not to
_AT_ONCE: Final = {"cache-control": "no-store", "x-accel-buffering": "no"}
_QUIET_S: Final = 15.0
_BEAT: Final = ": waiting\n\n"
Check = Callable[[], Awaitable[object]]  # raises where a picture may not leave any more


async def stream(texts: AsyncGenerator[str], headers: dict[str, str]) -> StreamingResponse:
    """Events as an answer. Whatever goes wrong before the first one has its own status; after it, or once there was
    nothing to tell for a while, it is an event."""
    beating = _with_beats(texts)
    first = await anext(beating)

    async def all_of_them() -> AsyncIterator[str]:
        try:
            yield first
            async for text in beating:
                yield text
        except Exception as error:  # noqa: BLE001 (the status is sent already; the caller must hear of it)
            _, message, _ = told(error)
            yield event_text("error", message)
        finally:
            await beating.aclose()

    return StreamingResponse(all_of_them(), media_type="text/event-stream", headers={**_AT_ONCE, **headers})


async def _with_beats(texts: AsyncGenerator[str]) -> AsyncGenerator[str]:
    """The texts, and a comment, which readers of events pass over, whenever none came for a while: proxies end an
    answer that says nothing for a minute."""
    try:
        while True:
            step = asyncio.ensure_future(anext(texts, None))
            try:
                while not (await asyncio.wait([step], timeout=_QUIET_S))[0]:
                    yield _BEAT
            finally:
                step.cancel()
                await asyncio.wait([step])
            if (text := step.result()) is None:
                return
            yield text
    finally:
        await texts.aclose()


async def picture_events(
    events: AsyncIterator[Event], body: ImagesRequest, seed: int, shared: dict[str, Any], check: Check, method: str
) -> AsyncGenerator[str]:
    """OpenAI's events of pictures. `shared` are the fields that all have, `seed` is the first picture's, `method` how
    their names begin."""
    async for number, event in events:
        await check()
        image = resized(event.image if isinstance(event, ImageResult) else event[1], body.size_px())
        made = body.told(seed + number)
        data = await asyncio.to_thread(encode, image, body.output_format, body.output_compression, made)
        own: dict[str, Any] = {"b64_json": data, "seed": seed + number}
        if isinstance(event, ImageResult):
            kind = f"{method}.completed"
            own |= {"rows_per_step": round(event.rows_per_step, 2), "usage": Usage.of(event.prompt).model_dump()}
            own |= {"prompt_tokens": asdict(event.prompt), "negative_prompt_tokens": asdict(event.negative_prompt)}
        else:
            kind = f"{method}.partial_image"
            own["partial_image_index"] = event[0]
        yield event_text(kind, {**shared, **own, "type": kind})


def event_text(kind: str, fields: dict[str, Any]) -> str:
    """One server-sent event."""
    return f"event: {kind}\ndata: {json.dumps(fields)}\n\n"
