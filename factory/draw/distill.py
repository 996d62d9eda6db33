"""What the frozen base model says of a head's views, as a loss on the renders: two forms of score distillation.

`V` views of a call, `C H W` a latent, `L D` a text; alpha and sigma are the base model's noise schedule: x = alpha x0 +
sigma eps.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch

from factory.base.diffusion import DiffusionBase
from factory.config import SculptConfig
from factory.draw import samplers
from factory.draw.compose import check_views, takes_heads
from factory.draw.control import Control, PoseNet
from factory.draw.samplers import Level
from factory.draw.splats import View
from factory.draw.texts import TextStates
from factory.faces.pose import HeadPose, draw_skeleton
from factory.prompts import with_person
from factory.records import TEXT_ENCODER, Identity, PoseControl

_FRONT, _SIDE = 35.0, 110.0  # degrees: up to which yaw a view is from the front, from the side


class Guide:
    """The base model, asked about one person in one prompt."""

    def __init__(
        self,
        base: DiffusionBase,
        poses: PoseNet,
        texts: TextStates,
        identity: Identity,
        prompt: str,
        config: SculptConfig,
    ) -> None:
        check_views(base.pack, config)
        self.base, self.config, self.side_px = base, config, config.side_px or base.pack.resolution
        self._poses, self._texts = poses, texts
        self._words, self._prompt = identity.words[TEXT_ENCODER], with_person(prompt)
        self.posed = config.control and takes_heads(base.pack)
        [self._empty_LD] = texts.encode([(None, "")])

    def matching_loss(self, renders_V3SS: torch.Tensor, views: Sequence[View], share_t: float) -> torch.Tensor:
        """Interval score matching (arXiv 2311.11284, Eq. 17): its gradient is w(t) (eps(x_t, t, y) - eps(x_s, s)).

        x_s comes from the render's latent by DDIM inversion without text or control, x_t from x_s by one such step
        more; t is the share `share_t` of T. w = sigma / alpha, as in the published code: then the difference is that of
        the two guesses of the finished picture.
        """
        latent_VCHW = self._latents(renders_V3SS)
        with torch.no_grad():
            total, t = len(self.base.abar_T), self._timestep(share_t)
            s = max(0, t - max(1, round(self.config.interval_t * total)))
            stops = [*range(0, s, max(1, round(self.config.inversion_t * total))), s, t]
            x = guess = latent_VCHW.detach()
            for stop, after in pairwise(stops):
                guess = self._guess(x, stop, self._empty_LD.expand(len(x), -1, -1), None)
                x = samplers.ddim(x, guess, self._level(stop), self._level(after))
            level = self._level(t)  # x = alpha guess + sigma eps_s here, by the last step
            noise_s = (x - level.alpha * guess) / level.sigma
            noise_t = (x - level.alpha * self._guided(x, t, views)) / level.sigma
            target_VCHW = latent_VCHW.detach() - level.sigma / level.alpha * (noise_t - noise_s)
        return 0.5 * (latent_VCHW - target_VCHW).square().mean()

    @torch.no_grad()
    def pictures(
        self,
        renders_V3SS: torch.Tensor | None,
        views: Sequence[View],
        share_t: float,
        noise_1CHW: torch.Tensor,
        steps: int,
    ) -> torch.Tensor:
        """Renders with noise up to the share `share_t` of T, and `steps` DDIM steps back: RGB 0..1, [V, 3, S, S].

        Without renders they are pictures from noise alone. All views share their noise, which keeps them alike.
        """
        top = len(self.base.abar_T) - 1 if renders_V3SS is None else self._timestep(share_t)
        levels = np.linspace(top, 0, steps + 1).round().astype(int).tolist()
        x = noise_1CHW.expand(len(views), -1, -1, -1)
        if renders_V3SS is not None:
            level = self._level(top)
            x = level.alpha * self._latents(renders_V3SS) + level.sigma * x
        for t, after in pairwise(levels):
            clean = Level(1.0, 0.0)
            x = samplers.ddim(x, self._guided(x, t, views), self._level(t), self._level(after) if after else clean)
        return (self.base.decode_images(x) / 2 + 0.5).clamp(0, 1)

    def noise(self, num: int, random: torch.Generator) -> torch.Tensor:
        """Standard normal latents [num, C, H, W]."""
        base = self.base
        height, width = base.latent_size(self.side_px, self.side_px)
        made = torch.randn((num, base.num_channels, height, width), generator=random)
        return made.to(base.device, base.exact_dtype)

    def _latents(self, renders_V3SS: torch.Tensor) -> torch.Tensor:
        return self.base.encode_with_gradient(renders_V3SS.clamp(0, 1) * 2 - 1).mean_BCHW

    def _timestep(self, share: float) -> int:
        total = len(self.base.abar_T)
        return min(max(1, round(share * total)), total - 1)

    def _level(self, t: int) -> Level:
        abar = self.base.abar_T[t]
        return Level(abar.sqrt(), (1 - abar).sqrt())

    def _guess(self, x: torch.Tensor, t: int, text: torch.Tensor, controls: Sequence[Control] | None) -> torch.Tensor:
        """The finished latents that the network sees in x."""
        times = torch.full((len(x),), float(t), device=self.base.device)
        residuals = self._poses.residuals(x, times, text, controls) if controls else None
        output = self.base.denoise(x, times, text, residuals)
        return samplers.denoised(output, x, self._level(t), self.base.prediction_type)

    def _guided(self, x: torch.Tensor, t: int, views: Sequence[View]) -> torch.Tensor:
        """The same with the text, the views' skeletons, and guidance."""
        text = torch.stack(self._texts.encode([(self._words, self._said(view)) for view in views]))
        controls = self._controls(views)
        scale = self.config.guidance_scale
        if scale <= 1:
            return self._guess(x, t, text, controls)
        texts = torch.cat([text, self._empty_LD.expand(len(x), -1, -1)])
        twice = None if controls is None else [*controls, *controls]
        with_text, without = self._guess(torch.cat([x, x]), t, texts, twice).chunk(2)
        return samplers.guided(with_text, without, torch.tensor(scale))

    def _controls(self, views: Sequence[View]) -> list[Control] | None:
        """The views as skeletons of their own; None where the base model is asked without."""
        if not self.posed:
            return None
        side = self.side_px
        heads = [HeadPose(yaw=view.yaw, pitch=view.pitch) for view in views]
        drawn = [
            PoseControl(skeleton=draw_skeleton([head], side, side), scale=self.config.control_scale) for head in heads
        ]
        return [self._poses.control(pose, 1, (side, side)) for pose in drawn]

    def _said(self, view: View) -> str:
        """The prompt; where no skeleton shows the view, with words for it (as DreamFusion and LucidDreamer have)."""
        if self.posed:
            return self._prompt
        turned = abs((view.yaw + 180) % 360 - 180)
        where = "front view" if turned <= _FRONT else "side view" if turned <= _SIDE else "back view"
        return f"{self._prompt}, {where}"
