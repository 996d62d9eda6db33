"""Errors -> statuses, in one table and in OpenAI's terms."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import Any, Final

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from ray.exceptions import RayTaskError
from starlette.exceptions import HTTPException

from factory.errors import ConsentExpired, IncompatibleIdentity, PhotoRejected, PromptTooLong, TableDamaged
from factory.store.keys import KeyRefused, ScopeLacking
from factory.store.whole import damage_in
from serve.catalog import UnknownIdentity
from serve.client import GenerationTimeout, GeneratorDown, QueueFull
from serve.learning import Diverged, FaceGone
from serve.openai.body import first_fault
from serve.openai.paths import no_method, no_route
from serve.openai.schemas import RequestRefused
from serve.quotas import BeyondQuota, QuotaExceeded
from serve.refusals import KeyReused, TooMuchWork, UnknownWork
from serve.shelf import UnknownFile
from serve.stopping import Stopping
from serve.unlearned import (
    Erased,
    NoSuchFace,
    NotLearned,
    OtherPerson,
    PhotosRefused,
    SeveralFaces,
    StillLearning,
)


@dataclass(frozen=True, slots=True)
class Answer:
    """How an exception is told to the caller, in OpenAI's terms."""

    status: int
    type: str
    code: str
    param: str | None = None
    retry: bool | None = None  # for the openai client, which else retries every 408, 409, 429 and 5xx


ANSWERS: Final[dict[type[Exception], Answer]] = {
    KeyRefused: Answer(401, "invalid_request_error", "invalid_api_key", retry=False),
    ScopeLacking: Answer(403, "invalid_request_error", "insufficient_scope", retry=False),
    UnknownIdentity: Answer(404, "invalid_request_error", "model_not_found", "model"),
    IncompatibleIdentity: Answer(409, "invalid_request_error", "incompatible_identity", "model", retry=False),
    ConsentExpired: Answer(409, "invalid_request_error", "consent_expired", "model", retry=False),
    RequestValidationError: Answer(422, "invalid_request_error", "invalid_value"),
    RequestRefused: Answer(422, "invalid_request_error", "invalid_value"),
    PromptTooLong: Answer(422, "invalid_request_error", "invalid_value", "prompt"),
    HTTPException: Answer(404, "invalid_request_error", "no_such_route"),  # its own status: 404, 405
    PhotoRejected: Answer(422, "invalid_request_error", "photo_rejected", "image"),  # its code is the reason
    PhotosRefused: Answer(422, "invalid_request_error", "photo_rejected", "image"),  # its code is the first reason
    OtherPerson: Answer(422, "invalid_request_error", "other_person", "same_person"),
    SeveralFaces: Answer(422, "invalid_request_error", "several_faces", "face"),
    NoSuchFace: Answer(422, "invalid_request_error", "no_such_face", "face"),
    Erased: Answer(409, "invalid_request_error", "erased", "image", retry=False),
    FaceGone: Answer(409, "invalid_request_error", "erased", "image", retry=False),
    NotLearned: Answer(422, "invalid_request_error", "not_learned", "image"),  # as the error that ended the learning
    StillLearning: Answer(504, "server_error", "still_learning", retry=True),
    Diverged: Answer(422, "invalid_request_error", "diverged", "image"),
    QueueFull: Answer(429, "rate_limit_error", "queue_full", retry=True),
    QuotaExceeded: Answer(429, "rate_limit_error", "rate_limit_exceeded", retry=True),
    BeyondQuota: Answer(422, "invalid_request_error", "beyond_limit", retry=False),
    UnknownFile: Answer(404, "invalid_request_error", "no_such_file"),
    UnknownWork: Answer(404, "invalid_request_error", "no_such_work"),
    KeyReused: Answer(422, "invalid_request_error", "idempotency_key_reused", "idempotency-key", retry=False),
    TooMuchWork: Answer(429, "rate_limit_error", "queue_full", retry=True),
    Stopping: Answer(503, "server_error", "server_stopping", retry=True),
    GeneratorDown: Answer(503, "server_error", "generator_unavailable", retry=True),
    GenerationTimeout: Answer(504, "server_error", "timeout", retry=False),  # again costs as much again
    TableDamaged: Answer(503, "server_error", "table_damaged", retry=False),
    Exception: Answer(500, "server_error", "internal_error"),
}


# Reasons whose detail is the words of a library or a system, which may tell of the machine; all others are our own.
_WITHOUT_DETAIL: Final = {
    "unreadable": "the photo cannot be read",
    "out_of_memory": "the photo needs more memory than this server has for one; send a smaller one",
}


async def answer_error(request: Request, error: Exception) -> Response:
    """The answer to a request that failed, in OpenAI's shape; AUTOMATIC1111's clients look for `detail`."""
    status, body, headers = told(error)
    if isinstance(error, HTTPException) and status in (404, 405):
        path = request.scope["path"]
        body["error"]["message"] = no_route(path) if status == 404 else no_method(request.method, path)
    if request.scope["path"].startswith(("/sdapi/", "/controlnet/", "/internal/")):
        body["detail"] = body["error"]["message"]
    return JSONResponse(body, status_code=status, headers=headers)


def told(error: Exception) -> tuple[int, dict[str, Any], dict[str, str]]:
    """An error's status, body and headers."""
    error = damage_in(error) or error
    answer = next(ANSWERS[kind] for kind in type(error).__mro__ if kind in ANSWERS)
    cause = error.cause if isinstance(error, RayTaskError) else error  # the replica's own, without its traceback
    message, more = str(cause), dict[str, Any]()
    if isinstance(cause, NotLearned):
        answer = next((one for one in ANSWERS.values() if one.code == cause.code), answer)
        more["code"] = cause.code
    status, param, headers = answer.status, answer.param, dict[str, str]()
    if isinstance(cause, RequestRefused):
        status, param = cause.status, cause.param
    elif isinstance(cause, BeyondQuota):
        param = cause.param
    elif isinstance(cause, RequestValidationError):
        param, message = first_fault([(fault["loc"][1:], fault["msg"]) for fault in cause.errors()])
    elif isinstance(cause, HTTPException):
        status, message = cause.status_code, str(cause.detail)
        headers = dict(cause.headers or {})  # 405 tells what is allowed
    elif isinstance(cause, (QueueFull, TooMuchWork, Stopping, StillLearning)):
        milliseconds = math.ceil(cause.retry_after_s * 1000)
        headers = {"retry-after": str(math.ceil(milliseconds / 1000)), "retry-after-ms": str(milliseconds)}
    elif isinstance(cause, PhotoRejected):
        message, more["code"] = _why(cause), cause.reason
    elif isinstance(cause, PhotosRefused):
        refused = sorted(cause.refused.items())
        message = "; ".join(f"photo {number} (from 0): {_why(one)}" for number, one in refused)
        photos = [{"photo": number, "code": one.reason, "message": _why(one)} for number, one in refused]
        more |= {"code": refused[0][1].reason, "photos": photos}
    elif isinstance(cause, OtherPerson):
        more |= {"photos": list(cause.photos), "faces": cause.faces}
    elif isinstance(cause, SeveralFaces):
        more["faces"] = cause.faces
    elif isinstance(cause, TableDamaged):
        logging.getLogger("ray.serve").error("%s", cause)
        message = "a table of this server is incomplete or damaged; its log says which"
    elif status == 500:
        message = "the server failed; its log has the details under this request's x-request-id"
    if status == 401:
        headers["www-authenticate"] = "Bearer"  # not Basic: a browser would ask by itself, for each picture of the page
    if answer.retry is not None:
        headers["x-should-retry"] = str(answer.retry).lower()
    body = {"message": message, "type": answer.type, "param": param, "code": answer.code, **more}
    return status, {"error": body}, headers


def _why(error: PhotoRejected) -> str:
    told_why = _WITHOUT_DETAIL.get(error.reason, error.detail)
    return f"{error.reason.replace('_', ' ')}: {told_why}"


def kept_of(error: Exception) -> dict[str, str]:
    """What is kept of an error that ended a piece of work."""
    _, body, _ = told(error)
    if body["error"]["code"] == "internal_error":
        logging.getLogger("ray.serve").error("a piece of work failed", exc_info=error)
    return {"code": body["error"]["code"], "message": body["error"]["message"]}
