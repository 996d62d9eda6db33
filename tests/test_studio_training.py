"""The parts of the studio's training that can be checked without training."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers import ViTConfig, ViTModel

from factory.config import PrepareConfig
from factory.faces.detect import FaceDetector, FaceRecogniser
from factory.faces.encode import FeatureEncoder
from factory.pack import load_pack
from factory.prompts import PERSON
from factory.records import Photo
from studio.demo.people import portrait
from studio.training import crew, latents
from studio.training import unet as train_unet
from studio.training import vae as train_vae
from studio.training.clip import pixels
from studio.training.crew import Crew
from studio.training.crops import FFHQ_PX, face_grid, judge_view, vit_view
from studio.training.latent_faces import LatentFaces, distance
from studio.training.latents import Encoded
from studio.training.loop import LOG_EVERY, Run
from studio.training.muon import Muon, orthogonal
from studio.training.objective import LIKENESS_BELOW, Objective, noise_schedule, step_weights
from studio.training.unet import TEXT_WIDTH, make
from studio.training.unpack import follow, widen
from studio.training.vae import FaceDistance, pixel_weights
from studio.training.views import Views, view_of
from studio.world.captions import VIEW_TEMPLATES


@pytest.mark.parametrize("shape", [(8, 8), (12, 72), (72, 12)])
def test_muons_update_is_nearly_orthogonal_and_keeps_the_directions(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    made = orthogonal(matrix)
    assert made.shape == shape
    values = torch.linalg.svdvals(made)
    assert values.min() > 0.5 and values.max() < 1.3
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    assert float((made * (left @ right)).sum() / made.norm() / (left @ right).norm()) > 0.95


def test_muon_finds_the_minimum_of_a_quadratic() -> None:
    target = torch.randn(6, 9, generator=torch.Generator().manual_seed(1))
    parameter = nn.Parameter(torch.zeros(6, 9))
    optimiser = Muon([parameter], lr=0.05, weight_decay=0.0)
    for _ in range(300):
        optimiser.zero_grad()
        (parameter - target).square().sum().backward()
        optimiser.step()
    assert (parameter - target).abs().max() < 0.1


def test_muon_updates_alike_matrices_together_as_it_updates_each_alone() -> None:
    shapes = [(6, 9), (6, 9), (6, 1, 3, 3), (9, 6)]
    together = [nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(2))) for shape in shapes]
    alone = [nn.Parameter(p.detach().clone()) for p in together]
    optimisers = [Muon(together, lr=0.1), *(Muon([p], lr=0.1) for p in alone)]
    for parameters in (together, alone):
        sum((p * torch.arange(p.numel()).view_as(p).sin()).sum() for p in parameters).backward()  # type: ignore[union-attr]
    for optimiser in optimisers:
        optimiser.step()
    for a, b in zip(together, alone, strict=True):
        torch.testing.assert_close(a, b)


def test_a_unet_follows_to_latents_that_hold_the_old_ones() -> None:
    """Where the old latents are the first of the new ones and independent of the others, nothing is lost."""
    random = torch.Generator().manual_seed(3)
    after = torch.randn(20_000, 6, generator=random).double()
    unet = make(4).eval()
    followed = follow(unet, after[:, :4], after).eval()
    noisy, context = torch.randn(2, 6, 16, 16, generator=random), torch.randn(2, 5, TEXT_WIDTH, generator=random)
    with torch.no_grad():
        before = unet(noisy[:, :4], torch.tensor([10, 900]), context).sample
        now = followed(noisy, torch.tensor([10, 900]), context).sample
    torch.testing.assert_close(now[:, :4], before, rtol=0.05, atol=0.05)


def test_a_widened_unet_predicts_nearly_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nearly: where a skip joins a widened and an unchanged level, groups of a normalisation hold other channels."""
    monkeypatch.setattr(train_unet, "WIDTHS", (64, 160))
    narrow = make(4).eval()
    monkeypatch.undo()
    wide = widen(narrow).eval()
    assert wide.config.block_out_channels == train_unet.WIDTHS
    random = torch.Generator().manual_seed(3)
    noisy, context = torch.randn(2, 4, 16, 16, generator=random), torch.randn(2, 5, TEXT_WIDTH, generator=random)
    outputs: list[list[torch.Tensor]] = [[], []]
    for unet, kept in zip((narrow, wide), outputs, strict=True):
        unet.mid_block.register_forward_hook(lambda *args, kept=kept: kept.append(args[-1]))
        with torch.no_grad():
            kept.append(unet(noisy, torch.tensor([10, 900]), context).sample)
    torch.testing.assert_close(outputs[1][0], outputs[0][0], rtol=1e-3, atol=1e-4)  # no such skip before the middle
    assert (outputs[1][1] - outputs[0][1]).square().mean() < 0.05 * outputs[0][1].square().mean()
    kernel = wide.down_blocks[0].resnets[0].conv1.weight
    assert (kernel[:, 0] - kernel[:, 1]).abs().mean() > 0.1 * kernel.abs().mean()  # else copies would stay alike


def test_distance_of_latents_is_nought_for_the_same_and_shows_the_guess_where_to_go() -> None:
    torch.manual_seed(4)
    network = LatentFaces(4, 7).eval().requires_grad_(False)
    real = torch.randn(3, 4, 16, 16)
    guess = torch.randn(3, 4, 16, 16, requires_grad=True)
    torch.testing.assert_close(distance(network, real, real), torch.zeros(3), atol=1e-5, rtol=0)
    before = distance(network, guess, real)
    (gradient,) = torch.autograd.grad(before.sum(), [guess])
    after = distance(network, guess - 0.1 * gradient / gradient.norm() * guess.norm(), real)
    assert before.shape == (3,) and after.sum() < before.sum()


def test_the_face_that_gradients_pass_through_is_the_one_that_is_cut_out() -> None:
    y, x = np.mgrid[:128, :128]
    image = np.stack([128 + 90 * np.sin(x / 9), 128 + 90 * np.cos(y / 7), 2 * x], axis=-1).clip(0, 255).astype(np.uint8)
    tilt = np.array([[0.45, -0.1], [0.1, 0.45]])
    landmarks = (FFHQ_PX - 64) @ tilt.T + (70, 60)
    wanted = vit_view(image, landmarks, 80).astype(np.float32)
    pixels = torch.from_numpy(image).movedim(-1, 0)[None].float()
    grid = torch.from_numpy(face_grid(landmarks, 80))[None]
    made = F.grid_sample(pixels, grid, align_corners=False)[0].movedim(0, -1).numpy()
    assert np.abs(made - wanted).max() < 6 and np.abs(made - wanted).mean() < 1  # OpenCV interpolates twice, in bytes


def test_trainings_see_faces_as_the_factory_cuts_them() -> None:
    """The FR-ViT and the judge are served crops of factory/faces; trained on others, they would be a little off."""
    pack = load_pack("studio")
    image = portrait(0)[:, 60:]  # the crop reaches over the photo's edge
    face, *_ = FaceDetector(pack, PrepareConfig()).find(Photo(photo_id="0" * 64, name="ada", image=image)).faces
    look = FaceRecogniser(pack).look(image)
    assert look is not None and (judge_view(image, face.landmarks, 112) == look[1]).all()
    vit = ViTModel.from_pretrained(pack.folder(pack.fr_vit), add_pooling_layer=False, dtype=torch.float32).eval()
    with torch.inference_mode():
        trained = vit(pixel_values=pixels(vit_view(image, face.landmarks, 80)[None])).last_hidden_state[0, 0]
    (served,) = FeatureEncoder(pack).encode(face.crop[None])
    np.testing.assert_allclose(trained, served.crop, atol=0.05 * np.abs(served.crop).max())


def test_the_autoencoder_is_told_of_faces_alone_by_the_fr_vit() -> None:
    torch.manual_seed(5)
    size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    unlike = FaceDistance(ViTModel(ViTConfig(image_size=20, patch_size=10, **size), add_pooling_layer=False))
    grids = torch.from_numpy(face_grid(FFHQ_PX * 0.5 + 30, 20))[None]
    real = torch.rand(1, 3, 128, 128) * 2 - 1
    assert float(unlike(real, real, grids)) < 1e-6
    drawn = torch.rand(1, 3, 128, 128, requires_grad=True)
    (gradient,) = torch.autograd.grad(unlike(drawn, real, grids), [drawn])
    assert gradient.abs().max() > 0 and (gradient[..., :20, :] == 0).all()


def test_pixels_count_by_what_they_show() -> None:
    background, skin, ear_ring, eye, hair = pixel_weights(np.array([0, 1, 9, 4, 17]))
    assert background == ear_ring < hair < skin < eye


def _add_ranks(folder: Path, crew: Crew) -> None:
    values = [torch.tensor([crew.rank + 1.0]), torch.full((2, 2), 10.0 * crew.rank)]
    crew.sum(values)
    torch.save(values, folder / f"{crew.rank}.pt")


def test_one_crew_after_another_and_every_member_has_the_sum(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    for _ in range(2):
        crew.start(_add_ranks, tmp_path, size=2)
        for rank in (0, 1):
            file = tmp_path / f"{rank}.pt"
            first, second = torch.load(file, weights_only=True)
            assert float(first) == 3 and (second == 10).all()
            file.unlink()
    assert torch.get_num_threads() == threads


def test_latents_of_an_unfinished_crew_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    names = ["views_0_of_2.npz", "views_1_of_2.partial.npz", "views_0_of_1.npz", "views_1_of_3.npz"]
    for name in names:
        (tmp_path / "data" / name).touch()
    assert [path.name for path in latents.encoded_files(tmp_path, "views")] == ["views_0_of_1.npz"]
    (tmp_path / "data" / "views_0_of_1.npz").unlink()
    assert latents.encoded_files(tmp_path, "views") == []


def test_the_schedule_ends_in_pure_noise_and_weighs_the_error_of_the_picture() -> None:
    schedule = noise_schedule()
    assert float(schedule.alphas_cumprod[-1]) == pytest.approx(0, abs=1e-6)
    weights = step_weights(schedule)
    snr = schedule.alphas_cumprod / (1 - schedule.alphas_cumprod)
    np.testing.assert_allclose(weights * (snr + 1), (snr + 1).clamp(max=10), rtol=1e-5)


def test_the_pack_learns_identities_with_the_texts_its_views_were_named_by() -> None:
    pack = load_pack("studio")
    assert tuple(pack.prompt_templates) == VIEW_TEMPLATES
    assert all(PERSON not in template for template in pack.prompt_templates)


def _rows(num: int) -> Encoded:
    cells = torch.zeros(num, 16, 16)
    names = {"latents": torch.zeros(num, 4, 16, 16), "face": cells, "hair": cells}
    return Encoded(items=torch.arange(num), persons=torch.arange(num), **names)


def test_time_steps_cover_the_schedule_and_likeness_looks_at_the_clear_ones_alone(tmp_path: Path) -> None:
    torch.manual_seed(6)
    (tmp_path / "models").mkdir()
    torch.save(LatentFaces(4, 7).state_dict(), tmp_path / "models" / "latent_faces.pt")
    objective = Objective(tmp_path, torch.device("cpu"))
    steps = objective.steps(8, torch.Generator().manual_seed(0))
    assert (steps // 125).tolist() == list(range(8))
    noise, clean = torch.randn(8, 4, 16, 16), torch.randn(8, 4, 16, 16)
    truth = objective.schedule.get_velocity(clean, noise, steps)
    assert float(objective(truth, clean, noise, steps, _rows(8))["loss"]) < 1e-6
    clear = steps < LIKENESS_BELOW
    for wrong, seen in ((clear, True), (~clear, False)):
        guess = truth + wrong[:, None, None, None] * torch.randn(truth.shape)
        assert (float(objective(guess, clean, noise, steps, _rows(8))["unlike"]) > 1e-3) == seen


def test_encoded_pictures_are_joined_and_picked_row_by_row() -> None:
    both = _rows(3) + _rows(2)
    assert len(both) == 5 and both[torch.tensor([4, 0])].persons.tolist() == [1, 0]


def test_the_normalisation_is_folded_into_the_encoder() -> None:
    torch.manual_seed(7)
    model = train_vae._Trained().train()
    images = torch.rand(2, 3, 64, 64) * 2 - 1
    model.norm.momentum = None
    model.encode(images)
    model.eval()
    folded = model.folded()
    with torch.no_grad():
        wanted = model.encode(images)
        torch.testing.assert_close(folded.encode(images).latents, wanted, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(folded.decode(wanted).sample, model.vae.decode(wanted).sample)
    stds = wanted.std((0, 2, 3))
    assert (stds[: train_vae.MAIN_CHANNELS] > 0.9).all() and (stds[train_vae.MAIN_CHANNELS :] < 0.6).all()


def test_where_the_decoder_is_trained_alone_all_latents_stay() -> None:
    torch.manual_seed(8)
    vae = train_vae.make()
    images = torch.rand(2, 3, 64, 64) * 2 - 1
    before = vae.encode(images).latents
    model = train_vae._DecoderOnly(vae)
    model(images).square().mean().backward()
    trained = {name.split(".")[1] for name, p in model.named_parameters() if p.grad is not None}
    assert trained == {"decoder"}
    torch.testing.assert_close(model.folded().encode(images).latents, before)


class _OnePicture:
    """A data set of one picture: a red face on grey, with hair above it."""

    images = np.full((1, 128, 128, 3), 120, np.uint8)
    labels = np.zeros((1, 128, 128), np.uint8)
    landmarks = (FFHQ_PX * 0.5 + 32).astype(np.float32)[None]

    def __init__(self) -> None:
        self.images[0, 40:100, 40:90] = (220, 30, 30)
        self.labels[0, 40:100, 40:90], self.labels[0, 30:40, 40:90] = 1, 17


def test_a_view_is_a_piece_on_black_and_its_cells_say_where_the_face_is() -> None:
    image, cells = view_of(_OnePicture(), 0, seed=3)  # type: ignore[arg-type]
    again, _ = view_of(_OnePicture(), 0, seed=3)  # type: ignore[arg-type]
    assert (image == again).all() and image.shape == (128, 128, 3) and cells.shape == (2, 16, 16)
    red = (image[..., 0].astype(int) - image[..., 1] > 80).reshape(16, 8, 16, 8).mean((1, 3))
    assert (image == 0).all(-1).mean() > 0.1  # the canvas
    assert cells[0].any() and red[cells[0]].mean() > 0.7 and red[~cells[0]].mean() < 0.2
    assert not (cells[0] & cells[1]).all()


def test_a_run_logs_means_of_numbers_and_of_what_lies_on_a_device(tmp_path: Path) -> None:
    run = Run(tmp_path, "some", steps=LOG_EVERY)
    for step in range(LOG_EVERY):
        run.advance(save=False)
        run.track(number=step, tensor=torch.tensor(2.0 * step, requires_grad=True))
    line = json.loads(run.log_file.read_text())
    assert line["number"] == (LOG_EVERY - 1) / 2 and line["tensor"] == LOG_EVERY - 1


def test_views_that_are_missing_or_half_drawn_are_refused_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("studio.training.views.NUM_VIEWS", 3)
    (tmp_path / "data").mkdir()
    with pytest.raises(FileNotFoundError, match="studio dataset"):
        Views(tmp_path)
    Views(tmp_path, writable=True).done[:2] = True
    with pytest.raises(RuntimeError, match="2 of 3 views"):
        Views(tmp_path)
    Views(tmp_path, writable=True).done[:] = True
    assert Views(tmp_path).done.all()
