"""The studio world: people, scenes, pictures and captions are deterministic and agree with each other."""

from __future__ import annotations

import numpy as np
import pytest

from studio.world.captions import VOCABULARY, caption, words
from studio.world.people import CELEBRITY_NAMES, IDENTITY_DIM, celebrity, sample_person
from studio.world.render import render
from studio.world.scenes import CLOTHES, EXPRESSIONS, GLASSES, HATS, PLACES, STYLES, sample_scene


def test_the_same_arguments_draw_the_same_picture() -> None:
    first, second = (
        render(sample_person(np.random.default_rng(4)), sample_scene(np.random.default_rng(5)), size=96) for _ in "ab"
    )
    assert np.array_equal(first.image, second.image)
    assert np.array_equal(first.labels, second.labels)


def test_a_larger_picture_shows_the_same() -> None:
    scene = sample_scene(np.random.default_rng(1), context="plain")
    small, large = (render(celebrity(3), scene, size=size) for size in (96, 192))
    np.testing.assert_allclose(small.landmarks * 2, large.landmarks, rtol=1e-4)
    halved = large.image.reshape(96, 2, 96, 2, 3).mean((1, 3))
    assert np.abs(halved - small.image).mean() < 4


def test_eyes_are_a_fifth_of_the_side_apart_and_landmarks_lie_in_their_labels() -> None:
    for seed in range(6):
        scene = sample_scene(np.random.default_rng(seed), context="plain", yaw=0.0, pitch=0.0, roll=0.0, scale=1.0)
        shot = render(celebrity(seed), scene, size=128)
        assert 0.15 < np.linalg.norm(shot.landmarks[1] - shot.landmarks[0]) / 128 < 0.25
        found = [int(shot.labels[round(float(y)), round(float(x))]) for x, y in shot.landmarks[:3]]
        assert found == [4, 5, 10]


def test_labels_name_the_parts() -> None:
    for seed in range(8):
        person = sample_person(np.random.default_rng([7, seed]))
        labels = render(person, sample_scene(np.random.default_rng(seed), context="plain"), size=128).labels
        present = set(np.unique(labels).tolist())
        assert {0, 1, 4, 5, 10, 12, 13, 14, 16} <= present
        assert (17 in present) == (person.hair_style != "bald")
        assert 18 not in present and 6 not in present
    scene = sample_scene(np.random.default_rng(0), hat="crown", glasses="sunglasses")
    assert {6, 18} <= set(np.unique(render(celebrity(0), scene).labels).tolist())


@pytest.mark.parametrize(
    "field, table",
    [("hat", HATS), ("glasses", GLASSES), ("clothes", CLOTHES), ("place", PLACES), ("style", STYLES),
     ("expression", EXPRESSIONS)],
)  # fmt: skip
def test_every_context_changes_the_picture_and_the_caption(field: str, table: dict[str, str]) -> None:
    plain = sample_scene(np.random.default_rng(2), context="plain")
    before = render(celebrity(5), plain, size=64).image.astype(int)
    for key, phrase in table.items():
        scene = sample_scene(np.random.default_rng(2), context="plain", **{field: key})
        assert np.abs(render(celebrity(5), scene, size=64).image - before).max() > 30
        assert phrase in caption(scene, "someone", np.random.default_rng(0))


def test_identity_vectors_are_finite_and_tell_people_apart() -> None:
    vectors = np.stack([sample_person(np.random.default_rng(seed)).vector() for seed in range(200)])
    assert vectors.shape == (200, IDENTITY_DIM) and vectors.dtype == np.float32
    assert np.isfinite(vectors).all() and np.abs(vectors).max() <= 1
    assert len(np.unique(vectors, axis=0)) == 200
    assert not np.array_equal(celebrity(1).vector(), vectors[1])


def test_names_are_unique_words_outside_the_vocabulary() -> None:
    every = [word for name in CELEBRITY_NAMES for word in name]
    assert len(CELEBRITY_NAMES) == 320 and len(set(every)) == 640
    assert all(word.isalpha() and word.islower() for word in every)
    assert not set(every) & set(VOCABULARY)
    with pytest.raises(ValueError, match="outside"):
        celebrity(320)


def test_captions_keep_to_the_vocabulary() -> None:
    rng, known = np.random.default_rng(0), set(VOCABULARY)
    for _ in range(500):
        text = caption(sample_scene(rng), "a person", rng, person=sample_person(rng))
        assert text == text.lower() and set(words(text)) <= known, text
