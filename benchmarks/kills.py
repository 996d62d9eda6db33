"""kill -9 at random, of the committer, of a writer and of the driver of a job: is every row there, once?

    python -m benchmarks.kills --kills 50 --out benchmarks/kills_MACHINE_YYYY-MM.md

A driver with a cluster of its own, and writers (tasks that Ray begins again) that hand over four rows at a time to the
job's committer. Whenever all of them live and rows come, one process is drawn and killed; after the driver, which goes
with everything that it started, another one begins. Each writer notes what it was answered for: that must be in the
table at every kill, and in the end each writer's rows without a gap, none twice.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import ray

from benchmarks.lookup import rows_of
from benchmarks.measure import hardware, markdown
from benchmarks.processes import cpu_by_process, role_of
from factory.store.tables import Store
from pipelines.jobs.cluster import connect
from pipelines.jobs.committer import committed

_WRITERS: Final = 4
_ROWS: Final = 4  # of a hand-over
_RANGE: Final = 10_000_000  # a writer's numbers begin at a multiple of it
_WHO: Final = {"committer": 4, "writer": 4, "driver": 2}  # how often of ten
_ALIVE_S: Final = (0.2, 2.0)  # between a kill and the next one, while rows come
_PATIENCE_S: Final = 300.0  # for rows to come


def write(store: Store, folder: Path, writer: int) -> int:
    """A writer: hands over rows that are not there yet until it is to stop; returns how many there are of it."""
    first = _RANGE * writer
    while not (folder / "stop").exists():
        num = _num_of(folder, writer)
        store.upsert_table("identities", rows_of(first + num, _ROWS, 8))
        with (folder / f"answered-{writer}").open("a") as answered:
            answered.write("x" * _ROWS)  # one byte a row: what a kill leaves is whole or not there
    return _num_of(folder, writer)


def drive(folder: Path) -> None:
    """The driver."""
    connect()
    store = committed(str(folder / "root"))
    task: Any = ray.remote(num_cpus=0, max_retries=-1)(write)
    ray.get([task.remote(store, folder, writer) for writer in range(_WRITERS)])
    print("done")


def measure(folder: Path, kills: int, seed: int) -> Counter[str]:
    """How often which was killed. Raises RuntimeError for a row that is lost, twice, or nobody's."""
    draw, killed, driver = random.Random(seed), Counter[str](), _begin(folder)
    try:
        while killed.total() < kills:
            _wait_for_rows(folder, driver)
            time.sleep(draw.uniform(*_ALIVE_S))
            [who] = draw.choices(list(_WHO), list(_WHO.values()))
            if who == "driver":
                _end(driver)
                driver = _begin(folder)
            elif (found := _processes(driver, who)) and _kill(draw.choice(found)):
                pass
            else:
                continue  # it is just being begun
            killed[who] += 1
            print(f"{killed.total()} of {kills} kills", file=sys.stderr)
            _check(folder)
        _wait_for_rows(folder, driver)
        (folder / "stop").touch()
        if driver.wait(_PATIENCE_S):
            raise RuntimeError(f"the last driver ended with {driver.returncode}")
    finally:
        _end(driver)
    _check(folder, whole=True)
    return killed


def _num_of(folder: Path, writer: int) -> int:
    with suppress(FileNotFoundError):
        return (folder / f"answered-{writer}").stat().st_size
    return 0


def _begin(folder: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "benchmarks.kills", "--drive", str(folder)]
    own = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return subprocess.Popen(command, env=own, start_new_session=True, stdout=subprocess.DEVNULL)


def _end(driver: subprocess.Popen[bytes]) -> None:
    """Kills a driver with all that it started; returns when they are gone, as two who write one writer's rows would
    count them twice."""
    started = set(cpu_by_process(own=driver.pid))
    for process in started:
        _kill(process)
    driver.wait()
    while any(map(_lives, started)):
        time.sleep(0.02)


def _processes(driver: subprocess.Popen[bytes], who: str) -> list[int]:
    """Its committer, or its writers, by what Ray calls their processes."""
    roles = {"ray::Committer": "committer", "ray::write": "writer"}
    return [process for process in cpu_by_process(own=driver.pid) if role_of(process, roles=roles) == who]


def _kill(process: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)
        return True
    return False


def _lives(process: int) -> bool:
    """Whether it does anything; what nobody has waited for does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _wait_for_rows(folder: Path, driver: subprocess.Popen[bytes]) -> None:
    """Until each of the writers was answered for more."""
    before = [_num_of(folder, writer) for writer in range(_WRITERS)]
    deadline = time.monotonic() + _PATIENCE_S
    while any(_num_of(folder, writer) == num for writer, num in enumerate(before)):
        if driver.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"no rows come; the driver has ended with {driver.poll()}")
        time.sleep(0.02)


def _check(folder: Path, *, whole: bool = False) -> None:
    """`whole`: nothing is under way, and there is no row but those that were answered for."""
    answered = [_num_of(folder, writer) for writer in range(_WRITERS)]
    names = Store(folder / "root").read("identities", columns=["name"])["name"].to_pylist()
    there = {int(name.removeprefix("person ")) for name in names}
    later = [_num_of(folder, writer) + (0 if whole else _ROWS) for writer in range(_WRITERS)]
    if twice := len(names) - len(there):
        raise RuntimeError(f"{twice} rows are there twice")
    if lost := _numbers(answered) - there:
        raise RuntimeError(f"{len(lost)} rows are lost, the first {min(lost)}")
    if strange := there - _numbers(later):
        raise RuntimeError(f"{len(strange)} rows are there that nobody was answered for, the first {min(strange)}")


def _numbers(each: Sequence[int]) -> set[int]:
    """So many of each writer's."""
    return {_RANGE * writer + number for writer, num in enumerate(each) for number in range(num)}


def main() -> None:
    """Prints a table, and writes it to OUT."""
    given = _arguments()
    if given.drive is not None:
        drive(given.drive)
        return
    folder, started = Path("out/bench/kills").resolve(), time.monotonic()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    killed = measure(folder, given.kills, given.seed)
    num = Store(folder / "root").count("identities")
    text = (
        f"# kill -9 at random\n\n{hardware('cpu')}, {os.cpu_count()} CPUs; {_WRITERS} writers of {_ROWS} rows a "
        f"hand-over, {time.monotonic() - started:.0f} s, seed {given.seed}. {num:,} rows, each there once; at no kill "
        "was one missing that a writer was answered for.\n\n"
        + markdown(["killed", "times"], [[who, str(killed[who])] for who in _WHO])
    )
    shutil.rmtree(folder)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(text)
    print(text)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--drive", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=Path("out/bench/kills.md"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
