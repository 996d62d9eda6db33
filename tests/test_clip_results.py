"""The ruler of motions on drawn label maps, and what becomes of a clip's cells."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from studio.results.clips import Cell, bars, figures, page, prompt_of, write
from studio.results.motion_ruler import TRACKS, MotionRuler, Parsed, flicker, rendered
from studio.training.dataset import held_out

SIDE, NUM = 96, 16


def drawn(yaw: float = 0.0, roll: float = 0.0, mouth: float = 0.0, light: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """A crop and labels of a face of discs: `yaw` px of the nose, `roll` degrees, `mouth` px that it is open."""
    labels = np.zeros((SIDE, SIDE), np.uint8)
    for (x, y), radius, name in [
        ((48, 50), 32, 1), ((36, 40), 4, 4), ((60, 40), 4, 5), ((36, 32), 3, 2), ((60, 32), 3, 3),
        ((48 + yaw, 52), 4, 10), ((48, 66), 7, 12),
    ]:  # fmt: skip
        cv2.circle(labels, (round(x), round(y)), radius, name, cv2.FILLED)
    if mouth:
        cv2.circle(labels, (48, 66), round(mouth), 11, cv2.FILLED)
    turn = cv2.getRotationMatrix2D((48, 48), -roll, 1.0)
    labels = cv2.warpAffine(labels, turn, (SIDE, SIDE), flags=cv2.INTER_NEAREST)
    shade = 120 + light * (np.arange(SIDE) - 48)
    return np.repeat(np.broadcast_to(shade, (SIDE, SIDE))[..., None], 3, 2).astype(np.uint8), labels.astype(np.int64)


def clip(**paths: np.ndarray) -> Parsed:
    frames = [drawn(**{name: float(path[k]) for name, path in paths.items()}) for k in range(NUM)]
    return Parsed(np.stack([crop for crop, _ in frames]), np.stack([labels for _, labels in frames]))


@pytest.mark.parametrize(
    ("name", "track", "path"),
    [
        ("yaw", "yaw", np.linspace(-8, 8, NUM)),
        ("roll", "roll", np.linspace(-15, 15, NUM)),
        ("mouth", "mouth_open", np.linspace(0, 5, NUM)),
        ("light", "light", np.linspace(-1, 1, NUM)),
    ],
)
def test_each_track_follows_its_own_motion(name: str, track: str, path: np.ndarray) -> None:
    ruler = MotionRuler.__new__(MotionRuler)  # tracks need no reference
    tracks_FT = ruler.tracks(clip(**{name: path}))
    still_FT = ruler.tracks(clip())
    assert np.corrcoef(tracks_FT[:, TRACKS.index(track)], path)[0, 1] > 0.95
    assert np.abs(still_FT).max() < 1e-9, "nothing moves"
    others = [number for number, other in enumerate(TRACKS[:9]) if other not in (track, "mouth_width", "yaw", "pitch")]
    assert np.ptp(tracks_FT[:, others], axis=0).max() < np.ptp(tracks_FT[:, TRACKS.index(track)])


def test_what_is_not_seen_is_drawn_straight_between_neighbours() -> None:
    parsed = clip(yaw=np.linspace(-8, 8, NUM))
    blind = parsed.labels.copy()
    blind[5] = 0
    ruler = MotionRuler.__new__(MotionRuler)
    whole, gap = ruler.tracks(parsed), ruler.tracks(Parsed(parsed.crops, blind))
    assert np.abs(whole - gap)[:, 0].max() < 0.05 and np.isfinite(gap).all()


def test_flicker_counts_the_background_alone() -> None:
    parsed = clip()
    crops = parsed.crops.copy()
    crops[::2, 40:56, 40:56] += 50  # in the face
    assert flicker(Parsed(crops, parsed.labels)) == 0
    crops[::2] += 3
    assert flicker(Parsed(crops, parsed.labels)) == pytest.approx(3)
    assert np.isnan(flicker(Parsed(crops, np.ones_like(parsed.labels))))


def test_rendered_clips_move_unless_they_are_still() -> None:
    frames = rendered(held_out(60), "turning", [1], 32)
    assert frames.shape == (16, 32, 32, 3) and (frames[0] != frames[-1]).any()
    assert (np.diff(rendered(held_out(60), "still", [1], 32).astype(int), axis=0) == 0).all()


CELL = Cell(
    motion="turning", seen="turning", seen_real="turning", face_sim=[0.8] * 15 + [0.6], face_sim_single=[0.8] * 4,
    near=0.9, near_real=0.95, near_single=0.7, ends=0.8, ends_real=0.85, clip_t=0.3, clip_t_single=0.3, flicker=1.0,
    flicker_real=0.0,
)  # fmt: skip


def test_figures_and_bars_are_means_over_people() -> None:
    wrong = replace(CELL, motion="snow", seen="still", near=0.7, flicker=float("nan"))
    lost = replace(CELL, face_sim=[0.8] * 15 + [float("nan")])
    at = figures([[CELL, wrong], [lost, wrong]])
    assert at["seen"].value == 0.5 and at["seen_real"].value == 0.5
    assert at["near_placed"].value == pytest.approx((0.2 + 0.0) / 2 / 0.25)
    assert at["flicker"].value == 1.0, "a background that should move does not count"
    assert at["worst"].value == pytest.approx((3 * 0.6 / 0.7875 + 0) / 4), "a frame without a face is the worst"
    assert at["found"].value == pytest.approx((3 + 15 / 16) / 4)
    verdicts = [bar.verdict for bar in bars(at)]
    assert verdicts == ["reached", "not reached", "not reached", "not reached"]


def test_the_page_names_what_was_seen_instead(tmp_path: Path) -> None:
    wrong = replace(CELL, motion="snow", seen="still", flicker=float("nan"))
    rows = [[CELL, wrong], [CELL, wrong]]
    text = page(rows)
    assert "| snow falling | 0 of 2 | 0 of 2 | still 2 | 0.788 |" in text
    assert "| turning the head | 2 of 2 | 2 of 2 | - |" in text and "nan" not in text
    write(rows, {"ada, snow": np.zeros((16, 32, 32, 3), np.uint8)}, tmp_path)
    assert json.loads((tmp_path / "clips.json").read_text())["cells"][0][1]["flicker"] is None
    assert {file.name for file in tmp_path.iterdir()} == {"clips.json", "clips.md", "clips.webp"}


def test_prompts_name_the_motion_and_the_place_it_needs() -> None:
    assert prompt_of("turning") == "a photo of <person> turning the head"
    assert prompt_of("snow") == "a photo of <person> in the snow snow falling"
