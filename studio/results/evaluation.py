"""`identity-factory evaluate`: the paper's protocol on held-out people, from photos to docs/results.

Learning, drawing and measuring are the jobs that users run, so all of it is kept in tables and nothing is done twice;
this file says which people, arms and bounds they get. studio/results/gather.py makes the page of it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from factory.config import PrepareConfig
from factory.pack import load_pack
from factory.settings import generate_settings
from factory.store.rows import image_row
from factory.store.tables import Store
from studio.results.bounds import renders
from studio.results.gather import write
from studio.results.protocol import FULL, QUICK, Plan, celebrities_of, people_of, write_portraits
from studio.results.ready import check
from studio.results.work import Cast, Work, cast_of

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results"


def run(out: Path, results: Path | None = None, *, quick: bool = False, pack: str = "studio") -> int:
    """Carries out the protocol and writes results.md, results.json and pictures; returns the exit status.

    Work is kept under `out`; a second run only writes the results anew. `results` is docs/results by default, and of a
    quick run a folder under `out`.
    """
    plan = QUICK if quick else FULL
    folder = (out / plan.name).resolve()
    carry_out(plan, folder, results or (folder / "results" if quick else RESULTS), pack)
    return 0


def carry_out(plan: Plan, folder: Path, results: Path, pack: str) -> None:
    """One plan, kept under `folder`, its page and pictures under `results`. PackError, at once, if the pack cannot."""
    work = Work(plan=plan, pack=load_pack(pack), folder=folder)
    check(work.pack)
    folder.mkdir(parents=True, exist_ok=True)
    learn(work)
    cast = cast_of(work)
    draw_and_measure(work, cast)
    with stage(work, "results"):
        write(work, cast, results)
    for name in ("results.md", "results.json"):
        print(results / name)


@contextmanager
def stage(work: Work, name: str) -> Iterator[list[int]]:
    """Times a stage. The body appends how much it did; a stage that did nothing leaves the time it once took."""
    print(f"{work.plan.name}: {name}", flush=True)
    begin, did = time.monotonic(), list[int]()
    yield did
    if sum(did):
        work.add_seconds(name, time.monotonic() - begin)


def learn(work: Work) -> None:
    """Photos -> faces, of people and celebrities; then every arm on the people."""
    from pipelines.prepare import prepare
    from pipelines.train import train

    measured, reference = celebrities_of(work.plan)
    sources = {"people": people_of(work.plan), "celebrities": {**measured, **reference}}
    for name, people in sources.items():
        photos = work.folder / f"{name}.parquet"
        with stage(work, f"photos and faces: {name}") as did:
            if not photos.exists():
                write_portraits(photos, people)
            root = str(work.folder / name)
            did.append(prepare(str(photos), root, work.pack.root, PrepareConfig(faces="largest")).faces)
    with stage(work, "learn: every arm") as did:
        recipes = [work.recipe(arm) for arm in work.plan.arms().values()]
        did.append(train(str(work.folder / "people"), work.pack.root, recipes).identities)


def draw_and_measure(work: Work, cast: Cast) -> None:
    """Pictures of everybody in every context, real renders among them, and what each measures."""
    plan = work.plan
    _render(work, cast)
    drawn = [*plan.arms(), "true_vector"]
    _pictures(work, work.people, cast.ids(drawn), plan.seeds, "people")
    _metrics(work, work.people, cast.ids([*drawn, "render"]), plan.seeds, "people")
    named = [who.identity_id for who in (*cast.identities["celebrity"], *cast.reference)]
    _pictures(work, work.celebrities, named, plan.seeds, "celebrities")
    _metrics(work, work.celebrities, named, plan.seeds, "celebrities")


def _render(work: Work, cast: Cast) -> None:
    """Real renders into `images`, where they are not there yet."""
    real = {who.name: who for who in cast.identities["render"]}
    with stage(work, "real renders") as did:
        there = set(work.people.read("images", columns=["identity_id"])["identity_id"].to_pylist())
        lacking = {name: who for name, who in real.items() if who.identity_id not in there}
        if lacking:  # one commit: all of a person's or none
            config, model = generate_settings(work.pack), work.pack.model_fingerprint()
            drawn = renders(lacking, people_of(work.plan), work.plan, config, work.pack.resolution, model)
            work.people.upsert("images", [image_row(picture) for picture in drawn])
            did.append(len(lacking))


def _pictures(work: Work, store: Store, ids: Sequence[str], seeds: Sequence[int], what: str) -> None:
    from pipelines.generate import generate

    with stage(work, f"pictures: {what}") as did:
        summary = generate(store.root, work.pack.root, prompts=work.plan.prompts, seeds=seeds, identities=ids)
        did.append(summary.images)


def _metrics(work: Work, store: Store, ids: Sequence[str], seeds: Sequence[int], what: str) -> None:
    from pipelines.evaluate import evaluate

    with stage(work, f"metrics: {what}") as did:
        summary = evaluate(store.root, work.pack.root, prompts=work.plan.prompts, seeds=seeds, identities=ids)
        did.append(summary.metrics)
