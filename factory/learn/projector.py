"""From face features to two words: the MLP and the AdaIN onto the celeb prior (Eq. 4).

The weights of B identities are stacked, so that B separate MLPs run as one batched product; nothing is shared
between slots. Shape suffixes of the project: `B` identities in the pack, `M` samples of each, `V` words per identity
(2), `D` text width, `F` feature width, `C` latent channels, `H W` latent rows and columns, `L` prompt tokens,
`N` celebrity names.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from factory.base.text import NUM_WORDS
from factory.config import MethodConfig
from factory.learn.baselines import BasisWords, FreeWords
from factory.learn.celebs import CelebPrior

_LR_MUL = 0.1  # of EqualLinear: y = x (0.1 W)^T + 0.1 b
_INIT_STD = 0.02
_SLOPE = 0.2  # of the LeakyReLU
_EPS = 1e-5  # of the layer norms


def equal_linear(x_BMI: torch.Tensor, weight_BOI: torch.Tensor, bias_BO: torch.Tensor) -> torch.Tensor:
    """EqualLinear of each slot: y = x (0.1 W)^T + 0.1 b. Shape [B, M, O]."""
    return torch.baddbmm(_LR_MUL * bias_BO.unsqueeze(1), x_BMI, _LR_MUL * weight_BOI.transpose(1, 2))


def normalise_per_word(words: torch.Tensor) -> torch.Tensor:
    """(v' - mean(v')) / std(v') of Eq. 4, each word by its own scalar mean and deviation. Shape [..., V, D]."""
    mean = words.mean(-1, keepdim=True)
    return (words - mean) / words.std(-1, keepdim=True, unbiased=False)


def normalise_joint(words: torch.Tensor, gain: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """The release's normalisation: one affine LayerNorm over both words together. Shape [..., V, D]."""
    flat = functional.layer_norm(words.flatten(-2), (gain.shape[-1],), eps=_EPS)
    return (flat * gain + bias).unflatten(-1, words.shape[-2:])


def adain(normalised: torch.Tensor, mean_VD: torch.Tensor, std_VD: torch.Tensor) -> torch.Tensor:
    """Eq. 4: v* = std(C) * normalised v' + mean(C). Shape [..., V, D]."""
    return std_VD * normalised + mean_VD


class PackedProjector(nn.Module):
    """B identities' MLPs: EqualLinear(F -> 2D), LeakyReLU, LayerNorm, EqualLinear(2D -> 2D), then AdaIN.

    Every parameter's first axis is the identity's slot. `start` gives a slot its initial weights.
    """

    mean_VD: torch.Tensor
    std_VD: torch.Tensor

    def __init__(
        self, num_slots: int, feature_width: int, mean_VD: torch.Tensor, std_VD: torch.Tensor, method: MethodConfig
    ) -> None:
        super().__init__()
        width = mean_VD.numel()
        self.method = method
        # `start` fills a row: on a CPU, rows that nobody uses take no memory
        self.weight_in = nn.Parameter(torch.empty(num_slots, width, feature_width))
        self.weight_out = nn.Parameter(torch.empty(num_slots, width, width))
        self.bias_in = nn.Parameter(torch.empty(num_slots, width))
        self.bias_out = nn.Parameter(torch.empty(num_slots, width))
        self.norm_gain = nn.Parameter(torch.empty(num_slots, width))
        self.norm_bias = nn.Parameter(torch.empty(num_slots, width))
        if method.adain and method.normalise == "joint_affine":
            self.joint_gain = nn.Parameter(torch.empty(num_slots, width))
            self.joint_bias = nn.Parameter(torch.empty(num_slots, width))
        self.register_buffer("mean_VD", mean_VD.clone())
        self.register_buffer("std_VD", std_VD.clone())

    @property
    def num_slots(self) -> int:
        """B."""
        return len(self.weight_in)

    @torch.no_grad()
    def start(self, slot: int, generator: torch.Generator) -> None:
        """The initial weights of an identity, in place, from its own generator (on the CPU)."""
        for name, parameter in self.named_parameters():
            if name.startswith("weight"):
                drawn = torch.randn(parameter.shape[1:], generator=generator)
                parameter[slot].copy_(_INIT_STD * drawn)
            else:
                parameter[slot].fill_(1.0 if name.endswith("gain") else 0.0)

    def raw_words(self, features_BMF: torch.Tensor) -> torch.Tensor:
        """The MLP's output v', shape [B, M, V, D]."""
        hidden = functional.leaky_relu(equal_linear(features_BMF, self.weight_in, self.bias_in), _SLOPE)
        hidden = functional.layer_norm(hidden, hidden.shape[-1:], eps=_EPS)
        hidden = hidden * self.norm_gain.unsqueeze(1) + self.norm_bias.unsqueeze(1)
        return equal_linear(hidden, self.weight_out, self.bias_out).unflatten(-1, (NUM_WORDS, -1))

    def forward(self, features_BMF: torch.Tensor) -> torch.Tensor:
        """The words v* of each sample's features, shape [B, M, V, D]."""
        words = self.raw_words(features_BMF)
        if not self.method.adain:
            return words
        if self.method.normalise == "per_word":
            words = normalise_per_word(words)
        elif self.method.normalise == "joint_affine":
            words = normalise_joint(words, self.joint_gain.unsqueeze(1), self.joint_bias.unsqueeze(1))
        return adain(words, self.mean_VD, self.std_VD)


def packed_words(
    num_slots: int, feature_width: int, prior: CelebPrior, method: MethodConfig
) -> PackedProjector | FreeWords | BasisWords:
    """What is optimised for B identities, by `MethodConfig.words`: from features [B, M, F] to words [B, M, V, D]."""
    if method.words == "free":
        return FreeWords(num_slots, prior.generic_D)
    if method.words == "basis":
        return BasisWords(num_slots, prior.words_NVD)
    mean_VD, std_VD = prior.moments(method.celeb_moments)
    return PackedProjector(num_slots, feature_width, mean_VD, std_VD, method)
