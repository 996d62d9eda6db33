"""Muon: momentum whose update is made orthogonal (K. Jordan et al. 2024), for matrices and convolution kernels."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from studio.training.crew import Crew

_A, _B, _C = 3.4445, -4.7750, 2.0315  # quintic Newton-Schulz, singular values to about [0.7, 1.2]


def orthogonal(matrix: torch.Tensor, *, iterations: int = 5) -> torch.Tensor:
    """Nearest semi-orthogonal matrices of [..., m, n], roughly, by Newton-Schulz iterations in float32.

    The iterations run on the Gram matrix alone: for a 160 x 1440 kernel 2.5 times fewer products than on the matrix.
    """
    x = matrix.float()
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    one = torch.eye(x.shape[-2], device=x.device)
    gram, factor = x @ x.mT, one
    for _ in range(iterations):
        step = _A * one + _B * gram + _C * gram @ gram
        gram, factor = step @ gram @ step, step @ factor
    x = factor @ x
    return (x.mT if tall else x).to(matrix.dtype)


def orthogonal_bf16(matrix: torch.Tensor, *, iterations: int = 5) -> torch.Tensor:
    """As `orthogonal`, on the matrix itself in bfloat16: half the time where a CPU multiplies that natively.

    Iterations on the Gram matrix diverge in this precision.
    """
    x = matrix.bfloat16()
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(iterations):
        gram = x @ x.mT
        x = _A * x + (_B * gram + _C * gram @ gram) @ x
    return (x.mT if tall else x).to(matrix.dtype)


class Muon(torch.optim.Optimizer):
    """For parameters of two or more dimensions (kernels count as [out, in * h * w]).

    Updates are scaled to the size AdamW's would have (arXiv 2502.16982), so that learning rates carry over. The members
    of a `crew` share the work: each makes some of the updates orthogonal, then all get all of them.
    """

    def __init__(
        self,
        params: Iterable[torch.Tensor],
        *,
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 1e-3,
        crew: Crew | None = None,
        bf16: bool = False,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self.crew = crew
        self.orthogonal = orthogonal_bf16 if bf16 else orthogonal

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update; `closure` is not supported."""
        assert closure is None
        for group in self.param_groups:
            params = [param for param in group["params"] if param.grad is not None]
            updates = [torch.zeros_like(param).flatten(1) for param in params]
            alike: dict[torch.Size, list[int]] = {}  # small ones cost their calls: one product for all of a shape
            for number, param in enumerate(params):
                memory = self.state[param].setdefault("momentum", torch.zeros_like(param))
                memory.lerp_(param.grad, 1 - group["momentum"])
                alike.setdefault(updates[number].shape, []).append(number)
            for numbers in alike.values():
                mine = numbers if self.crew is None else numbers[self.crew.rank :: self.crew.size]
                if mine:
                    pairs = [(params[k].grad, self.state[params[k]]["momentum"]) for k in mine]
                    nesterov = [gradient.lerp(memory, group["momentum"]).flatten(1) for gradient, memory in pairs]
                    for number, update in zip(mine, self.orthogonal(torch.stack(nesterov)), strict=True):
                        updates[number] = update
            if self.crew is not None:
                self.crew.sum(updates)
            for param, update in zip(params, updates, strict=True):
                param.mul_(1 - group["lr"] * group["weight_decay"])
                param.add_(update.view_as(param), alpha=-0.2 * max(update.shape) ** 0.5 * group["lr"])
