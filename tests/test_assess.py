"""How good identities are, what becomes of those that are not, and the best of several pictures."""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from starlette.testclient import TestClient
from typer.testing import CliRunner

from cli.__main__ import app
from factory.config import AssessConfig
from factory.errors import PackError
from factory.measure.quality import Scorer, best, check_measures, overall, probes, text_alignment, verdict
from factory.pack import Pack
from factory.records import Identity
from factory.settings import assess_settings, train_settings
from factory.store.rows import encode_png, face_row, identity_row
from factory.store.tables import Store
from pipelines.assess import WANTED, Assessor
from pipelines.generate import ImageMaker, _chosen, _requests, generate
from pipelines.sift import sift
from studio.demo.people import portrait as rendered
from tests import make_people, serving
from tests.make_faces import noise_face
from tests.serving import FakeGenerator, ask, error_of, person

store, fake, http = serving.store, serving.fake, serving.http  # fixtures
portrait = cache(rendered)
CONFIG = AssessConfig(prompts=("a photo of <person>", "<person> in the snow"), num_seeds=2, num_inference_steps=1)
KNOWN = CONFIG.model_copy(update={"good_likeness": 0.5, "good_alignment": 0.1})


def test_who_draws_the_same_whatever_is_asked_follows_no_text() -> None:
    own = np.array([0, 0, 1, 1, 2, 2])
    same = np.tile([0.3, 0.1, 0.2], (6, 1))
    assert text_alignment(same, own) == pytest.approx(0)
    followed = same + 0.12 * np.eye(3)[own]
    assert text_alignment(followed, own) == pytest.approx(0.12)
    assert text_alignment(followed + 0.5, own) == pytest.approx(0.12), "no constant of a CLIP is in it"


@pytest.mark.parametrize(
    ("likeness", "alignment", "photo", "quality", "called"),
    [(0.5, 0.1, None, 1.0, "good"), (0.9, 0.2, 0.6, 1.0, "good"), (0.3, 0.1, 1.0, 0.6, "weak"),
     (0.5, 0.02, 1.0, 0.2, "failed"), (-0.2, 0.1, None, 0.0, "failed"), (0.5, 0.1, 0.15, 0.3, "failed")],
)  # fmt: skip
def test_quality_is_the_worst_of_likeness_text_and_photo(
    likeness: float, alignment: float, photo: float | None, quality: float, called: str
) -> None:
    found = overall(likeness, alignment, photo, KNOWN)
    assert found == pytest.approx(quality) and verdict(found, KNOWN) == called
    assert overall(likeness, alignment, photo, CONFIG) is None and verdict(None, CONFIG) is None


def test_the_best_picture_is_the_nearest_of_those_that_follow_the_text() -> None:
    assert best(np.array([0.2, 0.9, 0.5]), np.array([0.30, 0.10, 0.30])) == 2, "the nearest one ignores the text"
    assert best(np.array([0.2, 0.9]), np.array([0.30, 0.10])) == 1, "of two, both are at the lower median"
    assert best(np.array([np.nan, -0.3]), np.array([0.3, 0.2])) == 1
    assert best(np.array([np.nan, np.nan]), np.array([0.2, 0.3])) == 1


@pytest.fixture(scope="module")
def scorer(tiny_pack: Pack) -> Scorer:
    return Scorer(tiny_pack)


def test_the_own_photo_is_nearer_than_anothers(scorer: Scorer) -> None:
    pictures = [portrait(0, again=True), portrait(0), np.zeros((64, 64, 3), np.uint8)]
    own, others = (scorer.likeness(pictures, portrait(number)) for number in (0, 2))
    assert own[0] > others[0] and own[1] > 0.99 and np.isnan(own[2])
    of = [*pictures, pictures[2]]
    found = scorer.assess("a" * 16, of, portrait(0), KNOWN, "p")
    assert (found.num_pictures, found.num_faces) == (4, 2)
    assert found.likeness == pytest.approx(own[:2].sum() / 4), "a picture without a face counts 0"
    assert scorer.choose(pictures[:2], None, "x", "a person")[1] != 0.0


class Drawing:
    """Stands for ImageGenerator: portraits of person 0, whoever is asked for."""

    def __init__(self, pack: Pack) -> None:
        self.base = SimpleNamespace(pack=pack)
        self.asked: list[Any] = []

    def generate(self, requests: list[Any], **_: Any) -> list[np.ndarray]:
        self.asked += requests
        return [portrait(0, again=bool(request.seed % 2)) for request in requests]


QUIET = SimpleNamespace(step=lambda *_: None, finished=lambda: None)


def assessor(pack: Pack, scorer: Scorer, store: Store) -> Assessor:
    made = Assessor.__new__(Assessor)
    made.generator, made.scorer, made.store = Drawing(pack), scorer, store  # type: ignore[assignment]
    made.config, made.protocol, made.reporter = KNOWN, "p", QUIET  # type: ignore[assignment]
    return made


def people_of(pack: Pack, store: Store, *numbers: int, config: str = "{}") -> list[Identity]:
    """Identities with a face, whose crop is a portrait."""
    people = []
    for number in numbers:
        who = replace(person(number, f"person {number}", pack.fingerprint()), config=config, pack=pack.name)
        face = replace(noise_face(number, pack), face_id=who.face_id, photo_id=who.photo_id, crop=portrait(number))
        store.upsert("faces", [face_row(face)])
        people.append(who)
    store.upsert("identities", [identity_row(who) for who in people])
    return people


def test_an_identity_is_measured_by_its_own_probe_pictures(tiny_pack: Pack, scorer: Scorer, tmp_path: Path) -> None:
    store = Store(tmp_path)
    own, other = people_of(tiny_pack, store, 0, 2)
    faceless = person(9, "nine", tiny_pack.fingerprint())
    store.upsert("identities", [identity_row(faceless)])
    worker = assessor(tiny_pack, scorer, store)
    ids = [own.identity_id, other.identity_id, faceless.identity_id, "nobody"]
    rows = {row["identity_id"]: row for row in worker(pa.table({"identity_id": ids}, WANTED)).to_pylist()}
    assert rows.keys() == {own.identity_id, other.identity_id}, "the face of one is gone, and one was erased"
    assert rows[own.identity_id]["likeness"] > rows[other.identity_id]["likeness"] + 0.1
    assert abs(rows[own.identity_id]["text_alignment"]) < 0.01, "portraits follow no text"
    asked = worker.generator.asked  # type: ignore[attr-defined]
    assert [request.config.num_inference_steps for request in asked] == [1] * 8
    expected = [(who.name, one.prompt, one.seed) for who in (own, other) for one in probes(who, tiny_pack, KNOWN)]
    assert sorted((one.identity.name, one.prompt, one.seed) for one in asked) == sorted(expected)


def test_a_pack_must_say_what_good_ones_reach_before_any_is_refused(tiny_pack: Pack, tmp_path: Path) -> None:
    with pytest.raises(PackError, match="good_likeness"):
        sift(str(tmp_path), tiny_pack.root, train_settings(tiny_pack), 0.5)
    check_measures(tiny_pack.model_copy(update={"quality": KNOWN}))


def best_of_rows(pack: Pack, store: Store, num: int) -> list[dict[str, Any]]:
    asked = [("<person> at sea", 1, "")]
    return list(_requests([store.find_identity("person 0")], asked, pack_config(pack), pack, store, {"": ()}, num))


def pack_config(pack: Pack) -> Any:
    from factory.settings import generate_settings

    return generate_settings(pack)


def test_a_job_keeps_the_best_of_several_seeds(tiny_pack: Pack, scorer: Scorer, tmp_path: Path) -> None:
    from pipelines.generate import REQUEST, commit

    store = Store(tmp_path)
    people_of(tiny_pack, store, 0)
    [row] = best_of_rows(tiny_pack, store, 4)
    assert row["best_of"] == [4, 5, 6, 7] and len(set(row["candidates"])) == 4
    [alone] = list(
        _requests([store.find_identity("person 0")], [("<person> at sea", 6, "")], pack_config(tiny_pack), tiny_pack,
                  store, {"": ()})
    )  # fmt: skip
    assert alone["image_id"] == row["candidates"][2], "what is kept is the picture that its seed alone gives"
    worker = ImageMaker.__new__(ImageMaker)
    worker.generator, worker.store, worker.reporter = Drawing(tiny_pack), store, QUIET  # type: ignore[assignment]
    worker.config, worker.poses = pack_config(tiny_pack), {"": ()}
    worker.__dict__["_scorer"] = scorer
    kept = worker(pa.Table.from_pylist([row], REQUEST))
    [made] = kept.to_pylist()
    assert made["seed"] in (4, 6) and made["likeness"] > 0.99, "odd seeds are the portrait's other pose"
    assert made["image_id"] == row["candidates"][made["seed"] - 4] and made["image"] == encode_png(portrait(0))
    assert -1 <= made["clip_t"] <= 1 and made["best_of"] == [4, 5, 6, 7]
    assert _chosen(store, [row]) == {}
    commit(kept, store)
    assert _chosen(store, [row]) == {row["image_id"]: {"image_id": made["image_id"], "seed": made["seed"]}}
    assert _chosen(store, best_of_rows(tiny_pack, store, 5)) == {}, "among other seeds another may be the best"


def test_two_people_in_one_picture_have_no_best_one(tiny_pack: Pack, tmp_path: Path) -> None:
    store = Store(tmp_path)
    people = people_of(tiny_pack, store, 0, 2)
    with pytest.raises(ValueError, match="--best-of looks at one person"):
        generate(
            store.root, tiny_pack.root, prompts=["<person> and <person:person 2>"], best_of=2,
            identities=[people[0].identity_id],
        )  # fmt: skip


def test_the_endpoint_sends_the_best_of_several(http: TestClient, fake: FakeGenerator) -> None:
    answer = ask(http, n=2, best_of=3, seed=10)
    assert answer.status_code == 200 and [job.seed for job in fake.jobs] == [10, 11, 12, 13, 14, 15]
    assert [one["seed"] for one in answer.json()["data"]] == [11, 14]
    assert all(one["clip_t"] == 0.25 and "likeness" not in one for one in answer.json()["data"]), "no face is kept"
    assert fake.compared == [(3, "<person> in the snow")] * 2
    assert "likeness" not in ask(http).json()["data"][0] and len(fake.compared) == 2


@pytest.mark.parametrize(
    "fields",
    [{"best_of": 11}, {"best_of": 0}, {"best_of": 2, "stream": True}, {"best_of": 10, "n": 4},
     {"best_of": 2, "prompt": "<person> and <person:bob>"}],
)  # fmt: skip
def test_what_cannot_be_compared_is_refused(http: TestClient, fields: dict[str, Any]) -> None:
    answer = ask(http, **fields)
    assert answer.status_code == 422 and error_of(answer)["param"] == "best_of"


def test_the_endpoint_tells_how_good_somebody_is(http: TestClient, store: Store) -> None:
    ada = store.find_identity("ada")
    assert http.get("/v1/identities/ada").json()["quality"] is None
    store.upsert("quality", [asdict(make_people.assessed(ada))])
    told = http.get("/v1/identities/ada").json()["quality"]
    assert told == {
        "verdict": "good", "quality": 0.8, "likeness": 0.5, "text_alignment": 0.1, "num_pictures": 8, "num_faces": 8,
    }  # fmt: skip
    listed = CliRunner().invoke(app, ["identities", "list", "--root", store.root], terminal_width=300).output
    assert "verdict" in listed and "good" in listed


def test_settings_of_an_assessment_are_the_packs_until_changed(tiny_pack: Pack) -> None:
    pack = tiny_pack.model_copy(update={"quality": KNOWN})
    assert assess_settings(pack) == KNOWN
    assert assess_settings(pack, {"num_seeds": "3"}).num_seeds == 3
    with pytest.raises(ValueError, match="no setting x"):
        assess_settings(pack, {"x": 1})
