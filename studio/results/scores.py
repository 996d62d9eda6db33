"""From rows of `metrics` to the numbers of a table: means over people with their intervals, ratios and differences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from factory.measure.formulas import Interval, Resampled, bootstrap, frechet_distance, jackknife, mean_of, nearest_share
from factory.records import PictureMetrics

# Column, whether more is better, and the number that tables multiply it by (the paper gives cosines times 100).
MEASURES: dict[str, tuple[str, bool, float]] = {
    "clip_i": ("CLIP-I", True, 100),
    "clip_t": ("CLIP-T", True, 100),
    "face_sim": ("Face Sim", True, 100),
    "face_div": ("Face Div", True, 100),
    "trusted_div": ("Trusted Div", True, 100),
    "fid": ("FID", False, 1),
    "nearest": ("nearest, %", True, 100),
    "found": ("faces, %", True, 100),
}
PER_PICTURE = ("clip_i", "clip_t", "face_sim", "face_div", "trusted_div")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """One arm's measures, a number a person, people in the order of the protocol."""

    people: dict[str, np.ndarray]  # measure -> float64 [P], mean over the person's pictures
    features: list[np.ndarray]  # a person's pictures, float32 [N, K]
    faces: list[np.ndarray]  # float32 [N, E], NaN where no face was found

    @property
    def num_people(self) -> int:
        """P."""
        return len(self.features)

    @property
    def num_pictures(self) -> int:
        """Over all people."""
        return sum(len(features) for features in self.features)


def scores_of(pictures: Sequence[Sequence[PictureMetrics]], gallery: np.ndarray) -> Scores:
    """The measures of each person's pictures. `gallery` is the judge's embedding of each person's photo, [P, E]."""
    faces = [np.stack([_embedding(m, gallery.shape[1]) for m in own]) for own in pictures]
    people = {
        name: np.array([float(mean_of(np.array([getattr(m, name) for m in own]))) for own in pictures])
        for name in PER_PICTURE
    }
    people["nearest"] = np.array([nearest_share(found, gallery, own) for own, found in enumerate(faces)])
    people["found"] = np.array([np.isfinite(found[:, 0]).mean() for found in faces])
    return Scores(people=people, features=[np.stack([m.features for m in own]) for own in pictures], faces=faces)


def _embedding(metrics: PictureMetrics, width: int) -> np.ndarray:
    return metrics.face_embedding if metrics.face_embedding.size else np.full(width, np.nan, np.float32)


def table_row(scores: Scores, reference: np.ndarray | None) -> dict[str, Interval]:
    """Every measure with its interval; FID against `reference` [M, K] if there is one."""
    row = {name: bootstrap(_mean(values), scores.num_people) for name, values in scores.people.items()}
    if reference is not None:
        row["fid"] = jackknife(lambda who: _fid(scores, who, reference), scores.num_people)
    return row


def difference(a: Scores, b: Scores, measure: str, reference: np.ndarray | None = None) -> Interval:
    """a - b on the same people, paired."""
    if measure == "fid":
        assert reference is not None
        return jackknife(lambda who: _fid(a, who, reference) - _fid(b, who, reference), a.num_people)
    return bootstrap(_mean(a.people[measure] - b.people[measure]), a.num_people)


def ratio(a: Scores, b: Scores, measure: str) -> Interval:
    """Mean of a / mean of b. Paired where both are the same people; for other people the pairing is arbitrary."""
    top, bottom = a.people[measure], b.people[measure]
    num = min(len(top), len(bottom))
    return bootstrap(lambda who: mean_of(top[who]) / mean_of(bottom[who]), num)


def verification(scores: Scores, gallery: np.ndarray, measure: Callable[[np.ndarray, np.ndarray], float]) -> Interval:
    """`measure` of genuine and impostor cosines: each person's pictures against the own photo and everybody else's."""
    genuine: list[np.ndarray] = []
    impostor: list[np.ndarray] = []
    for own, faces in enumerate(scores.faces):
        cosines = faces[np.isfinite(faces[:, 0])] @ gallery.T
        genuine.append(cosines[:, own])
        impostor.append(np.delete(cosines, own, axis=1).ravel())

    def statistic(draws: np.ndarray) -> np.ndarray:
        return np.array(
            [measure(np.concatenate([genuine[i] for i in who]), np.concatenate([impostor[i] for i in who]))
             for who in draws]
        )  # fmt: skip

    return bootstrap(statistic, scores.num_people, resamples=200)


def by_identity(rows: Sequence[PictureMetrics]) -> dict[str, list[PictureMetrics]]:
    """Rows of each identity, in one order."""
    sorted_rows: dict[str, list[PictureMetrics]] = {}
    for metrics in sorted(rows, key=lambda m: (m.prompt, m.seed)):
        sorted_rows.setdefault(metrics.identity_id, []).append(metrics)
    return sorted_rows


def _mean(values: np.ndarray) -> Resampled:
    return lambda who: mean_of(values[who])


def _fid(scores: Scores, who: np.ndarray, reference: np.ndarray) -> float:
    return frechet_distance(np.concatenate([scores.features[i] for i in who]), reference)
