"""All that is to be measured on a GPU, in one command and a given time, the most valuable first.

    python -m benchmarks.gpu --minutes 9 --out benchmarks/gpu_MACHINE_YYYY-MM

Each part is a process of its own with a time limit: what fails, hangs or runs out of memory is told and ends no other.
Each figure is written to OUT.jsonl when it is there, and OUT.md after each part. What is expected is written before
anything runs: the least time that the arithmetic takes on such a GPU, and the share of that which we believe in.

    python -m benchmarks.gpu --device cpu --size tiny --minutes 3    # a rehearsal
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import factory  # noqa: F401  (before torchvision, transformers and diffusers: see factory/__init__.py)

# isort: split
import numpy as np
from torch.profiler import ProfilerActivity, profile

from benchmarks.figures import Figures, report
from benchmarks.generate import _other_ways
from benchmarks.measure import hardware, measure_ceilings, synchronise
from benchmarks.setting import noise_people, noise_requests
from benchmarks.train_identity import _filled, _release
from factory.config import EngineConfig, GenerateConfig, Recipe, TrainConfig
from factory.draw.images import ImageGenerator
from factory.learn.trainer import load_trainer
from factory.pack import Pack, load_pack
from factory.records import ImageRequest
from tests.make_pack import make_pack

_STEPS, _DRAWING_STEPS = 450, 20  # of an identity, as released; of a picture
_PARTS: Final = {  # in order: name -> most seconds
    "branches": 110, "train": 120, "draw": 80, "profile": 50, "train, compiled": 150, "draw, compiled": 120,
}  # fmt: skip
_TRAIN: Final = (32, 8, 1, 64, 128)  # identities in a batch, the most telling first
_DRAW: Final = (16, 32, 8, 1)
_CEILING_TFLOPS: Final = 790.0  # bfloat16 products on an H100 or H200, for what is expected
_TFLOP: Final = {  # of SD 2.1 at 512 px (docs/log.md): of a step of an identity, of a picture of 20 guided steps
    "train, pool": 1.762, "train, every_step": 2.879, "draw": 34.8, "draw, posed": 40.0,
}  # fmt: skip
_SHARE: Final = {  # of the ceiling, believed beforehand: of a batch of 1, of 8, of 16 and more
    "train": (0.12, 0.28, 0.36), "train, compiled": (0.18, 0.38, 0.46),
    "draw": (0.18, 0.34, 0.40), "draw, compiled": (0.25, 0.44, 0.50),
}  # fmt: skip


def expected(part: str, kind: str, batch: int) -> dict[str, float]:
    """Seconds of SD 2.1's size on an H100 or H200: the floor by arithmetic alone, and what we believe in."""
    share = _SHARE[part][0 if batch < 8 else 1 if batch < 16 else 2]
    floor_s = _TFLOP[kind] * batch / _CEILING_TFLOPS
    return {"floor_s": floor_s, "expected_s": floor_s / share}


def timed(figures: Figures, what: str, kind: str, num: int, seconds: float, ceiling: float, **more: float) -> None:
    """Writes the seconds of `num` pieces of work together; at SD 2.1's size with what was expected, and the share of
    this device's own ceiling, TFLOP/s."""
    if figures.size == "sd21":
        more["share"] = _TFLOP[kind] * num / seconds / ceiling
        more |= expected(figures.part, kind, num)
    figures.add(what, seconds, "s", **more)


def branches(figures: Figures, pack: Pack, device: str) -> None:
    """Every way that training and drawing can go on this device, a few steps each: whether it works, not how fast."""
    people = noise_people(pack, 3, device)
    ways = [EngineConfig(), EngineConfig(slots=2), EngineConfig(precision="float32", channels_last=False)]
    ways += [EngineConfig(precision="float32", tf32=True)]
    ways += [EngineConfig(compile=mode) for mode in ("default", "reduce-overhead") if device != "cpu"]
    for engine in ways:
        for views in ("pool", "every_step"):
            name = f"train, {views}, {json.dumps(engine.model_dump(exclude_defaults=True))}"
            if figures.late(name):
                return
            recipe = Recipe(train=TrainConfig(num_steps=3, views=views, num_views=2))
            started = time.perf_counter()
            learned = [
                one for wave in load_trainer(pack, device=device, engine=engine).stream(people, recipe) for one in wave
            ]
            good = len(learned) == 3 and all(np.isfinite(one.words_VD).all() for one in learned)
            figures.add(name, "words are finite" if good else "NOT FINITE", seconds=time.perf_counter() - started)
    generator = ImageGenerator(pack, device=device)
    requests = noise_requests(generator.base, 4, GenerateConfig(num_inference_steps=3))
    for name, asked in {"draw": requests, **_other_ways(generator, requests)}.items():
        images = generator.generate(asked)
        figures.add(name, "pictures differ" if len({one.tobytes() for one in images}) == len(asked) else "ALL THE SAME")


def train(
    figures: Figures, pack: Pack, device: str, batches: Sequence[int] = _TRAIN, *, compiled: bool = False
) -> None:
    """Seconds of a step of each number of identities, with pooled views and with fresh ones."""
    engine = EngineConfig(compile="default" if compiled else "off")
    trainer = load_trainer(pack, device=device, engine=engine)
    ceilings = measure_ceilings(device, trainer.base.dtype)
    figures.add("ceiling of products", ceilings.matmul_tflops, "TFLOP/s", copy_gbs=ceilings.copy_gbs)
    people = noise_people(pack, max(batches), device)
    for batch in batches:
        for views in ("pool", "every_step")[: 1 if compiled else 2]:
            what = f"step of {batch}, {views}"
            if figures.late(what):
                return
            with figures.attempt(what):
                slots, enter_s = _filled(trainer, people[:batch], _release(views=views), time.perf_counter)
                step_s = _median_s(slots.step, device)
                an_hour = 3600 * batch / (_STEPS * step_s)
                more = {"identities_an_hour": an_hour, "enter_s": enter_s}
                timed(figures, what, f"train, {views}", batch, step_s, ceilings.matmul_tflops, **more)


def draw(figures: Figures, pack: Pack, device: str, batches: Sequence[int] = _DRAW, *, compiled: bool = False) -> None:
    """Seconds of a batch of pictures by the engine, 20 guided steps each; then with a pose for every other one."""
    generator = ImageGenerator(pack, device=device)
    if compiled:
        generator.base.unet.compile(mode="default")
    ceiling = measure_ceilings(device, generator.base.dtype).matmul_tflops
    requests = noise_requests(generator.base, max(batches), GenerateConfig(num_inference_steps=_DRAWING_STEPS))
    ways: list[tuple[str, str, list[ImageRequest]]] = [(f"{num} pictures", "draw", requests[:num]) for num in batches]
    posed = _other_ways(generator, requests[: batches[0]]).get("every other one posed")
    ways += [(f"{len(posed)} pictures, half of them posed", "draw, posed", posed)] if posed and not compiled else []
    for what, kind, asked in ways:
        if figures.late(what):
            return
        with figures.attempt(what):
            few = [replace(one, config=GenerateConfig(num_inference_steps=2)) for one in asked]
            generator.generate(few)  # kernels are chosen, or compiled, for this batch
            synchronise(device)
            started = time.perf_counter()
            generator.generate(asked)
            took_s = time.perf_counter() - started
            timed(figures, what, kind, len(asked), took_s, ceiling, pictures_a_second=len(asked) / took_s)


def profiles(figures: Figures, pack: Pack, device: str, batch: int = 16) -> None:
    """The ten kernels that take longest in one step of training, and of drawing."""
    trainer = load_trainer(pack, device=device)
    slots, _ = _filled(trainer, noise_people(pack, batch, device), _release(views="pool"), time.perf_counter)
    _kernels(figures, f"training step of {batch}", slots.step, device)
    generator = ImageGenerator(pack, device=device)
    config = GenerateConfig(num_inference_steps=_DRAWING_STEPS)
    generator.engine.add(noise_requests(generator.base, batch, config))
    _kernels(figures, f"drawing step of {batch}", lambda: generator.engine.step(), device)


def _kernels(figures: Figures, what: str, step: Callable[[], object], device: str) -> None:
    for _ in range(3):
        step()
    synchronise(device)
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.startswith("cuda") else [])]
    with profile(activities=kinds) as found:
        step()
        synchronise(device)
    own = "self_device_time_total" if device.startswith("cuda") else "self_cpu_time_total"
    events = sorted(found.key_averages(), key=lambda event: getattr(event, own), reverse=True)
    total = sum(getattr(event, own) for event in events) or 1
    for event in events[:10]:
        took_us = getattr(event, own)
        figures.add(f"{what}: {event.key[:90]}", took_us / 1e3, "ms", share=took_us / total, calls=event.count)


def _median_s(step: Callable[[], object], device: str, rounds: int = 5) -> float:
    seconds = []
    for _ in range(2 + rounds):
        synchronise(device)
        started = time.perf_counter()
        step()
        synchronise(device)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[2:])


def main() -> None:
    """Runs the parts, or with --part one of them in this process."""
    given = _arguments()
    if given.part is None:
        _all_parts(given)
        return
    figures = Figures(given.out, given.part, given.seconds, given.size)
    pack = load_pack(given.packs / ("tiny" if given.part == "branches" else given.size))
    compiled = {"compiled": True} if given.part.endswith("compiled") else {}
    action: dict[str, Callable[..., None]] = {"branches": branches, "train": train, "draw": draw, "profile": profiles}
    sizes = {} if given.size == "sd21" else {"train": {"batches": (4, 1)}, "draw": {"batches": (2, 1)}}
    kind = given.part.partition(",")[0]
    action[kind](figures, pack, given.device, **sizes.get(kind, {}), **compiled)


def _all_parts(given: argparse.Namespace) -> None:
    end = time.monotonic() + 60 * given.minutes
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.with_suffix(".jsonl").write_text("")
    start = Figures(given.out, "start", 0, given.size)
    start.add("computes", hardware(given.device))
    for what, kind, nums in (("step of", "train, pool", _TRAIN), ("pictures:", "draw", _DRAW)):
        for num in nums if given.size == "sd21" else ():
            start.add(f"expected, {what} {num}", expected(kind.partition(",")[0], kind, num)["expected_s"], "s")
    making = (
        "import sys; from pathlib import Path; from benchmarks.gpu import make; make(Path(sys.argv[1]), sys.argv[2])"
    )
    makers = [subprocess.Popen([sys.executable, "-c", making, given.packs, size]) for size in {"tiny", given.size}]
    for part, most_s in _PARTS.items():
        for maker in makers if part != "branches" else [one for one in makers if one.args[-1] == "tiny"]:  # type: ignore[index]
            maker.wait()
        left_s = end - time.monotonic()
        if left_s < 15:
            start.add(part, "no time was left")
            continue
        allowed_s = min(most_s, left_s)
        if part == "branches":
            _run(start, "tests", [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests"], allowed_s / 2)
        options = [f"--{name}={getattr(given, name)}" for name in ("device", "size", "packs", "out")]
        command = [sys.executable, "-m", "benchmarks.gpu", "--part", part, f"--seconds={allowed_s - 10}", *options]
        _run(start, part, command, allowed_s)
        given.out.with_suffix(".md").write_text(report(given.out.with_suffix(".jsonl")))
    print(given.out.with_suffix(".md").read_text())


def _run(start: Figures, part: str, command: Sequence[str], seconds: float) -> None:
    began = time.monotonic()
    try:
        done = subprocess.run(command, timeout=seconds, capture_output=True, text=True)
        told = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()][-1:]
        value = f"ended with {done.returncode}" + (
            f": {told[0][:200]}" if told and (done.returncode or part == "tests") else ""
        )
    except subprocess.TimeoutExpired:
        value = "stopped, as its time was over"
    start.add(part, value, seconds=time.monotonic() - began)


def make(folder: Path, size: str) -> None:
    """A pack of random weights with a ControlNet, once."""
    if not (folder / size / "pack.toml").exists():  # written last
        make_pack(folder / size, size="sd21" if size == "sd21" else "tiny", pose=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=9.0, help="for all of it")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--size", choices=["tiny", "sd21"], default="sd21")
    parser.add_argument("--packs", type=Path, default=Path("out/bench/gpu-packs"), help="where random packs are made")
    parser.add_argument("--out", type=Path, default=Path("out/bench/gpu"), help="without suffix")
    parser.add_argument("--part", choices=list(_PARTS), help="this one alone, in this process")
    parser.add_argument("--seconds", type=float, default=600.0, help="of that part")
    return parser.parse_args()


if __name__ == "__main__":
    main()
