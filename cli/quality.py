"""How good people are: `assess`.

Heavy imports happen inside the command, so that `--help` answers at once.
"""

from __future__ import annotations

from typing import Annotated

import typer

from cli.errors import user_errors
from cli.options import Changes, Gpus, NumWorkers, PackName, Root, parse_settings
from cli.output import show_summary


def assess(
    root: Root,
    identity: Annotated[
        list[str] | None, typer.Option("--identity", metavar="NAME", help="Name or id; may be repeated. [default: all]")
    ] = None,
    pack: PackName = "studio",
    steps: Annotated[
        int | None, typer.Option("--steps", min=1, help="Denoising steps of a probe picture. [default: the pack's]")
    ] = None,
    workers: NumWorkers = None,
    gpus: Gpus = None,
    settings: Changes = None,
) -> None:
    """Identities -> quality: how like the photo and how obedient to the text a few probe pictures of each are.

    `identities list` shows what was found, and the job's report the lowest. The pictures are not kept; whoever was
    assessed with the same settings is passed over.

    Example: `identity-factory assess --root out/people`
    """
    with user_errors():
        from factory.pack import load_pack
        from factory.settings import assess_settings
        from pipelines.assess import assess as assess_job
        from pipelines.jobs.pools import Workers

        config = assess_settings(load_pack(pack), parse_settings(settings, num_inference_steps=steps))
        models = Workers(num=workers, gpus=gpus)
        show_summary(assess_job(root, pack, identities=identity, config=config, workers=models), root)
