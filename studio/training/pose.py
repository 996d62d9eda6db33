"""Trains the pose control: a ControlNet beside the pack's frozen UNet, from drawn skeletons.

Its encoder begins as the UNet's, exactly, although diffusers gives a ControlNet a wider time embedding than this UNet
has (`ControlNetModel.from_unet` cannot copy it): see `begin`.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import nn

from factory.base.diffusion import DiffusionBase, working_dtype
from factory.base.text import tokenise
from factory.pack import load_pack
from factory.supply.verify import record_hashes
from studio.training import pose_data
from studio.training.build import PACK
from studio.training.loop import Run, cosine_lr, working_precision
from studio.training.muon import Muon
from studio.training.objective import cell_weights, noise_schedule, step_weights

STEPS, BATCH = 14_000, 12
MUON_LR, ADAM_LR = 2e-3, 8e-4
EMPTY_SHARE = 0.1  # captions replaced by the empty prompt, for guidance
LAST_CLEAN_STEP = 40  # time steps below are never drawn: a picture of ten or twenty steps is not asked there
HIGH_NOISE = 1.5  # power that moves time steps to high noise, where the pose is decided; 1: evenly
EMA_DECAY = 0.999
EMBEDDING_STD = 0.5  # of the skeleton's features at the start; those of the noisy latents have 0.9
EMBEDDING_CHANNELS = (16, 32, 64, 128)  # of the skeleton on its way to 16 x 16


def make(unet: UNet2DConditionModel) -> ControlNetModel:
    """An untrained ControlNet that fits a UNet: its configuration, with diffusers' time embedding of 4 x the width."""
    shared = (
        *("in_channels", "down_block_types", "block_out_channels", "layers_per_block", "cross_attention_dim"),
        *("attention_head_dim", "resnet_time_scale_shift", "addition_embed_type", "addition_embed_type_num_heads"),
        *("norm_num_groups", "use_linear_projection", "only_cross_attention", "mid_block_type", "upcast_attention"),
    )
    config = {name: unet.config[name] for name in shared}
    return ControlNetModel(**config, conditioning_embedding_out_channels=EMBEDDING_CHANNELS)


@torch.no_grad()
def begin(unet: UNet2DConditionModel) -> ControlNetModel:
    """A ControlNet whose encoder computes what the UNet's does, and whose residuals are zero.

    The UNet's time embedding has T channels, the ControlNet's more. Its time embedding is the UNet's and zeros; the
    pooled text is repeated, as its layer norm must see the same mean and spread; blocks read the first T channels.
    """
    net, source = make(unet), unet.state_dict()
    state = net.state_dict()
    for name, value in state.items():
        if name not in source:
            continue
        given = source[name].float()
        if name.startswith(("add_embedding.proj", "add_embedding.norm2")):
            times = len(value) // len(given)
            assert times * len(given) == len(value), "the wider time embedding must be a multiple of the UNet's"
            given = given.repeat(times, *[1] * (given.ndim - 1))
        if value.shape != given.shape:
            value.zero_()
        value[tuple(slice(size) for size in given.shape)] = given
    net.load_state_dict(state)
    _enliven(net)
    return net


def _enliven(net: ControlNetModel) -> None:
    """Scale the layers that read the skeleton until each gives out a spread of 1 (the last: EMBEDDING_STD).

    As diffusers starts them they shrink thin lines on black to nothing, and the last one is zero, as are the residuals'
    layers: two zeros in a row get no gradient.
    """
    random, embedding = torch.Generator().manual_seed(6), net.controlnet_cond_embedding
    low, high = torch.tensor(pose_data.REACH).T
    hidden = pose_data.skeletons(low + (high - low) * torch.rand((16, len(low)), generator=random))
    for layer in (embedding.conv_in, *embedding.blocks, embedding.conv_out):
        nn.init.kaiming_normal_(layer.weight, generator=random)
        nn.init.zeros_(layer.bias)
        layer.weight /= layer(hidden).std()
        hidden = nn.functional.silu(layer(hidden))
    embedding.conv_out.weight *= EMBEDDING_STD


def _optimisers(net: ControlNetModel) -> dict[str, torch.optim.Optimizer]:
    """Muon for the inner matrices and kernels, AdamW for the rest."""
    edge = ("conv_in", "time_emb", "add_embedding")
    named = list(net.named_parameters())
    inner = [p for n, p in named if p.ndim >= 2 and not any(part in n for part in edge)]
    outer = [p for n, p in named if p.ndim < 2 or any(part in n for part in edge)]
    native = working_dtype(inner[0].device.type) == torch.bfloat16
    adam = torch.optim.AdamW(outer, lr=ADAM_LR, betas=(0.9, 0.99), weight_decay=1e-3)
    return {"muon": Muon(inner, lr=MUON_LR, bf16=native), "adam": adam}


class PoseTask:
    """The frozen side of the training: base model, pictures, noise; makes the loss of a step."""

    def __init__(self, state: Path, device: torch.device, pack: Path = PACK) -> None:
        self.device = device
        base = DiffusionBase.load(load_pack(pack), device=device.type, dtype=torch.float32)
        self.unet: UNet2DConditionModel = base.unet
        self.unet.set_attn_processor(AttnProcessor())  # on a CPU faster than PyTorch's fused one, at these sizes
        self.schedule = noise_schedule()
        self.weights = step_weights(self.schedule).to(device)
        self.signal = self.schedule.alphas_cumprod.to(device)
        with torch.no_grad():
            self.empty = base.encode_text(tokenise([""], base.tokenizer).to(device)).half()
        self.pictures = pose_data.load(state)

    def _steps(self, size: int, random: torch.Generator) -> torch.Tensor:
        """One time step from each part of the schedule, more of the noisy ones, int64 [B]."""
        places = (torch.arange(size) + torch.rand(size, generator=random)) / size
        last = len(self.weights) - 1
        return (LAST_CLEAN_STEP + (last - LAST_CLEAN_STEP) * (1 - (1 - places) ** HIGH_NOISE)).long()

    def loss(self, net: ControlNetModel, size: int, random: torch.Generator) -> dict[str, torch.Tensor]:
        """`loss` of a random batch, and `v`, its plain error."""
        rows = torch.randint(len(self.pictures), (size,), generator=random)
        batch = self.pictures[rows]
        dropped = torch.rand((size, 1, 1), generator=random) < EMPTY_SHARE
        text = torch.where(dropped, self.empty.cpu(), batch.text).float().to(self.device)
        steps = self._steps(size, random).to(self.device)
        clean = batch.latents.float()
        noise = torch.randn(clean.shape, generator=random).to(self.device)
        clean, drawn = clean.to(self.device), pose_data.skeletons(batch.poses).to(self.device)
        noisy = self.schedule.add_noise(clean, noise, steps)
        with working_precision(self.device):
            down, mid = net(noisy, steps, text, controlnet_cond=drawn, return_dict=False)
            guess = self.unet(
                *(noisy, steps, text), down_block_additional_residuals=down, mid_block_additional_residual=mid
            ).sample
        error = (guess.float() - self.schedule.get_velocity(clean, noise, steps)).square()
        cells = cell_weights(batch.face.float(), batch.hair.float()).to(self.device)
        weighted = error * cells * self.weights[steps, None, None, None]
        return {"loss": weighted.mean(), "v": error.mean()}


def _update_average(average: ControlNetModel, net: ControlNetModel, step: int) -> None:
    decay = min(EMA_DECAY, (1 + step) / (10 + step))
    torch._foreach_lerp_(list(average.parameters()), [p.detach() for p in net.parameters()], 1 - decay)


def average_of(state: Path, pack: Path = PACK) -> tuple[ControlNetModel, int]:
    """The running average of the latest checkpoint, and its step."""
    net = make(UNet2DConditionModel.from_pretrained(pack / "base" / "unet"))
    saved = torch.load(state / "checkpoints" / "pose.pt", map_location="cpu", weights_only=True)
    net.load_state_dict(saved["average"])
    return net, int(saved["step"])


def save(average: Any, folder: Path) -> None:
    """Write a ControlNet as diffusers loads it, in half precision."""
    copy.deepcopy(average).half().save_pretrained(folder)
    config = folder / "config.json"  # diffusers notes the folder a model came from
    entries = {key: value for key, value in json.loads(config.read_text()).items() if key != "_name_or_path"}
    config.write_text(json.dumps(entries, indent=2) + "\n")


def into_pack(state: Path, pack: Path = PACK) -> None:
    """Put the average of the latest checkpoint into a pack, and record its hashes."""
    net, step = average_of(state, pack)
    described = load_pack(pack)
    save(net, described.place(described.control["pose"]))
    record_hashes(described, "control.pose")
    print(f"pose control at step {step} is in {described.place(described.control['pose'])}")


def train(state: Path, *, device: torch.device, minutes: float | None = None) -> None:
    """Train to `<state>/models/pose`, on the pictures of `pose_data`."""
    torch.manual_seed(6)
    task = PoseTask(state, device)
    net = begin(task.unet).to(device)
    average = copy.deepcopy(net).requires_grad_(False)
    net.set_attn_processor(AttnProcessor())
    net.train()
    optimisers = _optimisers(net)
    run = Run(state, "pose", steps=STEPS, minutes=minutes)
    run.resume(net=net, average=average, **optimisers)
    random = torch.Generator()
    for step in run:
        for optimiser in optimisers.values():
            cosine_lr(optimiser, step, run.progress, warmup=200)
            optimiser.zero_grad()
        random.manual_seed(int(np.random.SeedSequence([6, step]).generate_state(1)[0]))
        losses = task.loss(net, BATCH, random)
        losses["loss"].backward()
        norm = nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        for optimiser in optimisers.values():
            optimiser.step()
        _update_average(average, net, step)
        run.track(images=step * BATCH, norm=norm, **losses)
    save(average, state / "models" / "pose")
