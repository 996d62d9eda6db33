"""Poses and several people over HTTP: what reaches the engine, and what is refused by its field."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from factory.faces.pose import HeadPose, draw_skeleton
from factory.pack import Pack
from factory.parts import ControlPart
from factory.store.rows import encode_png
from tests.serving import FakeGenerator, ask, client_of, error_of, people_store

SKELETON = draw_skeleton([HeadPose(yaw=10)], 64, 64)


@pytest.fixture
def fake() -> FakeGenerator:
    return FakeGenerator()


@pytest.fixture
def http(tmp_path: Path, tiny_pack: Pack, fake: FakeGenerator) -> TestClient:
    poses = {"left": {"yaw": -30.0}, "front": {}}
    control = ControlPart(path="control/pose", licence="none", conditioning="head_pose", poses=poses)
    pack = tiny_pack.model_copy(update={"control": {"pose": control}})
    return client_of(people_store(tmp_path, tiny_pack), pack, fake)


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


def test_a_named_pose_reaches_the_engine_as_a_skeleton(http: TestClient, fake: FakeGenerator) -> None:
    pose = {"name": "left", "scale": 0.5, "end": 0.8}
    assert ask(http, pose=pose, n=2, seed=4).status_code == 200
    assert [job.seed for job in fake.jobs] == [4, 5]
    control = fake.jobs[0].pose
    assert control is not None and (control.scale, control.start, control.end) == (0.5, 0.0, 0.8)
    np.testing.assert_array_equal(control.skeleton, draw_skeleton([HeadPose(yaw=-30)], 64, 64))


def test_two_people_by_their_names(http: TestClient, fake: FakeGenerator) -> None:
    answer = ask(http, prompt="<person> and <person:bob> at sea").json()
    assert answer["drawn_size"] == answer["size"] == "128x64"
    (job,) = fake.jobs
    assert [(r.identity.name, r.prompt, r.box[0]) for r in job.regions] == [
        ("ada", "<person> at sea", 0.0),
        ("bob", "<person> at sea", 0.5),
    ]
    assert job.pose is not None, "a head for each, where nobody asks for a pose"


def test_places_are_given_by_name_and_the_model_may_be_left_out(http: TestClient, fake: FakeGenerator) -> None:
    regions = [{"person": "bob", "box": [0, 0, 0.5, 1]}, {"person": "ada", "box": [0.5, 0, 1, 1]}]
    assert ask(http, model=None, prompt="<person:ada> and <person:bob>", regions=regions).status_code == 200
    assert ask(http, prompt="at sea", regions=regions).status_code == 200
    # who is `model` may be named as the others are, by name or id: that is one person and not two
    assert ask(http, prompt="<person:ada> and <Person:bob>", regions=regions).status_code == 200
    by_id = [{**regions[0], "person": f"{2:016x}"}, {**regions[1], "person": f"{1:016x}"}]
    assert ask(http, prompt="<person> and <person:bob>", regions=by_id).status_code == 200
    drawn = [[(region.identity.name, region.box[0]) for region in job.regions] for job in fake.jobs]
    assert drawn == [[("ada", 0.5), ("bob", 0.0)]] * 4


@pytest.mark.parametrize(
    ("fields", "status", "param", "message"),
    [
        ({"pose": {"name": "lefft"}}, 422, "pose", "no pose 'lefft'; there are left"),
        ({"pose": {"name": "left", "photo": "x"}}, 422, "pose", "give one of name, photo and skeleton"),
        ({"pose": {"skeleton": "???"}}, 422, "pose", "no base64"),
        ({"pose": {"name": "left", "scale": 9}}, 422, "pose", "less than or equal to 2"),
        ({"pose": [{"name": "left"}] * 2}, 422, "pose", "2 poses for 1 people"),
        ({"pose": {"name": "left", "start": 0.8, "end": 0.2}}, 422, "pose", "start comes before end"),
        ({"pose": [{"name": "left"}, {"name": "left", "scale": 0.5}]}, 422, "pose", "alike in every pose"),
        ({"regions": [{"person": "ada"}, {"person": f"{1:016x}"}]}, 422, "regions", "has two boxes"),
        ({"prompt": "<person:nobody>"}, 404, "model", "no identity 'nobody'"),
        ({"prompt": "<person:cleo>"}, 409, "model", "cleo"),
        ({"regions": [{"person": "bob", "box": [0.5, 0, 1.5, 1]}]}, 422, "regions", "a box is x0, y0, x1, y1"),
        ({"regions": [{"person": "bob", "box": [0, 0, 1]}]}, 422, "regions", "Field required"),
        ({"regions": [{"person": "nobody"}]}, 404, "model", "nobody"),
        ({"model": None, "prompt": "at sea"}, 422, "model", "name an identity"),
    ],
)
def test_what_cannot_be_is_refused_by_its_field(
    http: TestClient, fake: FakeGenerator, fields: dict[str, Any], status: int, param: str, message: str
) -> None:
    response = ask(http, **fields)
    assert response.status_code == status and not fake.jobs
    error = error_of(response)
    assert (error["param"] or "").partition(".")[0] == param and message in error["message"]


def test_pictures_of_poses_are_read_apart(http: TestClient, fake: FakeGenerator, tiny_pack: Pack) -> None:
    """A skeleton as it is; one of another size, a photo without a face, and no picture at all are told."""
    assert ask(http, pose={"skeleton": base64_of(encode_png(SKELETON))}).status_code == 200
    assert fake.jobs[0].pose is not None
    np.testing.assert_array_equal(fake.jobs[0].pose.skeleton, SKELETON)
    in_lines = base64.encodebytes(encode_png(SKELETON)).decode().replace("+", "-").replace("/", "_").rstrip("=\n")
    assert ask(http, pose={"skeleton": in_lines}).status_code == 200 and fake.jobs[1].pose is not None
    np.testing.assert_array_equal(fake.jobs[1].pose.skeleton, SKELETON)
    other = encode_png(np.zeros((32, 64, 3), np.uint8))
    for pose, message in (
        ({"skeleton": base64_of(other)}, "the skeleton has 64x32 px, the picture 64x64"),
        ({"photo": base64_of(encode_png(np.zeros((128, 128, 3), np.uint8)))}, "no_face"),
        ({"photo": "data:image/png;base64," + base64_of(b"text")}, "not_an_image"),
    ):
        response = ask(http, pose=pose)
        assert response.status_code == 422 and message in error_of(response)["message"]
