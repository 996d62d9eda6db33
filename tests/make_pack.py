"""Complete model packs with random weights, built from configs: the shape of a real pack without its gigabytes.

`tiny` has SD 2.1-base's structure (four UNet levels, heads given per level, linear projections, an f8 VAE) at toy
widths, so that the whole method runs in milliseconds; `sd21` has the real sizes. Run as a script to build one:
    python -m tests.make_pack FOLDER [--size sd21]
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Literal

import factory  # noqa: F401  (before torchvision, transformers and diffusers: see factory/__init__.py)

# isort: split
import numpy as np
import torch

from tests.make_estimator import DET_FILE as BODY_DET_FILE
from tests.make_estimator import POSE_FILE, make_estimator
from tests.make_networks import (
    DET_FILE,
    JUDGE_FILE,
    SD21,
    TINY,
    Sizes,
    save_base,
    save_clip,
    save_control,
    save_faces,
    save_fr_vit,
    save_parser,
)
from tests.make_tokenizer import CELEBRITIES, make_tokenizer
from tests.make_video import save_motion, save_video


def make_pack(
    folder: Path,
    *,
    size: Literal["tiny", "sd21"] = "tiny",
    prediction_type: Literal["epsilon", "v_prediction"] = "epsilon",
    vae: Literal["kl", "tiny"] = "kl",
    pose: bool = False,
    clips: Literal["motion", "video"] | None = None,
    seed: int = 0,
) -> Path:
    """Write a complete pack with random weights to `folder` and return it. The same seed gives the same bytes.

    With `pose` it has a ControlNet of OpenPose's bodies, and the body estimator of tests/make_estimator.py. `clips`:
    with motion layers, or with a whole text-to-video model.
    """
    sizes = TINY if size == "tiny" else SD21
    folder.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer = make_tokenizer(folder / "base" / "tokenizer")
        save_base(folder / "base", sizes, tokenizer, prediction_type, vae)
        save_fr_vit(folder / "fr_vit", sizes)
        save_clip(folder / "clip", tokenizer)
        save_parser(folder / "parser" / "parsing.safetensors", sizes)
        if pose:
            save_control(folder / "control" / "pose", sizes)
            make_estimator(folder / "control" / "estimator")
        if clips == "motion":
            save_motion(folder / "motion", sizes)
        elif clips == "video":
            save_video(folder / "video", sizes, folder / "base")
    save_faces(folder / "faces", np.random.default_rng(seed))
    (folder / "celebrities.txt").write_text("".join(f"{first} {last}\n" for first, last in CELEBRITIES))
    (folder / "pack.toml").write_text(
        _description(folder.name, sizes) + (_POSE if pose else "") + (_clips(clips, sizes) if clips else "")
    )
    return folder


def _description(name: str, sizes: Sizes) -> str:
    options = "\n".join(f"{key} = {value}" for key, value in sizes.parser.items())
    return f'''name = "{name}"
description = "random weights, for tests"
resolution = {sizes.resolution}
crop_box = [0.125, 0.13671875, 0.859375, 0.87109375]
celebrities = "celebrities.txt"

[base]
path = "base"
licence = "none: random numbers"

[fr_vit]
path = "fr_vit"
licence = "none: random numbers"

[clip]
path = "clip"
licence = "none: random numbers"

[faces]
path = "faces"
licence = "detector: MIT (YuNet); recogniser: random numbers"
det_file = "{DET_FILE}"
det_size = 320
judge = "{JUDGE_FILE}"

[parser]
path = "parser/parsing.safetensors"
licence = "none: random numbers"
network = "ParseNet"
input_px = {sizes.parser["in_size"]}
mean = [0.5, 0.5, 0.5]
std = [0.5, 0.5, 0.5]
face_classes = [1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13]
hair_classes = [17]

[parser.options]
{options}

[generate]
num_inference_steps = 2
'''


_POSE = f'''
[control.pose]
path = "control/pose"
licence = "none: random numbers"
conditioning = "openpose"

[control.pose.estimator]
path = "control/estimator"
licence = "none: made by hand"
det_file = "{BODY_DET_FILE}"
pose_file = "{POSE_FILE}"
'''


def _clips(kind: str, sizes: Sizes) -> str:
    extra = "shared_noise = 0.5\nsteadiness = 2.0" if kind == "motion" else f"resolution = {sizes.resolution // 2}"
    return f'''
[{kind}]
path = "{kind}"
licence = "none: random numbers"
{extra}
'''


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("folder", type=Path)
    arguments.add_argument("--size", choices=["tiny", "sd21"], default="tiny")
    given = arguments.parse_args()
    print(make_pack(given.folder, size=given.size))
