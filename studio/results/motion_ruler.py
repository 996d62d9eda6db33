"""Which motion a clip shows: that of the rendered clip of somebody else that moves most like it.

A clip becomes tracks: a number for each frame of how eyes, brows, nose and mouth lie in the face and how large they are
(by the pack's parser), of light from left or right, and of the background's change. Tracks are smoothed, and all
but the background's are centred on the clip's own mean: who is shown, and how, does not count, only what moves.

Shapes: `N` clips, `F` frames, `T` tracks, `S` side in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from factory.config import PrepareConfig
from factory.faces.align import FFHQ_512, align, similarity
from factory.faces.parse import FaceParser
from factory.faces.scan import Scan
from factory.pack import Pack
from studio.world.motions import MOTIONS, NUM_FRAMES, sample_clip
from studio.world.people import Person
from studio.world.render import render

STILL = "still"  # nothing moves
ALL = (*MOTIONS, STILL)
TRACKS = ("yaw", "pitch", "mouth_height", "roll", "brows", "eyes", "mouth_open", "mouth_width", "light",
          "change_above", "change_below")  # fmt: skip
_NUM_CENTRED = 9  # tracks before those whose level tells more than how they run
_SIDES = ((2, 4), (3, 5))  # brow and eye, left and right as one sees the picture
_EYES, _BROWS, _SKIN, _NOSE, _MOUTH_INSIDE, _MOUTH = (4, 5), (2, 3), (1, 10), (10,), (11,), (11, 12, 13)
_LOOKED_AT = 4  # frames in which the face is looked for
_FLOOR = 0.15  # of a track's spread over all motions, added to its spread within one
_LABEL_ERROR_PX = 2  # by which the edge of the background may be missed


@dataclass(frozen=True, slots=True)
class Parsed:
    """A clip cut out where the face is, by one similarity for all frames, so that the head moves in it."""

    crops: np.ndarray  # uint8 [F, S, S, 3] RGB
    labels: np.ndarray  # int64 [F, S, S], CelebAMask-HQ classes in BiSeNet's order


def rendered(person: Person, motion: str, rng_key: Sequence[int], size: int) -> np.ndarray:
    """A rendered clip in a plain scene, uint8 [F, S, S, 3]; pose and light come from `rng_key`."""
    clip = sample_clip(np.random.default_rng(rng_key), motion="smiling" if motion == STILL else motion, context="plain")
    scenes = [clip.scenes[0]] * NUM_FRAMES if motion == STILL else clip.scenes
    return np.stack([render(person, scene, size=size).image for scene in scenes])


class MotionRuler:
    """Compares clips with rendered ones. Torch's threads are the caller's."""

    def __init__(self, pack: Pack, people: Sequence[Person]) -> None:
        """Render and parse clips of `people` in every motion and at rest: about a second a clip of a core."""
        self._scan, self._parser = Scan(pack, PrepareConfig().min_score, 1), FaceParser(pack)
        asked = [(number, motion) for number in range(len(people)) for motion in ALL]
        tracks_NFT = np.stack(
            [self.tracks(self.parse(rendered(people[k], motion, [0x2E5, k], pack.resolution))) for k, motion in asked]
        )
        self._names = np.array([motion for _, motion in asked])
        own = [tracks_NFT[self._names == motion] for motion in ALL]
        within_T = np.mean([part.std(0) for part in own], axis=(0, 1))
        self._spread_T = within_T + _FLOOR * tracks_NFT.std((0, 1)) + 1e-9
        self._known_NFT = tracks_NFT / self._spread_T

    def parse(self, frames: np.ndarray) -> Parsed:
        """Cut out and label a clip uint8 [F, S, S, 3]; where no face is found, the frames as they are."""
        side = frames.shape[1]
        some = frames[np.linspace(0, len(frames) - 1, _LOOKED_AT).round().astype(int)]
        found = [faces[0].landmarks for faces in map(self._scan, some) if faces]
        place = similarity(np.mean(found, 0), FFHQ_512 * (side / 512)) if found else np.eye(2, 3)
        crops = np.stack([align(frame, place, side) for frame in frames])
        return Parsed(crops, self._parser.labels(crops))

    def tracks(self, clip: Parsed) -> np.ndarray:
        """What moves in a clip, float64 [F, T]."""
        inside_FT = np.array([_face(*frame) for frame in zip(clip.labels, clip.crops, strict=True)])
        tracks_FT = np.column_stack([inside_FT, _background_change(clip)])
        for track in tracks_FT.T:
            track[:] = np.convolve(np.pad(_filled(track), 1, mode="edge"), [0.25, 0.5, 0.25], mode="valid")
        tracks_FT[:, :_NUM_CENTRED] -= tracks_FT[:, :_NUM_CENTRED].mean(0)
        return tracks_FT

    def name(self, clip: Parsed) -> str:
        """The motion, or STILL, of the nearest reference."""
        away_N = np.square(self.tracks(clip) / self._spread_T - self._known_NFT).sum((1, 2))
        return str(self._names[int(away_N.argmin())])


def flicker(clip: Parsed) -> float:
    """Mean change from frame to frame, in levels of 255, of what is background in all frames; NaN without any."""
    everywhere = (clip.labels == 0).all(0).astype(np.uint8)
    width = 2 * _LABEL_ERROR_PX + 1
    still = cv2.erode(everywhere, np.ones((width, width), np.uint8)).astype(bool)
    changes = np.abs(np.diff(clip.crops.astype(np.float64), axis=0)).mean((0, 3))
    return float(changes[still].mean()) if still.any() else float("nan")


def _face(labels: np.ndarray, crop: np.ndarray) -> list[float]:
    """The first _NUM_CENTRED tracks of a frame; NaN for what is not seen. Lengths in distances between the eyes."""
    left, right = (_centre(labels, classes) for classes in _SIDES)
    nose, mouth, eyes, brows = (_centre(labels, classes) for classes in (_NOSE, _MOUTH, _EYES, _BROWS))
    across, middle = right - left, (left + right) / 2
    unit = float(np.hypot(*across))
    if not unit > 0:  # NaN, too
        return [np.nan] * _NUM_CENTRED
    along, down = across / unit, np.array([-across[1], across[0]]) / unit
    wide = (np.argwhere(np.isin(labels, _MOUTH))[:, ::-1] @ along) if np.isfinite(mouth[0]) else np.zeros(1)
    return [
        float((nose - middle) @ along / unit),
        float((nose - middle) @ down / unit),
        float((mouth - middle) @ down / unit),
        float(np.arctan2(across[1], across[0])),
        float((eyes - brows) @ down / unit),
        np.isin(labels, _EYES).sum() / unit**2,
        np.isin(labels, _MOUTH_INSIDE).sum() / unit**2,
        float(np.ptp(np.quantile(wide, [0.03, 0.97])) / unit),
        _light(labels, crop, middle, along),
    ]


def _light(labels: np.ndarray, crop: np.ndarray, middle: np.ndarray, along: np.ndarray) -> float:
    """How much brighter the skin right of the face's middle is than left of it, as a share of both together."""
    places = np.argwhere(np.isin(labels, _SKIN))
    if not len(places):
        return float("nan")
    bright = crop[places[:, 0], places[:, 1]].mean(1)
    right = (places[:, ::-1] - middle) @ along > 0
    if right.all() or not right.any():
        return float("nan")
    a, b = bright[right].mean(), bright[~right].mean()
    return float((a - b) / max(a + b, 1.0))


def _background_change(clip: Parsed) -> np.ndarray:
    """Logarithm of the change against the frame before, above and below the middle, float64 [F, 2]; the first frame has
    the second one's."""
    changes = np.abs(np.diff(clip.crops.astype(np.float64), axis=0)).mean(3)
    both = (clip.labels[1:] == 0) & (clip.labels[:-1] == 0)
    half = clip.labels.shape[1] // 2
    halves = [
        [
            float(change[part][seen[part]].mean()) if seen[part].any() else np.nan
            for part in (slice(half), slice(half, None))
        ]
        for change, seen in zip(changes, both, strict=True)
    ]
    return np.log1p(np.array([halves[0], *halves]))


def _centre(labels: np.ndarray, classes: Sequence[int]) -> np.ndarray:
    """Mean place x y of the pixels of some classes, px; NaN without one."""
    places = np.argwhere(np.isin(labels, classes))
    return places.mean(0)[::-1] if len(places) else np.full(2, np.nan)


def _filled(track_F: np.ndarray) -> np.ndarray:
    """A track with what is missing drawn straight between its neighbours; zeros where nothing is there."""
    seen = np.flatnonzero(np.isfinite(track_F))
    return np.interp(np.arange(len(track_F)), seen, track_F[seen]) if len(seen) else np.zeros(len(track_F))
