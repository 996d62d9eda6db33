"""Heads of who was learned: the command `sculpt`, and the group `heads`, which looks at them and exports them.

Heavy imports happen inside the commands, so that `--help` answers at once.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from cli.commands import Commands
from cli.errors import user_errors
from cli.options import (
    Changes,
    Gpus,
    NumWorkers,
    PackName,
    Root,
    made_folder,
    on_disk,
    parse_settings,
    tell_namesakes,
    tell_unread,
)
from cli.output import say, show_summary, show_table

heads_app = typer.Typer(
    cls=Commands, no_args_is_help=True, help="Look at the heads of a root, and take them elsewhere."
)
_PLAIN = "plain-ply is for viewers that refuse a ply with comments in its header, and says nothing of its making"
_SHOWN = ("name", "model_id", "prompt", "num_gaussians", "num_iterations", "seconds", "created_at")
Whose = Annotated[
    list[str] | None,
    typer.Argument(metavar="[NAME]...", help="Names or ids of people, or ids of heads. [default: all]"),
]


def sculpt(
    root: Root,
    prompt: Annotated[
        list[str] | None,
        typer.Option("--prompt", help="`<person>` stands for the identity; may be repeated."),
    ] = None,
    identity: Annotated[
        list[str] | None, typer.Option("--identity", metavar="NAME", help="Name or id; may be repeated. [default: all]")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Also write <name>-<model_id>.ply and .mp4 there.")
    ] = None,
    file_format: Annotated[
        Literal["ply", "plain-ply", "spz", "gltf"],
        typer.Option(
            "--format",
            help=f"Of --out; {_PLAIN}; spz is a tenth as large or less, gltf has KHR_gaussian_splatting (.glb).",
        ),
    ] = "ply",
    pack: PackName = "studio",
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="Updates of a head. [default: 240]")] = None,
    workers: NumWorkers = None,
    gpus: Gpus = None,
    settings: Changes = None,
) -> None:
    """Identities x prompts -> heads of 3D Gaussians: minutes each; what was interrupted goes on where it was.

    In the studio world a head is seen from -32 to 32 degrees: it has no back.

    Example: `identity-factory sculpt --root out/people --identity ada --prompt "<person> wearing a golden crown" --out
    heads`
    """
    with user_errors():
        from factory.pack import load_pack
        from factory.settings import sculpt_settings
        from pipelines.jobs.pools import Workers
        from pipelines.sculpt import sculpt as sculpt_job

        config = sculpt_settings(parse_settings(settings, num_iterations=steps))
        tell_unread(prompt or [], load_pack(pack))
        tell_namesakes(root, identity)
        made_folder(out, root)
        summary = sculpt_job(
            root,
            pack,
            prompts=prompt or ["a photo of <person>"],
            identities=identity,
            config=config,
            workers=Workers(num=workers, gpus=gpus),
            out=out,
            file_format=file_format,
        )
        show_summary(summary, root)
        if out is not None:
            say(f"heads are in {out}")


@heads_app.command("list")
def list_heads(
    root: Root,
    names: Whose = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Every head, newest last."""
    with user_errors():
        from factory.store.queries import heads_of
        from factory.store.tables import Store

        rows = heads_of(Store(root), names, list(_SHOWN))
        if as_json:
            for row in rows:
                print(json.dumps({name: row[name] for name in ("identity_id", *_SHOWN)}))
        else:
            show_table(list(_SHOWN), [[str(row[name]) for name in _SHOWN] for row in rows])


@heads_app.command("export")
def export_heads(
    root: Root,
    names: Whose = None,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="A folder.")] = Path(),
    file_format: Annotated[
        Literal["ply", "plain-ply", "spz", "gltf", "mp4", "gif", "webp", "frames"],
        typer.Option(
            "--format",
            help=f"The Gaussians: ply, plain-ply, spz, gltf; or the turntable, frames being PNGs. {_PLAIN[0].upper()}"
            f"{_PLAIN[1:]}.",
        ),
    ] = "ply",
) -> None:
    """Heads as files <name>-<model_id>.ply and so on; no two are called alike.

    Example: `identity-factory heads export ada --root out/people --format gltf --out heads`
    """
    with user_errors():
        from factory.store.audit import note
        from factory.store.consents import still_agreed
        from factory.store.queries import heads_of
        from factory.store.tables import Store
        from pipelines.sculpt import write_heads

        store = Store(root)
        rows = still_agreed(store, heads_of(store, names, []), named=bool(names))
        wanted = [row["model_id"] for row in rows]
        if not wanted:
            raise ValueError(f"{root} holds no heads yet; `identity-factory sculpt` makes them")
        note(store, "exported heads", sorted({row["identity_id"] for row in rows}), len(rows))
        for path in write_heads(store, wanted, on_disk(out), file_format):
            say(str(path))
