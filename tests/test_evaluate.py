"""The evaluation: its stages by themselves, and the job and the protocol on a cluster."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import ray

from factory.config import EvaluateConfig, GenerateConfig
from factory.errors import PackError
from factory.ids import image_id
from factory.pack import Pack, load_pack
from factory.records import TEXT_ENCODER, GeneratedImage, Identity, ImageRequest
from factory.settings import train_settings
from factory.store.rows import encode_png, face_row, identity_row, image_row
from factory.store.tables import Store
from pipelines.evaluate import WANTED, Measurer, commit, evaluate, read_person
from studio.demo.people import portrait
from studio.results import evaluation
from studio.results.protocol import CONTEXTS, FREE, FULL, PAPER, QUICK, celebrities_of, draw_context, people_of
from studio.results.ready import check

PROMPTS, SEEDS, DRAWING = ("a photo of <person>", "<person> in the snow"), (0, 1), GenerateConfig(num_inference_steps=2)


def filled_store(pack: Pack, root: Path) -> tuple[Store, list[Identity]]:
    """Two people whose pictures are portraits of theirs, as if a base model had drawn them."""
    from factory.faces.prepare import Preparer

    store, preparer, people = Store(root), Preparer(pack), []
    for number in (0, 2):
        face, *_ = preparer.prepare(encode_png(portrait(number)), name=f"person {number}")
        who = Identity(
            identity_id=f"{number:016x}",
            face_id=face.face_id,
            photo_id=face.photo_id,
            name=face.name,
            words={TEXT_ENCODER: np.zeros((2, 32), np.float32)},
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
        store.upsert("images", [image_row(picture) for picture in drawn(who, number, pack)])
        people.append(who)
    return store, people


def drawn(who: Identity, number: int, pack: Pack) -> Iterator[GeneratedImage]:
    for prompt in PROMPTS:
        for seed in SEEDS:
            request = ImageRequest(identity=who, prompt=prompt, seed=seed, config=DRAWING)
            yield GeneratedImage(
                image_id=image_id(request, pack.model_fingerprint()),
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
    ids = [picture.image_id for picture in drawn(first, 0, tiny_pack)]
    erased = {"face_id": "nobody", "pack": tiny_pack.name, "image_ids": []}
    wanted = [{"face_id": first.face_id, "pack": first.pack, "image_ids": ids[::-1]}, erased]
    album = read_person(pa.Table.from_pylist(wanted, WANTED), store)
    assert album.num_rows == 1
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
    configs = {key: train_settings(pack, arm.preset, arm.changes).method for key, arm in FULL.arms().items()}
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


def test_what_a_pack_lacks_is_said_in_one_line_before_anything_is_learned(tiny_pack: Pack, tmp_path: Path) -> None:
    """`tiny` has everything but the map to true words; sd21 has none of its weights here, and wants others beside."""
    with pytest.raises(PackError, match=r"cannot be evaluated: no identity_map.safetensors[^;]*$"):
        evaluation.run(tmp_path / "work", quick=True, pack=str(tiny_pack.root))
    with pytest.raises(PackError) as caught:
        evaluation.run(tmp_path / "work", quick=True, pack="sd21")
    said = str(caught.value)
    for part in ("identity_map", "files of base, fr_vit", "packs verify sd21", "LPIPS", "Inception"):
        assert part in said
    assert "\n" not in said and not (tmp_path / "work").exists()
    check(load_pack("studio"))


def test_a_real_render_of_a_context_shows_it() -> None:
    person = people_of(QUICK)["held-out 100"]
    plain, glasses = (draw_context(person, CONTEXTS[i], (0, 0, 0), 64) for i in (0, 1))
    assert plain.shape == (64, 64, 3)
    changed = np.abs(plain.astype(int) - glasses).sum(2) > 60
    assert changed[:40].any() and not changed[50:].any()  # at the eyes, not at the chin
    assert np.array_equal(plain, draw_context(person, CONTEXTS[0], (0, 0, 0), 64))


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
        assert written == [
            "ablations.png",
            "intervals.png",
            "methods.webp",
            "people.webp",
            "results.json",
            "results.md",
            "scenes.webp",
            "words.png",
        ]
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
