"""Ids: frozen as they were when the first roots were written, and deaf to fields that came later."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from factory import ids
from factory.config import (
    AnimateConfig,
    Config,
    EvaluateConfig,
    GenerateConfig,
    MethodConfig,
    Recipe,
    TrainConfig,
    preset,
)
from factory.records import ClipRequest, Identity, ImageRequest, PoseControl

SKELETON = PoseControl(skeleton=np.zeros((8, 8, 3), np.uint8))
PAPER = preset("paper")
STUDIO = {"learning_rate": 1e-3, "num_steps": 150, "average_power": 3.0, "samples_per_step": 2, "views": "pool"}
# identity_id of face "ab12-0" and fingerprint "ffff...", as the version before factory/ids.py gave them
FROZEN: list[tuple[dict[str, object], dict[str, object], str]] = [
    ({}, {}, "78ebb2aa53d2edbd"),
    ({"adain": False}, {}, "26510f1f09ed5f1c"),
    ({"words": "free"}, {}, "a8e7aba70303cc5b"),
    ({"features": "clip"}, {}, "e029af5b60246028"),
    ({"phase_boundary": 0.3}, {}, "2964bf076433a5cd"),
    ({"mask": False, "hair_weight": 0.0}, {}, "ee3924c5eb1d6b01"),
    ({}, STUDIO, "5883d2f2af52f2ba"),
    ({}, {"stop_below": 0.1}, "f645fd79da1432ef"),
    ({}, {"stop_below": 0.1, "stop_every": 7}, "6b47e72e3d55ee4f"),
    ({}, {"stop_every": 7}, "78ebb2aa53d2edbd"),  # it changes nothing where early stopping is off
    ({}, {"seed": 3, "betas": (0.8, 0.99)}, "a452101c33279cd6"),
]
IMAGES: list[tuple[str, int, GenerateConfig, str]] = [
    ("a photo of <person>", 0, GenerateConfig(), "8a62f92e29518b6b"),
    ("<person> in the snow", 7, GenerateConfig(num_inference_steps=10, guidance_scale=2.0), "5172ed24c64d9def"),
    ("<person>", 1, GenerateConfig(negative_prompt="ugly"), "5d3e01d168950d1c"),
    (" in the snow ", 7, GenerateConfig(num_inference_steps=10, guidance_scale=2.0), "5172ed24c64d9def"),  # in front
]


def person(identity_id: str) -> Identity:
    texts = dict.fromkeys(("face_id", "photo_id", "name", "pack", "fingerprint", "preset", "config", "created_at"), "")
    return Identity(identity_id=identity_id, words={}, num_steps=1, final_loss=0.0, train_s=0.0, **texts)


@pytest.mark.parametrize(("method", "train", "frozen"), FROZEN)
def test_identity_ids_are_those_of_the_first_roots(
    method: dict[str, object], train: dict[str, object], frozen: str
) -> None:
    recipe = Recipe(method=PAPER.method.model_copy(update=method), train=PAPER.train.model_copy(update=train))
    assert ids.identity_id("ab12-0", recipe, "f" * 16) == frozen


def test_identity_id_of_the_release_is_that_of_the_first_roots() -> None:
    assert ids.identity_id("ab12-0", preset("release"), "f" * 16) == "791a7e2ab4b18f98"


@pytest.mark.parametrize(("prompt", "seed", "config", "frozen"), IMAGES)
def test_image_ids_are_those_of_the_first_roots(prompt: str, seed: int, config: GenerateConfig, frozen: str) -> None:
    request = ImageRequest(identity=person("0123456789abcdef"), prompt=prompt, seed=seed, config=config)
    assert ids.image_id(request, "m" * 16) == frozen


CLIPS: list[tuple[dict[str, object], str]] = [
    ({}, "67cd64b1038789f1"),
    ({"prompt": "<person> nods"}, "67cd64b1038789f1"),
    ({"config": AnimateConfig(fps=12)}, "256171990c2ccbd6"),
    ({"config": AnimateConfig(num_frames=1), "poses": (SKELETON,)}, "12dc1ff0be000039"),
]


@pytest.mark.parametrize(("changes", "frozen"), CLIPS)
def test_video_ids_stay_as_they_were_first(changes: dict[str, object], frozen: str) -> None:
    asked = {"identity": person("0123456789abcdef"), "prompt": "nods", "seed": 7, "config": AnimateConfig()}
    assert ids.video_id(ClipRequest(**(asked | changes)), "m" * 16) == frozen  # type: ignore[arg-type]


def test_a_clip_differs_from_another_in_all_that_is_asked_for() -> None:
    asked = {"identity": person("0123456789abcdef"), "prompt": "nods", "seed": 7, "config": AnimateConfig(num_frames=1)}
    changes: list[dict[str, object]] = [
        {},
        {"identity": person("1" * 16)},
        {"prompt": "turns"},
        {"seed": 8},
        {"config": AnimateConfig(num_frames=1, fps=9)},
        {"config": AnimateConfig(num_frames=1, generate=GenerateConfig(guidance_scale=2.0))},
        {"config": AnimateConfig(num_frames=1, generate=GenerateConfig(sampler="ddim"))},
        {"poses": (SKELETON,)},
        {"poses": (replace(SKELETON, scale=0.5),)},
    ]
    made = [ids.video_id(ClipRequest(**(asked | change)), "m" * 16) for change in changes]  # type: ignore[arg-type]
    made.append(ids.video_id(ClipRequest(**asked), "n" * 16))  # type: ignore[arg-type]
    assert len(set(made)) == len(made)


def test_poses_are_one_for_each_frame() -> None:
    with pytest.raises(ValueError, match="1 poses for 16 frames"):
        ClipRequest(identity=person("1"), prompt="", seed=0, config=AnimateConfig(), poses=(SKELETON,))


@pytest.mark.parametrize(
    "config", [MethodConfig(), TrainConfig(), GenerateConfig(), AnimateConfig(), EvaluateConfig()]
)
def test_a_later_field_counts_only_where_it_is_set(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    before = ids.hashed_json(config)

    class Later(type(config)):  # type: ignore[misc]
        added: int = 3

    monkeypatch.setitem(ids._FIRST_FIELDS, Later, ids._FIRST_FIELDS[type(config)])
    assert ids.hashed_json(Later()) == before
    assert ids.hashed_json(Later(added=4)) != before


@pytest.mark.parametrize("kind", [MethodConfig, TrainConfig, GenerateConfig, AnimateConfig, EvaluateConfig])
def test_a_field_cannot_vanish_from_the_hash(kind: type[Config]) -> None:
    # renaming or removing one would change every id, or let two configs share one
    assert set(ids._FIRST_FIELDS[kind]) <= set(kind.model_fields)


def test_names_and_numbers_of_faces_are_taken_apart_as_they_were_composed() -> None:
    for index in (0, 1, 12):
        assert ids.photo_of(ids.face_id("ab", index)) == "ab"
        assert ids.index_of(ids.face_id("ab", index)) == index
        assert ("x", index) in ids.faces_called(ids.face_name("x", index))
        assert ids.photo_name_of(ids.face_name("x-1", index), index) == "x-1"
    assert ids.is_face_id("ab-0") and not ids.is_face_id("ab")
    assert ids.faces_called("x-y") == [("x-y", 0)]
    assert ids.faces_called("x-0") == [("x-0", 0)]  # the largest face bears no number
    assert ids.faces_called("-") == [("-", 0)]
