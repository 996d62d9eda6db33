"""What the tests of heads share: a pack whose pose control shows heads, and what makes them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel

from factory.config import SculptConfig
from factory.pack import Pack, load_pack
from factory.records import SculptRequest
from factory.supply.verify import record_hashes
from studio.training import pose as training
from tests.serving import person

CONFIG = SculptConfig(
    num_iterations=6, views_per_iteration=2, num_gaussians=40, max_gaussians=60, densify_every=2, denoising_steps=2,
    refresh_every=2,
)  # fmt: skip


def make_posed(tiny_pack: Pack, root: Path) -> Pack:
    """The tiny pack with a pose control of heads, whose weights are random and do something."""
    shutil.copytree(tiny_pack.root, root)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = training.make(UNet2DConditionModel.from_pretrained(root / "base" / "unet"))
        for name, parameter in net.named_parameters():
            if "controlnet_down" in name or "controlnet_mid" in name or "conv_out" in name:
                torch.nn.init.normal_(parameter, std=0.1)
    training.save(net, root / "control" / "pose")
    part = '\n[control.pose]\npath = "control/pose"\nlicence = "test"\nconditioning = "head_pose"\n'
    (root / "pack.toml").write_text((root / "pack.toml").read_text() + part)
    pack = load_pack(root)
    record_hashes(pack, "control.pose")
    return pack


def head_request(pack: Pack, config: SculptConfig = CONFIG, **changes: Any) -> SculptRequest:
    return SculptRequest(
        identity=person(1, "ada", pack.fingerprint()), prompt="a photo of <person>", config=config, **changes
    )
