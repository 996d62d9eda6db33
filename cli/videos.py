"""Clips of who was learned: the command `animate`, and the group `videos`, which looks at them and exports them.

Heavy imports happen inside the commands, so that `--help` answers at once.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

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
    parse_seeds,
    parse_settings,
    prompts_of,
    tell_namesakes,
    tell_unread,
)
from cli.output import say, show_summary, show_table

if TYPE_CHECKING:
    from factory.draw.compose import Pose

videos_app = typer.Typer(
    cls=Commands, no_args_is_help=True, help="Look at the clips of a root, and take them elsewhere."
)
_SHOWN = ("name", "video_id", "prompt", "seed", "poses", "num_frames", "fps", "width", "height", "created_at")
Whose = Annotated[
    list[str] | None,
    typer.Argument(metavar="[NAME]...", help="Names or ids of people, or ids of clips. [default: all]"),
]

Prompt = Annotated[
    list[str] | None,
    typer.Option(
        "--prompt", help="`<person>` stands for the identity, `<person:NAME>` for any other; may be repeated."
    ),
]
Prompts = Annotated[
    Path | None,
    typer.Option("--prompts", metavar="FILE", help="One prompt a line, # begins a comment; - reads a pipe."),
]
Whom = Annotated[
    list[str] | None, typer.Option("--identity", metavar="NAME", help="Name or id; may be repeated. [default: all]")
]
InferenceSteps = Annotated[int | None, typer.Option("--steps", min=1, help="Denoising steps. [default: the pack's]")]


def animate(
    root: Root,
    prompt: Prompt = None,
    prompts: Prompts = None,
    seed: Annotated[str, typer.Option("--seed", "--seeds", metavar="0,1,4-7", help="A clip for each.")] = "0",
    identity: Whom = None,
    frames: Annotated[int | None, typer.Option("--frames", min=1, max=32, help="Of a clip. [default: 16]")] = None,
    fps: Annotated[int | None, typer.Option("--fps", min=1, max=60, help="Frames a second. [default: 8]")] = None,
    pose_path: Annotated[
        list[str] | None,
        typer.Option(
            "--pose-path",
            metavar="POSE..POSE",
            help="Poses (`packs poses`, photo:FILE) that the frames lie between, or one to stand still; or "
            "skeletons:DIR, one for each frame; may be repeated.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Also write <name>-<video_id>.mp4 there.")
    ] = None,
    pack: PackName = "studio",
    steps: InferenceSteps = None,
    guidance: Annotated[
        float | None, typer.Option("--guidance", min=0, help="Guidance scale. [default: the pack's]")
    ] = None,
    workers: NumWorkers = None,
    gpus: Gpus = None,
    settings: Changes = None,
) -> None:
    """Identities x prompts x paths of poses x seeds -> clips, in the table `videos`.

    The prompt names the motion. A clip takes as long as its frames' pictures, some 4 s on two cores. The same command
    again draws only what is missing; `identity-factory videos export` writes GIFs, WebPs or single frames.

    Examples: `identity-factory animate --root out/people --prompt "a photo of <person> smiling slowly" --out clips`;
    a head that turns from one side to the other: `identity-factory animate --root out/people --prompt "<person> at sea"
    --pose-path left..right --out clips`
    """
    with user_errors():
        from factory.pack import load_pack
        from factory.settings import animate_settings
        from pipelines.animate import animate as animate_job
        from pipelines.jobs.pools import Workers

        texts, loaded = prompts_of(prompt, prompts), load_pack(pack)
        loaded.clip_fingerprint()  # a pack that makes no clips is told before poses are read
        changes = parse_settings(
            settings, num_inference_steps=steps, guidance_scale=guidance, num_frames=frames, fps=fps
        )
        config = animate_settings(loaded, changes)
        paths: dict[str, list[Pose]] = {"": []}
        if pose_path:
            from factory.draw.poses import read_path

            size = config.generate.width_px or loaded.resolution, config.generate.height_px or loaded.resolution
            paths = {text: read_path(loaded, text, size, config.num_frames) for text in pose_path}
        tell_unread(texts, loaded)
        tell_namesakes(root, identity)
        made_folder(out, root)
        summary = animate_job(
            root,
            pack,
            prompts=texts,
            seeds=parse_seeds(seed),
            identities=identity,
            pose_paths=paths,
            config=config,
            workers=Workers(num=workers, gpus=gpus),
            out=out,
        )
        show_summary(summary, root)
        if out is not None:
            say(f"clips are in {out}")


@videos_app.command("list")
def list_videos(
    root: Root,
    names: Whose = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Every clip, newest last."""
    with user_errors():
        from factory.store.queries import clips_of
        from factory.store.tables import Store

        rows = clips_of(Store(root), names, list(_SHOWN))
        if as_json:
            for row in rows:
                print(json.dumps({name: row[name] for name in ("identity_id", *_SHOWN)}))
        else:
            show_table(list(_SHOWN), [[str(row[name]) for name in _SHOWN] for row in rows])


@videos_app.command("export")
def export_videos(
    root: Root,
    names: Whose = None,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="A folder.")] = Path(),
    clip_format: Annotated[
        Literal["mp4", "gif", "webp", "frames"],
        typer.Option("--format", help="frames: a folder of PNGs for each clip."),
    ] = "mp4",
) -> None:
    """Clips as files <name>-<video_id>.mp4 and so on; no two are called alike.

    Example: `identity-factory videos export ada --root out/people --format gif --out clips`
    """
    with user_errors():
        from factory.store.audit import note
        from factory.store.consents import still_agreed
        from factory.store.queries import clips_of
        from factory.store.tables import Store
        from pipelines.animate import write_clips

        store = Store(root)
        rows = still_agreed(store, clips_of(store, names, ["people"]), named=bool(names))
        wanted = [row["video_id"] for row in rows]
        if not wanted:
            raise ValueError(f"{root} holds no clips yet; `identity-factory animate` makes them")
        note(store, "exported clips", sorted({who for row in rows for who in row["people"]}), len(rows))
        for path in write_clips(store, wanted, on_disk(out), clip_format):
            say(str(path))
