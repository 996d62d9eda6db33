"""The command line: help that answers at once, options, and errors as one line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from cli.__main__ import app
from cli.errors import TRACEBACK
from cli.options import parse_seeds, parse_settings, read_prompts
from factory.errors import PackError
from factory.records import TEXT_ENCODER, Identity
from factory.store.rows import identity_row
from factory.store.tables import Store

runner = CliRunner()


@pytest.fixture
def root(tmp_path: Path) -> str:
    identity = Identity(
        identity_id="0123456789abcdef",
        face_id="f-0",
        photo_id="f",
        name="Ann",
        words={TEXT_ENCODER: np.ones((2, 4), np.float32)},
        pack="studio",
        fingerprint="0" * 16,
        preset="paper",
        config="{}",
        num_steps=3,
        final_loss=0.5,
        train_s=1.0,
        created_at="2026-01-01T00:00:00+00:00",
    )
    store = Store(tmp_path / "root")
    store.upsert("identities", [identity_row(identity)])
    return store.root


def test_help_loads_nothing_heavy() -> None:
    heavy = "{'torch', 'ray', 'lance', 'pyarrow', 'numpy', 'pydantic'}"
    code = f"import sys, cli.__main__; print(sorted({heavy} & set(sys.modules)))"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "[]"


def test_the_place_of_an_error_is_shown_to_who_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    quiet = runner.invoke(app, ["packs", "verify", "nope"])
    assert quiet.exit_code == 1 and quiet.stderr.startswith("error: no pack 'nope'")
    monkeypatch.setenv(TRACEBACK, "0")
    assert runner.invoke(app, ["packs", "verify", "nope"]).exception.__class__ is SystemExit
    asked = runner.invoke(app, ["--traceback", "packs", "verify", "nope"])
    assert isinstance(asked.exception, PackError)


@pytest.mark.parametrize(
    "command", ["run", "prepare", "train", "generate", "serve", "demo", "evaluate", "identities export", "packs verify"]
)
def test_every_command_has_help(command: str) -> None:
    result = runner.invoke(app, [*command.split(), "--help"])
    assert result.exit_code == 0
    assert "Usage" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("run --photos /nowhere --root ROOT --set mask=perhaps", "mask='perhaps': Input should be a valid boolean"),
        ("run --photos /nowhere --root ROOT --set colour=3", "no setting colour; there are"),
        ("run --photos /nowhere --root ROOT --pack nopack", "no pack 'nopack'; there are sd21, studio"),
        ("train --root ROOT/empty", "holds no faces yet; run `identity-factory prepare"),
        ("retry-rejects --photos x --root ROOT --reason diverged", "`train --set seed=1`"),
        ("identities show Anne --root ROOT", "did you mean Ann?"),
        ("identities export Ann --root ROOT --out x.pt", "is a .safetensors file"),
    ],
)
def test_what_a_user_can_mend_is_one_line(root: str, arguments: str, message: str) -> None:
    result = runner.invoke(app, arguments.replace("ROOT", root).split())
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        "generate --root ROOT",
        "generate --root ROOT --prompt x --seeds a",
        "run --root ROOT",
        "prepare --photos x --root ROOT --set x",
    ],
)
def test_wrong_usage_is_status_2(root: str, arguments: str) -> None:
    assert runner.invoke(app, arguments.replace("ROOT", root).split()).exit_code == 2


def test_identities_list_show_export(root: str, tmp_path: Path) -> None:
    listed = runner.invoke(app, ["identities", "list", "--root", root, "--json"])
    assert json.loads(listed.output)["name"] == "Ann"
    shown = runner.invoke(app, ["identities", "show", "Ann", "--root", root])
    assert "0123456789abcdef" in shown.output
    assert "2 x 4" in shown.output
    exported = runner.invoke(app, ["identities", "export", "--root", root, "--out", str(tmp_path / "files")])
    assert exported.exit_code == 0
    assert (tmp_path / "files/Ann.safetensors").is_file()
    namesake = Store(root).find_identity("Ann")
    Store(root).upsert("identities", [{**identity_row(namesake), "identity_id": "f" * 16, "name": "ann"}])
    runner.invoke(app, ["identities", "export", "--root", root, "--out", str(tmp_path / "both")])
    names = ["Ann-0123456789abcdef.safetensors", "ann-ffffffffffffffff.safetensors"]
    assert sorted(file.name for file in (tmp_path / "both").iterdir()) == names
    runner.invoke(app, ["identities", "export", "--root", root, "--format", "parquet", "--out", str(tmp_path)])
    assert (tmp_path / "identities.parquet").is_file()


def test_packs_list() -> None:
    result = runner.invoke(app, ["packs", "list"])
    assert [line.split()[0] for line in result.output.splitlines()] == ["pack", "sd21", "studio"]


def test_options_become_values(tmp_path: Path) -> None:
    assert parse_seeds("0, 4-6,2") == [0, 4, 5, 6, 2]
    for wrong in ("", "a", "1-", "-1", "1,,2"):
        with pytest.raises(typer.BadParameter):
            parse_seeds(wrong)
    assert parse_settings(["a=1", "b=none", "betas=[0.1, 0.2]"], num_steps=3, seed=None) == {
        "a": "1",
        "b": None,
        "betas": [0.1, 0.2],
        "num_steps": 3,
    }
    (tmp_path / "prompts.txt").write_text("one\n\n  two  \n", encoding="utf-8")
    assert read_prompts(tmp_path / "prompts.txt") == ["one", "two"]
