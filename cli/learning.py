"""The commands that learn people: `run`, `prepare`, `retry-rejects`, `train`.

Heavy imports happen inside the commands, so that `--help` answers at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from cli.errors import user_errors
from cli.options import (
    AsTold,
    BelowIt,
    Changes,
    Faces,
    Gpus,
    MergePeople,
    MinQuality,
    NumWorkers,
    PackName,
    PersonFrom,
    Photos,
    PresetName,
    Root,
    Steps,
    parse_settings,
    take_fields,
)
from cli.output import show_summary

if TYPE_CHECKING:
    from pipelines.sift import Below

_NOT_OF_A_PHOTO: Final = {
    "diverged": "`train --set seed=1` (or another rate) learns it",
    "low_quality": "`train --set seed=1` learns it again",
    "several_faces": "another photo that shows this person alone, and `run`, tell who of them it is",
    "other_person": "`train --persons-as-told` learns it with the others that are told to be this person's",
}


def run(
    photos: Photos,
    root: Root,
    pack: PackName = "studio",
    preset: PresetName = "paper",
    steps: Steps = None,
    workers: NumWorkers = None,
    gpus: Gpus = None,
    faces: Faces = None,
    merge_people: MergePeople = False,
    person_from: PersonFrom = None,
    persons_as_told: AsTold = False,
    min_quality: MinQuality = None,
    below: BelowIt = None,
    settings: Changes = None,
) -> None:
    """Photos in, identities learned: `prepare`, then `train`.

    What is in the tables already is not done again, so the same command goes on after an interruption.

    Example: `identity-factory run --photos ~/portraits --root out/people`
    """
    with user_errors():
        from factory.config import EngineConfig, PrepareConfig
        from factory.pack import load_pack
        from factory.settings import engine_settings, prepare_settings, train_settings
        from pipelines.jobs.pools import Workers
        from pipelines.run import run as run_job

        changes = parse_settings(settings, num_steps=steps, faces=faces)
        limits, engine = (take_fields(changes, config.model_fields) for config in (PrepareConfig, EngineConfig))
        summary = run_job(
            photos,
            root,
            pack,
            train_settings(load_pack(pack), preset, changes),
            config=prepare_settings(limits),
            engine=engine_settings(engine),
            workers=Workers(num=workers, gpus=gpus),
            merge_people=merge_people,
            person_from=person_from,
            as_told=persons_as_told,
            min_quality=min_quality,
            below=_below(min_quality, below),
        )
        show_summary(summary, root)


def prepare(
    photos: Photos,
    root: Root,
    pack: PackName = "studio",
    workers: NumWorkers = None,
    gpus: Gpus = None,
    faces: Faces = None,
    person_from: PersonFrom = None,
    settings: Changes = None,
) -> None:
    """Photos -> faces: find, align and parse every face. A photo that cannot be used is a row of `rejects`.

    Example: `identity-factory prepare --photos s3://bucket/photos --root s3://bucket/people --faces largest`
    """
    with user_errors():
        from factory.settings import prepare_settings
        from pipelines.jobs.pools import Workers
        from pipelines.prepare import prepare as prepare_job

        config = prepare_settings(parse_settings(settings, faces=faces))
        models = Workers(num=workers, gpus=gpus)
        show_summary(prepare_job(photos, root, pack, config, workers=models, person_from=person_from), root)


def retry_rejects(
    photos: Photos,
    root: Root,
    reason: Annotated[
        list[str] | None,
        typer.Option("--reason", metavar="REASON", help="Only these; may be repeated. [default: every reason]"),
    ] = None,
    pack: PackName = "studio",
    workers: NumWorkers = None,
    gpus: Gpus = None,
    faces: Faces = None,
    person_from: PersonFrom = None,
    settings: Changes = None,
) -> None:
    """Try only the photos of SRC that were refused, with other limits or a mended source; the outcome replaces the
    reject. Photos are not kept under ROOT, so the source is read again.

    Example: `identity-factory retry-rejects --photos photos --root out/people --reason blurred --set min_sharpness=0`
    """
    with user_errors():
        from factory.errors import REASONS
        from factory.settings import prepare_settings
        from pipelines.jobs.pools import Workers
        from pipelines.prepare import prepare as prepare_job

        if unknown := sorted(set(reason or ()) - set(REASONS)):
            raise ValueError(f"no reason {', '.join(unknown)}; there are {', '.join(REASONS)}")
        for what in reason or ():
            if what in _NOT_OF_A_PHOTO:
                raise ValueError(f"{what}: not the photo is at fault; {_NOT_OF_A_PHOTO[what]}")
        config = prepare_settings(parse_settings(settings, faces=faces))
        models = Workers(num=workers, gpus=gpus)
        how: dict[str, Any] = {"workers": models, "person_from": person_from}
        summary = prepare_job(photos, root, pack, config, retry=reason or REASONS, **how)
        show_summary(summary, root)


def train(
    root: Root,
    pack: PackName = "studio",
    preset: PresetName = "paper",
    steps: Steps = None,
    workers: NumWorkers = None,
    gpus: Gpus = None,
    merge_people: MergePeople = False,
    persons_as_told: AsTold = False,
    min_quality: MinQuality = None,
    below: BelowIt = None,
    settings: Changes = None,
) -> None:
    """Faces -> identities: learn two words for every face that has none with these settings.

    Examples: `identity-factory train --root out/people`; the paper's ablation without AdaIN:
    `identity-factory train --root out/people --set adain=false`
    """
    with user_errors():
        from factory.config import EngineConfig
        from factory.pack import load_pack
        from factory.settings import engine_settings, train_settings
        from factory.store.tables import Store
        from pipelines.jobs.pools import Workers
        from pipelines.train import train as train_job

        if Store(root).count("faces") == 0:
            raise ValueError(f"{root} holds no faces yet; run `identity-factory prepare --photos SRC --root {root}`")
        changes = parse_settings(settings, num_steps=steps)
        engine = engine_settings(take_fields(changes, EngineConfig.model_fields))
        recipe = train_settings(load_pack(pack), preset, changes)
        models = Workers(num=workers, gpus=gpus)
        what = _below(min_quality, below)
        if min_quality is not None:
            from factory.measure.quality import check_measures

            check_measures(load_pack(pack))  # now, not after an hour of learning
        how: dict[str, Any] = {"merge_people": merge_people, "as_told": persons_as_told}
        summary = train_job(root, pack, [recipe], engine=engine, workers=models, **how)
        show_summary(summary, root)
        if min_quality is not None:
            from pipelines.sift import sift

            show_summary(sift(root, pack, recipe, min_quality, what, engine=engine, workers=models), root)


def _below(min_quality: float | None, below: Below | None) -> Below:
    """What becomes of those of less quality."""
    if below is not None and min_quality is None:
        raise typer.BadParameter("--below goes with --min-quality")
    return below or "again"
