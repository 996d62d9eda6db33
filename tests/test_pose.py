"""Head poses: the renderer's geometry, fits of landmarks, skeletons, and the pose control's start and place."""

from __future__ import annotations

import shutil
from dataclasses import astuple, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel, UNet2DConditionModel

from factory.errors import PackError
from factory.faces import pose as poses
from factory.faces.pose import LIMITS, POINTS, SHIFT_LIMITS, HeadPose, draw_skeleton, fit_pose, landmarks, outline
from factory.pack import Pack, load_pack
from factory.supply.verify import record_hashes, verify_pack
from studio.training import pose as training
from studio.training import pose_data
from studio.training.dataset import held_out
from studio.world import shapes
from studio.world.render import render
from studio.world.scenes import Scene, sample_scene

SIDE = 128


def random_pose(seed: int) -> HeadPose:
    rng = np.random.default_rng(seed)
    shifts = {name: (-limit, limit) for name, limit in SHIFT_LIMITS.items()}
    return HeadPose(**{name: float(rng.uniform(*limits)) for name, limits in {**LIMITS, **shifts}.items()})


def scene_in(pose: HeadPose) -> Scene:
    numbers = {field.name: getattr(pose, field.name) for field in fields(HeadPose)}
    return sample_scene(np.random.default_rng(0), context="plain", **numbers)


def test_the_shared_head_is_made_as_the_renderers() -> None:
    assert (poses.HEAD_UNIT, poses.EYE_LINE, poses.DEPTH) == (shapes.UNIT, shapes.EYE_LINE, shapes.DEPTH)


@pytest.mark.parametrize("seed", range(5))
def test_projection_is_the_renderers(seed: int) -> None:
    pose = random_pose(seed)
    canvas = shapes.blank(scene_in(pose), 8)
    expected = [canvas.project(*point) for point in POINTS.values()]
    np.testing.assert_allclose(outline(pose) * canvas.size, expected, atol=1e-6)


@pytest.mark.parametrize("seed", range(8))
def test_fit_recovers_the_pose_of_the_shared_head(seed: int) -> None:
    pose = replace(random_pose(seed), pitch=0.0)  # five points hardly tell it from a face's proportions
    found = fit_pose(landmarks(pose))
    np.testing.assert_allclose(landmarks(found), landmarks(pose), atol=1.0 / SIDE)
    np.testing.assert_allclose(astuple(found)[:3], astuple(pose)[:3], atol=1.5)
    np.testing.assert_allclose(astuple(found)[3:], astuple(pose)[3:], atol=0.03)


def test_fit_forgets_the_faces_proportions() -> None:
    """People of very different faces in one pose are given nearly the same pose."""
    pose = HeadPose(yaw=18, roll=-8, scale=0.9, dx=0.05)
    people = [render(held_out(number), scene_in(pose)) for number in range(24, 30)]
    found = [fit_pose(person.landmarks / SIDE) for person in people]
    assert max(abs(one.yaw - pose.yaw) for one in found) < 4
    assert max(abs(one.roll - pose.roll) for one in found) < 1.5
    apart = [np.linalg.norm((landmarks(one) - landmarks(pose)) * SIDE, axis=1).mean() for one in found]
    assert float(np.median(apart)) < 1.5


@pytest.mark.parametrize(
    ("points", "complaint"),
    [
        (np.zeros((5, 2)), "both eyes lie at one place"),
        (np.full((5, 2), np.nan), "five finite landmarks"),
        (np.zeros((4, 2)), "five finite landmarks"),
        (np.array([[0.4, 0.5], [0.6, 0.5], [0.5, 0.1], [0.9, 0.6], [0.1, 0.6]]), "no pose"),
    ],
)
def test_landmarks_of_no_face_are_refused(points: np.ndarray, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        fit_pose(points)


def test_a_fit_far_beyond_the_limits_is_refused_and_a_little_is_brought_back() -> None:
    turned = scene_in(HeadPose(yaw=30))
    canvas = shapes.blank(replace(turned, yaw=50.0), 8)
    with pytest.raises(ValueError, match=r"yaw of .* degrees is outside -32..32"):
        fit_pose(np.array([canvas.project(*point) for point in list(POINTS.values())[:5]]) / 8)
    large = (landmarks(HeadPose()) - 0.5) * 1.5 + 0.5
    assert fit_pose(large).scale == LIMITS["scale"][1]


@pytest.mark.parametrize(
    ("numbers", "complaint"),
    [
        ({"yaw": 40}, "yaw 40 is outside -32..32"),
        ({"pitch": -11}, "pitch -11 is outside -10..10"),
        ({"scale": 0.3}, "scale 0.3 is outside 0.65..1.1"),
        ({"roll": float("nan")}, "roll is nan"),
    ],
)
def test_poses_out_of_range_are_refused(numbers: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        HeadPose(**numbers)


def test_a_shift_must_fit_on_the_canvas() -> None:
    aside = HeadPose(dx=0.5)
    with pytest.raises(ValueError, match=r"dx 0.5 is outside -0.14..0.14 on a canvas of 128 x 128 px"):
        draw_skeleton([aside], SIDE, SIDE)
    draw_skeleton([aside, HeadPose(dx=-0.5)], 2 * SIDE, SIDE)


@pytest.mark.parametrize("seed", range(4))
def test_dots_lie_where_the_landmarks_are(seed: int) -> None:
    pose = random_pose(seed)
    drawn = draw_skeleton([pose], SIDE, SIDE)
    assert drawn.shape == (SIDE, SIDE, 3) and drawn.dtype == np.uint8
    for x, y in landmarks(pose) * SIDE:
        rows, columns = np.mgrid[0:SIDE, 0:SIDE] + 0.5
        near = np.hypot(columns - x, rows - y) < 2
        assert (drawn[near] == 255).all()
    assert (draw_skeleton([], SIDE, SIDE) == 0).all()


def test_two_heads_on_one_canvas_are_two_pictures_side_by_side() -> None:
    left, right = HeadPose(yaw=-20), HeadPose(roll=10)
    both = draw_skeleton([replace(left, dx=-0.5), replace(right, dx=0.5)], 2 * SIDE, SIDE)
    alone = [draw_skeleton([pose], SIDE, SIDE) for pose in (left, right)]
    assert np.abs(both.astype(int) - np.concatenate(alone, axis=1)).max() <= 40  # a sixteenth of a pixel


@pytest.fixture(scope="module")
def studio_unet() -> UNet2DConditionModel:
    pack = load_pack("studio")
    unet: UNet2DConditionModel = UNet2DConditionModel.from_pretrained(pack.folder(pack.base) / "unet").float()
    return unet


def test_an_untrained_control_changes_nothing_and_encodes_as_the_unet(studio_unet: UNet2DConditionModel) -> None:
    net, random = training.begin(studio_unet), torch.Generator().manual_seed(0)
    inputs = torch.randn(2, 24, 16, 16, generator=random), torch.tensor([100, 900]), torch.randn(2, 32, 192)
    drawn = pose_data.skeletons(torch.tensor([astuple(HeadPose()), astuple(HeadPose(yaw=20))]))
    seen: list[torch.Tensor] = []
    hooks = [model.mid_block.register_forward_hook(lambda *call: seen.append(call[2])) for model in (studio_unet, net)]
    hooks.append(net.controlnet_cond_embedding.register_forward_hook(lambda *call: call[2] * 0))
    with torch.no_grad():
        studio_unet(*inputs)
        down, mid = net(*inputs, controlnet_cond=drawn, return_dict=False)
    for hook in hooks:
        hook.remove()
    assert len(down) == 4 and all(residual.abs().max() == 0 for residual in (*down, mid))
    torch.testing.assert_close(seen[1], seen[0], atol=1e-3, rtol=1e-3)


def test_a_saved_control_is_loaded_by_diffusers(studio_unet: UNet2DConditionModel, tmp_path: Path) -> None:
    net = training.begin(studio_unet)
    training.save(net, tmp_path / "control")
    loaded = ControlNetModel.from_pretrained(tmp_path / "control")
    assert sum(file.stat().st_size for file in (tmp_path / "control").iterdir()) < 10e6
    for name, value in net.half().state_dict().items():
        assert torch.equal(loaded.state_dict()[name].half(), value), name


def test_posed_pictures_are_of_people_the_base_knows_and_in_range() -> None:
    for item in range(20):
        _, scene, text = pose_data.sample(item)
        assert "<person>" in text
        draw_skeleton([pose_data.pose_of(scene)], SIDE, SIDE)


@pytest.fixture
def with_control(tiny_pack: Pack, tmp_path: Path) -> Pack:
    """The tiny pack with an untrained pose control that fits its UNet."""
    root = tmp_path / "pack"
    shutil.copytree(tiny_pack.root, root)
    unet = UNet2DConditionModel.from_pretrained(root / "base" / "unet")
    training.save(training.make(unet), root / "control" / "pose")
    part = '\n[control.pose]\npath = "control/pose"\nlicence = "test"\nconditioning = "head_pose"\n'
    text = (root / "pack.toml").read_text() + part + "poses = { front = {}, left = { yaw = -30 } }\n"
    (root / "pack.toml").write_text(text)
    pack = load_pack(root)
    record_hashes(pack, "control.pose")
    return pack


def test_a_control_is_a_part_that_changes_no_fingerprint(with_control: Pack, tiny_pack: Pack) -> None:
    assert "control.pose" in with_control.parts()
    assert verify_pack(with_control) == verify_pack(tiny_pack)
    for name in ("fingerprint", "model_fingerprint", "learning_fingerprint"):
        assert getattr(with_control, name)() == getattr(tiny_pack, name)()


def test_a_missing_control_is_a_warning_and_a_changed_one_an_error(with_control: Pack) -> None:
    folder = with_control.folder(with_control.control["pose"])
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"in_channels": 4', '"in_channels": 5'))
    faults = [problem for problem in verify_pack(with_control) if problem.part == "control.pose"]
    assert [problem.level for problem in faults] == ["error", "error"]
    assert "has changed" in faults[0].message and "its in_channels is 5" in faults[1].message
    shutil.rmtree(folder)
    faults = [problem for problem in verify_pack(with_control) if problem.part == "control.pose"]
    assert [problem.level for problem in faults] == ["warning"] and "config.json" in faults[0].message


def test_unknown_conditioning_and_impossible_poses_are_named(with_control: Pack) -> None:
    file = with_control.root / "pack.toml"
    text = file.read_text()
    file.write_text(text.replace("yaw = -30", "yaw = -50"))
    faults = [problem for problem in verify_pack(load_pack(file)) if problem.part == "control.pose.poses"]
    assert "left: pose: yaw -50 is outside -32..32" in faults[0].message
    file.write_text(text.replace("head_pose", "depth"))
    with pytest.raises(PackError, match=r"control\.pose\.conditioning"):
        load_pack(file)


def test_shipped_poses_can_be_drawn() -> None:
    shipped = load_pack("studio").control["pose"]
    assert {"front", "left", "right", "three_quarter_left"} <= set(shipped.poses)
    for numbers in shipped.poses.values():
        draw_skeleton([HeadPose(**numbers)], SIDE, SIDE)
    assert load_pack("sd21").control["pose"].conditioning == "openpose"
