"""The world's own CLIPTokenizer: every word of its captions and every celebrity word is one token."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.trainers import BpeTrainer
from transformers import CLIPTokenizer

from studio.training.dataset import PLACEHOLDER
from studio.world.captions import VOCABULARY
from studio.world.people import CELEBRITY_NAMES

MAX_LENGTH = 32
_START, _END = "<|startoftext|>", "<|endoftext|>"
_CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789!\"#$%&'()*+,-./:;<=>?@[]^_`{|}~"


def words() -> list[str]:
    """All whole words, in a fixed order: captions, placeholders, celebrities."""
    names = [word for name in CELEBRITY_NAMES for word in name]
    return list(dict.fromkeys([*VOCABULARY, *PLACEHOLDER, *names]))


def build(folder: Path) -> CLIPTokenizer:
    """Write the tokenizer to `folder` and load it from there. Unknown words fall apart into characters."""
    model = Tokenizer(BPE(end_of_word_suffix="</w>"))
    model.pre_tokenizer = WhitespaceSplit()
    # trained on the bare word list until no pair is left to merge, so that each word ends up as one token
    trainer = BpeTrainer(
        vocab_size=100_000,
        end_of_word_suffix="</w>",
        initial_alphabet=list(_CHARACTERS),
        special_tokens=[_START, _END],
        show_progress=False,
    )
    model.train_from_iterator([*words(), *_CHARACTERS], trainer)
    learned = json.loads(model.to_str())["model"]
    vocab, merges = learned["vocab"], [(left, right) for left, right in learned["merges"]]
    tokenizer = CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=MAX_LENGTH)
    tokenizer.save_pretrained(folder)
    return load(folder)


def load(folder: Path) -> CLIPTokenizer:
    """Reload the tokenizer and check that it kept its vocabulary."""
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    broken = [w for w in words() if w.isalpha() and len(tokenizer(w, add_special_tokens=False).input_ids) != 1]
    if broken:
        raise ValueError(f"the tokenizer of {folder} splits {len(broken)} of its words, {broken[:5]} among them")
    return tokenizer


def encode(tokenizer: CLIPTokenizer, texts: list[str]) -> torch.Tensor:
    """Token ids, int64 [B, 32], padded with the end token."""
    ids = tokenizer(texts, padding="max_length", max_length=MAX_LENGTH, truncation=True).input_ids
    return torch.from_numpy(np.asarray(ids, np.int64))
