"""The commands: options in, one library or pipeline call, a small table out.

Heavy imports happen inside the commands, so that `--help` answers at once.
"""

from __future__ import annotations

import os
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from cli.audit import audit_app
from cli.commands import Commands
from cli.drawing import generate, serve
from cli.errors import TRACEBACK, user_errors
from cli.heads import heads_app, sculpt
from cli.identities import identities_app
from cli.jobs import jobs_app, submit
from cli.keys import keys_app
from cli.learning import prepare, retry_rejects, run, train
from cli.options import PackName
from cli.output import any_text
from cli.packs import packs_app
from cli.quality import assess
from cli.surroundings import finish, settle
from cli.trust import verify
from cli.videos import animate, videos_app
from factory.storage import PHOTOS_STORAGE, S3_SETTINGS, remember

app = typer.Typer(
    cls=Commands,
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
app.add_typer(videos_app, name="videos")
app.add_typer(heads_app, name="heads")
app.add_typer(packs_app, name="packs")
app.add_typer(jobs_app, name="jobs")
app.add_typer(keys_app, name="keys")
app.add_typer(audit_app, name="audit")
app.command("submit", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(submit)
app.command()(run)
app.command()(prepare)
app.command("retry-rejects")(retry_rejects)
app.command()(train)
app.command()(assess)
app.command()(generate)
app.command()(animate)
app.command()(sculpt)
app.command()(serve)
app.command()(verify)


def _show_version(wanted: bool) -> None:
    if wanted:
        with user_errors():
            print(version("identity-factory"))
        raise typer.Exit


@app.callback()
def main(
    _version: Annotated[
        bool, typer.Option("--version", "-V", is_eager=True, callback=_show_version, help="Show the version, and exit.")
    ] = False,
    traceback: Annotated[
        bool, typer.Option("--traceback", envvar=TRACEBACK, help="Show where an error comes from.")
    ] = False,
    storage: Annotated[
        list[str] | None,
        typer.Option(
            "--storage",
            metavar="KEY=VALUE",
            help=f"How a store is reached; of s3:// {', '.join(S3_SETTINGS)}; of others what their package of "
            "fsspec takes. May be repeated.",
        ),
    ] = None,
    photos_storage: Annotated[
        list[str] | None,
        typer.Option(
            "--photos-storage",
            metavar="KEY=VALUE",
            help="The same for --photos alone, in place of --storage, if they are in another store than the tables; "
            "also profile=NAME, of ~/.aws. May be repeated.",
        ),
    ] = None,
) -> None:
    """Options of every command."""
    any_text()
    if storage:
        with user_errors():
            remember(storage)
    if photos_storage:
        with user_errors():
            remember(photos_storage, PHOTOS_STORAGE)
    if traceback:
        os.environ[TRACEBACK] = "1"


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
    only_scenes: Annotated[
        bool, typer.Option("--only-scenes", help="Poses and two people alone, put into the results that are there.")
    ] = False,
    only_clips: Annotated[
        bool, typer.Option("--only-clips", help="Clips alone, of six people: docs/results/clips.md.")
    ] = False,
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

        how = {"quick": quick, "only_scenes": only_scenes, "only_clips": only_clips}
        raise typer.Exit(run_evaluation(out, results, **how, pack=pack))


def entry() -> None:
    """The program."""
    settle()
    try:
        app()
    finally:
        finish()


if __name__ == "__main__":
    entry()
