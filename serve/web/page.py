"""The page and its files, with the headers that keep it to itself."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

import jinja2
from fastapi import APIRouter, Request
from fastapi.responses import Response

from factory.config import GenerateConfig
from factory.draw.compose import MAX_PEOPLE
from factory.pack import Pack
from serve.assessing import can_measure
from serve.openai.forms import MAX_FORM, MAX_PHOTOS
from serve.openai.ranges import is_known
from serve.openai.schemas import MAX_SEED, RequestRefused

_HERE: Final = Path(__file__).parent
_KINDS: Final = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
# Scripts, styles and pictures of this server alone, none of them written into the page; nobody may frame it.
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS: Final = {
    "content-security-policy": _POLICY,
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(self), microphone=(), geolocation=()",
    "cache-control": "no-cache",  # kept, and asked after by its tag
}
# What the page can show, by the route that it needs.
_PARTS: Final = {
    "learn": ("POST", "/v1/identities"),
    "forget": ("DELETE", "/v1/identities/"),
    "work": ("GET", "/v1/work"),
    "clips": ("POST", "/v1/videos"),
    "heads": ("POST", "/v1/heads"),
    "images": ("GET", "/v1/images"),
    "faces": ("GET", "/v1/identities/{identity}/thumbnail"),
    "poses": ("GET", "/v1/poses"),
    "jobs": ("GET", "/v1/jobs"),
}


def page_router(pack: Pack) -> APIRouter:
    """`/` and `/web/{file}`."""
    router = APIRouter(include_in_schema=False)

    def show_page(request: Request) -> Response:
        facts = _facts(pack, _parts(request.app.openapi()["paths"]))
        return _answer(request, _template().render(facts=facts).encode(), "text/html")

    def show_file(file: str, request: Request) -> Response:
        kind = _KINDS.get(Path(file).suffix)
        if kind is None or file not in _files():
            raise RequestRefused(f"there is no file {file[:100]!r}", status=404)
        return _answer(request, (_HERE / "static" / file).read_bytes(), kind)

    router.add_api_route("/", show_page, methods=["GET"])
    router.add_api_route("/web/{file}", show_file, methods=["GET"])
    return router


def _answer(request: Request, data: bytes, kind: str) -> Response:
    headers = {**_HEADERS, "etag": f'"{hashlib.sha256(data).hexdigest()[:32]}"'}
    if is_known(request.headers.get("if-none-match"), headers["etag"]):
        return Response(status_code=304, headers=headers)
    return Response(data, media_type=f"{kind}; charset=utf-8", headers=headers)


def _parts(paths: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The parts of the page that this server's routes, as its schema lists them, carry. A path that ends with "/" is
    that of one thing, whatever its parameter is called."""

    def there(method: str, path: str) -> bool:
        known = [theirs for theirs, methods in paths.items() if method.lower() in methods]
        if not path.endswith("/"):
            return path in known
        return any(theirs.startswith(path + "{") and theirs.endswith("}") for theirs in known)

    return [name for name, (method, path) in _PARTS.items() if there(method, path)]


def _facts(pack: Pack, parts: list[str]) -> dict[str, Any]:
    """What the page needs to know of the server before it asks."""
    defaults = GenerateConfig.model_validate(pack.generate)
    return {
        "pack": pack.name,
        "side": pack.resolution,  # px
        "steps": defaults.num_inference_steps,
        "guidance": defaults.guidance_scale,
        "maxPeople": MAX_PEOPLE,
        "maxSeed": MAX_SEED,
        "maxPhotos": MAX_PHOTOS,
        "maxForm": MAX_FORM,  # bytes
        "moves": pack.motion is not None or pack.video is not None,
        "compares": can_measure(pack),
        "has": parts,
    }


@cache
def _files() -> frozenset[str]:
    return frozenset(file.name for file in (_HERE / "static").iterdir())


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    return environment.from_string((_HERE / "index.html").read_text(encoding="utf-8"))
