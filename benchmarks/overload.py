"""What a server weighs after ten times the load that it can carry, with slow clients and hostile bodies beside it.

    python -m benchmarks.overload --minutes 5 --out benchmarks/overload_MACHINE_YYYY-MM

`identity-factory serve` on a pack of random weights. First its rate is measured: what clients who wait for their
pictures get of it. Then new connections ask at ten times that rate, others send byte by byte, stop in the middle, read
slowly or go away, and hostile bodies come one after the other. The RSS of each of the server's processes is looked at
when it is idle, after each round of half a minute: memory that is taken in the first four is kept for reuse (the
drawer's most of all by oneDNN, which keeps 1,024 kernels made for a shape each; batches of all sizes have that many
after some 5,000 pictures); a leak is what grows after them. Writes OUT.json and OUT.md.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count, cycle
from pathlib import Path
from typing import Any, Final

from benchmarks.bad_clients import SLOW, Answer, hostile_bodies, picture, post
from benchmarks.load import closed_loop
from benchmarks.measure import hardware, markdown
from benchmarks.processes import role_of
from benchmarks.setting import bench_pack
from benchmarks.soak_memory import descendants, memory_mb
from factory.pack import Pack
from studio.demo.port import free_port
from tests.serving import people_store

TIMES: Final = 10  # the rate that the server can carry
FLAT: Final = 1.05  # growth that still counts as flat
ROUND_S: Final = 30.0
WARM: Final = 4  # rounds in which memory is taken that is kept for reuse
_CLIENTS: Final = 16  # who wait for their pictures, where the rate is measured
_SLOW: Final = 24  # connections that are held by slow clients at a time
_HOSTILE: Final = 2  # that send hostile bodies, one after the other
_AT_ONCE: Final = 1000  # connections of those who only ask
_SETTLE_S: Final = 15.0  # until a look, after all is answered
_START_LIMIT_S: Final = 300.0


@dataclass(slots=True)
class Seen:
    """What came back."""

    statuses: Counter[str] = field(default_factory=Counter)  # by who asked and HTTP's status
    without_retry_after: int = 0  # 429 that did not say when to come again
    broken: Counter[str] = field(default_factory=Counter)  # connections that ended without an answer, by who asked

    def keep(self, who: str, answer: Answer) -> None:
        """Counts an answer: status and headers; None where none came."""
        if answer is None:
            self.broken[who] += 1
            return
        status, headers = answer
        self.statuses[f"{who}: {status}"] += 1
        self.without_retry_after += status == 429 and not headers.get("retry-after", "").isdigit()

    @property
    def faults(self) -> int:
        """Answers 500 or worse, but for 501 and 503 (the queue of the proxy, the drain)."""
        return sum(num for told, num in self.statuses.items() if told.endswith((": 500", ": 502", ": 504")))


def main() -> None:
    """Prints the tables, and writes them and their numbers to OUT.md and OUT.json; status 1 where a bar is missed."""
    arguments = _arguments()
    pack = bench_pack("tiny", arguments.packs)
    with tempfile.TemporaryDirectory() as folder, server(_root(folder, pack), str(pack.root)) as (pid, port):
        result: dict[str, Any] = {"hardware": hardware("cpu"), "cpus": os.cpu_count()}
        result["load_average_before"] = os.getloadavg()[0]
        result |= measure(pid, port, arguments.minutes)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.with_suffix(".json").write_text(json.dumps(result, indent=2) + "\n")
    text = report(result)
    arguments.out.with_suffix(".md").write_text(text)
    print(text)
    missed = result["worst"] > FLAT or any(result[what] for what in ("faults", "without_retry_after", "gone"))
    sys.exit(1 if missed else 0)


def _root(folder: str, pack: Pack) -> str:
    return people_store(Path(folder) / "root", pack).root


def measure(pid: int, port: int, minutes: float) -> dict[str, Any]:
    """The rate, and the weight of the server's processes before, between and after."""
    numbers = count()
    todo = [picture(next(numbers)) for _ in range(10_000)]
    url = f"http://127.0.0.1:{port}"
    closed_loop(url, todo[:200], _CLIENTS, seconds=30)  # warm
    rate = closed_loop(url, todo[200:], _CLIENTS, seconds=20).pictures_per_s
    seen, looks = Seen(), [look(pid)]
    began, rounds, asking_s = time.monotonic(), 0, 0.0
    while rounds < 2 * WARM or time.monotonic() - began < 60 * minutes:
        round_began = time.monotonic()
        asyncio.run(one_round(port, TIMES * rate, seen))
        asking_s += time.monotonic() - round_began  # longer than ROUND_S: until the last is answered
        rounds += 1
        time.sleep(_SETTLE_S)
        looks.append(look(pid))
    first, last = looks[WARM], looks[-1]
    growth = {who: last[who]["mb"] / first[who]["mb"] for who in first if who in last}
    answered = sum(num for told, num in seen.statuses.items() if told.startswith("asking"))
    return {
        "rate": rate,
        "asked_per_s": answered / asking_s,
        "rounds": rounds,
        "looks": looks,
        "growth": growth,
        "worst": max(growth.values()),
        "gone": sorted(set(first) - set(last)),
        "statuses": dict(sorted(seen.statuses.items())),
        "broken": dict(seen.broken),
        "faults": seen.faults,
        "without_retry_after": seen.without_retry_after,
    }


def look(pid: int) -> dict[str, dict[str, Any]]:
    """RSS of the server's processes now, MB, the median of a few looks; by process."""
    family = [pid, *descendants(pid)]
    weights: dict[int, list[float]] = {one: [] for one in family}
    for _ in range(5):
        for one in family:
            weights[one].append(memory_mb(one))
        time.sleep(0.5)
    found = {one: statistics.median(each) for one, each in weights.items() if min(each) > 0}
    return {str(one): {"role": role_of(one), "mb": mb} for one, mb in found.items() if mb >= 20}  # no shells


async def one_round(port: int, rate: float, seen: Seen) -> None:
    """Everybody at once for half a minute, and then until all are answered."""
    room, over = asyncio.Semaphore(_AT_ONCE), asyncio.get_running_loop().time() + ROUND_S
    asking: set[asyncio.Task[None]] = set()

    async def ask(number: int) -> None:
        async with room:
            seen.keep("asking", await post(port, "/v1/images/generations", json.dumps(picture(number)).encode()))

    async def hostile(place: int) -> None:
        # each begins elsewhere, so that a few rounds get to all
        for path, body in cycle(hostile_bodies()[place:] + hostile_bodies()[:place]):
            if asyncio.get_running_loop().time() > over:
                return
            seen.keep("hostile", await post(port, path, body))

    async def slow(how: Callable[[int], Awaitable[Answer]]) -> None:
        while asyncio.get_running_loop().time() < over:
            with suppress(OSError):
                answer = await how(port)
                if answer is not None:
                    seen.keep("slow", answer)

    beside = [asyncio.create_task(slow(SLOW[number % len(SLOW)])) for number in range(_SLOW)]
    places = [int(time.time() * (1 + one)) % len(hostile_bodies()) for one in range(_HOSTILE)]
    beside += [asyncio.create_task(hostile(place)) for place in places]
    began, number = asyncio.get_running_loop().time(), 0
    while (now := asyncio.get_running_loop().time()) < over:
        while number < rate * (now - began):
            if len(asking) < 2 * _AT_ONCE:  # else this program would be what grows
                task = asyncio.create_task(ask(number))
                asking.add(task)
                task.add_done_callback(asking.discard)
            number += 1
        await asyncio.sleep(0.01)
    await asyncio.gather(*beside, *asking)


@contextmanager
def server(root: str, pack: str) -> Iterator[tuple[int, int]]:
    """`identity-factory serve` with a Ray of its own; its process and its port."""
    port = free_port(20200)
    command = [sys.executable, "-m", "cli", "serve", "--root", root, "--pack", pack, "--port", str(port)]
    environment = {**os.environ, "RAY_ADDRESS": "local"}
    process = subprocess.Popen(command, env=environment, start_new_session=True, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + _START_LIMIT_S
        while asyncio.run(post(port, "/v1/images/generations", json.dumps(picture(0)).encode())) is None:
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit("the server did not start")
            time.sleep(1)
        yield process.pid, port
    finally:
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(60)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def report(result: dict[str, Any]) -> str:
    """The tables."""
    looks = result["looks"]
    rows = [
        [
            one["role"],
            *(f"{look[pid]['mb']:.0f}" if pid in look else "" for look in looks),
            f"{result['growth'][pid]:.3f}" if pid in result["growth"] else "",
        ]
        for pid, one in sorted(looks[WARM].items(), key=lambda pair: -pair[1]["mb"])
    ]
    bars = [
        ["worst growth of a process", f"{result['worst']:.3f}", f"<= {FLAT}"],
        ["answers 500, 502, 504", str(result["faults"]), "0"],
        ["429 without retry-after", str(result["without_retry_after"]), "0"],
        ["processes that were lost", str(len(result["gone"])), "0"],
    ]
    answers = [[told, str(num)] for told, num in result["statuses"].items()]
    answers += [[f"{who}: no answer", str(num)] for who, num in result["broken"].items()]
    return (
        "# A server under ten times its load\n\n"
        f"{result['hardware']}; clients and server on the same {result['cpus']} CPUs (load average before "
        f"{result['load_average_before']:.1f}); a pack of random weights. It carries {result['rate']:.1f} "
        f"pictures / s; {result['rounds']} rounds of half a minute, {result['asked_per_s']:.0f} answers / s to those "
        "who only ask.\n\n"
        + markdown(["", "measured", "bar"], bars)
        + "\nRSS, MB, by round:\n\n"
        + markdown(["process", "before", *map(str, range(1, len(looks))), f"end / {WARM}"], rows)
        + "\n"
        + markdown(["who: status", "answers"], answers)
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5.0, help="no round begins later; there are eight at least")
    parser.add_argument("--packs", type=Path, default=Path("out/bench"), help="where the pack is made")
    parser.add_argument("--out", type=Path, default=Path("out/bench/overload"), help="without suffix")
    return parser.parse_args()


if __name__ == "__main__":
    main()
