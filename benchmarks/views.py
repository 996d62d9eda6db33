"""What pooled views and early stopping cost in quality: the evaluation's measures, each way on the same people.

    python -m benchmarks.views --out benchmarks/views_MACHINE_YYYY-MM

Held-out people of the studio world whose numbers are below those that the evaluation measures. A pool with another
random stream stands beside: what chance alone changes. Jobs keep their work under --work; writes OUT.md and OUT.json.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import factory  # noqa: F401  (before torchvision, transformers and diffusers: see factory/__init__.py)

# isort: split
import numpy as np
import ray

from benchmarks.measure import hardware, markdown
from factory.config import PrepareConfig
from factory.ids import identity_id
from factory.measure.formulas import Interval
from factory.measure.pictures import protocol_id
from factory.pack import load_pack
from factory.records import Identity
from factory.settings import evaluate_settings, generate_settings, train_settings
from factory.store.tables import Store
from pipelines.evaluate import evaluate
from pipelines.generate import generate
from pipelines.jobs.pools import Workers
from pipelines.prepare import prepare
from pipelines.train import train
from studio.results.gather import gallery
from studio.results.protocol import CONTEXTS, FIRST_EVALUATED, write_portraits
from studio.results.scores import MEASURES, Scores, by_identity, difference, scores_of, table_row
from studio.training.dataset import held_out

FIRST = 24  # of studio.training.dataset.held_out: the lower numbers were looked at while settings were chosen
POOL = "a pool, encoded once"
WAYS: dict[str, dict[str, object]] = {  # the first one is what the others are compared with
    "new views at every step": {"views": "every_step"},
    POOL: {"views": "pool"},
    f"{POOL}; another random stream": {"views": "pool", "seed": 1},
    **{f"{POOL}; stop below {share}": {"views": "pool", "stop_below": share} for share in (0.2, 0.3)},
}
COLUMNS = ("face_sim", "clip_t", "trusted_div", "nearest")


def main() -> None:
    arguments = _arguments()
    if FIRST + arguments.people > FIRST_EVALUATED:
        raise SystemExit(f"--people takes at most {FIRST_EVALUATED - FIRST}: the others are the evaluation's")
    pack, store = load_pack("studio"), Store(arguments.work)
    recipes = {way: train_settings(pack, "paper", changes) for way, changes in WAYS.items()}
    prompts, seeds = [context.prompt for context in CONTEXTS[: arguments.prompts]], list(range(arguments.seeds))
    photos = arguments.work / "photos.parquet"
    write_portraits(photos, {f"held-out {n}": held_out(n) for n in range(FIRST, FIRST + arguments.people)})
    prepare(str(photos), store.root, pack.root, PrepareConfig(faces="largest"))
    workers = Workers(num=arguments.workers)
    train(store.root, pack.root, list(recipes.values()), workers=workers)
    faces = sorted(store.faces(), key=lambda face: face.name)
    stored = {who.identity_id: who for who in store.identities()}
    learned = {
        way: [stored[identity_id(face.face_id, recipe, pack.learning_fingerprint())] for face in faces]
        for way, recipe in recipes.items()
    }
    ids = [who.identity_id for people in learned.values() for who in people]
    generate(store.root, pack.root, prompts=prompts, seeds=seeds, identities=ids, workers=workers)
    evaluate(store.root, pack.root, prompts=prompts, seeds=seeds, identities=ids, workers=workers)
    ray.shutdown()
    protocol = protocol_id(pack, prompts, seeds, generate_settings(pack), evaluate_settings(pack))
    rows, photos_of = by_identity(store.metrics(protocol)), gallery(pack, faces)
    scores = {way: scores_of([rows[who.identity_id] for who in people], photos_of) for way, people in learned.items()}
    text = report(scores, learned, f"{hardware('cpu')}; {arguments.workers} workers")
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.with_suffix(".md").write_text(text)
    numbers = {way: {key: asdict(cell) for key, cell in table_row(own, None).items()} for way, own in scores.items()}
    arguments.out.with_suffix(".json").write_text(json.dumps(numbers, indent=2) + "\n")
    print(text)


def report(scores: Mapping[str, Scores], learned: Mapping[str, list[Identity]], machine: str) -> str:
    """Each way's measures, and its paired differences from the first one, with 95 % intervals over people."""
    first = next(iter(scores))
    values, differences = [], []
    for way, own in scores.items():
        row = table_row(own, None)
        steps = np.mean([who.num_steps for who in learned[way]])
        seconds = np.mean([who.train_s for who in learned[way]])
        values.append([way, f"{steps:.0f}", f"{seconds:.1f}", *(_cell(row[c], c) for c in COLUMNS)])
        if way != first:
            differences.append([way, *(_cell(difference(own, scores[first], c), c, "+") for c in COLUMNS)])
    names = [MEASURES[column][0] for column in COLUMNS]
    one = scores[first]
    return (
        f"# Pooled views and early stopping: what they cost\n\n{machine}. {one.num_people} people, {one.num_pictures} "
        "pictures a row; in brackets 95 % intervals over people.\n\n"
        + markdown(["", "steps", "s / identity", *names], values)
        + f"\nDifferences from “{first}”, on the same people:\n\n"
        + markdown(["", *names], differences)
    )


def _cell(cell: Interval, measure: str, sign: str = "") -> str:
    own = cell.times(MEASURES[measure][2])
    return f"{own.value:{sign}.1f} [{own.low:{sign}.1f}, {own.high:{sign}.1f}]"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=8)
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--work", type=Path, default=Path("out/bench/views"), help="where tables are kept")
    parser.add_argument("--out", type=Path, default=Path("out/bench/views_result"), help="without suffix")
    return parser.parse_args()


if __name__ == "__main__":
    main()
