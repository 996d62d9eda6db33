"""What the motion layers are trained on: rendered clips, encoded once with the pack's own autoencoder and text."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from factory.base.diffusion import DiffusionBase
from factory.base.text import tokenise
from factory.pack import load_pack
from factory.prompts import PERSON
from studio.training import chunks
from studio.training.build import PACK
from studio.training.dataset import MAX_WORDS, NUM_CELEBRITIES, PICTURE_PX, person_of
from studio.training.words import true_words
from studio.world.captions import caption, words
from studio.world.motions import Clip, sample_clip
from studio.world.people import Person
from studio.world.render import render

CHUNK = 50  # clips of a file
NUM_CHUNKS = 44
PLAIN_SHARE = 0.4
PIECES = 6  # tokens beyond its words that a caption may need: the tokenizer never saw the motions' words


@dataclass(frozen=True, slots=True, kw_only=True)
class Clips:
    """N clips of F frames, with what the networks are told of them."""

    latents: torch.Tensor  # float16 [N, F, C, 16, 16], scaled
    text: torch.Tensor  # float16 [N, L, D], the text tower's states of the caption with the person's true words

    def __len__(self) -> int:
        return len(self.text)


def sample(item: int) -> tuple[Person, Clip, str]:
    """Person, clip and caption; all people are known to the base model, none is held out."""
    rng = np.random.default_rng([0xC11B, item])
    person = person_of(NUM_CELEBRITIES + item * 7 % 15_000)
    while True:
        clip = sample_clip(rng, context="plain" if rng.random() < PLAIN_SHARE else "mixed")
        shown = replace(clip.scenes[0], expression=None)  # the motion's own words tell of the expression
        text = f"{caption(shown, PERSON, rng)} {clip.text}".strip()
        if len(words(text)) + PIECES <= MAX_WORDS:
            break
    return person, clip, text


@torch.no_grad()
def _encode(base: DiffusionBase, items: range) -> dict[str, np.ndarray]:
    people, clips, texts = zip(*map(sample, items), strict=True)
    latents = []
    for person, clip in zip(people, clips, strict=True):
        frames = np.stack([render(person, scene, size=PICTURE_PX).image for scene in clip.scenes])
        pixels = torch.from_numpy(frames).movedim(-1, 1).float()
        latents.append(base.encode_images(pixels / 127.5 - 1).mean_BCHW.half())
    spoken = torch.from_numpy(np.stack(true_words(base.pack, people)))
    text = base.encode_text(tokenise(texts, base.tokenizer), spoken)
    return {"latents": torch.stack(latents).numpy(), "text": text.half().numpy()}


def build(state: Path, *, pack: Path = PACK) -> None:
    """Render and encode what is missing (2,200 clips in all: a quarter of an hour of a core)."""
    base = DiffusionBase.load(load_pack(pack), dtype=torch.float32)
    chunks.build(state, "motion", NUM_CHUNKS * CHUNK, CHUNK, partial(_encode, base))


def load(state: Path) -> Clips:
    """All clips that `build` has made."""
    return chunks.load(state, "motion", Clips)
