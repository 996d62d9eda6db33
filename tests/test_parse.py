"""Masks from facexlib's two networks with random weights, and what becomes of their class maps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from facexlib.parsing.bisenet import BiSeNet
from facexlib.parsing.parsenet import ParseNet
from safetensors.torch import save_file

from factory.config import PrepareConfig
from factory.errors import PackError, PhotoRejected
from factory.faces.parse import FaceParser, check_masks
from factory.pack import Pack
from factory.records import FaceMasks
from factory.supply.pickles import convert

SMALL = {"in_size": 64, "out_size": 64, "min_feat_size": 32, "base_ch": 8, "res_depth": 1, "ch_range": [8, 16]}
CROPS = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3)).astype(np.uint8)


def with_parser(pack: Pack, **changes: Any) -> Pack:
    return pack.model_copy(update={"parser": pack.parser.model_copy(update=changes)})


@pytest.fixture(scope="module")
def bisenet_pack(tiny_pack: Pack, tmp_path_factory: pytest.TempPathFactory) -> Pack:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("bisenet")
    torch.save(BiSeNet(num_class=19).state_dict(), folder / "parsing_bisenet.pth")
    file = folder / "parsing_bisenet.safetensors"
    convert(folder / "parsing_bisenet.pth", file)  # as `packs fetch` does
    imagenet = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    options = {"num_class": 19}
    return with_parser(tiny_pack, path=str(file), network="BiSeNet", options=options, input_px=128, **imagenet)


def labelled(parser: FaceParser, labels: np.ndarray) -> FaceParser:
    """The parser with a network that gives `labels` [h, w], whatever it is shown, as one-hot scores."""
    one_hot = torch.nn.functional.one_hot(torch.from_numpy(labels).long(), 19).permute(2, 0, 1).float()

    class Fixed(torch.nn.Module):
        def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor]:
            return (one_hot.expand(len(pixels), -1, -1, -1),)

    parser._network = Fixed()
    return parser


def test_parsenet_of_the_pack(tiny_pack: Pack) -> None:
    masks = FaceParser(tiny_pack).parse(CROPS)
    assert len(masks) == 3
    for mask in masks:
        assert mask.face.shape == mask.hair.shape == (64, 64)
        assert mask.face.dtype == mask.hair.dtype == bool
        assert not (mask.face & mask.hair).any()


def test_masks_follow_the_network_and_its_preprocessing(bisenet_pack: Pack) -> None:
    """The same network, run by hand on crops of its own input size, has the same classes."""
    network = BiSeNet(num_class=19).eval()
    network.load_state_dict(torch.load(bisenet_pack.parser.path, weights_only=True))
    crops = np.random.default_rng(1).integers(0, 256, (2, 128, 128, 3)).astype(np.uint8)
    pixels = (crops / 255 - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
    with torch.no_grad():
        labels = network(torch.from_numpy(pixels).float().permute(0, 3, 1, 2))[0].argmax(1).numpy()
    for mask, label in zip(FaceParser(bisenet_pack).parse(crops), labels, strict=True):
        face, hair = np.isin(label, bisenet_pack.parser.face_classes), np.isin(label, bisenet_pack.parser.hair_classes)
        assert (mask.face != face).mean() < 0.001 and (mask.hair != hair).mean() < 0.001


def test_masks_come_back_in_the_crops_size(bisenet_pack: Pack) -> None:
    assert FaceParser(bisenet_pack).parse(CROPS)[0].face.shape == (64, 64)
    large = np.zeros((1, 200, 200, 3), np.uint8)
    assert FaceParser(bisenet_pack).parse(large)[0].face.shape == (200, 200)


def test_class_lists_decide(tiny_pack: Pack) -> None:
    labels = np.zeros((64, 64), int)
    labels[:, :16], labels[:, 16:32], labels[:, 32:48] = 1, 17, 13
    mask = labelled(FaceParser(tiny_pack), labels).parse(CROPS[:1])[0]
    np.testing.assert_array_equal(mask.face, np.isin(labels, (1, 13)))
    np.testing.assert_array_equal(mask.hair, labels == 17)
    other = with_parser(tiny_pack, face_classes=[1], hair_classes=[13])  # ParseNet's own numbering: hair is 13
    mask = labelled(FaceParser(other), labels).parse(CROPS[:1])[0]
    np.testing.assert_array_equal(mask.face, labels == 1)
    np.testing.assert_array_equal(mask.hair, labels == 13)


def test_hair_never_overlaps_the_face(tiny_pack: Pack) -> None:
    both = with_parser(tiny_pack, face_classes=[1, 17], hair_classes=[17])
    mask = labelled(FaceParser(both), np.full((64, 64), 17)).parse(CROPS[:1])[0]
    assert mask.face.all() and not mask.hair.any()


def test_resized_maps_contain_no_class_that_was_not_there(tiny_pack: Pack) -> None:
    """Between hair (17) and background (0) lies no face class, though their mean number is one."""
    labels = np.where(np.arange(64) < 32, 17, 0) * np.ones((64, 1), int)
    mask = labelled(FaceParser(tiny_pack), labels).parse(np.zeros((1, 200, 200, 3), np.uint8))[0]
    assert not mask.face.any() and abs(mask.hair.mean() - 0.5) < 0.01


def test_batches_do_not_matter(tiny_pack: Pack) -> None:
    together, alone = FaceParser(tiny_pack).parse(CROPS), FaceParser(tiny_pack, batch_size=1).parse(CROPS)
    for one, other in zip(together, alone, strict=True):
        assert (one.face == other.face).mean() > 0.999 and (one.hair == other.hair).mean() > 0.999
    assert FaceParser(tiny_pack).parse(CROPS[:0]) == []


def test_options_reach_the_network(tiny_pack: Pack, tmp_path: Path) -> None:
    save_file({k: v.contiguous() for k, v in ParseNet(**SMALL).state_dict().items()}, tmp_path / "small.safetensors")
    small = with_parser(tiny_pack, path=str(tmp_path / "small.safetensors"), options=SMALL)
    assert FaceParser(small).parse(CROPS)[0].face.shape == (64, 64)
    with pytest.raises(PackError, match="do not fit ParseNet"):
        FaceParser(with_parser(small, options={**SMALL, "base_ch": 16}))
    with pytest.raises(PackError, match="no_such_option"):
        FaceParser(with_parser(small, options={**SMALL, "no_such_option": 1}))


def test_missing_weights_name_the_remedy(tiny_pack: Pack) -> None:
    with pytest.raises(PackError, match=r"nowhere\.safetensors"):
        FaceParser(with_parser(tiny_pack, path="nowhere.safetensors"))


def test_damaged_weights(tiny_pack: Pack, tmp_path: Path) -> None:
    for name, says in (("bad.safetensors", "damaged"), ("bad.pth", "no pickles")):
        (tmp_path / name).write_bytes(b"not weights at all")
        with pytest.raises(PackError, match=says):
            FaceParser(with_parser(tiny_pack, path=str(tmp_path / name)))


def test_empty_masks_are_refused() -> None:
    none, some = np.zeros((10, 10), bool), np.zeros((10, 10), bool)
    some[:1] = True  # a tenth
    check_masks(FaceMasks(face=some, hair=none), PrepareConfig(min_mask_fraction=0.1))
    for face, least in ((some, 0.11), (none, 0.05), (none, 0.0)):
        with pytest.raises(PhotoRejected) as refusal:
            check_masks(FaceMasks(face=face, hair=some), PrepareConfig(min_mask_fraction=least))
        assert refusal.value.reason == "masks_empty"
