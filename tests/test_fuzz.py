"""Damaged files end in faces or in rejects that say why (the whole: python -m benchmarks.fuzz)."""

from __future__ import annotations

from benchmarks.fuzz import FORMATS, damaged, originals, prepare_all


def test_damaged_files_of_every_format_cost_nothing_but_themselves() -> None:
    outcomes, faults = prepare_all(4 * len(FORMATS))
    assert faults == [] and sum(outcomes.values()) == 4 * len(FORMATS)
    assert outcomes["damaged"] and outcomes["faces"], "some are lost, some are not"


def test_a_damaged_file_is_the_same_for_its_seed_and_not_the_original() -> None:
    files = originals()
    for seed in range(30):
        what, data = damaged(files, seed)
        assert damaged(files, seed) == (what, data) and what.startswith(FORMATS[seed % len(FORMATS)])
    assert sum(damaged(files, seed)[1] != files[FORMATS[seed % len(FORMATS)]] for seed in range(30)) >= 25
