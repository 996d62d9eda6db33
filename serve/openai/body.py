"""The body of a request: bytes -> a JSON object, or the reason why it is none. Whatever the bytes are, never a 500."""

from __future__ import annotations

import json
import re
from typing import Any, Final, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json
from starlette.requests import ClientDisconnect

from serve.held import FREE, Held
from serve.openai.schemas import RequestRefused

_TYPE: Final = re.compile(r"(list|tuple|dict|set)\[|[\w-]+\[.*[A-Z(,]")
_UNQUOTED: Final = re.compile(rb"\s*(['\"]?\{\s*[\w\\']|['\"]\{)")  # what was to be JSON, after a shell
HELD: Final = "identity_factory.held"  # in a request's scope: what it holds of its body
MAX_BODY: Final = 24 * 2**20  # bytes: a photo of 16 MiB in base64, and some room

Body = TypeVar("Body", bound=BaseModel)


async def read_body(request: Request, kind: type[Body]) -> Body:
    """The body as `kind`. JSON is read whatever its content type says, as `curl -d` and many clients leave that out.

    Raises RequestRefused, which names the field at fault; TooMuchWork where other bodies hold the memory that there is.
    """
    _check_origin(request)
    return as_body(_parse(await _read(request), request.headers.get("content-type", "none")), kind)


def as_body(fields: Any, kind: type[Body]) -> Body:
    """Fields as `kind`. Raises RequestRefused, which names the field at fault."""
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        param, message = first_fault([(fault["loc"], fault["msg"]) for fault in error.errors()])
        raise RequestRefused(message, param) from None


def described(kind: type[BaseModel], media_type: str = "application/json") -> dict[str, Any]:
    """`openapi_extra` of a route that reads its body as `kind` by itself, whatever its content type."""
    return {"requestBody": {"content": {media_type: {"schema": whole(kind.model_json_schema())}}}}


def whole(schema: dict[str, Any]) -> Any:
    """A JSON schema with what it refers to in its place: in OpenAPI, "#" is another document's root."""
    named = schema.pop("$defs", {})

    def put(part: Any) -> Any:
        if isinstance(part, list):
            return [put(one) for one in part]
        if not isinstance(part, dict):
            return part
        if "$ref" in part:
            return put(named[part["$ref"].rpartition("/")[2]])
        return {name: put(one) for name, one in part.items()}

    return put(schema)


def first_fault(faults: list[tuple[tuple[int | str, ...], str]]) -> tuple[str | None, str]:
    """The field of the first of pydantic's (place, message), and all messages."""
    # a place also says which type of several was tried, such as "list[PoseField]"; a form's field may be "a[b]"
    named = [(".".join(str(part) for part in place if not _TYPE.match(str(part))), text) for place, text in faults]
    field = named[0][0]
    return field or None, "; ".join(dict.fromkeys(f"{field}: {text}" if field else text for field, text in named))


def _check_origin(request: Request) -> None:
    """A page of another site may send a browser's visitor here without asking, unless the content type is JSON's."""
    is_json = request.headers.get("content-type", "").partition(";")[0].strip().lower().endswith("json")
    if "origin" in request.headers and not is_json:
        raise RequestRefused("from a browser's page this needs content-type: application/json", status=415)


def check_encoding(request: Request) -> None:
    """Raises RequestRefused for a body that is compressed."""
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding != "identity":
        raise RequestRefused(f"content-encoding {encoding[:20]!r} is not read; send the body as it is", status=415)


async def _read(request: Request) -> bytes:
    check_encoding(request)
    body, held = bytearray(), request.scope.get(HELD) or Held()
    try:
        async for chunk in request.stream():
            body += chunk
            held.take(max(0, min(len(chunk), len(body) - FREE)))
            if len(body) > MAX_BODY:
                raise RequestRefused(f"the body is longer than {MAX_BODY} bytes", status=413)
    except ClientDisconnect:
        raise RequestRefused("the body ended before its content-length", status=400) from None
    return bytes(body)


def _parse(body: bytes, content_type: str) -> dict[str, Any]:
    if not body.strip():
        raise RequestRefused('the body is empty; send a JSON object, such as {"model": "NAME", "prompt": "..."}')
    try:  # UTF-8, with or without a mark, and UTF-16 and 32, as RFC 4627 had it. Half a surrogate pair is an error.
        fields = from_json(body.decode(json.detect_encoding(body)), allow_inf_nan=False)
    except ValueError as error:
        reason = "it is not encoded in UTF-8" if isinstance(error, UnicodeError) else str(error)
        if "hex escape" in reason:
            reason += ", where half of a surrogate pair stands alone or a \\u lacks its four digits"
        if _UNQUOTED.match(body):
            reason += "; its quotation marks were taken by a shell, as on Windows: `curl --json @FILE` sends a file"
        raise RequestRefused(f"the body is no JSON: {reason} (content-type: {content_type[:100]})") from None
    if isinstance(fields, str) and fields.lstrip().startswith("{"):
        raise RequestRefused("the body is JSON that was encoded twice, a text that holds an object: send the object")
    if not isinstance(fields, dict):
        raise RequestRefused(f"the body must be a JSON object, not {_NAMES.get(type(fields), 'a number')}")
    return fields


_NAMES: Final = {list: "an array", str: "a string", bool: "true or false", type(None): "null"}
