"""From rows of `metrics` to the page: scores, intervals, verdicts, sentences and charts."""

import json
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.views import report
from factory.config import EvaluateConfig
from factory.measure.formulas import Interval
from factory.records import PictureMetrics
from studio.results.charts import picture_grid, sweep_chart, whiskers, word_map
from studio.results.evaluation import with_scenes
from studio.results.findings import Claim, bars, claims
from studio.results.page import BOUNDS, Results, WordFacts, page, scene_section, to_json
from studio.results.protocol import FULL, PAPER, QUICK
from studio.results.scores import Scores, by_identity, difference, ratio, scores_of, table_row, verification

NAN = float("nan")
SCENES = (
    *("px", "px_real", "px_between", "front_to_free", "nearest", "nearest_free", "clip_t_to_free", "face_sim"),
    *("face_sim_free", "pair_nearest", "pair_own", "pair_other", "pair_to_free"),
)


def measured(identity: str, likeness: float, rng: np.random.Generator, own: int, num: int = 6) -> list[PictureMetrics]:
    """Rows whose faces point to axis `own` as much as `likeness` says; the last picture has no face."""
    rows = []
    for seed in range(num):
        embedding = np.zeros(8, np.float32)
        embedding[own], embedding[7] = likeness, np.sqrt(1 - likeness**2)
        lost = seed == num - 1
        rows.append(
            PictureMetrics(
                image_id=f"{identity}-{seed}",
                protocol="p",
                identity_id=identity,
                prompt="a photo of <person>",
                seed=seed,
                clip_i=0.6,
                clip_t=0.3 + 0.01 * own,
                face_sim=NAN if lost else likeness,
                face_div=NAN if lost else 0.4,
                trusted_div=NAN if lost else 0.4 * likeness,
                face_embedding=np.empty(0, np.float32) if lost else embedding,
                features=rng.standard_normal(4).astype(np.float32) + (1 - likeness),
                created_at="2026-11-24T00:00:00+00:00",
            )
        )
    return rows


def scores(likeness: float, seed: int = 0) -> Scores:
    rng = np.random.default_rng(seed)
    rows = [m for own in range(5) for m in measured(f"{own}", likeness + 0.02 * own, rng, own)]
    return scores_of(list(by_identity(rows).values()), np.eye(8, dtype=np.float32)[:5])


def test_scores_are_means_over_people_and_miss_pictures_without_a_face() -> None:
    learned = scores(0.5)
    assert (learned.num_people, learned.num_pictures) == (5, 30)
    row = table_row(learned, np.random.default_rng(1).standard_normal((40, 4)))
    assert row["face_sim"].value == pytest.approx(0.54)
    assert row["face_sim"].low < 0.54 < row["face_sim"].high and row["face_sim"].num == 5
    assert row["found"].value == row["nearest"].value == pytest.approx(5 / 6)
    assert row["fid"].low < row["fid"].value < row["fid"].high
    assert "fid" not in table_row(learned, None)
    better = difference(scores(0.7), learned, "face_sim")
    assert better.value == better.low == pytest.approx(0.2)  # paired: the people's own differences cancel
    assert ratio(learned, learned, "face_sim").high == 1
    assert verification(learned, np.eye(8, dtype=np.float32)[:5], lambda a, b: float(a.min() > b.max())).value == 1


def results(learned: float = 0.5, without_adain: float = 0.6) -> Results:
    plan = QUICK.model_copy(update={"sweep": ((0.6, PAPER), *FULL.sweep[5:])})
    levels = {"paper": learned, "free": 0.3, "no_adain": without_adain, "rec": 0.2}
    levels |= {"celebrity": 0.5, "true_vector": 0.55, "render": 0.6}
    by_key = {key: scores(level) for key, level in levels.items()}
    reference = np.random.default_rng(1).standard_normal((40, 4))
    gallery = np.eye(8, dtype=np.float32)[:5]
    rows = {key: table_row(value, reference) for key, value in by_key.items()}
    words = {key: WordFacts(seconds=2.0, low=-0.1, high=0.1) for key in plan.arms()}
    words["celebrity"] = WordFacts(seconds=NAN, low=-0.05, high=0.2)
    return Results(
        plan=plan,
        config=EvaluateConfig(),
        rows=rows,
        words=words,
        bars=bars(by_key, gallery, gallery),
        claims=claims(by_key, {key: arm.paper for key, arm in plan.arms().items()}, reference),
        num_pictures=30,
        num_reference=40,
        feature_width=4,
        steps=dict.fromkeys(plan.arms(), 100),
        outside={"without AdaIN": 3},
        scenes={name: Interval(value=0.9, low=0.8, high=1.0, num=5) for name in SCENES},
        facts={"Command": "identity-factory evaluate", "Date": "2026-11-24"},
        stages={"learn": 12.3},
    )


def test_the_page_tells_what_the_numbers_say() -> None:
    text = page(results())
    for heading in ("Against the bars", "Table 1", "Table 2", "alpha", "Table 3", "claims", "How it was run"):
        assert any(line.startswith("## ") and heading in line for line in text.splitlines()), heading
    assert "| Textual Inversion |" in text and "*named celebrities*" in text and "61.30" in text
    assert "54.00 [" in text  # Face Sim of the first row, in the paper's unit
    assert "3 of without AdaIN" in text
    assert "found in fewer than 95 %" in text and "StableIdentity, paper 83%" in text
    assert "highest Trusted Div has, in Table 1: StableIdentity, paper; in Table 2: without AdaIN" in text
    tables = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert len(tables) > 4
    for table in tables:  # a cell more or less breaks it
        assert len({line.count("|") for line in table.splitlines()}) == 1, table
        assert all(line.endswith("|") for line in table.splitlines()), table
    assert "nan" not in text


def test_poses_and_pairs_are_put_into_a_page_once() -> None:
    text = page(results())
    measured = {name: Interval(value=0.7, low=0.6, high=0.8, num=5) for name in SCENES}
    renewed = with_scenes(text, scene_section(measured))
    assert text.count("| two people / pictures of one, Face Sim | >= 0.85 | 0.900 [0.800, 1.000] | reached |") == 1
    assert renewed.count("## Poses and two people") == 1 and "0.700 [0.600, 0.800] | not reached |" in renewed
    assert with_scenes(renewed, scene_section(results().scenes)) == text


def test_verdicts_follow_the_numbers() -> None:
    def verdict(made: Results, b: str, measure: str, a: str = "paper") -> str:
        [found] = [c for c in made.claims if (c.a, c.b, c.measure) == (a, b, measure)]
        return found.verdict

    assert verdict(results(0.5), "free", "face_sim") == "holds"
    assert verdict(results(0.2), "free", "face_sim") == "the opposite"
    assert verdict(results(0.5), "free", "clip_t") == "not shown"  # the same in every row
    assert verdict(results(without_adain=0.6), "paper", "face_sim", a="no_adain") == "holds"
    assert verdict(results(without_adain=0.4), "paper", "face_sim", a="no_adain") == "the opposite"
    nearby = Claim(a="a", b="b", measure="fid", above=False, paper=None, ours=Interval(value=-1, low=-3, high=1, num=5))
    assert nearby.verdict == "not shown"
    reached = {bar.what: bar.verdict for bar in results(0.5).bars}
    assert reached["true vectors / real renders, Face Sim"] == "reached"  # 0.59 / 0.64
    assert reached["learned / true vectors, Face Sim"] == "not reached"
    assert {bar.what: bar.verdict for bar in results(0.6).bars}["learned / true vectors, Face Sim"] == "reached"


def test_results_for_programs() -> None:
    numbers = json.loads(to_json(results()))
    assert numbers["rows"]["paper"]["face_sim"]["value"] == pytest.approx(0.54)
    assert numbers["words"]["celebrity"]["seconds"] is None  # JSON has no NaN
    assert {claim["verdict"] for claim in numbers["claims"]} <= {"holds", "not shown", "the opposite"}
    assert set(numbers["rows"]) == {"paper", "free", "no_adain", "rec", *BOUNDS}
    assert numbers["sweep"] == {"0.6": "paper", "1": "rec"}


def test_charts_draw_what_they_are_given() -> None:
    def ink(image: np.ndarray) -> float:
        return float((image != image[0, 0]).any(2).mean())

    cell = Interval(value=1.0, low=0.5, high=1.5, num=3)
    missing = replace(cell, value=NAN, low=NAN, high=NAN)
    nothing: dict[str, dict[str, Interval]] = {"": {}, " ": {}}
    empty, one, two = (
        np.asarray(whiskers(rows, {"m": "M"}, title="", subtitle=""))[: 150 + 80]
        for rows in (nothing, {"": {"m": cell}, " ": {"m": missing}}, {"": {"m": cell}, " ": {"m": cell}})
    )
    assert ink(empty) < ink(one) < ink(two)
    sweep_chart([0.0, 1.0], {"M": [cell, cell]}, title="t", subtitle="s")
    rng = np.random.default_rng(0)
    names = rng.standard_normal((50, 2, 6))
    near, far = names[:4] * 0.1, names[:3] + 100
    _, outside = word_map(names, {"near": near, "far": far}, title="t", subtitle="s")
    assert outside == {"near": 0, "far": 3}
    red = np.full((8, 8, 3), (255, 0, 0), np.uint8)
    grid = np.asarray(picture_grid({"a": [red, red], "b": [red]}, ["x", "y"], title="t", subtitle="s", cell=32))
    assert int((grid == (255, 0, 0)).all(2).sum()) == 3 * 32 * 32


def test_ways_to_see_views_are_compared_on_the_same_people() -> None:
    ways = {"every step": scores(0.5), "pool": scores(0.4)}
    who = SimpleNamespace(num_steps=150, train_s=2.0)
    text = report(ways, {way: [who] for way in ways}, "a machine")  # type: ignore[list-item]
    assert "5 people, 30 pictures a row" in text
    assert "| every step | 150 | 2.0 | 54.0 [" in text
    assert "| pool | -10.0 [-10.0, -10.0] |" in text, "paired: the people's own differences cancel"
