"""The input file of a batch: one request a line, in JSON, as OpenAI reads it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

from pydantic_core import from_json

ENDPOINT: Final = "/v1/images/generations"
MAX_BYTES: Final = 200 * 2**20  # of a file, as in OpenAI's API
MAX_LINES: Final = 50_000  # requests of a batch, as in OpenAI's API
_MAX_NAME: Final = 512  # characters of a custom_id
_MAX_FAULTS: Final = 100  # that are told


def numbered(content: bytes) -> Iterator[tuple[int, bytes]]:
    """The requests with their lines' numbers, from 1; empty lines are none."""
    start, number = 3 if content.startswith(b"\xef\xbb\xbf") else 0, 1
    while start < len(content):
        end = content.find(b"\n", start)
        end = len(content) if end < 0 else end
        if line := content[start:end].strip():
            yield number, line
        start, number = end + 1, number + 1


def check(content: bytes) -> tuple[int, list[dict[str, Any]]]:
    """How many requests there are, and what is wrong with them: code, message, param and line, as OpenAI tells it.
    What a request asks for is not looked at: that is told in the error file."""
    seen: set[str] = set()
    faults: list[dict[str, Any]] = []
    total = 0
    encoding = json.detect_encoding(content[:4])
    if encoding not in ("utf-8", "utf-8-sig"):
        text = f"the file is written in {encoding.upper()}, as `>` of Windows' PowerShell does: save it as UTF-8"
        return total, [_fault("invalid_encoding", text, None, 1)]
    for number, line in numbered(content):
        total += 1
        if total > MAX_LINES:
            return total, [_fault("too_many_requests", f"a batch has at most {MAX_LINES} requests", None, None)]
        if (fault := _fault_of(number, line, seen)) is not None and len(faults) < _MAX_FAULTS:
            faults.append(fault)
    if total == 0:
        faults.append(_fault("empty_file", "the input file has no requests", None, None))
    return total, faults


def _fault_of(number: int, line: bytes, seen: set[str]) -> dict[str, Any] | None:
    try:
        request = from_json(line, allow_inf_nan=False)
    except ValueError:
        return _not_utf8(number, line) or _fault("invalid_json_line", "this line is not valid JSON", None, number)
    if not isinstance(request, dict):
        return _fault("invalid_json_line", "this line is no JSON object", None, number)
    name = request.get("custom_id")
    if not isinstance(name, str) or not 0 < len(name) <= _MAX_NAME:
        return _fault("missing_required_parameter", f"a text of 1 to {_MAX_NAME} characters", "custom_id", number)
    if name in seen:
        return _fault("duplicate_custom_id", "another request has the same custom_id", "custom_id", number)
    seen.add(name)
    if request.get("method") != "POST":
        return _fault("invalid_method", 'must be "POST"', "method", number)
    if request.get("url") != ENDPOINT:
        return _fault("invalid_url", f'must be the batch\'s endpoint, "{ENDPOINT}"', "url", number)
    if not isinstance(request.get("body"), dict):
        return _fault("missing_required_parameter", "a JSON object with the request's fields", "body", number)
    return None


def _not_utf8(number: int, line: bytes) -> dict[str, Any] | None:
    try:
        line.decode()
    except UnicodeDecodeError as error:
        text = (
            f"this line is not UTF-8: its byte {error.start + 1} is 0x{line[error.start]:02x}; save the file as UTF-8"
        )
        return _fault("invalid_encoding", text, None, number)
    return None


def _fault(code: str, message: str, param: str | None, line: int | None) -> dict[str, Any]:
    return {"code": code, "message": message, "param": param, "line": line}
