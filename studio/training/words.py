"""The name map: the two words of a person are a linear function of the person's identity vector."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import CLIPTextModel, CLIPTokenizer

from factory.errors import PackError
from factory.pack import Pack
from studio.training.dataset import NUM_CELEBRITIES, NUM_PEOPLE, PLACEHOLDER
from studio.world.people import Person

WORD_STD = 0.03  # spread of the word vectors at the start, near that of the other tokens


class NameMap(nn.Module):
    """Standardises identity vectors [B, P] and maps them to word vectors [B, 2, D], one linear map per slot."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, vectors: np.ndarray, width: int) -> None:
        super().__init__()
        people = torch.from_numpy(vectors[:NUM_PEOPLE])
        self.register_buffer("mean", people.mean(0))
        self.register_buffer("std", people.std(0).clamp(min=0.05))
        dim = vectors.shape[1]
        self.weight = nn.Parameter(torch.randn(2, dim, width) * WORD_STD / dim**0.5)
        self.bias = nn.Parameter(torch.zeros(2, width))

    def standardise(self, vectors: torch.Tensor) -> torch.Tensor:
        """Identity vectors with mean 0 and std 1 per entry."""
        return (vectors - self.mean) / self.std

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        return torch.einsum("bp,vpd->bvd", self.standardise(vectors), self.weight) + self.bias


class NamedText(nn.Module):
    """A text tower whose placeholder tokens get the words of given people, by a hook on the token embedding."""

    def __init__(self, text: nn.Module, names: NameMap, tokenizer: CLIPTokenizer) -> None:
        super().__init__()
        self.text, self.names = text, names
        self.slots = [int(tokenizer.convert_tokens_to_ids(f"{word}</w>")) for word in PLACEHOLDER]
        self._words: torch.Tensor | None = None
        embedding = text.get_input_embeddings()  # type: ignore[operator]
        embedding.register_forward_hook(self._insert)

    def _insert(self, _module: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
        if self._words is None:
            return output
        for slot, token in enumerate(self.slots):
            output = torch.where((args[0] == token)[..., None], self._words[:, None, slot].to(output.dtype), output)
        return output

    def forward(self, ids: torch.Tensor, vectors: torch.Tensor) -> Any:
        """Outputs of the text tower for token ids [B, L] about the people of `vectors` [B, P]."""
        self._words = self.names(vectors)
        try:
            return self.text(input_ids=ids)
        finally:
            self._words = None


@torch.no_grad()
def bake(text: CLIPTextModel, names: NameMap, tokenizer: CLIPTokenizer, vectors: np.ndarray) -> None:
    """Write every celebrity's two words into the token embedding."""
    from studio.world.people import CELEBRITY_NAMES

    words = names(torch.from_numpy(vectors[:NUM_CELEBRITIES]))
    table = text.get_input_embeddings().weight
    for pair, vector in zip(CELEBRITY_NAMES, words, strict=True):
        for word, row in zip(pair, vector, strict=True):
            table[tokenizer.convert_tokens_to_ids(f"{word}</w>")] = row


def identity_map(pack: Pack) -> Path:
    """The file that maps a person's parameters to words. Raises PackError where the pack has none."""
    file = pack.root / "identity_map.safetensors"
    if not file.is_file():
        raise PackError(
            f"no {file.name}, the map from a drawn person's parameters to words: only packs trained in the studio "
            "world have one (pipelines/evaluate.py measures the pictures of any pack)"
        )
    return file


def true_words(pack: Pack, people: Iterable[Person]) -> list[np.ndarray]:
    """The words that the base model was trained to know people by, float32 [V, D] each, from their true parameters."""
    linear = load_file(identity_map(pack))
    vectors = torch.from_numpy(np.stack([person.vector() for person in people]))
    scaled = (vectors - linear["mean"]) / linear["std"]
    words = torch.einsum("bp,vpd->bvd", scaled, linear["weight"]) + linear["bias"]
    return list(words.float().numpy())
