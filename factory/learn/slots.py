"""B identities being trained together. Each has a slot: a row of every stacked tensor, and a random stream of its own.

Slots are dense: an identity that enters takes the row after the last, and one that leaves has the last row copied into
its own. So the batch is as large as there are identities, weights never move between storages, and an identity's
numbers do not depend on which row it is in or who is in the others (up to rounding).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from factory.base.diffusion import DiffusionBase
from factory.base.lanes import Lanes
from factory.base.text import TokenisedPrompts
from factory.config import Recipe
from factory.learn.augment import crop_layers
from factory.learn.celebs import CelebPrior
from factory.learn.draws import draw_step, identity_generator
from factory.learn.losses import in_noise_phase, two_phase_loss
from factory.learn.optimiser import SlotAdamW
from factory.learn.projector import packed_words
from factory.learn.views import EncodedViews, ViewPool, encode_fresh
from factory.records import PreparedFace

_TAIL = 0.1  # share of the steps, at the end, over which the final loss is averaged


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """An identity at the end of its training."""

    face: PreparedFace
    words_VD: np.ndarray  # float64 or float32, as they were learned
    num_steps: int
    final_loss: float  # mean over the last steps, a tenth of those it might have had
    seconds: float  # its share of the batches it was in


@dataclass(slots=True, kw_only=True)
class _Occupant:
    face: PreparedFace
    generator: torch.Generator
    layers: list[torch.Tensor]  # of crop_layers, on the device, of each of the person's photos
    num_steps: int = 0
    seconds: float = 0.0
    weight: float = 0.0  # of all steps so far in the average of its words
    settled: bool = False  # its words hardly move any more


class Slots:
    """Room for `num_slots` identities that are learned by the same recipe."""

    def __init__(
        self,
        base: DiffusionBase,
        templates: TokenisedPrompts,
        prior: CelebPrior,
        recipe: Recipe,
        *,
        num_slots: int,
        feature_width: int,
    ) -> None:
        self.base, self.templates, self.method, self.train = base, templates, recipe.method, recipe.train
        train = recipe.train
        self.projector = packed_words(num_slots, feature_width, prior, recipe.method)
        self.projector.to(base.device, base.exact_dtype)
        self.weights = {name: parameter.data for name, parameter in self.projector.named_parameters()}  # of all slots
        self.optimiser = SlotAdamW(list(self.weights.values()), train)
        self.pool = ViewPool(base, num_slots, train.num_views) if train.views == "pool" else None
        exact = torch.zeros(num_slots, dtype=base.exact_dtype, device=base.device)
        self.features_B2F = exact.new_zeros(num_slots, 2, feature_width)
        self.recent_BK = exact.new_zeros(num_slots, max(1, round(_TAIL * train.num_steps)))  # losses, the newest last
        self.start_BVD = exact.new_zeros(num_slots, *prior.words_NVD.shape[1:])  # the words before the first step
        self.before_BVD = torch.zeros_like(self.start_BVD)  # the words when they were last looked at
        self.mean_BVD = torch.zeros_like(self.start_BVD)  # of the words after each step, where that is what is kept
        pooled = [] if self.pool is None else self.pool.state
        self.stacked = [*self.weights.values(), *self.optimiser.state, *pooled]
        self.stacked += [self.features_B2F, self.recent_BK, self.start_BVD, self.before_BVD, self.mean_BVD]
        self._lanes = Lanes(base.device, gradients=True)
        self.occupants: list[_Occupant] = []
        self._resize(0)

    def __len__(self) -> int:
        return len(self.occupants)

    def add(self, face: PreparedFace, features_2F: torch.Tensor) -> None:
        """A face enters, with what the MLP reads of it and of its mirror image; nobody enters if memory runs out."""
        started = time.perf_counter()
        try:
            occupant = self._enter(face, features_2F)
        except torch.OutOfMemoryError:
            self._resize(len(self))
            raise
        occupant.seconds = time.perf_counter() - started
        self.occupants.append(occupant)

    def remove(self, slot: int) -> None:
        """An identity leaves; the last one takes its row."""
        last = len(self) - 1
        if slot != last:
            for stack in self.stacked:
                stack[slot].copy_(stack[last])
            self.occupants[slot] = self.occupants[last]
        self.occupants.pop()
        self._resize(last)

    def keep(self, num: int) -> list[PreparedFace]:
        """The first `num` go on; the others leave, and are to start again."""
        leaving = [occupant.face for occupant in self.occupants[num:]]
        del self.occupants[num:]
        self._resize(num)
        return leaving

    def step(self) -> None:
        """One update of every identity. Where memory runs out, nothing has happened: the step can be tried again."""
        started = time.perf_counter()
        streams = [occupant.generator.get_state() for occupant in self.occupants]
        try:
            loss_B = self._learn()
        except torch.OutOfMemoryError:
            for occupant, state in zip(self.occupants, streams, strict=True):
                occupant.generator.set_state(state)
            self.projector.zero_grad(set_to_none=True)
            raise
        parameters = self.projector.parameters()
        self.optimiser.step([parameter.grad for parameter in parameters if parameter.grad is not None])
        self.projector.zero_grad(set_to_none=True)
        recent_BK = self.recent_BK[: len(self)]
        recent_BK.copy_(torch.cat([recent_BK[:, 1:], loss_B.unsqueeze(1)], 1))
        for occupant in self.occupants:
            occupant.num_steps += 1
        self._average()
        self._look_for_settled()
        share = (time.perf_counter() - started) / len(self)
        for occupant in self.occupants:
            occupant.seconds += share

    @torch.no_grad()
    def words(self) -> torch.Tensor:
        """The words of the un-augmented, un-mirrored crop as they are now. [B, V, D]."""
        features_B1F = self.features_B2F[: self.projector.num_slots, :1]
        words: torch.Tensor = self.projector(features_B1F)[:, 0]
        return words

    def steps_done(self) -> int:
        """Of all identities that are in their slots, together."""
        return sum(occupant.num_steps for occupant in self.occupants)

    def finished(self) -> dict[int, Finished]:
        """By slot, those that have made all their steps or have settled."""
        enough = self.train.num_steps
        done = [slot for slot, who in enumerate(self.occupants) if who.settled or who.num_steps >= enough]
        if not done:
            return {}
        kept_BVD = self.words() if self.train.average_power is None else self.mean_BVD
        words_BVD, recent_BK = kept_BVD.cpu().numpy(), self.recent_BK.cpu().numpy()
        return {
            slot: Finished(
                face=who.face,
                words_VD=words_BVD[slot].copy(),
                num_steps=who.num_steps,
                final_loss=float(recent_BK[slot, -who.num_steps :].mean()),  # zeros of steps not made stay out
                seconds=who.seconds,
            )
            for slot, who in ((slot, self.occupants[slot]) for slot in done)
        }

    @torch.no_grad()
    def _enter(self, face: PreparedFace, features_2F: torch.Tensor) -> _Occupant:
        """Fills the row after the last."""
        slot = len(self)
        generator = identity_generator(self.train.seed, face.face_id)
        layers = [crop_layers(one.crop, one.masks).to(self.base.device) for one in (face, *face.more)]
        self._resize(slot + 1)
        for stack in self.stacked:
            stack[slot].zero_()  # they were not, when they were made
        self.projector.start(slot, generator)
        self.features_B2F[slot].copy_(features_2F)
        if self.pool is not None:
            views = encode_fresh(self.base, [layers], [generator], self.train.num_views, self.method)
            self.pool.put(slot, views)
        for words_BVD in (self.start_BVD, self.before_BVD):
            words_BVD[slot].copy_(self.words()[slot])
        return _Occupant(face=face, generator=generator, layers=layers)

    def _resize(self, num: int) -> None:
        """The first `num` rows of the weights take part from now on: views of them, as new leaves of autograd."""
        for name, weight in self.weights.items():
            setattr(self.projector, name, nn.Parameter(weight[:num]))

    def _learn(self) -> torch.Tensor:
        """Eq. 6 of each identity, the mean over its M samples of this step, and its slopes in the weights. [B].

        What comes after the texts is done by lanes, a part of the samples each, with its own way back to its texts.
        """
        base, num, count = self.base, len(self), self.train.samples_per_step
        views = self._fresh_views(count) if self.pool is None else None
        draw = draw_step(
            base,
            [occupant.generator for occupant in self.occupants],
            num_samples=count,
            num_views=self.train.num_views,
            num_templates=len(self.templates.ids_BL),
        )
        if views is None:
            assert self.pool is not None
            views = self.pool.take(draw.view_B.view(num, count))
        which_BMF = views.mirrored_B.view(num, -1, 1).expand(-1, -1, self.features_B2F.shape[-1])
        words_BVD = self.projector(self.features_B2F[:num].gather(1, which_BMF)).flatten(0, 1)
        text_BLD = base.encode_text(self.templates[draw.template_B], words_BVD)
        latents_BCHW = views.images.sample(draw.vae_noise_BCHW)
        abar_B = base.abar_T[draw.timestep_B]
        noisy_BCHW = base.add_noise(latents_BCHW, draw.noise_BCHW, abar_B)
        noise_phase_B = in_noise_phase(draw.timestep_B, len(base.abar_T), self.method)
        weights_BHW = views.weights_BHW

        def slopes_of(rows: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
            """The loss of samples that follow one another, and the slopes of the identities' means in their texts."""
            some = slice(rows[0], rows[-1] + 1)
            own_BLD = text_BLD[some].detach().requires_grad_()
            loss_B = two_phase_loss(
                output_BCHW=base.denoise(noisy_BCHW[some], draw.timestep_B[some], own_BLD),
                noisy_BCHW=noisy_BCHW[some],
                latents_BCHW=latents_BCHW[some],
                noise_BCHW=draw.noise_BCHW[some],
                abar_B=abar_B[some],
                noise_phase_B=noise_phase_B[some],
                weights_BHW=weights_BHW[some],
                prediction_type=base.prediction_type,
                rec_divisor=base.vae_scaling if self.method.rec_scale == "vae" else 1.0,
            )
            # a sum over identities, because a mean would scale each one's slopes by the neighbours' number
            (slope_BLD,) = torch.autograd.grad(loss_B.sum() / count, own_BLD)
            return loss_B.detach(), slope_BLD

        parts = self._lanes.map(slopes_of, [range(first, first + count) for first in range(0, num * count, count)])
        text_BLD.backward(torch.cat([slope_BLD for _, slope_BLD in parts]))
        return torch.cat([loss_B for loss_B, _ in parts]).view(num, -1).mean(1)

    def _fresh_views(self, num: int) -> EncodedViews:
        layers = [occupant.layers for occupant in self.occupants]
        return encode_fresh(self.base, layers, [occupant.generator for occupant in self.occupants], num, self.method)

    @torch.no_grad()
    def _average(self) -> None:
        """Takes the words into their mean. It forgets the noise of single steps, which a constant rate never does
        (Polyak and Juditsky 1992); weights that grow forget the way there as well."""
        if self.train.average_power is None:
            return
        shares = []
        for occupant in self.occupants:
            own = float(occupant.num_steps) ** self.train.average_power
            occupant.weight += own
            shares.append(own / occupant.weight)
        share_B = torch.tensor(shares, dtype=self.mean_BVD.dtype, device=self.mean_BVD.device)
        self.mean_BVD[: len(self)].lerp_(self.words(), share_B[:, None, None])

    @torch.no_grad()
    def _look_for_settled(self) -> None:
        """Early stopping: in the last `stop_every` steps an identity's words moved by less than the share
        `stop_below` of the way that they have come since its first step."""
        due = [slot for slot, who in enumerate(self.occupants) if who.num_steps % self.train.stop_every == 0]
        if self.train.stop_below is None or not due:
            return
        words_BVD = self.words()[due]
        moved_B = (words_BVD - self.before_BVD[due]).flatten(1).norm(dim=1)
        way_B = (words_BVD - self.start_BVD[due]).flatten(1).norm(dim=1)
        for slot, settled in zip(due, (moved_B < self.train.stop_below * way_B).tolist(), strict=True):
            self.occupants[slot].settled = settled
        self.before_BVD[due] = words_BVD
