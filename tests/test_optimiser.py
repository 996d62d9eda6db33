"""AdamW and the clip by slot, against torch's own on each identity by itself."""

import pytest
import torch
from torch import nn

from factory.config import TrainConfig
from factory.learn.optimiser import SlotAdamW, clip_per_slot

TRAIN = TrainConfig(learning_rate=1e-2, max_grad_norm=0.5)
SHAPES = ((4, 3), (4,))


def test_clip_is_each_identitys_own() -> None:
    large = torch.tensor([[3.0, 0.0, 0.0], [0.1, 0.0, 0.0]])
    small = torch.zeros(2, 2, 2)
    small[0, 0, 0] = 4.0
    clip_per_slot([large, small], 1.0)
    torch.testing.assert_close(large, torch.tensor([[0.6, 0.0, 0.0], [0.1, 0.0, 0.0]]))
    assert float(small[0, 0, 0]) == pytest.approx(0.8)


def cleared(stacked: SlotAdamW) -> SlotAdamW:
    for tensor in stacked.state:
        tensor.zero_()
    return stacked


def test_every_slot_counts_its_own_steps() -> None:
    """The second identity enters two steps later; a third has room and is not there."""
    noise = torch.Generator().manual_seed(0)
    start = [torch.randn(3, *shape, generator=noise, dtype=torch.float64) for shape in SHAPES]
    weights = [stack.clone() for stack in start]
    stacked = cleared(SlotAdamW(weights, TRAIN))
    alone = [[nn.Parameter(stack[slot].clone()) for stack in start] for slot in range(2)]
    each = [
        torch.optim.AdamW(own, lr=TRAIN.learning_rate, betas=TRAIN.betas, eps=TRAIN.eps, weight_decay=0.01)
        for own in alone
    ]
    for step in range(5):
        num = 1 if step < 2 else 2
        gradients = [torch.randn(num, *shape, generator=noise, dtype=torch.float64) for shape in SHAPES]
        for slot in range(num):
            for parameter, gradient in zip(alone[slot], gradients, strict=True):
                parameter.grad = gradient[slot].clone()
            nn.utils.clip_grad_norm_(alone[slot], TRAIN.max_grad_norm)
            each[slot].step()
        stacked.step(gradients)
    for weight, first, *own in zip(weights, start, *alone, strict=True):
        for slot in range(2):
            torch.testing.assert_close(weight[slot], own[slot].detach(), rtol=0, atol=1e-14)
            assert (weight[slot] - first[slot]).abs().max() > 1e-3
        assert torch.equal(weight[2], first[2])


def test_a_copied_row_of_state_goes_on_as_the_original() -> None:
    weights = [torch.ones(2, *shape) for shape in SHAPES]
    stacked = cleared(SlotAdamW(weights, TRAIN))
    for size in (1.0, -3.0):
        stacked.step([torch.full((1, *shape), size) for shape in SHAPES])
    for tensor in [*weights, *stacked.state]:
        tensor[1].copy_(tensor[0])
    stacked.step([torch.full((2, *shape), 0.5) for shape in SHAPES])
    for weight in weights:
        assert torch.equal(weight[0], weight[1])
        assert not (weight == 1).any()
