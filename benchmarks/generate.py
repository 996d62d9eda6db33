"""Seconds of one picture: `StableDiffusionPipeline` one request at a time against batches of different identities.

    python -m benchmarks.generate --size tiny
    python -m benchmarks.generate --size studio --batches 1,8 --out benchmarks/generate_MACHINE_YYYY-MM
    python -m benchmarks.generate --device cuda --size sd21 --batches 1,2,4,8,16,32

Every request is another identity with another seed. The largest batch is drawn in two more ways: guided in the first
half of the steps alone, and with a pose for every other picture. Writes OUT.json and OUT.md; the pictures of the others
are compared pixel by pixel.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import factory  # noqa: F401  (before torchvision, transformers and diffusers: see factory/__init__.py)

# isort: split
import numpy as np
import torch
from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline

from benchmarks.measure import CLOCKS, Contender, count_flops, hardware, interleave, markdown, measure_ceilings
from benchmarks.setting import SIZES, bench_pack, noise_requests
from factory.base.diffusion import DiffusionBase
from factory.base.text import tokenise
from factory.config import GenerateConfig
from factory.draw.images import ImageGenerator
from factory.faces.pose import HeadPose, draw_skeleton
from factory.records import TEXT_ENCODER, ImageRequest, PoseControl

ONE = "StableDiffusionPipeline, one request at a time"


def main() -> None:
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    clock = CLOCKS[arguments.clock]
    started = clock()
    generator = ImageGenerator(bench_pack(arguments.size, arguments.packs), device=arguments.device)
    loader_s = clock() - started
    batches = [int(text) for text in arguments.batches.split(",")]
    config = GenerateConfig(num_inference_steps=arguments.steps)
    requests = noise_requests(generator.base, max(batches), config)
    ceilings = measure_ceilings(arguments.device, generator.base.dtype, clock)
    pictures: dict[str, list[np.ndarray]] = {}

    def keep(name: str, make: Callable[[], list[np.ndarray]]) -> None:
        pictures[name] = make()

    few = requests[: min(4, len(requests))]  # one at a time, their number does not matter
    contenders = [Contender(name=ONE, run=partial(keep, ONE, partial(_one_by_one, generator, few)), items=len(few))]
    for batch in batches:
        name = f"mixed identities, B = {batch}"
        run = partial(keep, name, partial(generator.generate, requests[:batch]))
        contenders.append(Contender(name=name, run=run, items=batch))
    for name, asked in _other_ways(generator, requests[: max(batches)]).items():
        name = f"{name}, B = {max(batches)}"
        run = partial(keep, name, partial(generator.generate, asked))
        contenders.append(Contender(name=name, run=run, items=len(asked)))
    for one in contenders:
        one.flops = count_flops(one.run, device=arguments.device) / one.items
    interleave(contenders, rounds=arguments.rounds, device=arguments.device, clock=clock)

    alone, same = pictures[ONE], {ONE, *(f"mixed identities, B = {batch}" for batch in batches)}
    result = {
        "hardware": hardware(arguments.device),
        "torch": torch.__version__,
        "size": arguments.size,
        "precision": str(generator.base.dtype),
        "denoising_steps": arguments.steps,
        "clock": arguments.clock,
        "rounds": arguments.rounds,
        "loader_s": loader_s,
        "ceilings": asdict(ceilings),
        "unet_forward_gflop": count_flops(partial(_unet, generator.base), device=arguments.device) / 1e9,
        "contenders": [
            {
                "name": one.name,
                "s_per_image": one.median,
                "spread": one.spread,
                "gflop_per_image": one.flops / 1e9,
                "fraction_of_floor": one.flops / one.median / (1e12 * ceilings.matmul_tflops),
                "times_one_by_one": float(np.median(np.divide(contenders[0].seconds, one.seconds))),
                "largest_pixel_difference": _difference(alone, pictures[one.name]) if one.name in same else None,
                "seconds": one.seconds,
            }
            for one in contenders
        ],
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.with_suffix(".json").write_text(json.dumps(result, indent=2) + "\n")
    text = _report(result)
    arguments.out.with_suffix(".md").write_text(text)
    print(text)


@torch.inference_mode()
def _one_by_one(generator: ImageGenerator, requests: list[ImageRequest]) -> list[np.ndarray]:
    """What a server without batches does: the plain pipeline, a request after the other."""
    base, pipeline = generator.base, generator.base.pipeline
    assert isinstance(pipeline, StableDiffusionPipeline)
    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config)
    images: list[np.ndarray] = []
    for request in requests:
        words_BVD = torch.from_numpy(request.identity.words[TEXT_ENCODER])[None].to(base.device, base.exact_dtype)
        prompt = tokenise([request.prompt], base.tokenizer).to(base.device)
        negative = tokenise([request.config.negative_prompt], base.tokenizer).to(base.device)
        shape = (1, base.num_channels, base.latent_side, base.latent_side)
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(request.seed))
        output = pipeline(
            prompt_embeds=base.encode_text(prompt, words_BVD).to(base.dtype),
            negative_prompt_embeds=base.encode_text(negative).to(base.dtype),
            latents=noise.to(base.device, base.dtype),
            num_inference_steps=request.config.num_inference_steps,
            guidance_scale=request.config.guidance_scale,
            height=base.pack.resolution,
            width=base.pack.resolution,
            output_type="np",
        )
        images.append((output.images[0] * 255).round().astype(np.uint8))
    return images


def _other_ways(generator: ImageGenerator, requests: list[ImageRequest]) -> dict[str, list[ImageRequest]]:
    """The same people with what costs less, or more."""
    pack = generator.base.pack
    half = [replace(one, config=one.config.model_copy(update={"guidance_until": 0.5})) for one in requests]
    ways = {"guided in the first half of the steps": half}
    if "pose" in pack.control:
        skeleton = draw_skeleton([HeadPose(yaw=15)], pack.resolution, pack.resolution)
        pose = PoseControl(skeleton=skeleton)
        ways["every other one posed"] = [
            one if number % 2 else replace(one, pose=pose) for number, one in enumerate(requests)
        ]
    return ways


@torch.no_grad()
def _unet(base: DiffusionBase) -> torch.Tensor:
    latents = torch.zeros(1, base.num_channels, base.latent_side, base.latent_side, device=base.device)
    text = torch.zeros(1, base.tokenizer.model_max_length, base.text_width, device=base.device)
    return base.denoise(latents, torch.zeros(1, dtype=torch.int64, device=base.device), text)


def _difference(alone: list[np.ndarray], others: list[np.ndarray]) -> int:
    """Of the requests that both made, in steps of 1/255."""
    return max(
        int(np.abs(one.astype(int) - other.astype(int)).max()) for one, other in zip(alone, others, strict=False)
    )


def _report(result: dict[str, object]) -> str:
    contenders, ceilings = result["contenders"], result["ceilings"]
    assert isinstance(contenders, list) and isinstance(ceilings, dict)
    rows = [
        [
            one["name"],
            f"{one['s_per_image']:.4g}",
            f"± {one['spread']:.0%}",
            f"{one['times_one_by_one']:.2f}",
            f"{one['gflop_per_image']:.4g}",
            f"{one['fraction_of_floor']:.1%}",
            "" if one["largest_pixel_difference"] is None else str(one["largest_pixel_difference"]),
        ]
        for one in contenders
    ]
    header = ["", "s / image", "spread", "x one by one", "GFLOP / image", "of the ceiling", "pixels differ by (of 255)"]
    return (
        f"# One picture, size {result['size']}, {result['denoising_steps']} steps with guidance\n\n"
        f"{result['hardware']}; torch {result['torch']}, {result['precision']}. "
        f"Times are {result['clock']} times. Ceilings: {ceilings['matmul_tflops']:.3g} TFLOP/s, "
        f"copy {ceilings['copy_gbs']:.3g} GB/s. Medians of {result['rounds']} "
        f"interleaved rounds; ratios are medians of the rounds' own ratios. Loading the models: "
        f"{result['loader_s']:.1f} s, not counted. UNet forward: {result['unet_forward_gflop']:.4g} GFLOP a sample.\n\n"
        + markdown(header, rows)
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--size", choices=SIZES, default="tiny")
    parser.add_argument("--batches", default="1,4,16", help="requests of a batch")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20, help="denoising steps of a picture")
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--packs", type=Path, default=Path("out/bench"), help="where random packs are made")
    parser.add_argument("--out", type=Path, default=Path("out/bench/generate"), help="without suffix")
    return parser.parse_args()


if __name__ == "__main__":
    main()
