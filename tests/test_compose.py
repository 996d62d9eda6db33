"""What is asked for becomes a request: who is named, what is said of whom, where they are and how they hold heads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from factory.config import GenerateConfig
from factory.draw.compose import Box, compose, drawn_size
from factory.errors import IdentityNotFound
from factory.faces.pose import HeadPose, draw_skeleton
from factory.pack import Pack
from factory.parts import ControlPart
from factory.prompts import people_in, texts_by_person
from factory.records import Identity, ImageRequest
from tests.serving import person

ADA, BOB, CLEO = (person(n, name, "f") for n, name in enumerate(("ada", "bob", "cleo"), start=1))
CONFIG = GenerateConfig()


def find(name: str) -> Identity:
    people = {"bob": BOB, "cleo": CLEO, BOB.identity_id: BOB}
    if name not in people:
        raise IdentityNotFound(name)
    return people[name]


@pytest.fixture
def pack(tiny_pack: Pack) -> Pack:
    control = ControlPart(path="control/pose", licence="none", conditioning="head_pose")
    return tiny_pack.model_copy(update={"control": {"pose": control}})


def ask(prompt: str, pack: Pack, **more: Any) -> ImageRequest:
    return compose(prompt, 1, CONFIG, **({"own": ADA, "find": find} | more), pack=pack)


@pytest.mark.parametrize(
    ("prompt", "people"),
    [
        ("in the snow", [None]),
        ("a photo of <person>, <person> again", [None]),
        ("<person:bob> in the snow", ["bob"]),
        ("<person> with <person: bob > and <person:Zoë Müller>", [None, "bob", "Zoë Müller"]),
        ("<persons>", [None]),
        ("a photo of <Person> with < person : Bob>", [None, "Bob"]),
        ("<person:> and <person: >", [""]),
    ],
)
def test_who_a_prompt_names(prompt: str, people: list[str | None]) -> None:
    assert people_in(prompt) == people


@pytest.mark.parametrize(
    ("prompt", "texts"),
    [
        ("in the snow", {None: "<person> in the snow"}),
        ("a photo of <person> and <person:bob>", {None: "a photo of <person>", "bob": "a photo of <person>"}),
        (
            "a photo of <person> in a red hat, and <person:bob> on the beach",
            {None: "a photo of <person> in a red hat on the beach", "bob": "a photo of <person> on the beach"},
        ),
        (
            "<person:a>, <person:b> next to <person:c> at sea",
            {"a": "<person> at sea", "b": "<person> at sea", "c": "<person> at sea"},
        ),
        (
            "<person:sand> with <person> with a hat and a band",  # words that end in a joint are not cut
            {"sand": "<person> with a hat and a band", None: "<person> with a hat and a band"},
        ),
        ("a sand <person> of land and <person:b>", {None: "a sand <person> of land", "b": "a sand <person>"}),
    ],
)
def test_what_is_said_of_whom(prompt: str, texts: dict[str | None, str]) -> None:
    assert texts_by_person(prompt) == texts


def test_one_person_is_drawn_as_ever(pack: Pack) -> None:
    plain = ask("in the snow", pack)
    assert (plain.identity, plain.prompt, plain.regions, plain.pose) == (ADA, "<person> in the snow", (), None)
    assert plain.config == CONFIG
    twice = "<person> looks at <person>, a portrait of <person>"
    assert ask(twice, pack).prompt == ask(twice.replace("person>", "person:bob>"), pack, own=None).prompt == twice
    other = ask("<person:bob> in the snow", pack, own=None)
    assert (other.identity, other.prompt) == (BOB, "<person> in the snow")
    with pytest.raises(ValueError, match="stands for nobody"):
        ask("in the snow", pack, own=None)


def test_two_people_stand_side_by_side_with_a_head_each(pack: Pack) -> None:
    both = ask("<person> and <person:bob> on the beach", pack)
    assert [(region.identity, region.prompt, region.box) for region in both.regions] == [
        (ADA, "<person> on the beach", (0.0, 0.0, 0.5, 1.0)),
        (BOB, "<person> on the beach", (0.5, 0.0, 1.0, 1.0)),
    ]
    assert (both.config.width_px, both.config.height_px) == (128, 64)
    assert both.pose is not None
    expected = draw_skeleton([HeadPose(dx=-0.5), HeadPose(dx=0.5)], 128, 64)
    np.testing.assert_array_equal(both.pose.skeleton, expected)
    without = ask("<person> and <person:bob>", pack.model_copy(update={"control": {}}))
    assert without.pose is None and len(without.regions) == 2


def test_places_and_poses_are_taken_as_given(pack: Pack) -> None:
    boxes: dict[str | None, Box] = {None: (0.5, 0.0, 1.0, 1.0), "bob": (0.0, 0.0, 0.5, 1.0)}
    poses = [HeadPose(yaw=20), HeadPose(roll=-10)]
    both = ask("<person> and <person:bob>", pack, boxes=boxes, poses=poses, pose_scale=0.5, pose_range=(0.1, 0.8))
    assert [region.box for region in both.regions] == [boxes[None], boxes["bob"]]
    assert both.pose is not None and (both.pose.scale, both.pose.start, both.pose.end) == (0.5, 0.1, 0.8)
    expected = draw_skeleton([HeadPose(yaw=20, dx=0.5), HeadPose(roll=-10, dx=-0.5)], 128, 64)
    np.testing.assert_array_equal(both.pose.skeleton, expected)
    by_box = ask("a party", pack, boxes={None: boxes[None], "cleo": boxes["bob"]})
    said = "<person> a party"
    assert [(region.identity, region.prompt) for region in by_box.regions] == [(ADA, said), (CLEO, said)]


def test_a_size_that_is_asked_for_stays(pack: Pack) -> None:
    config = CONFIG.model_copy(update={"width_px": 96})
    request = compose("<person> and <person:bob>", 1, config, pack=pack, own=ADA, find=find)
    assert request.config == config and request.pose is not None and request.pose.skeleton.shape == (64, 96, 3)


def test_three_people_have_smaller_heads_that_are_still_in_the_picture(pack: Pack) -> None:
    three = ask("<person>, <person:bob> and <person:cleo>", pack)
    assert three.pose is not None and three.pose.skeleton.any() and len(three.regions) == 3


def test_what_cannot_be_is_refused_by_name(pack: Pack) -> None:
    skeleton = np.zeros((64, 64, 3), np.uint8)
    cases: list[tuple[str, dict[str, Any], str]] = [
        ("<person> and <person:bob>", {"boxes": {"bob": (0.5, 0, 1.2, 1)}}, "a box is x0, y0, x1, y1"),
        ("<person> and <person:bob>", {"boxes": {"bob": (0.5, 0, 0.5, 1)}}, "a box is x0, y0, x1, y1"),
        ("<person> and <person:bob>", {"boxes": {"bob": (0.5, 0, 0.51, 1)}}, "at least 0.0625 of the picture"),
        ("<person> and <person:bob>", {"poses": [skeleton]}, "skeleton has 64x64 px, the picture 128x64"),
        ("<person> and <person:bob>", {"poses": [HeadPose()] * 3}, "3 poses for 2 people"),
        ("<person> and <person:bob>", {"poses": [HeadPose(), skeleton]}, "give it alone"),
        (" ".join(f"<person:{name}>" for name in "abcde"), {}, "5 people in one picture; 4 are the most"),
    ]
    for prompt, more, message in cases:
        with pytest.raises(ValueError, match=message):
            ask(prompt, pack, **more)
    with pytest.raises(ValueError, match="pack 'tiny' has no pose control"):
        ask("<person>", pack.model_copy(update={"control": {}}), poses=[HeadPose()])
    with pytest.raises(IdentityNotFound):
        ask("<person> and <person:nobody>", pack)


@pytest.mark.parametrize(
    ("asked", "drawn"),
    [
        ((64, 64), (64, 64)),
        ((1024, 1024), (64, 64)),
        ((16, 16), (64, 64)),
        ((128, 64), (128, 64)),
        ((1536, 1024), (96, 64)),
        ((1024, 1536), (64, 96)),
        ((1000, 100), (128, 64)),  # longer than the model draws: twice its side is the most
        ((100, 66), (96, 64)),
    ],
)
def test_a_size_is_drawn_in_the_nearest_shape_that_the_model_does_well(
    asked: tuple[int, int], drawn: tuple[int, int]
) -> None:
    assert drawn_size(*asked, side=64) == drawn


def test_a_wide_picture_of_one_person_has_one_head(pack: Pack) -> None:
    wide = compose("<person>", 1, CONFIG.model_copy(update={"width_px": 128}), pack=pack, own=ADA, find=find)
    assert wide.pose is not None
    np.testing.assert_array_equal(wide.pose.skeleton, draw_skeleton([HeadPose()], 128, 64))
