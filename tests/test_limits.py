"""What a machine may lack for Ray's processes, told by its name and with the remedy."""

from __future__ import annotations

import os
import pwd
import shutil
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer

from cli.errors import user_errors
from cli.surroundings import _hold_token
from factory.limits import ray_folder, set_ray_folder, why_not
from pipelines.jobs.journal import explained

LONG = "x" * 60


def test_the_folder_of_ray_is_told_by_what_is_wrong_with_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / "not" / "there"))
    told = why_not(OSError("AF_UNIX path length cannot exceed 107 bytes: '/x/ray/y'"))
    assert f"{tmp_path}/not/there is too long" in told and "107 bytes: set RAY_TMPDIR to a folder of at most" in told
    assert "RAY_TMPDIR to a folder of your own" in why_not(PermissionError(13, "Permission denied", "/x/ray"))
    assert "is full" not in why_not(OSError("timed out"))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    assert f"the disk of {tmp_path}/not/there is full" in why_not(OSError("timed out"))


def test_whose_folder_of_ray_it_is_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    (tmp_path / "ray").mkdir()
    refused = PermissionError(13, "Permission denied", f"{tmp_path}/ray/session_1")
    assert "belongs to" not in why_not(refused), "but its own"
    monkeypatch.setattr(os, "geteuid", lambda: (tmp_path / "ray").stat().st_uid + 1)
    owner = pwd.getpwuid((tmp_path / "ray").stat().st_uid).pw_name
    assert f"{tmp_path}/ray belongs to {owner}" in why_not(refused) and "of your own" in why_not(refused)


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ({}, None),
        ({"TMPDIR": "SHORT"}, "SHORT"),
        ({"TMPDIR": f"SHORT/{LONG}"}, "/tmp"),  # as batch systems make them
        ({"TMPDIR": "SHORT/gone"}, "/tmp"),
        ({"TMPDIR": ""}, "/tmp"),  # which Ray takes for the current folder
        ({"TMPDIR": f"SHORT/{LONG}", "RAY_TMPDIR": "SHORT"}, "SHORT"),
        ({"TMPDIR": f"SHORT/{LONG}", "RAY_TMPDIR": ""}, "/tmp"),
        ({"RAY_TMPDIR": f"SHORT/{LONG}"}, f"SHORT/{LONG}"),  # whoever sets it is told
    ],
)
def test_ray_has_a_folder_with_room_for_its_sockets(
    given: dict[str, str], taken: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as short:
        Path(short, LONG).mkdir()
        for name in ("TMPDIR", "RAY_TMPDIR"):
            monkeypatch.setenv(name, "")
            monkeypatch.delenv(name)
        for name, value in given.items():
            monkeypatch.setenv(name, value.replace("SHORT", short))
        set_ray_folder()
        wanted = taken and taken.replace("SHORT", short)
        assert os.environ.get("RAY_TMPDIR") == wanted and ray_folder() == (wanted or "/tmp")
        if not given.get("RAY_TMPDIR") and given:
            told = why_not(OSError("AF_UNIX path length cannot exceed 107 bytes: '/x/ray/y'"))
            assert LONG not in told, "what is not used is not blamed"


def test_a_home_that_cannot_be_written_to_is_not_needed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_ADDRESS"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    _hold_token()
    assert "RAY_AUTH_TOKEN" not in os.environ, "Ray keeps it there itself"
    monkeypatch.setattr("cli.surroundings.os.access", lambda *_: False)
    _hold_token()
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64


def test_a_file_system_without_hard_links_is_told() -> None:
    """As Lance tells of it, by either number that such systems give."""
    for why in ("supported (os error 95)", "permitted (os error 1)"):
        error = OSError(f"table r/faces.lance cannot be created: Unable to rename file: Operation not {why}, commit.rs")
        told = explained(error, "r")
        assert told is not None and "r cannot be written" in str(told) and "has no hard links" in str(told)


def test_a_command_tells_the_remedy_where_a_table_cannot_be_written(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit), user_errors():
        raise OSError('LanceError(IO): Read-only file system (os error 30) at path "/r/audit.lance/x", /home/x.rs:1')
    told = capsys.readouterr().err
    assert told.startswith("error: let this user write there, then run the same command again (LanceError(IO): Read")
    assert "/r/audit.lance" in told and "x.rs" not in told
