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
    file: Annotated[Path, typer.Argument(metavar="FILE", help="PNG, JPEG, WebP, GIF, MP4, PLY, SPZ, GLB or Parquet.")],
    root: Root,
    credentials: Annotated[
        Path | None,
        typer.Option("--credentials", metavar="FILE.c2pa", help="Content credentials beside it. [default: FILE.c2pa]"),
    ] = None,
) -> None:
    """Whether ROOT made a file: by its content credentials, in it or beside it, and by what is in it.

    Pictures (PNG, WebP without loss) are known by their pixels, clips and turntables by their MP4's media data, heads
    by their Gaussians, Parquet by its rows' ids. Exit status 3 if nothing says so. All that is stored of that kind is
    read.

    Example: `identity-factory verify ada_0.png --root out/people`
    """
    with user_errors():
        from factory.draw.splat_files import head_as
        from factory.files import operator_root
        from factory.provenance.credentials import Credentials
        from factory.provenance.marks import read_claim
        from factory.provenance.sidecar import SUFFIX
        from factory.store.origin import exported_rows, origin_of
        from factory.store.tables import Store

        store, data = Store(root), file.read_bytes()
        beside = credentials or file.with_name(file.name + SUFFIX)
        manifest = beside.read_bytes() if credentials is not None or beside.exists() else None
        claim = read_claim(data, Credentials.of(operator_root(store.root)), manifest)
        told = "none" if claim is None else f"{_STATES.get(claim.state, _CHANGED)}; signer: {claim.signer}"
        rows = [["credentials", told]]
        if claim is not None:
            rows.append(["made by a model", "yes" if claim.synthetic else "not said"])
        found = None
        if (exported := exported_rows(store, data)) is not None:
            rows.append(["rows", f"{exported[0]} of {exported[1]} are in this root"])
        else:
            found = origin_of(store, data, head_as)
            rows.append(list(found) if found is not None else ["stored as", "nothing here holds the same"])
        show_table(["what", "found"], rows)
        ours = found is not None or (claim is not None and claim.state == "Trusted")
        say(f"{store.root} {'made it' if ours else 'did not make it, as far as can be told'}")
        if not ours:
            raise typer.Exit(NOT_OURS)


_CHANGED = "invalid: the file was changed after it was signed"
_STATES = {"Trusted": "valid, signed by this root", "Valid": "valid, signed by somebody else"}
