"""Keys as they are kept, and the commands of keys and tenants."""

import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.__main__ import app as commands
from factory.files import tenant_root
from factory.pack import Pack
from factory.store.keys import KeyRing, create_key, list_keys, revoke_key
from factory.store.rows import identity_row
from factory.store.tables import Store
from tests.serving import people_store, person


def test_revoked_keys_are_heard_of_within_a_second(tmp_path: Path) -> None:
    store, now = Store(tmp_path), [0.0]
    text, key = create_key(store, ["draw"], expires_at=100.0)
    ring = KeyRing(store.root, clock=lambda: now[0])
    assert ring.find(text, 99.0).key_id == key.key_id
    with pytest.raises(Exception, match="has expired"):
        ring.find(text, 100.0)
    revoke_key(store, key.key_id)
    now[0] = 1.0
    with pytest.raises(Exception, match="was revoked"):
        ring.find(text, 99.0)


def test_keys_of_the_command_line(tmp_path: Path) -> None:
    root, run = str(tmp_path / "root"), CliRunner()
    create = ["keys", "create", "--scope", "draw"]
    made = run.invoke(commands, [*create, "--root", root, "--tenant", "acme", "--expires", "2d"])
    text = made.stdout.split()[-1]
    assert made.exit_code == 0 and text.startswith("idf_")
    (key,) = list_keys(Store(root))
    assert (key.tenant, key.scopes) == ("acme", ["draw"]) and key.expires_at is not None
    assert abs(key.expires_at - time.time() - 2 * 86_400) < 60
    listed = run.invoke(commands, ["keys", "list", "--root", root]).stdout
    assert key.key_id in listed and text.rpartition("_")[2] not in listed and "good" in listed
    secret = text.split("_", 2)[2].encode()
    assert not any(secret in file.read_bytes() for file in Path(root).rglob("*") if file.is_file()), "its hash alone"
    assert run.invoke(commands, ["keys", "revoke", key.key_id, "--root", root]).exit_code == 0
    assert "revoked" in run.invoke(commands, ["keys", "list", "--root", root]).stdout
    wrong = [["revoke", "nobody"], ["create", "--scope", "fly"], ["create", "--scope", "draw", "--tenant", "../x"]]
    assert {run.invoke(commands, ["keys", *words, "--root", root]).exit_code for words in wrong} == {1}
    assert run.invoke(commands, [*create, "--root", f"{root}/tenants/a"]).exit_code == 1
    for never in ("soon", "2020-01-01", "999999w"):  # a key that opens nothing; a date that no list can show
        assert run.invoke(commands, [*create, "--root", root, "--expires", never]).exit_code == 2
    assert len(list_keys(Store(root))) == 1
    create_key(Store(root), ["draw"], expires_at=1e12)  # as older versions made them
    assert "9999-12-31" in run.invoke(commands, ["keys", "list", "--root", root]).stdout


def test_every_command_on_a_root_takes_a_tenant(tmp_path: Path, tiny_pack: Pack) -> None:
    store, run = people_store(tmp_path, tiny_pack), CliRunner()
    theirs = Store(tenant_root(store.root, "acme"))
    theirs.upsert("identities", [identity_row(person(9, "zoe", tiny_pack.fingerprint()))])
    listed = run.invoke(commands, ["identities", "list", "--root", store.root, "--tenant", "acme"]).stdout
    assert "zoe" in listed and "ada" not in listed
    erased = ["identities", "erase", "--name", "ada", "--root", store.root, "--tenant", "acme", "--yes"]
    assert run.invoke(commands, erased).exit_code == 1 and store.count("identities") == 3
    outside = ["identities", "list", "--root", store.root, "--tenant", "../.."]
    assert run.invoke(commands, outside).exit_code == 2
    for words in (["run"], ["train"], ["generate"], ["animate"], ["sculpt"], ["videos", "list"], ["jobs", "list"]):
        assert "--tenant" in run.invoke(commands, [*words, "--help"], terminal_width=200).stdout, words


def test_erasing_from_the_operators_root_leaves_a_tenants_alone(tmp_path: Path, tiny_pack: Pack) -> None:
    store = people_store(tmp_path, tiny_pack)
    ada = identity_row(person(1, "ada", tiny_pack.fingerprint()))
    theirs = Store(tenant_root(store.root, "acme"))
    theirs.upsert("identities", [ada])  # the same photo, learned by both
    done = CliRunner().invoke(commands, ["identities", "erase", "--name", "ada", "--root", store.root, "--yes"])
    assert done.exit_code == 0, done.output
    assert store.count("identities") == 2 and theirs.count("identities") == 1
