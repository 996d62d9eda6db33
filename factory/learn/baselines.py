"""Other ways to two words per identity, for comparison: Textual Inversion and Celeb-Basis.

They share everything with the method but what is optimised: the same views, loss, steps, optimiser and export. Axis 0
of every parameter is the identity's slot, as in `factory.learn.projector`. Shape suffixes: `B` identities, `M` samples
of each, `V` words (2), `D` text width, `N` celebrity names, `K` principal components, `F` feature width.
"""

from __future__ import annotations

import torch
from torch import nn

from factory.base.text import NUM_WORDS

_MAX_COMPONENTS = 512  # p of Celeb-Basis
_NOISE = 1e-3  # of the largest singular value: components below it are rounding, not names


class FreeWords(nn.Module):
    """Textual Inversion (arXiv 2208.01618): the word vectors themselves, from those of a generic word."""

    generic_D: torch.Tensor

    def __init__(self, num_slots: int, generic_D: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("generic_D", generic_D.clone())
        self.words_BVD = nn.Parameter(torch.zeros(num_slots, NUM_WORDS, len(generic_D)))

    @property
    def num_slots(self) -> int:
        """B."""
        return len(self.words_BVD)

    @torch.no_grad()
    def start(self, slot: int, generator: torch.Generator) -> None:
        """The initial words of an identity, in place: the generic word twice. Nothing is drawn."""
        self.words_BVD[slot].copy_(self.generic_D.expand(NUM_WORDS, -1))

    def forward(self, features_BMF: torch.Tensor) -> torch.Tensor:
        """The words, the same for each of the M samples, shape [B, M, V, D]; features are not read."""
        return self.words_BVD.unsqueeze(1).repeat(1, features_BMF.shape[1], 1, 1)


class BasisWords(nn.Module):
    """Celeb-Basis (arXiv 2306.00926): the mean name plus coefficients on the principal components of names.

    First and last names have a basis each. The coefficients are optimised directly, from 0; the published code
    predicts them from a face feature.
    """

    mean_VD: torch.Tensor
    basis_VKD: torch.Tensor

    def __init__(self, num_slots: int, celebs_NVD: torch.Tensor) -> None:
        super().__init__()
        mean_VD, basis_VKD = principal_components(celebs_NVD)
        self.register_buffer("mean_VD", mean_VD)
        self.register_buffer("basis_VKD", basis_VKD)
        self.coefficients_BVK = nn.Parameter(torch.zeros(num_slots, NUM_WORDS, basis_VKD.shape[1]))

    @property
    def num_slots(self) -> int:
        """B."""
        return len(self.coefficients_BVK)

    @torch.no_grad()
    def start(self, slot: int, generator: torch.Generator) -> None:
        """The initial coefficients of an identity, in place: zeros, the mean name. Nothing is drawn."""
        self.coefficients_BVK[slot].zero_()

    def forward(self, features_BMF: torch.Tensor) -> torch.Tensor:
        """The words, the same for each of the M samples, shape [B, M, V, D]; features are not read."""
        words_BVD = self.mean_VD + torch.einsum("bvk,vkd->bvd", self.coefficients_BVK, self.basis_VKD)
        return words_BVD.unsqueeze(1).repeat(1, features_BMF.shape[1], 1, 1)


def principal_components(celebs_NVD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean [V, D] and orthonormal principal components [V, K, D] of celebrity names, first and last names apart.

    K is the rank of the slot with fewer directions, at most 512.
    """
    mean_VD = celebs_NVD.mean(0)
    _, sizes_VK, basis_VKD = torch.linalg.svd((celebs_NVD - mean_VD).transpose(0, 1), full_matrices=False)
    rank = int((sizes_VK > _NOISE * sizes_VK[:, :1]).sum(1).min())
    return mean_VD, basis_VKD[:, : min(rank, _MAX_COMPONENTS)].clone()
