"""Trains the diffusion model: a small UNet2DConditionModel on latents, together with the CLIP pair's text tower."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderTiny, DDPMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import nn
from transformers import CLIPModel

from studio import crew, grid, tokenizer
from studio.crew import Crew
from studio.dataset import PLACEHOLDER, SIDE_PX, Dataset, captions
from studio.loop import Run, cosine_lr
from studio.muon import Muon
from studio.train_clip import pixels
from studio.words import NamedText, NameMap

LATENT_PX, LATENT_CHANNELS, TEXT_WIDTH = SIDE_PX // 8, 8, 192
STEPS, BATCH = 12_000, 48
ADAM_LR, MUON_LR, TEXT_LR = 8e-4, 2e-3, 1.6e-4
EMPTY_SHARE = 0.1  # captions replaced by the empty prompt, for guidance
SNR_LIMIT = 5.0
FACE_WEIGHT, HAIR_WEIGHT = 2.0, 1.3  # of latent cells in the loss; the rest has 1. The optimum stays, capacity moves
EMA_DECAY = 0.995
GRID_EVERY = 1000


def make() -> UNet2DConditionModel:
    """The untrained UNet (12 M parameters): cross-attention at 8 x 8 and in the middle only, plain attention."""
    unet = UNet2DConditionModel(
        sample_size=LATENT_PX,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        block_out_channels=(128, 224),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,  # diffusers' name for the number of heads
    )
    unet.set_attn_processor(AttnProcessor())
    return unet


def noise_schedule() -> DDPMScheduler:
    """Stable Diffusion's schedule: eps-prediction, scaled linear betas."""
    return DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type="epsilon", clip_sample=False
    )


@torch.no_grad()
def encode_latents(state: Path, data: Dataset, device: torch.device) -> None:
    """Write the latents of all training pictures rendered by now, float16 [N, C, 16, 16]; each is computed once."""
    path, flags = state / "data" / "latents.npy", state / "data" / "latents_done.npy"
    shape = (len(data.persons), LATENT_CHANNELS, LATENT_PX, LATENT_PX)
    for file, dtype, dims in ((path, np.float16, shape), (flags, np.bool_, shape[:1])):
        if not file.exists():
            np.lib.format.open_memmap(file, mode="w+", dtype=dtype, shape=dims).flush()
    latents, done = np.load(path, mmap_mode="r+"), np.load(flags, mmap_mode="r+")
    missing = np.setdiff1d(data.ready(), np.flatnonzero(done))
    vae = AutoencoderTiny.from_pretrained(state / "models" / "vae").to(device, memory_format=torch.channels_last)
    for start in range(0, len(missing), 64):
        part = missing[start : start + 64]
        images = pixels(data.images[part]).to(device, memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16):
            encoded = vae.encode(images).latents
        latents[part], done[part] = encoded.float().cpu().numpy().astype(np.float16), True
        if start % 6400 == 0:
            print(f"unet: {start} of {len(missing)} latents", flush=True)


class Conditioned(nn.Module):
    """UNet and text tower together: eps from noisy latents, steps, token ids and identity vectors."""

    def __init__(self, state: Path, vectors: np.ndarray) -> None:
        super().__init__()
        words = tokenizer.load(state / "models" / "tokenizer")
        clip = CLIPModel.from_pretrained(state / "models" / "clip", attn_implementation="eager")
        names = NameMap(vectors, TEXT_WIDTH)
        names.load_state_dict(torch.load(state / "models" / "names.pt", weights_only=True))
        self.unet, self.named = make(), NamedText(clip.text_model, names, words)

    def forward(self, noisy: torch.Tensor, steps: torch.Tensor, ids: torch.Tensor, vectors: torch.Tensor) -> Any:
        context = self.named(ids, vectors).last_hidden_state
        return self.unet(noisy, steps, context).sample


def min_snr_weights(schedule: DDPMScheduler) -> torch.Tensor:
    """Weight of the eps error per step, min(SNR, 5) / SNR (arXiv 2303.09556)."""
    snr = schedule.alphas_cumprod / (1 - schedule.alphas_cumprod)
    return snr.clamp(max=SNR_LIMIT) / snr


def _optimisers(model: Conditioned) -> dict[str, torch.optim.Optimizer]:
    """Muon for the UNet's inner matrices and kernels, AdamW for the rest."""
    edge = ("conv_in", "conv_out", "time_embedding")
    inner = [p for n, p in model.unet.named_parameters() if p.ndim >= 2 and not n.startswith(edge)]
    outer = [p for n, p in model.unet.named_parameters() if p.ndim < 2 or n.startswith(edge)]
    text = list(model.named.parameters())
    groups = [{"params": outer, "lr": ADAM_LR}, {"params": text, "lr": TEXT_LR}]
    return {"muon": Muon(inner, lr=MUON_LR), "adam": torch.optim.AdamW(groups, betas=(0.9, 0.99), weight_decay=1e-3)}


@torch.no_grad()
def cell_weights(labels: np.ndarray) -> torch.Tensor:
    """Loss weight per latent cell [B, 1, 16, 16] from label maps [B, H, W]."""
    maps = torch.from_numpy(labels)[:, None]
    face = ((maps >= 1) & (maps <= 13) & (maps != 9)).float()
    pixels_weight = 1 + (FACE_WEIGHT - 1) * face + (HAIR_WEIGHT - 1) * (maps == 17)
    return nn.functional.avg_pool2d(pixels_weight, 8)


def _update_average(average: Conditioned, model: Conditioned, step: int) -> None:
    decay = min(EMA_DECAY, (1 + step) / (10 + step))
    torch._foreach_lerp_(list(average.parameters()), [p.detach() for p in model.parameters()], 1 - decay)


def draw(average: Conditioned, state: Path, data: Dataset, words: Any, path: Path) -> None:
    """The fixed sheet: four celebrities and four held-out people (true vectors), one a row, by `grid.PROMPTS`."""
    device = next(average.parameters()).device
    vae = AutoencoderTiny.from_pretrained(state / "models" / "vae").to(device)
    held = data.ready(held_out=True)
    known = np.unique(data.persons[data.ready()])  # celebrities come first; some may not be rendered yet
    people = [*known[[1, 5, 9, 12]], *data.persons[held[[0, 8, 16, 24]]]]
    texts = [prompt.format(" ".join(PLACEHOLDER)) for prompt in grid.PROMPTS]
    rows = []
    with torch.no_grad():
        empty = average.named(
            tokenizer.encode(words, [""]).to(device), torch.zeros(1, data.vectors.shape[1]).to(device)
        )
        for person in people:
            vectors = torch.from_numpy(np.repeat(data.vectors[[person]], len(texts), 0)).to(device)
            context = average.named(tokenizer.encode(words, texts).to(device), vectors).last_hidden_state
            pictures = grid.sample(average.unet, vae, context, empty.last_hidden_state, noise_schedule())
            mine = np.flatnonzero((data.persons == person) & data.done)
            shown = int(mine[np.argmax(data.plain[mine])])  # a plain picture, where there is one
            rows.append(np.concatenate([data.images[[shown]], pictures]))
    grid.write_png(path, rows)


def train(state: Path, *, device: torch.device, minutes: float | None = None, compiled: bool = True) -> None:
    """Train to `<state>/checkpoints/unet.pt`, which holds the average that `build` packs; sheets in `<state>/grids`.

    On a CPU, as many processes as torch has threads share the batch.
    """
    encode_latents(state, Dataset(state), device)
    size = torch.get_num_threads() if device.type == "cpu" else 1
    crew.start(_train, state, device, minutes, compiled, size=size)
    (state / "models" / "unet.done").touch()


def _train(state: Path, device: torch.device, minutes: float | None, compiled: bool, *, crew: Crew) -> None:
    torch.manual_seed(4)
    data, first = Dataset(state), crew.rank == 0
    words = tokenizer.load(state / "models" / "tokenizer")
    ids, empty = tokenizer.encode(words, captions(state)), tokenizer.encode(words, [""])
    latents = np.load(state / "data" / "latents.npy", mmap_mode="r")
    items = np.flatnonzero(np.load(state / "data" / "latents_done.npy"))
    model = Conditioned(state, data.vectors).to(device)
    average = copy.deepcopy(model).requires_grad_(False)
    optimisers = _optimisers(model)
    schedule = noise_schedule()
    weights = min_snr_weights(schedule).to(device)
    run = Run(state, "unet", steps=STEPS, minutes=minutes)
    run.resume(model=model, average=average, **optimisers)
    unet = torch.compile(model.unet) if compiled else model.unet
    share = BATCH // crew.size
    while (progress := crew.from_first(run.progress)) < 1:
        rng = np.random.default_rng([4, run.step, crew.rank])
        batch = np.sort(rng.choice(items, share, replace=False))
        tokens = torch.where(torch.from_numpy(rng.random((share, 1)) < EMPTY_SHARE), empty, ids[batch]).to(device)
        clean = torch.from_numpy(latents[batch]).float().to(device)
        # one step from each part of the schedule, in random order: less noise in the loss than independent draws
        times = (rng.permutation(share) + rng.random(share)) / share * len(weights)
        steps = torch.from_numpy(times).long().to(device)
        noise = torch.from_numpy(rng.standard_normal(clean.shape, dtype=np.float32)).to(device)
        noisy = schedule.add_noise(clean, noise, steps)
        for optimiser in optimisers.values():
            cosine_lr(optimiser, run.step, progress, warmup=200)
            optimiser.zero_grad()
        with torch.autocast(device.type, torch.bfloat16):
            vectors = torch.from_numpy(data.vectors[data.persons[batch]]).to(device)
            context = model.named(tokens, vectors).last_hidden_state
            guess = unet(noisy, steps, context).sample
        error = (guess.float() - noise).square()
        loss = (error * cell_weights(data.labels[batch]).to(device) * weights[steps, None, None, None]).mean()
        loss.backward()
        crew.average_gradients(model.parameters())
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimiser in optimisers.values():
            optimiser.step()
        _update_average(average, model, run.step)
        run.advance(save=first)
        if first:
            run.track(loss=loss.item(), eps=error.mean().item(), images=run.step * BATCH)
            if run.step % GRID_EVERY == 0:
                draw(average, state, data, words, state / "grids" / f"unet_{run.step:06d}.png")
    if first:
        run.save()
