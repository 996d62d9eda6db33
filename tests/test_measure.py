"""The measures against closed forms, and the networks that take them on the tiny pack."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from factory.config import EvaluateConfig, GenerateConfig, MethodConfig, Recipe, TrainConfig
from factory.errors import PackError
from factory.learn.baselines import BasisWords, FreeWords, principal_components
from factory.measure.clip import ClipScorer
from factory.measure.formulas import (
    bootstrap,
    cosine,
    face_diversity,
    frechet_distance,
    jackknife,
    mean_of,
    nearest_share,
    perceptual_distances,
    roc_auc,
    tar_at_far,
    trusted_diversity,
)
from factory.measure.perceptual import Inception, Lpips
from factory.measure.pictures import PictureMeasurer, protocol_id
from factory.pack import Pack
from factory.records import TEXT_ENCODER, GeneratedImage
from factory.settings import evaluate_settings
from factory.store.rows import metrics_from_row, metrics_row
from factory.store.schemas import SCHEMAS
from studio.demo.people import portrait

NAN = float("nan")


def test_cosine_of_identical_opposite_and_unnormalised_vectors() -> None:
    a = np.array([[3.0, 4.0], [1.0, 0.0]])
    assert cosine(a, a) == pytest.approx([1, 1])
    assert cosine(a, -7 * a) == pytest.approx([-1, -1])
    assert cosine(a[0], np.array([1.0, 0.0])) == pytest.approx(0.6)


def test_perceptual_distance_is_one_minus_the_cosine_at_each_position() -> None:
    first = torch.tensor([[[1.0, 0.0], [0.0, 2.0]], [[5.0, 0.0], [3.0, 0.0]]])  # [N = 2, L = 2, C = 2]
    second = torch.tensor([[[1.0, 0.0]], [[-1.0, 0.0]]])  # another size of layer
    distances = perceptual_distances([first, second])
    assert np.diag(distances) == pytest.approx([0, 0], abs=1e-12)
    assert distances[0, 1] == pytest.approx(((0 + 1) / 2 + 2) / 2)


def test_trusted_diversity_of_two_and_three_pictures() -> None:
    faces = np.array([[1.0, 0.0], [0.6, 0.8]])
    distances = np.array([[0.0, 0.5], [0.5, 0.0]])
    assert face_diversity(distances) == pytest.approx([0.5, 0.5])
    assert trusted_diversity(faces, distances) == pytest.approx([0.3, 0.3])  # Face Sim 0.6 x Face Div 0.5
    faces = np.vstack([faces, [0.0, 1.0]])
    distances = np.array([[0.0, 0.5, 1.0], [0.5, 0.0, 0.25], [1.0, 0.25, 0.0]])
    over_pairs = np.mean([0.6 * 0.5, 0 * 1.0, 0.8 * 0.25])
    assert trusted_diversity(faces, distances).mean() == pytest.approx(over_pairs)


def test_a_picture_without_a_face_is_left_out_of_the_pairs() -> None:
    faces = np.array([[1.0, 0.0], [NAN, NAN], [0.6, 0.8]])
    distances = np.array([[0.0, NAN, 0.5], [NAN, NAN, NAN], [0.5, NAN, 0.0]])
    trusted = trusted_diversity(faces, distances)
    assert trusted[[0, 2]] == pytest.approx([0.3, 0.3])
    assert np.isnan(trusted[1])
    assert np.isnan(face_diversity(np.array([[0.0]])))[0]  # nobody to be compared with
    assert mean_of(trusted) == pytest.approx(0.3)
    assert mean_of(np.array([[1.0, NAN], [NAN, NAN]])) == pytest.approx([1, NAN], nan_ok=True)


def test_frechet_distance_of_two_gaussians() -> None:
    rng = np.random.default_rng(0)
    white = rng.standard_normal((4000, 3))
    white = (white - white.mean(0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(white, rowvar=False))).T
    mean, deviation = np.array([1.0, -2.0, 0.5]), np.array([2.0, 0.5, 1.0])
    expected = (mean**2).sum() + ((deviation - 1) ** 2).sum()  # |mu|^2 + tr(S + I - 2 sqrt(S)), exact moments
    assert frechet_distance(mean + deviation * white, white) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(white, white) == pytest.approx(0, abs=1e-6)
    assert np.isnan(frechet_distance(white[:1], white))


def test_frechet_distance_of_few_pictures_is_biased_upwards() -> None:
    rng = np.random.default_rng(1)
    few, many = (frechet_distance(*rng.standard_normal((2, n, 16))) for n in (12, 2000))
    assert few > 10 * many


def test_roc_auc_and_tar_at_far() -> None:
    impostor = np.linspace(-1, 0, 100)
    assert roc_auc(np.array([0.5, 2.0]), impostor) == 1  # scores beyond 0..1 are scores all the same
    assert roc_auc(np.array([0.5, 0.5]), np.array([0.5, 0.2])) == pytest.approx(0.75)  # ties count half
    assert roc_auc(np.array([0.1]), np.array([0.1])) == pytest.approx(0.5)
    assert tar_at_far(np.array([1.0, -0.005, -0.9, -0.99]), impostor, 0.01) == 0.5
    assert tar_at_far(np.array([0.0, 1.0]), impostor, 0.0) == 0.5  # nothing may pass: above the highest impostor
    assert np.isnan(roc_auc(np.array([]), impostor))


def test_nearest_person_counts_pictures_without_a_face_as_missed() -> None:
    gallery = np.array([[1.0, 0.0], [0.0, 1.0]])
    faces = np.array([[0.9, 0.1], [0.2, 0.8], [0.7, 0.7 - 1e-3], [NAN, NAN]])
    assert nearest_share(faces, gallery, own=0) == 0.5
    assert nearest_share(faces, gallery, own=1) == 0.25


def test_bootstrap_interval_covers_the_mean_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(2)
    hits = 0
    for seed in range(60):
        sample = rng.normal(5, 2, size=30)
        interval = bootstrap(lambda who, sample=sample: sample[who].mean(-1), 30, seed=seed, resamples=300)
        assert interval.low < interval.value < interval.high
        assert interval.value == pytest.approx(sample.mean())
        hits += interval.low <= 5 <= interval.high
    assert 50 <= hits <= 60


def test_jackknife_of_a_mean_is_its_standard_error() -> None:
    sample = np.random.default_rng(3).normal(size=40)
    interval = jackknife(lambda who: float(sample[who].mean()), 40)
    assert interval.high - interval.value == pytest.approx(1.96 * sample.std(ddof=1) / np.sqrt(40))
    assert np.isnan(jackknife(lambda who: 1.0, 2).low)


def test_one_person_has_no_interval() -> None:
    interval = bootstrap(lambda who: np.full(len(who), 3.0), 1)
    assert interval.value == 3
    assert np.isnan(interval.low)


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    return [np.asarray(portrait(0))[::3, ::3].copy(), np.asarray(portrait(2))[::3, ::3].copy()]


def test_clip_scores_of_the_same_picture_are_one(tiny_pack: Pack, pictures: list[np.ndarray]) -> None:
    clip = ClipScorer(tiny_pack, batch_size=2)
    embeddings = clip.images([*pictures, pictures[0]])
    assert cosine(embeddings[0], embeddings[2]) == pytest.approx(1, abs=1e-5)
    assert cosine(embeddings[0], embeddings[1]) < 1 - 1e-5
    texts = clip.texts(["a photo of a person in the snow", "a photo of a person"])
    assert texts.shape == embeddings[:2].shape
    assert cosine(texts[0], texts[1]) < 1 - 1e-5
    distances = perceptual_distances(clip.patches([*pictures, pictures[0]]))
    assert distances[0, 2] == pytest.approx(0, abs=1e-5) and distances[0, 1] > 1e-4
    assert clip.images([]).shape == (0, embeddings.shape[1])


def picture(image: np.ndarray, number: int) -> GeneratedImage:
    return GeneratedImage(
        image_id=f"{number:016x}",
        identity_id="who",
        name="Who",
        prompt="a photo of <person>",
        seed=number,
        image=image,
        config="{}",
        created_at="2026-11-24T00:00:00+00:00",
    )


def test_measuring_a_person(tiny_pack: Pack, pictures: list[np.ndarray]) -> None:
    measurer = PictureMeasurer(tiny_pack, EvaluateConfig())
    nobody = np.zeros_like(pictures[0])
    made = [picture(image, number) for number, image in enumerate([pictures[0], nobody, pictures[1]])]
    same, without, other = measurer.measure(made, pictures[0], "protocol")
    assert same.clip_i == pytest.approx(1, abs=1e-5) and other.clip_i < 1
    assert same.face_sim == pytest.approx(1, abs=1e-3) and other.face_sim < 0.999
    assert same.face_div == pytest.approx(other.face_div) and same.face_div > 0
    pair = cosine(same.face_embedding, other.face_embedding) * same.face_div
    assert same.trusted_div == pytest.approx(pair)
    assert [m.image_id for m in (same, without, other)] == [p.image_id for p in made]
    assert np.isnan([without.face_sim, without.face_div, without.trusted_div]).all()
    assert without.face_embedding.size == 0 and np.isfinite(without.clip_t)
    again = metrics_from_row(metrics_row(without))
    assert np.isnan(again.face_sim) and again.clip_t == without.clip_t
    assert set(metrics_row(without)) == set(SCHEMAS["metrics"].names)


def test_a_protocol_is_all_that_a_metric_depends_on(tiny_pack: Pack, tiny_pack_v: Pack) -> None:
    def name(
        pack: Pack = tiny_pack,
        prompts: tuple[str, ...] = ("<person> smiling", "a sketch of <person>"),
        seeds: tuple[int, ...] = (0, 1),
        config: EvaluateConfig = EvaluateConfig(),  # noqa: B008
    ) -> str:
        return protocol_id(pack, prompts, seeds, GenerateConfig(), config)

    assert name() == name(prompts=("a sketch of <person>", "smiling"), seeds=(1, 0))
    others = [name(tiny_pack_v), name(seeds=(0,)), name(config=EvaluateConfig(class_word="a man"))]
    assert len({name(), *others}) == 4
    with pytest.raises(PackError, match="needs"):
        name(tiny_pack.model_copy(update={"clip": None}))


def test_real_weights_that_are_not_there_are_asked_for(
    tiny_pack: Pack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(PackError, match="alexnet"):
        Lpips()
    with pytest.raises(PackError, match="inception"):
        Inception()
    asking = tiny_pack.model_copy(update={"evaluate": {"face_div": "lpips"}})
    assert evaluate_settings(asking).face_div == "lpips"
    assert evaluate_settings(asking, {"face_div": "clip"}).face_div == "clip"
    with pytest.raises(PackError, match="face_div"):
        PictureMeasurer(asking, evaluate_settings(asking))


def test_lpips_of_all_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """AlexNet with random weights in the place of the real ones: the pairs, not the values, are ours."""
    from torchvision.models import alexnet

    torch.manual_seed(0)
    (tmp_path / "checkpoints").mkdir()
    torch.save(alexnet(weights=None).state_dict(), tmp_path / "checkpoints" / "alexnet-owt-7be5be79.pth")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(
        "torchvision.models._api.load_state_dict_from_url",
        lambda url, **_: torch.load(tmp_path / "checkpoints" / Path(url).name),
    )
    rng = np.random.default_rng(0)
    faces = [rng.integers(0, 256, (64, 64, 3), dtype=np.uint8) for _ in range(3)]
    distances = Lpips().distances([*faces, faces[0]])
    assert distances == pytest.approx(distances.T)
    assert distances[0, 3] == pytest.approx(0, abs=1e-6)
    assert distances[0, 1] > 1e-4
    assert distances[1, 3] == pytest.approx(distances[0, 1], rel=1e-4)


def test_free_words_start_at_a_generic_word_and_basis_words_at_the_mean_name() -> None:
    generator = torch.Generator().manual_seed(0)
    celebs_NVD = torch.randn(12, 2, 3, generator=generator) @ torch.randn(3, 8, generator=generator)  # rank 3
    generic_D, features = torch.randn(8, generator=generator), torch.zeros(2, 3, 5)
    free, basis = FreeWords(2, generic_D), BasisWords(2, celebs_NVD)
    for words in (free, basis):
        assert words.num_slots == 2
        with torch.no_grad():
            for parameter in words.parameters():
                parameter.add_(3.0)
        for slot in range(2):
            words.start(slot, generator)
    assert torch.equal(free(features), generic_D.expand(2, 3, 2, 8))
    assert torch.allclose(basis(features)[1, 2], celebs_NVD.mean(0))
    mean_VD, basis_VKD = principal_components(celebs_NVD)
    assert basis_VKD.shape == (2, 3, 8)
    assert torch.allclose(basis_VKD @ basis_VKD.transpose(1, 2), torch.eye(3).expand(2, 3, 3), atol=1e-5)
    centred = (celebs_NVD - mean_VD).transpose(0, 1)
    assert torch.allclose(centred @ basis_VKD.transpose(1, 2) @ basis_VKD, centred, atol=1e-4)


@pytest.mark.parametrize("words", ["free", "basis"])
def test_the_baselines_train_through_the_same_loop(tiny_pack: Pack, words: str) -> None:
    from factory.faces.prepare import Preparer
    from factory.learn.trainer import load_trainer
    from factory.store.rows import encode_png

    face, *_ = Preparer(tiny_pack).prepare(encode_png(portrait(0)), name="Ada")
    trainer = load_trainer(tiny_pack)
    method, steps = MethodConfig.model_validate({"words": words}), TrainConfig(num_steps=2, learning_rate=1e-2)
    (first,) = trainer.train([face], Recipe(method=method, train=steps))
    start = trainer.prior.generic_D.expand(2, -1) if words == "free" else trainer.prior.words_NVD.mean(0)
    moved = np.abs(first.words[TEXT_ENCODER] - start.numpy())
    assert 1e-3 < moved.max() < 0.1  # two steps of AdamW from where the baseline starts
    if words == "basis":  # and it stays among the names
        mean_VD, basis_VKD = principal_components(trainer.prior.words_NVD)
        offset = torch.from_numpy(first.words[TEXT_ENCODER]) - mean_VD
        kept = torch.einsum("vd,vkd,vke->ve", offset, basis_VKD, basis_VKD)
        assert torch.allclose(kept, offset, atol=1e-4)
