"""What a command finds when it is started, and what people paste into it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.__main__ import app
from cli.options import made_folder
from pipelines.jobs.joining import _in_folder

REPO = Path(__file__).parents[1]
runner = CliRunner()


def version(shell: str, words: str = "--version", **environment: str) -> subprocess.CompletedProcess[str]:
    """`identity-factory --version` with this behind it on the shell's line."""
    return subprocess.run(
        ["sh", "-c", f'"{sys.executable}" -m cli {words} {shell}'],
        env={**os.environ, "PYTHONPATH": str(REPO), **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_standard_files_that_are_closed_or_full() -> None:
    for shell in ("<&- >&-", "2>&-", "<&- >&- 2>&-"):
        done = version(shell)
        assert (done.returncode, done.stderr) == (0, ""), shell
    for unbuffered in ("", "1"):
        full = version(">/dev/full", PYTHONUNBUFFERED=unbuffered)
        assert (full.returncode, full.stderr) == (1, "error: [Errno 28] No space left on device\n")


def test_a_reader_that_has_enough_is_no_error() -> None:
    for words in ("--version", "packs list", "run --help"):
        for unbuffered in ("", "1"):
            for both in ("", "2>&1"):
                unread, output = os.pipe()
                os.close(unread)
                done = subprocess.run(
                    ["sh", "-c", f'"{sys.executable}" -m cli {words} {both}'],
                    env={**os.environ, "PYTHONPATH": str(REPO), "PYTHONUNBUFFERED": unbuffered},
                    stdout=output,
                    stderr=subprocess.PIPE,
                    timeout=60,
                )
                os.close(output)
                assert (done.returncode, done.stderr) == (0, b""), (words, unbuffered, both)


def test_work_goes_on_where_nobody_reads_of_it(tmp_path: Path) -> None:
    """A pipe that is closed behind a command, and a log on a full disk."""
    code = "import sys; from cli.surroundings import settle; settle(); "
    code += f"print('a', flush=True); print('b', file=sys.stderr); open(r'{tmp_path}/done', 'a').write('c')"
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    for shell in ("2>&1 | true", "2>/dev/full | true"):
        subprocess.run(["bash", "-c", f'"{sys.executable}" -c "{code}" {shell}'], env=environment, timeout=60)
    assert (tmp_path / "done").read_text() == "cc"


def test_help_is_there_on_terminals_without_a_width() -> None:
    for columns in ("0", "", "-5", "wide"):
        assert "--photos" in version("", "run --help", COLUMNS=columns).stdout


def test_what_ray_needs_is_there_whatever_the_environment_says() -> None:
    code = "import sys; from cli.surroundings import settle; settle(); print(sys.flags.optimize, sys.warnoptions)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(REPO), "PYTHONOPTIMIZE": "2", "PYTHONWARNINGS": "error"},
        capture_output=True,
        text=True,
    )
    assert (done.stdout, done.stderr) == ("1 []\n", "")


def test_no_file_takes_the_number_of_a_standard_one(tmp_path: Path) -> None:
    """Else what C++ prints would stand in it."""
    code = "import sys; from cli.surroundings import settle; settle(); sys.stdout.flush(); sys.stderr.flush(); "
    code += f"print(open(r'{tmp_path}/x', 'w').fileno() > 2, file=open(9, 'w'))"
    done = subprocess.run(
        ["sh", "-c", f'"{sys.executable}" -c "{code}" 9>&1 <&- >&- 2>&-'],
        env={**os.environ, "PYTHONPATH": str(REPO)},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "True\n"


@pytest.mark.skipif(os.getuid() != 0, reason="only root may become somebody else")
def test_a_user_id_without_a_name() -> None:
    code = "import getpass, os; os.setuid(61042); cli.surroundings.settle(); "
    code += "print(getpass.getuser(), os.path.expanduser('~/x'))"
    bare = {name: value for name, value in os.environ.items() if name not in ("USER", "LOGNAME", "HOME")}
    done = subprocess.run(
        [sys.executable, "-c", f"import cli.surroundings; {code}"],
        env={**bare, "PYTHONPATH": str(REPO)},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "user61042 /tmp/x\n", done.stderr


@pytest.mark.skipif(os.getuid() != 0, reason="only root may become somebody else")
def test_a_home_of_somebody_else_is_not_looked_into(for_anyone: Path) -> None:
    home = for_anyone / "home"
    home.mkdir(mode=0o700)
    code = "import os; os.setuid(61042); cli.surroundings.settle(); "
    code += "print(os.environ['HOME'], limits.why_not(), files.s3_endpoint())"
    others = ("RAY_", "AWS_")
    bare = {name: value for name, value in os.environ.items() if not name.startswith(others)}
    done = subprocess.run(
        [sys.executable, "-c", f"import cli.surroundings; from factory import files, limits; {code}"],
        env={**bare, "PYTHONPATH": str(REPO), "HOME": str(home), "RAY_TMPDIR": f"{home}/ray"},
        capture_output=True,
        text=True,
    )
    assert done.stdout == f"{tempfile.gettempdir()}  None\n", done.stderr


def test_a_folder_that_is_gone_is_left_and_come_back_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    try:
        with _in_folder(tmp_path):
            assert Path.cwd() == tmp_path
        with pytest.raises(FileNotFoundError):
            Path.cwd()
    finally:
        os.chdir(tmp_path)


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["generate", "\u2013prompt", "x"], "type --prompt"),
        (["identities", "list", "\u2014root=x"], "type --root"),
        (["generate", "\u00a0\u2013-root", "x"], "type --root"),
        (["generate", "\u00a0--root", "x"], "type --root"),
        (["generate", "--prompt", "\u201ca", "photo\u201d"], "a word processor's quote"),
        (["generate", "--prompt", "\u201ea", "photo\u201c"], "a word processor's quote"),
    ],
)
def test_what_a_word_processor_made_of_a_command_is_told(words: list[str], meant: str) -> None:
    done = runner.invoke(app, words)
    assert done.exit_code == 2 and meant in " ".join(done.stderr.replace("\u2502", "").split())


def test_such_marks_inside_a_prompt_are_its_own(tmp_path: Path) -> None:
    for prompt in ("\u201chello\u201d", "\u201ca photo\u201d of <person>", "\u2013 <person> \u2013", "\u2013 1"):
        done = runner.invoke(app, ["generate", "--prompt", prompt, "--root", str(tmp_path / "none")])
        assert done.exit_code == 1 and "does not exist" in done.stderr


def test_help_and_version_by_all_their_names() -> None:
    assert runner.invoke(app, ["-V"]).output == runner.invoke(app, ["--version"]).output
    for words, same in ((["help"], ["--help"]), (["help", "run"], ["run", "-h"]), (["jobs", "help"], ["jobs", "-h"])):
        asked, usual = runner.invoke(app, words), runner.invoke(app, same)
        assert asked.exit_code == 0 and asked.output == usual.output and "Usage" in asked.output


def test_only_tables_are_written_to_a_store(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--out s3://\.\.\. is no folder of this machine"):
        made_folder(Path("s3://bucket/pictures"), str(tmp_path))
    made_folder(tmp_path / "s3:" / "x", str(tmp_path))
    assert (tmp_path / "s3:" / "x").is_dir()


def test_the_home_folder_is_meant_also_behind_an_equals_sign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shells leave `--out=~/x` as it is, and nobody else opens what systemd, cron or a quoted script hands over."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    for arguments in (["--root=~/people"], ["--root", "~/people"]):
        told = runner.invoke(app, ["identities", "list", *arguments])
        assert told.exit_code == 1 and f"--root {tmp_path}/home/people does not exist" in told.stderr
    ran = runner.invoke(app, ["identities", "export", "--root=~/people", "--out=~user/x~", "--format=~"])
    assert ran.exit_code == 2 and "~" in ran.stderr, "nothing else is changed"
    assert not (tmp_path / "~").exists()
