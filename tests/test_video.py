"""Clips: frames that see each other, in the engine that draws everything."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import MotionAdapter
from safetensors.torch import load_file, save_file

from factory.base.diffusion import DiffusionBase
from factory.config import AnimateConfig, GenerateConfig
from factory.draw.compose import compose_clip
from factory.draw.engine import Engine
from factory.draw.motion import ClipRows, MotionLayers, MotionText, clip_noise
from factory.draw.video import ClipGenerator, VideoBase
from factory.errors import IncompatibleIdentity, PackError, SceneRefused
from factory.faces.pose import HeadPose
from factory.pack import Pack, load_pack
from factory.records import ClipRequest, PoseControl
from tests.make_pack import make_pack
from tests.serving import person
from tests.test_engine import SHORT, draw, request


@pytest.fixture(scope="module")
def base(tiny_pack_moving: Pack) -> DiffusionBase:
    return DiffusionBase.load(tiny_pack_moving, dtype=torch.float32)


def clip(base: DiffusionBase, number: int, num_frames: int = 4, prompt: str = "a photo of <person>") -> ClipRequest:
    who = request(base, number).identity
    config = AnimateConfig(num_frames=num_frames, generate=SHORT)
    return ClipRequest(identity=who, prompt=prompt, seed=number, config=config)


def clip_alone(base: DiffusionBase, one: ClipRequest) -> np.ndarray:
    engine = Engine(base)
    return np.stack(draw(engine, engine.add_clip(one)))


def apart(one: np.ndarray, other: np.ndarray) -> int:
    return int(np.abs(one.astype(int) - other).max())


def test_a_clip_does_not_depend_on_its_company(base: DiffusionBase) -> None:
    first, second, picture = clip(base, 1), clip(base, 2, num_frames=3), request(base, 3)
    expected = [clip_alone(base, first), clip_alone(base, second)]
    engine = Engine(base)
    still = engine.add([picture])
    rows = engine.add_clip(first)
    engine.step()
    others = engine.add_clip(clip(base, 9)), engine.add_clip(second)
    engine.step()
    engine.drop(others[0][2])  # a frame goes, and its clip with it
    assert len(engine.rows) == 1 + 4 + 3
    drawn = draw(engine, [*rows, *others[1], *still])
    assert apart(np.stack(drawn[:4]), expected[0]) <= 1
    assert apart(np.stack(drawn[4:7]), expected[1]) <= 1
    plain = Engine(base)
    assert apart(drawn[7], draw(plain, plain.add([picture]))[0]) <= 1


def test_a_clip_is_never_split_over_calls(base: DiffusionBase) -> None:
    one = clip(base, 1)
    engine = Engine(base, max_samples=6)  # a guided clip of four frames takes eight
    other = engine.add([request(base, 5)])
    rows = engine.add_clip(one)
    assert apart(np.stack(draw(engine, [*rows, *other])[:4]), clip_alone(base, one)) <= 1


def test_frames_see_each_other(base: DiffusionBase) -> None:
    """Another noise in the last frame changes the first one."""
    pictures = []
    for nudge in (0.0, 1.0):
        engine = Engine(base)
        rows = engine.add_clip(clip(base, 1))
        rows[-1].x_CHW = rows[-1].x_CHW + nudge * torch.ones_like(rows[-1].x_CHW)
        pictures.append(draw(engine, rows)[0])
    assert apart(*pictures) > 1


def test_motion_layers_follow_the_text_through_their_reader(base: DiffusionBase) -> None:
    part = base.pack.motion
    assert part is not None
    folder = base.pack.folder(part)
    fresh = DiffusionBase.load(base.pack, dtype=torch.float32)
    reader = MotionText.from_pretrained(folder / "text")
    layers = MotionLayers(fresh.unet, MotionAdapter.from_pretrained(folder / "adapter"), reader)
    random = torch.Generator().manual_seed(0)
    x, steps = torch.randn(4, 4, 8, 8, generator=random), torch.full((4,), 500.0)
    text = torch.randn(1, 77, 32, generator=random).expand(4, -1, -1)
    told = [torch.zeros_like(text), torch.ones_like(text) * torch.linspace(-1, 1, 32)]
    outputs = []
    for read in told:  # the UNet itself reads the same text in both
        with torch.no_grad(), layers.of([ClipRows(0, 4)], read):
            outputs.append(fresh.denoise(x, steps, text))
    assert (outputs[0] - outputs[1]).abs().max() > 1e-4
    with torch.no_grad(), layers.of([ClipRows(0, 4)], told[0], torch.arange(4)):
        assert torch.allclose(fresh.denoise(x, steps, text), outputs[0], atol=1e-6)
    with torch.no_grad(), layers.of([ClipRows(0, 4)], told[0], torch.arange(0, 8, 2)):
        assert (fresh.denoise(x, steps, text) - outputs[0]).abs().max() > 1e-5
    with torch.no_grad():  # and without clips it is the base model's
        plain = DiffusionBase.load(base.pack, dtype=torch.float32).denoise(x, steps, text)
        assert torch.equal(fresh.denoise(x, steps, text), plain)


def test_animatediffs_own_layers_need_no_reader(base: DiffusionBase, tmp_path: Path) -> None:
    pack = load_pack(make_pack(tmp_path / "plain", clips="motion"))
    assert pack.motion is not None
    with_reader = clip_alone(DiffusionBase.load(pack, dtype=torch.float32), clip(base, 1))
    (pack.folder(pack.motion) / "text").rename(tmp_path / "away")
    assert apart(clip_alone(DiffusionBase.load(pack, dtype=torch.float32), clip(base, 1)), with_reader) > 1


def test_poses_drive_a_clip(base: DiffusionBase) -> None:
    skeletons = [np.full((64, 64, 3), value, np.uint8) for value in (0, 80, 160, 255)]
    one = clip(base, 1)
    posed = replace(one, poses=tuple(PoseControl(skeleton=skeleton) for skeleton in skeletons))
    assert apart(clip_alone(base, posed), clip_alone(base, one)) > 1


def test_noise_of_a_clip_is_normal_and_partly_shared() -> None:
    noise = clip_noise((64, 4, 16, 16), torch.Generator().manual_seed(0), 0.5).flatten(1)
    assert noise.std().item() == pytest.approx(1, abs=0.02)
    assert torch.corrcoef(noise)[~torch.eye(64, dtype=torch.bool)].mean().item() == pytest.approx(0.5, abs=0.03)


def test_a_whole_video_model_draws_clips_of_stored_words(tiny_pack_video: Pack) -> None:
    generator = ClipGenerator(tiny_pack_video)
    assert isinstance(generator.base, VideoBase)
    ours, steps = [clip(generator.base, 1), clip(generator.base, 2, num_frames=3)], list[int]()
    drawn = generator.generate(ours, on_step=lambda done, _: steps.append(done))
    assert [frames.shape for frames in drawn] == [(4, 32, 32, 3), (3, 32, 32, 3)]
    assert steps == [2, 4, 6, 8]
    assert apart(generator.generate([ours[1]])[0], drawn[1]) <= 6  # bfloat16 where it is native
    other_words = clip(generator.base, 3, num_frames=3)
    assert apart(generator.generate([replace(other_words, seed=2)])[0], drawn[1]) > 1
    own = person(1, "ada", tiny_pack_video.fingerprint())
    compose = partial(compose_clip, "<person> nods", 0, pack=tiny_pack_video, own=own, find=lambda _: own)
    with pytest.raises(SceneRefused, match="follows no poses"):
        compose(AnimateConfig(num_frames=4), poses=[HeadPose()])
    wide = compose(AnimateConfig(num_frames=4, generate=GenerateConfig(width_px=64, height_px=32)))
    assert wide.poses == () and generator.generate([wide])[0].shape == (4, 32, 64, 3)
    with pytest.raises(PackError, match="follows no poses"):
        generator.generate([replace(ours[0], poses=(PoseControl(skeleton=np.zeros((32, 32, 3), np.uint8)),) * 4)])


def test_a_video_model_with_another_text_encoder_is_refused(tmp_path: Path) -> None:
    pack = load_pack(make_pack(tmp_path / "tuned", clips="video"))
    assert pack.video is not None
    file = pack.folder(pack.video) / "text_encoder" / "model.safetensors"
    weights = load_file(file)
    save_file({name: value.clone() for name, value in weights.items()}, file)  # another file, the same numbers
    VideoBase.load(pack)
    save_file({name: value * 1.1 for name, value in weights.items()}, file, metadata={"format": "pt"})
    with pytest.raises(PackError, match="mean nothing to it"):
        VideoBase.load(pack)


def test_what_cannot_be_made_is_said(base: DiffusionBase, tiny_pack: Pack) -> None:
    with pytest.raises(ValueError, match="2 to 16 frames, not 17"):
        Engine(base).add_clip(clip(base, 1, num_frames=17))
    with pytest.raises(PackError, match=r"neither a \[motion\] nor a \[video\]"):
        ClipGenerator(tiny_pack)
    with pytest.raises(PackError, match="makes no clips"):
        Engine(DiffusionBase.load(tiny_pack)).add_clip(clip(base, 1))
    stranger = clip(base, 1)
    with pytest.raises(IncompatibleIdentity):
        Engine(base).add_clip(replace(stranger, identity=replace(stranger.identity, fingerprint="0" * 16)))
