"""The evaluation: its stages by themselves, the page from small tables, and the job and the protocol on a cluster."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import ray

import evaluation
from factory.config import EvaluateConfig, GenerateConfig
from factory.generate import ImageRequest, image_id
from factory.metrics import Interval
from factory.pack import Pack, load_pack
from factory.records import GeneratedImage, Identity, PictureMetrics
from factory.rows import encode_png, face_row, identity_row, image_row
from factory.settings import train_settings
from factory.tables import Store
from pipelines.evaluate import WANTED, Measurer, commit, evaluate, read_person
from studio.charts import picture_grid, sweep_chart, whiskers, word_map
from studio.demo import portrait
from studio.findings import Claim, bars, claims
from studio.protocol import CONTEXTS, FREE, FULL, PAPER, QUICK, celebrities_of, draw_context, people_of
from studio.results_page import BOUNDS, Results, WordFacts, page, to_json
from studio.scores import Scores, by_identity, difference, ratio, scores_of, table_row, verification

PROMPTS, SEEDS, DRAWING = ("a photo of <person>", "<person> in the snow"), (0, 1), GenerateConfig(num_inference_steps=2)
NAN = float("nan")


def filled_store(pack: Pack, root: Path) -> tuple[Store, list[Identity]]:
    """Two people whose pictures are portraits of theirs, as if a base model had drawn them."""
    from factory.prepare import Preparer

    store, preparer, people = Store(root), Preparer(pack), []
    for number in (0, 2):
        face, *_ = preparer.prepare(encode_png(portrait(number)), name=f"person {number}")
        who = Identity(
            identity_id=f"{number:016x}",
            face_id=face.face_id,
            photo_id=face.photo_id,
            name=face.name,
            words=np.zeros((2, 32), np.float32),
            pack=pack.name,
            fingerprint=pack.fingerprint(),
            preset="custom",
            config="{}",
            num_steps=1,
            final_loss=0.0,
            train_s=1.0,
            created_at="2026-11-24T00:00:00+00:00",
        )
        store.upsert("faces", [face_row(face)])
        store.upsert("identities", [identity_row(who)])
        store.upsert("images", [image_row(picture) for picture in drawn(who, number)])
        people.append(who)
    return store, people


def drawn(who: Identity, number: int) -> Iterator[GeneratedImage]:
    for prompt in PROMPTS:
        for seed in SEEDS:
            request = ImageRequest(identity=who, prompt=prompt, seed=seed, config=DRAWING)
            yield GeneratedImage(
                image_id=image_id(request),
                identity_id=who.identity_id,
                name=who.name,
                prompt=prompt,
                seed=seed,
                image=np.roll(portrait(number, again=bool(seed))[::2, ::2], 3 * len(prompt), axis=1),
                config=DRAWING.model_dump_json(),
                created_at="2026-11-24T00:00:00+00:00",
            )


def test_a_persons_pictures_are_read_measured_and_committed(tiny_pack: Pack, tmp_path: Path) -> None:
    store, (first, _) = filled_store(tiny_pack, tmp_path)
    ids = [picture.image_id for picture in drawn(first, 0)]
    wanted = [{"identity_id": first.identity_id, "face_id": first.face_id, "image_ids": ids[::-1]}]
    album = read_person(pa.Table.from_pylist(wanted, WANTED), store, tiny_pack.name)
    assert [picture["image_id"] for picture in album["pictures"][0].as_py()] == ids[::-1]
    rows = Measurer(str(tiny_pack.root), EvaluateConfig(), "protocol", "cpu", 1)(album)
    assert rows["image_id"].to_pylist() == ids[::-1]
    assert commit(rows, store)["num"].to_pylist() == [4]
    stored = store.metrics("protocol")
    assert {metrics.image_id for metrics in stored} == set(ids)
    assert all(metrics.face_sim > 0.5 and metrics.face_div > 0 for metrics in stored)
    assert store.metrics("another protocol") == []


@pytest.mark.cluster
@pytest.mark.timeout(900)  # Ray starts slowly on a busy machine
def test_the_job_measures_everybody_once(tiny_pack: Pack, tmp_path: Path) -> None:
    store, people = filled_store(tiny_pack, tmp_path)

    def job(seeds: tuple[int, ...] = SEEDS, **options: list[str]) -> tuple[int, int]:
        summary = evaluate(
            store.root, tiny_pack.root, prompts=PROMPTS, seeds=seeds, generate=DRAWING, **options  # type: ignore[arg-type]
        )  # fmt: skip
        return summary.metrics, summary.skipped_existing

    with pytest.raises(ValueError, match=r"2 of 6 pictures are not in .*identity-factory generate"):
        job((0, 1, 2), identities=[people[0].identity_id])
    try:
        assert job(identities=[people[0].identity_id]) == (4, 0)
        assert job() == (4, 4)  # the other one
        version = store.open("metrics").version  # type: ignore[union-attr]
        assert job() == (0, 8)
        assert store.open("metrics").version == version  # type: ignore[union-attr]
        assert store.count("metrics") == 8
    finally:
        ray.shutdown()


def test_the_full_protocol_is_what_was_asked_for() -> None:
    assert FULL.num_people >= 16 and len(FULL.contexts) == 10 and len(FULL.seeds) == 3
    assert [alpha for alpha, _ in FULL.sweep] == [0, 0.2, 0.4, 0.6, 0.8, 1]
    assert len(set(FULL.prompts)) == 10
    pack = load_pack("studio")
    configs = {key: train_settings(pack, arm.preset, arm.changes)[1] for key, arm in FULL.arms().items()}
    assert configs["free"].words == "free" and configs["basis"].words == "basis"
    assert configs["clip"].features == "clip" and not configs["no_adain"].adain and not configs["no_mask"].mask
    assert configs["noise"].loss == "noise" and configs["rec"].loss == "reconstruction"
    assert configs["release"].normalise == "joint_affine"
    # alpha 0.6 is the paper's own row unless the pack says otherwise: then it is learned once
    assert (configs["alpha_0.6"] == configs["paper"]) == ("phase_boundary" not in pack.train)
    people, (named, others) = people_of(FULL), celebrities_of(FULL)
    assert len(people) == len(named) == len(others) == FULL.num_people
    assert not set(named) & set(others)
    assert QUICK.num_steps is not None and set(QUICK.prompts) < set(FULL.prompts)


def test_a_real_render_of_a_context_shows_it() -> None:
    person = people_of(QUICK)["held-out 100"]
    plain, glasses = (draw_context(person, CONTEXTS[i], (0, 0, 0), 64) for i in (0, 1))
    assert plain.shape == (64, 64, 3)
    changed = np.abs(plain.astype(int) - glasses).sum(2) > 60
    assert changed[:40].any() and not changed[50:].any()  # at the eyes, not at the chin
    assert np.array_equal(plain, draw_context(person, CONTEXTS[0], (0, 0, 0), 64))


def measured(identity: str, likeness: float, rng: np.random.Generator, own: int, num: int = 6) -> list[PictureMetrics]:
    """Rows whose faces point to axis `own` as much as `likeness` says; the last picture has no face."""
    rows = []
    for seed in range(num):
        embedding = np.zeros(8, np.float32)
        embedding[own], embedding[7] = likeness, np.sqrt(1 - likeness**2)
        lost = seed == num - 1
        rows.append(
            PictureMetrics(
                image_id=f"{identity}-{seed}",
                protocol="p",
                identity_id=identity,
                prompt=PROMPTS[0],
                seed=seed,
                clip_i=0.6,
                clip_t=0.3 + 0.01 * own,
                face_sim=NAN if lost else likeness,
                face_div=NAN if lost else 0.4,
                trusted_div=NAN if lost else 0.4 * likeness,
                face_embedding=np.empty(0, np.float32) if lost else embedding,
                features=rng.standard_normal(4).astype(np.float32) + (1 - likeness),
                created_at="2026-11-24T00:00:00+00:00",
            )
        )
    return rows


def scores(likeness: float, seed: int = 0) -> Scores:
    rng = np.random.default_rng(seed)
    rows = [m for own in range(5) for m in measured(f"{own}", likeness + 0.02 * own, rng, own)]
    return scores_of(list(by_identity(rows).values()), np.eye(8, dtype=np.float32)[:5])


def test_scores_are_means_over_people_and_miss_pictures_without_a_face() -> None:
    learned = scores(0.5)
    assert (learned.num_people, learned.num_pictures) == (5, 30)
    row = table_row(learned, np.random.default_rng(1).standard_normal((40, 4)))
    assert row["face_sim"].value == pytest.approx(0.54)
    assert row["face_sim"].low < 0.54 < row["face_sim"].high and row["face_sim"].num == 5
    assert row["found"].value == row["nearest"].value == pytest.approx(5 / 6)
    assert row["fid"].low < row["fid"].value < row["fid"].high
    assert "fid" not in table_row(learned, None)
    better = difference(scores(0.7), learned, "face_sim")
    assert better.value == better.low == pytest.approx(0.2)  # paired: the people's own differences cancel
    assert ratio(learned, learned, "face_sim").high == 1
    assert verification(learned, np.eye(8, dtype=np.float32)[:5], lambda a, b: float(a.min() > b.max())).value == 1


def results(learned: float = 0.5, without_adain: float = 0.6) -> Results:
    plan = QUICK.model_copy(update={"sweep": FULL.sweep[2:4], "sweep_seeds": (0,)})
    levels = {"paper": learned, "free": 0.3, "no_adain": without_adain, "rec": 0.2}
    levels |= {"celebrity": 0.5, "true_vector": 0.55, "render": 0.6}
    by_key = {key: scores(level) for key, level in levels.items()}
    reference = np.random.default_rng(1).standard_normal((40, 4))
    gallery = np.eye(8, dtype=np.float32)[:5]
    rows = {key: table_row(value, reference) for key, value in by_key.items()}
    words = {key: WordFacts(seconds=2.0, low=-0.1, high=0.1) for key in plan.arms()}
    words["celebrity"] = WordFacts(seconds=NAN, low=-0.05, high=0.2)
    return Results(
        plan=plan,
        config=EvaluateConfig(),
        rows=rows,
        sweep={0.4: rows["paper"], 0.6: rows["free"]},
        words=words,
        bars=bars(by_key, gallery, gallery),
        claims=claims(by_key, {key: arm.paper for key, arm in plan.arms().items()}, reference),
        num_pictures=30,
        num_reference=40,
        feature_width=4,
        steps=dict.fromkeys(plan.arms(), 100),
        outside={"without AdaIN": 3},
        facts={"Command": "identity-factory evaluate", "Date": "2026-11-24"},
        stages={"learn": 12.3},
    )


def test_the_page_tells_what_the_numbers_say() -> None:
    text = page(results())
    for heading in ("Against the bars", "Table 1", "Table 2", "alpha", "Table 3", "claims", "How it was run"):
        assert f"## {heading}" in text or heading in text
    assert "| Textual Inversion |" in text and "*named celebrities*" in text and "61.30" in text
    assert "54.00 [" in text  # Face Sim of the first row, in the paper's unit
    assert "3 of without AdaIN" in text
    assert "found in fewer than 95 %" in text and "StableIdentity, paper 83%" in text
    assert "highest Trusted Div of the rows has: without AdaIN" in text
    for line in text.splitlines():  # a cell more or less breaks a table
        assert not line.startswith("|") or line.endswith("|")
    assert "nan" not in text


def test_verdicts_follow_the_numbers() -> None:
    def verdict(made: Results, b: str, measure: str, a: str = "paper") -> str:
        [found] = [c for c in made.claims if (c.a, c.b, c.measure) == (a, b, measure)]
        return found.verdict

    assert verdict(results(0.5), "free", "face_sim") == "holds"
    assert verdict(results(0.2), "free", "face_sim") == "the opposite"
    assert verdict(results(0.5), "free", "clip_t") == "not shown"  # the same in every row
    assert verdict(results(without_adain=0.6), "paper", "face_sim", a="no_adain") == "holds"
    assert verdict(results(without_adain=0.4), "paper", "face_sim", a="no_adain") == "the opposite"
    nearby = Claim(a="a", b="b", measure="fid", above=False, paper=None, ours=Interval(value=-1, low=-3, high=1, num=5))
    assert nearby.verdict == "not shown"
    reached = {bar.what: bar.verdict for bar in results(0.5).bars}
    assert reached["true vectors / real renders, Face Sim"] == "reached"  # 0.59 / 0.64
    assert reached["learned / true vectors, Face Sim"] == "not reached"
    assert {bar.what: bar.verdict for bar in results(0.6).bars}["learned / true vectors, Face Sim"] == "reached"


def test_results_for_programs() -> None:
    numbers = json.loads(to_json(results()))
    assert numbers["rows"]["paper"]["face_sim"]["value"] == pytest.approx(0.54)
    assert numbers["words"]["celebrity"]["seconds"] is None  # JSON has no NaN
    assert {claim["verdict"] for claim in numbers["claims"]} <= {"holds", "not shown", "the opposite"}
    assert set(numbers["rows"]) == {"paper", "free", "no_adain", "rec", *BOUNDS}


def test_charts_draw_what_they_are_given() -> None:
    def ink(image: np.ndarray) -> float:
        return float((image != image[0, 0]).any(2).mean())

    cell = Interval(value=1.0, low=0.5, high=1.5, num=3)
    missing = replace(cell, value=NAN, low=NAN, high=NAN)
    empty, one, two = (
        np.asarray(whiskers(rows, {"m": "M"}, title="", subtitle=""))[: 150 + 80]
        for rows in ({"": {}, " ": {}}, {"": {"m": cell}, " ": {"m": missing}}, {"": {"m": cell}, " ": {"m": cell}})
    )
    assert ink(empty) < ink(one) < ink(two)
    sweep_chart([0.0, 1.0], {"M": [cell, cell]}, title="t", subtitle="s")
    rng = np.random.default_rng(0)
    names = rng.standard_normal((50, 2, 6))
    near, far = names[:4] * 0.1, names[:3] + 100
    _, outside = word_map(names, {"near": near, "far": far}, title="t", subtitle="s")
    assert outside == {"near": 0, "far": 3}
    red = np.full((8, 8, 3), (255, 0, 0), np.uint8)
    grid = np.asarray(picture_grid({"a": [red, red], "b": [red]}, ["x", "y"], title="t", subtitle="s", cell=32))
    assert int((grid == (255, 0, 0)).all(2).sum()) == 3 * 32 * 32


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.timeout(3000)
def test_the_whole_protocol_on_three_people(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With the studio pack, so that it tests the chain and not the result: two steps of learning, two prompts."""
    update = {"num_people": 3, "contexts": CONTEXTS[:2], "table_1": (PAPER, FREE), "table_2": (), "num_steps": 2}
    plan = QUICK.model_copy(update=update)
    try:
        evaluation.carry_out(plan, tmp_path / "work", tmp_path / "results", "studio")
        written = sorted(file.name for file in (tmp_path / "results").iterdir())
        assert written == ["intervals.png", "methods.png", "people.png", "results.json", "results.md", "words.png"]
        first = json.loads((tmp_path / "results/results.json").read_text())
        assert first["rows"]["render"]["face_sim"]["value"] > 0.5  # real renders: the judge knows them
        people = Store(tmp_path / "work/people")
        counts = {table: people.count(table) for table in ("faces", "identities", "images", "metrics")}
        assert counts == {"faces": 3, "identities": 3 * 4, "images": 3 * 4 * 2, "metrics": 3 * 4 * 2}
        begin = {table: people.open(table).version for table in counts}  # type: ignore[arg-type, union-attr]
        evaluation.carry_out(plan, tmp_path / "work", tmp_path / "results", "studio")
        assert {table: people.open(table).version for table in counts} == begin  # type: ignore[arg-type, union-attr]
        again = json.loads((tmp_path / "results/results.json").read_text())
        assert again["rows"] == first["rows"] and again["stages"] == first["stages"]
    finally:
        ray.shutdown()
