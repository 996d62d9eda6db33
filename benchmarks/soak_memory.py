"""Memory of a job over time: the driver's, the object store's, and all processes' own."""

from __future__ import annotations

import json
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from PIL import Image, ImageDraw

_EVERY_S: Final = 2.0  # between looks
_LOOKED_AT: Final = ("PPid", "VmRSS", "VmHWM", "RssAnon", "RssShmem")
_LINES: Final = (("driver_mb", "navy"), ("store_mb", "darkorange"), ("all_mb", "grey"))


@contextmanager
def watched(pid: int, stage: str, file: Path, every_s: float = _EVERY_S) -> Iterator[None]:
    """Appends a sample, as a line of JSON, of a process and its descendants to a file every few seconds."""
    stop, began = threading.Event(), time.monotonic()

    def watch() -> None:
        while not stop.wait(every_s):
            sample = {"stage": stage, "s": round(time.monotonic() - began, 1), **look(pid)}
            with file.open("a") as stream:
                stream.write(json.dumps(sample) + "\n")

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def look(pid: int) -> dict[str, float]:
    """MB now. `store_mb`: of the process with most shared memory, which is Ray's node (the store lives in it)."""
    family = [_status(one) for one in descendants(pid)]
    return {
        "driver_mb": _status(pid).get("VmRSS", 0.0),
        "store_mb": max((one.get("RssShmem", 0.0) for one in family), default=0.0),
        "all_mb": sum(one.get("RssAnon", 0.0) for one in [_status(pid), *family]),
    }


def memory_mb(pid: int) -> float:
    """RSS of a process, MB; 0 if it has ended."""
    return _status(pid).get("VmRSS", 0.0)


def peak_mb(pid: int) -> float:
    """The highest RSS of a process since its program began, MB. Not `ru_maxrss`, which begins with its parent's."""
    return _status(pid)["VmHWM"]


def descendants(pid: int) -> list[int]:
    """Ids of the children of a process, and of theirs."""
    children: dict[int, list[int]] = {}
    for place in Path("/proc").glob("[0-9]*"):
        parent = int(_status(int(place.name)).get("PPid", 0))
        children.setdefault(parent, []).append(int(place.name))
    found, todo = list[int](), [pid]
    while todo:
        mine = children.get(todo.pop(), [])
        found += mine
        todo += mine
    return found


def growth(samples: list[dict[str, Any]], stage: str, name: str) -> float:
    """Median of a stage's last quarter over that of its second quarter: 1 is flat. The first quarter loads models."""
    mine = [sample[name] for sample in samples if sample["stage"] == stage]
    quarter = len(mine) // 4
    if not quarter:
        return 1.0
    return statistics.median(mine[-quarter:]) / max(statistics.median(mine[quarter : 2 * quarter]), 1.0)


def plot(samples: list[dict[str, Any]], path: Path) -> None:
    """MB over the samples; a grey line where a stage begins."""
    width, height, margin = 900, 360, 50
    picture = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(picture)
    top = max(sample[name] for sample in samples for name, _ in _LINES) or 1.0

    def place(index: int, value: float) -> tuple[float, float]:
        x = margin + (width - 2 * margin) * index / max(1, len(samples) - 1)
        return x, height - margin - (height - 2 * margin) * value / top

    for index, sample in enumerate(samples):
        if index == 0 or samples[index - 1]["stage"] != sample["stage"]:
            x, _ = place(index, 0)
            draw.line([(x, margin), (x, height - margin)], fill="lightgrey")
            draw.text((x + 3, margin - 14), f"{sample['stage']}, a sample every {_EVERY_S:g} s", fill="grey")
    for row, (name, colour) in enumerate(_LINES):
        draw.line([place(index, sample[name]) for index, sample in enumerate(samples)], fill=colour, width=2)
        draw.text((margin + 180 * row, height - 24), f"{name}, last {samples[-1][name]:.0f} MB", fill=colour)
    draw.text((4, margin - 28), f"{top:.0f} MB", fill="black")
    picture.save(path)


def _status(pid: int) -> dict[str, float]:
    """Numbers of /proc/PID/status, memory in MB; empty if the process has just ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    pairs = (line.split() for line in lines if line.split(":")[0] in _LOOKED_AT)
    return {name.rstrip(":"): float(value) / (1024 if unit else 1) for name, value, *unit in pairs}
