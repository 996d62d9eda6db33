"""An answer as server-sent events: looks at pictures in the making, and each picture as it is finished."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import asdict
from typing import Any

from fastapi.responses import StreamingResponse

from serve.client import Event
from serve.loop import ImageResult
from serve.openai.errors import told
from serve.openai.pictures import encode, resized
from serve.openai.schemas import ImageData, ImagesRequest

Check = Callable[[], Awaitable[object]]  # raises where a picture may not leave any more


async def stream(
    events: AsyncIterator[Event],
    body: ImagesRequest,
    seed: int,
    shared: dict[str, Any],
    check: Check,
    headers: dict[str, str],
) -> StreamingResponse:
    """OpenAI's events. Whatever goes wrong before the first one has its own status; after it, it is an event.

    `shared` are the fields that all events have, `seed` is the first picture's.
    """
    texts = _texts(events, body, seed, shared, check)
    first = await anext(texts)

    async def all_of_them() -> AsyncIterator[str]:
        try:
            yield first
            async for text in texts:
                yield text
        except Exception as error:  # noqa: BLE001 (the status is sent already; the caller must hear of it)
            _, message, _ = told(error)
            yield _text("error", message)
        finally:
            await texts.aclose()

    return StreamingResponse(all_of_them(), media_type="text/event-stream", headers=headers)


async def _texts(
    events: AsyncIterator[Event], body: ImagesRequest, seed: int, shared: dict[str, Any], check: Check
) -> AsyncGenerator[str]:
    async for number, event in events:
        await check()
        if isinstance(event, ImageResult):
            picture = await asyncio.to_thread(ImageData.of, event, seed + number, body)
            kind, own = "image_generation.completed", picture.model_dump(exclude_none=True)
            counts = {"prompt_tokens": event.prompt, "negative_prompt_tokens": event.negative_prompt}
            own |= {name: asdict(count) for name, count in counts.items()}
        else:
            which, image = event
            image = resized(image, body.size_px())
            data = await asyncio.to_thread(encode, image, body.output_format, body.output_compression)
            kind, own = "image_generation.partial_image", {"b64_json": data, "partial_image_index": which}
            own["seed"] = seed + number
        yield _text(kind, {"type": kind, **shared, **own})


def _text(kind: str, fields: dict[str, Any]) -> str:
    return f"event: {kind}\ndata: {json.dumps(fields)}\n\n"
