"""Crops -> features: who it is, as a vector. The FR-ViT's, or CLIP's for the paper's ablation of the encoder."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from safetensors import SafetensorError
from transformers import AutoImageProcessor, CLIPVisionModel, ViTModel

from factory.errors import PackError
from factory.pack import Pack
from factory.records import FaceFeatures


class FeatureEncoder:
    """A pack's frozen face encoder: the FR-ViT, or the image tower of its CLIP. Torch's threads are the caller's."""

    def __init__(
        self,
        pack: Pack,
        *,
        device: str = "cpu",
        batch_size: int = 8,
        source: Literal["fr_vit", "clip"] = "fr_vit",  # MethodConfig.features
    ) -> None:
        """Load it; raises PackError if weights are missing or of another model."""
        part = pack.fr_vit if source == "fr_vit" else pack.clip
        if part is None:
            raise PackError(f"pack {pack.name!r} has no CLIP; name one under [clip] in its pack.toml")
        folder, remedy = pack.folder(part), pack.remedy(part)
        kind, options = (ViTModel, {"add_pooling_layer": False}) if source == "fr_vit" else (CLIPVisionModel, {})
        try:
            # A recogniser's classification head or a pooler in the file is fine; the method uses neither.
            model, report = kind.from_pretrained(
                folder,
                output_loading_info=True,
                local_files_only=True,
                use_safetensors=True,
                dtype=torch.float32,
                **options,
            )
            self._processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True)
        except (OSError, SafetensorError) as error:
            raise PackError(f"the face encoder in {folder} cannot be loaded: {error}; {remedy}") from error
        if report["missing_keys"] or report["mismatched_keys"]:
            lacking = sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]]))[:3]
            raise PackError(f"the face encoder in {folder} lacks weights ({', '.join(lacking)}, ...); {remedy}")
        self._model = model.eval().requires_grad_(False).to(device)
        self._device = device
        self._batch_size = batch_size
        self._crop_box = pack.crop_box

    @property
    def width(self) -> int:
        """F, the length of a feature."""
        return int(self._model.config.hidden_size)

    def encode(self, crops: np.ndarray) -> list[FaceFeatures]:
        """Features of crops uint8 [N, S, S, 3] and of their mirror images, float32 [F] each."""
        views = [cut_box(crop, self._crop_box) for crop in crops]
        straight = self._features(views)
        mirrored = self._features([view[:, ::-1] for view in views])
        return [FaceFeatures(crop=crop, mirror=mirror) for crop, mirror in zip(straight, mirrored, strict=True)]

    @torch.inference_mode()
    def _features(self, views: list[np.ndarray]) -> list[np.ndarray]:
        features: list[np.ndarray] = []
        for start in range(0, len(views), self._batch_size):
            batch = [np.ascontiguousarray(view) for view in views[start : start + self._batch_size]]
            pixels = self._processor(batch, return_tensors="pt", input_data_format="channels_last")["pixel_values"]
            hidden_BLF = self._model(pixels.to(self._device)).last_hidden_state  # L here: [CLS] and patches
            features += list(hidden_BLF[:, 0].cpu().numpy().copy())
        return features


def cut_box(crop: np.ndarray, box: tuple[float, float, float, float]) -> np.ndarray:
    """What the ViT sees of a crop [S, S, 3]: the box (x0 y0 x1 y1, fractions of the side)."""
    x0, y0, x1, y1 = (round(edge * crop.shape[0]) for edge in box)
    return crop[y0:y1, x0:x1]
