"""A CLIP tokenizer with a vocabulary small enough to read, for packs with random weights."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import factory  # noqa: F401  (before transformers: see factory/__init__.py)

# isort: split
from transformers import CLIPTokenizer

from factory.prompts import TEMPLATES

CELEBRITIES = [
    *(("ada", "abel"), ("boris", "brook"), ("clara", "cole"), ("dora", "dale"), ("emil", "east"), ("fay", "ford")),
    *(("gus", "gray"), ("hedy", "hall"), ("ivan", "irons"), ("june", "jones"), ("karl", "kane"), ("lena", "lake")),
]
WORDS = """a the of in on at with and an as by man woman person face photo portrait painting sketch picture wearing
holding red blue green black white hat crown glasses sunglasses spacesuit snow beach forest city room smiling angry
riding horse drinking coffee cartoon statue concert table street night summer winter style watercolor pencil""".split()
CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789!\"#$%&'()*+,-./:;<=>?@[]^_`{|}~"
NUM_TOKENS = 77  # of a prompt, as in SD 2.1


def make_tokenizer(folder: Path) -> CLIPTokenizer:
    """A CLIP tokenizer in which every word of the templates, of `WORDS` and of the names is one token."""
    known = [*WORDS, *(word for text in TEMPLATES for word in text.split()), *(w for name in CELEBRITIES for w in name)]
    merges = _merges(dict.fromkeys(word for word in known if word.isalpha()))
    pieces = [*CHARACTERS, *(f"{c}</w>" for c in CHARACTERS), *(left + right for left, right in merges)]
    vocabulary = ["<|startoftext|>", "<|endoftext|>", *dict.fromkeys(pieces)]
    vocab = {piece: index for index, piece in enumerate(vocabulary)}
    CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=NUM_TOKENS).save_pretrained(folder)
    # the two files that a hub repository has, whatever this version of transformers writes
    (folder / "vocab.json").write_text(json.dumps(vocab))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{left} {right}\n" for left, right in merges))
    return CLIPTokenizer.from_pretrained(folder)


def _merges(words: Iterable[str]) -> list[tuple[str, str]]:
    """Merges that make each word one token. Later merges rank lower, so they never disturb an earlier word."""
    merges: dict[tuple[str, str], None] = {}
    for word in words:
        pieces = [*word[:-1], f"{word[-1]}</w>"]
        for pair in merges:
            at = 0
            while at < len(pieces) - 1:
                if (pieces[at], pieces[at + 1]) == pair:
                    pieces[at : at + 2] = ["".join(pair)]
                at += 1
        while len(pieces) > 1:
            merges[pieces[0], pieces[1]] = None
            pieces[:2] = ["".join(pieces[:2])]
    return list(merges)
