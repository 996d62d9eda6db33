"""The command line's `identities` group: look at the people of a root, take them elsewhere (erasing.py: erase one)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from cli.commands import Commands
from cli.erasing import erase_identity, expire
from cli.errors import user_errors
from cli.options import Names, PackName, Root, on_disk
from cli.output import say, show_table

identities_app = typer.Typer(
    cls=Commands, no_args_is_help=True, help="Look at the identities of a root, and take them elsewhere."
)


@identities_app.command("list")
def list_identities(
    root: Root, as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False
) -> None:
    """Every identity, newest last."""
    with user_errors():
        from factory.store.quality import with_verdicts
        from factory.store.tables import Store

        columns = ["name", "identity_id", "pack", "preset", "num_steps", "final_loss", "created_at"]
        rows, columns = with_verdicts(Store(root), columns), [*columns, "quality", "verdict"]
        if as_json:
            for row in rows:
                print(json.dumps(row))
        else:
            show_table(columns, [[_text("" if row[name] is None else row[name]) for name in columns] for row in rows])


@identities_app.command("show")
def show_identity(name: Annotated[str, typer.Argument(help="Name or id.")], root: Root) -> None:
    """Everything known of one identity."""
    with user_errors():
        from dataclasses import fields

        from factory.store.tables import Store

        identity = Store(root).find_identity(name)
        rows = [[f.name, _text(getattr(identity, f.name))] for f in fields(identity) if f.name != "words"]
        for encoder, words in identity.words.items():
            numbers = f"{words.shape[0]} x {words.shape[1]}, {words.min():.4f} to {words.max():.4f}"
            rows.append([f"words for {encoder}", numbers])
        show_table(["field", "value"], rows)


@identities_app.command("people")
def list_people(
    root: Root,
    pack: PackName = "studio",
    at: Annotated[
        float | None,
        typer.Option(
            "--at", metavar="COSINE", min=0, max=1, help="From which likeness on two faces are one person's. [default: "
            "the pack's]"
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:  # fmt: skip
    """Who comes more than once: faces of the person, or nearly of the very picture, that a larger one shows.

    Also photos that are called as a copy of another (IMG_E0001, ada-edited) and are like it, if less.
    Nothing is merged by this; `run --merge-people` and `train --merge-people` learn one face of each person.

    Example: `identity-factory identities people --root out/people`
    """
    with user_errors():
        from dataclasses import asdict

        from factory.pack import load_pack
        from factory.store.copies import called_copies
        from factory.store.people import seen_again
        from factory.store.tables import Store

        store, loaded = Store(root), load_pack(pack)
        found = seen_again(store, loaded, least=at)
        found += called_copies(store, loaded, found) if at is None else []
        found.sort(key=lambda face: (face.of_name, face.name))
        if as_json:
            for face in found:
                print(json.dumps(asdict(face)))
        else:
            rows = [[face.of_name, face.name, face.kind, f"{face.similarity:.3f}"] for face in found]
            show_table(["person", "again as", "which is", "similarity"], rows)


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
        Literal["faces", "identities", "images", "videos", "models", "rejects", "names"],
        typer.Option("--table", help="For parquet."),
    ] = "identities",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace other files of the same names.")] = False,
) -> None:
    """Embedding files for other tools, or a table as Parquet. Other files that are there already are not replaced.

    Pictures, clips and heads in Parquet say that a model made them; the file's credentials lie beside it (.c2pa).

    Examples: `identity-factory identities export alex --root out/people --format diffusers --out alex.safetensors`;
    `identity-factory identities export --root out/people --format parquet --table images --out images.parquet`
    """
    with user_errors():
        from factory.files import written_whole
        from factory.provenance.marks import Marker
        from factory.store.audit import note
        from factory.store.called import names_of_all
        from factory.store.consents import agreed_people
        from factory.store.export import check_free, export_identities
        from factory.store.marked import MADE
        from factory.store.tables import Store

        store, out = Store(root), on_disk(out)
        if file_format == "parquet" and names:
            raise typer.BadParameter("parquet is a whole table, with everybody in it: leave the names out")
        if file_format == "parquet":
            target = out if out.suffix else out / f"{table}.parquet"
            if not overwrite:
                check_free(target)
            target.parent.mkdir(parents=True, exist_ok=True)
            marker = Marker.of(store.root)
            with written_whole(target) as part:
                store.export_parquet(table, part, marker)
            if table in MADE:
                marker.write_beside(target)
            note(store, f"exported {table}", num=store.count(table))
            say(str(target))
            return
        people = agreed_people(store, names)
        if not people:
            raise ValueError(f"{root} holds no identities yet")
        if len(people) > 1 and out.suffix:
            raise typer.BadParameter(f"{len(people)} identities need a folder, not {out}; or name one identity")
        files = export_identities(people, out, file_format, overwrite=overwrite, beside=names_of_all(store))
        note(store, "exported words", [who.identity_id for who in people], len(people), format=file_format)
        for path, called in files.items():
            say(f"{path} (in prompts: {called})" if called else str(path))


@identities_app.command("consent")
def set_consent(
    name: Annotated[str, typer.Argument(help="Name or id.")],
    root: Root,
    reference: Annotated[str, typer.Option("--reference", help="Where it is written down.")],
    expires: Annotated[
        str | None, typer.Option("--expires", metavar="DATE", help="2027-01-31. [default: never]")
    ] = None,
    scope: Annotated[str | None, typer.Option("--scope", help="What for, for people to read.")] = None,
) -> None:
    """Write down what a person agreed to, also in the place of an earlier consent: whoever is on the person's photo.

    Example: `identity-factory identities consent ada --reference form-17 --expires 2027-12-31 --root out/people`
    """
    with user_errors():
        from factory.consent import Consent
        from factory.store.audit import note
        from factory.store.consents import set_consent as write_consent
        from factory.store.tables import Store

        if not reference.strip():
            raise typer.BadParameter("--reference is empty: it says where the consent is written down")
        consent = Consent.of({"consent": reference, "consent_expires": expires, "consent_scope": scope})
        store = Store(root)
        num = write_consent(store, name, consent)
        note(store, "told consent", [store.find_identity(name).identity_id], num, consent=reference)
        say(f"{num} rows of faces and identities have it")


identities_app.command("erase")(erase_identity)
identities_app.command("expire")(expire)


def _text(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
