"""The soak: jobs that are killed, large, on a failing store, or run twice at once; each must account for every photo.

    python -m benchmarks.soak kills --photos 200 --kills 20
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
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from PIL import Image, ImageDraw

from benchmarks.flaky_s3 import flaky_s3
from benchmarks.soak_photos import BAD, write
from factory.photos import content_id
from factory.rows import KEYS
from factory.tables import Store
from pipelines.journal import list_jobs

REPO = Path(__file__).resolve().parent.parent
_SAMPLE_S = 2.0  # between looks at the memory


def start(command: str, root: str, *options: str) -> subprocess.Popen[bytes]:
    """A job of its own session, so that it can be killed with all its processes."""
    arguments = [sys.executable, "cli.py", command, "--root", root, *options]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return subprocess.Popen(arguments, cwd=REPO, start_new_session=True, env=environment)


def finish(job: subprocess.Popen[bytes]) -> None:
    """Waits for a job, which must succeed."""
    if job.wait() != 0:
        raise SystemExit(f"{job.args!r} ended with status {job.returncode}")


def account(store: Store, photos: Path) -> dict[str, Any]:
    """Compares the tables with the input: photos without a row, rows too many, reasons that do not fit."""
    names: dict[str, list[str]] = {}
    for batch in pq.ParquetFile(photos).iter_batches(batch_size=64):
        for row in batch.to_pylist():
            names.setdefault(content_id(row["image"]), []).append(row["name"])
    faces, rejects = store.read("faces", columns=["face_id", "pack", "photo_id"]), store.read("rejects")
    done = set(faces["photo_id"].to_pylist())
    refused = {row["photo_id"]: row["reason"] for row in rejects.to_pylist() if row["reject_id"] == row["photo_id"]}
    twice = sum(
        table.num_rows - len(set(zip(*(table[column].to_pylist() for column in key), strict=True)))
        for table, key in ((faces, KEYS["faces"]), (rejects, KEYS["rejects"]))
    )
    linked = {(row["photo_id"], row["name"]) for row in store.read("names").to_pylist()}
    unlinked = sum((key, name) not in linked for key, called in names.items() for name in called[1:])
    wrong: Counter[str] = Counter()
    for key, called in names.items():
        expected = BAD[called[0][4:].rpartition("-")[0]][0] if called[0].startswith("bad:") else {None}
        if refused.get(key) not in expected:
            wrong[f"{called[0].rpartition('-')[0]}: {refused.get(key, 'a face')}"] += 1
    return {
        "photos": sum(map(len, names.values())),
        "contents": len(names),
        "unaccounted": len(names.keys() - done - refused.keys()),
        "both accepted and refused": len(done & refused.keys()),
        "rows too many": twice,
        "names not linked": unlinked,
        "reasons": dict(Counter(refused.values())),
        "not as expected": dict(wrong),
    }


def kills(folder: Path, photos: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """kill -9 on the job's process group at random moments, then the job once more until it ends."""
    store, state = Store(folder / "root"), folder / "kills.json"
    log: list[dict[str, Any]] = json.loads(state.read_text()) if state.exists() else []
    chance = random.Random(len(log))
    while len(log) < arguments.kills:
        before = store.existing_ids("faces") | store.existing_ids("rejects")
        job, began = start("prepare", store.root, "--photos", str(photos)), time.monotonic()
        # from the middle of starting Ray to the middle of the work; one that ends earlier counts, and is told
        try:
            job.wait(chance.uniform(arguments.kill_after / 4, arguments.kill_after))
        except subprocess.TimeoutExpired:
            os.killpg(job.pid, signal.SIGKILL)
            job.wait()
        after = store.existing_ids("faces") | store.existing_ids("rejects")
        lost = len(before - after)
        entry = {"after_s": round(time.monotonic() - began, 1), "ended": job.returncode == 0, "lost": lost}
        log.append(entry | {"rows": len(after)})
        state.write_text(json.dumps(log))
        print(log[-1], flush=True)
    finish(start("prepare", store.root, "--photos", str(photos)))
    return {"kills": log, "lost rows": sum(entry["lost"] for entry in log)}


def bulk(folder: Path, photos: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """`prepare` of everything and `train` with few steps, with the memory watched and drawn."""
    store, memory = Store(folder / "root"), folder / "memory.jsonl"
    for command, options in (("prepare", ["--photos", str(photos)]), ("train", ["--steps", str(arguments.steps)])):
        job = start(command, store.root, *options)
        stop = threading.Event()
        watcher = threading.Thread(target=_watch, args=(job.pid, command, memory, stop), daemon=True)
        watcher.start()
        finish(job)
        stop.set()
        watcher.join()
    samples = [json.loads(line) for line in memory.read_text().splitlines()]
    _plot(samples, folder / "memory.png")
    files = [file for file in Path(store.root).rglob("*") if file.is_file()]
    peaks = {name: max(sample[name] for sample in samples) for name in ("driver_mb", "store_mb")}
    done = [job.summary for job in list_jobs(store.root) if job.summary]
    seconds = {job["job"]: job["seconds"] for job in done if job["faces"] or job["identities"]}
    faces, identities = store.count("faces"), store.count("identities")
    return {"files": len(files), "faces": faces, "identities": identities, "seconds": seconds, **peaks}


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
    return {}


def _watch(pid: int, stage: str, file: Path, stop: threading.Event) -> None:
    began = time.monotonic()
    while not stop.wait(_SAMPLE_S):
        family = _descendants(pid)
        sample = {"stage": stage, "s": round(time.monotonic() - began, 1), "driver_mb": _status(pid, "VmRSS")}
        sample["store_mb"] = max((_status(child, "RssShmem") for child in family), default=0.0)
        sample["all_mb"] = _status(pid, "RssAnon") + sum(_status(child, "RssAnon") for child in family)
        with file.open("a") as stream:
            stream.write(json.dumps(sample) + "\n")


def _descendants(pid: int) -> list[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:  # it has just ended
        return []
    return [found for child in map(int, children) for found in (child, *_descendants(child))]


def _status(pid: int, field: str) -> float:
    """A line of /proc/PID/status, MB; 0 if the process has just ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((float(line.split()[1]) / 1024 for line in lines if line.startswith(f"{field}:")), 0.0)


def _plot(samples: list[dict[str, Any]], path: Path) -> None:
    """MB over the samples: driver, object store, all processes' own memory; a grey line where a stage begins."""
    width, height, margin = 900, 360, 50
    picture = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(picture)
    top = max(sample[name] for sample in samples for name in ("driver_mb", "store_mb", "all_mb")) or 1.0

    def place(index: int, value: float) -> tuple[float, float]:
        x = margin + (width - 2 * margin) * index / max(1, len(samples) - 1)
        return x, height - margin - (height - 2 * margin) * value / top

    for index, sample in enumerate(samples):
        if index == 0 or samples[index - 1]["stage"] != sample["stage"]:
            x, _ = place(index, 0)
            draw.line([(x, margin), (x, height - margin)], fill="lightgrey")
            draw.text((x + 3, margin - 14), sample["stage"], fill="grey")
    for row, (name, colour) in enumerate((("driver_mb", "navy"), ("store_mb", "darkorange"), ("all_mb", "grey"))):
        draw.line([place(index, sample[name]) for index, sample in enumerate(samples)], fill=colour, width=2)
        draw.text((margin + 150 * row, height - 24), f"{name}, last {samples[-1][name]:.0f}", fill=colour)
    draw.text((4, margin - 14), f"{top:.0f} MB", fill="black")
    picture.save(path)


def main() -> None:
    """One of the soaks; exit status 1 if a photo is unaccounted for or a row is there twice."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("soak", choices=["kills", "bulk", "s3", "twice"])
    parser.add_argument("--photos", type=int, default=200)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--kill-after", type=float, default=60.0, help="seconds at most; at least a quarter of it")
    parser.add_argument("--steps", type=int, default=2, help="of `train` in bulk")
    parser.add_argument("--rate", type=float, default=0.05, help="of S3 requests that fail")
    parser.add_argument("--out", type=Path, default=Path("out/soak"))
    parser.add_argument("--fresh", action="store_true")
    arguments = parser.parse_args()
    folder = (arguments.out / f"{arguments.soak}-{arguments.photos}").resolve()
    if arguments.fresh and folder.exists():
        shutil.rmtree(folder)
    photos = folder.parent / f"photos-{arguments.photos}.parquet"
    write(photos, arguments.photos)
    folder.mkdir(parents=True, exist_ok=True)
    run = {"kills": kills, "bulk": bulk, "s3": s3, "twice": twice}[arguments.soak]
    result = run(folder, photos, arguments)
    if arguments.soak != "s3":
        result |= account(Store(folder / "root"), photos)
    (folder / "result.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps({name: value for name, value in result.items() if name != "kills"}, indent=2))
    faults = ("unaccounted", "both accepted and refused", "rows too many", "names not linked", "lost rows")
    sys.exit(any(result.get(fault) for fault in faults))


if __name__ == "__main__":
    main()
