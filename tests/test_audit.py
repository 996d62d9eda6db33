"""The audit: a chain that shows what was done with it, deeds of requests and commands, and what erasing leaves."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from starlette.testclient import TestClient
from typer.testing import CliRunner

from cli.__main__ import app
from factory.pack import Pack
from factory.store import upkeep
from factory.store.audit import Deed, append, faults_of, read_audit
from factory.store.keys import create_key
from factory.store.tables import Store
from serve.ledger import Ledger
from tests import serving
from tests.serving import FakeGenerator, ask
from tests.test_access import a_gate

store, fake = serving.store, serving.fake  # fixtures
ADA, BOB = "ada5c0ffee15900d", "b0b5c0ffee15900d"  # found nowhere by chance, as zeros with a 1 would be
OF_ROOT = f"{1:016x}", f"{2:016x}"  # ada and bob, as `serving.store` has them


def deed(action: str = "drew", *whom: str, **detail: str) -> Deed:
    return Deed(at=time.time(), actor="key k", action=action, whom=whom, detail=detail)


def test_rows_follow_one_another_whoever_writes(tmp_path: Path) -> None:
    def write(number: int) -> None:
        append(Store(tmp_path), [deed(f"a{number}", ADA), deed(f"b{number}", BOB)])

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(write, range(8)))
    rows = read_audit(Store(tmp_path))
    assert [row["number"] for row in rows] == list(range(16))
    assert {row["action"] for row in rows} == {f"{letter}{number}" for letter in "ab" for number in range(8)}
    assert faults_of(Store(tmp_path))[0] == [] and len({row["salt"] for row in rows}) == 1
    assert len(read_audit(Store(tmp_path), [ADA])) == 8, "whoever has an id finds what was done with it"
    assert not any(ADA.encode() in file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())


def test_a_long_audit_is_tidied_and_indexed_and_still_one_chain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server commits once a second: without it each commit would look through all that were before."""
    for setting, value in {"TIDY_EVERY": 8, "INDEX_EVERY": 4, "INDEX_FROM": 8}.items():
        monkeypatch.setattr(upkeep, setting, value)
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda number: append(Store(tmp_path), [deed(f"a{number}", ADA)]), range(40)))
    table = Store(tmp_path).open("audit")
    assert table is not None and table.describe_indices(), "the last row is found by its number"
    assert len(table.get_fragments()) <= 20, "files are joined"
    assert [row["number"] for row in read_audit(Store(tmp_path))] == list(range(40))
    assert faults_of(Store(tmp_path))[0] == []


@pytest.fixture
def chain(tmp_path: Path) -> Iterator[Store]:
    chain = Store(tmp_path / "chain")
    append(chain, [deed("drew", ADA, prompt="<person>"), deed("exported", ADA), deed("erased", BOB)])
    assert faults_of(chain)[0] == []
    yield chain


def changed(chain: Store, number: int, **how: object) -> list[str]:
    (row,) = [row for row in read_audit(chain) if row["number"] == number]
    chain.upsert("audit", [row | how])
    return faults_of(chain)[0]


def test_what_was_changed_is_seen(chain: Store) -> None:
    assert changed(chain, 1, action="drew") == ["row 1 was changed"]


def test_what_was_told_otherwise_is_seen(chain: Store) -> None:
    assert changed(chain, 0, detail='{"prompt": "another"}') == ["what row 0 tells was changed"]


def test_what_was_taken_out_is_seen(chain: Store) -> None:
    chain.delete("audit", "number = 1")
    assert faults_of(chain)[0] == ["row 1 is missing; row 2 follows"]


def test_a_row_in_place_of_another_is_seen(chain: Store) -> None:
    rows = read_audit(chain)
    assert changed(chain, 1, previous=rows[1]["digest"])[0] == "row 1 does not follow the row before it"


def test_an_end_that_was_cut_off_is_seen_with_the_digest_that_was_kept(chain: Store) -> None:
    _, tip = faults_of(chain)
    append(chain, [deed()])
    assert faults_of(chain, tip)[0] == []
    chain.delete("audit", "number >= 2")
    assert faults_of(chain)[0] == [] and "the end was cut off" in faults_of(chain, tip)[0][0]


def test_requests_are_written_down(store: Store, fake: FakeGenerator, tiny_pack: Pack) -> None:
    key, made = create_key(store, ["draw", "words"])
    gate = a_gate(store.root, tiny_pack, fake)
    with TestClient(gate, headers={"authorization": f"Bearer {key}"}) as http:
        assert ask(http, n=3, prompt="<person> and <person:bob>").status_code == 200
        assert ask(http, model="nobody").status_code == 404
        assert http.get("/v1/identities/ada?words=1").status_code == 200 and http.get("/v1/models").status_code == 200
        deadline = time.monotonic() + 20
        while store.count("audit") < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
    rows = read_audit(store)
    assert [(row["action"], row["num"], row["actor"]) for row in rows] == [
        ("drew", 3, f"key {made.key_id}"),
        ("took the words", 1, f"key {made.key_id}"),
    ]
    ada, bob = OF_ROOT
    assert len(read_audit(store, [bob])) == 1 and len(read_audit(store, [ada])) == 2
    assert {row["detail"] for row in rows} == {None}, "no prompts, unless the root says so"


def test_prompts_where_the_root_says_so(store: Store) -> None:
    import asyncio

    (Path(store.root) / "settings.toml").write_text("audit_prompts = true\n")

    async def write() -> None:
        ledger = Ledger(store)
        ledger.note("key k", "drew", [ADA], prompt="ada in the snow")
        await ledger.flush()

    asyncio.run(write())
    (row,) = read_audit(store)
    assert row["detail"] == '{"prompt": "ada in the snow"}'


def test_erasing_takes_out_what_was_told_of_a_person_and_the_chain_holds(store: Store) -> None:
    ada, bob = OF_ROOT
    append(store, [deed("drew", ada, prompt="ada in the snow"), deed("drew", bob, prompt="bob in the snow")])
    run, root = CliRunner(), ["--root", store.root]
    tip = run.invoke(app, ["audit", "verify", *root]).stdout.split()[-1]
    done = run.invoke(app, ["identities", "erase", "--name", "ada", "--yes", *root])
    assert done.exit_code == 0, done.output
    verified = run.invoke(app, ["audit", "verify", "--tip", tip, *root])
    assert verified.exit_code == 0 and "3 rows, none changed" in verified.stdout
    listed = run.invoke(app, ["audit", "list", *root], terminal_width=200).stdout
    assert "taken out" in listed and "bob in the snow" in listed and "ada" not in listed and "erased" in listed
    left = b"".join(file.read_bytes() for file in Path(store.root).rglob("*") if file.is_file())
    assert b"ada in the snow" not in left and b"bob in the snow" in left
    mine = run.invoke(app, ["audit", "list", "--identity", ada, *root]).stdout
    assert mine.count("drew") == 1 and "erased" in mine and "bob" not in mine
    append(store, [deed("drew", ada, bob, prompt="ada beside bob")])  # it waited while ada was erased
    left = b"".join(file.read_bytes() for file in Path(store.root).rglob("*") if file.is_file())
    assert b"ada beside bob" not in left and len(read_audit(store, [ada])) == 3 and faults_of(store)[0] == []
    store.delete("audit", "number = 0")
    broken = run.invoke(app, ["audit", "verify", *root])
    assert broken.exit_code == 3 and "row 0 is missing" in broken.output


def test_commands_are_written_down(store: Store, tmp_path: Path) -> None:
    run, root = CliRunner(), ["--root", store.root]
    run.invoke(app, ["keys", "create", "--scope", "draw", *root])
    run.invoke(app, ["identities", "export", "ada", "--out", str(tmp_path / "words"), *root])
    run.invoke(app, ["identities", "consent", "bob", "--reference", "form-1", *root])
    actions = [(row["actor"], row["action"]) for row in read_audit(store)]
    told = ["made a key", "exported words", "told consent"]
    assert actions == [("command line", action) for action in told]
