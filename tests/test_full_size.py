"""The production path at its real size: SD 2.1-base's architecture with random weights learns a step, draws a step.

About 2.5 GB of weights are written to a temporary folder, and a few minutes pass on two CPU cores: `pytest -m slow`.
"""

from pathlib import Path

import numpy as np
import pytest

from factory.config import GenerateConfig, Recipe, TrainConfig
from factory.draw.images import ImageGenerator
from factory.faces.encode import FeatureEncoder
from factory.learn.trainer import load_trainer
from factory.pack import load_pack
from factory.records import TEXT_ENCODER, FaceMasks, ImageRequest, PreparedFace
from tests.make_pack import make_pack

pytestmark = pytest.mark.slow


def test_one_step_of_training_and_of_generation(tmp_path: Path) -> None:
    pack = load_pack(make_pack(tmp_path / "sd21", size="sd21"))
    side = pack.resolution
    assert side == 512
    crop = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    mask = np.zeros((side, side), bool)
    mask[100:400, 100:400] = True
    (features,) = FeatureEncoder(pack).encode(crop[None])
    assert features.crop.shape == (768,)
    face = PreparedFace(
        face_id="face",
        photo_id="photo",
        name="person",
        face_index=0,
        box=np.zeros(4, np.float32),
        landmarks=np.zeros((5, 2), np.float32),
        score=1.0,
        crop=crop,
        masks=FaceMasks(face=mask, hair=~mask),
        features=features,
        pack=pack.name,
    )
    trainer = load_trainer(pack)
    config = TrainConfig(num_steps=1, views="pool", num_views=2)
    (identity,) = trainer.train([face], Recipe(train=config))
    assert identity.words[TEXT_ENCODER].shape == (2, 1024)
    assert np.isfinite(identity.final_loss)
    del trainer

    request = ImageRequest(
        identity=identity,
        prompt="wearing a spacesuit",
        seed=0,
        config=GenerateConfig(num_inference_steps=1),
    )
    (image,) = ImageGenerator(pack).generate([request])
    assert image.shape == (side, side, 3)
    assert image.std() > 0
