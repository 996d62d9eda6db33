"""A rehearsal of the GPU programme on the CPU: on the day it may not fail for a slip of the pen."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gpu
from benchmarks.figures import Figures, report
from factory.pack import Pack


def figures_of(out: Path) -> dict[str, dict[str, Any]]:
    lines = out.with_suffix(".jsonl").read_text().splitlines()
    return {line["what"]: line for line in map(json.loads, lines)}


def test_training_drawing_and_their_kernels_are_measured(
    tiny_pack_posed: Pack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "_DRAWING_STEPS", 5)
    out = tmp_path / "gpu"
    figures = Figures(out, "train", 100, "sd21")  # with that size's expectations
    gpu.train(figures, tiny_pack_posed, "cpu", (2,))
    figures.part = "draw"
    gpu.draw(figures, tiny_pack_posed, "cpu", (2,))
    gpu.profiles(figures, tiny_pack_posed, "cpu", 2)
    found = figures_of(out)
    step = found["step of 2, pool"]
    assert step["identities_an_hour"] == pytest.approx(3600 * 2 / (450 * step["value"]))
    assert 0 < step["floor_s"] < step["expected_s"] and step["share"] > 0
    assert found["2 pictures"]["pictures_a_second"] > 0 and "2 pictures, half of them posed" in found
    for what in ("training step of 2: ", "drawing step of 2: "):
        kernels = [line for name, line in found.items() if name.startswith(what)]
        assert len(kernels) == 10 and 0.3 < sum(line["share"] for line in kernels) <= 1
    assert "## draw" in report(out.with_suffix(".jsonl"))


def test_what_time_or_memory_does_not_allow_is_told(tiny_pack_posed: Pack, tmp_path: Path) -> None:
    import torch

    figures = Figures(tmp_path / "gpu", "draw", 0, "tiny")
    time.sleep(0.01)
    gpu.draw(figures, tiny_pack_posed, "cpu", (2,))
    with figures.attempt("too much"):
        raise torch.OutOfMemoryError("no")
    found = figures_of(tmp_path / "gpu")
    assert found["2 pictures"]["value"] == "no time was left" and found["too much"]["value"] == "out of memory"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_whole_programme_in_one_command(tmp_path: Path) -> None:
    options = ["--device=cpu", "--size=tiny", "--minutes=6", f"--packs={tmp_path}/packs", f"--out={tmp_path}/gpu"]
    done = subprocess.run([sys.executable, "-m", "benchmarks.gpu", *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = figures_of(tmp_path / "gpu")
    assert all(found[part]["value"] == "ended with 0" for part in ("branches", "train", "draw", "profile"))
    assert found["train, pool, {}"]["value"] == "words are finite"
    assert done.stdout.strip() == (tmp_path / "gpu.md").read_text().strip()
