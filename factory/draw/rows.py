"""What an engine holds: pictures in the making, frames of a clip among them, and their samples of a UNet call.

Shape suffixes as in factory/draw/engine.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from factory.draw.control import Control
from factory.draw.samplers import Sampler, Schedule
from factory.records import TokenCount


@dataclass(slots=True, kw_only=True, eq=False)
class Row:
    """A picture in the making."""

    texts: list[torch.Tensor]  # [L, D] each: one, or one for each region
    masks_RHW: torch.Tensor | None  # which cells read which text; None: all of them read the only one
    empty_LD: torch.Tensor  # of the negative prompt
    control: Control | None
    x_CHW: torch.Tensor  # alpha x0 + sigma eps, in the base model's exact dtype
    sampler: Sampler
    plan: Schedule
    guidance: float
    num_guided: int  # steps that are guided: the first ones
    prompt: TokenCount  # the longest, where it has several texts
    negative_prompt: TokenCount
    clip: Clip | None = None  # that it is a frame of
    step: int = 0  # steps done
    guess_CHW: torch.Tensor | None = None  # x0 as the last step saw it

    @property
    def guided(self) -> bool:
        """Whether its next step costs two samples."""
        return self.guidance > 1.0 and self.step < self.num_guided

    @property
    def done(self) -> bool:
        """Whether `x_CHW` is the finished latent."""
        return self.step == len(self.plan)


@dataclass(slots=True, kw_only=True, eq=False)
class Clip:
    """Frames that see each other: they enter, step and leave together."""

    frames: list[Row]


@dataclass(slots=True, kw_only=True, eq=False)
class Sample:
    """A row in a UNet call: with its own texts, or with the empty one."""

    row: Row
    empty: bool

    @property
    def texts(self) -> list[torch.Tensor]:
        """What it reads, [L, D] each."""
        return [self.row.empty_LD] if self.empty else self.row.texts

    @property
    def masks_RHW(self) -> torch.Tensor | None:
        """Which cells read which of its texts; None: all of them read the only one."""
        return None if self.empty else self.row.masks_RHW

    @property
    def control(self) -> Control | None:
        """What guides this step of it."""
        control = self.row.control
        return control if control is not None and control.acts(self.row.step) else None

    @property
    def together(self) -> object:
        """The same for samples that see each other."""
        return self if self.row.clip is None else (id(self.row.clip), self.empty)
