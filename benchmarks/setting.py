"""What the benchmarks measure on: a pack of the wanted size, and people who look like noise."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from factory.base.diffusion import DiffusionBase
from factory.config import GenerateConfig
from factory.faces.encode import FeatureEncoder
from factory.learn.celebs import celeb_prior
from factory.pack import Pack, load_pack
from factory.records import TEXT_ENCODER, FaceMasks, Identity, ImageRequest, PreparedFace
from tests.make_pack import make_pack

Size = Literal["tiny", "studio", "sd21"]
SIZES: tuple[Size, ...] = ("tiny", "studio", "sd21")
PROMPTS = ("a photo of <person>", "a photo of <person> in the snow", "a drawing of <person>", "<person> wearing a hat")


def bench_pack(size: Size, folder: Path) -> Pack:
    """The studio pack as it ships; the others with random weights of SD 2.1's structure, made once in `folder`."""
    if size == "studio":
        return load_pack("studio")
    place = folder / size
    if not (place / "pack.toml").exists():  # written last
        make_pack(place, size=size)
    return load_pack(place)


def noise_people(pack: Pack, num: int, device: str) -> list[PreparedFace]:
    """Faces of noise with the pack's own features: time does not depend on what is in a picture."""
    side = pack.resolution
    crops = np.random.default_rng(0).integers(0, 256, (num, side, side, 3), dtype=np.uint8)
    mask = np.zeros((side, side), bool)
    mask[side // 4 : -side // 4, side // 4 : -side // 4] = True
    encoded = FeatureEncoder(pack, device=device).encode(crops)
    return [
        PreparedFace(
            face_id=f"face-{number}",
            photo_id=f"photo-{number}",
            name=f"person {number}",
            face_index=0,
            box=np.zeros(4, np.float32),
            landmarks=np.zeros((5, 2), np.float32),
            score=1.0,
            crop=crop,
            masks=FaceMasks(face=mask, hair=~mask),
            features=features,
            pack=pack.name,
        )
        for number, (crop, features) in enumerate(zip(crops, encoded, strict=True))
    ]


def noise_requests(base: DiffusionBase, num: int, config: GenerateConfig) -> list[ImageRequest]:
    """Pictures of people with random words that have the celebrities' moments, each with its prompt and seed."""
    prior = celeb_prior(base.pack.celebrities, base.tokenizer, base.token_embedding)
    mean_VD, std_VD = (moment.cpu().numpy() for moment in prior.moments("shared"))
    noise_BVD = np.random.default_rng(0).standard_normal((num, *mean_VD.shape))
    return [
        ImageRequest(
            identity=Identity(
                identity_id=f"{number:016x}",
                face_id=f"face-{number}",
                photo_id=f"photo-{number}",
                name=f"person {number}",
                words={TEXT_ENCODER: (mean_VD + std_VD * noise_VD).astype(np.float32)},
                pack=base.pack.name,
                fingerprint=base.fingerprint,
                preset="custom",
                config="{}",
                num_steps=0,
                final_loss=0.0,
                train_s=0.0,
                created_at="",
            ),
            prompt=PROMPTS[number % len(PROMPTS)],
            seed=number,
            config=config,
        )
        for number, noise_VD in enumerate(noise_BVD)
    ]
