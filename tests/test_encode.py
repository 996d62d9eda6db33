"""FR-ViT features: of the right part of the crop, through the model's own processor."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor, ViTModel

from factory.errors import PackError
from factory.faces.encode import FeatureEncoder
from factory.pack import Pack
from factory.supply.pickles import convert

CROPS = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3)).astype(np.uint8)


def by_hand(pack: Pack, view: np.ndarray) -> np.ndarray:
    """Pillow's bilinear resize, (x - mean) / std, CLS of the last hidden state."""
    processor = ViTImageProcessor.from_pretrained(pack.root / "fr_vit")
    model = ViTModel.from_pretrained(pack.root / "fr_vit", add_pooling_layer=False).eval()
    side = processor.size["height"]
    resized = np.asarray(Image.fromarray(view).resize((side, side), Image.Resampling.BILINEAR)) / 255
    pixels = ((resized - np.array(processor.image_mean)) / np.array(processor.image_std)).astype(np.float32)
    with torch.no_grad():
        hidden = model(torch.from_numpy(pixels).permute(2, 0, 1)[None]).last_hidden_state
    return np.asarray(hidden[0, 0])


def with_vit(pack: Pack, path: Path) -> Pack:
    return pack.model_copy(update={"fr_vit": pack.fr_vit.model_copy(update={"path": str(path)})})


def test_features_are_those_of_the_cut_crop_and_its_mirror(tiny_pack: Pack) -> None:
    encoder = FeatureEncoder(tiny_pack)
    features = encoder.encode(CROPS)
    assert len(features) == 3 and encoder.width == 48
    for crop, feature in zip(CROPS, features, strict=True):
        assert feature.crop.shape == feature.mirror.shape == (48,) and feature.crop.dtype == np.float32
        view = crop[9:56, 8:55]  # (64, 70, 440, 446) / 512 of 64 px
        # the processor may round resized pixels differently, by one level of 255 at most
        np.testing.assert_allclose(feature.crop, by_hand(tiny_pack, view), atol=0.03)
        np.testing.assert_allclose(feature.mirror, by_hand(tiny_pack, np.ascontiguousarray(view[:, ::-1])), atol=0.03)
        assert np.abs(feature.crop - feature.mirror).max() > 0.1


def test_what_lies_outside_the_box_does_not_matter(tiny_pack: Pack) -> None:
    encoder = FeatureEncoder(tiny_pack)
    framed = CROPS[:1].copy()
    framed[:, :8], framed[:, 57:], framed[:, :, :7], framed[:, :, 56:] = 0, 0, 0, 0
    np.testing.assert_array_equal(encoder.encode(CROPS[:1])[0].crop, encoder.encode(framed)[0].crop)


def test_batches_do_not_matter(tiny_pack: Pack) -> None:
    together = FeatureEncoder(tiny_pack).encode(CROPS)
    alone = FeatureEncoder(tiny_pack, batch_size=1).encode(CROPS)
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_allclose(one.crop, other.crop, atol=1e-5)
        np.testing.assert_allclose(one.mirror, other.mirror, atol=1e-5)
    assert FeatureEncoder(tiny_pack).encode(CROPS[:0]) == []


def test_the_model_is_frozen(tiny_pack: Pack) -> None:
    model = FeatureEncoder(tiny_pack)._model
    assert not model.training and not any(parameter.requires_grad for parameter in model.parameters())


def test_weights_of_a_classifier_are_accepted_once_they_are_no_pickle(tiny_pack: Pack, tmp_path: Path) -> None:
    """What the hub has: a recogniser with its classification head, without a pooler, as pytorch_model.bin."""
    config = ViTConfig.from_pretrained(tiny_pack.root / "fr_vit")
    classifier = ViTForImageClassification(config).eval()
    config.save_pretrained(tmp_path)
    torch.save(classifier.state_dict(), tmp_path / "pytorch_model.bin")
    shutil.copy(tiny_pack.root / "fr_vit" / "preprocessor_config.json", tmp_path)
    pack = with_vit(tiny_pack, tmp_path)
    with pytest.raises(PackError, match="cannot be loaded"):
        FeatureEncoder(pack)
    convert(tmp_path / "pytorch_model.bin", tmp_path / "model.safetensors")
    feature = FeatureEncoder(pack).encode(CROPS[:1])[0]
    classifier.vit.save_pretrained(tmp_path / "plain" / "fr_vit")
    shutil.copy(tmp_path / "preprocessor_config.json", tmp_path / "plain" / "fr_vit")
    plain = FeatureEncoder(with_vit(tiny_pack, tmp_path / "plain" / "fr_vit")).encode(CROPS[:1])[0]
    np.testing.assert_allclose(feature.crop, plain.crop, atol=1e-6)


def test_missing_or_foreign_weights_are_refused(tiny_pack: Pack, tmp_path: Path) -> None:
    with pytest.raises(PackError, match="nowhere"):
        FeatureEncoder(with_vit(tiny_pack, tmp_path / "nowhere"))
    shutil.copytree(tiny_pack.root / "fr_vit", tmp_path / "vit")
    (tmp_path / "vit" / "model.safetensors").unlink()
    with pytest.raises(PackError, match="cannot be loaded"):
        FeatureEncoder(with_vit(tiny_pack, tmp_path / "vit"))
    (tmp_path / "vit" / "model.safetensors").write_bytes(b"not weights at all")
    with pytest.raises(PackError, match="cannot be loaded"):
        FeatureEncoder(with_vit(tiny_pack, tmp_path / "vit"))
    (tmp_path / "vit" / "model.safetensors").unlink()
    save_file({"something.else": torch.zeros(3)}, tmp_path / "vit" / "model.safetensors", {"format": "pt"})
    with pytest.raises(PackError, match="lacks weights"):
        FeatureEncoder(with_vit(tiny_pack, tmp_path / "vit"))
