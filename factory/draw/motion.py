"""Motion layers: frames of a clip are rows of the engine, and these layers let them see each other.

They are diffusers' `MotionAdapter` (AnimateDiff, arXiv 2307.04725) put behind the blocks of the frozen UNet by hooks,
so that any UNet may have them; between calls of clips it is as it was. AnimateDiff's layers see no text: a UNet whose
text tower knows the names of motions shows them by its own cross-attention. One whose tower never met those words does
not, and for it a `MotionText` reads the text for the layers.

Shape suffixes as in factory/draw/engine.py, and `N` clips of a call, `F` frames of a clip, `E` width of the reader.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from diffusers import MotionAdapter, UNet2DConditionModel
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import nn

from factory.base.diffusion import DiffusionBase
from factory.errors import PackError


class MotionText(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """What each frame of a clip reads in the clip's text, for each motion layer."""

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self, text_width: int, layer_channels: Sequence[int], width: int = 192, num_heads: int = 6, max_frames: int = 32
    ) -> None:
        super().__init__()
        self.frames = nn.Embedding(max_frames, width)
        self.norm_text, self.norm = nn.LayerNorm(text_width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, num_heads, kdim=text_width, vdim=text_width, batch_first=True)
        self.mix = nn.Sequential(nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width))
        self.tell = nn.ModuleList([nn.Linear(width, channels) for channels in layer_channels])

    def forward(self, text_NLD: torch.Tensor, frames_F: torch.Tensor) -> list[torch.Tensor]:
        """For each motion layer what it adds to what it looks at, [N, F, C]; `frames_F`: numbers of frames, int64."""
        asked_NFE = self.frames(frames_F).expand(len(text_NLD), -1, -1)
        text_NLD = self.norm_text(text_NLD)
        hidden_NFE = asked_NFE + self.attention(asked_NFE, text_NLD, text_NLD, need_weights=False)[0]
        hidden_NFE = hidden_NFE + self.mix(self.norm(hidden_NFE))
        return [layer(hidden_NFE) for layer in self.tell]


@dataclass(frozen=True, slots=True)
class ClipRows:
    """Where the frames of a clip lie among the samples of a UNet call: one behind the other."""

    first: int
    num_frames: int


class FramesTogether(Protocol):
    """What makes clips of frames."""

    @property
    def shared_noise(self) -> float:
        """Share of the noise's variance that is the same in every frame."""
        ...

    @property
    def steadiness(self) -> float:
        """How much of what flickers is taken out of a finished clip (`steadied`)."""
        ...

    def prepare(self, num_frames: int, *, posed: bool) -> None:
        """Before the first step of a clip. Raises PackError or ValueError where it cannot be made."""
        ...

    def of(self, clips: Sequence[ClipRows], text_SLD: torch.Tensor) -> AbstractContextManager[None]:
        """During one call of the UNet: which samples are clips, and the samples' texts."""
        ...


def clip_noise(shape_FCHW: Sequence[int], random: torch.Generator, shared: float) -> torch.Tensor:
    """Normal noise of a clip's frames [F, C, H, W], of which a share is the same in all: so the frozen base model shows
    the same place in them (mixed noise of PYoCo, arXiv 2305.10474)."""
    own_FCHW = torch.randn(tuple(shape_FCHW), generator=random)
    common_1CHW = torch.randn((1, *shape_FCHW[1:]), generator=random)
    return shared**0.5 * common_1CHW + (1 - shared) ** 0.5 * own_FCHW


def steadied(x_FCHW: torch.Tensor, strength: float) -> torch.Tensor:
    """Frames of a clip, [F, C, H, W], without most of what flickers in them.

    A cell's run over time is taken apart into cosines, and each shrunk by Wiener's factor 1 - `strength` noise / energy
    (never below 0): motion is strong and slow, and stays nearly as it is; what changes as little and as fast as noise
    goes. Energies are means over channels; the noise's is the clip's own median in the upper half of the frequencies.
    """
    if strength == 0.0:
        return x_FCHW
    basis_KF = _cosines(len(x_FCHW)).to(x_FCHW)
    waves_KCHW = torch.einsum("kf,fchw->kchw", basis_KF, x_FCHW)
    energy_KHW = waves_KCHW.square().mean(1)
    noise = energy_KHW[(len(energy_KHW) + 1) // 2 :].median()
    kept_KHW = (1 - strength * noise / energy_KHW.clamp_min(torch.finfo(x_FCHW.dtype).tiny)).clamp_min(0)
    kept_KHW[0] = 1  # what does not change
    return torch.einsum("kf,kchw->fchw", basis_KF, waves_KCHW * kept_KHW[:, None])


def _cosines(num_frames: int) -> torch.Tensor:
    """The orthonormal cosine transform (DCT-II), [K, F]: number of half waves, frame."""
    numbers = torch.arange(num_frames, dtype=torch.float64)
    basis_KF = torch.cos(torch.pi / num_frames * numbers[:, None] * (numbers + 0.5)) * (2 / num_frames) ** 0.5
    basis_KF[0] /= 2**0.5
    return basis_KF


def runs_of(clips: Sequence[ClipRows]) -> list[tuple[slice, int]]:
    """Samples of clips of one length that lie one behind the other, and that length."""
    runs: list[tuple[slice, int]] = []
    for clip in clips:
        end = clip.first + clip.num_frames
        if runs and runs[-1][0].stop == clip.first and runs[-1][1] == clip.num_frames:
            runs[-1] = slice(runs[-1][0].start, end), clip.num_frames
        else:
            runs.append((slice(clip.first, end), clip.num_frames))
    return runs


class MotionNet:
    """The motion layers of a base model's pack, behind its UNet's blocks. They are loaded with the first clip."""

    def __init__(self, base: DiffusionBase) -> None:
        self._base, self._part = base, base.pack.motion
        self._layers: MotionLayers | None = None

    @property
    def shared_noise(self) -> float:
        """Share of the noise's variance that is the same in every frame."""
        return 0.0 if self._part is None else self._part.shared_noise

    @property
    def steadiness(self) -> float:
        """How much of what flickers is taken out of a finished clip (`steadied`)."""
        return 0.0 if self._part is None else self._part.steadiness

    def prepare(self, num_frames: int, *, posed: bool) -> None:
        """Load the layers. Raises PackError where the pack has none, ValueError for a clip that is too long."""
        pack = self._base.pack
        if self._part is None:
            raise PackError(f"pack {pack.name!r} makes no clips; a [motion] in its pack.toml may name motion layers")
        if not 2 <= num_frames <= self._part.num_frames:
            raise ValueError(f"pack {pack.name!r} makes clips of 2 to {self._part.num_frames} frames, not {num_frames}")
        if self._layers is None:
            folder = pack.folder(self._part)
            how: dict[str, Any] = {"local_files_only": True, "use_safetensors": True, "dtype": self._base.dtype}
            adapter = MotionAdapter.from_pretrained(folder / "adapter", **how)
            reader = MotionText.from_pretrained(folder / "text", **how) if (folder / "text").exists() else None
            for part in filter(None, (adapter, reader)):
                part.to(self._base.device).eval().requires_grad_(False)
            self._layers = MotionLayers(self._base.unet, adapter, reader)

    def of(self, clips: Sequence[ClipRows], text_SLD: torch.Tensor) -> AbstractContextManager[None]:
        """During one call of the UNet: which samples are clips, and the samples' texts."""
        if not clips:
            return nullcontext()
        assert self._layers is not None, "a clip enters by `prepare`"
        return self._layers.of(clips, text_SLD)


class CallOfClips(threading.local):
    """The call in progress, of each thread its own."""

    def __init__(self) -> None:
        self.runs: list[tuple[slice, int]] = []  # samples of clips of one length, and that length
        self.told: list[list[torch.Tensor]] = []  # of each run, what the reader told each layer
        self.frames_F: torch.Tensor | None = None


class MotionLayers:
    """A MotionAdapter behind the blocks of a UNet, and what reads the text for it."""

    def __init__(self, unet: UNet2DConditionModel, adapter: MotionAdapter, reader: MotionText | None = None) -> None:
        """Raises ValueError where the adapter does not fit the UNet."""
        self.adapter, self.reader = adapter, reader
        self._call = CallOfClips()
        places = list(_pairs(unet, adapter))
        self.layer_channels = [layer.in_channels for _, layer in places]
        for number, (place, layer) in enumerate(places):
            place.register_forward_hook(partial(self._after, number, layer))
            for block in layer.transformer_blocks:  # type: ignore[union-attr]
                block.pos_embed.register_forward_hook(self._place_frames)

    @contextmanager
    def of(
        self, clips: Sequence[ClipRows], text_SLD: torch.Tensor, frames_F: torch.Tensor | None = None
    ) -> Iterator[None]:
        """During one call of the UNet: which samples are clips, and the samples' texts. `frames_F` are the numbers of
        the frames in their clip where some are left out (only trainings do that; all clips are of one length then)."""
        self._call.runs, self._call.frames_F = runs_of(clips), frames_F
        if self.reader is not None:
            self._call.told = [self._read(text_SLD[rows], num_frames) for rows, num_frames in self._call.runs]
        try:
            yield
        finally:
            self._call.runs, self._call.told, self._call.frames_F = [], [], None

    def _read(self, text_SLD: torch.Tensor, num_frames: int) -> list[torch.Tensor]:
        assert self.reader is not None
        frames_F = self._call.frames_F
        if frames_F is None:
            frames_F = torch.arange(num_frames, device=text_SLD.device)
        return list(self.reader(text_SLD[::num_frames], frames_F))

    def _after(self, number: int, layer: nn.Module, _module: nn.Module, _inputs: Any, output: Any) -> Any:
        """A block's output with what the motion layer makes of the clips in it."""
        if not self._call.runs:
            return None
        if isinstance(output, tuple):
            return self._moved(number, layer, output[0]), *output[1:]
        if torch.is_tensor(output):
            return self._moved(number, layer, output)
        output.sample = self._moved(number, layer, output.sample)
        return output

    def _moved(self, number: int, layer: nn.Module, hidden_SCHW: torch.Tensor) -> torch.Tensor:
        parts, end = [], 0
        for run, (rows, num_frames) in enumerate(self._call.runs):
            parts.append(hidden_SCHW[end : rows.start])
            part, end = hidden_SCHW[rows], rows.stop
            if self.reader is None:
                parts.append(layer(part, num_frames=num_frames))
                continue
            told_NFC = self._call.told[run][number]
            told_SC11 = told_NFC.flatten(0, 1)[:, :, None, None].to(part.dtype)
            parts.append(layer(part + told_SC11, num_frames=num_frames) - told_SC11)
        return torch.cat([*parts, hidden_SCHW[end:]])

    def _place_frames(self, module: nn.Module, inputs: tuple[torch.Tensor, ...], _output: Any) -> torch.Tensor | None:
        """Frames that are left out keep their places empty."""
        if self._call.frames_F is None:
            return None
        return inputs[0] + module.pe[:, self._call.frames_F].to(inputs[0].dtype)  # type: ignore[index]


def _pairs(unet: UNet2DConditionModel, adapter: MotionAdapter) -> Iterator[tuple[nn.Module, nn.Module]]:
    """The layers of a UNet, in the order in which they run, and the motion layers that come behind them."""
    middle = [] if adapter.mid_block is None else [(unet.mid_block, adapter.mid_block)]
    down, up = (
        [*zip(getattr(unet, side), getattr(adapter, side), strict=True)] for side in ("down_blocks", "up_blocks")
    )
    for block, modules in [*down, *middle, *up]:
        places = getattr(block, "attentions", None) or block.resnets
        if len(places) != len(modules.motion_modules):
            raise ValueError(
                f"a block of the UNet has {len(places)} layers, the motion adapter's {len(modules.motion_modules)}"
            )
        yield from zip(places, modules.motion_modules, strict=True)
