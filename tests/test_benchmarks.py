"""The baselines do the same work as the factory: else their times would compare nothing."""

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.baselines import ReleaseLoop, TextualInversion
from benchmarks.load import arrivals, closed_loop
from benchmarks.measure import Contender, count_flops, interleave
from benchmarks.overload import Seen
from benchmarks.overload import report as overload_report
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


class Painter(BaseHTTPRequestHandler):
    """An endpoint that takes 20 ms a picture and refuses every fifth one; two rows a step, ten steps a picture."""

    protocol_version = "HTTP/1.1"
    asked, lock = 0, threading.Lock()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        with Painter.lock:
            Painter.asked += 1
            number = Painter.asked
        time.sleep(0.02)
        self._answer(429 if number % 5 == 0 else 200, {})

    def do_GET(self) -> None:
        self._answer(200, {"steps": 10 * Painter.asked, "rows_per_step": 2.0})

    def _answer(self, status: int, answer: dict[str, float]) -> None:
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def painter() -> Iterator[str]:
    Painter.asked = 0
    with ThreadingHTTPServer(("127.0.0.1", 0), Painter) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_a_closed_loop_asks_for_everything_once(painter: str) -> None:
    load = closed_loop(painter, [{"seed": seed} for seed in range(20)], 4, seconds=20)
    assert (len(load.latencies_s), load.refused, load.steps, Painter.asked) == (16, 4, 200, 20)
    assert load.rows_per_step == 2.0 and load.percentile_s(50) >= 0.02
    assert closed_loop(painter, [{}] * 1000, 2, seconds=0.1).seconds < 5, "time bounds it as well"


def test_arrivals_do_not_wait_for_each_other_and_count_from_their_time(painter: str) -> None:
    load = arrivals(painter, [{}], 100.0, seconds=0.5, seed=0)
    assert Painter.asked == len(load.latencies_s) + load.refused and 25 < Painter.asked < 80  # 50 expected
    assert min(load.latencies_s) >= 0.02
    again = load + load
    assert again.pictures_per_s == load.pictures_per_s and again.refused == 2 * load.refused


@pytest.mark.slow
def test_the_scripts_write_what_they_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import generate, train_identity

    common = ["--packs", str(tmp_path / "packs"), "--rounds", "1", "--steps", "1", "--batches", "1,2"]
    for script, name in ((train_identity, "packed, B = 2, pool"), (generate, "mixed identities, B = 2")):
        monkeypatch.setattr("sys.argv", ["bench", *common, "--out", str(tmp_path / "result")])
        script.main()
        assert name in (tmp_path / "result.md").read_text()
        assert (tmp_path / "result.json").exists()


def test_a_root_as_it_grows_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import scale
    from factory.store import upkeep

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(upkeep, "INDEX_FROM", 32)
    arguments = ["--sizes", "100", "200", "--width", "4", "--repeats", "8", "--writers"]
    monkeypatch.setattr("sys.argv", ["scale", *arguments, "--out", str(tmp_path / "result.md")])
    scale.main()
    text = (tmp_path / "result.md").read_text()
    monkeypatch.setattr(scale, "fill", lambda *_: pytest.fail("it is measured already"))
    scale.main()
    assert (tmp_path / "result.md").read_text() == text
    assert "| before | 100 | 200 |" in text and "| page of 20 from anywhere |" in text and "| erasure |" in text
    assert not (tmp_path / "out" / "bench" / "scale").exists()


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.timeout(600)
def test_jobs_without_models_make_every_row(tiny_pack: Pack, tmp_path: Path) -> None:
    import ray

    from benchmarks.machinery import measure
    from pipelines.jobs.cluster import connect

    connect()
    try:
        figures = measure(tmp_path / "job", tiny_pack, 50)
    finally:
        ray.shutdown()
    assert list(figures) == ["photos listed", "faces", "identities"]
    assert all(rates["whole"] > 0 and rates["start_s"] > 0 for rates in figures.values())
    assert all(figures[what]["cpu_us driver"] > 0 for what in ("faces", "identities"))


def test_a_steady_rate_is_told_of_rows_that_came_in_turn_alone() -> None:
    from benchmarks.machinery import Clock

    at_once, in_turn = Clock(), Clock()
    at_once.follow(iter([Counter(faces=100)]), "faces")
    in_turn.follow((Counter(faces=10) for _ in range(10)), "faces")
    assert "steady" not in at_once.rates() and in_turn.rates()["steady"] > 0


def test_what_an_overloaded_server_answers_is_told_by_who_asked() -> None:
    seen = Seen()
    later = {"retry-after": "3"}
    for answer in ((200, {}), (429, later), (429, {}), (500, {}), (504, {}), (503, later), None):
        seen.keep("asking", answer)
    assert seen.faults == 2 and seen.without_retry_after == 1 and seen.broken == {"asking": 1}
    look = {"7": {"role": "ingress", "mb": 100.0}}
    result = {
        "hardware": "CPU", "cpus": 2, "load_average_before": 1.0, "rate": 5.0, "rounds": 2, "asked_per_s": 50.0,
        "looks": [*[look] * 5, {"7": {"role": "ingress", "mb": 110.0}}], "growth": {"7": 1.1}, "worst": 1.1,
        "gone": [], "statuses": dict(seen.statuses), "broken": dict(seen.broken), "faults": 2, "without_retry_after": 1,
    }  # fmt: skip
    text = overload_report(result)
    assert "| ingress | 100 | 100 | 100 | 100 | 100 | 110 | 1.100 |" in text and "| asking: 429 | 2 |" in text
