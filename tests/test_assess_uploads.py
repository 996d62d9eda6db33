"""Whoever was learned from an upload is assessed by the endpoint, in the words of the job."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from factory.config import AssessConfig
from factory.draw.images import ImageGenerator
from factory.measure.quality import Scorer, assessment_protocol, probes
from factory.pack import Pack
from factory.records import Identity
from factory.scores import IdentityQuality
from factory.settings import assess_settings
from factory.store.tables import Store
from serve.client import GeneratorDown
from serve.drawing import Drawer
from tests import uploading
from tests.make_faces import noise_face
from tests.make_people import assessed
from tests.serving import person
from tests.uploading import BLURRED, FakeLearner, finished, serving, upload

store, learner = uploading.store, uploading.learner  # fixtures


def assessment(http: TestClient) -> dict[str, Any]:
    """The only one, which comes with the end of a learning."""
    (work,) = http.get("/v1/work?kind=assessment").json()["data"]
    return dict(work)


def test_whoever_was_learned_from_an_upload_is_assessed(store: Store, tiny_pack: Pack, learner: FakeLearner) -> None:
    asked: list[tuple[str, tuple[int, ...], float | None]] = []

    async def assess(who: Identity, crop: np.ndarray, photo: float | None) -> IdentityQuality:
        asked.append((who.name, crop.shape, photo))
        return assessed(who)

    learner.go.set()
    with serving(store, tiny_pack, learner, assess=assess) as http:
        made = finished(http, upload(http, name="Zoe").json())
        over = finished(http, assessment(http))
        assert over["status"] == "completed" and over["result_id"] == made["result_id"]
        assert http.get("/v1/identities/Zoe").json()["quality"]["verdict"] == "good"
        assert upload(http).json()["quality"]["verdict"] == "good", "who is known is told with it"
        assert len(http.get("/v1/work?kind=assessment").json()["data"]) == 1
    side = tiny_pack.resolution
    assert asked == [("Zoe", (side, side, 3), BLURRED.score)]


def test_an_assessment_that_fails_leaves_the_person(store: Store, tiny_pack: Pack, learner: FakeLearner) -> None:
    async def assess(*_: Any) -> IdentityQuality:
        raise GeneratorDown("no generator is available just now; try again")

    learner.go.set()
    with serving(store, tiny_pack, learner, assess=assess) as http:
        finished(http, upload(http, name="Zoe").json())
        assert finished(http, assessment(http))["error"]["code"] == "generator_unavailable"
        assert http.get("/v1/identities/Zoe").json()["quality"] is None


def test_whoever_is_erased_is_not_assessed(store: Store, tiny_pack: Pack, learner: FakeLearner) -> None:
    async def assess(who: Identity, *_: Any) -> IdentityQuality:
        return assessed(who)

    learner.go.set()
    with serving(store, tiny_pack, learner, assess=assess, assess_after_s=60.0) as http:
        finished(http, upload(http, name="Zoe").json())
        work = assessment(http)
        assert http.delete("/v1/identities/Zoe").json()["deleted"]
        assert http.get(f"/v1/work/{work['id']}").status_code == 404 and store.count("quality") == 0


def test_the_drawer_says_what_the_job_says(tiny_pack: Pack) -> None:
    quality = AssessConfig(num_seeds=1, num_inference_steps=2, good_likeness=0.5, good_alignment=0.1)
    pack = tiny_pack.model_copy(update={"quality": quality})
    who, crop = person(1, "ada", pack.fingerprint()), noise_face(1, pack).crop
    drawer = Drawer(str(pack.root), device="cpu", num_threads=1, max_batch=4)
    drawer._pack = pack
    told = asyncio.run(drawer.assess(who, crop, 0.4))
    config = assess_settings(pack)
    drawn = ImageGenerator(pack).generate(probes(who, pack, config))
    job = Scorer(pack).assess(who.identity_id, drawn, crop, config, assessment_protocol(pack, config), 0.4)
    assert replace(told, likeness=0.0, text_alignment=0.0, quality=0.0, created_at="") == replace(
        job, likeness=0.0, text_alignment=0.0, quality=0.0, created_at=""
    )
    assert told.text_alignment == pytest.approx(job.text_alignment, abs=1e-2)
    assert told.likeness == pytest.approx(job.likeness, abs=0.05) and told.num_pictures == len(config.prompts)
