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

_FILES = "PNG, JPEG, WebP, GIF, MP4, PLY, SPZ, GLB or Parquet"
NOT_OURS, CHANGED = 3, 4  # exit statuses


def verify(
    file: Annotated[Path, typer.Argument(metavar="FILE", help=f"{_FILES}.")],
    root: Root,
    credentials: Annotated[
        Path | None,
        typer.Option("--credentials", metavar="FILE.c2pa", help="Content credentials beside it. [default: FILE.c2pa]"),
    ] = None,
) -> None:
    """Whether ROOT made a file: by its content credentials, in it or beside it, and by what is in it.

    Pictures (PNG, WebP without loss) are known by their pixels, clips and turntables by their MP4's media data, heads
    by their Gaussians, Parquet by its rows' ids. All that is stored of that kind is read. Exit status 0: ROOT made it;
    3: nothing says so, which is no proof that it did not; 4: it was changed after it was signed, whatever is in it;
    1: it is no such file, or cannot be read.

    Example: `identity-factory verify ada_0.png --root out/people`
    """
    with user_errors():
        from factory.draw.splat_files import head_as
        from factory.files import operator_root
        from factory.provenance.credentials import Credentials
        from factory.provenance.exports import model_kind
        from factory.provenance.marks import read_claim
        from factory.provenance.sidecar import SUFFIX
        from factory.provenance.xmp import has_place
        from factory.store.origin import exported_rows, is_parquet, origin_of
        from factory.store.tables import Store

        store, data = Store(root), file.read_bytes()
        if not (has_place(data) or model_kind(data) or is_parquet(data)):
            raise ValueError(f"{file} is no {_FILES}")
        beside = credentials or file.with_name(file.name + SUFFIX)
        manifest = beside.read_bytes() if credentials is not None or beside.exists() else None
        claim = read_claim(data, Credentials.known(operator_root(store.root)), manifest)
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
        if claim is not None and claim.state not in _STATES:
            inside = f"; what is in it is stored in {store.root}" if found is not None else ""
            say(f"{file.name} was changed after it was signed{inside}")
            raise typer.Exit(CHANGED)
        if found is None and (claim is None or claim.state != "Trusted"):
            say(f"nothing says that {store.root} made it, which is no proof that it did not")
            raise typer.Exit(NOT_OURS)
        say(f"{store.root} made it")


_CHANGED = "invalid: the file was changed after it was signed"
_STATES = {"Trusted": "valid, signed by this root", "Valid": "valid, signed by somebody else"}
