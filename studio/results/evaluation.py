"""`identity-factory evaluate`: the paper's protocol on held-out people, from photos to docs/results.

Learning, drawing and measuring are the jobs that users run, so all of it is kept in tables and nothing is done twice;
this file says which people, arms and bounds they get. studio/results/gather.py makes the page of it.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from factory.config import PrepareConfig
from factory.pack import load_pack
from factory.settings import generate_settings
from factory.store.rows import image_row
from factory.store.tables import Store
from studio.results import clips, scenes
from studio.results.bounds import renders
from studio.results.gather import gallery, write
from studio.results.page import scene_section
from studio.results.protocol import FULL, QUICK, Plan, celebrities_of, people_of, write_portraits
from studio.results.ready import check
from studio.results.work import Cast, Work, cast_of
from studio.world.motions import MOTIONS

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results"
SCENES = "poses and two people"  # the stage's name
CLIP_PEOPLE = 6


def run(
    out: Path,
    results: Path | None = None,
    *,
    quick: bool = False,
    only_scenes: bool = False,
    only_clips: bool = False,
    pack: str = "studio",
) -> int:
    """Carries out the protocol and writes results.md, results.json and pictures; returns the exit status.

    Work is kept under `out`; a second run only writes the results anew. `results` is docs/results by default, and of a
    quick run a folder under `out`. `only_scenes` learns the method's row alone, and puts poses and pictures of two into
    the results that are there; `only_clips` learns fewer people, and writes clips.md, clips.json and clips.webp alone.
    """
    plan = QUICK if quick else FULL
    folder = (out / plan.name).resolve()
    place = results or (folder / "results" if quick else RESULTS)
    if only_clips:
        show_clips(plan, folder, place, pack)
    else:
        (renew_scenes if only_scenes else carry_out)(plan, folder, place, pack)
    return 0


def show_clips(plan: Plan, folder: Path, results: Path, pack: str) -> None:
    """Clips of a few people as the method's row learns them: learned, drawn, measured, written under `results`. Kept
    under `folder`/clips, apart from the other tables, which hold more people. PackError if the pack cannot."""
    from pipelines.animate import animate
    from pipelines.generate import generate
    from pipelines.prepare import prepare
    from pipelines.train import train

    quick = plan.name == "quick"
    few = plan.model_copy(update={"num_people": 2 if quick else CLIP_PEOPLE, "table_1": plan.table_1[:1]})
    motions = list(MOTIONS)[:: 4 if quick else 1]
    work = Work(plan=few, pack=load_pack(pack), folder=folder / "clips")
    check(work.pack)
    work.pack.clip_fingerprint()  # a pack that makes no clips says so now
    work.folder.mkdir(parents=True, exist_ok=True)
    photos, store, root = work.folder / "people.parquet", work.people, work.pack.root
    people, arm = people_of(few), few.table_1[0]
    if not photos.exists():
        write_portraits(photos, people)
    with stage(work, "clips: learn"):
        prepare(str(photos), store.root, root, PrepareConfig(faces="largest"))
        train(store.root, root, [work.recipe(arm)])
    faces = {face.name: face for face in store.faces()}
    learned = {who.identity_id: who for who in store.identities()}
    ids = {name: work.id_of(arm, faces[name]) for name in people if name in faces}
    cast = {name: learned[one] for name, one in ids.items() if one in learned}
    if not cast:
        raise ValueError(f"nobody was learned; see the table rejects under {store.root}")
    prompts, whom = [clips.prompt_of(motion) for motion in motions], [who.identity_id for who in cast.values()]
    with stage(work, "clips: draw"):
        animate(store.root, root, prompts=prompts, seeds=[clips.CLIP_SEED], identities=whom)
        generate(store.root, root, prompts=prompts, seeds=clips.SINGLE_SEEDS, identities=whom)
    with stage(work, "clips: measure"):
        photos_PE = gallery(work.pack, [faces[name] for name in cast])
        known = {name: (who, people[name], own) for (name, who), own in zip(cast.items(), photos_PE, strict=True)}
        rows, strip = clips.cells(store, work.pack, known, motions, clips.ClipMeasurer(work.pack))
    clips.write(rows, strip, results)
    print(results / "clips.md")


def renew_scenes(plan: Plan, folder: Path, results: Path, pack: str) -> None:
    """Poses and pictures of two alone, put into the page and the numbers under `results`. FileNotFoundError if there
    are none, PackError if the pack cannot be evaluated."""
    page, numbers = results / "results.md", results / "results.json"
    text, known = page.read_text(encoding="utf-8"), json.loads(numbers.read_text(encoding="utf-8"))
    alone = plan.model_copy(update={"table_1": plan.table_1[:1], "table_2": (), "sweep": ()})
    work = Work(plan=alone, pack=load_pack(pack), folder=folder)
    check(work.pack)
    folder.mkdir(parents=True, exist_ok=True)
    learn(work)
    measured = show_scenes(work, cast_of(work))
    known["scenes"] = {name: asdict(cell) for name, cell in measured.items()}
    known["stages"] |= {name: seconds for name, seconds in work.stages.items() if name == SCENES}
    page.write_text(with_scenes(text, scene_section(measured)), encoding="utf-8")
    numbers.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    scenes.copy_sheet(work, results)
    print(page)


def with_scenes(page: str, section: str) -> str:
    """A page with this section in place of its older one, or before what limits its numbers."""
    parts = re.split(r"(?m)^(?=## )", page)
    kept = [part for part in parts if not part.startswith(scenes.HEADING)]
    at = next((n for n, part in enumerate(kept) if part.startswith("## What is different")), len(kept))
    return "".join([*kept[:at], section + "\n\n", *kept[at:]])


def show_scenes(work: Work, cast: Cast) -> scenes.Figures:
    """Poses and pictures of two: drawn and measured, unless they were before."""
    with stage(work, SCENES) as did:
        measured, new = scenes.figures(work, cast, gallery(work.pack, cast.faces))
        did.append(int(new))
    return measured


def carry_out(plan: Plan, folder: Path, results: Path, pack: str) -> None:
    """One plan, kept under `folder`, its page and pictures under `results`. PackError, at once, if the pack cannot."""
    work = Work(plan=plan, pack=load_pack(pack), folder=folder)
    check(work.pack)
    folder.mkdir(parents=True, exist_ok=True)
    learn(work)
    cast = cast_of(work)
    draw_and_measure(work, cast)
    show_scenes(work, cast)
    with stage(work, "results"):
        write(work, cast, results)
    if work.pack.motion is not None or work.pack.video is not None:
        show_clips(plan, folder, results, pack)
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
