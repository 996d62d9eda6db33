"""From face features to two words: the MLP and the AdaIN onto the celeb prior (Eq. 4).

The weights of B identities are stacked, so that B separate MLPs run as one batched product; nothing is shared
between slots. Shape suffixes of the project: `B` identities in the pack, `M` samples of each, `V` words per identity
(2), `D` text width, `F` feature width, `C` latent channels, `H W` latent rows and columns, `L` prompt tokens,
`N` celebrity names.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from factory.baselines import BasisWords, FreeWords
from factory.celebs import CelebPrior
from factory.config import MethodConfig
from factory.prompts import NUM_WORDS

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

    Every parameter's first axis is the identity's slot. `generators` (one per identity, on the CPU) make an
    identity's initial weights independent of who shares the pack.
    """

    mean_VD: torch.Tensor
    std_VD: torch.Tensor

    def __init__(
        self,
        feature_width: int,
        mean_VD: torch.Tensor,
        std_VD: torch.Tensor,
        method: MethodConfig,
        generators: Sequence[torch.Generator],
    ) -> None:
        super().__init__()
        num, width = len(generators), mean_VD.numel()
        self.method = method

        def weight(rows: int, columns: int) -> nn.Parameter:
            drawn = [torch.randn(rows, columns, generator=generator) for generator in generators]
            return nn.Parameter(_INIT_STD * torch.stack(drawn))

        self.weight_in = weight(width, feature_width)
        self.weight_out = weight(width, width)
        self.bias_in = nn.Parameter(torch.zeros(num, width))
        self.bias_out = nn.Parameter(torch.zeros(num, width))
        self.norm_gain = nn.Parameter(torch.ones(num, width))
        self.norm_bias = nn.Parameter(torch.zeros(num, width))
        if method.adain and method.normalise == "joint_affine":
            self.joint_gain = nn.Parameter(torch.ones(num, width))
            self.joint_bias = nn.Parameter(torch.zeros(num, width))
        self.register_buffer("mean_VD", mean_VD.clone())
        self.register_buffer("std_VD", std_VD.clone())

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
    feature_width: int, prior: CelebPrior, method: MethodConfig, generators: Sequence[torch.Generator]
) -> PackedProjector | FreeWords | BasisWords:
    """What is optimised for B identities, by `MethodConfig.words`: from features [B, M, F] to words [B, M, V, D]."""
    if method.words != "mlp":
        num = len(generators)
        words = FreeWords(num, prior.generic_D) if method.words == "free" else BasisWords(num, prior.words_NVD)
        for slot, generator in enumerate(generators):
            words.start(slot, generator)
        return words
    mean_VD, std_VD = prior.moments(method.celeb_moments)
    return PackedProjector(feature_width, mean_VD, std_VD, method, generators)
