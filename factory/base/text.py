"""Where the two words of an identity go in a tokenised prompt.

The words replace a placeholder at the token-embedding level, before position embeddings, so that the text encoder
reads "a photo of a v1* v2*": nothing of the placeholder's own text is left over. No vocabulary ever grows.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import CLIPTokenizer

from factory.errors import PromptTooLong
from factory.prompts import PERSON
from factory.records import TokenCount

NUM_WORDS = 2  # V: a first name and a last name
_TEXT = -1  # slot of a token that is ordinary text
_SURELY_READ = 60  # characters: no text encoder here reads less
_ENDS = 2  # the begin and end tokens

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenisedPrompts:
    """A batch of prompts, ready for injection."""

    ids_BL: torch.Tensor  # int64 [B, L], begin ... end, padding; any id where a word of the identity goes
    slots_BL: torch.Tensor  # int64 [B, L], 0 or 1 where word v1* or v2* goes, -1 where the text stays

    def __getitem__(self, rows: torch.Tensor) -> TokenisedPrompts:
        return TokenisedPrompts(ids_BL=self.ids_BL[rows], slots_BL=self.slots_BL[rows])

    def to(self, device: torch.device | str) -> TokenisedPrompts:
        return TokenisedPrompts(ids_BL=self.ids_BL.to(device), slots_BL=self.slots_BL.to(device))


def tokenise(prompts: Sequence[str], tokenizer: CLIPTokenizer) -> TokenisedPrompts:
    """Token ids and word slots of prompts in which `<person>` may occur any number of times.

    A text longer than the encoder's L tokens is cut at its end, with a warning.

    Raises:
        PromptTooLong: the cut would remove the identity from a prompt.
    """
    length = tokenizer.model_max_length
    ids_BL = torch.full((len(prompts), length), tokenizer.pad_token_id, dtype=torch.int64)
    slots_BL = torch.full((len(prompts), length), _TEXT, dtype=torch.int64)
    for row, prompt in enumerate(prompts):
        ids, slots = _tokens(prompt, tokenizer)
        room = length - _ENDS
        if len(ids) > room:
            if PERSON in prompt and NUM_WORDS - 1 not in slots[:room]:
                raise PromptTooLong(f"{PERSON} lies beyond the {room} tokens that are read; move it to the front")
            logger.warning("prompt cut from %d to %d tokens: %r", len(ids), room, prompt[:100])
            ids, slots = ids[:room], slots[:room]
        ids_BL[row, : len(ids) + _ENDS] = torch.tensor([tokenizer.bos_token_id, *ids, tokenizer.eos_token_id])
        slots_BL[row, 1 : len(ids) + 1] = torch.tensor(slots, dtype=torch.int64)
    return TokenisedPrompts(ids_BL=ids_BL, slots_BL=slots_BL)


def count_tokens(prompt: str, tokenizer: CLIPTokenizer) -> TokenCount:
    """How many tokens a prompt has, and how many of them are read."""
    given = len(_tokens(prompt, tokenizer)[0])
    return TokenCount(given=given, read=min(given, tokenizer.model_max_length - _ENDS))


def _tokens(prompt: str, tokenizer: CLIPTokenizer) -> tuple[list[int], list[int]]:
    """Ids and word slots of a prompt of any length, without begin and end."""
    ids: list[int] = []
    slots: list[int] = []
    for number, text in enumerate(prompt.split(PERSON)):
        if number > 0:
            ids += [tokenizer.bos_token_id] * NUM_WORDS
            slots += range(NUM_WORDS)
        piece = tokenizer(text, add_special_tokens=False)["input_ids"] if text.strip() else []
        ids += piece
        slots += [_TEXT] * len(piece)
    return ids, slots


def inject(embeds_BLD: torch.Tensor, slots_BL: torch.Tensor, words_BVD: torch.Tensor) -> torch.Tensor:
    """Token embeddings with the identities' words in their slots; gradients flow to the words."""
    index_BLD = slots_BL.clamp(min=0).unsqueeze(-1).expand(-1, -1, words_BVD.shape[-1])
    placed_BLD = words_BVD.to(embeds_BLD.dtype).gather(1, index_BLD)
    return torch.where((slots_BL >= 0).unsqueeze(-1), placed_BLD, embeds_BLD)


def cut_prompts(prompts: Sequence[str], base: Path) -> list[tuple[str, TokenCount]]:
    """Those of these prompts that are longer than the text encoder of this base model's folder reads."""
    long = [prompt for prompt in prompts if len(prompt) > _SURELY_READ]
    if not long:
        return []
    tokenizer = CLIPTokenizer.from_pretrained(base / "tokenizer", local_files_only=True)
    counts = [(prompt, count_tokens(prompt, tokenizer)) for prompt in long]
    return [(prompt, count) for prompt, count in counts if count.read < count.given]
