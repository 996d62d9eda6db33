"""From the tables of an evaluation to its page and pictures."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from factory.faces.detect import FaceRecogniser
from factory.measure.pictures import protocol_id
from factory.pack import Pack
from factory.records import TEXT_ENCODER, GeneratedImage, Identity, PictureMetrics, PreparedFace
from factory.settings import evaluate_settings, generate_settings
from factory.store.tables import Store
from studio.results import scenes
from studio.results.charts import picture_grid, sweep_chart, whiskers, word_map
from studio.results.findings import bars, claims
from studio.results.page import BOUNDS, Results, WordFacts, page, to_json
from studio.results.scores import MEASURES, by_identity, scores_of, table_row
from studio.results.work import Cast, Work

CHARTED = ("clip_t", "face_sim", "trusted_div", "fid")
PICTURES: dict[str, Any] = {"quality": 88, "method": 6}  # WebP, of a grid of pictures: an eighth of PNG's bytes
ON_THE_MAP = ("paper", "release", "free", "basis", "no_adain")


def write(work: Work, cast: Cast, folder: Path) -> Results:
    """Writes results.md, results.json and the pictures to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    groups = {work.plan.arms()[key].label: key for key in ON_THE_MAP if key in cast.identities}
    words = {label: _words(cast, key) for label, key in (groups | {"true vectors": "true_vector"}).items()}
    drawn, outside = word_map(
        cast.prior.words_NVD.cpu().numpy(),
        words,
        title="Where the words lie",
        subtitle="both words together, on the first two principal components of the celebrity names",
    )
    results = gather(work, cast, outside)
    (folder / "results.md").write_text(page(results), encoding="utf-8")
    (folder / "results.json").write_text(to_json(results), encoding="utf-8")
    drawn.save(folder / "words.png")
    _charts(work, results, folder)
    _grids(work, cast, folder)
    scenes.copy_sheet(work, folder)
    return results


def gather(work: Work, cast: Cast, outside: Mapping[str, int]) -> Results:
    """Every number of the page; `outside` counts words that the map cannot show."""
    plan = work.plan
    galleries = {"people": gallery(work.pack, cast.faces), "celebrity": gallery(work.pack, cast.celebrity_faces)}
    named = measured(work, work.celebrities, plan.seeds)
    rows = measured(work, work.people, plan.seeds) | named
    keys = [*plan.arms(), *BOUNDS]
    scores = {
        key: scores_of([rows[who.identity_id] for who in cast.identities[key]], galleries.get(key, galleries["people"]))
        for key in keys
    }
    reference = features_of(named, cast.reference)
    return Results(
        plan=plan,
        config=evaluate_settings(work.pack),
        rows={key: table_row(value, reference) for key, value in scores.items()},
        words=_word_facts(cast, plan.arms()),
        bars=bars(scores, galleries["people"], galleries["celebrity"]),
        claims=claims(scores, {key: arm.paper for key, arm in plan.arms().items()}, reference),
        num_pictures=scores["paper"].num_pictures,
        num_reference=len(reference),
        feature_width=reference.shape[1],
        steps={key: cast.identities[key][0].num_steps for key in plan.arms()},
        outside=outside,
        scenes=scenes.figures(work, cast, galleries["people"])[0],
        facts=_facts(work),
        stages=work.stages,
    )


def gallery(pack: Pack, faces: Sequence[PreparedFace]) -> np.ndarray:
    """The judge's embeddings of the photos' faces, float32 [P, E]."""
    judge = FaceRecogniser(pack, num_threads=os.cpu_count() or 1)
    found = [judge.embed(face.crop, aligned=True) for face in faces]
    return np.stack([embedding for embedding in found if embedding is not None])


def measured(work: Work, store: Store, seeds: Sequence[int]) -> dict[str, list[PictureMetrics]]:
    """What the pictures of these seeds measured, by identity."""
    plan, pack = work.plan, work.pack
    protocol = protocol_id(pack, plan.prompts, seeds, generate_settings(pack), evaluate_settings(pack))
    return by_identity(store.metrics(protocol))


def features_of(rows: Mapping[str, Sequence[PictureMetrics]], identities: Sequence[Identity]) -> np.ndarray:
    """What FID compares, of all pictures of these identities, float32 [M, K]."""
    return np.stack([metrics.features for who in identities for metrics in rows[who.identity_id]])


def _words(cast: Cast, key: str) -> np.ndarray:
    return np.stack([who.words[TEXT_ENCODER] for who in cast.identities[key]])


def _word_facts(cast: Cast, arms: Mapping[str, object]) -> dict[str, WordFacts]:
    """Table 3, of every arm; and of all celebrity names."""
    facts = {}
    for key in arms:
        words = _words(cast, key)
        seconds = float(np.mean([who.train_s for who in cast.identities[key]]))
        facts[key] = WordFacts(seconds=seconds, low=float(words.min()), high=float(words.max()))
    names = cast.prior.words_NVD
    facts["celebrity"] = WordFacts(seconds=float("nan"), low=float(names.min()), high=float(names.max()))
    return facts


def _facts(work: Work) -> dict[str, str]:
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    generate = generate_settings(work.pack)
    quick = " --quick" if work.plan.name == "quick" else ""
    return {
        "Command": f"identity-factory evaluate{quick}",
        "Date": datetime.now(UTC).date().isoformat(),
        "Hardware": f"{os.cpu_count()} cores ({platform.processor() or platform.machine()}), {device}",
        "Versions": f"Python {platform.python_version()}, torch {torch.__version__}, Ray {version('ray')}",
        "Pack": f"{work.pack.name}, text encoder {work.pack.fingerprint()}",
        "Sampling": f"{generate.num_inference_steps} steps, guidance {generate.guidance_scale:g}",
    }


def _charts(work: Work, results: Results, folder: Path) -> None:
    """intervals.png: Table 1 and the bounds. ablations.png: Table 2. alpha.png: the sweep."""
    plan = work.plan
    headings = {c: f"{MEASURES[c][0]} ({'more' if MEASURES[c][1] else 'less'} is better)" for c in CHARTED}
    subtitle = f"{results.num_pictures} pictures a row; 95 % intervals over people"
    charts = {
        "intervals": ("Ways to two words", {arm.key: arm.label for arm in plan.table_1} | BOUNDS),
        "ablations": ("Ablations", {arm.key: arm.label for arm in plan.with_ablations}),
    }
    for name, (title, labels) in charts.items():
        scaled = {
            label: {c: results.rows[key][c].times(MEASURES[c][2]) for c in CHARTED} for key, label in labels.items()
        }
        whiskers(scaled, headings, title=title, subtitle=subtitle).save(folder / f"{name}.png")
    if plan.sweep:
        swept = [results.rows[arm.key] for _, arm in plan.sweep]
        series = {headings[c]: [row[c].times(MEASURES[c][2]) for row in swept] for c in CHARTED}
        title = "Where the phases meet: only the noise loss at 0, only reconstruction at 1"
        sweep_chart([alpha for alpha, _ in plan.sweep], series, title=title, subtitle=subtitle).save(
            folder / "alpha.png"
        )


def _grids(work: Work, cast: Cast, folder: Path) -> None:
    """people.webp: everybody as the method learned them. methods.webp: one person in every row of the tables."""
    plan = work.plan
    captions = [context.caption for context in plan.contexts]
    learned = {
        face.name: [face.crop, *_first_seed(work, work.people, who)]
        for face, who in zip(cast.faces, cast.identities["paper"], strict=True)
    }
    title = "Held-out people, learned from the one photo on the left"
    subtitle = f"{plan.arms()['paper'].label}; seed {plan.seeds[0]}, nothing picked"
    grid = picture_grid(learned, ["the photo", *captions], title=title, subtitle=subtitle)
    grid.save(folder / "people.webp", **PICTURES)
    labels = {key: BOUNDS[key] for key in ("render", "true_vector")}
    labels |= {arm.key: arm.label for arm in (*plan.table_1, *plan.table_2)}
    rows = {label: _first_seed(work, work.people, cast.identities[key][0]) for key, label in labels.items()}
    title = f"{cast.faces[0].name}, learned in every way"
    subtitle = (
        f"the first person of the protocol, seed {plan.seeds[0]}; above: what was to be drawn, and the true words"
    )
    picture_grid(rows, captions, title=title, subtitle=subtitle).save(folder / "methods.webp", **PICTURES)


def _first_seed(work: Work, store: Store, who: Identity) -> list[np.ndarray]:
    """The identity's pictures of the first seed, in the order of the prompts."""
    plan = work.plan
    config = generate_settings(work.pack).model_dump_json()
    drawn: list[GeneratedImage] = store.images([who.identity_id])
    by_prompt = {p.prompt: p.image for p in drawn if p.seed == plan.seeds[0] and p.config == config}
    return [by_prompt[prompt] for prompt in plan.prompts]
