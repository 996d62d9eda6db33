"""Routes, errors -> statuses in one table, and the deployments."""

from __future__ import annotations

import asyncio
import json
import math
import secrets
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import ray
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from ray import serve as ray_serve
from ray.exceptions import RayTaskError
from ray.serve import Application
from ray.serve.handle import DeploymentHandle
from starlette.exceptions import HTTPException

from factory.config import GenerateConfig
from factory.errors import IdentityNotFound, IncompatibleIdentity
from factory.pack import Pack, load_pack
from factory.records import Identity
from serve.generator import GenerationTimeout, Generator, GeneratorDown, ImageClient, ImageJob, QueueFull
from serve.schemas import (
    MAX_SEED,
    AppArgs,
    ImageData,
    ImagesRequest,
    ImagesResponse,
    ModelCard,
    RequestRefused,
    Settings,
    Stats,
    identity_card,
)
from serve.store import Catalog

APP_NAME = "identity-factory"
_DEFAULTS = Settings()


@dataclass(frozen=True, slots=True)
class Answer:
    """How an exception is told to the caller, in OpenAI's terms."""

    status: int
    type: str
    code: str
    param: str | None = None
    retry: bool | None = None  # for the openai client, which else retries every 408, 409, 429 and 5xx


ANSWERS: Final[dict[type[Exception], Answer]] = {
    IdentityNotFound: Answer(404, "invalid_request_error", "model_not_found", "model"),
    IncompatibleIdentity: Answer(409, "invalid_request_error", "incompatible_identity", "model", retry=False),
    RequestValidationError: Answer(422, "invalid_request_error", "invalid_value"),
    RequestRefused: Answer(422, "invalid_request_error", "invalid_value"),
    HTTPException: Answer(404, "invalid_request_error", "not_found"),  # unknown path or method; its own status
    QueueFull: Answer(429, "rate_limit_error", "queue_full", retry=True),
    GeneratorDown: Answer(503, "server_error", "generator_unavailable", retry=True),
    GenerationTimeout: Answer(504, "server_error", "timeout"),
    Exception: Answer(500, "server_error", "internal_error"),
}


async def _answer_error(_request: Request, error: Exception) -> Response:
    answer = next(ANSWERS[kind] for kind in type(error).__mro__ if kind in ANSWERS)
    status, param, headers = answer.status, answer.param, dict[str, str]()
    cause = error.cause if isinstance(error, RayTaskError) else error  # the replica's own, without its traceback
    message = str(cause)
    if isinstance(cause, RequestRefused):
        param = cause.param
    elif isinstance(cause, RequestValidationError):
        param, message = _first_fault(cause)
    elif isinstance(cause, HTTPException):
        status, message = cause.status_code, str(cause.detail)
    elif isinstance(cause, QueueFull):
        milliseconds = math.ceil(cause.retry_after_s * 1000)
        headers = {"retry-after": str(math.ceil(milliseconds / 1000)), "retry-after-ms": str(milliseconds)}
    elif status == 500:
        message = "the server failed; its log has the details under this request's x-request-id"
    if answer.retry is not None:
        headers["x-should-retry"] = str(answer.retry).lower()
    body = {"message": message, "type": answer.type, "param": param, "code": answer.code}
    return JSONResponse({"error": body}, status_code=status, headers=headers)


def _first_fault(error: RequestValidationError) -> tuple[str | None, str]:
    faults = [(".".join(map(str, fault["loc"][1:])), fault["msg"]) for fault in error.errors()]
    message = "; ".join(f"{field}: {text}" if field else text for field, text in faults)
    field = faults[0][0]
    return (field if field and not field.isdigit() else None), message


class Endpoint:
    """The routes. It knows nothing of Ray: `client` makes pictures, `read_stats` says what was made."""

    def __init__(
        self, pack: Pack, catalog: Catalog, client: ImageClient, read_stats: Callable[[], Awaitable[Stats]]
    ) -> None:
        self._pack = pack
        self._fingerprint = pack.fingerprint()
        self._defaults = GenerateConfig.model_validate(pack.generate)
        self._catalog = catalog
        self._client = client
        self._read_stats = read_stats

    def app(self) -> FastAPI:
        """The endpoint as an ASGI app."""
        app = FastAPI(title="identity factory", description="Pictures of stored identities, in OpenAI's format.")
        app.add_api_route("/v1/images/generations", self.generate_images, methods=["POST"], response_model=None)
        app.add_api_route("/v1/models", self.list_models)
        app.add_api_route("/v1/models/{model:path}", self.show_model)
        app.add_api_route("/v1/identities/{identity:path}", self.show_identity)
        app.add_api_route("/v1/stats", self.show_stats)
        app.add_api_route("/healthz", self.show_health)
        for kind in ANSWERS:
            app.add_exception_handler(kind, _answer_error)
        return app

    async def generate_images(self, body: ImagesRequest) -> Response:
        """Pictures of one identity, in OpenAI's format; see ImagesRequest for the fields."""
        body.check_size(self._pack.resolution)
        identity = await asyncio.to_thread(self._catalog.find, body.wanted_identity())
        self._check_fit(identity)
        seed = secrets.randbelow(MAX_SEED) if body.seed is None else body.seed
        config = body.config(self._defaults)
        results = await self._client.images(
            [ImageJob(identity=identity, prompt=body.prompt, seed=seed + i, config=config) for i in range(body.n)]
        )

        def encoded() -> list[ImageData]:
            return [ImageData.of(made.image, seed + i, made.batch_size, body) for i, made in enumerate(results)]

        answer = ImagesResponse(
            created=int(time.time()),
            data=await asyncio.to_thread(encoded),
            size=f"{self._pack.resolution}x{self._pack.resolution}",
            output_format=body.output_format,
            identity=identity.identity_id,
            model=identity.name,
            num_inference_steps=config.num_inference_steps,
            guidance_scale=config.guidance_scale,
        )
        if body.stream:
            return StreamingResponse(answer.events(), media_type="text/event-stream")
        return JSONResponse(answer.model_dump(exclude_none=True))

    async def list_models(self) -> dict[str, Any]:
        """The identities that can be asked for with this pack, newest first."""
        return {"object": "list", "data": await asyncio.to_thread(self._catalog.cards, self._fingerprint)}

    async def show_model(self, model: str) -> ModelCard:
        """One identity as a model."""
        return await asyncio.to_thread(self._catalog.card, model)

    async def show_identity(self, identity: str, words: bool = False) -> dict[str, Any]:
        """What is known of an identity, by name or id."""
        found = await asyncio.to_thread(self._catalog.find, identity)
        return identity_card(found, compatible=found.fingerprint == self._fingerprint, words=words)

    async def show_stats(self) -> Stats:
        """How many pictures shared how many UNet batches."""
        return await self._read_stats()

    async def show_health(self) -> dict[str, str]:
        """That the endpoint answers, and which pack it serves."""
        return {"status": "ok", "pack": self._pack.name, "fingerprint": self._fingerprint}

    def _check_fit(self, identity: Identity) -> None:
        if identity.fingerprint != self._fingerprint:
            raise IncompatibleIdentity(
                f"identity {identity.name!r} was learned with pack {identity.pack!r} (text encoder "
                f"{identity.fingerprint}); this endpoint serves pack {self._pack.name!r} ({self._fingerprint}). "
                f"Serve that pack, or train the identity with {self._pack.name!r}."
            )


class Ingress:
    """The ingress deployment: the endpoint's app, wired to the generator replicas and the tables."""

    def __init__(self, args: AppArgs, generator: DeploymentHandle[Any]) -> None:
        async def read_stats() -> Stats:
            replicas: list[Stats] = await generator.broadcast("stats").results_async()
            return sum(replicas, Stats())

        client = ImageClient(generator.generate.remote, timeout_s=args.timeout_s)
        self._endpoint = Endpoint(load_pack(args.pack), Catalog(args.root), client, read_stats)

    def __serve_build_asgi_app__(self) -> FastAPI:
        return self._endpoint.app()


def build(root: str, pack: str = "studio", settings: Settings = _DEFAULTS) -> Application:
    """The Serve application for the identities under `root`, drawn with a pack. Ray must run (it is asked for GPUs)."""
    args = AppArgs(root=root, pack=pack, **settings.model_dump())
    has_gpu = _cluster("GPU") >= 1
    num_gpus = args.num_gpus if args.num_gpus is not None else float(has_gpu)
    generator = ray_serve.deployment(
        name="Generator",
        ray_actor_options={"num_cpus": args.num_cpus, "num_gpus": num_gpus},
        max_ongoing_requests=args.max_ongoing,
        max_queued_requests=args.max_queued,
    )(Generator).bind(
        args.pack,
        device="cuda" if num_gpus else "cpu",
        num_threads=args.num_threads or math.ceil(args.num_cpus),
        max_batch=args.max_batch,
        batch_wait_s=args.batch_wait_s,
    )
    ingress = ray_serve.deployment(
        name="Ingress",
        ray_actor_options={"num_cpus": 0.1},
        max_ongoing_requests=1000,  # never the bottleneck: the generator's queue is what refuses, in OpenAI's shape
    )(ray_serve.ingress()(Ingress))
    return ingress.bind(args, generator)


def builder(args: dict[str, Any]) -> Application:
    """`build` for serve.yaml (import_path: serve.app:builder). AppArgs lists the arguments."""
    # Not annotated as AppArgs: Ray converts only where the annotation is a class, and here annotations are strings.
    checked = AppArgs.model_validate(args)
    return build(checked.root, checked.pack, Settings(**checked.model_dump(exclude={"root", "pack"})))


def start(
    root: str, pack: str = "studio", host: str = "127.0.0.1", port: int = 8000, settings: Settings = _DEFAULTS
) -> str:
    """Serves from this machine's Ray, which is started if need be, and returns the URL as soon as it answers.

    Raises:
        ValueError: Ray's own processes use the ports 10002-19999.
    """
    if 10002 <= port <= 19999:
        raise ValueError(f"port {port}: Ray's own processes use 10002-19999; choose another, such as 8000")
    load_pack(pack).fingerprint()  # what is missing is told here, not in a replica's log
    if not ray.is_initialized():
        ray.init(include_dashboard=False, log_to_driver=False)
    if settings.num_threads is None:  # `num_cpus` is a share for the scheduler; alone on a machine, use all of it
        settings = settings.model_copy(update={"num_threads": max(1, int(_cluster("CPU")))})
    ray_serve.start(http_options={"host": host, "port": port})
    ray_serve.run(build(str(Path(root).absolute()) if "://" not in root else root, pack, settings), name=APP_NAME)
    return f"http://{host}:{port}"


def _cluster(resource: str) -> float:
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return resources.get(resource, 0.0)


def stop() -> None:
    """Ends what `start` began, except Ray itself: jobs may use it too."""
    ray_serve.shutdown()


def run(root: str, pack: str = "studio", host: str = "127.0.0.1", port: int = 8000) -> None:
    """Serves until Ctrl-C; prints the URL and an example."""
    url = start(root, pack, host, port)
    body = json.dumps({"model": "NAME", "prompt": "a photo of <person> wearing a red hat", "seed": 0})
    print(f"serving {root} at {url}; identities: curl -s {url}/v1/models", flush=True)
    print(f"curl -s {url}/v1/images/generations -H 'content-type: application/json' -d '{body}'", flush=True)
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        print("stopping")
    finally:
        stop()
        ray.shutdown()  # type: ignore[no-untyped-call]
