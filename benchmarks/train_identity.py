"""Seconds of one training step of one identity: the published loop, textual inversion, and packs of 1 to 64.

    python -m benchmarks.train_identity --size tiny
    python -m benchmarks.train_identity --size studio --batches 1,16 --out benchmarks/train_identity_MACHINE_YYYY-MM
    python -m benchmarks.train_identity --device cuda --size sd21 --batches 1,2,4,8,16,32,64

Writes OUT.json and OUT.md. All contenders get the same random numbers, so their words are compared as well.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

import factory  # noqa: F401  (before torchvision, transformers and diffusers: see factory/__init__.py)

# isort: split
import torch

from benchmarks.baselines import ReleaseLoop, TextualInversion
from benchmarks.measure import (
    CLOCKS,
    Ceilings,
    Contender,
    count_flops,
    hardware,
    interleave,
    markdown,
    measure_ceilings,
)
from benchmarks.setting import SIZES, bench_pack, noise_people
from factory.base.text import NUM_WORDS
from factory.config import EngineConfig, Recipe, preset
from factory.learn.slots import Slots
from factory.learn.trainer import Trainer, load_trainer
from factory.records import PreparedFace

RELEASE, INVERSION = "the release's loop", "diffusers' textual inversion"
VIEWS = ("every_step", "pool")


def main() -> None:
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    clock = CLOCKS[arguments.clock]
    started = clock()
    engine = EngineConfig(precision=arguments.precision, compile=arguments.compile)
    trainer = load_trainer(bench_pack(arguments.size, arguments.packs), device=arguments.device, engine=engine)
    loader_s = clock() - started
    batches = [int(text) for text in arguments.batches.split(",")]
    people = noise_people(trainer.base.pack, max([1, *batches]), arguments.device)
    ceilings = measure_ceilings(arguments.device, trainer.base.dtype, clock)
    contenders, words, encode_s = _contenders(trainer, people, batches, arguments.steps, clock)
    compiled = arguments.compile != "off"
    for one in contenders:
        one.flops = count_flops(one.run, device=arguments.device, compiled=compiled) / one.items
    interleave(contenders, rounds=arguments.rounds, device=arguments.device, clock=clock)
    result = {
        "hardware": hardware(arguments.device),
        "torch": torch.__version__,
        "size": arguments.size,
        "precision": str(trainer.base.dtype),
        "compile": arguments.compile,
        "clock": arguments.clock,
        "rounds": arguments.rounds,
        "steps_per_round": arguments.steps,
        "loader_s": loader_s,
        "ceilings": asdict(ceilings),
        "parts_gflop_per_sample": _parts(trainer, people[0], compiled),
        "pool_encode_s_per_identity": encode_s,
        "contenders": [_figures(one, contenders[0], ceilings) for one in contenders],
        "largest_difference_of_words": _differences(words),
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.with_suffix(".json").write_text(json.dumps(result, indent=2) + "\n")
    text = _report(result)
    arguments.out.with_suffix(".md").write_text(text)
    print(text)


def _contenders(
    trainer: Trainer, people: list[PreparedFace], batches: list[int], steps: int, clock: Callable[[], float]
) -> tuple[list[Contender], dict[str, Callable[[], torch.Tensor]], float]:
    """All of them; how to get the first person's words from each; and the seconds of encoding a pool of views."""
    recipe = _release(views="every_step")
    loop, inversion = ReleaseLoop(trainer, people[0], recipe), TextualInversion(trainer, people[0], recipe)
    contenders = [
        Contender(name=RELEASE, run=partial(_repeat, loop.step, steps), items=steps),
        Contender(name=INVERSION, run=partial(_repeat, inversion.step, steps), items=steps),
    ]
    words: dict[str, Callable[[], torch.Tensor]] = {RELEASE: loop.words}
    encode_s = 0.0
    for views in VIEWS:
        own = _release(views=views)
        for batch in batches:
            slots, seconds = _filled(trainer, people[:batch], own, clock)
            encode_s = seconds if views == "pool" else encode_s
            name = f"packed, B = {batch}, {views}"
            run = partial(_repeat, slots.step, steps)
            contenders.append(Contender(name=name, run=run, items=steps * batch))
            words[name] = partial(_first_words, slots)
    return contenders, words, encode_s


def _release(views: str) -> Recipe:
    recipe = preset("release")
    return Recipe(method=recipe.method, train=recipe.train.model_copy(update={"views": views}))


def _filled(
    trainer: Trainer, people: list[PreparedFace], recipe: Recipe, clock: Callable[[], float]
) -> tuple[Slots, float]:
    """Slots with these people in them, and the seconds that each took to enter."""
    features = [trainer.features(face, recipe.method) for face in people]
    slots = Slots(
        trainer.base,
        trainer.templates,
        trainer.prior,
        recipe,
        num_slots=len(people),
        feature_width=features[0].shape[-1],
    )
    started = clock()
    for face, features_2F in zip(people, features, strict=True):
        slots.add(face, features_2F)
    slots.words().sum().item()  # waits for a GPU
    return slots, (clock() - started) / len(people)


def _repeat(step: Callable[[], None], num: int) -> None:
    for _ in range(num):
        step()


def _first_words(slots: Slots) -> torch.Tensor:
    return slots.words()[0]


def _differences(words: dict[str, Callable[[], torch.Tensor]]) -> dict[str, float]:
    """How far the first person's words are from those of the same loop alone, after the same steps. A pool draws its
    views at the start, so its reference is the smallest pack with a pool."""
    found = {name: get().double().cpu() for name, get in words.items()}
    pools = [name for name in found if name.endswith("pool")]
    references = {name: pools[0] if name in pools else RELEASE for name in found}
    return {name: float((mine - found[references[name]]).abs().max()) for name, mine in found.items()}


def _parts(trainer: Trainer, face: PreparedFace, compiled: bool) -> dict[str, float]:
    """GFLOP per sample of the frozen models, forward and with the backward pass that training needs."""
    base = trainer.base
    row = torch.zeros(1, dtype=torch.int64, device=base.device)
    latents = torch.zeros(1, base.num_channels, base.latent_side, base.latent_side, device=base.device)
    text = torch.zeros(1, base.tokenizer.model_max_length, base.text_width, device=base.device)
    image = torch.zeros(1, 3, base.pack.resolution, base.pack.resolution, device=base.device)
    words = torch.zeros(1, NUM_WORDS, base.text_width, device=base.device, requires_grad=True)
    vit = ReleaseLoop(trainer, face, preset("release"))

    def unet(needs: bool) -> torch.Tensor:
        return base.denoise(latents, row, text.clone().requires_grad_(needs))

    actions: dict[str, Callable[[], object]] = {
        "UNet forward": lambda: unet(False),
        "UNet forward + backward to the text": lambda: unet(True).sum().backward(),
        "VAE encode": lambda: base.encode_images(image),
        "FR-ViT forward": lambda: vit.vit(vit.pixels[:1]),
        "FR-ViT forward + backward": lambda: vit.vit(vit.pixels[:1]).last_hidden_state.sum().backward(),
        "text encoder forward": lambda: base.encode_text(trainer.templates[row]),
        "text encoder forward + backward": lambda: base.encode_text(trainer.templates[row], words).sum().backward(),
    }
    count = partial(count_flops, device=base.device, compiled=compiled)
    return {name: count(action) / 1e9 for name, action in actions.items()}


def _figures(one: Contender, baseline: Contender, ceilings: Ceilings) -> dict[str, object]:
    ratios = [theirs / mine for theirs, mine in zip(baseline.seconds, one.seconds, strict=True)]  # of the same round
    return {
        "name": one.name,
        "ms_per_step": 1e3 * one.median,
        "spread": one.spread,
        "gflop_per_step": one.flops / 1e9,
        "fraction_of_floor": one.flops / one.median / (1e12 * ceilings.matmul_tflops),
        "times_the_release": statistics.median(ratios),
        "seconds": one.seconds,
    }


def _report(result: dict[str, object]) -> str:
    contenders, differences = result["contenders"], result["largest_difference_of_words"]
    ceilings, parts = result["ceilings"], result["parts_gflop_per_sample"]
    assert isinstance(contenders, list) and isinstance(differences, dict)
    assert isinstance(ceilings, dict) and isinstance(parts, dict)
    rows = [
        [
            one["name"],
            f"{one['ms_per_step']:.2f}",
            f"± {one['spread']:.0%}",
            f"{one['times_the_release']:.2f}",
            f"{one['gflop_per_step']:.3g}",
            f"{one['fraction_of_floor']:.1%}",
            f"{differences[one['name']]:.1e}" if one["name"] in differences else "-",
        ]
        for one in contenders
    ]
    header = ["", "ms / step", "spread", "x release", "GFLOP / step", "of the ceiling", "words differ by"]
    return (
        f"# Training step of one identity, size {result['size']}\n\n"
        f"{result['hardware']}; torch {result['torch']}, {result['precision']}, compile {result['compile']}. "
        f"Times are {result['clock']} times. "
        f"Ceilings of this run: {ceilings['matmul_tflops']:.3g} TFLOP/s, copy {ceilings['copy_gbs']:.3g} GB/s. "
        f"Medians of {result['rounds']} interleaved rounds of {result['steps_per_round']} steps; ratios are medians "
        f"of the rounds' own ratios. Loading the models: {result['loader_s']:.1f} s, not counted. A pool of views, "
        f"encoded once an identity and not counted: {result['pool_encode_s_per_identity']:.3g} s.\n\n"
        + markdown(header, rows)
        + "\n`words differ by`: largest difference of the first person's words from the release's loop after the same "
        "steps; with pools, from the smallest pack with a pool.\n\n"
        + markdown(["part", "GFLOP / sample"], [[name, f"{gflop:.4g}"] for name, gflop in parts.items()])
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--size", choices=SIZES, default="tiny")
    parser.add_argument("--batches", default="1,4,16", help="pack sizes")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2, help="of each contender and round")
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--precision", choices=["auto", "float64", "float32", "bfloat16"], default="auto")
    parser.add_argument("--compile", choices=["off", "default", "reduce-overhead", "max-autotune"], default="off")
    parser.add_argument("--packs", type=Path, default=Path("out/bench"), help="where random packs are made")
    parser.add_argument("--out", type=Path, default=Path("out/bench/train_identity"), help="without suffix")
    return parser.parse_args()


if __name__ == "__main__":
    main()
