"""Erasing a person from an operator's root and all its tenants' by one command, with its proof."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.__main__ import app
from factory.errors import IdentityNotFound
from factory.files import all_roots, tenant_root
from factory.pack import Pack
from factory.store.audit import read_audit
from factory.store.everywhere import erase_everywhere, find_everywhere
from factory.store.rows import identity_row
from factory.store.tables import Store
from tests.make_people import fill, found, photo_id, traces
from tests.serving import person


@pytest.fixture
def theirs(store: Store, tiny_pack: Pack) -> dict[str, Store]:
    """The operator's root and acme's hold the same seven people, beta's three others."""
    roots = {"": store, "acme": Store(tenant_root(store.root, "acme"))}
    for one in roots.values():
        fill(one, tiny_pack)
    roots["beta"] = Store(tenant_root(store.root, "beta"))
    others = [person(number, name, tiny_pack.fingerprint()) for number, name in ((41, "ada"), (42, "bob"), (43, "cy"))]
    roots["beta"].upsert("identities", [identity_row(who) for who in others])
    assert all_roots(store.root) == [one.root for one in roots.values()]
    return roots


def test_one_command_erases_everywhere_and_proves_it(theirs: dict[str, Store], tiny_pack: Pack) -> None:
    store, acme, beta = theirs.values()
    faces, identities, images = fill(store, tiny_pack)
    needles = traces(faces[1], identities[1], images[1])
    assert all(found(one, needles) == set(needles.values()) for one in (store, acme))
    run, base = CliRunner(), ["identities", "erase", "--all-tenants", "--root", store.root]
    assert run.invoke(app, [*base, "--identity", identities[1].identity_id], input="n\n").exit_code == 1
    done = run.invoke(app, [*base, "--identity", identities[1].identity_id, "--yes"])
    assert done.exit_code == 0 and "searched 3 roots" in done.output and "0 traces left" in done.output, done.output
    assert all(found(one, needles) == set() for one in theirs.values())
    assert [one.count("identities") for one in theirs.values()] == [6, 6, 3]
    assert [len(one.faces()) for one in (store, acme)] == [6, 6]
    for one, actions in ((store, ["erased", "erased from all tenants"]), (acme, ["erased"]), (beta, [])):
        rows = read_audit(one, [identities[1].identity_id]) if actions else read_audit(one)
        assert [row["action"] for row in rows] == actions
    again = run.invoke(app, [*base, "--identity", identities[1].identity_id, "--yes"])
    assert again.exit_code == 1 and "nor a tenant of it knows" in again.stderr


def test_an_erasure_that_is_killed_between_two_roots_is_gone_on_with(theirs: dict[str, Store], tiny_pack: Pack) -> None:
    store, acme, _ = theirs.values()
    _, identities, _ = fill(store, tiny_pack)
    who = identities[1].identity_id
    next(erase_everywhere(store.root, find_everywhere(store.root, identity_id=who)))
    acme.delete("identities", f"identity_id = '{who}'")  # nothing leads to them by this id any more
    base = ["identities", "erase", "--all-tenants", "--yes", "--root", store.root]
    done = CliRunner().invoke(app, [*base, "--identity", who])
    assert done.exit_code == 0 and "an erasure that had ended between is finished" in done.output, done.output
    assert [len(one.faces()) for one in (store, acme)] == [6, 6]


def test_of_a_group_photo_one_goes_everywhere_and_the_other_stays(theirs: dict[str, Store], tiny_pack: Pack) -> None:
    store, acme, _ = theirs.values()
    _, identities, _ = fill(store, tiny_pack)
    gone = find_everywhere(store.root, identity_id=identities[6].identity_id)
    assert [one.root for one, _ in gone] == [store.root, acme.root]
    assert all(person.face_ids == {identities[6].face_id} and not person.photo_ids for _, person in gone)


def test_a_photo_is_learned_nowhere_any_more_and_a_trace_elsewhere_is_told(
    theirs: dict[str, Store], tiny_pack: Pack
) -> None:
    store, _, beta = theirs.values()
    base = ["identities", "erase", "--all-tenants", "--yes", "--root", store.root]
    assert CliRunner().invoke(app, [*base, "--photo", photo_id(2)]).exit_code == 0
    assert all(one.tombstones().hold(photo_id(2)) for one in theirs.values())
    (Path(beta.root) / "identities.lance" / "note.txt").write_text(photo_id(1))
    told = CliRunner().invoke(app, [*base, "--identity", store.find_identity("person 1").identity_id])
    assert told.exit_code == 1 and "1 traces left" in told.output


def test_what_does_not_mean_one_person_everywhere_is_refused(theirs: dict[str, Store]) -> None:
    store, acme, _ = theirs.values()
    by_name = CliRunner().invoke(app, ["identities", "erase", "--all-tenants", "--root", store.root, "--name", "ada"])
    assert by_name.exit_code == 2 and "somebody else" in by_name.output + by_name.stderr
    of_one = ["identities", "expire", "--all-tenants", "--yes", "--root", store.root, "--tenant", "acme"]
    told = CliRunner().invoke(app, of_one)
    assert told.exit_code == 1 and "one tenant's" in told.stderr
    with pytest.raises(IdentityNotFound):
        find_everywhere(store.root, identity_id="f" * 16)
    with pytest.raises(ValueError, match="one tenant's"):
        find_everywhere(acme.root, photo_id=photo_id(1))


def test_what_is_over_goes_in_all_tenants(theirs: dict[str, Store]) -> None:
    store, acme, beta = theirs.values()
    run = CliRunner()
    for tenant, name in (("acme", "person 1"), ("beta", "ada")):
        given = ["identities", "consent", name, "--reference", "f", "--expires", "2020-01-31"]
        assert run.invoke(app, [*given, "--root", store.root, "--tenant", tenant]).exit_code == 0
    done = run.invoke(app, ["identities", "expire", "--all-tenants", "--yes", "--root", store.root])
    assert done.exit_code == 0 and "2 photos erased" in done.output and "0 traces" in done.output
    assert [one.count("identities") for one in (store, acme, beta)] == [7, 6, 2]
    assert [row["action"] for row in read_audit(store)] == ["erased whose consent was over, in all tenants"]
    assert "erased, consent over" in [row["action"] for row in read_audit(acme)]
