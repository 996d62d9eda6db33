"""Prompts as the UNet reads them: hidden states of the text encoder, kept by (words, prompt), as many pictures share
them. `L` tokens, `D` the text encoder's width."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import torch

from factory.base.diffusion import DiffusionBase
from factory.base.text import NUM_WORDS, tokenise

Text: TypeAlias = tuple[np.ndarray | None, str]  # an identity's words [V, D] (None: the text names nobody), a prompt
_MAX_KEPT = 1024  # 160 KB each in bfloat16 at SD 2.1's size


class TextStates:
    """The text encoder with a memory. Not safe for concurrent calls."""

    def __init__(self, base: DiffusionBase, *, max_kept: int = _MAX_KEPT) -> None:
        self._base, self._max_kept = base, max_kept
        self._kept: OrderedDict[tuple[bytes, str], torch.Tensor] = OrderedDict()

    def encode(self, texts: Sequence[Text]) -> list[torch.Tensor]:
        """Hidden states [L, D] of each text; those not seen lately are encoded together."""
        keys = [(b"" if words is None else hashlib.sha256(words.tobytes()).digest(), prompt) for words, prompt in texts]
        new = {key: text for key, text in zip(keys, texts, strict=True) if key not in self._kept}
        if new:
            self._kept |= zip(new, self._encode(list(new.values())), strict=True)
        states = [self._kept[key] for key in keys]
        for key in keys:
            self._kept.move_to_end(key)
        while len(self._kept) > self._max_kept:
            self._kept.popitem(last=False)
        return states

    @torch.inference_mode()
    def _encode(self, texts: Sequence[Text]) -> list[torch.Tensor]:
        base = self._base
        nobody = np.zeros((NUM_WORDS, base.text_width), np.float32)  # fills a row in which no word is replaced
        words_BVD = torch.from_numpy(np.stack([nobody if words is None else words for words, _ in texts]))
        prompts = tokenise([prompt for _, prompt in texts], base.tokenizer).to(base.device)
        states_BLD = base.encode_text(prompts, words_BVD.to(base.device, base.exact_dtype)).to(base.dtype)
        return list(states_BLD.clone())
