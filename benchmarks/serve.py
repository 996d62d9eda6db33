"""The endpoint over HTTP on this machine, against its own engine in a process and against admission when it is empty.

    python -m benchmarks.serve --size studio --minutes 10 --out benchmarks/serve_MACHINE_YYYY-MM

One Ray serves two applications: the product's, and the same whose engine admits only when it is empty, as batches that
run to completion do. Rounds follow each other until time is up; in each, everything is measured in turn: the engine in
this process, one client alone (a picture in the process, one over HTTP, and so on), closed loops of 8 and 32 clients,
and arrivals by chance at 0.3, 0.7 and 0.9 of what the engine does in a process. Writes OUT.json and OUT.md.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import factory  # noqa: F401  (before torchvision, transformers and diffusers: see factory/__init__.py)

# isort: split
import ray
import torch
from ray import serve as ray_serve

import serve.app
import serve.drawing
from benchmarks.load import Body, Client, Load, arrivals, closed_loop
from benchmarks.measure import hardware, markdown
from benchmarks.processes import CLIENTS, ROLES
from benchmarks.setting import SIZES, bench_pack, noise_requests
from factory.draw.images import ImageGenerator
from factory.pack import Pack
from factory.records import ImageRequest
from factory.settings import generate_settings
from factory.store.rows import identity_row
from factory.store.tables import Store
from serve.drawing import Drawer
from serve.loop import EngineLoop
from serve.proxy import set_environment
from serve.settings import Settings
from studio.demo.port import free_port

PEOPLE = 64
RATES = (0.3, 0.7, 0.9)  # of the engine's in a process
STEPS, EMPTY = "", "when empty, "  # before a load's name: admission at every step, or only when nothing is drawn
Rounds = dict[str, list[Load]]  # of each load its rounds


class LoopWhenEmpty(EngineLoop):
    """Admits nobody while anything is in the making."""

    def _next_tickets(self) -> list[Any]:
        return [] if self._making else super()._next_tickets()


class DrawerWhenEmpty(Drawer):
    """A replica with such a loop."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        with patch.object(serve.drawing, "EngineLoop", LoopWhenEmpty):
            super().__init__(*args, **kwargs)


def main() -> None:
    """Prints the tables, and writes them and their numbers to OUT.md and OUT.json."""
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    pack = bench_pack(arguments.size, arguments.packs)
    generator = ImageGenerator(pack)
    requests = noise_requests(generator.base, PEOPLE, generate_settings(pack))
    batch = best_batch(generator, requests)
    generator.max_batch = batch
    with endpoints(pack, requests, arguments.threads) as (url, url_when_empty):
        urls = {STEPS: url, EMPTY: url_when_empty}
        for each in urls.values():
            closed_loop(each, bodies(requests), 8, seconds=60)  # warm: every text is read, every size was computed
        began, rounds = time.monotonic(), defaultdict[str, list[Load]](list)
        while not rounds or time.monotonic() < began + 60 * arguments.minutes:
            one_round(generator, requests, urls, rounds, arguments.seconds)
    result = {
        "hardware": hardware("cpu"),
        "cpus": os.cpu_count(),
        "load_average": os.getloadavg()[2],
        "torch": torch.__version__,
        "size": arguments.size,
        "precision": str(generator.base.dtype),
        "denoising_steps": requests[0].config.num_inference_steps,
        "best_batch": batch,
        "max_batch": Settings().max_batch,
        "num_rounds": len(rounds["offline"]),
        "ratios": ratios(rounds),
        "loads": {name: summary(sum(each, Load())) for name, each in rounds.items()},
        "rounds": {name: [load.figures() for load in each] for name, each in rounds.items()},
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.with_suffix(".json").write_text(json.dumps(result, indent=2) + "\n")
    text = report(result)
    arguments.out.with_suffix(".md").write_text(text)
    print(text)


def best_batch(generator: ImageGenerator, requests: Sequence[ImageRequest]) -> int:
    """Of three numbers of pictures in the making, the one at which the engine makes most a second."""
    rates = {}
    for generator.max_batch in (8, 16, 32):
        generator.generate(requests[:8])
        rates[generator.max_batch] = max(offline(generator, requests).pictures_per_s for _ in range(2))
    return max(rates, key=lambda batch: rates[batch])


def offline(generator: ImageGenerator, requests: Sequence[ImageRequest]) -> Load:
    """All of them in this process."""
    began, cpu_began = time.perf_counter(), time.process_time()
    generator.generate(requests)
    seconds, cpu_s = time.perf_counter() - began, time.process_time() - cpu_began
    return Load(latencies_s=[seconds] * len(requests), seconds=seconds, cpu_s=Counter({CLIENTS: cpu_s}))


def one_round(
    generator: ImageGenerator, requests: Sequence[ImageRequest], urls: dict[str, str], rounds: Rounds, seconds: float
) -> None:
    """Everything once; `seconds` bounds each load."""
    number = len(rounds["offline"])
    todo = bodies(requests, seed=1000 * (number + 1)) * 2
    rounds["offline"].append(offline(generator, [*requests, *requests]))
    for name, load in zip(("alone, in a process", "1 client"), alone(generator, requests, urls[STEPS]), strict=True):
        rounds[name].append(load)
    for clients in (8, 32):
        for admission, url in urls.items():
            load = closed_loop(url, todo, clients, seconds=seconds)
            rounds[f"{admission}{clients} clients"].append(load)
    offline_rate = statistics.median(load.pictures_per_s for load in rounds["offline"])
    for share in RATES:
        for admission, url in urls.items():
            load = arrivals(url, todo, share * offline_rate, seconds=seconds, seed=number)
            rounds[f"{admission}arrivals at {share}"].append(load)


def alone(generator: ImageGenerator, requests: Sequence[ImageRequest], url: str, num: int = 20) -> tuple[Load, Load]:
    """A picture in the process, one over HTTP, and so on."""
    here, there, client = Load(), Load(), Client(url)
    for request, body in zip(requests[:num], bodies(requests), strict=False):
        began = time.perf_counter()
        generator.generate([request])
        here.latencies_s.append(time.perf_counter() - began)
        began = time.perf_counter()
        client.picture(body)
        there.latencies_s.append(time.perf_counter() - began)
    for load in (here, there):
        load.seconds = sum(load.latencies_s)
    return here, there


def bodies(requests: Sequence[ImageRequest], seed: int = 0) -> list[Body]:
    """The same as JSON, each with a seed of its own."""
    return [
        {"model": request.identity.name, "prompt": request.prompt, "seed": seed + number}
        for number, request in enumerate(requests)
    ]


@contextmanager
def endpoints(pack: Pack, requests: Sequence[ImageRequest], threads: int) -> Iterator[tuple[str, str]]:
    """The product as `identity-factory serve` starts it, and beside it the application that admits when empty."""
    with tempfile.TemporaryDirectory() as root:
        Store(root).upsert("identities", [identity_row(request.identity) for request in requests])
        set_environment()  # as the product does where it starts Ray
        ray.init(address="local", num_cpus=max(2, threads), include_dashboard=False, log_to_driver=False)
        url = serve.app.start(root, str(pack.root), port=free_port(20200))
        with patch.object(serve.app, "Drawer", DrawerWhenEmpty):
            application = serve.app.build(root, str(pack.root), Settings(num_threads=threads, keyless="loopback"))
        ray_serve.run(application, name="when-empty", route_prefix="/when-empty")
        try:
            yield url, f"{url}/when-empty"
        finally:
            serve.app.stop()
            ray.shutdown()


def ratios(rounds: Rounds) -> dict[str, tuple[float, str]]:
    """What the bars are about, and the bars."""
    whole = {name: sum(each, Load()) for name, each in rounds.items()}

    def shorter(percent: float) -> float:
        load, other = (whole[f"{admission}arrivals at 0.7"] for admission in (STEPS, EMPTY))
        return 1 - load.percentile_s(percent) / other.percentile_s(percent)

    of_offline = [
        load.pictures_per_s / bare.pictures_per_s
        for load, bare in zip(rounds["32 clients"], rounds["offline"], strict=True)
    ]
    one = whole["1 client"].percentile_s(50) / whole["alone, in a process"].percentile_s(50)
    return {
        "32 clients / the engine in a process, pictures a second": (statistics.median(of_offline), ">= 0.95"),
        "1 client / alone in a process, p50": (one, "<= 1.1"),
        "arrivals at 0.7, shorter than when empty, p50": (shorter(50), ">= 0.25"),
        "arrivals at 0.7, shorter than when empty, p95": (shorter(95), ">= 0.25"),
    }


def summary(load: Load) -> dict[str, Any]:
    """What the table tells of a load."""
    return {
        "pictures": len(load.latencies_s),
        "refused": load.refused,
        "pictures_per_s": load.pictures_per_s,
        "p50_s": load.percentile_s(50),
        "p95_s": load.percentile_s(95),
        "rows_per_step": load.rows_per_step,
        "cpu_ms_a_picture": {role: 1e3 * used / len(load.latencies_s) for role, used in load.cpu_s.items()},
    }


def report(result: dict[str, Any]) -> str:
    """The tables."""
    shares = [[name, f"{value:.2f}", bar] for name, (value, bar) in result["ratios"].items()]
    rows = [
        [
            name,
            str(one["pictures"]),
            f"{one['pictures_per_s']:.2f}",
            *("" if name == "offline" else f"{one[key]:.3f}" for key in ("p50_s", "p95_s")),
            f"{one['rows_per_step']:.2f}" if one["rows_per_step"] else "",
            str(one["refused"] or ""),
        ]
        for name, one in result["loads"].items()
    ]
    cpu = {name: one["cpu_ms_a_picture"] for name, one in result["loads"].items() if one["cpu_ms_a_picture"]}
    roles = [CLIENTS, *ROLES.values(), "Ray"]
    costs = [
        [name, *(f"{of.get(role, 0):.1f}" for role in roles), f"{sum(of.values()):.1f}"] for name, of in cpu.items()
    ]
    return (
        f"# The endpoint, size {result['size']}, {result['denoising_steps']} steps with guidance\n\n"
        f"{result['hardware']}; torch {result['torch']}, {result['precision']}; clients, server and the engine in a "
        f"process on the same {result['cpus']} CPUs (load average of the last 15 minutes {result['load_average']:.1f}, "
        f"this benchmark included). {result['num_rounds']} interleaved rounds. Offline: at its best batch, "
        f"{result['best_batch']}; the endpoint: at most {result['max_batch']} rows.\n\n"
        + markdown(["", "measured", "bar"], shares)
        + "\n"
        + markdown(["", "pictures", "pictures / s", "p50, s", "p95, s", "rows a step", "refused"], rows)
        + "\nMilliseconds of CPU time a picture, by process (offline: the engine in this process; the clients' is this "
        "process's):\n\n"
        + markdown(["", *roles, "together"], costs)
    )



def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="tiny")
    parser.add_argument("--minutes", type=float, default=5.0, help="no round begins later; each is finished")
    parser.add_argument("--seconds", type=float, default=12.0, help="at most, of each load of a round")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of the engines")
    parser.add_argument("--packs", type=Path, default=Path("out/bench"), help="where random packs are made")
    parser.add_argument("--out", type=Path, default=Path("out/bench/serve"), help="without suffix")
    return parser.parse_args()


if __name__ == "__main__":
    main()
