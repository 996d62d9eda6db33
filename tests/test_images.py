"""Images of stored identities: a mixed batch equals the pictures made alone."""

import numpy as np
import pytest

from factory.config import GenerateConfig
from factory.draw.images import ImageGenerator
from factory.errors import IncompatibleIdentity
from factory.ids import image_id
from factory.learn.celebs import celeb_prior
from factory.pack import Pack
from factory.records import TEXT_ENCODER, Identity, ImageRequest

CONFIG = GenerateConfig(num_inference_steps=3, guidance_scale=3.0)


@pytest.fixture(scope="module")
def generator(tiny_pack: Pack) -> ImageGenerator:
    return ImageGenerator(tiny_pack)


def person(number: int, generator: ImageGenerator) -> Identity:
    base = generator.base
    words = celeb_prior(base.pack.celebrities, base.tokenizer, base.token_embedding).words_NVD[number].numpy()
    return Identity(
        identity_id=f"{number:016x}",
        face_id=f"face-{number}",
        photo_id=f"photo-{number}",
        name=f"person {number}",
        words={TEXT_ENCODER: words},
        pack=generator.base.pack.name,
        fingerprint=generator.base.fingerprint,
        preset="paper",
        config="{}",
        num_steps=1,
        final_loss=0.0,
        train_s=0.0,
        created_at="2026-01-01T00:00:00+00:00",
    )


def request(number: int, generator: ImageGenerator, seed: int = 0, config: GenerateConfig = CONFIG) -> ImageRequest:
    identity = person(number, generator)
    return ImageRequest(identity=identity, prompt="<person> in the snow", seed=seed, config=config)


def test_a_mixed_batch_equals_each_alone(generator: ImageGenerator) -> None:
    other = CONFIG.model_copy(update={"num_inference_steps": 2})
    requests = [request(0, generator), request(1, generator, 5), request(2, generator, config=other)]
    together = generator.generate(requests)
    for item, image in zip(requests, together, strict=True):
        (alone,) = generator.generate([item])
        assert image.shape == (generator.base.pack.resolution,) * 2 + (3,) and image.dtype == np.uint8
        assert np.abs(image.astype(int) - alone.astype(int)).max() <= 4  # of 255: rounding of the working precision


def test_identity_prompt_and_seed_all_matter(generator: ImageGenerator) -> None:
    first, second, third = generator.generate([request(0, generator), request(1, generator), request(0, generator, 1)])
    assert np.abs(first.astype(int) - second).max() > 0
    assert np.abs(first.astype(int) - third).max() > 8


def test_more_requests_than_a_batch_holds(tiny_pack: Pack, generator: ImageGenerator) -> None:
    small = ImageGenerator(tiny_pack, max_batch=2)
    told: list[tuple[int, int]] = []
    requests = [request(number, generator) for number in range(3)]
    images = small.generate(requests, on_step=lambda *at: told.append(at))
    assert len(images) == 3 and told[-1] == (9, 9) and len(told) == 6


def test_an_identity_of_another_text_encoder_is_refused(generator: ImageGenerator) -> None:
    item = request(0, generator)
    foreign = {**{name: getattr(item.identity, name) for name in Identity.__slots__}, "fingerprint": "0" * 16}
    with pytest.raises(IncompatibleIdentity, match="0000"):
        generator.generate([ImageRequest(identity=Identity(**foreign), prompt="", seed=0, config=CONFIG)])


def test_image_id_follows_everything_that_changes_the_picture(generator: ImageGenerator) -> None:
    base = request(0, generator)
    others = [request(1, generator), request(0, generator, 1)]
    others.append(request(0, generator, config=CONFIG.model_copy(update={"negative_prompt": "blurred"})))
    ids = {image_id(base, "m"), image_id(base, "n"), *(image_id(other, "m") for other in others)}
    assert len(ids) == 5 and image_id(base, "m") == image_id(request(0, generator), "m")
