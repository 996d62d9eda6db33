"""AdamW and the gradient clip for stacked weights: every identity's slot by itself, all of them in one call.

torch's fused AdamW takes a step count with each parameter. So each slot's slice of each stacked weight is a parameter
of its own to it, a view into the stack: moments, step count and with it the bias correction are the slot's alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from factory.config import TrainConfig


class SlotAdamW:
    """Updates stacked weights [B, ...] in place. `state` is all it remembers, as tensors whose axis 0 is the slot.

    Whoever takes a slot zeroes its rows: moments are not set before, so that rows that nobody uses take no memory.
    """

    def __init__(self, weights: Sequence[torch.Tensor], train: TrainConfig) -> None:
        self.max_grad_norm = train.max_grad_norm
        self.rows = [[nn.Parameter(row) for row in weight] for weight in weights]
        self.adamw = torch.optim.AdamW(
            [row for rows in self.rows for row in rows],
            lr=train.learning_rate,
            betas=train.betas,
            eps=train.eps,
            weight_decay=train.weight_decay,
            fused=True,
        )
        self.state: list[torch.Tensor] = []
        for weight, rows in zip(weights, self.rows, strict=True):
            first, second = torch.empty_like(weight), torch.empty_like(weight)
            steps_B = torch.zeros(len(rows), device=weight.device)  # torch counts in float32
            self.state += [first, second, steps_B]
            for slot, row in enumerate(rows):
                self.adamw.state[row] = {"step": steps_B[slot], "exp_avg": first[slot], "exp_avg_sq": second[slot]}

    @torch.no_grad()
    def step(self, gradients: Sequence[torch.Tensor]) -> None:
        """One update of the first B slots from gradients [B, ...], which are clipped in place; other slots rest."""
        clip_per_slot(gradients, self.max_grad_norm)
        for rows, gradient in zip(self.rows, gradients, strict=True):
            for row, own in zip(rows, gradient, strict=False):
                row.grad = own
        self.adamw.step()
        self.adamw.zero_grad(set_to_none=True)  # torch leaves a parameter without a gradient as it is


@torch.no_grad()
def clip_per_slot(gradients: Sequence[torch.Tensor], max_norm: float) -> None:
    """Scale each slot's gradients (axis 0) down to a joint norm of at most `max_norm`, in place."""
    norms = [torch.linalg.vector_norm(gradient.flatten(1), dim=1) for gradient in gradients]
    norm_B = torch.linalg.vector_norm(torch.stack(norms), dim=0)
    scale_B = (max_norm / (norm_B + 1e-6)).clamp(max=1.0)  # the same guard against 0 as torch's own clip
    for gradient in gradients:
        gradient.mul_(scale_B.view(-1, *[1] * (gradient.ndim - 1)))
