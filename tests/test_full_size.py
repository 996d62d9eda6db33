"""The production path at its real size: SD 2.1-base's architecture with random weights learns a step, draws a step,
makes a clip with ModelScopeT2V's beside it, and sculpts two updates of a head.

About 6 GB of weights are written to a temporary folder, and some ten minutes pass on two CPU cores: `pytest -m slow`.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from factory.config import AnimateConfig, GenerateConfig, Recipe, SculptConfig, TrainConfig
from factory.draw.clips import decode_mp4
from factory.draw.compose import compose_clip
from factory.draw.heads import make_head
from factory.draw.images import ImageGenerator
from factory.draw.sculpt import Sculptor
from factory.draw.splat_files import from_ply
from factory.draw.video import ClipGenerator, VideoBase
from factory.errors import PackError
from factory.faces.encode import FeatureEncoder
from factory.faces.openpose import draw_bodies
from factory.learn.trainer import load_trainer
from factory.pack import Pack, load_pack
from factory.records import (
    TEXT_ENCODER,
    FaceMasks,
    Identity,
    ImageRequest,
    PoseControl,
    PreparedFace,
    Region,
    SculptRequest,
)
from tests.make_pack import make_pack
from tests.serving import person as anybody
from tests.test_engine import request
from tests.test_openpose import standing

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Pack:
    """SD 2.1-base, thibaud's OpenPose ControlNet for it and ModelScope's UNet3D, with random weights."""
    return load_pack(make_pack(tmp_path_factory.mktemp("packs") / "sd21", size="sd21", pose=True, clips="video"))


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


def test_modelscopes_model_makes_a_clip_of_stored_words(pack: Pack) -> None:
    ada = person(pack)
    config = AnimateConfig(num_frames=4, generate=GenerateConfig(num_inference_steps=1, guidance_scale=1.0))
    ask = partial(compose_clip, "a photo of <person> nodding", 0, config, pack=pack, find=lambda _: ada)
    maker = ClipGenerator(pack)
    widths = maker.base.unet.config.block_out_channels
    assert tuple(widths) == (320, 640, 1280, 1280) and maker.base.unet.config.cross_attention_dim == 1024
    frames, others = maker.generate([ask(own=ada), ask(own=replace(ada, words=person(pack, 2).words))])
    assert frames.shape == (4, 256, 256, 3) and frames.std() > 0
    assert np.abs(frames.astype(int) - others).max() > 0, "another person's words make another clip"


def test_a_video_model_with_a_fine_tuned_text_encoder_is_refused(pack: Pack, tmp_path: Path) -> None:
    """One layer of 23 was trained further; the UNet is not even read."""
    assert pack.video is not None
    shutil.copytree(pack.folder(pack.video) / "text_encoder", tmp_path / "video" / "text_encoder")
    file = tmp_path / "video" / "text_encoder" / "model.safetensors"
    weights = load_file(file)
    (trained,) = [name for name in weights if name.endswith("layers.22.mlp.fc1.weight")]
    save_file({**weights, trained: weights[trained] * 1.1}, file, metadata={"format": "pt"})
    elsewhere = pack.video.model_copy(update={"path": str(tmp_path / "video")})
    with pytest.raises(PackError, match=r"\(1 of \d+ tensors differ\)"):
        VideoBase.load(pack.model_copy(update={"video": elsewhere}))


def test_two_updates_of_a_head_all_around(pack: Pack) -> None:
    """Interval score matching with view words, as this pack's pose control shows no heads; 256 px to save minutes."""
    config = SculptConfig(
        objective="ism", num_iterations=2, views_per_iteration=1, side_px=256, num_gaussians=500, yaw_limit=180,
        pitch_limit=30, first_t=(0.2, 0.3), guidance_scale=7.5,
    )  # fmt: skip
    request = SculptRequest(identity=person(pack), prompt="a photo of <person>", config=config)
    kept: list[int] = []
    head = make_head(
        Sculptor(pack), request, "0" * 16, kept=None, keep=lambda state, done, s: kept.append(done),
        on_step=lambda done, of: None, checkpoint_every_s=0.0,
    )  # fmt: skip
    assert kept == [1] and head.poster.shape == (256, 256, 3) and decode_mp4(head.turntable).shape[0] == 24
    assert len(from_ply(head.splats)) >= 400


def person(pack: Pack, number: int = 1) -> Identity:
    words = np.random.default_rng(number).normal(scale=0.02, size=(2, 1024)).astype(np.float32)
    return replace(anybody(number, "ada", pack.fingerprint()), words={TEXT_ENCODER: words})
