"""The soak: jobs that are killed, poisoned, large, on a failing store, or run twice at once; every photo is counted.

    python -m benchmarks.soak kills --photos 200 --kills 20
    python -m benchmarks.soak poison --photos 300
    python -m benchmarks.soak bulk --photos 10000 --steps 2
    python -m benchmarks.soak s3 --photos 300
    python -m benchmarks.soak twice --photos 100

Each writes OUT/<name>-<photos>/result.json, and goes on where it was when it is started again; --fresh starts over.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any, Final

import pyarrow.parquet as pq

from benchmarks.flaky_s3 import flaky_s3
from benchmarks.soak_memory import growth, plot, watched
from benchmarks.soak_photos import may_become, write
from benchmarks.soak_stage import LOG, MAIN
from factory.ids import content_id
from factory.store.jobs import list_jobs
from factory.store.schemas import KEYS, Table
from factory.store.tables import Store
from pipelines.photos.batches import BATCH

REPO: Final = Path(__file__).resolve().parent.parent
_TABLES: Final[tuple[Table, ...]] = ("faces", "rejects")
_FLAT: Final = 1.25  # growth of the driver's memory that still counts as flat
_START_S, _WORK_S = 20.0, 3.0  # seconds at most from a job's start, and from its first commit, to its kill
# What may not happen: these counts of a result must be 0.
_FAULTS: Final = (
    *("unaccounted", "both accepted and refused", "rows too many", "names not linked", "crashed wrongly"),
    *("lost rows", "committed photos done again", "not flat", "a file per photo"),
)


def start(command: str, root: str, *options: str, log: Path | None = None) -> subprocess.Popen[bytes]:
    """A job of its own session, so that it can be killed with all its processes; `log` gets the photos it starts."""
    program = ["-m", "cli"] if log is None else ["-c", MAIN]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    environment |= {} if log is None else {LOG: str(log)}
    arguments = [sys.executable, *program, command, "--root", root, *options]
    return subprocess.Popen(arguments, cwd=REPO, start_new_session=True, env=environment)


def finish(job: subprocess.Popen[bytes]) -> None:
    """Waits for a job, which must succeed."""
    if job.wait() != 0:
        raise SystemExit(f"{job.args!r} ended with status {job.returncode}")


def done_photos(store: Store) -> tuple[set[str], dict[str, str]]:
    """photo_ids with a face; photo_ids that were refused as a whole, with the reason."""
    rejects = store.read("rejects", columns=["reject_id", "photo_id", "reason"]).to_pylist()
    refused = {row["photo_id"]: row["reason"] for row in rejects if row["reject_id"] == row["photo_id"]}
    return set(store.read("faces", columns=["photo_id"])["photo_id"].to_pylist()), refused


def account(store: Store, photos: Path) -> dict[str, Any]:
    """Compares the tables with the input: photos without a row, rows too many, reasons that do not fit."""
    names: dict[str, list[str]] = {}
    for batch in pq.ParquetFile(photos).iter_batches(batch_size=64):
        for row in batch.to_pylist():
            names.setdefault(content_id(row["image"]), []).append(row["name"])
    accepted, refused = done_photos(store)
    keys = {table: store.read(table, columns=KEYS[table]).to_pylist() for table in _TABLES}
    twice = sum(len(rows) - len({tuple(row.values()) for row in rows}) for rows in keys.values())
    linked = {(row["photo_id"], row["name"]) for row in store.read("names").to_pylist()}
    outcomes = {key: refused.get(key) for key in names}
    unexpected = Counter(
        f"{called[0].rpartition('-')[0]}: {outcomes[key] or 'a face'}"
        for key, called in names.items()
        if outcomes[key] not in may_become(called[0])
    )
    poison = {key for key, called in names.items() if may_become(called[0]) == {"crashed_worker"}}
    return {
        "photos": sum(map(len, names.values())),
        "contents": len(names),
        "unaccounted": len(names.keys() - accepted - refused.keys()),
        "both accepted and refused": len(accepted & refused.keys()),
        "rows too many": twice,
        "names not linked": sum((key, name) not in linked for key, called in names.items() for name in called[1:]),
        "crashed wrongly": len(poison ^ {key for key, reason in refused.items() if reason == "crashed_worker"}),
        "reasons": dict(Counter(refused.values())),
        "not as expected": dict(unexpected),
    }


def kills(folder: Path, photos: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """kill -9 on the job's process group at random moments, started again each time until it ends.

    One that ends before there were enough kills is accounted for, and another begins on an empty root, so that each
    kill hits a job at work.
    """
    state = folder / "kills.json"
    log: list[dict[str, Any]] = json.loads(state.read_text()) if state.exists() else []
    while not log or not log[-1]["ended"] or _num_kills(log) < arguments.kills:
        number = log[-1]["round"] + log[-1]["ended"] if log else 0
        killing = _num_kills(log) < arguments.kills
        log.append({"round": number, **_attempt(folder / f"round-{number}", photos, len(log), killing=killing)})
        state.write_text(json.dumps(log, indent=1))
        print(log[-1], flush=True)
    accounts = [account(Store(folder / f"round-{n}/root"), photos) for n in range(log[-1]["round"] + 1)]
    sums: dict[str, int] = {fault: sum(one[fault] for one in accounts) for fault in _FAULTS if fault in accounts[0]}
    return {
        "kills": _num_kills(log),
        "kills at work": sum(entry["at work"] and not entry["ended"] for entry in log),
        "jobs": len(accounts),
        "lost rows": sum(entry["lost"] for entry in log),
        "committed photos done again": sum(entry["committed again"] for entry in log),
        "photos in flight at a kill, at most": max(entry["in flight"] for entry in log),
        "photos of a batch": BATCH,
        "photos in flight at the kills": sum(entry["in flight"] for entry in log),
        "photos done again": sum(entry["again"] for entry in log),
        **accounts[-1],
        **sums,
        "log": log,
    }


def _num_kills(log: list[dict[str, Any]]) -> int:
    return sum(not entry["ended"] for entry in log)


def _attempt(folder: Path, photos: Path, number: int, *, killing: bool) -> dict[str, Any]:
    """The job once, with a kill or to its end; what it started against what was committed before and after."""
    store, file = Store(folder / "root"), folder / f"started-{number}.txt"
    folder.mkdir(parents=True, exist_ok=True)
    earlier = {photo for other in folder.glob("started-*.txt") if other != file for photo in _lines(other)}
    before = _committed(store)
    job, began = start("prepare", store.root, "--photos", str(photos), log=file), time.monotonic()
    if killing:
        _await_a_moment(job, store, len(before), random.Random(number))
        if job.poll() is None:
            os.killpg(job.pid, signal.SIGKILL)
        job.wait()
        time.sleep(2.0)  # until workers have seen that their node is gone
    else:
        finish(job)
    if job.returncode not in (0, -signal.SIGKILL):
        raise SystemExit(f"{job.args!r} ended with status {job.returncode}")
    after, started = _committed(store), set(_lines(file))
    return {
        "ended": job.returncode == 0,
        "after_s": round(time.monotonic() - began, 1),
        "at work": len(after) > len(before),
        "committed": len(after),
        "lost": len(before - after),
        "in flight": len(started - after),
        "again": len(started & earlier),
        "committed again": len(started & before),
    }


def _await_a_moment(job: subprocess.Popen[bytes], store: Store, num: int, chance: random.Random) -> None:
    """Waits until a random moment of a job's start (every third time) or of its work, or until it ends."""
    moment = time.monotonic() + chance.uniform(1.0, _START_S)
    if chance.random() > 1 / 3:
        while job.poll() is None and len(_committed(store)) == num:
            time.sleep(0.1)
        moment = time.monotonic() + chance.uniform(0.0, _WORK_S)
    while job.poll() is None and time.monotonic() < moment:
        time.sleep(0.02)


def _committed(store: Store) -> set[str]:
    accepted, refused = done_photos(store)
    return accepted | refused.keys()


def _lines(file: Path) -> list[str]:
    return file.read_text().split() if file.exists() else []


def poison(folder: Path, photos: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """One photo of a hundred kills the process that looks at it; exactly those must be refused for it."""
    store = Store(folder / "root")
    finish(start("prepare", store.root, "--photos", str(photos), log=folder / "started.txt"))
    return account(store, photos)


def bulk(folder: Path, photos: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """`prepare` of everything and `train` with few steps, with the memory watched and drawn."""
    store, memory = Store(folder / "root"), folder / "memory.jsonl"
    few = ["--steps", str(arguments.steps), "--set", f"num_views={arguments.steps}"]  # a pool of 32 would be most of it
    for command, options in (("prepare", ["--photos", str(photos)]), ("train", few)):
        job = start(command, store.root, *options)
        with watched(job.pid, command, memory):
            finish(job)
    samples = [json.loads(line) for line in memory.read_text().splitlines()]
    plot(samples, folder / "memory.png")
    names = ("driver_mb", "store_mb")
    grown = {
        f"{stage} {name}": round(growth(samples, stage, name), 2) for stage in ("prepare", "train") for name in names
    }
    num_files = sum(file.is_file() for file in Path(store.root).rglob("*"))
    done = [job.summary for job in list_jobs(store.root) if job.summary]
    faces, identities = store.count("faces"), store.count("identities")
    counted = account(store, photos)
    return {
        "faces": faces,
        "identities": identities,
        "seconds": {job["job_id"]: job["seconds"] for job in done},
        "peak": {name: max(sample[name] for sample in samples) for name in names},
        "memory, last quarter / second": grown,
        "files": num_files,
        "not flat": sum(ratio > _FLAT for name, ratio in grown.items() if name.endswith("driver_mb")),
        "a file per photo": int(num_files >= counted["photos"]),
        **counted,
        "unaccounted": counted["unaccounted"] + abs(faces - identities),
    }


def s3(folder: Path, photos: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """`prepare` with photos and tables in a bucket whose server fails `--rate` of all requests."""
    import boto3

    # moto keeps everything in memory, so this one starts over each time
    keys = dict.fromkeys(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), "test")
    with flaky_s3(arguments.rate) as (url, counts):
        os.environ.update(keys, AWS_ENDPOINT_URL=url, AWS_REGION="us-east-1", AWS_DEFAULT_REGION="us-east-1")
        client = boto3.client("s3")
        client.create_bucket(Bucket="soak")
        client.upload_file(str(photos), "soak", "photos/photos.parquet")
        finish(start("prepare", "s3://soak/root", "--photos", "s3://soak/photos"))
        return {**counts, **account(Store("s3://soak/root"), photos)}


def twice(folder: Path, photos: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Two jobs on one root at once."""
    jobs = [start("prepare", str(folder / "root"), "--photos", str(photos)) for _ in range(2)]
    for job in jobs:
        finish(job)
    return account(Store(folder / "root"), photos)


_SOAKS: Final = {"kills": kills, "poison": poison, "bulk": bulk, "s3": s3, "twice": twice}


def main() -> None:
    """One of the soaks; exit status 1 if something happened that may not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("soak", choices=list(_SOAKS))
    parser.add_argument("--photos", type=int, default=200)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=2, help="of `train` in bulk")
    parser.add_argument("--rate", type=float, default=0.05, help="of S3 requests that fail")
    parser.add_argument("--out", type=Path, default=Path("out/soak"))
    parser.add_argument("--fresh", action="store_true")
    arguments = parser.parse_args()
    folder = (arguments.out / f"{arguments.soak}-{arguments.photos}").resolve()
    if arguments.fresh and folder.exists():
        shutil.rmtree(folder)
    poisoned = arguments.soak == "poison"
    photos = folder.parent / f"photos-{arguments.photos}{'-poison' if poisoned else ''}.parquet"
    write(photos, arguments.photos, poison_every=100 if poisoned else 0)
    folder.mkdir(parents=True, exist_ok=True)
    result = _SOAKS[arguments.soak](folder, photos, arguments)
    (folder / "result.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps({name: value for name, value in result.items() if name != "log"}, indent=2))
    sys.exit(any(result.get(fault) for fault in _FAULTS))


if __name__ == "__main__":
    main()
