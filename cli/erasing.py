"""The commands that erase people: `identities erase`, `identities expire`."""

from __future__ import annotations

from collections.abc import Sequence
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Final

import typer

from cli.errors import user_errors
from cli.options import Root, photo_bytes
from cli.output import say, show_table

if TYPE_CHECKING:
    from factory.store.erase import Erasure, Person
    from factory.store.tables import Store

_NAMED: Final = 20  # files that an error names
_TOGETHER: Final = 64  # photos whose people are looked for in one pass over a root, each with all pictures of them


def erase_identity(
    root: Root,
    photo: Annotated[
        str | None, typer.Option("--photo", metavar="FILE", help="The photo, or its photo_id: everybody on it.")
    ] = None,
    identity: Annotated[str | None, typer.Option("--identity", metavar="ID", help="An identity_id.")] = None,
    name: Annotated[str | None, typer.Option("--name", help="Everybody of exactly this name, in all photos.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    all_tenants: Annotated[
        bool, typer.Option("--all-tenants", help="From ROOT and all its tenants'. With --photo or --identity.")
    ] = False,
) -> None:
    """Erase a person: rows of every table, old versions, leftovers of jobs; then search every byte under ROOT.

    The same photo is not learned again (docs/tables.md). Photos and files outside ROOT stay as they are. Whoever else
    looks like the person, as on another photo, stays and is told. Tenants' roots are others, unless --all-tenants is
    given: then each is erased from and searched.

    Example: `identity-factory identities erase --name Ada --root out/people`
    """
    with user_errors():
        from factory.errors import IdentityNotFound
        from factory.files import check_tables
        from factory.store.audit import note
        from factory.store.erase import erase, find_person
        from factory.store.tables import Store

        if sum(given is not None for given in (photo, identity, name)) != 1:
            raise typer.BadParameter("give one of --photo, --identity and --name")
        check_tables(root)
        store = Store(root)
        photo_id, content = photo_bytes(photo) if photo else (None, b"")
        finished = _finish(store, all_tenants=all_tenants)
        before = [done for _, done in finished]
        try:
            if all_tenants:
                _erase_everywhere(store, photo_id, identity, content, yes, before)
                return
            person = find_person(store, photo_id=photo_id, identity_id=identity, name=name, content=content)
        except IdentityNotFound:
            if not any((identity or name) in (person.asked, *person.identity_ids) for person, _ in finished):
                raise
            _check_gone(before)
            return
        what = (
            f"{len(person.photo_ids)} photos, {len(person.identity_ids)} identities, "
            f"{len(person.image_ids)} pictures, {len(person.video_ids)} clips"
        )
        if not yes:
            _confirm(f"Erase {what} from {store.root} for good?")
        names = _names(store, person)
        done = erase(store, person)
        note(store, "erased", sorted(person.identity_ids), sum(done.rows.values()))
        for name in names:
            say(f"erased {name}")
        if photo_id is not None and not any(done.rows.values()):
            say(f"{store.root} knew nothing of that photo: nobody was removed; it is refused there from now on")
        _tell_others([(store, done)])
        show_table(["table", "rows removed"], [[table, str(num)] for table, num in done.rows.items()])
        print(f"{done.job_files} files of jobs cleaned, {done.orphans} leftovers of killed jobs removed")
        num = len(done.found) + len(done.others)
        print(f"searched {done.files_scanned} files, {done.bytes_scanned:,} bytes: {num} traces left")
        _check_gone([*before, done])


def _finish(store: Store, *, all_tenants: bool) -> list[tuple[Person, Erasure]]:
    """Goes on with erasures that ended between, which somebody had agreed to."""
    from factory.files import all_roots
    from factory.store.erase import finish
    from factory.store.tables import Store

    finished: list[tuple[Person, Erasure]] = []
    for one in map(Store, all_roots(store.root)) if all_tenants else [store]:
        for person, done in finish(one):
            say(f"an erasure that had ended between is finished: {sum(done.rows.values())} more rows removed")
            _tell_others([(one, done)])
            finished.append((person, done))
    return finished


def _erase_everywhere(
    store: Store, photo_id: str | None, identity: str | None, content: bytes, yes: bool, before: list[Erasure]
) -> None:
    """From an operator's root and all its tenants'; what is left of erasures `before` is told, too."""
    from factory.store.audit import note
    from factory.store.everywhere import erase_everywhere, find_everywhere

    if photo_id is None and identity is None:
        raise typer.BadParameter("--all-tenants: one name is somebody else at each tenant; give --photo or --identity")
    found = find_everywhere(store.root, photo_id=photo_id, identity_id=identity, content=content)
    if not yes:
        num = sum(bool(person.identity_ids) for _, person in found)
        _confirm(f"Erase the person from {len(found)} roots, {num} of which learned them, for good?")
    rows, whom, num_traces, num_bytes = [], set[str](), 0, 0
    erased: list[tuple[Store, Erasure]] = []
    for one, person, done in erase_everywhere(store.root, found):
        removed, num = sum(done.rows.values()), len(done.found) + len(done.others)
        rows.append([one.root, str(removed), f"{done.files_scanned} files", str(num)])
        num_traces, num_bytes = num_traces + num, num_bytes + done.bytes_scanned
        erased.append((one, done))
        if person is not None:
            note(one, "erased", sorted(person.identity_ids), removed)
            whom |= person.identity_ids
    note(store, "erased from all tenants", sorted(whom), len(rows))
    _tell_others(erased)
    show_table(["root", "rows removed", "searched", "traces left"], rows)
    print(f"searched {len(rows)} roots, {num_bytes:,} bytes: {num_traces} traces left")
    _check_gone([*before, *(done for _, done in erased)])


def _check_gone(erasures: Sequence[Erasure]) -> None:
    """Raises OSError, with the remedy, if something is left, or can be brought back."""
    traces = [one for done in erasures for one in done.found]
    others = list(dict.fromkeys(one for done in erasures for one in done.others))  # one file may hold several people
    versions = next((done.older_versions for done in erasures if done.older_versions), "")
    if traces:
        raise OSError(f"traces are left, erase again when no job runs: {'; '.join(traces[:5])}")
    if others:
        more = f"; and {len(others) - _NAMED} more" if len(others) > _NAMED else ""
        raise OSError(
            "nothing is left in the tables, but these files, which somebody put under the root, hold the person, or "
            f"may: remove them, or let this user read them; {'; '.join(others[:_NAMED])}{more}"
        )
    if versions:
        raise OSError(versions)


def _tell_others(erased: list[tuple[Store, Erasure]]) -> None:
    """Who looks like somebody that was erased, and stays until it is said that they are to go, too."""
    from factory.store.alike import still_there

    others = {(store.root, one): one for store, done in erased for one in still_there(store, done.alike)}
    rows = [
        [one.name, one.kind, f"{one.similarity:.3f}", f"identities erase {one.chosen_by} --root {quote(root)}"]
        for (root, _), one in others.items()
    ]
    if rows:
        say(f"{len(rows)} others look alike and stay; look at them, and erase those that are the same person:")
        show_table(["name", "looks like", "similarity", "erased by"], rows[:_NAMED])
        if len(rows) > _NAMED:
            say(f"and {len(rows) - _NAMED} more")
    if packs := sorted({pack for _, done in erased for pack in done.not_compared}):
        say(
            f"whether others are the same person is not known: pack {', '.join(packs)} is not here, or does not say "
            "how alike two faces of one person are (same_person in its pack.toml)",
            error=True,
        )


def _names(store: Store, person: Person) -> list[str]:
    """Whom an erasure is about, as the one who agreed to it knows them: names and ids."""
    from factory.store.sql import where_in

    ids = sorted(person.identity_ids)
    rows = store.read("identities", columns=["name", "identity_id"], where=where_in("identity_id", ids)).to_pylist()
    more = [f"and {len(rows) - _NAMED} more"] if len(rows) > _NAMED else []
    return [*(f"{row['name']} ({row['identity_id']})" for row in rows[:_NAMED]), *more]


def _confirm(question: str) -> None:
    """Ends the command unless somebody says yes."""
    try:
        typer.confirm(question, abort=True)
    except typer.Abort:
        say("nothing was erased; --yes answers where nobody can", error=True)
        raise typer.Exit(1) from None


def expire(
    root: Root,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    all_tenants: Annotated[bool, typer.Option("--all-tenants", help="In ROOT and all its tenants'.")] = False,
) -> None:
    """Erase everybody whose consent is over, with all of their photos, as `erase --photo` does. For a daily job.

    What one tenant was told is that tenant's: elsewhere the same photo stays as long as its consent there.

    Example: `identity-factory identities expire --root out/people --all-tenants --yes`
    """
    with user_errors():
        import time

        from factory.files import all_roots, check_tables
        from factory.store.audit import note
        from factory.store.consents import expired_photos
        from factory.store.erase import erase, find_person
        from factory.store.tables import Store

        check_tables(root)
        operators, now = Store(root), time.time()
        stores = [Store(one) for one in all_roots(operators.root)] if all_tenants else [operators]
        over = [(store, photos) for store in stores if (photos := expired_photos(store, now))]
        num = sum(len(photos) for _, photos in over)
        if over and not yes:
            where = f"{operators.root}{' and its tenants' if all_tenants else ''}"
            _confirm(f"Erase everybody on {num} photos from {where} for good?")
        before = [done for _, done in _finish(operators, all_tenants=all_tenants)]
        erased: list[tuple[Store, Erasure]] = []
        for store, photos in over:
            for first in range(0, len(photos), _TOGETHER):
                person = find_person(store, photo_ids=photos[first : first + _TOGETHER])
                done = erase(store, person)
                note(store, "erased, consent over", sorted(person.identity_ids), sum(done.rows.values()))
                erased.append((store, done))
        _tell_others(erased)
        if all_tenants:
            note(operators, "erased whose consent was over, in all tenants", num=num)
        num_traces = sum(len(done.found) + len(done.others) for _, done in erased)
        say(f"{num} photos erased, whose consent was over; {num_traces} traces left")
        _check_gone([*before, *(done for _, done in erased)])
