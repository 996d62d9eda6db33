"""The production path at its real size: SD 2.1-base's architecture with random weights learns a step, draws a step.

About 3 GB of weights are written to a temporary folder, and a few minutes pass on two CPU cores: `pytest -m slow`.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from factory.config import GenerateConfig, Recipe, TrainConfig
from factory.draw.images import ImageGenerator
from factory.faces.encode import FeatureEncoder
from factory.faces.openpose import draw_bodies
from factory.learn.trainer import load_trainer
from factory.pack import Pack, load_pack
from factory.records import TEXT_ENCODER, FaceMasks, ImageRequest, PoseControl, PreparedFace, Region
from tests.make_pack import make_pack
from tests.test_engine import request
from tests.test_openpose import standing

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Pack:
    """SD 2.1-base and thibaud's OpenPose ControlNet for it, with random weights."""
    return load_pack(make_pack(tmp_path_factory.mktemp("packs") / "sd21", size="sd21", pose=True))


@pytest.fixture(scope="module")
def generator(pack: Pack) -> ImageGenerator:
    return ImageGenerator(pack)


def test_one_step_of_training_and_of_generation(pack: Pack) -> None:
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


def test_a_posed_row_takes_a_step_beside_an_unposed_one(generator: ImageGenerator) -> None:
    engine = generator.engine
    skeleton = draw_bodies(standing(0.5)[None], 512, 512)
    one = request(generator.base, 1, num_inference_steps=2)
    posed, plain = engine.add([replace(one, pose=PoseControl(skeleton=skeleton)), one])
    assert engine.step() == []
    assert posed.x_CHW.shape == (4, 64, 64) and posed.x_CHW.isfinite().all() and plain.x_CHW.isfinite().all()
    assert (posed.x_CHW - plain.x_CHW).abs().max() > 0
    for row in (posed, plain):
        engine.drop(row)


def test_two_people_are_drawn_in_one_posed_picture(generator: ImageGenerator) -> None:
    left, right = (request(generator.base, number) for number in (1, 2))
    boxes = (0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0)
    people = zip((left, right), ("<person> as a nurse", "<person> as a pilot"), boxes, strict=True)
    regions = tuple(Region(identity=one.identity, prompt=prompt, box=box) for one, prompt, box in people)
    bodies = np.stack([standing(x) for x in (0.35, 1.15)])
    config = GenerateConfig(num_inference_steps=1, width_px=768, height_px=512)
    pose = PoseControl(skeleton=draw_bodies(bodies, 768, 512))
    (picture,) = generator.generate([replace(left, regions=regions, config=config, pose=pose)])
    assert picture.shape == (512, 768, 3) and picture.std() > 0
