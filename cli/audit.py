"""The command line's `audit` group: who learned, drew, took away and erased whom.

Heavy imports happen inside the commands, so that `--help` answers at once.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from cli.commands import Commands
from cli.errors import user_errors
from cli.options import Root
from cli.output import say, show_table

audit_app = typer.Typer(cls=Commands, no_args_is_help=True, help="Who learned, drew, took away and erased whom.")
BROKEN = 3  # exit status


@audit_app.command("list")
def list_deeds(
    root: Root,
    identity: Annotated[
        str | None, typer.Option("--identity", metavar="ID", help="What was done with this identity_id, erased or not.")
    ] = None,
    last: Annotated[int, typer.Option("--last", min=1, help="So many of the newest.")] = 100,
) -> None:
    """What was done, oldest first. People who are there are named; of others there is only that there was somebody."""
    with user_errors():
        from factory.store.audit import read_audit
        from factory.store.tables import Store
        from factory.store.tombstones import tombstone_digest

        store = Store(root)
        rows = read_audit(store, [] if identity is None else [identity])[-last:]
        people = store.read("identities", columns=["identity_id", "name"]).to_pylist() if rows else []
        salts = {row["salt"] for row in rows}
        named = {tombstone_digest(salt, who["identity_id"]): who["name"] for salt in salts for who in people}
        columns = ["number", "at", "actor", "action", "num", "whom", "detail"]
        shown = [
            [
                str(row["number"]),
                datetime.fromtimestamp(row["at"], UTC).isoformat(timespec="seconds"),
                row["actor"],
                row["action"],
                str(row["num"]),
                ", ".join(named.get(who, f"somebody {who[:8]}") for who in row["whom"]),
                row["detail"] or ("" if row["detail_salt"] else "taken out"),
            ]
            for row in rows
        ]
        show_table(columns, shown)


@audit_app.command("verify")
def verify_chain(
    root: Root,
    tip: Annotated[
        str | None, typer.Option("--tip", metavar="DIGEST", help="What an earlier `audit verify` printed.")
    ] = None,
) -> None:
    """Whether rows were changed, taken out or put in between; with --tip also whether the end was cut off.

    Exit status 3 if so. Keep the printed digest where those who can write to ROOT cannot.
    """
    with user_errors():
        from factory.store.audit import faults_of
        from factory.store.tables import Store

        store = Store(root)
        faults, digest = faults_of(store, tip)
        for fault in faults:
            say(fault, error=True)
        if faults:
            raise typer.Exit(BROKEN)
        say(f"{store.count('audit')} rows, none changed; the last one's digest is")
        say(digest)
