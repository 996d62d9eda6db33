"""The cases that are tried on real inputs: each is told apart, says what is expected, and is judged honestly."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.cases import damage, images, libraries, meant, tables
from benchmarks.cases.__main__ import CASES, row, tried
from benchmarks.cases.desk import Desk, Got, Ran, short


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path / "cases")


def test_every_case_says_what_is_expected() -> None:
    names = [case.__name__ for case in CASES]
    assert len(set(names)) == len(names) >= 55
    assert all(case.__doc__ and len(case.__doc__) > 20 for case in CASES)


def test_what_a_case_stumbles_over_is_no_success(desk: Desk) -> None:
    def x99(desk: Desk) -> Got:
        """All is well."""
        raise RuntimeError("it is not")

    assert row(x99, tried(x99, desk)) == ["X99", "All is well.", "RuntimeError: it is not", "**no**"]


def test_a_clear_error_is_one_line_without_a_traceback() -> None:
    assert Ran(code=1, output="error: no such folder; give one\n", seconds=1).clear
    assert not Ran(code=0, output="error: no such folder\n", seconds=1).clear
    assert not Ran(code=1, output="error: a\nerror: b\n", seconds=1).clear
    assert not Ran(code=1, output="", seconds=1, crash="traceback: KeyError").clear
    assert short("a\x1b[31m\nb") == "a\\x1b[31m b"


def test_cases_that_need_no_job_hold(desk: Desk) -> None:
    """Of pictures, of folders and tables, and of the command line; the others run by `python -m benchmarks.cases`."""
    for case in (images.i13, damage.i23, tables.p06, *libraries.CASES, *meant.CASES):
        got = tried(case, desk)
        assert got.ok, (case.__name__, got.text)
