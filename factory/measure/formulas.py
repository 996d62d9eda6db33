"""The measures of the paper's tables, as functions of embeddings and distances; networks are in pictures.py.

Scores are plain numbers (cosines in -1..1, distances from 0); tables multiply by 100 as the paper does. A face that was
not found is NaN, and averages are over what was measured. Shape suffixes here: `N` pictures, `M` others, `E` embedding
width, `K` feature width, `P` people, `L` positions, `C` channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional
from torchmetrics.functional.classification import binary_auroc
from torchmetrics.image.fid import FrechetInceptionDistance

Statistic = Callable[[np.ndarray], float]  # of identities, given by their numbers, int64 [n]
Resampled = Callable[[np.ndarray], np.ndarray]  # the same for R draws with repetition, int64 [R, n] -> float64 [R]


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosine of vectors [..., E]: CLIP-I of image embeddings, CLIP-T of image and text, Face Sim of faces."""
    norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    return (a * b).sum(-1) / np.maximum(norms, 1e-12)


def perceptual_distances(layers: Sequence[torch.Tensor]) -> np.ndarray:
    """LPIPS without its learned weights (Zhang et al., arXiv 1801.03924, Eq. 1), between all pairs, float64 [N, N].

    Each layer is [N, L, C]: channels of length 1 at every position, half the squared difference (so 1 - cosine),
    averaged over positions, then over layers. In 0..2.
    """
    cosines = torch.zeros(layers[0].shape[0], layers[0].shape[0], dtype=torch.float64)
    for layer_NLC in layers:
        unit = functional.normalize(layer_NLC.double(), dim=-1).flatten(1)
        cosines += unit @ unit.T / layer_NLC.shape[1]
    return (1 - cosines / len(layers)).clamp(min=0).numpy()


def pair_means(values_NN: np.ndarray) -> np.ndarray:
    """Each picture's mean over its pairs with the others that were measured, [N]; NaN without such a pair.

    With every picture measured their mean is the mean over all pairs. `values_NN` is symmetric, NaN where unmeasured.
    """
    others = values_NN.astype(np.float64).copy()
    np.fill_diagonal(others, np.nan)
    measured = np.isfinite(others)
    sums, counts = np.where(measured, others, 0).sum(1), measured.sum(1)
    return np.divide(sums, counts, out=np.full(len(others), np.nan), where=counts > 0)


def face_diversity(distances_NN: np.ndarray) -> np.ndarray:
    """Face Div of each picture: mean perceptual distance to the identity's other faces, [N]."""
    return pair_means(distances_NN)


def trusted_diversity(faces_NE: np.ndarray, distances_NN: np.ndarray) -> np.ndarray:
    """Trusted Div of each picture: mean over its pairs of Face Sim x Face Div, [N].

    Face Sim of a pair is the cosine of its two faces, so that diversity counts as far as both show one person.
    """
    return pair_means(cosine(faces_NE[:, None], faces_NE[None]) * distances_NN)


class _AsTheyAre(torch.nn.Module):
    """Stands where torchmetrics wants a network: features were computed before."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_features = width

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features


def frechet_distance(features_NK: np.ndarray, reference_MK: np.ndarray) -> float:
    """FID: the Frechet distance of Gaussians fitted to two sets of features (Heusel et al., arXiv 1706.08500).

    With few pictures it is biased upwards, the more the fewer (its covariances have rank N - 1): compare only numbers
    from as many pictures, and beside what two halves of the reference give. NaN with fewer than two pictures.
    """
    if min(len(features_NK), len(reference_MK)) < 2:
        return float("nan")
    fid = FrechetInceptionDistance(feature=_AsTheyAre(features_NK.shape[1]))
    fid.set_dtype(torch.float64)
    fid.update(torch.from_numpy(np.asarray(reference_MK, np.float64)), real=True)
    fid.update(torch.from_numpy(np.asarray(features_NK, np.float64)), real=False)
    return max(0.0, float(fid.compute()))  # rounding can go below


def nearest_share(faces_NE: np.ndarray, gallery_PE: np.ndarray, own: int) -> float:
    """Share of the faces whose nearest of P people is number `own`, 0..1. A picture without a face counts as missed."""
    found = np.isfinite(faces_NE).all(1)
    nearest = cosine(faces_NE[:, None], gallery_PE[None]).argmax(1)
    return float((found & (nearest == own)).mean()) if len(faces_NE) else float("nan")


def roc_auc(genuine: np.ndarray, impostor: np.ndarray) -> float:
    """Area under the ROC curve: how likely a genuine score is above an impostor's (a tie counts half)."""
    if not (len(genuine) and len(impostor)):
        return float("nan")
    scores = np.concatenate([genuine, impostor]).astype(np.float64)
    # Ranks, because torchmetrics takes scores outside 0..1 for logits.
    ranks = np.unique(scores, return_inverse=True)[1] / len(scores)
    truth = torch.cat([torch.ones(len(genuine), dtype=torch.int64), torch.zeros(len(impostor), dtype=torch.int64)])
    return float(binary_auroc(torch.from_numpy(ranks), truth))


def tar_at_far(genuine: np.ndarray, impostor: np.ndarray, far: float) -> float:
    """Share of the genuine scores above the threshold that lets at most `far` of the impostors' through, 0..1."""
    if not (len(genuine) and len(impostor)):
        return float("nan")
    allowed = int(far * len(impostor) + 1e-9)
    threshold = np.sort(impostor)[::-1][allowed] if allowed < len(impostor) else -np.inf
    return float((genuine > threshold).mean())


def mean_of(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis of what was measured; NaN if nothing was."""
    measured = np.isfinite(values)
    sums, counts = np.where(measured, values, 0.0).sum(-1), measured.sum(-1)
    return np.divide(sums, counts, out=np.full(np.shape(sums), np.nan), where=counts > 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A measure with its 95 % confidence interval over identities."""

    value: float
    low: float
    high: float
    num: int  # identities

    def times(self, unit: float) -> Interval:
        """The same in another unit."""
        return Interval(value=self.value * unit, low=self.low * unit, high=self.high * unit, num=self.num)


def bootstrap(statistic: Resampled, num: int, *, seed: int = 0, resamples: int = 2000) -> Interval:
    """Percentile bootstrap over identities (Efron): people are drawn anew with replacement, pictures stay with them.

    For paired comparisons the statistic is a difference or ratio of two methods on the same people.
    """
    value = float(statistic(np.arange(num)[None])[0])
    drawn = statistic(np.random.default_rng(seed).integers(num, size=(resamples, num))) if num > 1 else np.empty(0)
    drawn = drawn[np.isfinite(drawn)]
    low, high = np.percentile(drawn, [2.5, 97.5]) if len(drawn) else (np.nan, np.nan)
    return Interval(value=value, low=float(low), high=float(high), num=num)


def jackknife(statistic: Statistic, num: int) -> Interval:
    """Value +- 1.96 jackknife standard errors over identities (Efron and Stein).

    For FID: people drawn twice shrink its covariances, so that the bootstrap's numbers would all lie too high.
    """
    everybody = np.arange(num)
    value = statistic(everybody)
    if num < 3:
        return Interval(value=value, low=float("nan"), high=float("nan"), num=num)
    left_out = np.array([statistic(np.delete(everybody, i)) for i in range(num)])
    error = np.sqrt((num - 1) / num * np.square(left_out - left_out.mean()).sum())
    return Interval(value=value, low=float(value - 1.96 * error), high=float(value + 1.96 * error), num=num)
