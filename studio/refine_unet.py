"""Trains the UNet on with the likeness of what it samples, by the sampler that the factory uses.

The usual loss shows the UNet noised real pictures; while it samples, it meets its own earlier errors instead. Here a
real picture is noised, or replaced by noise alone, and sampled from there; the gradient of how differently
`LatentFaces` sees the outcome and the real picture goes back through the last steps (DRaFT-K, arXiv 2309.17400). The
usual loss is kept beside it, so that pictures stay as varied and as obedient as they were.
"""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import torch
from diffusers import DPMSolverMultistepScheduler
from torch import nn

from studio import crew, latents, tokenizer
from studio.crew import Crew
from studio.dataset import Dataset
from studio.latents import Encoded
from studio.loop import Run, cosine_lr, working_precision
from studio.objective import Objective, noise_schedule
from studio.train_latent_faces import distance
from studio.train_unet import Batches, Conditioned, losses_of, optimisers_of, update_average

GUIDANCE, NUM_STEPS = 2.0, 10  # as in packs/studio/pack.toml
SAMPLED_STEPS = (2, 3, 4, 6, 10)  # how many of them are sampled, in turn; all ten begin from noise alone
SAME_PICTURE = 3  # steps after which a sample still shows the real picture's layout
GRADIENT_STEPS = 2  # through which the gradient goes
STEPS, PART = 900, 16  # samples a process, and as many for the usual loss
LIKENESS_WEIGHT = 3.0
RATE = 0.5  # of the rates of `unet`
NOISE_STD = 0.15  # of the latents shown to `LatentFaces`, at most, so that no pattern made for it alone gets through
EMA_DECAY = 0.99


def sampled(
    unet: nn.Module, real: torch.Tensor, context: torch.Tensor, empty: torch.Tensor, noise: torch.Tensor, num: int
) -> torch.Tensor:
    """Scaled latents [B, C, 16, 16]: `real`, noised, after the last `num` of NUM_STEPS sampling steps."""
    schedule = noise_schedule()
    solver = DPMSolverMultistepScheduler.from_config(schedule.config)
    solver.set_timesteps(NUM_STEPS)
    solver.set_begin_index(NUM_STEPS - num)
    steps = solver.timesteps[-num:]
    drawn = schedule.add_noise(real, noise, steps[:1].expand(len(real)))
    states = torch.cat([empty.expand_as(context), context])
    for left, step in zip(range(num, 0, -1), steps, strict=True):
        with torch.set_grad_enabled(left <= GRADIENT_STEPS and torch.is_grad_enabled()):
            both = unet(torch.cat([drawn, drawn]), step.to(drawn.device), states).sample.float()
            without, with_text = both.chunk(2)
            drawn = solver.step(without + GUIDANCE * (with_text - without), step, drawn).prev_sample
    return drawn


def unlikeness(
    model: Conditioned,
    objective: Objective,
    batch: Encoded,
    texts: tuple[torch.Tensor, torch.Tensor],
    vectors: np.ndarray,
    rng: np.random.Generator,
    num: int,
) -> torch.Tensor:
    """Mean distance between pictures and what is sampled instead; `texts` are token ids of captions and of ""."""
    device = objective.device
    real = torch.from_numpy(batch.latents).to(device).float() * latents.SCALE
    noise, blur = (torch.from_numpy(rng.standard_normal(real.shape, dtype=np.float32)).to(device) for _ in range(2))
    levels = torch.from_numpy(rng.uniform(0, NOISE_STD, (len(real), 1, 1, 1)).astype(np.float32)).to(device)
    captions, empty = (ids.to(device) for ids in texts)
    people = torch.from_numpy(vectors[batch.persons]).to(device)
    with working_precision(device):
        context = model.named(captions, people).last_hidden_state
        nothing = model.named(empty, torch.zeros_like(people[:1])).last_hidden_state
        drawn = sampled(model.unet, real, context, nothing, noise, num)
        return distance(objective.faces, drawn + levels * blur, real, cells=num <= SAME_PICTURE).mean()


def train(state: Path, *, device: torch.device, minutes: float | None = None) -> None:
    """Train from `<state>/checkpoints/unet.pt` to `refine.pt` beside it, which `build` prefers.

    On a CPU, as many processes as torch has threads share the batch.
    """
    size = torch.get_num_threads() if device.type == "cpu" else 1
    crew.start(_train, state, device, minutes, size=size)
    (state / "models" / "refine.done").touch()


def _train(state: Path, device: torch.device, minutes: float | None, *, crew: Crew) -> None:
    torch.manual_seed(4)
    data, first = Dataset(state), crew.rank == 0
    batches = Batches(state, PART, tokenizer.load(state / "models" / "tokenizer"))
    model = Conditioned(state, data.vectors).to(device)
    before = torch.load(state / "checkpoints" / "unet.pt", map_location="cpu", weights_only=True)
    model.load_state_dict(before["average"])
    average = copy.deepcopy(model).requires_grad_(False)
    optimisers = optimisers_of(model, crew, RATE)
    objective = Objective(state, device)
    run = Run(state, "refine", steps=STEPS, minutes=minutes)
    run.resume(model=model, average=average, **optimisers)
    while (progress := crew.from_first(run.progress)) < 1:
        for optimiser in optimisers.values():
            cosine_lr(optimiser, run.step, progress, warmup=30)
            optimiser.zero_grad()
        rng = np.random.default_rng([11, run.step, crew.rank])
        losses = losses_of(model, model.unet, objective, batches.draw(rng), data.vectors, rng)
        losses["loss"].backward()
        num = SAMPLED_STEPS[(run.step * crew.size + crew.rank) % len(SAMPLED_STEPS)]
        shown = batches.pictures[np.sort(rng.choice(len(batches.pictures.items), PART, replace=False))]
        texts = (batches.ids[shown.items], batches.empty)
        unlike = unlikeness(model, objective, shown, texts, data.vectors, rng, num)
        (LIKENESS_WEIGHT * unlike).backward()
        crew.average_gradients(model.parameters())
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimiser in optimisers.values():
            optimiser.step()
        update_average(average, model, run.step, EMA_DECAY)
        run.advance(save=first)
        if first:
            run.track(sampled=unlike.item(), **{name: value.item() for name, value in losses.items()})
    if first:
        run.save()
