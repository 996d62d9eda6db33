"""Faces of one person or of two, and near-duplicates: how alike FR-ViT features are. The pack says from where on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from factory.consent import Consent
from factory.records import PreparedFace

MOST_PHOTOS: Final = 16  # of a person that jobs learn together
_ROWS: Final = 256  # faces that are compared with all others at once: 100 MB of products for 100,000 faces


def of_one_person(faces: Sequence[PreparedFace]) -> PreparedFace:
    """Faces that are known to be one person's, from as many photos, to be learned as one: the first by face_id with the
    `more`, whatever order they came in. The consent is what all of them agree to: it ends when the first one does.

    Raises ValueError if two are of one photo.
    """
    first, *others = sorted(faces, key=lambda face: face.face_id)
    if len({face.photo_id for face in faces}) < len(faces):
        raise ValueError("two faces of one photo are not one person's: give each photo once")
    return replace(first, more=tuple(others), consent=Consent.of_all([face.consent for face in faces]))


def embeddings(crops_NF: np.ndarray, mirrors_NF: np.ndarray) -> np.ndarray:
    """What faces are compared by, float32 [N, F] of length 1: the mean of the features of the crop and of its mirror
    image, so that a mirrored photo is the same."""
    mean_NF = (crops_NF + mirrors_NF).astype(np.float32)
    length_N1 = np.linalg.norm(mean_NF, axis=1, keepdims=True)
    return np.asarray(mean_NF / np.maximum(length_N1, 1e-12), np.float32)


def strangers(faces_NF: np.ndarray, least: float) -> dict[int, float]:
    """Of photos that are said to show one person, by their `embeddings`: the rows of those that surely show somebody
    else, each with its mean cosine to the photos that fit one another.

    A photo fits where its mean cosine to the others is at least `least`. The one that fits worst is left out first, and
    so on until all that remain fit. Where these are not more than half of the photos nobody can say who is meant: then
    all are given, each with its mean cosine to all others.
    """
    cosines_NN, fitting = faces_NF @ faces_NF.T, np.arange(len(faces_NF))
    while len(fitting) > 1:
        means = _to_others(cosines_NN[np.ix_(fitting, fitting)])
        worst = int(np.argmin(means))
        if means[worst] >= least:
            break
        fitting = np.delete(fitting, worst)
    if len(fitting) == len(faces_NF):
        return {}
    if 2 * len(fitting) <= len(faces_NF):
        return {row: float(mean) for row, mean in enumerate(_to_others(cosines_NN))}
    others = sorted(set(range(len(faces_NF))) - set(fitting.tolist()))
    return {row: float(cosines_NN[row, fitting].mean()) for row in others}


def seen_before(faces_NF: np.ndarray, least: float, first: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """For each face an earlier one with a cosine of at least `least`: its row int64 [N], -1 for none, and the cosine.

    The best among those that have none themselves, so that all faces of a person point to the same one and no chain of
    likenesses joins strangers. Rows before `first` are taken to have none, whatever they are like. The cost is a matrix
    product of [N, F] by [F, N - first]; memory grows with N alone.
    """
    num = len(faces_NF)
    earlier, cosine = np.full(num, -1), np.full(num, least, np.float32)
    for start in range(0, num, _ROWS):
        since = max(start, first)
        cosines = faces_NF[start : start + _ROWS] @ faces_NF[since:].T
        for row in range(start, min(start + _ROWS, num)):
            if earlier[row] >= 0:
                continue
            later = max(row + 1, first)
            own = cosines[row - start, later - since :]
            closer = np.flatnonzero(own >= cosine[later:])
            earlier[later + closer], cosine[later + closer] = row, own[closer]
    return earlier, np.where(earlier >= 0, cosine, np.float32(np.nan))


def _to_others(cosines_NN: np.ndarray) -> np.ndarray:
    """Of each of N > 1 faces the mean cosine to the others. [N]."""
    means: np.ndarray = (cosines_NN.sum(1) - cosines_NN.diagonal()) / (len(cosines_NN) - 1)
    return means
