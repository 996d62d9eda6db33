"""Deployments, start and stop."""

from __future__ import annotations

import json
import logging
import math
import os
import shlex
import socket
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from errno import EADDRINUSE
from typing import Any

import ray
from ray import serve as ray_serve
from ray.exceptions import RayTaskError
from ray.serve import Application
from ray.serve.schema import LoggingConfig

from factory.files import check_root
from factory.limits import ray_folder, set_ray_folder
from factory.pack import Pack, load_pack
from factory.provenance.marks import Marker
from factory.store.connection import check_tables
from factory.store.keys import list_keys
from factory.store.tables import Store
from serve.catalog import Catalog
from serve.drawing import Drawer
from serve.hosts import is_loopback, page_origin
from serve.ingress import NO_KEYS, Ingress
from serve.ingress import create_app as create_app
from serve.learning import learner_deployment
from serve.neighbours import APP_NAME as APP_NAME
from serve.neighbours import answers, check_alone, check_listens, end
from serve.proxy import set_environment
from serve.sculpting import sculptor_deployment
from serve.settings import HEALTH_CHECK_S, AppArgs, Keyless, Settings
from serve.stopping import StopSignals, finish

DRAIN_S = 60.0  # for what is under way when the server is asked to stop
_DEFAULTS = Settings()


def build(root: str, pack: str = "studio", settings: Settings = _DEFAULTS, host: str = "localhost") -> Application:
    """The Serve application for the identities under `root`, drawn with a pack. Ray must run (it is asked for GPUs)."""
    args = AppArgs(root=root, pack=pack, host=host, **settings.model_dump())
    has_gpu = _cluster("GPU") >= 1
    num_gpus = args.num_gpus if args.num_gpus is not None else 0.6 * has_gpu
    num_threads = args.num_threads or math.ceil(args.num_cpus)
    drawer = ray_serve.deployment(
        name="Drawer",
        ray_actor_options={"num_cpus": args.num_cpus, "num_gpus": num_gpus},
        max_ongoing_requests=args.max_ongoing,
        max_queued_requests=args.queued_each,
        logging_config=LoggingConfig(enable_access_log=False),  # the ingress logs the requests
        health_check_timeout_s=HEALTH_CHECK_S,
        graceful_shutdown_wait_loop_s=0.5,
        graceful_shutdown_timeout_s=60.0,  # what is in the making is finished
    )(Drawer).bind(
        args.pack,
        device="cuda" if num_gpus else "cpu",
        num_threads=num_threads,
        max_batch=args.max_batch,
    )
    sculptor = sculptor_deployment(args, num_threads=max(1, num_threads // 2), num_gpus=0.2 if num_gpus else 0.0)
    learner = learner_deployment(args, num_threads=num_threads, num_gpus=0.2 if num_gpus else 0.0)
    ingress = ray_serve.deployment(
        name="Ingress",
        num_replicas=args.num_ingresses,
        ray_actor_options={"num_cpus": 0.1},
        max_ongoing_requests=1000,  # never the bottleneck: the drawer's queue is what refuses, in OpenAI's shape
        health_check_timeout_s=HEALTH_CHECK_S,
        graceful_shutdown_wait_loop_s=0.5,
        graceful_shutdown_timeout_s=60.0,
    )(ray_serve.ingress()(Ingress))
    return ingress.bind(args, drawer, sculptor, learner)


def builder(args: dict[str, Any]) -> Application:
    """`build` for serve.yaml (import_path: serve.app:builder). AppArgs lists the arguments."""
    # Not annotated as AppArgs: Ray converts only where the annotation is a class, and here annotations are strings.
    checked = AppArgs.model_validate(args)
    settings = Settings(**checked.model_dump(exclude={"root", "pack", "host"}))
    return build(checked.root, checked.pack, settings, checked.host)


def start(
    root: str,
    pack: str = "studio",
    host: str = "127.0.0.1",
    port: int = 8000,
    settings: Settings = _DEFAULTS,
    *,
    insecure: bool = False,
    cors: Sequence[str] = (),
) -> str:
    """Serves from this machine's Ray, which is started if need be, and returns the URL as soon as it answers.

    Without keys a root is served to this machine alone, or to whoever comes if `insecure`. Pages of the origins `cors`
    may read answers and send photos.

    Raises:
        ValueError: Ray's own processes use the ports 10002-19999; there is no such root, or it has no keys; what is no
            origin is in `cors`.
        PackError: the pack is unknown or incomplete.
        OSError: the port is taken, or this Ray serves another root already, or by another port.
    """
    store, used_pack = _checked(root, pack, port)
    pages = [*settings.cors, *map(page_origin, cors)]
    settings = settings.model_copy(update={"keyless": _keyless(store, host, insecure), "cors": pages})
    _connect(_start_ray)
    if settings.num_threads is None and len(ray.nodes()) == 1:  # type: ignore[no-untyped-call]
        # `num_cpus` is a share for the scheduler; alone on a machine, use all of it
        settings = settings.model_copy(update={"num_threads": max(1, int(_cluster("CPU")))})
    check_alone(store.root, host, port)
    try:
        ray_serve.start(http_options={"host": host, "port": port})
    except RayTaskError as error:
        raise OSError(f"Ray Serve cannot listen: {error.cause} Choose another port.") from error
    check_listens(host, port)
    ray_serve.run(build(store.root, used_pack.portable_name(), settings, host), name=APP_NAME)
    return f"http://{host}:{port}"


def _checked(root: str, pack: str, port: int) -> tuple[Store, Pack]:
    """What is wrong is told here: before Ray starts, and not in a replica's log."""
    if 10002 <= port <= 19999:
        raise ValueError(f"port {port}: Ray's own processes use 10002-19999; choose another, such as 8000")
    used_pack, store = load_pack(pack), Store(root)
    used_pack.fingerprint()
    try:
        check_root(store.root)
    except ValueError as error:
        raise ValueError(f"{error}; an empty folder will do where people are learned from uploads alone") from None
    store.open("identities")  # of another layout than ours: told here
    check_tables(store.root)
    Marker.of(store.root)  # its certificate, which may be another user's
    return store, used_pack


def _check_free(host: str, port: int) -> None:
    """Raises OSError if nothing can listen there: said before Ray starts. Where a cluster is joined, it may serve there
    itself."""
    runs = os.access(f"{ray_folder()}/ray/ray_current_cluster", os.F_OK)  # of another user's folder nothing is told
    if ray.is_initialized() or os.environ.get("RAY_ADDRESS", "") not in ("", "local") or runs:
        return
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        remedy = (
            "end what listens there, or choose another --port"
            if error.errno == EADDRINUSE
            else ("choose another --host or --port")
        )
        raise OSError(f"{host}:{port} cannot be served: {error.strerror or error}; {remedy}") from None


def _keyless(store: Store, host: str, insecure: bool) -> Keyless:
    """Raises ValueError where a server would be open to whoever reaches it, and nobody said that it may."""
    if insecure:
        return "anyone"
    if host == "localhost" or is_loopback(host):
        return "loopback"
    if not list_keys(store):
        raise ValueError(NO_KEYS.format(root=store.root))
    return "refuse"


def _start_ray() -> None:
    set_ray_folder()
    ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)


def _connect(reach_ray: Callable[[], None]) -> None:
    # What is said to the terminal is ours; errors of Ray's and Serve's are told all the same.
    for name in ("ray", "ray.serve"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message="lance is not fork-safe")  # Ray's processes are other programs
    if not ray.is_initialized():
        # Replicas share cores: a thread that spins in one holds up the others.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        set_environment()
        reach_ray()


def _cluster(resource: str) -> float:
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return resources.get(resource, 0.0)


def stop() -> None:
    """Ends what `start` began, except Ray itself: jobs may use it too."""
    if ray.is_initialized():
        end()


def run(
    root: str,
    pack: str = "studio",
    host: str = "127.0.0.1",
    port: int = 8000,
    *,
    insecure: bool = False,
    cors: Sequence[str] = (),
    reach_ray: Callable[[], None] = _start_ray,
) -> None:
    """Serves until Ctrl-C or SIGTERM, then finishes what is being drawn; prints the URL and an example. `reach_ray`
    joins or starts the Ray to serve from, and tells why it cannot."""
    store, used_pack = _checked(root, pack, port)
    cors = [page_origin(one) for one in cors]
    _keyless(store, host, insecure)
    _check_free(host, port)
    _connect(reach_ray)  # before the signals: Ray puts a handler of its own in the place of SIGTERM's
    check_alone(store.root, host, port)  # before what ends with us is ours
    with StopSignals() as signals:
        try:
            try:
                _announce(store, used_pack, start(root, pack, host, port, insecure=insecure, cors=cors))
                signals.wait()
            except KeyboardInterrupt:
                if not answers(host, port):
                    raise
                # the ingress answers before the start has ended, so somebody may have asked already
            print(f"stopping: what is under way has {DRAIN_S:g} s; asked again, it is dropped", flush=True)
            if given_up := finish(ray_serve.get_app_handle(APP_NAME), DRAIN_S, signals):
                print(f"{given_up} requests were not finished and were answered 503", file=sys.stderr)
        finally:
            # Ray tells of tasks of its own that end with it
            with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
                stop()
                ray.shutdown()


def _announce(store: Store, pack: Pack, url: str) -> None:
    newest = Catalog(store.root).page(pack.fingerprint(), 1)
    if not newest:
        print(f"warning: {store.root} holds no identities yet; who is learned appears by itself", file=sys.stderr)
    name = newest[0].handle if newest else "NAME"
    body = json.dumps({"model": name, "prompt": "a photo of <person> wearing a red hat", "seed": 0})
    print(f"serving {store.root}; open {url} in a browser, or ask:", flush=True)
    print(f"curl -s {url}/v1/models", flush=True)
    print(f"curl -s {url}/v1/images/generations -H 'content-type: application/json' -d {shlex.quote(body)}", flush=True)
