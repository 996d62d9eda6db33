"""The pack's CLIP as a measuring instrument: embeddings of pictures and texts, and the distance of Face Div."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel

from factory.errors import PackError
from factory.pack import Pack


class ClipScorer:
    """A pack's frozen CLIP. Torch's threads are the caller's."""

    def __init__(self, pack: Pack, *, device: str = "cpu", batch_size: int = 16) -> None:
        """Load it; raises PackError if the pack has none or its files are damaged."""
        if pack.clip is None:
            raise PackError(f"pack {pack.name!r} has no CLIP to measure with; name one under [clip] in its pack.toml")
        folder = pack.folder(pack.clip)
        try:
            model = CLIPModel.from_pretrained(folder, local_files_only=True, use_safetensors=True, dtype=torch.float32)
            self._processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True)
            self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except (OSError, SafetensorError) as error:
            remedy = pack.remedy(pack.clip)
            raise PackError(f"the CLIP model in {folder} cannot be loaded: {error}; {remedy}") from error
        self._model = model.eval().requires_grad_(False).to(device)
        self._device, self._batch_size = device, batch_size
        self._num_tokens = int(model.config.text_config.max_position_embeddings)

    @torch.inference_mode()
    def images(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """Image embeddings, not normalised, float32 [N, K], of pictures uint8 [H, W, 3] RGB."""
        parts = [
            self._model.visual_projection(self._vision(batch).pooler_output).cpu() for batch in self._batches(pictures)
        ]
        return torch.cat(parts).numpy() if parts else np.empty((0, self._model.config.projection_dim), np.float32)

    @torch.inference_mode()
    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """Text embeddings, not normalised, float32 [N, K]."""
        tokens = self._tokenizer(
            list(texts), padding="max_length", truncation=True, max_length=self._num_tokens, return_tensors="pt"
        ).to(self._device)
        return self._model.get_text_features(**tokens).pooler_output.cpu().numpy()

    @torch.inference_mode()
    def patches(self, pictures: Sequence[np.ndarray]) -> list[torch.Tensor]:
        """The patches' features after each block of the image tower, float32 [N, L, C] a block; N is 1 or more."""
        parts = [self._vision(batch, hidden=True).hidden_states[1:] for batch in self._batches(pictures)]
        return [torch.cat([part[block][:, 1:].cpu() for part in parts]) for block in range(len(parts[0]))]

    def _batches(self, pictures: Sequence[np.ndarray]) -> list[Sequence[np.ndarray]]:
        return [pictures[first : first + self._batch_size] for first in range(0, len(pictures), self._batch_size)]

    def _vision(self, pictures: Sequence[np.ndarray], *, hidden: bool = False) -> Any:
        batch = [np.ascontiguousarray(picture) for picture in pictures]
        pixels = self._processor(batch, return_tensors="pt", input_data_format="channels_last")["pixel_values"]
        return self._model.vision_model(pixel_values=pixels.to(self._device), output_hidden_states=hidden)
