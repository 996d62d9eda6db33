"""What a machine may lack for Ray's processes, told by its name and with the remedy."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer

from cli.errors import user_errors
from cli.surroundings import _hold_token
from factory.limits import why_not
from pipelines.jobs.journal import explained


def test_the_folder_of_ray_is_told_by_what_is_wrong_with_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / "not" / "there"))
    assert "too long" in why_not(OSError("AF_UNIX path length cannot exceed 107 bytes: '/x/ray/y'"))
    assert "RAY_TMPDIR to a folder of your own" in why_not(PermissionError(13, "Permission denied", "/x/ray"))
    assert "is full" not in why_not(OSError("timed out"))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    assert f"the disk of {tmp_path}/not/there is full" in why_not(OSError("timed out"))


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
