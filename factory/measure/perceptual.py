"""LPIPS and Inception features on their real weights, through torchmetrics. Nothing is downloaded here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torchmetrics.image.fid import NoTrainInceptionV3
from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

from factory.errors import PackError

_ALEXNET = "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth"
_INCEPTION = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
)


class Lpips:
    """LPIPS with AlexNet (Zhang et al., arXiv 1801.03924); its linear weights come with torchmetrics."""

    def __init__(self, *, device: str = "cpu") -> None:
        """Raises PackError, with the remedy, where AlexNet's weights are not in torch's cache."""
        _cached(_ALEXNET, "LPIPS", 'face_div="clip"')
        self._metric = LearnedPerceptualImagePatchSimilarity(net_type="alex", normalize=True, reduction="none")
        self._metric.to(device)
        self._device = device

    @torch.inference_mode()
    def distances(self, faces: Sequence[np.ndarray]) -> np.ndarray:
        """LPIPS between all pairs of faces uint8 [H, W, 3] RGB of one size, float64 [N, N]."""
        pixels = torch.from_numpy(np.stack(faces)).to(self._device).permute(0, 3, 1, 2).float() / 255
        out = np.zeros((len(faces), len(faces)))
        for first in range(len(faces) - 1):
            others = pixels[first + 1 :]
            row = self._metric(pixels[first : first + 1].expand_as(others), others).cpu().numpy()
            out[first, first + 1 :] = out[first + 1 :, first] = np.atleast_1d(row)
            self._metric.reset()
        return out


class Inception:
    """The 2,048 features of FID's Inception-v3 (Heusel et al., arXiv 1706.08500)."""

    def __init__(self, *, device: str = "cpu", batch_size: int = 16) -> None:
        """Raises PackError, with the remedy, where torch-fidelity or its weights are missing."""
        weights = _cached(_INCEPTION, "FID with Inception", 'fid="clip"')
        try:
            self._network = NoTrainInceptionV3("inception-v3-compat", ["2048"], str(weights)).to(device)
        except ModuleNotFoundError as error:
            raise PackError('FID with Inception wants `pip install torch-fidelity`; or set fid="clip"') from error
        self._device, self._batch_size = device, batch_size

    @torch.inference_mode()
    def images(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """Features float32 [N, 2048] of pictures uint8 [S, S, 3] RGB of one size."""
        parts = []
        for first in range(0, len(pictures), self._batch_size):
            batch = torch.from_numpy(np.stack(pictures[first : first + self._batch_size])).permute(0, 3, 1, 2)
            parts.append(self._network(batch.to(self._device)).cpu())
        return torch.cat(parts).numpy()


def _cached(url: str, what: str, otherwise: str) -> Path:
    """Where torch keeps a downloaded file. PackError if it is not there."""
    file = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[1]
    if not file.is_file():
        raise PackError(f"{what} wants {url} as {file}; fetch it, or measure with the pack's CLIP: set {otherwise}")
    return file
