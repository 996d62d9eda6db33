"""Poses: a pack's ControlNet beside the UNet, for those rows that have a skeleton."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import ControlNetModel

from factory.base.diffusion import DiffusionBase, Residuals
from factory.errors import PackError
from factory.records import PoseControl


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """What guides a row."""

    image_3HW: torch.Tensor  # the skeleton, 0..1
    scale: float
    first: int  # step it begins with
    last: int  # step it ends before

    def acts(self, step: int) -> bool:
        """Whether it guides this step."""
        return self.first <= step < self.last


class PoseNet:
    """The pose ControlNet of a base model's pack. It is loaded with the first posed row."""

    def __init__(self, base: DiffusionBase) -> None:
        self._base = base
        self._network: ControlNetModel | None = None

    def control(self, pose: PoseControl, num_steps: int, size_px: tuple[int, int]) -> Control:
        """A pose for a row of so many steps and a picture of this height and width in px.

        Raises:
            PackError: the pack has no pose ControlNet.
            ValueError: the skeleton is of another size than the picture.
        """
        if self._network is None:
            self._network = self._load()
        if pose.skeleton.shape != (*size_px, 3):
            height, width = pose.skeleton.shape[:2]
            raise ValueError(f"the skeleton has {width}x{height} px, the picture {size_px[1]}x{size_px[0]}")
        pixels = torch.from_numpy(np.ascontiguousarray(pose.skeleton)).permute(2, 0, 1)
        image = pixels.to(self._base.device, self._base.dtype) / 255
        first, last = (round(share * num_steps) for share in (pose.start, pose.end))
        return Control(image_3HW=image, scale=pose.scale, first=first, last=last)

    def residuals(
        self,
        x_SCHW: torch.Tensor,
        timesteps_S: torch.Tensor,
        text_SLD: torch.Tensor,
        controls: Sequence[Control | None],
    ) -> Residuals | None:
        """What the UNet adds to its own, of every sample: zeros where there is no control. None if there is none."""
        rows = [row for row, control in enumerate(controls) if control is not None]
        acting = [control for control in controls if control is not None]
        if not acting:
            return None
        assert self._network is not None, "a control comes from `control`"
        dtype = self._base.dtype
        down, mid = self._network(
            x_SCHW[rows].to(dtype),
            timesteps_S[rows],
            text_SLD[rows].to(dtype),
            controlnet_cond=torch.stack([control.image_3HW for control in acting]),
            return_dict=False,
        )
        scale_S111 = torch.tensor([control.scale for control in acting], dtype=dtype, device=self._base.device)
        scaled = [part * scale_S111.view(-1, 1, 1, 1) for part in (*down, mid)]
        if len(rows) < len(controls):
            scaled = [_spread(part, rows, len(controls)) for part in scaled]
        return Residuals(down=tuple(scaled[:-1]), mid=scaled[-1])

    def _load(self) -> ControlNetModel:
        pack = self._base.pack
        part = pack.control.get("pose")
        if part is None:
            raise PackError(f"pack {pack.name!r} has no pose ControlNet; [control.pose] in its pack.toml may name one")
        network = ControlNetModel.from_pretrained(
            pack.folder(part), local_files_only=True, use_safetensors=True, dtype=self._base.dtype
        )
        return network.to(self._base.device).eval().requires_grad_(False)


def _spread(part: torch.Tensor, rows: Sequence[int], num: int) -> torch.Tensor:
    """`part` in these rows of `num`, zeros in the others."""
    whole = part.new_zeros(num, *part.shape[1:])
    whole[list(rows)] = part
    return whole
