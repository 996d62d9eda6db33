"""Photos and the fields that come with them, as a multipart form or as JSON, or the reason why they cannot be read."""

from __future__ import annotations

import asyncio
import re
from pathlib import PurePosixPath
from typing import Any, Final, TypeVar
from unicodedata import normalize
from urllib.parse import unquote, urlsplit

from fastapi import Request
from pydantic import BaseModel, Field, ValidationError, field_validator
from starlette.datastructures import UploadFile

from factory.consent import COLUMNS, Consent
from factory.ids import content_id
from serve.hosts import hosts_of
from serve.openai.body import first_fault
from serve.openai.inline import is_json, read_inline
from serve.openai.multipart import content_of, form_of
from serve.openai.schemas import RequestRefused
from serve.uploads import Preset, Upload

MAX_PHOTOS: Final = 16  # of one request, as in OpenAI's API
MAX_FORM: Final = 64 * 2**20  # bytes of all of it
_MAX_FIELD: Final = 64 * 2**10  # bytes of one field that is no file
_MAX_FIELDS: Final = 100
_FORM_S: Final = 300.0  # until it is here: whoever sends it holds one of few places (Uploads.room)
_ENCODED: Final = re.compile(r"%22|(?:%[89A-F][0-9A-F])+", re.IGNORECASE)  # never a "%" that is one: "100%.jpg"
_PHOTOS: Final = re.compile(r"image(\[[0-9]*\])?")  # one, or one of several, as clients write it
_NO_NAME: Final = re.compile(
    r"((image|photo|picture|img|blob|file|upload|unknown|untitled|unnamed)[ _-]?\(?[0-9]{0,2}\)?)?", re.IGNORECASE
)


class PhotoFields(BaseModel):
    """The fields that tell of a photo to be learned."""

    name: str = Field(default="", max_length=200)  # empty: the file's
    preset: Preset = "paper"
    face: int | None = Field(default=None, ge=0, le=10_000)  # 0 is the largest; None: there must be one only
    same_person: bool = False  # several photos do show one person, also where they surely do not
    consent: str = Field(default="", max_length=1000)  # where it is written down that they agreed
    consent_expires: str = Field(default="", max_length=100)  # a date, as 2027-01-31
    consent_scope: str = Field(default="", max_length=1000)  # what for

    @field_validator("name")
    @classmethod
    def _as_stored(cls, name: str) -> str:
        return normalize("NFC", name.encode(errors="ignore").decode()).strip()

    def agreed(self) -> Consent:
        """The consent that is told. Raises RequestRefused."""
        try:
            return Consent.of(self.model_dump(include=set(COLUMNS)))
        except ValueError as error:
            raise RequestRefused(str(error), "consent") from None


Body = TypeVar("Body", bound=BaseModel)


async def read_form(request: Request, kind: type[Body]) -> tuple[list[Upload], Body]:
    """The photos, in their order, and the other fields as `kind`; what is empty is left out, also a field for a file
    in which none was chosen.

    Raises RequestRefused, which names the field at fault.
    """
    check_origin(request)
    try:
        async with asyncio.timeout(_FORM_S):
            photos, fields = await (_read_json if is_json(request) else _read_parts)(request)
    except TimeoutError:
        raise RequestRefused(f"the photos were not here within {_FORM_S:g} s", status=408) from None
    if not photos or not all(photo.data for photo in photos):
        raise RequestRefused("send at least one photo as `image`, none of 0 bytes", "image")
    try:
        return photos, kind.model_validate(fields)
    except ValidationError as error:
        param, message = first_fault([(fault["loc"], fault["msg"]) for fault in error.errors()])
        raise RequestRefused(message, param) from None


async def _read_json(request: Request) -> tuple[list[Upload], dict[str, Any]]:
    inline, fields = await read_inline(request, MAX_PHOTOS)
    return [Upload(data=data, name=await asyncio.to_thread(_called, None, data)) for data in inline], fields


async def _read_parts(request: Request) -> tuple[list[Upload], dict[str, Any]]:
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise RequestRefused("send multipart/form-data with the photo as `image`, as `curl -F image=@FILE`", status=415)
    photos: list[Upload] = []
    fields: dict[str, Any] = {}
    elsewhere = list[str]()  # fields of files that are no photos here
    too_long = RequestRefused(f"the form is longer than {MAX_FORM} bytes", status=413)
    form = form_of(request, too_long, MAX_FORM, max_files=MAX_PHOTOS, max_fields=_MAX_FIELDS, max_field=_MAX_FIELD)
    async with form as parts:
        for name, value in parts.multi_items():
            if not isinstance(value, UploadFile):
                if _PHOTOS.fullmatch(name):
                    raise RequestRefused("send a file, as `curl -F image=@FILE`", "image")
                fields |= {name.partition("[")[0]: value} if value != "" else {}
            elif not value.size and not (value.filename and _PHOTOS.fullmatch(name)):
                continue  # a browser's field in which nothing was chosen
            elif _PHOTOS.fullmatch(name):
                data = await content_of(value)
                photos.append(Upload(data=data, name=await asyncio.to_thread(_called, value.filename, data)))
            else:  # a file where none is expected: the model says so by its name
                elsewhere.append(name)
                fields[name.partition("[")[0]] = f"a file of {value.size} bytes"
    if not photos and elsewhere:
        raise RequestRefused(f"the file came as {elsewhere[0][:100]!r}: send it as `image`", "image")
    return photos, fields


def check_origin(request: Request) -> None:
    """A browser sends a form to any site without asking its visitor: only this server's own page may, and those of
    origins that its operator names (`serve --cors`)."""
    origin = request.headers.get("origin")
    allowed = request.scope.get("state", {}).get("origins", ())
    if origin is not None and origin not in allowed and urlsplit(origin).netloc not in hosts_of(request.headers):
        message = (
            "a page of another site may not send files here; if this is the server's own page behind a proxy, let the "
            f"proxy pass the header Host on, or start the server with `--cors {origin[:200]}`"
        )
        raise RequestRefused(message, status=403)


def file_name(filename: str | None) -> str:
    """A file's name as its sender sees it, without folders, in NFC: some clients percent-encode letters and quotes.
    What is no UTF-8 then was no code: "sale50%de.jpg"."""
    text = _ENCODED.sub(_decoded, filename or "")
    return normalize("NFC", text.replace("\\", "/").encode(errors="ignore").decode().rpartition("/")[2])


def _decoded(found: re.Match[str]) -> str:
    text = unquote(found[0], errors="replace")
    return found[0] if "\ufffd" in text else text


def _called(filename: str | None, data: bytes) -> str:
    """A photo's name: the file's, or of one that is called as phones and pages call every photo, one of its own: two
    people of the same name would be drawn in one another's place."""
    stem = _stem(filename)
    return f"photo-{content_id(data)[:8]}" if _NO_NAME.fullmatch(stem) else stem


def _stem(filename: str | None) -> str:
    """A file's name without its suffix, as it may be stored."""
    return PurePosixPath(file_name(filename)).stem[:200]
