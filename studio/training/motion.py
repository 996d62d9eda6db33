"""Trains the motion layers behind the pack's frozen UNet, from rendered clips (studio/world/motions.py)."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import MotionAdapter, UNet2DConditionModel
from diffusers.models.attention_processor import Attention, AttnProcessor
from torch import nn

from factory.base.diffusion import DiffusionBase, working_dtype
from factory.base.text import tokenise
from factory.draw.motion import ClipRows, MotionLayers, MotionText, clip_noise
from factory.pack import load_pack
from factory.supply.verify import record_hashes
from studio.training import motion_data
from studio.training.build import PACK
from studio.training.loop import Run, cosine_lr, working_precision
from studio.training.muon import Muon
from studio.training.objective import noise_schedule, step_weights
from studio.world.motions import FPS, NUM_FRAMES

STEPS, BATCH = 4_000, 2  # clips of a step
SPARSE_UNTIL = 0.6  # share of the training in which steps see every second frame, at half the cost
MUON_LR, ADAM_LR = 1.5e-3, 8e-4
EMPTY_SHARE = 0.1  # captions replaced by the empty prompt, for guidance
LAST_CLEAN_STEP = 40  # time steps below are never drawn: a clip of ten or twenty steps is not asked there
HIGH_NOISE = 1.3  # power that moves time steps to high noise, where motion is decided; 1: evenly
MOVING_WEIGHT, MOVING_LIMIT = 3.0, 30.0  # of latent cells in the loss by how much they change over time; see `moving`
APART_WEIGHT = 10.0  # of what an error does from frame to frame, beside the error itself: a clip's place is the base's
EMA_DECAY = 0.998
HEADS, MAX_FRAMES = 4, 32


def make(unet: UNet2DConditionModel, text_width: int) -> nn.ModuleDict:
    """Motion layers for a UNet, which change nothing yet, and a reader of the text for them."""
    per_block = unet.config.layers_per_block
    adapter = MotionAdapter(
        block_out_channels=tuple(unet.config.block_out_channels),
        motion_layers_per_block=per_block,
        motion_num_attention_heads=HEADS,
        motion_norm_num_groups=unet.config.norm_num_groups,
        motion_max_seq_length=MAX_FRAMES,
    )
    layers = [layer for block in (*adapter.down_blocks, adapter.mid_block, *adapter.up_blocks)
              for layer in block.motion_modules]  # fmt: skip
    for layer in layers:
        nn.init.zeros_(layer.proj_out.weight)
        nn.init.zeros_(layer.proj_out.bias)
    reader = MotionText(text_width, [layer.in_channels for layer in layers], max_frames=MAX_FRAMES)
    return nn.ModuleDict({"adapter": adapter, "text": reader})


def _begin(net: nn.ModuleDict, pack: Path) -> nn.ModuleDict:
    """What the pack has already, to go on from; else the untrained layers."""
    described = load_pack(pack)
    assert described.motion is not None, "its pack.toml has a [motion]"
    folder = described.place(described.motion)
    kinds: dict[str, Any] = {"adapter": MotionAdapter, "text": MotionText}
    for name, part in net.items():
        if (folder / name).exists():
            part.load_state_dict(kinds[name].from_pretrained(folder / name).state_dict())
    return net


def _optimisers(net: nn.Module) -> dict[str, torch.optim.Optimizer]:
    """Muon for the matrices, AdamW for the rest."""
    named = list(net.named_parameters())
    inner = [p for n, p in named if p.ndim >= 2 and "frames" not in n]
    outer = [p for n, p in named if p.ndim < 2 or "frames" in n]
    native = working_dtype(inner[0].device.type) == torch.bfloat16
    adam = torch.optim.AdamW(outer, lr=ADAM_LR, betas=(0.9, 0.99), weight_decay=1e-3)
    return {"muon": Muon(inner, lr=MUON_LR, bf16=native), "adam": adam}


def moving(clean_NFCHW: torch.Tensor) -> torch.Tensor:
    """Loss weight per cell of a clip [N, 1, 1, H, W], 1 on average.

    A still cell has 1 part, and all parts that motion adds are shared out by how much cells change over time: a blink
    is a few cells of hundreds and would weigh next to nothing otherwise.
    """
    change = clean_NFCHW.std(1, keepdim=True).mean(2, keepdim=True)
    parts = (change / (change.mean((-2, -1), keepdim=True) + 0.01)).clamp(max=MOVING_LIMIT)
    weights = 1 + MOVING_WEIGHT * parts
    return weights / weights.mean((-2, -1), keepdim=True)


class MotionTask:
    """The frozen side of the training: base model, clips, noise; makes the loss of a step."""

    def __init__(self, state: Path, device: torch.device, pack: Path = PACK) -> None:
        self.device = device
        base = DiffusionBase.load(load_pack(pack), device=device.type, dtype=torch.float32)
        self.unet: UNet2DConditionModel = base.unet
        self.unet.set_attn_processor(AttnProcessor())  # on a CPU faster than PyTorch's fused one, at these sizes
        self.text_width = base.text_width
        self.schedule = noise_schedule()
        self.weights = step_weights(self.schedule).to(device)
        with torch.no_grad():
            self.empty = base.encode_text(tokenise([""], base.tokenizer).to(device)).half().cpu()
        self.clips = motion_data.load(state)
        assert base.pack.motion is not None, "its pack.toml has a [motion]"
        self.shared_noise = base.pack.motion.shared_noise

    def loss(
        self, layers: MotionLayers, size: int, frames_F: torch.Tensor, random: torch.Generator
    ) -> dict[str, torch.Tensor]:
        """`loss` of random clips, of which the frames `frames_F` are seen, and `v`, its plain error."""
        rows = torch.randint(len(self.clips), (size,), generator=random)
        dropped = torch.rand((size, 1, 1), generator=random) < EMPTY_SHARE
        text = torch.where(dropped, self.empty, self.clips.text[rows]).float().to(self.device)
        clean = self.clips.latents[rows][:, frames_F].float()  # [N, F, C, 16, 16]
        noise = torch.stack([clip_noise(clip.shape, random, self.shared_noise) for clip in clean])
        cells = moving(clean).to(self.device)
        places = (torch.arange(size) + torch.rand(size, generator=random)) / size
        last = len(self.weights) - 1
        drawn = (LAST_CLEAN_STEP + (last - LAST_CLEAN_STEP) * (1 - (1 - places) ** HIGH_NOISE)).long()
        num_frames = len(frames_F)
        steps = drawn.repeat_interleave(num_frames).to(self.device)
        clean, noise = (part.flatten(0, 1).to(self.device) for part in (clean, noise))
        text = text.repeat_interleave(num_frames, 0)
        noisy = self.schedule.add_noise(clean, noise, steps)
        where = [ClipRows(number * num_frames, num_frames) for number in range(size)]
        with working_precision(self.device), layers.of(where, text, frames_F.to(self.device)):
            guess = self.unet(noisy, steps, text).sample
        wrong = guess.float() - self.schedule.get_velocity(clean, noise, steps)
        of_clip = wrong.unflatten(0, (size, num_frames))  # [N, F, C, H, W]
        apart = of_clip - of_clip.mean(1, keepdim=True)
        weighted = (of_clip.square() + APART_WEIGHT * apart.square()) * cells
        by_step = self.weights[steps].view(size, num_frames, 1, 1, 1)
        return {"loss": (weighted * by_step).mean(), "v": wrong.square().mean(), "apart": apart.square().mean()}


def _update_average(average: nn.Module, net: nn.Module, step: int) -> None:
    decay = min(EMA_DECAY, (1 + step) / (10 + step))
    torch._foreach_lerp_(list(average.parameters()), [p.detach() for p in net.parameters()], 1 - decay)


def average_of(state: Path, pack: Path = PACK) -> tuple[nn.ModuleDict, int]:
    """The running average of the latest checkpoint, and its step."""
    described = load_pack(pack)
    unet = UNet2DConditionModel.from_pretrained(described.folder(described.base) / "unet")
    net = make(unet, unet.config.cross_attention_dim)
    saved = torch.load(state / "checkpoints" / "motion.pt", map_location="cpu", weights_only=True)
    net.load_state_dict(saved["average"])
    return net, int(saved["step"])


def save(average: nn.ModuleDict, folder: Path) -> None:
    """Write adapter and reader as diffusers loads them, in half precision."""
    for name, part in average.items():
        half: Any = copy.deepcopy(part).half()
        half.save_pretrained(folder / name)
        config = folder / name / "config.json"  # diffusers notes the folder a model came from
        entries: dict[str, Any] = json.loads(config.read_text())
        config.write_text(json.dumps({k: v for k, v in entries.items() if k != "_name_or_path"}, indent=2) + "\n")


def into_pack(state: Path, pack: Path = PACK) -> None:
    """Put the average of the latest checkpoint into a pack, and record its hashes."""
    net, step = average_of(state, pack)
    described = load_pack(pack)
    assert described.motion is not None, "its pack.toml has a [motion]"
    save(net, described.place(described.motion))
    record_hashes(described, "motion")
    print(f"motion layers at step {step} are in {described.place(described.motion)}: {NUM_FRAMES} frames at {FPS}/s")


def train(state: Path, *, device: torch.device, minutes: float | None = None) -> None:
    """Train to `<state>/models/motion`, on the clips of `motion_data`."""
    torch.manual_seed(7)
    task = MotionTask(state, device)
    net = _begin(make(task.unet, task.text_width), pack=PACK).to(device)
    average = copy.deepcopy(net).requires_grad_(False)
    layers = MotionLayers(task.unet, net["adapter"], net["text"])  # type: ignore[arg-type]
    for module in net["adapter"].modules():
        if isinstance(module, Attention):
            module.set_processor(AttnProcessor())
    net.train()
    optimisers = _optimisers(net)
    run = Run(state, "motion", steps=STEPS, minutes=minutes)
    run.resume(net=net, average=average, **optimisers)
    random = torch.Generator()
    for step in run:
        for optimiser in optimisers.values():
            cosine_lr(optimiser, step, run.progress, warmup=100)
            optimiser.zero_grad()
        random.manual_seed(int(np.random.SeedSequence([7, step]).generate_state(1)[0]))
        frames_F = torch.arange(step % 2, NUM_FRAMES, 2) if run.progress < SPARSE_UNTIL else torch.arange(NUM_FRAMES)
        losses = task.loss(layers, BATCH, frames_F, random)
        losses["loss"].backward()
        norm = nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        for optimiser in optimisers.values():
            optimiser.step()
        _update_average(average, net, step)
        run.track(clips=step * BATCH, norm=norm, **losses)
    save(average, state / "models" / "motion")
