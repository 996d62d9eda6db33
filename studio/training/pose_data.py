"""What the pose control is trained on: renders in wide poses, encoded once with the pack's own autoencoder and text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from factory.base.diffusion import DiffusionBase
from factory.base.text import tokenise
from factory.faces.pose import LIMITS, SHIFT_LIMITS, HeadPose, draw_skeleton
from factory.pack import load_pack
from factory.prompts import PERSON
from studio.training import chunks
from studio.training.build import PACK
from studio.training.dataset import MAX_WORDS, NUM_CELEBRITIES, PICTURE_PX, person_of
from studio.training.views import masks_of
from studio.training.words import true_words
from studio.world.captions import caption, words
from studio.world.people import Person
from studio.world.render import render
from studio.world.scenes import Scene, sample_scene

CHUNK = 250  # pictures of a file
NUM_CHUNKS = 96
PLAIN_SHARE = 0.35
NARROW_SHARE = 0.2  # of the pictures: in the poses that the base model has seen, so that there nothing gets lost

REACH = [*LIMITS.values(), *((-limit, limit) for limit in SHIFT_LIMITS.values())]  # as the fields of HeadPose


@dataclass(frozen=True, slots=True, kw_only=True)
class Posed:
    """N pictures in known poses, with what the networks are told of them."""

    latents: torch.Tensor  # float16 [N, C, 16, 16], scaled
    text: torch.Tensor  # float16 [N, L, D], the text tower's states of the caption with the person's true words
    poses: torch.Tensor  # float32 [N, 6], as the fields of HeadPose
    face: torch.Tensor  # float16 [N, 16, 16], share of face in the cell
    hair: torch.Tensor  # float16 [N, 16, 16]

    def __len__(self) -> int:
        return len(self.poses)

    def __getitem__(self, rows: torch.Tensor) -> Posed:
        return Posed(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})


def pose_of(scene: Scene) -> HeadPose:
    """The pose in which a scene shows a head."""
    return HeadPose(**{field.name: getattr(scene, field.name) for field in fields(HeadPose)})


def wide_scene(rng: np.random.Generator) -> Scene:
    """A scene as `sample_scene` draws them, in a pose from all that can be asked for (one in five: as it comes)."""
    scene = sample_scene(rng, context="plain" if rng.random() < PLAIN_SHARE else "mixed")
    if rng.random() < NARROW_SHARE:
        return scene
    names = [field.name for field in fields(HeadPose)]
    pose: dict[str, Any] = {name: float(rng.uniform(*limits)) for name, limits in zip(names, REACH, strict=True)}
    return replace(scene, **pose)


def sample(item: int) -> tuple[Person, Scene, str]:
    """Person, scene and caption of a picture; all people are known to the base model, none is held out."""
    rng = np.random.default_rng([0xC0DE, item])
    person, scene = person_of(NUM_CELEBRITIES + item % 15_000), wide_scene(rng)
    text = caption(scene, PERSON, rng, person=person if rng.random() < 0.3 else None)
    while len(words(text)) + 1 > MAX_WORDS:
        text = caption(scene, PERSON, rng)
    return person, scene, text


@torch.no_grad()
def _encode(base: DiffusionBase, items: range) -> dict[str, np.ndarray]:
    people, scenes, texts = zip(*map(sample, items), strict=True)
    pictures = [render(person, scene, size=PICTURE_PX) for person, scene in zip(people, scenes, strict=True)]
    masks = masks_of(np.stack([picture.labels for picture in pictures]))
    cells = torch.from_numpy(np.stack([masks.face, masks.hair], axis=1)).float()
    pixels = torch.from_numpy(np.stack([picture.image for picture in pictures])).movedim(-1, 1).float()
    shares = functional.avg_pool2d(cells, PICTURE_PX // base.latent_side)
    latents = [base.encode_images(part / 127.5 - 1).mean_BCHW for part in pixels.split(10)]
    spoken = torch.from_numpy(np.stack(true_words(base.pack, people)))
    text = base.encode_text(tokenise(texts, base.tokenizer), spoken)
    arrays = {"latents": torch.cat(latents), "text": text, "face": shares[:, 0], "hair": shares[:, 1]}
    poses = [[getattr(pose_of(scene), field.name) for field in fields(HeadPose)] for scene in scenes]
    return {name: array.half().numpy() for name, array in arrays.items()} | {"poses": np.array(poses, np.float32)}


def build(state: Path, *, pack: Path = PACK) -> None:
    """Render and encode what is missing (24,000 pictures in all: seven minutes of a core)."""
    base = DiffusionBase.load(load_pack(pack), dtype=torch.float32)
    chunks.build(state, "pose", NUM_CHUNKS * CHUNK, CHUNK, partial(_encode, base))


def load(state: Path) -> Posed:
    """All pictures that `build` has made."""
    return chunks.load(state, "pose", Posed)


def skeletons(poses: torch.Tensor, draw: Callable[..., np.ndarray] = draw_skeleton) -> torch.Tensor:
    """The drawn poses, float32 [N, 3, S, S] in 0..1, as a ControlNet takes them."""
    names = [field.name for field in fields(HeadPose)]
    drawn = [draw([_within(dict(zip(names, row, strict=True)))], PICTURE_PX, PICTURE_PX) for row in poses.tolist()]
    return torch.from_numpy(np.stack(drawn)).movedim(-1, 1).float() / 255


def _within(numbers: dict[str, float]) -> HeadPose:
    """A pose of numbers that went through float32 and may lie a rounding error outside."""
    return HeadPose(**{name: float(np.clip(value, *LIMITS.get(name, (-1, 1)))) for name, value in numbers.items()})
