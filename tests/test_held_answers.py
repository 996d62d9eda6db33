"""GET /v1/work/{id}?wait=: an answer that is held back until the work is over."""

import threading
import time

import pytest
from fastapi.testclient import TestClient

import serve.openai.work
from tests import uploading
from tests.serving import error_of
from tests.uploading import FakeLearner, upload

store, learner, http = uploading.store, uploading.learner, uploading.http  # fixtures


def test_it_comes_when_the_work_is_over(http: TestClient, learner: FakeLearner) -> None:
    work = upload(http).json()
    timer = threading.Timer(0.3, learner.go.set)
    timer.start()
    over = http.get(f"/v1/work/{work['id']}?wait=30").json()
    timer.join()
    assert over["status"] == "completed" and over["result_id"] == work["identities"][0]
    assert http.get(f"/v1/work/{work['id']}?wait=30").json() == over, "at once: nothing is under way"


def test_it_comes_after_its_time_as_things_stand(http: TestClient) -> None:
    work = upload(http).json()
    began = time.monotonic()
    answer = http.get(f"/v1/work/{work['id']}?wait=0.4")
    assert time.monotonic() - began >= 0.4 and answer.json()["status"] in ("queued", "in_progress")
    assert answer.headers["openai-poll-after-ms"]


def test_it_comes_when_somebody_takes_the_work_back_or_is_erased(http: TestClient) -> None:
    work = upload(http).json()
    timer = threading.Timer(0.3, lambda: http.post(f"/v1/work/{work['id']}/cancel"))
    timer.start()
    assert http.get(f"/v1/work/{work['id']}?wait=30").json()["status"] == "cancelled"
    timer.join()
    assert http.get("/v1/work/identity_none?wait=30").status_code == 404


def test_no_more_are_held_than_an_ingress_has_room_for(http: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve.openai.work, "MOST_HELD", 0)
    work = upload(http).json()
    began = time.monotonic()
    assert http.get(f"/v1/work/{work['id']}?wait=60").json()["status"] in ("queued", "in_progress")
    assert time.monotonic() - began < 30, "at once"


@pytest.mark.parametrize("wait", ["-1", "61", "nan", "inf", "long"])
def test_nonsense_is_refused(http: TestClient, wait: str) -> None:
    work = upload(http).json()
    answer = http.get(f"/v1/work/{work['id']}?wait={wait}")
    assert answer.status_code == 422 and "wait" in error_of(answer)["message"]
