"""Gaussians of a head on their way: the ellipsoid they begin as, and which of them split, are copied or go.

Densifying follows 3D Gaussian Splatting (Kerbl et al. 2023, Section 5.2). Lengths are head units; shape suffixes as in
factory/draw/splats.py.
"""

from __future__ import annotations

from math import log
from typing import Final

import numpy as np
import torch

from factory.draw.splats import SH_C0, Splats, rotations
from factory.faces.align import FFHQ_512, similarity
from factory.faces.pose import NUM_LANDMARKS, POINTS

_RADII: Final = (0.95, 1.25, 0.75)  # of the ellipsoid that is a head
_SHOULDERS: Final = 0.25  # share of the Gaussians
_SIZE: Final = 0.1  # of a Gaussian among 2000
_SPLIT: Final = 1.6  # by what the halves of a split Gaussian are smaller (the source's)
_LARGE: Final = 0.08  # standard deviation from which on a Gaussian is split rather than copied
_RATES: Final = {  # Adam's, at the start
    "means_N3": 8e-3,
    "log_scales_N3": 2e-2,
    "quats_N4": 2e-2,
    "logits_N": 6e-2,
    "sh_NK3": 5e-2,
    "background_3": 2e-2,
}
_PER_GAUSSIAN: Final = tuple(name for name in _RATES if name != "background_3")


def ellipsoid(
    num: int, sh_degree: int, crop: np.ndarray | None, mask: np.ndarray | None, random: torch.Generator
) -> Splats:
    """A head and shoulders of Gaussians, in the colours of an aligned crop (uint8 [S, S, 3], RGB) where its mask (bool
    [S, S]: face and hair) has somebody; grey elsewhere."""
    way = torch.nn.functional.normalize(torch.randn(num, 3, generator=random), dim=1)
    means = way * torch.tensor(_RADII) * torch.rand(num, 1, generator=random).pow(1 / 6)
    means[:, 1] += 0.05
    below = int(num * _SHOULDERS)
    spread = torch.rand(below, 3, generator=random)
    means[:below] = (spread - torch.tensor([0.5, 0.0, 0.3])) * torch.tensor([3.4, 0.8, 0.6])
    means[:below, 1] += 1.35
    sh_NK3 = torch.zeros(num, (sh_degree + 1) ** 2, 3)
    if crop is not None:
        sh_NK3[:, 0] = (_colours(means, crop, mask) - 0.5) / SH_C0
    return Splats(
        means_N3=means,
        log_scales_N3=torch.full((num, 3), log(_SIZE * (2000 / num) ** 0.5)),
        quats_N4=torch.tensor([1.0, 0, 0, 0]).repeat(num, 1) + 0.01 * torch.randn(num, 4, generator=random),
        logits_N=torch.zeros(num),
        sh_NK3=sh_NK3,
        background_3=torch.full((3,), 0.5),
    )


def _colours(means_N3: torch.Tensor, crop: np.ndarray, mask: np.ndarray | None) -> torch.Tensor:
    """RGB 0..1 of the crop where a point of the shared head lies in it, [N, 3]."""
    side = len(crop)
    on_head = np.array(list(POINTS.values()))[:NUM_LANDMARKS, :2]
    matrix = similarity(on_head, FFHQ_512 * (side / 512))
    places = means_N3[:, :2].double().numpy() @ matrix[:, :2].T + matrix[:, 2]
    column, row = places.round().astype(int).T
    inside = (column >= 0) & (column < side) & (row >= 0) & (row < side)
    column, row = column.clip(0, side - 1), row.clip(0, side - 1)
    if mask is not None:
        inside &= mask[row, column]
    colours = np.where(inside[:, None], crop[row, column] / 255, 0.5)
    return torch.from_numpy(colours.astype(np.float32))


class Growing:
    """Splats with their optimiser: Adam's moments follow Gaussians that split, and go with those that go."""

    def __init__(self, splats: Splats, *, rate: float = 1.0) -> None:
        """`rate` multiplies all learning rates."""
        tensors = splats.detached().tensors()
        self._tensors = {name: tensor.requires_grad_() for name, tensor in tensors.items()}
        groups = [{"params": [tensor], "lr": rate * _RATES[name]} for name, tensor in self._tensors.items()]
        self._adam = torch.optim.Adam(groups, eps=1e-15)
        self._rates = [rate * _RATES[name] for name in self._tensors]
        self._pull_N = torch.zeros(len(splats))  # what the pictures' gradients pulled at each since the last densifying

    @property
    def splats(self) -> Splats:
        """As they stand, with gradients."""
        return Splats(**self._tensors)

    def step(self, centres_VN2: list[torch.Tensor], *, decay: float = 1.0) -> None:
        """One update of the loss whose gradients are there; `centres` of its renders have theirs. `decay` multiplies
        all rates, as a head settles at last."""
        for centres_N2 in centres_VN2:
            if centres_N2.grad is not None:
                self._pull_N += centres_N2.grad.norm(dim=1).cpu()
        for group, rate in zip(self._adam.param_groups, self._rates, strict=True):
            group["lr"] = rate * decay
        self._adam.step()
        self._adam.zero_grad(set_to_none=True)

    @torch.no_grad()
    def densify(self, at_most: int, prune_below: float, random: torch.Generator, *, grow: float = 0.15) -> None:
        """Drops Gaussians that are nearly transparent; of the others those that pictures pull at most, a share `grow`,
        become two: large ones are split, small ones copied."""
        pull_N = self._pull_N.to(self._tensors["means_N3"].device)
        keep = (self.splats.logits_N.sigmoid() >= prune_below).nonzero().squeeze(1)
        num_new = max(0, min(round(grow * len(keep)), at_most - len(keep)))
        chosen = keep[pull_N[keep].argsort(descending=True)[:num_new]]
        old = self.splats
        scales = old.log_scales_N3[chosen].exp()
        large = scales.amax(1) > _LARGE
        noise = torch.randn(len(chosen), 3, generator=random).to(scales)
        move = (rotations(old.quats_N4[chosen]) @ (noise * scales)[..., None]).squeeze(2)
        index = torch.cat([keep, chosen])
        fresh = {name: self._tensors[name][index].clone() for name in _PER_GAUSSIAN}
        fresh["means_N3"][len(keep) :] += torch.where(large[:, None], move, 0.2 * move)
        position = torch.full((len(old),), -1, dtype=torch.long, device=index.device)
        position[keep] = torch.arange(len(keep), device=index.device)
        halved = torch.cat([position[chosen[large]], len(keep) + large.nonzero().squeeze(1)])
        fresh["log_scales_N3"][halved] -= log(_SPLIT)
        moments = {name: self._moments(name, index, len(keep)) for name in _PER_GAUSSIAN}
        self._replace(fresh, moments)
        self._pull_N = torch.zeros(len(index))

    def state(self) -> dict[str, object]:
        """Everything that `restore` needs: tensors, Adam's moments, pulls."""
        return {
            "tensors": {name: tensor.detach() for name, tensor in self._tensors.items()},
            "adam": {name: dict(self._adam.state.get(tensor, {})) for name, tensor in self._tensors.items()},
            "pull": self._pull_N,
        }

    def restore(self, state: dict[str, object]) -> None:
        """Goes on from what `state` gave."""
        tensors, adam, pull = state["tensors"], state["adam"], state["pull"]
        assert isinstance(tensors, dict) and isinstance(adam, dict) and isinstance(pull, torch.Tensor)
        like = self._tensors["means_N3"]
        own = {name: tensor.to(like.device) for name, tensor in tensors.items()}
        self._replace(own, adam)
        self._pull_N = pull

    def _moments(self, name: str, index: torch.Tensor, num_old: int) -> dict[str, torch.Tensor]:
        """Adam's state of a tensor whose rows become these of the old ones; new Gaussians begin without any."""
        state = dict(self._adam.state.get(self._tensors[name], {}))
        for moment in ("exp_avg", "exp_avg_sq"):
            if moment in state:
                state[moment] = state[moment][index].clone()
                state[moment][num_old:] = 0
        return state

    def _replace(self, fresh: dict[str, torch.Tensor], moments: dict[str, dict[str, torch.Tensor]]) -> None:
        for group, name in zip(self._adam.param_groups, list(self._tensors), strict=True):
            if name not in fresh:
                continue
            self._adam.state.pop(self._tensors[name], None)
            self._tensors[name] = fresh[name].detach().clone().requires_grad_()
            group["params"] = [self._tensors[name]]
            if moments[name]:
                self._adam.state[self._tensors[name]] = moments[name]
