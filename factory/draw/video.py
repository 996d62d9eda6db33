"""Clips of stored identities: frames are rows of the engine, which see each other through a pack's motion layers, or
through its whole text-to-video model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from diffusers import TextToVideoSDPipeline

from factory.base.diffusion import DiffusionBase, Residuals, working_dtype
from factory.draw.engine import Engine
from factory.draw.images import OnStep
from factory.draw.motion import CallOfClips, ClipRows, runs_of
from factory.draw.rows import Row
from factory.errors import PackError
from factory.pack import Pack, file_sha256
from factory.records import ClipRequest

_MAX_CLIPS = 2  # in the making at a time; a clip of 16 guided frames is 32 samples of a UNet call


class VideoBase(DiffusionBase):
    """A whole text-to-video model (diffusers' UNet3DConditionModel, as ModelScope's) in the place of a base model.

    Words fit it where its text encoder is the base model's. It takes clips, nothing else: all samples of a call are
    frames.
    """

    shared_noise, steadiness = 0.0, 0.0

    @classmethod
    def load(
        cls, pack: Pack, *, device: str = "cpu", dtype: torch.dtype | None = None, channels_last: bool = False
    ) -> VideoBase:
        """Load the pack's [video] model, frozen. `channels_last` has no meaning for it.

        Raises:
            PackError: the pack has none, it is missing, or its text encoder is not the base model's.
        """
        if pack.video is None:
            raise PackError(f"pack {pack.name!r} has no text-to-video model; a [video] in its pack.toml may name one")
        dtype = dtype or working_dtype(device)
        _check_text_encoder(pack, pack.folder(pack.base), pack.folder(pack.video))
        folder = pack.folder(pack.video)
        pipeline = TextToVideoSDPipeline.from_pretrained(folder, use_safetensors=True, dtype=dtype).to(device)
        for part in (pipeline.text_encoder, pipeline.vae, pipeline.unet):
            part.requires_grad_(False).eval()
        return cls(pipeline, pack, device, dtype)

    def __init__(self, pipeline: TextToVideoSDPipeline, pack: Pack, device: str, dtype: torch.dtype) -> None:
        super().__init__(pipeline, pack, device, dtype)
        assert pack.video is not None
        self._part = pack.video
        self.resolution = pack.video.resolution
        self.latent_side = self.resolution // pipeline.vae_scale_factor
        self._call = CallOfClips()

    def prepare(self, num_frames: int, *, posed: bool) -> None:
        """Raises PackError for a clip with poses, ValueError for one that is too long."""
        if posed:
            raise PackError(
                f"the text-to-video model of pack {self.pack.name!r} follows no poses, only motion layers do"
            )
        if not 2 <= num_frames <= self._part.num_frames:
            raise ValueError(
                f"pack {self.pack.name!r} makes clips of 2 to {self._part.num_frames} frames, not {num_frames}"
            )

    @contextmanager
    def of(self, clips: Sequence[ClipRows], text_SLD: torch.Tensor) -> Iterator[None]:
        """During one call of `denoise`: which samples make a clip."""
        self._call.runs = runs_of(clips)
        try:
            yield
        finally:
            self._call.runs = []

    def denoise(
        self,
        noisy_BCHW: torch.Tensor,
        timesteps_B: torch.Tensor,
        text_BLD: torch.Tensor,
        residuals: Residuals | None = None,
    ) -> torch.Tensor:
        """The model's output, [B, C, H, W] in `exact_dtype`: it sees the frames of a clip together."""
        assert residuals is None, "`prepare` lets no poses in"
        output_BCHW = torch.empty_like(noisy_BCHW)
        for rows, num_frames in self._call.runs:
            noisy_NFCHW = noisy_BCHW[rows].unflatten(0, (-1, num_frames)).to(self.dtype)
            firsts = slice(rows.start, rows.stop, num_frames)
            clips_NCFHW = self.unet(
                noisy_NFCHW.transpose(1, 2), timesteps_B[firsts], text_BLD[firsts].to(self.dtype)
            ).sample
            output_BCHW[rows] = clips_NCFHW.transpose(1, 2).flatten(0, 1).to(output_BCHW)
        return output_BCHW.to(self.exact_dtype)


class ClipGenerator:
    """Puts stored identities into clips. Not safe for concurrent calls: one instance per worker."""

    def __init__(self, pack: Pack, *, device: str = "cpu", max_clips: int = _MAX_CLIPS) -> None:
        """Load what makes the pack's clips: its text-to-video model where it has one, else its motion layers.

        Raises PackError where it has neither, or where it is missing or does not fit.
        """
        self.max_clips = max_clips
        self.base: DiffusionBase
        if pack.video is not None:
            self.base = base = VideoBase.load(pack, device=device)
            self.engine = Engine(base, motion=base)
        elif pack.motion is not None:
            self.base = DiffusionBase.load(pack, device=device)
            self.engine = Engine(self.base)
        else:
            raise PackError(f"pack {pack.name!r} makes no clips: its pack.toml has neither a [motion] nor a [video]")

    def generate(self, requests: Sequence[ClipRequest], *, on_step: OnStep | None = None) -> list[np.ndarray]:
        """One clip per request, in their order: uint8 [F, H, W, 3], RGB. `on_step` counts the steps of clips.

        Raises as `Engine.add_clip`.
        """
        clips: list[np.ndarray | None] = [None] * len(requests)
        steps_in_all = sum(request.config.generate.num_inference_steps for request in requests)
        in_the_making: dict[int, list[Row]] = {}
        done = entered = 0
        while done < steps_in_all:
            while entered < len(requests) and len(in_the_making) < self.max_clips:
                in_the_making[entered] = self.engine.add_clip(requests[entered])
                entered += 1
            done += len(in_the_making)
            self.engine.step()
            for number in [number for number, rows in in_the_making.items() if rows[0].done]:
                frames = self.engine.decode([row.x_CHW for row in in_the_making.pop(number)])
                clips[number] = np.stack(frames)
            if on_step is not None:
                on_step(done, steps_in_all)
        return [clip for clip in clips if clip is not None]


def _check_text_encoder(pack: Pack, base: Path, video: Path) -> None:
    """A video model whose text encoder was trained further reads other words: it is refused.

    The same weights may lie in another file format or precision, so they are compared as numbers, in half precision.
    """
    from transformers import CLIPTextModel

    mine, theirs = (folder / "text_encoder" / "model.safetensors" for folder in (base, video))
    if mine.is_file() and theirs.is_file() and file_sha256(mine) == file_sha256(theirs):
        return
    how = {"local_files_only": True, "use_safetensors": True, "dtype": torch.float16}
    own, other = (
        CLIPTextModel.from_pretrained(folder / "text_encoder", **how).state_dict() for folder in (base, video)
    )
    differing = [
        name for name, value in own.items()
        if name not in other or value.shape != other[name].shape
        or not torch.allclose(other[name].float(), value.float(), rtol=2e-2, atol=1e-4)
    ]  # fmt: skip
    if differing:
        raise PackError(
            f"the text encoder of the text-to-video model in {video} is not the base model's "
            f"({len(differing)} of {len(own)} tensors differ): words learned for pack {pack.name!r} mean nothing to it"
        )
