"""The ingress deployment: routes, and the apps of tenants, wired to the generator replicas and the tables."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import ray
from fastapi import APIRouter, FastAPI
from ray import serve as ray_serve
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle
from starlette.convertors import PathConvertor, register_url_convertor
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from factory.files import tenant_root
from factory.pack import load_pack
from factory.provenance.marks import Marker, mark_with
from factory.store.keys import KeyRing
from serve.a1111.routes import a1111_routes
from serve.a1111.tasks import Everywhere, Tasks, TasksOfAll, TaskState
from serve.access import Gate, Rooms
from serve.assessing import KIND as ASSESS
from serve.assessing import Assessing, can_measure
from serve.browsing import browse_router
from serve.catalog import Catalog
from serve.client import ImageClient
from serve.committing import shared_store
from serve.filming import KIND as FILM
from serve.filming import Filming
from serve.learners import RemoteLearner
from serve.ledger import Ledger, LedgerMiddleware
from serve.loop import LoopStats
from serve.modelling import KIND as HEAD
from serve.modelling import Modelling, RemoteSculptor
from serve.openai.answers import ImagesResponse
from serve.openai.batch_lines import KIND as BATCH
from serve.openai.batch_lines import BatchRunner
from serve.openai.batches import Batches, batch_routes
from serve.openai.body import described
from serve.openai.door import DoorMiddleware, PlainMiddleware
from serve.openai.edits import Edits, edit_routes
from serve.openai.errors import ANSWERS, answer_error, kept_of
from serve.openai.files import Files, file_routes
from serve.openai.heads import Heads, head_routes
from serve.openai.identities import Identities, identity_routes
from serve.openai.images import Endpoint
from serve.openai.schemas import ImagesRequest
from serve.openai.videos import Videos, video_routes
from serve.openai.work import work_routes
from serve.quotas import Ask, Counts, Quotas, counted_here
from serve.settings import AppArgs
from serve.stopping import Door
from serve.uploads import KIND as LEARN
from serve.uploads import Uploads
from serve.web.page import page_router
from serve.work import Kind, WorkBook

_SPARE_S = 30.0  # that a lease outlasts its request
NO_KEYS = (
    "{root} has no keys, and whoever reaches this address could see and draw everybody in it: make one with "
    "`identity-factory keys create --root {root} --scope draw`, or say --insecure (keyless: anyone)"
)


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
        keeping = [asyncio.create_task(endpoint.catalog.keep_warm())]
        keeping += [] if book is None else [asyncio.create_task(book.keep())]
        yield
        for task in keeping:
            task.cancel()
        await asyncio.wait(keeping)

    what = "Pictures and clips of stored identities, in OpenAI's format."
    # no /docs and /redoc: those pages run scripts of other servers in this one's origin, where everybody's pictures are
    quiet: dict[str, Any] = {"docs_url": None, "redoc_url": None}
    quiet["redirect_slashes"] = False  # to an address that is wrong behind a proxy with TLS; the gate takes them off
    app = FastAPI(title="identity factory", description=what, lifespan=lifespan, **quiet)
    for router in routers:
        app.include_router(router)
    images = "/v1/images/generations"
    app.add_api_route(
        images,
        endpoint.generate_images,
        methods=["POST"],
        response_model=ImagesResponse,
        openapi_extra=described(ImagesRequest),
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
    for kind in ANSWERS:
        app.add_exception_handler(kind, answer_error)
    app.add_middleware(DoorMiddleware, door=door)
    app.add_middleware(PlainMiddleware)
    return app


def counted_by_ray() -> Ask:
    """Asks the one actor that counts for all ingress replicas, begun by the first who asks; without Ray counts here."""
    if not ray.is_initialized():
        return counted_here()
    actor: Any = None
    options: dict[str, Any] = {
        "name": "identity-factory-quotas",
        "namespace": "identity-factory",  # whichever job a replica belongs to
        "get_if_exists": True,
        "lifetime": "detached",
        "max_restarts": -1,  # with its node it is lost, and counts from nothing
        "max_task_retries": 1,
        "num_cpus": 0,
    }

    async def ask(method: str, *args: Any) -> Any:
        nonlocal actor
        if actor is None:
            actor = ray.remote(Counts).options(**options).remote()
        return await getattr(actor, method).remote(*args)

    return ask


def asking_all() -> Everywhere | None:
    """Calls a method of all replicas of this deployment, this one too; None where this is none, as in tests."""
    try:
        here = ray_serve.get_replica_context()
    except RayServeException:
        return None
    handle: Any = None

    async def everywhere(method: str, *args: Any) -> list[Any]:
        nonlocal handle
        if handle is None:
            handle = ray_serve.get_deployment_handle(here.deployment, here.app_name)
        results: list[Any] = await handle.broadcast(method, *args).results_async()
        return results

    return everywhere


def with_cors(app: ASGIApp, origins: Sequence[str]) -> ASGIApp:
    """Pages of these origins may read answers, in front of the gate: a browser asks for that without a key. They may be
    public ones that ask a server of a private network, of which some browsers make sure."""
    if not origins:
        return app
    ours = ("x-ignored-fields", "x-prompt-truncated", "x-negative-prompt-truncated", "x-should-retry", "x-request-id")
    shown = (*ours, "retry-after", "retry-after-ms", "openai-poll-after-ms", "location", "content-range", "etag")
    everything: dict[str, Any] = {"allow_methods": ["*"], "allow_headers": ["*"], "allow_private_network": True}
    return CORSMiddleware(app, allow_origins=list(origins), expose_headers=shown, **everything)


class Ingress:
    """The ingress deployment: the endpoint's app, wired to the generator replicas and the tables."""

    def __init__(
        self,
        args: AppArgs,
        drawer: DeploymentHandle[Any],
        sculptor: DeploymentHandle[Any],
        learner: DeploymentHandle[Any],
    ) -> None:
        mark_with(Marker.of(args.root))  # whatever this process sends
        self._args, self._drawer, self._pack = args, drawer, load_pack(args.pack)
        self._sculptor, self._learner = RemoteSculptor(sculptor), learner
        self._door, self._ring = Door(), KeyRing(args.root)
        if args.keyless == "refuse" and not self._ring.keys():
            raise ValueError(NO_KEYS.format(root=args.root))
        # pictures of batches at once, of all tenants and all ingresses together
        self._num_patient = max(1, args.max_batch // 2 // args.num_ingresses)
        self._patient_room = asyncio.Semaphore(self._num_patient)
        share = max((args.max_ongoing + args.max_queued) // 2, 1)
        self._quotas = Quotas(counted_by_ray(), lasts_s=args.timeout_s + _SPARE_S, tenants_share=share)
        self._tasks = Tasks()
        self._books: list[WorkBook] = []
        self._ledgers: list[Ledger] = []
        self._clients: list[ImageClient] = []

    def __serve_build_asgi_app__(self) -> ASGIApp:
        own = self._furnish(self._args.root)
        rooms = Rooms(lambda tenant: self._furnish(tenant_root(self._args.root, tenant), tenant))
        cors = self._args.cors
        gate = Gate(own, self._ring, rooms, keyless=self._args.keyless, host=self._args.host, origins=cors)
        return with_cors(gate, cors)

    def _furnish(self, root: str, tenant: str = "") -> FastAPI:
        """The endpoint on one root, which is all that it knows: the operator's own, or a tenant's."""

        async def read_stats() -> LoopStats:
            replicas: list[LoopStats] = await self._drawer.broadcast("stats").results_async()
            return sum(replicas, LoopStats())

        streaming: Any = self._drawer.options(stream=True).draw_with_previews.remote
        filming: Any = self._drawer.options(stream=True).animate.remote
        client = ImageClient(
            partial(self._drawer.draw.remote, tenant=tenant),
            partial(streaming, tenant=tenant),
            partial(filming, tenant=tenant),
            timeout_s=self._args.timeout_s,
            submit_patiently=partial(self._drawer.draw_patiently.remote, tenant=tenant),
            patient_room=self._patient_room,
            quotas=self._quotas,
            compare=self._drawer.choose.remote,
            assess=partial(self._drawer.assess.remote, tenant=tenant),
        )
        pack, catalog, store = self._pack, Catalog(root), shared_store(root)
        endpoint = Endpoint(pack, catalog, client, read_stats)
        films = Filming(pack, catalog, store, client)
        modelling = Modelling(pack, catalog, store, self._sculptor)
        uploads = Uploads(pack, store, RemoteLearner(self._learner, root))
        ledger = Ledger(store)
        lines = BatchRunner(store, endpoint.generations, at_once=self._num_patient, ledger=ledger)
        assessing = Assessing(store, client)
        assesses = self._args.assess_uploads and can_measure(pack)
        learn = assessing.following(uploads.learn, lambda: book) if assesses else uploads.learn
        kinds = {
            FILM: Kind(do=films.film, counts=True),
            HEAD: Kind(do=modelling.sculpt, counts=True),
            LEARN: Kind(do=learn, undo=uploads.forget, sweep=uploads.sweep, at_once=self._args.learner_slots),
            ASSESS: Kind(do=assessing.assess),
            BATCH: Kind(do=lines.run),
        }
        book = WorkBook(store, kinds, kept_of, quotas=self._quotas, key_of=self._ring.of_id)
        identities = Identities(catalog, store, book, uploads, pack.fingerprint(), self._quotas)
        batches = Batches(store, book, pack.name)
        routers = [
            work_routes(book),
            video_routes(Videos(pack, catalog, store, book, films)),
            head_routes(Heads(catalog, store, book, modelling)),
            identity_routes(identities),
            edit_routes(Edits(endpoint.generations, identities, uploads, book, timeout_s=self._args.timeout_s)),
            batch_routes(batches),
            file_routes(Files(store, batches)),
            a1111_routes(pack, catalog, endpoint, TasksOfAll(self._tasks, asking_all())),
        ]
        self._books.append(book)
        self._clients.append(client)
        app = create_app(endpoint, self._door, book, *routers)
        self._ledgers.append(ledger)
        app.add_middleware(LedgerMiddleware, ledger=ledger)
        return app

    async def served_root(self) -> str:
        """The root of this endpoint."""
        return self._args.root

    async def close(self) -> int:
        """Lets no request in any more and puts work down for the next server; returns how many are being answered."""
        if not self._door.closed:
            self._door.closed = True
            for book in self._books:
                await book.put_down()
        if not self._door.num_inside:
            for ledger in self._ledgers:
                await ledger.flush()
        return self._door.num_inside

    async def a1111_tasks(self, owner: str, task_id: str | None = None) -> list[TaskState]:
        """What this replica draws for one of A1111's clients."""
        return [task.state() for task in self._tasks.of(owner, task_id)]

    async def a1111_interrupt(self, owner: str) -> None:
        """Ends what this replica draws for it."""
        self._tasks.interrupt(owner)

    async def give_up(self) -> None:
        """Answers 503 to those that still wait for pictures."""
        for client in self._clients:
            client.give_up()
