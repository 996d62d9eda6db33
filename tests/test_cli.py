"""The command line: help that answers at once, options, and errors as one line."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from io import BytesIO, TextIOWrapper
from pathlib import Path

import numpy as np
import pytest
import typer
from ray.exceptions import AuthenticationError
from typer.testing import CliRunner

from cli.__main__ import app
from cli.errors import TRACEBACK
from cli.options import parse_seeds, parse_settings, read_prompts
from cli.output import show_summary
from factory.errors import PackError
from factory.records import TEXT_ENCODER, Identity
from factory.store.rows import identity_row
from factory.store.schemas import SCHEMAS
from factory.store.tables import Store
from pipelines.jobs.job import Summary

runner = CliRunner()
FACE = dict.fromkeys(SCHEMAS["faces"].names) | {"face_id": "p-0", "photo_id": "p", "pack": "studio", "name": "Ann"}


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
    "command",
    (
        "run,prepare,train,generate,animate,sculpt,serve,demo,evaluate,identities export,videos export,heads export,"
        "packs verify"
    ).split(","),
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
        ("train --root ROOT", "holds no faces yet; run `identity-factory prepare"),
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
    ["identities list", "audit verify", "jobs list", "keys list", "videos list",
     "train", "generate --prompt x", "verify x.png"],
)  # fmt: skip
def test_a_mistyped_root_is_told_and_not_made(tmp_path: Path, arguments: str) -> None:
    for name, told in (("mistyped", "does not exist"), ("file", "is a file")):
        if name == "file":
            (tmp_path / "file").write_text("")
        result = runner.invoke(app, [*arguments.split(), "--root", str(tmp_path / name)])
        assert result.exit_code == 1 and told in result.stderr and "run --photos" in result.stderr
    assert not (tmp_path / "mistyped").exists()
    result = runner.invoke(app, [*arguments.split(), "--root", "s3://"])
    assert result.exit_code == 1 and "names no bucket" in result.stderr


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
    one = runner.invoke(app, ["identities", "export", "ada", "--root", root, "--format", "parquet"])
    assert one.exit_code == 2 and "whole table" in one.stderr, "not everybody's words in a file that was to be one's"


def test_packs_list() -> None:
    result = runner.invoke(app, ["packs", "list"])
    assert [line.split()[0] for line in result.output.splitlines()] == ["pack", "sd21", "studio"]


def test_options_become_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse_seeds("0, 4-6,2") == [0, 4, 5, 6, 2]
    for wrong in ("", "a", "1-", "-1", "1,,2", "5-4", "²", "0-9999999999", "9" * 19):
        with pytest.raises(typer.BadParameter):
            parse_seeds(wrong)
    assert parse_settings(["a=1", "b=none", "betas=[0.1, 0.2]"], num_steps=3, seed=None) == {
        "a": "1",
        "b": None,
        "betas": [0.1, 0.2],
        "num_steps": 3,
    }
    for mark, encoding in (("", "utf-8"), ("\ufeff", "utf-8"), ("", "utf-16"), ("\ufeff", "utf-16-be"), ("", "utf-32")):
        (tmp_path / "prompts.txt").write_bytes(f"{mark}one\r\n\n  zwö  \r\n".encode(encoding))
        assert read_prompts(tmp_path / "prompts.txt") == ["one", "zwö"], encoding
    (tmp_path / "prompts.txt").write_text("# of the spring\none # two\n  #three\n")
    assert read_prompts(tmp_path / "prompts.txt") == ["one # two"], "comments, as AUTOMATIC1111 has them"
    monkeypatch.setattr(sys, "stdin", TextIOWrapper(BytesIO("eins\n".encode("utf-16"))))
    assert read_prompts(Path("-")) == ["eins"]


@pytest.mark.parametrize(
    "arguments",
    [
        "run --photos a --root ROOT --root b",
        "prepare --photos a --root ROOT --workers=1 --workers=2",
        "identities list --root ROOT --root=b",
        "generate --root ROOT --prompt x --seeds 1 --seeds 2",
        "prepare --photos a --root ROOT --set max_pixels=1 --set max_pixels=2",
    ],
)
def test_an_option_of_one_value_is_not_given_twice(root: str, arguments: str) -> None:
    result = runner.invoke(app, arguments.replace("ROOT", root).split())
    assert result.exit_code == 2 and "is given twice" in result.stderr
    both = runner.invoke(app, ["run", "--photos", "a", "--root", root, "--steps", "2", "--set", "num_steps=3"])
    assert both.exit_code == 2 and "by --set and by an option" in both.stderr


def test_photos_that_a_shell_spreads_are_told(root: str) -> None:
    result = runner.invoke(app, ["prepare", "--photos", "p/a.jpg", "p/b.jpg", "--root", root])
    assert result.exit_code == 2 and "p/b.jpg follows it" in " ".join(result.stderr.split())
    assert "give the folder" in " ".join(result.stderr.split())


def test_photos_may_be_given_twice(root: str) -> None:
    result = runner.invoke(app, ["prepare", "--photos", "/nowhere", "--photos", "/there", "--root", root])
    assert result.exit_code == 1 and "there is nothing at /nowhere" in result.stderr


def test_a_source_that_is_wrong_is_told_before_anything_starts(
    root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.prepare.connect", lambda: pytest.fail("Ray was started"))
    for command in ("prepare", "run"):
        assert runner.invoke(app, [command, "--photos", str(tmp_path / "none"), "--root", f"{root}/new"]).exit_code == 1
    assert not Path(root, "new").exists()


def test_a_job_that_could_use_no_photo_has_a_status_of_its_own(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    summary = Summary(job="prepare", job_id="j", photos=3, rejected={"no_face": 2}, skipped_existing=1, duplicates=1)
    with pytest.raises(typer.Exit) as ended:
        show_summary(summary, root)
    assert ended.value.exit_code == 3
    assert "no photo could be used" in capsys.readouterr().err
    for usable in (
        Summary(job="prepare", job_id="j", photos=3, rejected={"no_face": 2}, photos_with_faces=1),
        Summary(job="prepare", job_id="j", photos=3, rejected={"no_face": 2}, skipped_existing=1),
        Summary(job="prepare", job_id="j", photos=1, skipped_existing=1),
    ):
        show_summary(usable, root)


def test_nothing_of_a_name_is_executed_by_the_terminal(root: str, tmp_path: Path) -> None:
    odd = "\x1b[31mred\nline\u202e\x9b \U0001f469\u200d\U0001f4bb"
    namesake = identity_row(Store(root).find_identity("Ann"))
    Store(root).upsert("identities", [{**namesake, "identity_id": "f" * 16, "name": odd}])
    listed = runner.invoke(app, ["identities", "list", "--root", root]).output
    assert len(listed.splitlines()) == 3
    assert "\\x1b[31mred\\nline\\u202e\\x9b \U0001f469\u200d\U0001f4bb" in listed
    refused = runner.invoke(app, ["prepare", "--photos", "/no\x1b[2Jwhere\udce9", "--root", root])
    assert refused.exit_code == 1 and "\\x1b[2Jwhere\\xe9" in refused.stderr and "\x1b" not in refused.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["prepare", "--photos", "x", "--root", "/tmp/\udce9"],
        ["prepare", "--photos", "x", "--root", ""],
        ["identities", "list", "--root", "hf://bucket/people"],
        ["generate", "--root", "ROOT", "--prompt", "a \udce9", "--identity", "Ann"],
        ["identities", "show", "\udce9", "--root", "ROOT"],
        ["train", "--root", "ROOT", "--set", "learning_rate=nan"],
        ["train", "--root", "ROOT", "--set", "betas=[0.9, 1.0]"],
        ["train", "--root", "ROOT", "--set", "betas=[0.9"],
        ["prepare", "--photos", "x", "--root", "ROOT", "--set", "max_pixels=0"],
        ["prepare", "--photos", "ROOT", "--root", "ROOT", "--gpus", "1.5"],
    ],
)
def test_what_no_setting_can_be_is_one_line(root: str, arguments: list[str]) -> None:
    Store(root).upsert("faces", [FACE])
    result = runner.invoke(app, [argument.replace("ROOT", root) for argument in arguments])
    assert result.exit_code == 1 and result.stderr.startswith("error: ") and result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (AuthenticationError("Authentication failed"), "set RAY_AUTH_MODE=token"),
        (RuntimeError("Request failed with status code 413: too large."), r"\.gitignore or a file \.rayignore"),
        (ValueError("Package size (700MiB) exceeds the maximum size of 512MiB"), r"leave --working-dir out"),
        (ConnectionError("Failed to connect"), "takes no job: Failed to connect; give the dashboard's URL"),
    ],
)
def test_a_cluster_that_takes_no_job_says_why(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception, message: str
) -> None:
    def refuse(address: str) -> None:
        raise error

    monkeypatch.setattr("ray.job_submission.JobSubmissionClient", refuse)
    monkeypatch.setattr("factory.reach.fault_at", lambda _: "")
    submitted = ["submit", "--address", "http://h:8265", "--working-dir", str(tmp_path), "run", "--photos", "x"]
    result = runner.invoke(app, submitted)
    assert result.exit_code == 1 and re.search(message, result.stderr) and result.stderr.count("\n") == 1


def test_what_would_be_wasted_or_lost_is_told_before_it_begins(root: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    draw = ["generate", "--root", root, "--identity", "ada", "--prompt"]
    for words, status, says in (
        ([*draw, " "], 2, "a prompt is empty"),
        ([*draw, "x", "--out", str(tmp_path / "file")], 1, "file is no folder"),
        ([*draw, "x", "--pose", "photo:"], 1, "photo:FILE"),
        (["identities", "consent", "ada", "--root", root, "--reference", " "], 2, "--reference is empty"),
    ):
        result = runner.invoke(app, words)
        assert result.exit_code == status and says in result.stderr, result.output
    assert runner.invoke(app, ["--version"]).stdout.count(".") == 2
