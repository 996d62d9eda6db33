"""The results as a page and as numbers: docs/results/results.md and results.json. Every sentence about an outcome is
made from the numbers beside it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from factory.config import EvaluateConfig
from factory.measure.formulas import Interval
from studio.results import scenes
from studio.results.findings import Bar, Claim
from studio.results.protocol import Arm, Plan
from studio.results.scores import MEASURES

PAPER_COLUMNS = ("clip_i", "clip_t", "face_sim", "face_div", "trusted_div", "fid")
OURS = ("nearest", "found")  # shares of the pictures: nearest to the right person; with a face in them
TABLE_1_COLUMNS = (*PAPER_COLUMNS, *OURS)
TABLE_2_COLUMNS = ("clip_t", "face_sim", "trusted_div", "fid")
BOUNDS = {
    "celebrity": "named celebrities",
    "true_vector": "true identity vectors",
    "render": "real renders of the person",
}
Row = Mapping[str, Interval]


@dataclass(frozen=True, slots=True, kw_only=True)
class WordFacts:
    """Table 3's row of an arm."""

    seconds: float  # training time of one identity; NaN for words that were not learned
    low: float  # least of all numbers of all words
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """Everything the page tells."""

    plan: Plan
    config: EvaluateConfig
    rows: Mapping[str, Row]  # by arm, and by key of BOUNDS
    words: Mapping[str, WordFacts]  # by arm, and "celebrity"
    bars: Sequence[Bar]
    claims: Sequence[Claim]
    num_pictures: int  # of a row
    num_reference: int  # pictures that FID compares with
    feature_width: int  # K of those features
    steps: Mapping[str, int]  # updates, by arm
    outside: Mapping[str, int]  # words outside the map, by its groups
    scenes: scenes.Figures  # poses and pictures of two
    facts: Mapping[str, str]  # hardware, versions, date, commands
    stages: Mapping[str, float]  # seconds of the run that did the work


def page(results: Results) -> str:
    """The page, in Markdown; pictures lie beside it."""
    plan = results.plan
    people = results.rows["paper"]["face_sim"].num
    parts = [
        "# Results",
        f"Made by `{results.facts['Command']}`; every number and verdict below is computed from the `metrics` table. "
        f"{people} held-out people, one photo each, {len(plan.contexts)} prompts x {len(plan.seeds)} seeds: "
        f"{results.num_pictures} pictures a row. In brackets: 95 % interval over people (bootstrap; FID: jackknife).",
        *(["A quick run: fewer people, prompts and steps than the protocol. It shows that the machinery works and "
           "decides nothing."] if plan.name == "quick" else []),
        "## Against the bars",
        _table(["what", "bar", "measured", ""], [_bar(bar) for bar in results.bars]),
        "## Table 1: ways to two words",
        _table(
            ["", *_heads(TABLE_1_COLUMNS)],
            [*_rows(results.rows, plan.table_1, TABLE_1_COLUMNS), *_bounds(results)],
        ),
        _paper_rows(plan.table_1, PAPER_COLUMNS),
        "![intervals](intervals.png)",
        "## Table 2: ablations",
        _table(
            ["", *_heads((*TABLE_2_COLUMNS, *OURS))], _rows(results.rows, plan.with_ablations, TABLE_2_COLUMNS + OURS)
        ),
        _paper_rows((*plan.table_2, plan.table_1[0]), TABLE_2_COLUMNS),
        "![intervals of the ablations](ablations.png)",
        *_sweep(results),
        "## Table 3: time and size of the words",
        _table(["", "updates", "seconds per identity", "least", "greatest"], _words(results)),
        _size_sentence(results),
        "![map of the words](words.png)",
        "## The paper's claims, tested here",
        _account(results),
        _table(["a", "b", "measure", "paper: a - b", "here: a - b", "the claim"],
               [_claim(claim, plan) for claim in results.claims]),
        scene_section(results.scenes),
        "## What is different here, and what limits these numbers",
        "\n".join(f"- {note}" for note in notes(results)),
        "## Pictures",
        "![people](people.webp)",
        "![methods](methods.webp)",
        "## How it was run",
        _table(["", ""], [[key, value] for key, value in results.facts.items()]),
        _table(["stage", "seconds"], [[name, f"{seconds:.0f}"] for name, seconds in results.stages.items()]),
    ]  # fmt: skip
    return "\n\n".join(part for part in parts if part) + "\n"


def scene_section(measured: scenes.Figures) -> str:
    """What the page tells of poses and pictures of two."""
    rows = [_bar(bar) for bar in scenes.bars(measured)]
    parts = [scenes.HEADING, _table(["what", "bar", "measured", ""], rows), scenes.sentences(measured)]
    return "\n\n".join([*parts, "![poses and pictures of two people](scenes.webp)"])


def notes(results: Results) -> list[str]:
    """What a reader must know to take the numbers for no more than they are."""
    rows, config = results.rows, results.config
    ceiling = rows["true_vector"]["face_sim"].value / rows["render"]["face_sim"].value
    lpips = "LPIPS (AlexNet)" if config.face_div == "lpips" else (
        "LPIPS' formula on the patch features of the pack's CLIP, without LPIPS' learned weights"
    )  # fmt: skip
    fid = "Inception-v3" if config.fid == "inception" else "CLIP image"
    said = [
        "The base model, the people and every measuring network but the face detector belong to the rendered studio "
        "world: numbers compare rows with each other, not with the paper's.",
        f'CLIP-I and CLIP-T: the pack\'s CLIP; the text of CLIP-T has "{config.class_word}" for the identity.',
        f"Face Sim: the pack's judge, which no training used. Face Div: {lpips}.",
        "Trusted Div compares a person's pictures with each other, as in the paper, and not with the photo: words that "
        "draw one wrong person again and again score high. Read it beside Face Sim and nearest.",
        f"FID: {fid} features ({results.feature_width} numbers) against {results.num_reference} pictures of other "
        f"celebrities by name. The measured celebrities, with nothing learned, are at "
        f"{_plain(rows['celebrity'].get('fid'), 1)}: the floor to compare with.",
        "Textual Inversion and Celeb-Basis share our views, mask, optimiser and steps (docs/method.md); they are not "
        "the published training schedules.",
        f"Pictures from the true identity vectors reach {ceiling:.2f} of the Face Sim of real renders: that part the "
        "base model decides, whatever way of learning is used.",
    ]
    if results.num_pictures <= results.feature_width:
        said.append(
            f"{results.num_pictures} pictures in {results.feature_width} dimensions: FID's covariances are incomplete "
            "and its values too high; only their order means anything."
        )
    lost = [f"{_label(results.plan, key)} {row['found'].value:.0%}" for key, row in rows.items() if _loses(row)]
    if lost:
        said.append(
            f"Faces were found in fewer than 95 % of the pictures of: {', '.join(lost)}. Face Sim, Face Div and "
            "Trusted Div average over what was found, which flatters these rows."
        )
    missing = results.plan.num_people - rows["paper"]["face_sim"].num
    if missing:
        said.append(f"{missing} of {results.plan.num_people} people were refused or diverged in an arm.")
    return said


def _loses(row: Row) -> bool:
    return row["found"].value < 0.95


def to_json(results: Results) -> str:
    """The same numbers for programs; NaN as null."""
    numbers = {
        "plan": results.plan.name,
        "rows": {key: {name: asdict(cell) for name, cell in row.items()} for key, row in results.rows.items()},
        "sweep": {f"{alpha:g}": arm.key for alpha, arm in results.plan.sweep},  # keys of "rows"
        "words": {key: asdict(facts) for key, facts in results.words.items()},
        "bars": [{**asdict(bar), "verdict": bar.verdict} for bar in results.bars],
        "claims": [{**asdict(claim), "verdict": claim.verdict} for claim in results.claims],
        "scenes": {name: asdict(cell) for name, cell in results.scenes.items()},
        "pictures_per_row": results.num_pictures,
        "facts": dict(results.facts),
        "stages": dict(results.stages),
    }
    return json.dumps(_without_nan(numbers), indent=1) + "\n"


def _without_nan(value: object) -> object:
    if isinstance(value, Mapping):
        return {key: _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _heads(columns: Sequence[str]) -> list[str]:
    return [f"{MEASURES[key][0]} {'↑' if MEASURES[key][1] else '↓'}" for key in columns]


def _plain(cell: Interval | None, unit: float, digits: int = 2) -> str:
    return "-" if cell is None or not math.isfinite(cell.value) else f"{cell.value * unit:.{digits}f}"


def _cell(cell: Interval | None, unit: float, digits: int = 2) -> str:
    """Value and interval, such as "37.1 [35.0, 39.2]"."""
    if cell is None or not math.isfinite(cell.low):
        return _plain(cell, unit, digits)
    return f"{cell.value * unit:.{digits}f} [{cell.low * unit:.{digits}f}, {cell.high * unit:.{digits}f}]"


def _rows(rows: Mapping[str, Row], arms: Sequence[Arm], columns: Sequence[str]) -> list[list[str]]:
    return [[arm.label, *(_cell(rows[arm.key].get(c), MEASURES[c][2]) for c in columns)] for arm in arms]


def _bounds(results: Results) -> list[list[str]]:
    return [
        [f"*{label}*", *(_cell(results.rows[key].get(c), MEASURES[c][2]) for c in TABLE_1_COLUMNS)]
        for key, label in BOUNDS.items()
    ]


def _paper_rows(arms: Sequence[Arm], columns: Sequence[str]) -> str:
    """What the paper prints for these rows (photographs, Stable Diffusion 2.1), in the same columns."""
    printed = [(arm.label, arm.paper) for arm in arms if arm.paper]
    at = [PAPER_COLUMNS.index(column) for column in columns]
    texts = [f"{label} {', '.join(f'{numbers[i]:.2f}' for i in at)}" for label, numbers in printed]
    heads = ", ".join(MEASURES[column][0] for column in columns)
    return f"The paper, on photographs ({heads}): {'; '.join(texts)}." if texts else ""


def _bar(bar: Bar) -> list[str]:
    return [bar.what, f">= {bar.bar:g}", _cell(bar.measured, 1, 3), bar.verdict]


def _claim(claim: Claim, plan: Plan) -> list[str]:
    name = MEASURES[claim.measure][0]
    sense = "above" if claim.above else "below"
    paper = "-" if claim.paper is None or not math.isfinite(claim.paper) else f"{claim.paper:+.2f}"
    return [_label(plan, claim.a), _label(plan, claim.b), f"{name}, a {sense} b", paper, _cell(claim.ours, 1),
            claim.verdict]  # fmt: skip


def _label(plan: Plan, key: str) -> str:
    return BOUNDS.get(key) or plan.arms()[key].label


def _account(results: Results) -> str:
    total = len(results.claims)
    counts = {v: sum(c.verdict == v for c in results.claims) for v in ("holds", "not shown", "the opposite")}
    best = [
        max(arms, key=lambda arm: results.rows[arm.key]["trusted_div"].value).label
        for arms in ([arm for arm in results.plan.table_1 if arm.key != "release"], results.plan.with_ablations)
    ]
    return (
        f"Of {total} comparisons {counts['holds']} hold here (the paired interval lies on the paper's side of zero), "
        f"{counts['not shown']} are not shown (it includes zero), and in {counts['the opposite']} the opposite holds. "
        f"The highest Trusted Div has, in Table 1: {best[0]}; in Table 2: {best[1]}."
    )


def _sweep(results: Results) -> list[str]:
    if not results.plan.sweep:
        return []
    swept = {alpha: results.rows[arm.key] for alpha, arm in results.plan.sweep}
    rows = [[f"{a:g}", *(_cell(row.get(c), MEASURES[c][2]) for c in TABLE_2_COLUMNS)] for a, row in swept.items()]
    best = max(swept, key=lambda a: swept[a]["trusted_div"].value)
    return [
        "## Where the phases meet: alpha from 0 (only L_noise) to 1 (only L_rec)",
        _table(["alpha", *_heads(TABLE_2_COLUMNS)], rows),
        f"The highest Trusted Div is at alpha {best:g}; the paper chose 0.6.",
        "![alpha](alpha.png)",
    ]


def _words(results: Results) -> list[list[str]]:
    rows = []
    for key, facts in results.words.items():
        seconds = f"{facts.seconds:.1f}" if math.isfinite(facts.seconds) else "-"
        updates = str(results.steps[key]) if key in results.steps else "-"
        rows.append([_label(results.plan, key), updates, seconds, f"{facts.low:.4f}", f"{facts.high:.4f}"])
    return rows


def _size_sentence(results: Results) -> str:
    names = results.words["celebrity"]
    beyond = [_label(results.plan, key) for key, facts in results.words.items()
              if facts.low < names.low or facts.high > names.high]  # fmt: skip
    text = f"The names' own numbers lie between {names.low:.4f} and {names.high:.4f}. "
    text += f"Beyond that: {', '.join(beyond)}." if beyond else "All learned words stay within."
    away = [f"{num} of {label}" for label, num in results.outside.items() if num]
    return text + (f" On the map below, drawn at its edge: {', '.join(away)}." if away else "")
