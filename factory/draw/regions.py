"""Several people in one picture: every person's text reaches the cells of its own region, and no others.

A row with regions has a text for each; they lie one behind the other along the tokens, and a mask says which cells of
the cross-attention may read which. Rows without regions share the call: they have one text, open everywhere. Shape
suffixes as in factory/draw/engine.py, and `R` texts of a row, `K` = R * L tokens, `Q` cells of an attention layer.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from diffusers import UNet2DConditionModel
from torch import nn
from torch.nn import functional

Box: TypeAlias = tuple[float, float, float, float]  # x0 y0 x1 y1, shares of the picture


def region_masks(boxes: Sequence[Box], height: int, width: int) -> torch.Tensor:
    """Which latent cells each box holds, bool [R, H, W]; cells of no box are everybody's.

    A cell belongs to a box where its middle does.
    """
    y = (torch.arange(height) + 0.5) / height
    x = (torch.arange(width) + 0.5) / width
    masks = [((y >= y0) & (y < y1))[:, None] & ((x >= x0) & (x < x1))[None] for x0, y0, x1, y1 in boxes]
    masks_RHW = torch.stack(masks)
    return masks_RHW | ~masks_RHW.any(0)


class _Call(threading.local):
    """The call in progress, of each thread its own."""

    masks_SRHW: torch.Tensor | None = None
    num_tokens: int = 0  # L

    def __init__(self) -> None:
        self.biases: dict[int, torch.Tensor] = {}  # by Q


class RegionalAttention:
    """Puts masks behind the cross-attention of a UNet, and pools the texts of a row one by one where it pools them."""

    def __init__(self, unet: UNet2DConditionModel) -> None:
        self._call = _Call()
        processors = dict(unet.attn_processors)
        for name, processor in processors.items():
            if ".attn2." in name:
                processors[name] = _Masked(processor, self.bias)
        unet.set_attn_processor(processors)
        if getattr(unet, "add_embedding", None) is not None and unet.config.addition_embed_type == "text":
            unet.add_embedding = _PooledApart(unet.add_embedding, self)

    @contextmanager
    def of(self, masks_SRHW: torch.Tensor | None, num_tokens: int) -> Iterator[None]:
        """During one call of the UNet: bool masks of each sample's texts (all False: it has no such text), or None
        where every sample has one text."""
        self._call.masks_SRHW, self._call.num_tokens = masks_SRHW, num_tokens
        self._call.biases = {}
        try:
            yield
        finally:
            self._call.masks_SRHW = None

    def bias(self, num_cells: int, dtype: torch.dtype) -> torch.Tensor | None:
        """What is added to the scores of an attention layer: 0 or minus infinity, [S, Q, K]."""
        if self._call.masks_SRHW is None:
            return None
        if num_cells not in self._call.biases:
            self._call.biases[num_cells] = self._bias(num_cells, dtype)
        return self._call.biases[num_cells]

    def weights(self) -> torch.Tensor | None:
        """What each text of a sample counts where texts are pooled: its share of the cells, [S, R]."""
        if self._call.masks_SRHW is None:
            return None
        cells_SR = self._call.masks_SRHW.flatten(2).sum(2).float()
        return cells_SR / cells_SR.sum(1, keepdim=True)

    def _bias(self, num_cells: int, dtype: torch.dtype) -> torch.Tensor:
        assert self._call.masks_SRHW is not None
        height, width = self._call.masks_SRHW.shape[-2:]
        shrink = round((height * width / num_cells) ** 0.5)
        size = -(-height // shrink), -(-width // shrink)
        shares = functional.adaptive_avg_pool2d(self._call.masks_SRHW.float(), size)
        reads_SRQ = (shares >= shares.amax(1, keepdim=True).clamp(min=1e-6)).flatten(2)  # the larger share wins
        reads_SQK = reads_SRQ.transpose(1, 2).repeat_interleave(self._call.num_tokens, 2)
        return torch.zeros_like(reads_SQK, dtype=dtype).masked_fill_(~reads_SQK, float("-inf"))


class _Masked:
    """An attention processor with the mask of the call in progress."""

    def __init__(self, inner: Any, bias: Callable[[int, torch.dtype], torch.Tensor | None]) -> None:
        self._inner, self._bias = inner, bias

    def __call__(
        self,
        attn: nn.Module,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        temb: torch.Tensor | None = None,
    ) -> torch.Tensor:
        bias = self._bias(hidden_states.shape[1], hidden_states.dtype)
        mask = attention_mask if bias is None else bias
        output: torch.Tensor = self._inner(attn, hidden_states, encoder_hidden_states, mask, temb)
        return output


class _PooledApart(nn.Module):
    """A UNet's pooling of the text, of each text of a sample alone; the results count by their regions' sizes."""

    def __init__(self, inner: nn.Module, regions: RegionalAttention) -> None:
        super().__init__()
        self.inner = inner
        self._regions = regions

    def forward(self, text_SKD: torch.Tensor) -> torch.Tensor:
        weights_SR = self._regions.weights()
        if weights_SR is None:
            plain: torch.Tensor = self.inner(text_SKD)
            return plain
        samples, texts = weights_SR.shape
        apart = text_SKD.view(samples * texts, -1, text_SKD.shape[-1])
        pooled = self.inner(apart).view(samples, texts, -1)
        return (pooled * weights_SR.unsqueeze(-1).to(pooled.dtype)).sum(1)
