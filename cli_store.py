"""The command line's other half: `identities` and `packs`, the options that commands share, and how every command
reports errors and shows tables."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import typer

identities_app = typer.Typer(no_args_is_help=True, help="Look at the identities of a root, and take them elsewhere.")
packs_app = typer.Typer(no_args_is_help=True, help="Model packs: which there are, whether they are complete.")

Root = Annotated[str, typer.Option("--root", metavar="ROOT", help="Where the tables are: a local path or s3://.")]
Photos = Annotated[
    str,
    typer.Option(
        "--photos",
        metavar="SRC",
        help="A folder of images; a Parquet file or folder with a column `image` (bytes) or `uri`, and optionally "
        "`name`; or an s3:// prefix of either.",
    ),
]
PackName = Annotated[str, typer.Option("--pack", help="Model pack: a name (`packs list`), a folder or s3://.")]
PresetName = Annotated[
    Literal["paper", "release"],
    typer.Option("--preset", help="The paper's equations as printed, or what its published code computes."),
]
Steps = Annotated[int | None, typer.Option("--steps", min=1, help="Updates per identity. [default: the pack's]")]
Workers = Annotated[int | None, typer.Option("--workers", min=1, help="Model workers. [default: what the cluster has]")]
Gpus = Annotated[
    float | None,
    typer.Option(
        "--gpus", min=0, help="GPUs of a model worker: 0.5 lets two share one, 0 is CPU. [default: 1 if there are any]"
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set",
        metavar="KEY=VALUE",
        help="Any field of factory/config.py, such as phase_boundary=0.5; KEY=none where a field may be None.",
    ),
]
Faces = Annotated[
    Literal["all", "largest"] | None,
    typer.Option("--faces", help="Which faces of a group photo become identities. [default: all]"),
]
_NONE: dict[str, str | None] = {"none": None}
Names = Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Names or ids. [default: all]")]


@identities_app.command("list")
def list_identities(
    root: Root, as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False
) -> None:
    """Every identity, newest last."""
    with user_errors():
        from factory.tables import Store

        columns = ["name", "identity_id", "pack", "preset", "num_steps", "final_loss", "created_at"]
        rows = Store(root).read("identities", columns=columns).sort_by([("created_at", "ascending")]).to_pylist()
        if as_json:
            for row in rows:
                print(json.dumps(row))
        else:
            show_table(columns, [[_text(row[column]) for column in columns] for row in rows])


@identities_app.command("show")
def show_identity(name: Annotated[str, typer.Argument(help="Name or id.")], root: Root) -> None:
    """Everything known of one identity."""
    with user_errors():
        from dataclasses import fields

        from factory.tables import Store

        identity = Store(root).find_identity(name)
        words = identity.words
        rows = [[f.name, _text(getattr(identity, f.name))] for f in fields(identity) if f.name != "words"]
        rows.append(["words", f"{words.shape[0]} x {words.shape[1]}, {words.min():.4f} to {words.max():.4f}"])
        show_table(["field", "value"], rows)


@identities_app.command("export")
def export_identities(
    root: Root,
    names: Names = None,
    out: Annotated[Path, typer.Option("--out", metavar="PATH", help="A folder, or one file.")] = Path(),
    file_format: Annotated[
        Literal["kohya", "diffusers", "a1111", "release", "parquet"],
        typer.Option("--format", help="kohya suits most tools; parquet is a whole table."),
    ] = "kohya",
    table: Annotated[
        Literal["faces", "identities", "images", "rejects", "names"], typer.Option("--table", help="For parquet.")
    ] = "identities",
) -> None:
    """Embedding files for other tools, or a table as Parquet.

    Examples: `identity-factory identities export alex --root out/people --format diffusers --out alex.safetensors`;
    `identity-factory identities export --root out/people --format parquet --table images --out images.parquet`
    """
    with user_errors():
        from factory.export import export_identity, export_paths
        from factory.tables import Store

        store = Store(root)
        if file_format == "parquet":
            target = out if out.suffix else out / f"{table}.parquet"
            target.parent.mkdir(parents=True, exist_ok=True)
            store.export_parquet(table, target)
            print(target)
            return
        people = store.identities(names)
        if not people:
            raise ValueError(f"{root} holds no identities yet")
        if len(people) > 1 and out.suffix:
            raise typer.BadParameter(f"{len(people)} identities need a folder, not {out}; or name one identity")
        for identity, path in zip(people, export_paths(people, out, file_format), strict=True):
            print(export_identity(identity, path, file_format))


@identities_app.command("erase")
def erase_identity(
    root: Root,
    photo: Annotated[
        str | None, typer.Option("--photo", metavar="FILE", help="The photo, or its photo_id: everybody on it.")
    ] = None,
    identity: Annotated[str | None, typer.Option("--identity", metavar="ID", help="An identity_id.")] = None,
    name: Annotated[str | None, typer.Option("--name", help="Everybody of exactly this name, in all photos.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Erase a person: rows of every table, old versions, leftovers of jobs; then search every byte under ROOT.

    The same photo is not learned again (docs/tables.md). Photos and files outside ROOT stay as they are.

    Example: `identity-factory identities erase --name Ada --root out/people`
    """
    with user_errors():
        from factory.erase import erase, find_person
        from factory.tables import Store

        if sum(given is not None for given in (photo, identity, name)) != 1:
            raise typer.BadParameter("give one of --photo, --identity and --name")
        store = Store(root)
        person = find_person(store, photo_id=photo and _photo_id(photo), identity_id=identity, name=name)
        what = (
            f"{len(person.photo_ids)} photos, {len(person.identity_ids)} identities, {len(person.image_ids)} pictures"
        )
        if not yes:
            typer.confirm(f"Erase {what} from {store.root} for good?", abort=True)
        done = erase(store, person)
        show_table(["table", "rows removed"], [[table, str(num)] for table, num in done.rows.items()])
        print(f"{done.job_files} files of jobs cleaned, {done.orphans} leftovers of killed jobs removed")
        print(f"searched {done.files_scanned} files, {done.bytes_scanned:,} bytes: {len(done.found)} traces left")
        if done.found:
            raise OSError(f"traces are left, erase again when no job runs: {'; '.join(done.found[:5])}")


def _photo_id(photo: str) -> str:
    if len(photo) == 64 and not set(photo) - set("0123456789abcdef"):
        return photo
    from factory.files import filesystem
    from factory.photos import content_id

    files, path = filesystem(photo)
    with files.open_input_stream(path) as stream:
        return content_id(stream.read())


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
        from factory.pack_verify import verify_pack as verify

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

        from factory.pack import load_pack
        from factory.pose import HeadPose

        loaded = load_pack(pack)
        poses = loaded.control["pose"].poses if "pose" in loaded.control else {}
        if not poses:
            raise ValueError(f"pack {loaded.name!r} has no named poses; name some under [control.pose.poses]")
        columns = ["pose", *(field.name for field in fields(HeadPose))]
        show_table(columns, [[name, *map(_text, astuple(HeadPose(**pose)))] for name, pose in poses.items()])


@packs_app.command("fetch")
def fetch_pack(pack: Annotated[str, typer.Argument(help="Name or folder.")]) -> None:
    """Download what a pack lacks, after showing the licences."""
    with user_errors():
        from factory.pack import load_pack
        from factory.pack_fetch import fetch_pack as fetch

        fetch(load_pack(pack), print)


def parse_settings(settings: list[str] | None, **options: int | str | None) -> dict[str, object]:
    """KEY=VALUE pairs and the options of the same name that were given; lists in JSON, "none" where a field may be."""
    changes: dict[str, object] = {}
    for text in settings or []:
        key, equals, value = text.partition("=")
        if not equals:
            raise typer.BadParameter(f"--set {text}: write KEY=VALUE")
        changes[key.strip()] = json.loads(value) if value.startswith("[") else _NONE.get(value.strip(), value.strip())
    return {**changes, **{key: value for key, value in options.items() if value is not None}}


def take_fields(changes: dict[str, object], fields: Collection[str]) -> dict[str, object]:
    """Takes these fields out of the changes; those that stay are for other configs."""
    return {key: changes.pop(key) for key in list(changes) if key in fields}


def parse_seeds(text: str) -> list[int]:
    """ "0,2,4-6" -> [0, 2, 4, 5, 6]."""
    seeds: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdigit() or (dash and not last.isdigit()):
            raise typer.BadParameter(f"--seeds {text}: write whole numbers such as 0,1 or 0-7")
        seeds.extend(range(int(first), int(last if dash else first) + 1))
    return seeds


def read_prompts(file: Path) -> list[str]:
    """The lines of a file that are not empty."""
    lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line]


@contextmanager
def user_errors() -> Iterator[None]:
    """What a user can mend is one line and exit status 1; anything else is our fault and keeps its traceback."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    try:
        yield
    except (ValueError, LookupError, OSError) as error:
        if isinstance(error, (KeyError, IndexError, UnicodeError)):
            raise
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        print("stopped; what was finished is saved, the same command goes on from there", file=sys.stderr)
        raise typer.Exit(130) from None


def show_table(columns: list[str], rows: list[list[str]]) -> None:
    """Aligned text that stays whole when it is piped."""
    widths = [max(len(line[i]) for line in [columns, *rows]) for i in range(len(columns))]
    for line in [columns, *rows]:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _text(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
