"""Heads of 3D Gaussians from an identity's words: render, ask the frozen base model, move the Gaussians; again.

What the base model says is LucidDreamer's interval score matching (arXiv 2311.11284), or few-step denoisings of the
renders as targets (factory/draw/distill.py). The pack's pose ControlNet shows it the view, which is what keeps front
and side apart. Everything random comes from the config's seed and the identity, so that a head is the same however
often its making was interrupted.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

import numpy as np
import torch

from factory.base.diffusion import DiffusionBase
from factory.config import SculptConfig
from factory.draw.control import PoseNet
from factory.draw.distill import Guide
from factory.draw.gaussians import Growing, ellipsoid
from factory.draw.splats import Splats, View, head_camera, rasterise
from factory.draw.texts import TextStates
from factory.ids import short_hash
from factory.pack import Pack
from factory.records import SculptRequest

OnStep: TypeAlias = Callable[[int, int], None]  # iterations done, iterations in all
OnCheckpoint: TypeAlias = Callable[[bytes, int], None]  # what `sculpt` goes on from, iterations done
_GROWS: Final = (0.1, 0.75)  # shares of the iterations between which Gaussians are densified
_FIRST: Final = 1 / 3  # reconstruction: share of the iterations whose targets are pictures from noise
_FIRST_STEPS: Final = 10  # of those
_RANDOM_VIEWS: Final = 3  # reconstruction: of each set of targets, beside the fixed ones
_TOO_LARGE: Final = 1e-3  # weight of the Gaussians' mean square size, head units^2
_TUNED_FOR: Final = 240  # iterations that learning rates are meant for
_SLOWER: Final = 0.4  # ISM's share of them: each of its slopes is of another noise level and view


class Sculptor:
    """Makes heads. Not safe for concurrent calls: one instance per worker."""

    def __init__(self, pack: Pack, *, device: str = "cpu") -> None:
        """Load the pack's base model. Raises PackError where it is missing or does not fit."""
        self.base = DiffusionBase.load(pack, device=device)
        self._poses, self._texts = PoseNet(self.base), TextStates(self.base)

    def sculpt(
        self,
        request: SculptRequest,
        *,
        on_step: OnStep | None = None,
        on_checkpoint: OnCheckpoint | None = None,
        checkpoint_every_s: float = 30.0,
        checkpoint: bytes | None = None,
    ) -> Splats:
        """A head; from `checkpoint` on, if one is given, with the same result. `on_checkpoint` is called between
        iterations, at most once in so many seconds.

        Raises:
            IncompatibleIdentity: the identity was learned for another text encoder than this pack's.
            PromptTooLong: the text encoder would not read the <person> of the prompt.
            ValueError: views beyond what the pack's pose control draws, or a size that the base model does not.
        """
        self.base.pack.check_fit(request.identity)
        guide = Guide(self.base, self._poses, self._texts, request.identity, request.prompt, request.config)
        work = _Work(guide, request)
        if checkpoint is not None:
            work.restore(checkpoint)
        last = time.monotonic()
        while work.done < request.config.num_iterations:
            work.iterate()
            if on_step is not None:
                on_step(work.done, request.config.num_iterations)
            due = time.monotonic() - last >= checkpoint_every_s
            if on_checkpoint is not None and due and work.done < request.config.num_iterations:
                on_checkpoint(work.checkpoint(), work.done)
                last = time.monotonic()
        return work.growing.splats.detached()


class _Work:
    """One head in the making."""

    def __init__(self, guide: Guide, request: SculptRequest) -> None:
        self.guide, self.config, self.done = guide, request.config, 0
        lines = [str(self.config.seed), request.identity.identity_id]
        self.random = torch.Generator().manual_seed(int(short_hash(lines), 16) % 2**63)
        config, device = self.config, guide.base.device
        start = ellipsoid(config.num_gaussians, config.sh_degree, request.crop, request.mask, self.random)
        start = Splats(**{name: tensor.to(device) for name, tensor in start.tensors().items()})
        rate = min(1.0, _TUNED_FOR / config.num_iterations) ** 0.5
        self.growing = Growing(start, rate=rate * (_SLOWER if config.objective == "ism" else 1.0))
        self.noise_1CHW = guide.noise(1, self.random)
        self.targets_V3SS: torch.Tensor | None = None
        self.views: list[View] = []

    def iterate(self) -> None:
        """One update, and what comes with it now and then."""
        config, share = self.config, self.done / self.config.num_iterations
        if config.objective == "ism":
            loss, centres = self._matching(share)
        else:
            loss, centres = self._reconstruction(share)
        sizes_N3 = self.growing.splats.log_scales_N3.exp()
        (loss + _TOO_LARGE * sizes_N3.square().mean()).backward()
        self.growing.step(centres, decay=0.2**share)
        self.done += 1
        first, last = (round(part * config.num_iterations) for part in _GROWS)
        if self.done % config.densify_every == 0 and first <= self.done <= last:
            self.growing.densify(config.max_gaussians, config.prune_below, self.random)

    def checkpoint(self) -> bytes:
        """What `restore` goes on from, as torch.save writes it."""
        state = {
            "done": self.done,
            "random": self.random.get_state(),
            "growing": self.growing.state(),
            "targets": self.targets_V3SS,
            "views": [(view.yaw, view.pitch) for view in self.views],
        }
        buffer = io.BytesIO()
        torch.save(state, buffer)
        return buffer.getvalue()

    def restore(self, checkpoint: bytes) -> None:
        """Goes on where `checkpoint` was made."""
        state: dict[str, Any] = torch.load(io.BytesIO(checkpoint), weights_only=True)
        self.done, self.targets_V3SS = state["done"], state["targets"]
        self.random.set_state(state["random"])
        self.growing.restore(state["growing"])
        self.views = [View(yaw=yaw, pitch=pitch) for yaw, pitch in state["views"]]

    def _matching(self, share: float) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Interval score matching at views and a noise level drawn at random; levels go down as work goes on."""
        config = self.config
        views = [self._view() for _ in range(config.views_per_iteration)]
        low, high = (first + share * (last - first) for first, last in zip(config.first_t, config.last_t, strict=True))
        share_t = low + (high - low) * float(torch.rand(1, generator=self.random))
        renders, centres = self._render(views)
        return self.guide.matching_loss(renders, views, share_t), centres

    def _reconstruction(self, share: float) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Renders against targets that many iterations share: at first pictures from noise, then the head's own
        renders, noised and denoised, with less and less noise."""
        config, guide = self.config, self.guide
        if self.targets_V3SS is None:
            self.views = _fixed_views(config)
            self.targets_V3SS = guide.pictures(None, self.views, 1.0, self.noise_1CHW, _FIRST_STEPS)
        elif share >= _FIRST and self.done % config.refresh_every == 0:
            self.views = [*(self._view() for _ in range(_RANDOM_VIEWS)), *_fixed_views(config)[:5]]
            with torch.no_grad():
                renders, _ = self._render(self.views)
            gone = (share - _FIRST) / (1 - _FIRST)
            share_t = config.first_t[0] + gone * (config.last_t[0] - config.first_t[0])
            self.targets_V3SS = guide.pictures(renders, self.views, share_t, self.noise_1CHW, config.denoising_steps)
        drawn = torch.randperm(len(self.views), generator=self.random)[: config.views_per_iteration].tolist()
        renders, centres = self._render([self.views[number] for number in drawn])
        off = renders - self.targets_V3SS[drawn]
        return off.abs().mean() + off.square().mean(), centres

    def _view(self) -> View:
        """One of those that the head is seen from, all equally likely."""
        yaw, pitch = (2 * torch.rand(2, generator=self.random) - 1).tolist()
        return View(yaw=yaw * self.config.yaw_limit, pitch=pitch * self.config.pitch_limit)

    def _render(self, views: Sequence[View]) -> tuple[torch.Tensor, list[torch.Tensor]]:
        splats = self.growing.splats
        cameras = [head_camera(view, self.guide.side_px, like=splats.means_N3) for view in views]
        rendered = [rasterise(splats, camera) for camera in cameras]
        centres = [one.centres_N2 for one in rendered]
        for one in centres:
            if one.requires_grad:
                one.retain_grad()
        return torch.stack([one.picture_3HW for one in rendered]), centres


def _fixed_views(config: SculptConfig) -> list[View]:
    yaws = [config.yaw_limit * share for share in (-0.94, -0.47, 0, 0.47, 0.94)]
    nods = [config.pitch_limit * share for share in (-0.8, 0.8)]
    return [*(View(yaw=yaw) for yaw in yaws), *(View(pitch=pitch) for pitch in nods)]


@torch.no_grad()
def show(splats: Splats, views: Sequence[View], side_px: int) -> np.ndarray:
    """A head from these views, uint8 [V, S, S, 3], RGB."""
    cameras = (head_camera(view, side_px, like=splats.means_N3) for view in views)
    pictures = torch.stack([rasterise(splats, camera).picture_3HW for camera in cameras])
    pixels = pictures.permute(0, 2, 3, 1).mul(255).round().clamp(0, 255).to(torch.uint8)
    return np.asarray(pixels.cpu().numpy())


def turntable(num_frames: int, yaw_limit: float) -> list[View]:
    """Views of a head that turns to one side, to the other and back; all around where it was made all around."""
    turn = np.arange(num_frames) / num_frames
    yaws = 360 * turn if yaw_limit >= 180 else yaw_limit * np.sin(2 * np.pi * turn)
    return [View(yaw=float(yaw)) for yaw in yaws]
