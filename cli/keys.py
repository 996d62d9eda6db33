"""The command line's `keys` group: who may ask an endpoint for what.

Heavy imports happen inside the commands, so that `--help` answers at once.
"""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from cli.commands import Commands
from cli.errors import user_errors
from cli.options import Root
from cli.output import say, show_table

if TYPE_CHECKING:
    from factory.store.keys import Key

keys_app = typer.Typer(cls=Commands, no_args_is_help=True, help="Keys of the endpoint, and whose people they reach.")
_UNITS = {"h": 3600, "d": 86_400, "w": 604_800}  # s


@keys_app.command("create")
def create(
    root: Root,
    scope: Annotated[
        list[str],
        typer.Option(
            "--scope",
            metavar="draw|learn|erase|words|admin",
            help="May be repeated. words: an identity's own; admin: jobs and their reports.",
        ),
    ],
    tenant: Annotated[
        str | None,
        typer.Option("--tenant", metavar="NAME", help="Whose people it reaches: ROOT/tenants/NAME. [default: ROOT's]"),
    ] = None,
    label: Annotated[str, typer.Option("--label", help="For whoever reads the list.")] = "",
    expires: Annotated[
        str | None, typer.Option("--expires", metavar="30d", help="After so many h, d or w, or at a date. [never]")
    ] = None,
    pictures_per_minute: Annotated[
        int | None,
        typer.Option("--pictures-per-minute", min=1, help="At most; so is a frame of a clip, an update of a head."),
    ] = None,
    max_waiting: Annotated[
        int | None, typer.Option("--max-waiting", min=1, help="Pictures asked for and not answered, at most.")
    ] = None,
    identities_per_day: Annotated[int | None, typer.Option("--identities-per-day", min=1, help="At most.")] = None,
) -> None:
    """Make a key and print it, once: only a hash is kept. From the first one on the endpoint asks everybody for theirs.

    Example: `identity-factory keys create --root out/people --scope draw --scope learn --tenant acme --expires 90d`
    """
    with user_errors():
        from factory.store.audit import note
        from factory.store.keys import create_key
        from factory.store.tables import Store

        store = Store(root)
        text, key = create_key(
            store,
            scope,
            label=label,
            tenant=tenant,
            expires_at=None if expires is None else _when(expires),
            pictures_per_minute=pictures_per_minute,
            max_waiting=max_waiting,
            identities_per_day=identities_per_day,
        )
        note(store, "made a key", key_id=key.key_id, scopes=key.scopes, tenant=key.tenant)
        say(f"key {key.key_id}; its text is shown this once:", error=True)
        say(text)


@keys_app.command("list")
def list_all(root: Root) -> None:
    """Every key, oldest first, without its secret."""
    with user_errors():
        from factory.store.keys import list_keys
        from factory.store.tables import Store

        columns = ["key_id", "label", "tenant", "scopes", "state", "created_at", "expires_at", "limits"]
        show_table(columns, [_row(key) for key in list_keys(Store(root))])


@keys_app.command("revoke")
def revoke(key_id: Annotated[str, typer.Argument(metavar="KEY_ID")], root: Root) -> None:
    """End a key; a running server refuses it within a second. A root whose keys are all revoked stays closed."""
    with user_errors():
        from factory.store.audit import note
        from factory.store.keys import revoke_key
        from factory.store.tables import Store

        store = Store(root)
        revoke_key(store, key_id)
        note(store, "revoked a key", key_id=key_id)
        say(f"{key_id} is revoked")


def _row(key: Key) -> list[str]:
    from factory.consent import iso
    from factory.store.keys import KeyRefused

    state = "good"
    try:
        key.check_alive(time.time())
    except KeyRefused as error:
        state = str(error).removeprefix("this key ").removeprefix("was ").removeprefix("has ")
    limits = {
        "pictures a minute": key.pictures_per_minute,
        "waiting": key.max_waiting,
        "identities a day": key.identities_per_day,
    }
    told = ", ".join(f"{number} {what}" for what, number in limits.items() if number is not None)
    times = [iso(key.created_at), "never" if key.expires_at is None else iso(key.expires_at)]
    return [key.key_id, key.label, key.tenant or "", " ".join(key.scopes), state, *times, told or "none"]


def _when(text: str) -> float:
    """Unix time, s, of "30d" from now on, or of a date in ISO 8601 (UTC unless it says so)."""
    if span := re.fullmatch(r"([1-9][0-9]{0,4})([hdw])", text):
        return time.time() + int(span[1]) * _UNITS[span[2]]
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"--expires {text}: write 12h, 30d, 4w or a date such as 2027-01-31") from None
    moment = (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
    if moment <= time.time():
        raise typer.BadParameter(f"--expires {text} is over already: the key would open nothing")
    return moment
