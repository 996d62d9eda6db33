"""The soak counts what it says it counts: its photos, its jobs and its sums, with stand-ins for the jobs."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import benchmarks.soak as soak
from benchmarks.soak_memory import descendants, growth, look, plot, watched
from benchmarks.soak_photos import BAD, POISON, may_become, write
from benchmarks.soak_stage import LOG, WatchedFinder
from factory.config import PrepareConfig
from factory.errors import PhotoRejected
from factory.faces.prepare import Preparer
from factory.ids import content_id
from factory.pack import load_pack
from factory.records import Reject
from factory.store.rows import reject_row
from factory.store.tables import Store
from pipelines.photos.sources import PHOTO

pytestmark = pytest.mark.timeout(600)  # processes start slowly on a busy machine
# A job without Ray: four photos a commit, each written down when it is started; it knows what is done already.
JOB = """
import os, sys, time
import pyarrow.parquet as pq
from factory.ids import content_id
from factory.store.tables import Store
root, photos, forgetful = sys.argv[1:]
store = Store(root)
first, copies = {}, []
for row in pq.read_table(photos).to_pylist():
    key = content_id(row["image"])
    if first.setdefault(key, row["name"]) != row["name"]:
        copies.append({"photo_id": key, "name": row["name"]})
store.upsert("names", copies)
known = set() if forgetful == "yes" else store.existing_ids("rejects")
todo = [key for key in first if key not in known]
for start in range(0, len(todo), 4):
    for key in todo[start : start + 4]:
        with open(os.environ["SOAK_STARTED"], "a") as log:
            log.write(key + "\\n")
        time.sleep(0.03)
    same = {"pack": "p", "name": "", "stage": "prepare", "reason": "no_face", "detail": ""}
    store.upsert("rejects", [{"reject_id": key, "photo_id": key, **same} for key in todo[start : start + 4]])
"""


def refused(key: str, name: str, reason: str = "no_face") -> dict[str, Any]:
    return reject_row(
        Reject(reject_id=key, photo_id=key, name=name, pack="p", stage="prepare", reason=reason, detail="")
    )


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("photos") / "photos.parquet"
    write(file, 60, bad=0.3, copies=0.2, poison_every=20)
    return file


def test_every_bad_photo_is_refused_for_its_reason_and_poison_is_named(photos: Path) -> None:
    preparer = Preparer(load_pack("studio"), PrepareConfig())
    seen = set()
    for row in pq.read_table(photos).to_pylist():
        kind = row["name"].rpartition("-")[0]
        if kind in ("good", "copy", "poison") or kind in seen:
            continue
        seen.add(kind)
        with pytest.raises(PhotoRejected) as refusal:
            preparer.prepare(row["image"], row["name"])
        assert refusal.value.reason in may_become(row["name"]), row["name"]
    assert seen == {f"bad:{way}" for way in BAD}
    assert may_become("poison-30") == {"crashed_worker"} and may_become("good-1") == {None}
    assert sum(name.startswith("poison") for name in pq.read_table(photos)["name"].to_pylist()) == 3


def test_the_account_finds_what_is_missing_wrong_or_unlinked(photos: Path, tmp_path: Path) -> None:
    store = Store(tmp_path)
    called: dict[str, list[str]] = {}
    for row in pq.read_table(photos).to_pylist():
        called.setdefault(content_id(row["image"]), []).append(row["name"])
    copies = [{"photo_id": key, "name": name} for key, names in called.items() for name in names[1:]]
    right = {key: may_become(names[0]) for key, names in called.items()}
    store.upsert("rejects", [refused(key, "", min(reasons)) for key, reasons in right.items() if None not in reasons])
    told = soak.account(store, photos)
    good = sum(None in reasons for reasons in right.values())
    assert (told["photos"], told["contents"]) == (60, len(called))
    assert (told["unaccounted"], told["names not linked"], told["crashed wrongly"]) == (good, len(copies), 0)
    store.upsert("names", copies)
    store.upsert("rejects", [refused(key, "", "crashed_worker") for key, reasons in right.items() if None in reasons])
    told = soak.account(store, photos)
    assert (told["unaccounted"], told["names not linked"], told["crashed wrongly"]) == (0, 0, good)
    assert sum(told["not as expected"].values()) == good


@pytest.mark.parametrize("forgetful", ["no", "yes"])
def test_kills_hit_working_jobs_and_work_done_twice_is_seen(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forgetful: str
) -> None:
    def start(command: str, root: str, *options: str, log: Path | None = None) -> subprocess.Popen[bytes]:
        assert command == "prepare" and log is not None
        arguments = [sys.executable, "-c", JOB, root, options[1], forgetful]
        return subprocess.Popen(arguments, cwd=soak.REPO, start_new_session=True, env={**os.environ, LOG: str(log)})

    monkeypatch.setattr(soak, "start", start)
    monkeypatch.setattr(soak, "_WORK_S", 0.3)
    monkeypatch.setattr(soak, "_START_S", 3.0)
    result = soak.kills(tmp_path, photos, argparse.Namespace(kills=2))
    assert (result["kills"], result["log"][-1]["ended"]) == (2, True)
    assert result["kills at work"] > 0
    assert (result["unaccounted"], result["rows too many"], result["lost rows"]) == (0, 0, 0)
    if forgetful == "yes":
        assert result["committed photos done again"] > 0
    else:
        assert result["committed photos done again"] == 0
        assert result["photos done again"] <= result["photos in flight at the kills"]
        assert result["photos in flight at a kill, at most"] <= 4, "it commits four at a time"


def test_memory_is_seen_of_all_descendants_and_drawn(tmp_path: Path) -> None:
    inner = "x = b'x' * 60_000_000; print('ready', flush=True); input()"
    outer = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}])"
    with subprocess.Popen([sys.executable, "-c", outer], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        assert len(descendants(process.pid)) == 1
        now = look(process.pid)
        assert now["driver_mb"] > 1 and now["all_mb"] > 57 > now["driver_mb"]
        with watched(process.pid, "prepare", tmp_path / "memory.jsonl", every_s=0.05):
            process.communicate(b"\n", timeout=60)
    flat = [{"stage": "a", "driver_mb": mb, "store_mb": 1.0, "all_mb": mb} for mb in (1, 100, 100, 100)]
    rising = [{"stage": "b", "driver_mb": mb, "store_mb": 1.0, "all_mb": mb} for mb in (1, 100, 150, 200)]
    assert (growth(flat + rising, "a", "driver_mb"), growth(flat + rising, "b", "driver_mb")) == (1.0, 2.0)
    plot(flat + rising, tmp_path / "memory.png")
    assert (tmp_path / "memory.png").stat().st_size > 1000


def test_the_watched_finder_writes_down_what_it_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LOG, str(tmp_path / "log"))
    finder = WatchedFinder("studio", PrepareConfig(), 1)
    photo: dict[str, Any] = {"photo_id": "p", "reject_id": "p", "name": "n", "uri": "u", "image": b"no image"}
    row = dict.fromkeys(PHOTO.names) | photo
    found = finder._find(row)
    assert (tmp_path / "log").read_text() == "p\n" and found["refused"][0]["reason"] == "not_an_image"

    class Died(Exception):
        pass

    def die(*how: int) -> None:
        raise Died(how[-1])

    monkeypatch.setattr(os, "_exit", die)
    monkeypatch.setattr(os, "kill", die)
    for number, status in ((50, signal.SIGSEGV), (100, signal.SIGKILL), (150, 3)):
        with pytest.raises(Died, match=str(int(status))):
            finder._find({**row, "image": POISON + str(number).encode()})
