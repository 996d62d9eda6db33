"""The celeb prior: the token embeddings of famous people's names, and their moments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from transformers import CLIPTokenizer

from factory.base.text import NUM_WORDS
from factory.errors import PackError

_GENERIC = "person"


@dataclass(frozen=True, slots=True, kw_only=True)
class CelebPrior:
    """Where the words of a name lie in the text encoder's embedding space."""

    names: tuple[str, ...]  # N names, each two words and two tokens
    words_NVD: torch.Tensor  # float32 [N, V, D], their token embeddings
    generic_D: torch.Tensor  # float32 [D], the token embedding of "person": where Textual Inversion starts

    def moments(self, kind: Literal["shared", "per_slot"]) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation of C in Eq. 4, each float32 [V, D].

        "shared" (paper): mu(C), sigma(C) in R^D over all words of all names, the plain (population) deviation.
        "per_slot" (release): first names and last names apart, with the unbiased deviation.
        """
        if kind == "per_slot":
            return self.words_NVD.mean(0), self.words_NVD.std(0, unbiased=True)
        all_words = self.words_NVD.flatten(0, 1)
        mean_D, std_D = all_words.mean(0), all_words.std(0, unbiased=False)
        return mean_D.expand(NUM_WORDS, -1), std_D.expand(NUM_WORDS, -1)


def celeb_prior(
    names: Sequence[tuple[str, str]], tokenizer: CLIPTokenizer, token_embedding: torch.nn.Embedding
) -> CelebPrior:
    """The prior of those names that are exactly two words and exactly two tokens (326 of 691 in the paper).

    Raises:
        PackError: fewer than two names are left, so that there is no deviation.
    """
    kept: list[str] = []
    ids: list[list[int]] = []
    for first, last in names:
        tokens = tokenizer(f"{first} {last}", add_special_tokens=False)["input_ids"]
        if len(tokens) == NUM_WORDS:
            kept.append(f"{first} {last}")
            ids.append(tokens)
    if len(kept) < 2:
        raise PackError(
            f"{len(kept)} of {len(names)} celebrity names are two tokens of this tokenizer; the prior needs 2 or more. "
            "Check the pack's `celebrities` file and that its tokenizer belongs to its text encoder."
        )
    weight = token_embedding.weight.detach()
    generic = tokenizer(_GENERIC, add_special_tokens=False)["input_ids"]
    return CelebPrior(
        names=tuple(kept),
        words_NVD=weight[torch.tensor(ids, device=weight.device)].float(),
        generic_D=weight[generic].mean(0).float(),
    )
