"""The commands that make pictures of who was learned: `generate`, `serve`.

Heavy imports happen inside the commands, so that `--help` answers at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.errors import user_errors
from cli.options import (
    Changes,
    Gpus,
    NumWorkers,
    PackName,
    Root,
    made_folder,
    parse_seeds,
    parse_settings,
    prompts_of,
    tell_namesakes,
    tell_unread,
)
from cli.output import say, show_summary

if TYPE_CHECKING:
    from factory.draw.compose import Pose


def generate(
    root: Root,
    prompt: Annotated[
        list[str] | None,
        typer.Option(
            "--prompt", help="`<person>` stands for the identity, `<person:NAME>` for any other; may be repeated."
        ),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option("--prompts", metavar="FILE", help="One prompt a line, # begins a comment; - reads a pipe."),
    ] = None,
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
    best_of: Annotated[
        int,
        typer.Option(
            "--best-of", min=1, max=100, metavar="N", help="Draw N seeds for each, and keep the best picture."
        ),
    ] = 1,
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
    --pose left+front --out pictures`; of eight pictures the one nearest to the photo among those that follow the text:
    `identity-factory generate --root out/people --prompt "a photo of <person> in the snow" --best-of 8 --out pictures`
    """
    with user_errors():
        from factory.pack import load_pack
        from factory.settings import generate_settings
        from pipelines.generate import generate as generate_job
        from pipelines.jobs.pools import Workers

        texts = prompts_of(prompt, prompts)
        loaded = load_pack(pack)
        tell_unread(texts, loaded)
        tell_namesakes(root, identity)
        config = generate_settings(loaded, parse_settings(settings, num_inference_steps=steps))
        numbers = parse_seeds(seeds)
        poses: dict[str, list[Pose]] = {"": []}
        if pose:
            from factory.draw.poses import read_pose

            size = config.width_px or loaded.resolution, config.height_px or loaded.resolution
            poses = {text: read_pose(loaded, text, size) for text in pose}
        made_folder(out, root)
        summary = generate_job(
            root,
            pack,
            prompts=texts,
            seeds=numbers,
            identities=identity,
            poses=poses,
            config=config,
            best_of=best_of,
            workers=Workers(num=workers, gpus=gpus),
            out=out,
        )
        show_summary(summary, root)
        if out is not None:
            say(f"pictures are in {out}")


def serve(
    root: Root,
    pack: PackName = "studio",
    host: Annotated[str, typer.Option("--host")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=1, max=65535)] = 8000,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Answer anybody, as long as ROOT has no keys (`keys create`).")
    ] = False,
    cors: Annotated[
        list[str] | None,
        typer.Option(
            "--cors",
            metavar="ORIGIN",
            help="Whose pages may read answers and send photos, https://HOST; may be repeated.",
        ),
    ] = None,
) -> None:
    """Pictures of the stored identities over HTTP, in OpenAI's image format; new identities appear by themselves.

    Without keys ROOT is served to this machine alone; a key opens it to others, and to tenants (docs/security.md).

    Example: `identity-factory serve --root out/people --port 8000`
    """
    with user_errors():
        from factory.pack import load_pack
        from pipelines.jobs.joining import join_or_start
        from serve.app import run as serve_app

        loaded = load_pack(pack)
        loaded.folder(loaded.base)
        serve_app(root, pack, host, port, insecure=insecure, cors=cors or (), reach_ray=join_or_start)
