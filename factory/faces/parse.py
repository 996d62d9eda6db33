"""Crops -> face and hair masks, with facexlib's parsing networks and the pack's weights and class lists."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from facexlib.parsing.bisenet import BiSeNet
from facexlib.parsing.parsenet import ParseNet
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from factory.config import PrepareConfig
from factory.errors import PackError, PhotoRejected
from factory.pack import Pack
from factory.parts import ParserPart
from factory.records import FaceMasks

_NUM_CLASSES = 19  # of CelebAMask-HQ, which both networks are trained on (each numbers them its own way)


class FaceParser:
    """The pack's parsing network, frozen. Torch's threads are the caller's to set."""

    def __init__(self, pack: Pack, *, device: str = "cpu", batch_size: int = 8) -> None:
        """Load it; raises PackError if the weights are missing, damaged or of another network."""
        part = pack.parser
        self._network = _network(part)
        try:
            self._network.load_state_dict(_weights(pack.folder(part)))
        except RuntimeError as error:
            raise PackError(
                f"the weights {part.path} of pack {pack.name!r} do not fit {part.network} with options {part.options}: "
                f"{str(error)[:300]}; {pack.remedy(part)}"
            ) from error
        self._network.eval().requires_grad_(False).to(device)
        self._part = part
        self._device = device
        self._batch_size = batch_size
        self._mean_3 = torch.tensor(part.mean, device=device).view(1, 3, 1, 1)
        self._std_3 = torch.tensor(part.std, device=device).view(1, 3, 1, 1)

    @torch.inference_mode()
    def parse(self, crops: np.ndarray) -> list[FaceMasks]:
        """Masks of crops uint8 [N, S, S, 3]. Masks may be empty: `check_masks` judges them."""
        masks: list[FaceMasks] = []
        for start in range(0, len(crops), self._batch_size):
            batch = crops[start : start + self._batch_size]
            labels = self.labels(batch)
            face = np.isin(labels, self._part.face_classes)
            hair = np.isin(labels, self._part.hair_classes) & ~face
            masks += [FaceMasks(face=f, hair=h) for f, h in zip(face, hair, strict=True)]
        return masks

    @torch.inference_mode()
    def labels(self, crops: np.ndarray) -> np.ndarray:
        """The likeliest class of each pixel of crops uint8 [N, S, S, 3], int64 [N, S, S]; all N at once."""
        side = crops.shape[1]
        pixels = torch.from_numpy(np.ascontiguousarray(crops)).to(self._device).permute(0, 3, 1, 2).float() / 255
        pixels = _resize(pixels, self._part.input_px, antialias=True)
        scores = self._network((pixels - self._mean_3) / self._std_3)[0]  # both networks give the final map first
        # Scores are resized rather than labels: edges stay smooth, and no class appears that lies between two others.
        return _resize(scores, side, antialias=False).argmax(1).cpu().numpy()


def check_masks(masks: FaceMasks, config: PrepareConfig) -> None:
    """Raises PhotoRejected("masks_empty") if the face mask covers less of the crop than the config asks for."""
    share = float(masks.face.mean())
    if share < config.min_mask_fraction or not masks.face.any():
        least = f"{config.min_mask_fraction:.1%} is the least (min_mask_fraction)"
        raise PhotoRejected("masks_empty", f"the face mask covers {share:.1%} of the crop; {least}")


def _resize(images: torch.Tensor, side: int, *, antialias: bool) -> torch.Tensor:
    if images.shape[-1] == side:
        return images
    return F.interpolate(images, size=(side, side), mode="bilinear", align_corners=False, antialias=antialias)


def _network(part: ParserPart) -> nn.Module:
    if part.network == "BiSeNet":
        network, known = BiSeNet, {"num_class": _NUM_CLASSES}
    else:
        network, known = ParseNet, {"in_size": part.input_px, "out_size": part.input_px, "parsing_ch": _NUM_CLASSES}
    try:
        return network(**(known | part.options))
    except TypeError as error:
        raise PackError(f"[parser.options] do not fit {part.network}: {error}") from error


def _weights(file: Path) -> dict[str, torch.Tensor]:
    """A state dict from .safetensors. Raises PackError, for pickles, too."""
    if file.suffix != ".safetensors":
        raise PackError(f"{file}: packs load no pickles, only .safetensors, which `packs fetch` makes of them")
    try:
        return load_file(file)
    except (SafetensorError, RuntimeError) as error:
        raise PackError(f"{file} is damaged or no state dict: {str(error)[:300]}") from error
