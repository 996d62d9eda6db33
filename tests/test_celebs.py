"""The celeb prior: which names count, and their moments, against plain NumPy."""

import numpy as np
import pytest
import torch

from factory.errors import PackError
from factory.learn.celebs import CelebPrior, celeb_prior


class Words:
    """A tokenizer of whole words, except that long words are two tokens."""

    def __call__(self, text: str, *, add_special_tokens: bool) -> dict[str, list[int]]:
        assert not add_special_tokens
        ids: list[int] = []
        for word in text.split():
            ids += [len(word)] if len(word) < 6 else [len(word), 0]
        return {"input_ids": ids}


def test_only_names_of_two_tokens_count() -> None:
    embedding = torch.nn.Embedding(16, 4)
    prior = celeb_prior([("ann", "bo"), ("a", "stranger"), ("carl", "day")], Words(), embedding)  # type: ignore[arg-type]
    assert prior.names == ("ann bo", "carl day")
    assert torch.equal(prior.words_NVD, embedding.weight.detach()[torch.tensor([[3, 2], [4, 3]])])


def test_too_few_names_is_an_error_with_the_remedy() -> None:
    with pytest.raises(PackError, match="tokenizer"):
        celeb_prior([("ann", "bo"), ("a", "stranger")], Words(), torch.nn.Embedding(16, 4))  # type: ignore[arg-type]


def test_moments_are_those_of_the_formulas() -> None:
    words = np.random.default_rng(0).normal(size=(7, 2, 5)).astype(np.float32)
    prior = CelebPrior(names=("",) * 7, words_NVD=torch.from_numpy(words), generic_D=torch.zeros(words.shape[-1]))
    mean, std = prior.moments("shared")
    for slot in range(2):
        np.testing.assert_allclose(mean[slot], words.reshape(-1, 5).mean(0), atol=1e-6)
        np.testing.assert_allclose(std[slot], words.reshape(-1, 5).std(0), atol=1e-6)
    mean, std = prior.moments("per_slot")
    np.testing.assert_allclose(mean, words.mean(0), atol=1e-6)
    np.testing.assert_allclose(std, words.std(0, ddof=1), atol=1e-6)
