"""What the numbers say: the project's bars, and the paper's claims held against our intervals. No verdict is written
by hand; a claim whose interval includes zero is "not shown"."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np

from factory.measure.formulas import Interval, roc_auc, tar_at_far
from studio.results.scores import MEASURES, Scores, difference, ratio, table_row, verification

Verdict = Literal["holds", "not shown", "the opposite", "reached", "not reached"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A figure that the pack should reach."""

    what: str
    bar: float
    measured: Interval

    @property
    def verdict(self) -> Verdict:
        """By the value itself; the interval says how sure that is."""
        return "reached" if self.measured.value >= self.bar else "not reached"


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """The paper says that arm `a` is above (or below) arm `b` in a measure."""

    a: str
    b: str
    measure: str
    above: bool
    paper: float | None  # a - b in the paper's own unit
    ours: Interval  # a - b in the paper's unit

    @property
    def verdict(self) -> Verdict:
        """By the interval of the paired difference."""
        if not (self.ours.low > 0 or self.ours.high < 0):
            return "not shown"
        return "holds" if (self.ours.value > 0) == self.above else "the opposite"


def bars(scores: Mapping[str, Scores], gallery: np.ndarray, celebrity_gallery: np.ndarray) -> list[Bar]:
    """The bars that pictures decide. `scores` has the arms and the bounds `celebrity`, `true_vector`, `render`."""
    learned, celebrity, true, real = (scores[key] for key in ("paper", "celebrity", "true_vector", "render"))
    people = learned.num_people
    auc = verification(celebrity, celebrity_gallery, roc_auc)
    tar = verification(real, gallery, partial(tar_at_far, far=0.01))
    learned_nearest = _as_interval(learned, "nearest")
    return [
        Bar(what="named celebrities: own renders against other celebrities', area under ROC", bar=0.95, measured=auc),
        Bar(what="true vectors / real renders, Face Sim", bar=0.9, measured=ratio(true, real, "face_sim")),
        Bar(what="learned / true vectors, Face Sim", bar=0.95, measured=ratio(learned, true, "face_sim")),
        Bar(what="learned / named celebrities, Face Sim", bar=1.0, measured=ratio(learned, celebrity, "face_sim")),
        Bar(what=f"learned: nearest of {people} people is the right one", bar=0.9, measured=learned_nearest),
        Bar(what="learned / named celebrities, CLIP-T", bar=0.98, measured=ratio(learned, celebrity, "clip_t")),
        Bar(what="judge on real renders against photos, TAR at FAR 1 %", bar=0.95, measured=tar),
    ]


def _as_interval(scores: Scores, measure: str) -> Interval:
    return table_row(scores, None)[measure]


# (a, b, measure, a above b): the sentences of the paper's tables that can be tested here.
CLAIMS: tuple[tuple[str, str, str, bool], ...] = (
    ("paper", "free", "trusted_div", True),
    ("paper", "free", "face_sim", True),
    ("paper", "free", "clip_t", True),
    ("paper", "free", "fid", False),
    ("paper", "basis", "trusted_div", True),
    ("paper", "basis", "face_sim", True),
    ("paper", "basis", "clip_t", True),
    ("paper", "basis", "fid", False),
    ("clip", "paper", "face_sim", False),
    ("clip", "paper", "trusted_div", False),
    ("no_adain", "paper", "clip_t", False),
    ("no_adain", "paper", "face_sim", True),
    ("no_adain", "paper", "trusted_div", False),
    ("no_adain", "paper", "fid", True),
    ("no_mask", "paper", "face_sim", False),
    ("no_mask", "paper", "trusted_div", False),
    ("noise", "paper", "face_sim", False),
    ("noise", "paper", "trusted_div", False),
    ("rec", "paper", "face_sim", False),
    ("rec", "paper", "trusted_div", False),
    ("rec", "paper", "clip_t", False),
    ("rec", "paper", "fid", True),
)
_PAPER_COLUMNS = ("clip_i", "clip_t", "face_sim", "face_div", "trusted_div", "fid")


def claims(
    scores: Mapping[str, Scores], paper: Mapping[str, tuple[float, ...] | None], reference: np.ndarray
) -> list[Claim]:
    """Those of CLAIMS whose two arms were run; `paper` has the published row of an arm, `reference` what FID compares
    with."""
    tested = []
    for a, b, measure, above in CLAIMS:
        if a not in scores or b not in scores:
            continue
        ours = difference(scores[a], scores[b], measure, reference)
        theirs_a, theirs_b = paper.get(a), paper.get(b)
        published = None
        if theirs_a and theirs_b:
            column = _PAPER_COLUMNS.index(measure)
            published = theirs_a[column] - theirs_b[column]
        unit = MEASURES[measure][2]
        tested.append(Claim(a=a, b=b, measure=measure, above=above, paper=published, ours=ours.times(unit)))
    return tested
