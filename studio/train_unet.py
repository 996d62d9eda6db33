"""Trains the diffusion model: a small UNet2DConditionModel on latents, together with the CLIP pair's text tower."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderTiny, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import nn
from transformers import CLIPModel, CLIPTextModel

from studio import crew, grid, latents, tokenizer
from studio.captions import VIEW_TEMPLATES
from studio.crew import Crew
from studio.dataset import PLACEHOLDER, SIDE_PX, Dataset, captions
from studio.loop import Run, cosine_lr, working_precision
from studio.muon import Muon
from studio.objective import Objective, noise_schedule
from studio.words import NamedText, NameMap

LATENT_PX, LATENT_CHANNELS, TEXT_WIDTH = SIDE_PX // 8, 8, 192
WIDTHS, TIME_WIDTH = (128, 160), 256
STEPS, BATCH = 16_000, 32
CPU_PART = 16  # samples that a process passes through the networks at once, adding up gradients: cache
ADAM_LR, MUON_LR, TEXT_LR = 8e-4, 2e-3, 2e-4
EMPTY_SHARE = 0.1  # captions replaced by the empty prompt, for guidance
VIEW_SHARE = 0.25  # of a batch: augmented views such as those that identities are learned from
EMA_DECAY = 0.998
GRID_EVERY = 1000


def make(latent_channels: int = LATENT_CHANNELS) -> UNet2DConditionModel:
    """The untrained UNet (7.7 M parameters): cross-attention at 8 x 8 and in the middle only, plain attention.

    The text also reaches every residual block, pooled and added to the time embedding: colours and places are
    properties of the whole picture, and follow the text sooner than through cross-attention alone.
    """
    unet = UNet2DConditionModel(
        sample_size=LATENT_PX,
        in_channels=latent_channels,
        out_channels=latent_channels,
        block_out_channels=WIDTHS,
        time_embedding_dim=TIME_WIDTH,
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,  # diffusers' name for the number of heads
        resnet_time_scale_shift="scale_shift",
        addition_embed_type="text",
        addition_embed_type_num_heads=4,
    )
    unet.set_attn_processor(AttnProcessor())
    return unet


class Conditioned(nn.Module):
    """UNet and text tower together: v from noisy latents, steps, token ids and identity vectors."""

    def __init__(self, state: Path, vectors: np.ndarray) -> None:
        super().__init__()
        words = tokenizer.load(state / "models" / "tokenizer")
        clip = CLIPModel.from_pretrained(state / "models" / "clip", attn_implementation="eager")
        names = NameMap(vectors, TEXT_WIDTH)
        names.load_state_dict(torch.load(state / "models" / "names.pt", weights_only=True))
        if (state / "models" / "text").exists():  # of an earlier pack: a better start than CLIP's
            text = CLIPTextModel.from_pretrained(state / "models" / "text").state_dict()
            clip.text_model.load_state_dict({key.removeprefix("text_model."): value for key, value in text.items()})
            names.load_state_dict(torch.load(state / "models" / "text_names.pt", weights_only=True))
        self.unet, self.named = make(), NamedText(clip.text_model, names, words)
        if (state / "models" / "unet").exists():
            earlier = UNet2DConditionModel.from_pretrained(state / "models" / "unet")
            self.unet.load_state_dict(earlier.state_dict())

    def forward(self, noisy: torch.Tensor, steps: torch.Tensor, ids: torch.Tensor, vectors: torch.Tensor) -> Any:
        context = self.named(ids, vectors).last_hidden_state
        return self.unet(noisy, steps, context).sample


def _optimisers(model: Conditioned, crew: Crew) -> dict[str, torch.optim.Optimizer]:
    """Muon for the UNet's inner matrices and kernels, AdamW for the rest."""
    edge = ("conv_in", "conv_out", "time_embedding", "add_embedding")
    inner = [p for n, p in model.unet.named_parameters() if p.ndim >= 2 and not n.startswith(edge)]
    outer = [p for n, p in model.unet.named_parameters() if p.ndim < 2 or n.startswith(edge)]
    text = list(model.named.parameters())
    groups = [{"params": outer, "lr": ADAM_LR}, {"params": text, "lr": TEXT_LR}]
    adam = torch.optim.AdamW(groups, betas=(0.9, 0.99), weight_decay=1e-3)
    return {"muon": Muon(inner, lr=MUON_LR, crew=crew), "adam": adam}


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
            pictures = grid.sample(
                average.unet, vae, context, empty.last_hidden_state, noise_schedule(), scale=latents.SCALE
            )
            mine = np.flatnonzero((data.persons == person) & data.done)
            shown = int(mine[np.argmax(data.plain[mine])])  # a plain picture, where there is one
            rows.append(np.concatenate([data.images[[shown]], pictures]))
    grid.write_png(path, rows)


def train(state: Path, *, device: torch.device, minutes: float | None = None, compiled: bool = True) -> None:
    """Train to `<state>/checkpoints/unet.pt`, which holds the average that `build` packs; sheets in `<state>/grids`.

    On a CPU, as many processes as torch has threads share the batch.
    """
    size = torch.get_num_threads() if device.type == "cpu" else 1
    crew.start(_train, state, device, minutes, compiled, size=size)
    (state / "models" / "unet.done").touch()


class Batches:
    """Batches of pictures and views with their captions, the same for the same step and rank."""

    def __init__(self, state: Path, share: int, words: Any) -> None:
        self.share = share
        self.pictures, self.views = latents.load(state, "pictures"), latents.load(state, "views")
        self.ids = tokenizer.encode(words, captions(state))
        self.view_ids = tokenizer.encode(words, [text.format(" ".join(PLACEHOLDER)) for text in VIEW_TEMPLATES])
        self.empty = tokenizer.encode(words, [""])

    def draw(self, rng: np.random.Generator) -> tuple[latents.Encoded, torch.Tensor]:
        """Latents (scaled) with persons and masks, and token ids."""
        num_views = int(self.share * VIEW_SHARE)
        pictures = self.pictures[np.sort(rng.choice(len(self.pictures.items), self.share - num_views, replace=False))]
        views = self.views[np.sort(rng.choice(len(self.views.items), num_views, replace=False))]
        ids = [self.ids[pictures.items], self.view_ids[rng.integers(len(self.view_ids), size=num_views)]]
        dropped = torch.from_numpy(rng.random((self.share, 1)) < EMPTY_SHARE)
        return pictures + views, torch.where(dropped, self.empty, torch.cat(ids))


def _train(state: Path, device: torch.device, minutes: float | None, compiled: bool, *, crew: Crew) -> None:
    latents.encode(state, device, crew=crew)
    torch.manual_seed(4)
    data, first, share = Dataset(state), crew.rank == 0, BATCH // crew.size
    size = min(CPU_PART, share) if device.type == "cpu" else share
    parts = share // size
    words = tokenizer.load(state / "models" / "tokenizer")
    batches = Batches(state, size, words)
    model = Conditioned(state, data.vectors).to(device)
    average = copy.deepcopy(model).requires_grad_(False)
    optimisers = _optimisers(model, crew)
    objective = Objective(state, device)
    run = Run(state, "unet", steps=STEPS, minutes=minutes)
    run.resume(model=model, average=average, **optimisers)
    unet = torch.compile(model.unet) if compiled else model.unet
    while (progress := crew.from_first(run.progress)) < 1:
        seen: dict[str, float] = {}
        for optimiser in optimisers.values():
            cosine_lr(optimiser, run.step, progress, warmup=200)
            optimiser.zero_grad()
        for part in range(parts):
            rng = np.random.default_rng([4, run.step, crew.rank, part])
            batch, tokens = batches.draw(rng)
            clean = torch.from_numpy(batch.latents).to(device).float() * latents.SCALE
            steps = objective.steps(size, rng)
            noise = torch.from_numpy(rng.standard_normal(clean.shape, dtype=np.float32)).to(device)
            noisy = objective.schedule.add_noise(clean, noise, steps)
            with working_precision(device):
                vectors = torch.from_numpy(data.vectors[batch.persons]).to(device)
                context = model.named(tokens.to(device), vectors).last_hidden_state
                guess = unet(noisy, steps, context).sample
            losses = objective(guess, clean, noise, steps, batch)
            (losses["loss"] / parts).backward()
            seen = {name: seen.get(name, 0.0) + value.item() / parts for name, value in losses.items()}
        crew.average_gradients(model.parameters())
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimiser in optimisers.values():
            optimiser.step()
        _update_average(average, model, run.step)
        run.advance(save=first)
        if first:
            run.track(images=run.step * BATCH, **seen)
            if run.step % GRID_EVERY == 0:
                draw(average, state, data, words, state / "grids" / f"unet_{run.step:06d}.png")
    if first:
        run.save()
