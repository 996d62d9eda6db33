"""The engine: a picture does not depend on who else is in the making, and a row costs what it must."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler
from diffusers.models.attention_processor import AttnProcessor

from factory.base.diffusion import DiffusionBase
from factory.base.lanes import Lanes
from factory.config import GenerateConfig
from factory.draw.engine import Engine
from factory.draw.images import ImageGenerator
from factory.draw.rows import Row
from factory.errors import IncompatibleIdentity
from factory.pack import Pack
from factory.records import TEXT_ENCODER, Identity, ImageRequest, Region
from factory.settings import generate_settings

SHORT = GenerateConfig(num_inference_steps=4, guidance_scale=3.0)


@pytest.fixture(scope="module")
def base(tiny_pack_v: Pack) -> DiffusionBase:
    return DiffusionBase.load(tiny_pack_v, dtype=torch.float32)


def request(base: DiffusionBase, number: int, prompt: str = "a photo of <person>", **config: object) -> ImageRequest:
    words = np.random.default_rng(number).normal(scale=0.02, size=(2, base.text_width)).astype(np.float32)
    identity = Identity(
        identity_id=f"{number:016x}",
        face_id=f"photo{number}-0",
        photo_id=f"photo{number}",
        name=f"n{number}",
        words={TEXT_ENCODER: words},
        pack=base.pack.name,
        fingerprint=base.fingerprint,
        preset="paper",
        config="{}",
        num_steps=1,
        final_loss=0.0,
        train_s=0.0,
        created_at="2026-01-01T00:00:00+00:00",
    )
    return ImageRequest(identity=identity, prompt=prompt, seed=number, config=SHORT.model_copy(update=config))


def draw(engine: Engine, rows: list[Row]) -> list[np.ndarray]:
    """Steps until these rows are finished."""
    while not all(row.done for row in rows):
        engine.step()
    return engine.decode([row.x_CHW for row in rows])


def alone(base: DiffusionBase, one: ImageRequest) -> np.ndarray:
    engine = Engine(base)
    return draw(engine, engine.add([one]))[0]


def test_a_picture_does_not_depend_on_its_company(base: DiffusionBase) -> None:
    wanted = [
        request(base, 1),
        request(base, 2, "<person> in the snow", num_inference_steps=7, guidance_scale=1.0),
        request(base, 3, sampler="ddim", guidance_until=0.5),
        request(base, 4, sampler="euler", negative_prompt="a dog"),
        request(base, 5, width_px=96, height_px=48),
    ]
    expected = [alone(base, one) for one in wanted]
    engine = Engine(base, max_samples=6)  # so few that a size is split over several calls
    rows = engine.add(wanted[:2])
    engine.step()
    rows += engine.add([wanted[2], request(base, 9)])  # they join while others are in the middle
    stranger = rows.pop()
    engine.step()
    engine.drop(stranger)  # and leave
    rows += engine.add(wanted[3:])
    together = draw(engine, rows)
    for one, other in zip(expected, together, strict=True):
        assert np.abs(one.astype(int) - other).max() <= 1
    assert together[4].shape == (48, 96, 3)
    assert np.abs(together[0].astype(int) - together[2]).max() > 1, "different people give different pictures"


def test_lanes_draw_the_same_and_cut_no_clip(base: DiffusionBase) -> None:
    plain, two, third = (request(base, number, width_px=128, height_px=64) for number in (1, 2, 3))
    left = Region(identity=two.identity, prompt="<person> on the left", box=(0.0, 0.0, 0.5, 1.0))
    right = Region(identity=third.identity, prompt="<person> on the right", box=(0.5, 0.0, 1.0, 1.0))
    two = replace(two, regions=(left, right))  # so that the lanes' texts differ in number
    threads, pictures, lanes = torch.get_num_threads(), list[list[np.ndarray]](), Lanes("cpu")
    meeting = threading.Barrier(2, timeout=30)

    def meet(part: list[int]) -> list[int]:
        meeting.wait()  # only two at once get further
        return part

    def fail(part: list[int]) -> None:
        meeting.wait()
        raise KeyError(part[0])

    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            engine = Engine(base)
            pictures.append(draw(engine, engine.add([plain, two, third])))
        assert lanes.map(meet, [[1, 2, 3], [4], [5]]) == [[1, 2, 3], [4, 5]]
        assert lanes.map(list, [[1, 2, 3, 4]]) == [[1, 2, 3, 4]], "a unit is not cut"
        assert lanes.map(list, [[1], [2]]) == [[1, 2]], "too little for two"
        with pytest.raises(KeyError, match="1"):
            lanes.map(fail, [[1, 2], [3, 4]])
        assert torch.get_num_threads() == 2, "of the caller they are as they were"
    finally:
        torch.set_num_threads(threads)
    for one, other in zip(*pictures, strict=True):
        assert np.abs(one.astype(int) - other).max() <= 1


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_the_engine_draws_what_diffusers_pipeline_draws(base: DiffusionBase, guidance: float) -> None:
    one = request(base, 6, guidance_scale=guidance, num_inference_steps=5)
    engine = Engine(base)
    (row,) = engine.add([one])
    noise = row.x_CHW.clone()
    pipeline = type(base.pipeline)(**{**base.pipeline.components, "requires_safety_checker": False})
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(base.pipeline.scheduler.config)
    expected = pipeline(
        prompt_embeds=row.texts[0][None],
        negative_prompt_embeds=row.empty_LD[None],
        latents=noise[None],
        num_inference_steps=5,
        guidance_scale=guidance,
        height=base.pack.resolution,
        width=base.pack.resolution,
        output_type="latent",
    ).images[0]
    draw(engine, [row])
    torch.testing.assert_close(row.x_CHW, expected, atol=2e-4, rtol=2e-4)


def test_an_unguided_step_costs_one_sample(base: DiffusionBase, monkeypatch: pytest.MonkeyPatch) -> None:
    costs: list[int] = []
    denoise = base.denoise

    def counted(noisy: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        costs[-1] += len(noisy)
        return denoise(noisy, *rest)

    monkeypatch.setattr(base, "denoise", counted)
    engine = Engine(base)
    rows = engine.add([request(base, 1), request(base, 2, guidance_scale=1.0), request(base, 3, guidance_until=0.5)])
    while engine.rows:
        costs.append(0)
        engine.step()
    assert costs == [5, 5, 4, 4] and all(row.done for row in rows)


def test_texts_that_were_read_are_not_read_again(base: DiffusionBase, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    encode = base.encode_text
    monkeypatch.setattr(base, "encode_text", lambda prompts, words: read.append(len(words)) or encode(prompts, words))
    engine = Engine(base)
    first = engine.add([request(base, 1), replace(request(base, 1), seed=5), request(base, 2)])
    again = engine.add([request(base, 1)])
    assert read == [3]  # two people, and the empty text once
    assert torch.equal(first[0].texts[0], again[0].texts[0]) and not torch.equal(first[0].texts[0], first[2].texts[0])


def test_sizes_and_people_that_do_not_fit_are_refused_before_anything_enters(base: DiffusionBase) -> None:
    engine = Engine(base)
    for config in ({"width_px": 24}, {"height_px": 136}):
        with pytest.raises(ValueError, match=r"px is no size that pack 'tiny_v' draws: .* from 32 to 128"):
            engine.add([request(base, 1), request(base, 1, **config)])
        with pytest.raises(ValueError, match="is no size"):  # before any network is loaded
            generate_settings(base.pack, config)
    foreign = request(base, 1)
    with pytest.raises(IncompatibleIdentity):
        engine.add([replace(foreign, identity=replace(foreign.identity, fingerprint="0" * 16))])
    assert engine.rows == []


def test_the_generator_takes_more_requests_than_fit_and_keeps_their_order(tiny_pack_v: Pack) -> None:
    generator = ImageGenerator(tiny_pack_v, max_batch=2)
    steps = {1: 2, 2: 5, 3: 1, 4: 3, 5: 2}
    requests = [request(generator.base, n, num_inference_steps=num) for n, num in steps.items()]
    told: list[tuple[int, int]] = []
    images = generator.generate(requests, on_step=lambda *at: told.append(at))
    for image, one in zip(images, requests, strict=True):
        assert np.abs(image.astype(int) - generator.generate([one])[0]).max() <= 8  # bfloat16 where it is native
    assert told[-1] == (13, 13) and [done for done, _ in told] == sorted(done for done, _ in told)
    assert generator.generate([]) == []


def test_what_attends_faster_in_bfloat16_attends_to_the_same(base: DiffusionBase) -> None:
    coarse = DiffusionBase.load(base.pack, dtype=torch.bfloat16)
    (kind,) = {type(processor) for processor in coarse.unet.attn_processors.values()}
    other = DiffusionBase.load(base.pack, dtype=torch.float32)
    assert kind is AttnProcessor and kind not in map(type, other.unet.attn_processors.values())
    other.unet.set_attn_processor(AttnProcessor())
    people = [request(base, number) for number in (1, 2)]
    halves = tuple(
        Region(identity=one.identity, prompt=one.prompt, box=(x, 0.0, x + 0.5, 1.0))
        for one, x in zip(people, (0.0, 0.5), strict=True)
    )
    latents: list[torch.Tensor] = []
    for asked in (people[0], replace(people[0], regions=halves)):
        rows = [(engine, *engine.add([asked])) for engine in (Engine(base), Engine(other))]
        for engine, row in rows:
            draw(engine, [row])
        torch.testing.assert_close(rows[0][1].x_CHW, rows[1][1].x_CHW, atol=1e-4, rtol=1e-4)
        latents.append(rows[0][1].x_CHW)
    assert not torch.allclose(*latents, atol=1e-2), "masks change the picture"
