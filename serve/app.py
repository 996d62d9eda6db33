"""Routes and deployments, start and stop."""

from __future__ import annotations

import asyncio
import json
import math
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from http.client import HTTPConnection
from typing import Any

import ray
from fastapi import APIRouter, FastAPI
from pyarrow.fs import FileType
from ray import serve as ray_serve
from ray.exceptions import RayTaskError
from ray.serve import Application
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import LoggingConfig
from starlette.convertors import PathConvertor, register_url_convertor

from factory.files import filesystem
from factory.pack import Pack, load_pack
from factory.provenance.marks import Marker, mark_with
from factory.store.tables import Store
from serve.browsing import browse_router
from serve.catalog import Catalog
from serve.client import ImageClient
from serve.drawing import Drawer
from serve.filming import KIND as FILM
from serve.filming import Filming
from serve.loop import LoopStats
from serve.openai.answers import ImagesResponse
from serve.openai.door import DoorMiddleware
from serve.openai.errors import ANSWERS, answer_error, kept_of
from serve.openai.images import Endpoint
from serve.openai.schemas import ImagesRequest
from serve.openai.videos import Videos, video_routes
from serve.openai.work import work_routes
from serve.settings import AppArgs, Settings
from serve.stopping import Door, StopSignals, finish
from serve.web.page import page_router
from serve.work import Kind, WorkBook

APP_NAME = "identity-factory"
DRAIN_S = 60.0  # for what is under way when the server is asked to stop
_DEFAULTS = Settings()
# For /docs: the body is read by serve/openai/body.py, whatever its content type.
_IMAGES_BODY = {"requestBody": {"content": {"application/json": {"schema": ImagesRequest.model_json_schema()}}}}


class _Name(PathConvertor):
    """An identity's name in a path: anything, a "/" and line breaks (which Starlette's `path` stops at) included."""

    regex = r"[\s\S]*"


register_url_convertor("name", _Name())


def create_app(endpoint: Endpoint, door: Door, book: WorkBook | None = None, *routers: APIRouter) -> FastAPI:
    """The endpoint as an ASGI app: its routes behind a door, and every error in OpenAI's shape.

    The work of `book` is seen to while the app runs; `routers` are the routes of whatever else there is.
    """

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        keeping = asyncio.create_task(book.keep()) if book is not None else None
        yield
        if keeping is not None:
            keeping.cancel()
            await asyncio.wait([keeping])

    what = "Pictures and clips of stored identities, in OpenAI's format."
    app = FastAPI(title="identity factory", description=what, lifespan=lifespan)
    for router in routers:
        app.include_router(router)
    images = "/v1/images/generations"
    app.add_api_route(
        images, endpoint.generate_images, methods=["POST"], response_model=ImagesResponse, openapi_extra=_IMAGES_BODY
    )
    app.include_router(page_router(endpoint.pack))
    app.include_router(browse_router(endpoint.pack, endpoint.catalog))  # before the names, which hold any "/"
    reading: dict[str, Callable[..., Any]] = {
        "/v1/models": endpoint.list_models,
        "/v1/models/": endpoint.list_models,
        "/v1/models/{model:name}": endpoint.show_model,
        "/v1/identities/{identity:name}": endpoint.show_identity,
        "/v1/pictures/{file_id}": endpoint.show_picture,
        "/v1/stats": endpoint.show_stats,
        "/healthz": endpoint.show_health,
    }
    for path, handler in reading.items():
        app.add_api_route(path, handler, include_in_schema=path != "/v1/models/")
        app.add_api_route(path, handler, methods=["HEAD"], include_in_schema=False)
    for kind in ANSWERS:
        app.add_exception_handler(kind, answer_error)
    app.add_middleware(DoorMiddleware, door=door)
    return app


class Ingress:
    """The ingress deployment: the endpoint's app, wired to the generator replicas and the tables."""

    def __init__(self, args: AppArgs, drawer: DeploymentHandle[Any]) -> None:
        async def read_stats() -> LoopStats:
            replicas: list[LoopStats] = await drawer.broadcast("stats").results_async()
            return sum(replicas, LoopStats())

        mark_with(Marker.of(args.root))  # whatever this process sends
        self._door = Door()
        streaming: Any = drawer.options(stream=True).draw_with_previews.remote
        filming: Any = drawer.options(stream=True).animate.remote
        self._client = ImageClient(drawer.draw.remote, streaming, filming, timeout_s=args.timeout_s)
        pack, catalog, store = load_pack(args.pack), Catalog(args.root), Store(args.root)
        self._endpoint = Endpoint(pack, catalog, self._client, read_stats)
        films = Filming(pack, catalog, store, self._client)
        self._book = WorkBook(store, {FILM: Kind(do=films.film)}, kept_of)
        videos = Videos(pack, catalog, store, self._book, films)
        self._routers = [work_routes(self._book), video_routes(videos)]

    def __serve_build_asgi_app__(self) -> FastAPI:
        return create_app(self._endpoint, self._door, self._book, *self._routers)

    async def close(self) -> int:
        """Lets no request in any more and puts work down for the next server; returns how many are being answered."""
        if not self._door.closed:
            self._door.closed = True
            await self._book.put_down()
        return self._door.num_inside

    async def give_up(self) -> None:
        """Answers 503 to those that still wait for pictures."""
        self._client.give_up()


def build(root: str, pack: str = "studio", settings: Settings = _DEFAULTS) -> Application:
    """The Serve application for the identities under `root`, drawn with a pack. Ray must run (it is asked for GPUs)."""
    args = AppArgs(root=root, pack=pack, **settings.model_dump())
    has_gpu = _cluster("GPU") >= 1
    num_gpus = args.num_gpus if args.num_gpus is not None else float(has_gpu)
    drawer = ray_serve.deployment(
        name="Drawer",
        ray_actor_options={"num_cpus": args.num_cpus, "num_gpus": num_gpus},
        max_ongoing_requests=args.max_ongoing,
        max_queued_requests=args.max_queued,
        logging_config=LoggingConfig(enable_access_log=False),  # the ingress logs the requests
        graceful_shutdown_wait_loop_s=0.5,
        graceful_shutdown_timeout_s=60.0,  # what is in the making is finished
    )(Drawer).bind(
        args.pack,
        device="cuda" if num_gpus else "cpu",
        num_threads=args.num_threads or math.ceil(args.num_cpus),
        max_batch=args.max_batch,
    )
    ingress = ray_serve.deployment(
        name="Ingress",
        ray_actor_options={"num_cpus": 0.1},
        max_ongoing_requests=1000,  # never the bottleneck: the drawer's queue is what refuses, in OpenAI's shape
        graceful_shutdown_wait_loop_s=0.5,
        graceful_shutdown_timeout_s=60.0,
    )(ray_serve.ingress()(Ingress))
    return ingress.bind(args, drawer)


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
        ValueError: Ray's own processes use the ports 10002-19999; or there is no such root.
        PackError: the pack is unknown or incomplete.
        OSError: the port is taken, or this Ray already serves on another one.
    """
    store, used_pack = _checked(root, pack, port)
    _connect()
    if settings.num_threads is None and len(ray.nodes()) == 1:  # type: ignore[no-untyped-call]
        # `num_cpus` is a share for the scheduler; alone on a machine, use all of it
        settings = settings.model_copy(update={"num_threads": max(1, int(_cluster("CPU")))})
    try:
        ray_serve.start(http_options={"host": host, "port": port})
    except RayTaskError as error:
        raise OSError(f"Ray Serve cannot listen: {error.cause} Choose another port.") from error
    ray_serve.run(build(store.root, used_pack.portable_name(), settings), name=APP_NAME)
    if not _answers(host, port):
        raise OSError(f"{host}:{port} does not answer: this Ray serves elsewhere; `serve shutdown` ends that")
    return f"http://{host}:{port}"


def _checked(root: str, pack: str, port: int) -> tuple[Store, Pack]:
    """What is wrong is told here: before Ray starts, and not in a replica's log."""
    if 10002 <= port <= 19999:
        raise ValueError(f"port {port}: Ray's own processes use 10002-19999; choose another, such as 8000")
    used_pack, store = load_pack(pack), Store(root)
    used_pack.fingerprint()
    check_root(store)
    return store, used_pack


def check_root(store: Store) -> None:
    """Raises ValueError if there is no such root, or if its tables are not ours: so a mistyped one is told at once."""
    files, path = filesystem(store.root)
    kind = files.get_file_info(path).type
    if kind != FileType.Directory:
        what = "does not exist" if kind == FileType.NotFound else "is a file"
        raise ValueError(f"--root {store.root} {what}; `identity-factory run --photos SRC --root ROOT` makes one")
    store.open("identities")


def _connect() -> None:
    if not ray.is_initialized():
        ray.init(include_dashboard=False, log_to_driver=False)


def _answers(host: str, port: int) -> bool:
    here = "127.0.0.1" if host == "0.0.0.0" else host
    with closing(HTTPConnection(here, port, timeout=10)) as connection:  # http.client uses no proxy of the environment
        try:
            connection.request("GET", "/healthz")
            return connection.getresponse().status == 200
        except OSError:  # refused, reset, or no answer in time
            return False


def _cluster(resource: str) -> float:
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return resources.get(resource, 0.0)


def stop() -> None:
    """Ends what `start` began, except Ray itself: jobs may use it too."""
    if ray.is_initialized():
        ray_serve.shutdown()  # type: ignore[no-untyped-call]


def run(root: str, pack: str = "studio", host: str = "127.0.0.1", port: int = 8000) -> None:
    """Serves until Ctrl-C or SIGTERM, then finishes what is being drawn; prints the URL and an example."""
    store, _ = _checked(root, pack, port)
    _connect()  # before the signals: Ray puts a handler of its own in the place of SIGTERM's
    with StopSignals() as signals:
        try:
            try:
                _announce(store, root, start(root, pack, host, port))
                signals.wait()
            except KeyboardInterrupt:
                if not _answers(host, port):
                    raise
                # the ingress answers before the start has ended, so somebody may have asked already
            print(f"stopping: what is under way has {DRAIN_S:g} s; asked again, it is dropped", flush=True)
            if given_up := finish(ray_serve.get_app_handle(APP_NAME), DRAIN_S, signals):
                print(f"{given_up} requests were not finished and were answered 503", file=sys.stderr)
        finally:
            stop()
            ray.shutdown()


def _announce(store: Store, root: str, url: str) -> None:
    if store.count("identities") == 0:
        print(f"warning: {root} holds no identities yet; who is learned appears by itself", file=sys.stderr)
    body = json.dumps({"model": "NAME", "prompt": "a photo of <person> wearing a red hat", "seed": 0})
    print(f"serving {root}; open {url} in a browser, or ask:", flush=True)
    print(f"curl -s {url}/v1/models", flush=True)
    print(f"curl -s {url}/v1/images/generations -H 'content-type: application/json' -d '{body}'", flush=True)
