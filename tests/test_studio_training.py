"""The parts of the studio's training that can be checked without training."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
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
from studio.training import vae as train_vae
from studio.training.clip import pixels
from studio.training.crew import Crew
from studio.training.crops import FFHQ_PX, face_grid, judge_view, vit_view
from studio.training.loop import LOG_EVERY, Run
from studio.training.vae import FaceDistance, pixel_weights
from studio.training.views import Views, view_of
from studio.world.captions import VIEW_TEMPLATES


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


def test_the_pack_learns_identities_with_the_texts_its_views_were_named_by() -> None:
    pack = load_pack("studio")
    assert tuple(pack.prompt_templates) == VIEW_TEMPLATES
    assert all(PERSON not in template for template in pack.prompt_templates)


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
