"""The engine that draws everything: pictures in the making are rows, which join and leave between any two steps.

A row has its text, noise, sampler, number of steps, guidance and size of its own; rows of one size share a call of the
UNet, each at its own noise level. So nobody waits for a batch to end, and a picture does not depend on its company (up
to rounding). Shape suffixes: `B` rows, `S` samples of a UNet call (two of a guided row), `C H W` a latent, `R` texts of
a row, `L D` a text.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby, islice

import numpy as np
import torch

from factory.base.diffusion import DiffusionBase
from factory.base.lanes import Lanes
from factory.base.text import count_tokens
from factory.config import GenerateConfig
from factory.draw import samplers
from factory.draw.control import PoseNet
from factory.draw.motion import ClipRows, FramesTogether, MotionNet, clip_noise, steadied
from factory.draw.regions import RegionalAttention, region_masks
from factory.draw.rows import Clip, Row, Sample
from factory.draw.samplers import Level, Sampler, Schedule
from factory.draw.texts import Text, TextStates
from factory.prompts import with_person, words_of
from factory.records import TEXT_ENCODER, ClipRequest, ImageRequest

_MAX_SAMPLES = 64  # of one UNet call


class Engine:
    """Rows of one base model. Not safe for concurrent calls: one thread owns it."""

    def __init__(
        self, base: DiffusionBase, *, max_samples: int = _MAX_SAMPLES, motion: FramesTogether | None = None
    ) -> None:
        """`motion` lets the frames of clips see each other; None: the motion layers of the base model's pack."""
        self.base, self.rows = base, list[Row]()
        self._max_samples = max_samples
        self._texts, self._lanes = TextStates(base), Lanes(base.device)
        self._poses = PoseNet(base)
        self._regions = RegionalAttention(base.unet)
        self._motion = MotionNet(base) if motion is None else motion
        self._abar_T = base.abar_T.double().cpu().numpy()
        self._scheduler = dict(base.pipeline.scheduler.config)
        self._plans: dict[tuple[Sampler, int], Schedule] = {}

    def add(self, requests: Sequence[ImageRequest]) -> list[Row]:
        """Pictures enter; their rows take part from the next step on.

        Raises:
            IncompatibleIdentity: an identity was learned for another text encoder than this pack's.
            ValueError: a prompt names its person beyond the tokens that the text encoder reads.
        """
        for who in (who for request in requests for who in (request.identity, *(r.identity for r in request.regions))):
            self.base.pack.check_fit(who)
        texts = [_texts_of(request) for request in requests]
        states = iter(self._texts.encode([text for own in texts for text in own]))
        made = [self._row(one, own, list(islice(states, len(own)))) for one, own in zip(requests, texts, strict=True)]
        self.rows += made
        return made

    def add_clip(self, request: ClipRequest) -> list[Row]:
        """A clip enters: a row for each frame, which see each other and are finished by the same step.

        Raises:
            IncompatibleIdentity: the identity was learned for another text encoder than this pack's.
            PackError: the pack cannot make clips, or not with poses.
            ValueError: a clip of more frames than it can make, or as `add`.
        """
        self._motion.prepare(request.config.num_frames, posed=bool(request.poses))
        rows = self.add(_frames_of(request))
        clip, random = Clip(frames=rows), torch.Generator().manual_seed(request.seed)
        shape = len(rows), *rows[0].x_CHW.shape
        for row, noise_CHW in zip(rows, clip_noise(shape, random, self._motion.shared_noise), strict=True):
            row.x_CHW, row.clip = noise_CHW.to(row.x_CHW), clip
        return rows

    def drop(self, row: Row) -> None:
        """A picture that nobody wants any more leaves, a frame with its clip; nothing happens if it is finished."""
        leaving = [row] if row.clip is None else row.clip.frames
        self.rows = [row for row in self.rows if row not in leaving]

    @torch.inference_mode()
    def step(self) -> list[Row]:
        """One step of every row; those that are finished by it leave, and are given back."""
        for part in self._calls():
            self._advance(part, self._predict(part))
        finished = [row for row in self.rows if row.done]
        for clip in {row.clip for row in finished if row.clip is not None}:
            frames_FCHW = steadied(torch.stack([row.x_CHW for row in clip.frames]), self._motion.steadiness)
            for row, x_CHW in zip(clip.frames, frames_FCHW, strict=True):
                row.x_CHW = x_CHW
        self.rows = [row for row in self.rows if not row.done]
        return finished

    @torch.inference_mode()
    def decode(self, latents: Sequence[torch.Tensor]) -> list[np.ndarray]:
        """Pictures of latents [C, H, W], which may differ in size: uint8 [S, S, 3], RGB."""
        pictures: list[np.ndarray | None] = [None] * len(latents)
        by_size: dict[torch.Size, list[int]] = {}
        for number, latent in enumerate(latents):
            by_size.setdefault(latent.shape, []).append(number)
        for numbers in by_size.values():
            units = [[latents[number]] for number in numbers]
            decoded_BCHW = torch.cat(self._lanes.map(lambda part: self.base.decode_images(torch.stack(part)), units))
            pixels = decoded_BCHW.permute(0, 2, 3, 1).mul(127.5).add(127.5).round().clamp(0, 255).to(torch.uint8)
            for number, picture in zip(numbers, pixels.cpu().numpy(), strict=True):
                pictures[number] = picture
        return [picture for picture in pictures if picture is not None]

    def _row(self, request: ImageRequest, texts: Sequence[Text], states: list[torch.Tensor]) -> Row:
        """`texts` are those of `_texts_of`, the empty one last."""
        base, config = self.base, request.config
        plan = self._plan(config)
        height, width = base.latent_size(config.width_px, config.height_px)
        noise = torch.randn((base.num_channels, height, width), generator=torch.Generator().manual_seed(request.seed))
        masks_RHW = None
        if request.regions:
            masks_RHW = region_masks([region.box for region in request.regions], height, width).to(base.device)
        control = None
        if request.pose is not None:
            size_px = config.height_px or base.pack.resolution, config.width_px or base.pack.resolution
            control = self._poses.control(request.pose, len(plan), size_px)
        return Row(
            texts=states[:-1],
            masks_RHW=masks_RHW,
            empty_LD=states[-1],
            control=control,
            x_CHW=noise.to(base.device, base.exact_dtype),
            sampler=config.sampler,
            plan=plan,
            guidance=config.guidance_scale,
            num_guided=round(config.guidance_until * len(plan)),
            prompt=max((count_tokens(prompt, base.tokenizer) for _, prompt in texts[:-1]), key=lambda c: c.given),
            negative_prompt=count_tokens(texts[-1][1], base.tokenizer),
        )

    def _plan(self, config: GenerateConfig) -> Schedule:
        key = config.sampler, config.num_inference_steps
        if key not in self._plans:
            self._plans[key] = samplers.schedule(config.sampler, self._abar_T, self._scheduler, key[1])
        return self._plans[key]

    def _calls(self) -> list[list[Row]]:
        """The rows by size, in parts that one UNet call takes."""
        by_size: dict[torch.Size, list[Row]] = {}
        for row in self.rows:
            by_size.setdefault(row.x_CHW.shape, []).append(row)
        parts: list[list[Row]] = []
        for rows in by_size.values():
            room = 0
            for _, together in groupby(rows, lambda row: row.clip or row):
                unit = list(together)
                cost = sum(2 if row.guided else 1 for row in unit)
                if cost > room:
                    parts.append([])
                    room = self._max_samples
                parts[-1] += unit
                room -= cost
        return parts

    def _predict(self, rows: Sequence[Row]) -> torch.Tensor:
        """The UNet's output for each row, after guidance. [B, C, H, W]."""
        guided = [number for number, row in enumerate(rows) if row.guided]
        samples = [Sample(row=row, empty=False) for row in rows]
        samples += [Sample(row=rows[number], empty=True) for number in guided]
        units = [list(unit) for _, unit in groupby(samples, lambda sample: sample.together)]
        output_SCHW = torch.cat(self._lanes.map(self._denoise, units))
        output_BCHW = output_SCHW[: len(rows)]
        if guided:
            scale_B = torch.tensor([rows[number].guidance for number in guided], dtype=output_BCHW.dtype)
            scale_B111 = scale_B.to(self.base.device).view(-1, 1, 1, 1)
            output_BCHW[guided] = samplers.guided(output_BCHW[guided], output_SCHW[len(rows) :], scale_B111)
        return output_BCHW

    def _denoise(self, samples: Sequence[Sample]) -> torch.Tensor:
        """The UNet's output for samples of one size, [S, C, H, W]; several lanes may be here at once."""
        x_SCHW = torch.stack([sample.row.x_CHW for sample in samples])
        timesteps = torch.tensor([sample.row.plan.timesteps[sample.row.step] for sample in samples])
        timesteps_S = timesteps.to(self.base.device, torch.float32)
        first_text_SLD = torch.stack([sample.texts[0] for sample in samples])
        residuals = self._poses.residuals(x_SCHW, timesteps_S, first_text_SLD, [sample.control for sample in samples])
        text_SKD, masks_SRHW = _side_by_side([s.texts for s in samples], [s.masks_RHW for s in samples])
        regions = self._regions.of(masks_SRHW, first_text_SLD.shape[1])
        with regions, self._motion.of(_clips(samples), first_text_SLD):
            return self.base.denoise(x_SCHW, timesteps_S, text_SKD, residuals)

    def _advance(self, rows: Sequence[Row], output_BCHW: torch.Tensor) -> None:
        """Each row goes to its next level."""
        x_BCHW = torch.stack([row.x_CHW for row in rows])
        before, now, after = (self._levels(rows, which) for which in ("before", "now", "next"))
        x0_BCHW = samplers.denoised(output_BCHW, x_BCHW, now, self.base.prediction_type)
        guesses = [row.guess_CHW for row in rows]
        was_BCHW = torch.stack([x0 if was is None else was for was, x0 in zip(guesses, x0_BCHW, strict=True)])
        for sampler in {row.sampler for row in rows}:
            own = [number for number, row in enumerate(rows) if row.sampler == sampler]
            x, x0, was = x_BCHW[own], x0_BCHW[own], was_BCHW[own]
            levels = [Level(level.alpha[own], level.sigma[own]) for level in (before, now, after)]
            for number, x_CHW in zip(own, _next(sampler, x, x0, was, *levels), strict=True):
                rows[number].x_CHW = x_CHW
        for row, guess_CHW in zip(rows, x0_BCHW, strict=True):
            row.guess_CHW = guess_CHW
            row.step += 1

    def _levels(self, rows: Sequence[Row], which: str) -> Level:
        parts = [getattr(row.plan, which) for row in rows]
        numbers = np.array([[part[row.step] for part in level] for row, level in zip(rows, parts, strict=True)])
        alpha, sigma = torch.from_numpy(numbers.T.copy()).to(self.base.device, self.base.exact_dtype)
        return Level(alpha.view(-1, 1, 1, 1), sigma.view(-1, 1, 1, 1))


def _texts_of(request: ImageRequest) -> list[Text]:
    """The texts of a row, one or one for each region, and the negative prompt."""
    people = [(region.identity, region.prompt) for region in request.regions] or [(request.identity, request.prompt)]
    own: list[Text] = [(who.words[TEXT_ENCODER], with_person(prompt)) for who, prompt in people]
    return [*own, (None, words_of(request.config.negative_prompt))]


def _frames_of(request: ClipRequest) -> list[ImageRequest]:
    """Its frames as pictures."""
    poses = request.poses or [None] * request.config.num_frames
    who, config = request.identity, request.config.generate
    return [
        ImageRequest(identity=who, prompt=request.prompt, seed=request.seed, config=config, pose=pose) for pose in poses
    ]


def _clips(samples: Sequence[Sample]) -> list[ClipRows]:
    """Where whole clips lie among samples."""
    found, first = [], 0
    for _, unit in groupby(samples, lambda sample: sample.together):
        frames = list(unit)
        if frames[0].row.clip is not None:
            found.append(ClipRows(first, len(frames)))
        first += len(frames)
    return found


def _side_by_side(
    texts: Sequence[Sequence[torch.Tensor]], masks: Sequence[torch.Tensor | None]
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Each sample's texts along the tokens [S, K, D], and which cells read which [S, R, H, W]: None if each has one."""
    most = max(map(len, texts))
    if most == 1:
        return torch.stack([text for (text,) in texts]), None
    (shape,) = {mask.shape[1:] for mask in masks if mask is not None}
    masks_SRHW = torch.zeros(len(texts), most, *shape, dtype=torch.bool, device=texts[0][0].device)
    for sample, (own, mask) in enumerate(zip(texts, masks, strict=True)):
        masks_SRHW[sample, : len(own)] = True if mask is None else mask
    padded = [torch.cat([*own, *[own[0]] * (most - len(own))]) for own in texts]  # what fills up is read by no cell
    return torch.stack(padded), masks_SRHW


def _next(
    sampler: Sampler, x: torch.Tensor, x0: torch.Tensor, was: torch.Tensor, before: Level, now: Level, after: Level
) -> torch.Tensor:
    if sampler == "ddim":
        return samplers.ddim(x, x0, now, after)
    if sampler == "euler":
        return samplers.euler(x, x0, now, after)
    return samplers.dpm_solver_pp_2m(x, x0, was, before, now, after)
