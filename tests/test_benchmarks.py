"""The baselines do the same work as the factory: else their times would compare nothing."""

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.baselines import ReleaseLoop, TextualInversion
from benchmarks.measure import Contender, count_flops, interleave
from benchmarks.setting import noise_people
from factory.config import EngineConfig, Recipe, preset
from factory.learn.trainer import load_trainer
from factory.pack import Pack


def test_the_releases_loop_learns_the_words_that_a_pack_learns(tiny_pack: Pack) -> None:
    trainer = load_trainer(tiny_pack, engine=EngineConfig(precision="float64"))
    people = noise_people(tiny_pack, 2, "cpu")
    release = preset("release")
    train = release.train.model_copy(update={"num_steps": 3, "learning_rate": 1e-3})
    recipe = Recipe(method=release.method, train=train)
    loop = ReleaseLoop(trainer, people[0], recipe)
    start = loop.words()
    for _ in range(train.num_steps):
        loop.step()
    (wave,) = trainer.stream(people, recipe)
    assert float((loop.words() - start).abs().max()) > 1e-3
    # their features are the float64 ViT's, ours were stored in float32
    np.testing.assert_allclose(wave[0].words_VD, loop.words().numpy(), atol=1e-5)


def test_textual_inversion_changes_the_placeholders_rows_only(tiny_pack: Pack) -> None:
    trainer = load_trainer(tiny_pack, engine=EngineConfig(precision="float32"))
    inversion = TextualInversion(trainer, noise_people(tiny_pack, 1, "cpu")[0], preset("release"))
    inversion.step()
    assert torch.equal(inversion.table[: inversion.known], inversion.original[: inversion.known])
    assert not torch.equal(inversion.table[inversion.known :], inversion.original[inversion.known :])


def test_flops_are_counted_and_rounds_interleave() -> None:
    order: list[str] = []
    matrix = torch.ones(8, 8)

    def product(name: str) -> None:
        order.append(name)
        torch.mm(matrix, matrix)

    assert count_flops(lambda: product("x"), device="cpu") == 2 * 8**3
    order.clear()
    contenders = [Contender(name=name, run=lambda name=name: product(name), items=2) for name in "ab"]  # type: ignore[misc]
    interleave(contenders, rounds=2, device="cpu")
    assert order == ["a", "b"] * 3
    assert all(len(one.seconds) == 2 and one.median > 0 for one in contenders)


def test_look_ups_are_told_with_indexes_and_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import lookup
    from factory.store import upkeep

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(upkeep, "INDEX_FROM", 32)
    monkeypatch.setattr(upkeep, "keep_indexes", upkeep.keep_indexes)  # which the script replaces
    monkeypatch.setattr(lookup, "hold_s", lambda *numbers: 1.0)
    arguments = ["--identities", "50", "--width", "4", "--repeats", "3", "--commits", "2"]
    monkeypatch.setattr("sys.argv", ["lookup", *arguments, "--out", str(tmp_path / "result")])
    lookup.main()
    text = (tmp_path / "result.md").read_text()
    assert all(row in text for row in ("| look-up by name |", "| upsert of 32 |", "| look-up beside a job |"))
    assert not (tmp_path / "out" / "bench" / "lookup").exists()


@pytest.mark.slow
def test_the_scripts_write_what_they_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import generate, train_identity

    common = ["--packs", str(tmp_path / "packs"), "--rounds", "1", "--steps", "1", "--batches", "1,2"]
    for script, name in ((train_identity, "packed, B = 2, pool"), (generate, "mixed identities, B = 2")):
        monkeypatch.setattr("sys.argv", ["bench", *common, "--out", str(tmp_path / "result")])
        script.main()
        assert name in (tmp_path / "result.md").read_text()
        assert (tmp_path / "result.json").exists()
