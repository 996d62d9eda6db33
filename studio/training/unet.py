"""Trains the diffusion model: a small UNet2DConditionModel on latents, together with the CLIP pair's text tower."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderTiny, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import nn
from transformers import CLIPModel, CLIPTextModel

from studio.training import crew, grid, latents, tokenizer
from studio.training.crew import Crew
from studio.training.dataset import PLACEHOLDER, Dataset, captions
from studio.training.loop import Run, cosine_lr, working_precision
from studio.training.muon import Muon
from studio.training.objective import Objective, noise_schedule
from studio.training.vae import LATENT_CHANNELS
from studio.training.views import LATENT_PX
from studio.training.words import NamedText, NameMap
from studio.world.captions import VIEW_TEMPLATES

TEXT_WIDTH = 192
WIDTHS, TIME_WIDTH = (128, 160), 256
CPU_PART = 16  # samples that a process passes through the networks at once, adding up gradients: cache
EMPTY_SHARE = 0.1  # captions replaced by the empty prompt, for guidance
VIEW_SHARE = 0.25  # of a batch: augmented views such as those that identities are learned from
EMA_DECAY = 0.999
NUM_SHEETS = 6  # drawn on the way


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What fits a device: on a CPU small batches, as progress goes with steps; a GPU waits for its host below 512."""

    steps: int
    batch: int
    muon_lr: float
    adam_lr: float
    text_lr: float


RECIPES = {
    "cpu": Recipe(steps=16_000, batch=32, muon_lr=2e-3, adam_lr=8e-4, text_lr=2e-4),
    "cuda": Recipe(steps=4_400, batch=512, muon_lr=3e-3, adam_lr=1.2e-3, text_lr=3e-4),
}


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


def _optimisers(model: Conditioned, recipe: Recipe, crew: Crew) -> dict[str, torch.optim.Optimizer]:
    """Muon for the UNet's inner matrices and kernels, AdamW for the rest."""
    edge = ("conv_in", "conv_out", "time_embedding", "add_embedding")
    inner = [p for n, p in model.unet.named_parameters() if p.ndim >= 2 and not n.startswith(edge)]
    outer = [p for n, p in model.unet.named_parameters() if p.ndim < 2 or n.startswith(edge)]
    text = list(model.named.parameters())
    groups = [{"params": outer, "lr": recipe.adam_lr}, {"params": text, "lr": recipe.text_lr}]
    adam = torch.optim.AdamW(groups, betas=(0.9, 0.99), weight_decay=1e-3)
    return {"muon": Muon(inner, lr=recipe.muon_lr, crew=crew), "adam": adam}


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
    """Batches of pictures and views with their captions, all of them on the device."""

    def __init__(self, state: Path, share: int, words: Any, device: torch.device) -> None:
        self.share, self.device = share, device
        self.pictures, self.views = latents.load(state, "pictures", device), latents.load(state, "views", device)
        views = [text.format(" ".join(PLACEHOLDER)) for text in VIEW_TEMPLATES]
        texts = (captions(state), views, [""])
        self.ids, self.view_ids, self.empty = (tokenizer.encode(words, part).to(device) for part in texts)

    def _some(self, num: int, count: int, random: torch.Generator) -> torch.Tensor:
        return torch.randint(num, (count,), generator=random, device=self.device)

    def draw(self, random: torch.Generator) -> tuple[latents.Encoded, torch.Tensor]:
        """Latents with persons and masks in random order, and token ids."""
        num_views = int(self.share * VIEW_SHARE)
        pictures = self.pictures[self._some(len(self.pictures), self.share - num_views, random)]
        views = self.views[self._some(len(self.views), num_views, random)]
        ids = torch.cat([self.ids[pictures.items], self.view_ids[self._some(len(self.view_ids), num_views, random)]])
        dropped = torch.rand((self.share, 1), generator=random, device=self.device) < EMPTY_SHARE
        order = torch.randperm(self.share, generator=random, device=self.device)
        return (pictures + views)[order], torch.where(dropped, self.empty, ids)[order]


def _train(state: Path, device: torch.device, minutes: float | None, compiled: bool, *, crew: Crew) -> None:
    latents.encode(state, device, crew=crew)
    torch.manual_seed(4)
    data, first, recipe = Dataset(state), crew.rank == 0, RECIPES[device.type]
    share = recipe.batch // crew.size
    size = min(CPU_PART, share) if device.type == "cpu" else share
    parts = share // size
    words = tokenizer.load(state / "models" / "tokenizer")
    batches, people = Batches(state, size, words, device), torch.from_numpy(data.vectors).to(device)
    random = torch.Generator(device)
    model = Conditioned(state, data.vectors).to(device)
    average = copy.deepcopy(model).requires_grad_(False)
    optimisers = _optimisers(model, recipe, crew)
    objective = Objective(state, device)
    run = Run(state, "unet", steps=recipe.steps, minutes=minutes)
    run.resume(model=model, average=average, **optimisers)
    unet = torch.compile(model.unet) if compiled else model.unet
    sheets = int(run.progress * NUM_SHEETS)
    while (progress := crew.from_first(run.progress)) < 1:
        seen: dict[str, Any] = {}
        for optimiser in optimisers.values():
            cosine_lr(optimiser, run.step, progress, warmup=200)
            optimiser.zero_grad()
        for part in range(parts):
            random.manual_seed(int(np.random.SeedSequence([4, run.step, crew.rank, part]).generate_state(1)[0]))
            batch, tokens = batches.draw(random)
            clean = batch.latents.float() * latents.SCALE
            steps = objective.steps(size, random)
            noise = torch.randn(clean.shape, generator=random, device=device)
            noisy = objective.schedule.add_noise(clean, noise, steps)
            with working_precision(device):
                context = model.named(tokens, people[batch.persons]).last_hidden_state
                guess = unet(noisy, steps, context).sample
            losses = objective(guess, clean, noise, steps, batch)
            (losses["loss"] / parts).backward()
            seen = {name: seen.get(name, 0.0) + value.detach() / parts for name, value in losses.items()}
        crew.average_gradients(model.parameters())
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimiser in optimisers.values():
            optimiser.step()
        _update_average(average, model, run.step)
        run.advance(save=first)
        if first:
            run.track(images=run.step * recipe.batch, **seen)
            if int(run.progress * NUM_SHEETS) > sheets:
                sheets += 1
                draw(average, state, data, words, state / "grids" / f"unet_{run.step:06d}.png")
    if first:
        run.save()
