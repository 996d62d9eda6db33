"""Commands of trust: `verify`.

Heavy imports happen inside the commands, so that `--help` answers at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.errors import user_errors
from cli.options import Root
from cli.output import say, show_table

NOT_OURS = 3  # exit status


def verify(
    picture: Annotated[Path, typer.Argument(metavar="PICTURE", help="PNG, JPEG, WebP, GIF or MP4.")],
    root: Root,
) -> None:
    """Whether ROOT made a picture or clip: by its content credentials, and by its pixels in `images` (PNG, WebP).

    Exit status 3 if neither says so. Looking for pixels decodes every stored picture of that size.

    Example: `identity-factory verify ada_0.png --root out/people`
    """
    with user_errors():
        from factory.files import operator_root
        from factory.provenance.credentials import Credentials
        from factory.provenance.marks import read_claim
        from factory.store.origin import stored_picture
        from factory.store.tables import Store

        store, data = Store(root), picture.read_bytes()
        claim = read_claim(data, Credentials.of(operator_root(store.root)))
        found = stored_picture(store, data)
        credentials = "none" if claim is None else f"{_STATES.get(claim.state, _CHANGED)}; signer: {claim.signer}"
        rows = [["credentials", credentials]]
        if claim is not None:
            rows.append(["made by a model", "yes" if claim.synthetic else "not said"])
        rows.append(["image_id", found or "no stored picture has these pixels"])
        show_table(["what", "found"], rows)
        ours = found is not None or (claim is not None and claim.state == "Trusted")
        say(f"{store.root} {'made it' if ours else 'did not make it, as far as can be told'}")
        if not ours:
            raise typer.Exit(NOT_OURS)


_CHANGED = "invalid: the file was changed after it was signed"
_STATES = {"Trusted": "valid, signed by this root", "Valid": "valid, signed by somebody else"}
