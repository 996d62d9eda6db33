"""CPU time by process, read from a made-up /proc."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import pytest

from benchmarks.load import Load
from benchmarks.processes import cpu_seconds


def test_time_counts_by_what_a_process_does_and_only_of_our_own(tmp_path: Path) -> None:
    ticks = os.sysconf("SC_CLK_TCK")
    processes = {
        10: (1, 2, "python -m benchmarks.serve"),
        11: (10, 1, "raylet"),
        12: (11, 5, "ray::ServeReplica:identity-factory:Drawer"),
        13: (11, 3, "ray::ProxyActor"),
        14: (1, 99, "ray::ServeReplica:somebody-elses:Drawer"),
    }
    for process, (parent, seconds, title) in processes.items():
        folder = tmp_path / str(process)
        folder.mkdir()
        (folder / "cmdline").write_text(title)
        stat = [str(parent), *["0"] * 9, str(seconds * ticks // 2), str(seconds * ticks - seconds * ticks // 2)]
        (folder / "stat").write_text(f"{process} (a ) name) S {' '.join(stat)} 0 0")
    assert cpu_seconds(tmp_path, own=10) == pytest.approx({"clients": 2, "Ray": 1, "drawer": 5, "proxy": 3})


def test_what_a_load_measured_can_be_written_as_json() -> None:
    load = Load(latencies_s=[0.5], seconds=1.0, steps=3, rows=3.0, cpu_s=Counter({"Ray": 0.25}))
    written = json.loads(json.dumps(load.figures()))
    assert Load(**written | {"cpu_s": Counter(written["cpu_s"])}) == load
