"""The commands: options in, one library or pipeline call, a small table out.

Heavy imports happen inside the commands, so that `--help` answers at once.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.errors import TRACEBACK, user_errors
from cli.identities import identities_app
from cli.jobs import jobs_app, submit
from cli.options import (
    Changes,
    Faces,
    Gpus,
    NumWorkers,
    PackName,
    Photos,
    PresetName,
    Root,
    Steps,
    parse_seeds,
    parse_settings,
    read_prompts,
    take_fields,
)
from cli.packs import packs_app

if TYPE_CHECKING:
    from factory.draw.compose import Pose
    from pipelines.jobs.job import Summary

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="One face photo in, two word embeddings out, and from then on that person can be put into any prompt.\n\n"
    "`identity-factory run --photos PHOTOS --root ROOT` learns everybody in a folder of photos;\n\n"
    "`identity-factory generate --root ROOT --prompt '<person> in the snow' --out pictures` makes pictures of them;\n\n"
    "`identity-factory serve --root ROOT` does so over HTTP; `identity-factory demo` shows all of it.",
)
app.add_typer(identities_app, name="identities")
app.add_typer(packs_app, name="packs")
app.add_typer(jobs_app, name="jobs")
app.command("submit", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(submit)


@app.callback()
def main(
    traceback: Annotated[
        bool, typer.Option("--traceback", envvar=TRACEBACK, help="Show where an error comes from.")
    ] = False,
) -> None:
    """Options of every command."""
    if traceback:
        os.environ[TRACEBACK] = "1"


@app.command()
def run(
    photos: Photos,
    root: Root,
    pack: PackName = "studio",
    preset: PresetName = "paper",
    steps: Steps = None,
    workers: NumWorkers = None,
    gpus: Gpus = None,
    faces: Faces = None,
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
        )
        show_summary(summary, root)


@app.command()
def prepare(
    photos: Photos,
    root: Root,
    pack: PackName = "studio",
    workers: NumWorkers = None,
    gpus: Gpus = None,
    faces: Faces = None,
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
        show_summary(prepare_job(photos, root, pack, config, workers=Workers(num=workers, gpus=gpus)), root)


@app.command("retry-rejects")
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
        if "diverged" in (reason or ()):
            raise ValueError("diverged: not the photo is at fault; `train --set seed=1` (or another rate) learns it")
        config = prepare_settings(parse_settings(settings, faces=faces))
        models = Workers(num=workers, gpus=gpus)
        summary = prepare_job(photos, root, pack, config, workers=models, retry=reason or REASONS)
        show_summary(summary, root)


@app.command()
def train(
    root: Root,
    pack: PackName = "studio",
    preset: PresetName = "paper",
    steps: Steps = None,
    workers: NumWorkers = None,
    gpus: Gpus = None,
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
        summary = train_job(root, pack, [recipe], engine=engine, workers=Workers(num=workers, gpus=gpus))
        show_summary(summary, root)


@app.command()
def generate(
    root: Root,
    prompt: Annotated[
        list[str] | None,
        typer.Option(
            "--prompt", help="`<person>` stands for the identity, `<person:NAME>` for any other; may be repeated."
        ),
    ] = None,
    prompts: Annotated[Path | None, typer.Option("--prompts", metavar="FILE", help="One prompt a line.")] = None,
    seeds: Annotated[str, typer.Option("--seeds", metavar="0,1,4-7", help="A picture for each.")] = "0",
    identity: Annotated[
        list[str] | None, typer.Option("--identity", metavar="NAME", help="Name or id; may be repeated. [default: all]")
    ] = None,
    pose: Annotated[
        list[str] | None,
        typer.Option(
            "--pose",
            metavar="POSE",
            help="NAME (`packs poses`), NAME+NAME (one a person), photo:FILE or skeleton:FILE; may be repeated.",
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Also write <name>_<n>.png there.")] = None,
    pack: PackName = "studio",
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="Denoising steps. [default: the pack's]")] = None,
    workers: NumWorkers = None,
    gpus: Gpus = None,
    settings: Changes = None,
) -> None:
    """Identities x prompts x poses x seeds -> images.

    Examples: `identity-factory generate --root out/people --prompt "a photo of <person> wearing a red hat" --seeds 0-3
    --out pictures`; two people in one picture, one of them looking left:
    `identity-factory generate --root out/people --identity ada --prompt "<person> and <person:bob> on the beach"
    --pose left+front --out pictures`
    """
    with user_errors():
        from factory.pack import load_pack
        from factory.settings import generate_settings
        from pipelines.generate import generate as generate_job
        from pipelines.jobs.pools import Workers

        texts = [*(prompt or []), *(read_prompts(prompts) if prompts else [])]
        if not texts:
            raise typer.BadParameter("give --prompt TEXT or --prompts FILE")
        loaded = load_pack(pack)
        config = generate_settings(loaded, parse_settings(settings, num_inference_steps=steps))
        numbers = parse_seeds(seeds)
        poses: dict[str, list[Pose]] = {"": []}
        if pose:
            from factory.draw.poses import read_pose

            size = config.width_px or loaded.resolution, config.height_px or loaded.resolution
            poses = {text: read_pose(loaded, text, size) for text in pose}
        summary = generate_job(
            root,
            pack,
            prompts=texts,
            seeds=numbers,
            identities=identity,
            poses=poses,
            config=config,
            workers=Workers(num=workers, gpus=gpus),
            out=out,
        )
        show_summary(summary, root)
        if out is not None:
            print(f"pictures are in {out}")


@app.command()
def serve(
    root: Root,
    pack: PackName = "studio",
    host: Annotated[str, typer.Option("--host")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=1, max=65535)] = 8000,
) -> None:
    """Pictures of the stored identities over HTTP, in OpenAI's image format; new identities appear by themselves.

    Example: `identity-factory serve --root out/people --port 8000`
    """
    with user_errors():
        from factory.pack import load_pack
        from serve.app import run as serve_app

        loaded = load_pack(pack)
        loaded.folder(loaded.base)
        serve_app(root, pack, host, port)


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", metavar="DIR")] = Path("out/demo"),
    fresh: Annotated[bool, typer.Option("--fresh", help="Start over. [default: keep what DIR holds]")] = False,
) -> None:
    """The whole chain on this machine, from rendered portraits to a contact sheet and a report."""
    with user_errors():
        from studio.demo.run import run as run_demo

        raise typer.Exit(run_demo(out, fresh=fresh))


@app.command("evaluate")
def protocol(
    quick: Annotated[bool, typer.Option("--quick", help="Minutes: fewer people, prompts and steps.")] = False,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where work is kept.")] = Path("out/evaluate"),
    results: Annotated[
        Path | None, typer.Option("--results", metavar="DIR", help="[default: docs/results; of --quick DIR of --out]")
    ] = None,
    pack: PackName = "studio",
) -> None:
    """The paper's protocol on held-out people of the studio world: baselines, ablations, bounds, with intervals.

    What DIR holds is not done again. Example: `identity-factory evaluate --quick`
    """
    with user_errors():
        from studio.results.evaluation import run as run_evaluation

        raise typer.Exit(run_evaluation(out, results, quick=quick, pack=pack))


def show_summary(summary: Summary, root: str) -> None:
    """The job's counts, and where they are written."""
    from factory.store.tables import Store

    for line in summary.lines():
        print(line)
    print(f"{Store(root).root}/jobs/{summary.job_id}/summary.json")


if __name__ == "__main__":
    app()
