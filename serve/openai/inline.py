"""A JSON body with photos in it, as data: URIs or plain base64: what clients send that write no forms."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from fastapi import Request
from pydantic import BaseModel, ConfigDict

from serve.openai.body import read_body
from serve.openai.pictures import from_base64
from serve.openai.schemas import RequestRefused

_FIELDS: Final = ("images", "image", "image[]", "image_url")  # OpenAI's, and those that clients write for it


class _Any(BaseModel):
    model_config = ConfigDict(extra="allow")


def is_json(request: Request) -> bool:
    """Whether the request says that its body is JSON."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower().endswith("json")


async def read_inline(request: Request, max_photos: int) -> tuple[list[bytes], dict[str, Any]]:
    """The photos' bytes, in their order, and the other fields; what is null or empty is left out.

    Raises RequestRefused, which names the field at fault. No address is fetched.
    """
    body = (await read_body(request, _Any)).model_extra or {}
    given = [one for name in _FIELDS for one in _listed(body.pop(name, None))]
    if len(given) > max_photos:
        raise RequestRefused(f"at most {max_photos} photos of one request", "image")
    photos = [await asyncio.to_thread(_photo, one) for one in given]
    return photos, {name: value for name, value in body.items() if value is not None and value not in ("", {})}


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value in (None, "") else [value]


def _photo(given: Any) -> bytes:
    """A photo as {"image_url": URI}, {"image_url": {"url": URI}}, {"url": URI} or the URI itself."""
    field = "image"
    while isinstance(given, dict):
        if given.get("file_id") is not None:
            raise RequestRefused("files of this server are batches, no photos: send the photo itself", "file_id")
        field = "image_url" if "image_url" in given else field
        given = given.get("image_url", given.get("url"))
    if not isinstance(given, str):
        raise RequestRefused("send the photo as a data: URI, data:image/jpeg;base64,...", field)
    if not given.startswith("data:") and "://" in given[:20]:
        text = "no address is fetched: send the photo itself, as data:image/jpeg;base64,... or as multipart/form-data"
        raise RequestRefused(text, "image_url")
    try:
        return from_base64(given)
    except ValueError:
        raise RequestRefused("this is no photo in base64: send data:image/jpeg;base64,...", field) from None
