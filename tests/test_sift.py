"""Those who are not good enough: learned again, refused, or told."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

import pipelines.sift
from factory.ids import identity_id, recipe_json
from factory.pack import Pack
from factory.settings import train_settings
from factory.store.erase import erase, find_person
from factory.store.quality import assessed
from factory.store.rows import face_row, identity_row
from factory.store.tables import Store
from factory.store.told import UPLOADED
from pipelines.jobs.job import Summary
from pipelines.sift import sift
from tests import make_people
from tests.make_faces import noise_face
from tests.serving import person
from tests.test_assess import KNOWN


class Job:
    """`sift` with everything that computes taken out: `learned` says of what quality each identity is."""

    def __init__(self, pack: Pack, root: Path, patch: pytest.MonkeyPatch) -> None:
        self.pack = pack.model_copy(update={"quality": KNOWN})
        self.store, self.recipe = Store(root), train_settings(pack)
        self.second = self.recipe.model_copy(update={"train": self.recipe.train.model_copy(update={"seed": 1})})
        self.of: dict[tuple[str, int], float] = {}  # quality by face and seed
        self.trained: list[str] = []
        patch.setattr(pipelines.sift, "load_pack", lambda _: self.pack)
        patch.setattr(pipelines.sift, "assess", self.assess)
        patch.setattr(pipelines.sift, "train", self.train)

    def learn(self, face_id: str, recipe: Any) -> None:
        an_id = identity_id(face_id, recipe, self.pack.learning_fingerprint())
        if an_id in {reject.reject_id for reject in self.store.rejects()}:
            return
        who = replace(
            person(0, face_id[:5], self.pack.fingerprint()), identity_id=an_id, face_id=face_id, photo_id=face_id[:-2],
            pack=self.pack.name, config=recipe_json(recipe),
        )  # fmt: skip
        self.store.upsert("identities", [identity_row(who)])

    def train(self, _root: str, _pack: object, recipes: list[Any], *, only: set[str], **_: Any) -> None:
        self.trained += sorted(only)
        for face_id in only:
            self.learn(face_id, recipes[0])

    def assess(self, _root: str, _pack: object, *, identities: list[str], within: Summary, **_: Any) -> None:
        from factory.measure.quality import assessment_protocol

        protocol = assessment_protocol(self.pack, KNOWN)
        for who in self.store.identities(identities) if identities else []:
            quality = self.of[who.face_id, int(recipe_json(self.second) == who.config)]
            row = replace(make_people.assessed(who, quality), protocol=protocol)
            self.store.upsert("quality", [asdict(row)])

    def run(self, below: Any) -> Summary:
        return sift(self.store.root, self.pack.name, self.recipe, 0.5, below)

    def left(self) -> dict[str, float]:
        rows = assessed(self.store, [who.identity_id for who in self.store.identities()])
        return {who.face_id: round(rows[who.identity_id]["quality"], 2) for who in self.store.identities()}


@pytest.fixture
def job(tiny_pack: Pack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    made = Job(tiny_pack, tmp_path, monkeypatch)
    made.of = {("good-0", 0): 0.9, ("poor-0", 0): 0.2, ("poor-0", 1): 0.7, ("dire-0", 0): 0.3, ("dire-0", 1): 0.1}
    for face_id in ("good-0", "poor-0", "dire-0"):
        made.learn(face_id, made.recipe)
    return made


def test_those_below_are_learned_again_and_the_better_one_stays(job: Job) -> None:
    summary = job.run("again")
    assert job.left() == {"good-0": 0.9, "poor-0": 0.7, "dire-0": 0.3} and summary.relearned == 1
    assert summary.verdicts == {"good": 3} and summary.below == 1, "of those who stay"
    assert job.trained == ["dire-0", "poor-0"]
    rejects = {reject.photo_id: reject for reject in job.store.rejects()}
    assert {reject.reason for reject in rejects.values()} == {"low_quality"} and rejects.keys() == {"poor", "dire"}
    assert "quality 0.20; another seed gave 0.70" in rejects["poor"].detail
    assert job.run("again").relearned == 0 and job.left() == {"good-0": 0.9, "poor-0": 0.7, "dire-0": 0.3}
    assert len(job.store.rejects()) == 2, "the same again does nothing twice"


def test_those_below_are_refused_or_only_told(job: Job) -> None:
    assert job.run("keep").below == 2
    assert len(job.left()) == 3 and not job.store.rejects()
    summary = job.run("reject")
    assert job.left() == {"good-0": 0.9} and summary.rejected_faces == {"low_quality": 2}
    assert summary.below == 0 and sum(summary.verdicts.values()) == 1
    told = [("0.5 is the least" in reject.detail, reject.stage) for reject in job.store.rejects()]
    assert told == [(True, "train")] * 2
    assert job.run("reject").rejected_faces == {} and not job.trained


def test_whoever_uploaded_keeps_their_person(job: Job) -> None:
    uploaded = replace(noise_face(0, job.pack), face_id="poor-0", photo_id="poor", pack=job.pack.name)
    job.store.upsert("faces", [face_row(uploaded) | {"uri": UPLOADED}])
    job.run("reject")
    assert job.left() == {"good-0": 0.9, "poor-0": 0.2}
    job.run("again")
    assert not job.trained, "as jobs learn no uploads"


def test_whoever_was_given_up_is_erased_like_anybody(job: Job) -> None:
    job.run("reject")
    done = erase(job.store, find_person(job.store, photo_id="poor"), waits_s=())
    assert not done.found and {reject.photo_id for reject in job.store.rejects()} == {"dire"}
