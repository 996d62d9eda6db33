"""The command line's `packs` group."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from cli.commands import Commands
from cli.errors import user_errors
from cli.output import show_table

packs_app = typer.Typer(
    cls=Commands, no_args_is_help=True, help="Model packs: which there are, whether they are complete."
)


@packs_app.command("list")
def list_packs() -> None:
    """The packs that come with the factory."""
    with user_errors():
        from factory.pack import list_packs as names
        from factory.pack import load_pack

        rows = []
        for name in names():
            pack = load_pack(name)
            missing = [part for part, source in pack.parts().items() if not pack.place(source).exists()]
            rows.append([name, f"missing: {', '.join(missing)}" if missing else "here", pack.description])
        show_table(["pack", "weights", "description"], rows)


@packs_app.command("verify")
def verify_pack(pack: Annotated[str, typer.Argument(help="Name or folder.")] = "studio") -> None:
    """Presence, hashes and fit of every part; exit status 1 if the pack cannot be used."""
    with user_errors():
        from factory.pack import load_pack
        from factory.supply.verify import verify_pack as verify

        problems = verify(load_pack(pack), on_progress=lambda text: print(text, file=sys.stderr))
        for problem in problems:
            print(f"{problem.level}: {problem.part}: {problem.message}\n  {problem.remedy}")
        if any(problem.level == "error" for problem in problems):
            raise typer.Exit(1)
        print(f"pack {pack} is complete and fits together")


@packs_app.command("poses")
def list_poses(pack: Annotated[str, typer.Argument(help="Name or folder.")] = "studio") -> None:
    """The named poses of a pack: degrees, and size and shift in shares of the picture's side."""
    with user_errors():
        from dataclasses import astuple, fields

        from factory.faces.pose import HeadPose
        from factory.pack import load_pack

        loaded = load_pack(pack)
        poses = loaded.control["pose"].poses if "pose" in loaded.control else {}
        if not poses:
            raise ValueError(f"pack {loaded.name!r} has no named poses; name some under [control.pose.poses]")
        columns = ["pose", *(field.name for field in fields(HeadPose))]
        numbers = {name: [f"{number:g}" for number in astuple(HeadPose(**pose))] for name, pose in poses.items()}
        show_table(columns, [[name, *row] for name, row in numbers.items()])


@packs_app.command("fetch")
def fetch_pack(pack: Annotated[str, typer.Argument(help="Name or folder.")]) -> None:
    """Download what a pack lacks, after showing the licences."""
    with user_errors():
        from factory.pack import load_pack
        from factory.supply.fetch import fetch_pack as fetch

        fetch(load_pack(pack), print)
