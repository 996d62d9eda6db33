"""The frozen base model: text encoder, VAE, UNet and noise schedule of a pack's diffusers folder."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from transformers import CLIPTextModel, CLIPTokenizer

from factory.base.text import TokenisedPrompts, inject
from factory.config import checked_size
from factory.errors import PackError
from factory.pack import Pack

PredictionType = Literal["epsilon", "v_prediction"]
_SMALL = 32  # latent side up to which a CPU attends faster by plain products in bfloat16: 2 x, with gradients 6 x


def working_dtype(device: str) -> torch.dtype:
    """bfloat16 where the hardware multiplies it natively, else float32."""
    if device.startswith("cuda"):
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if native else torch.float32


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedImages:
    """What the VAE says of a batch of images: a diagonal Gaussian over scaled latents."""

    mean_BCHW: torch.Tensor
    std_BCHW: torch.Tensor  # zeros for an autoencoder without a variance

    def sample(self, noise_BCHW: torch.Tensor) -> torch.Tensor:
        """Latents for given standard normal noise, [B, C, H, W]."""
        return self.mean_BCHW + self.std_BCHW * noise_BCHW


@dataclass(frozen=True, slots=True, kw_only=True)
class Residuals:
    """What a ControlNet adds inside the UNet."""

    down: tuple[torch.Tensor, ...]  # to each skip connection
    mid: torch.Tensor  # to the middle block's output


class DiffusionBase:
    """A frozen text-to-image model. Nothing in it is ever trained or changed."""

    def __init__(self, pipeline: StableDiffusionPipeline, pack: Pack, device: str, dtype: torch.dtype) -> None:
        self.pipeline = pipeline
        self.pack = pack
        self.device = device
        self.dtype = dtype  # of the frozen weights and their activations
        self.exact_dtype = torch.float64 if dtype == torch.float64 else torch.float32  # of words, latents and losses
        self.tokenizer: CLIPTokenizer = pipeline.tokenizer
        self.text_encoder: CLIPTextModel = pipeline.text_encoder
        self.vae: AutoencoderKL | AutoencoderTiny = pipeline.vae
        self.unet: UNet2DConditionModel = pipeline.unet
        noise_schedule = DDPMScheduler.from_config(pipeline.scheduler.config)
        self.abar_T: torch.Tensor = noise_schedule.alphas_cumprod.to(device=device, dtype=self.exact_dtype)
        self.prediction_type: PredictionType = _prediction_type(noise_schedule, pack)
        self.text_width: int = self.text_encoder.config.hidden_size
        self.vae_scaling: float = self.vae.config.scaling_factor
        self.resolution: int = pack.resolution  # px
        self.latent_side: int = self.resolution // pipeline.vae_scale_factor
        self.num_channels: int = self.unet.config.in_channels
        self.fingerprint = pack.fingerprint()

    @classmethod
    def load(
        cls, pack: Pack, *, device: str = "cpu", dtype: torch.dtype | None = None, channels_last: bool = True
    ) -> DiffusionBase:
        """Load a pack's base model, frozen, in `dtype` (default: bfloat16 where it is native, else float32).

        `channels_last` is the memory order of the UNet on a GPU. On a CPU its group norms are slow in that order (in
        bfloat16 twenty times), and it is not used; the small autoencoder has none, and decodes 1.6 times as fast.

        Raises:
            PackError: the folder is missing, or the model is no text-to-image model that the method can use.
        """
        dtype = dtype or working_dtype(device)
        folder = pack.folder(pack.base)
        pipeline = StableDiffusionPipeline.from_pretrained(
            folder,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
            use_safetensors=True,
            dtype=dtype,
        ).to(device)
        for part in (pipeline.text_encoder, pipeline.vae, pipeline.unet):
            part.requires_grad_(False).eval()
        pipeline.set_progress_bar_config(disable=True)
        if channels_last and device.startswith("cuda"):
            pipeline.unet.to(memory_format=torch.channels_last)
        if isinstance(pipeline.vae, AutoencoderTiny):
            pipeline.vae.to(memory_format=torch.channels_last)
        if device == "cpu" and dtype == torch.bfloat16 and pipeline.unet.config.sample_size <= _SMALL:
            pipeline.unet.set_attn_processor(AttnProcessor())
        return cls(pipeline, pack, device, dtype)

    @property
    def token_embedding(self) -> torch.nn.Embedding:
        """The text encoder's table of token embeddings, [vocabulary, D]."""
        embedding = self.text_encoder.get_input_embeddings()
        assert isinstance(embedding, torch.nn.Embedding)
        return embedding

    def encode_text(self, prompts: TokenisedPrompts, words_BVD: torch.Tensor | None = None) -> torch.Tensor:
        """Hidden states [B, L, D] of prompts with the identities' words in their slots.

        The words enter through a hook on the token embedding, so that gradients reach them and the vocabulary
        stays as it is.
        """
        if words_BVD is None:
            hidden: torch.Tensor = self.text_encoder(prompts.ids_BL).last_hidden_state
            return hidden
        hook = self.token_embedding.register_forward_hook(partial(_inject_hook, prompts.slots_BL, words_BVD))
        try:
            hidden = self.text_encoder(prompts.ids_BL).last_hidden_state
        finally:
            hook.remove()
        return hidden

    @torch.no_grad()
    def encode_images(self, images_BCHW: torch.Tensor) -> EncodedImages:
        """Scaled latents of RGB images in -1..1, float32 [B, 3, S, S]."""
        return self.encode_with_gradient(images_BCHW)

    def encode_with_gradient(self, images_BCHW: torch.Tensor) -> EncodedImages:
        """As `encode_images`, and gradients reach the images."""
        encoded = self.vae.encode(images_BCHW.to(device=self.device, dtype=self.dtype))
        if isinstance(self.vae, AutoencoderTiny):
            mean = encoded.latents.to(self.exact_dtype) * self.vae_scaling
            return EncodedImages(mean_BCHW=mean, std_BCHW=torch.zeros_like(mean))
        gaussian = encoded.latent_dist
        mean, std = (moment.to(self.exact_dtype) * self.vae_scaling for moment in (gaussian.mean, gaussian.std))
        return EncodedImages(mean_BCHW=mean, std_BCHW=std)

    @torch.no_grad()
    def decode_images(self, latents_BCHW: torch.Tensor) -> torch.Tensor:
        """RGB images, float32 [B, 3, S, S], -1..1 but for rounding, of scaled latents."""
        decoded: torch.Tensor = self.vae.decode((latents_BCHW / self.vae_scaling).to(self.dtype)).sample
        return decoded.float()

    def latent_size(self, width_px: int | None, height_px: int | None) -> tuple[int, int]:
        """Rows and columns of a picture's latent; None is the pack's resolution.

        Raises ValueError for a size that the base model does not draw.
        """
        height, width = checked_size(self.pack.name, self.resolution, width_px, height_px)
        per_cell = self.resolution // self.latent_side
        return height // per_cell, width // per_cell

    def denoise(
        self,
        noisy_BCHW: torch.Tensor,
        timesteps_B: torch.Tensor,
        text_BLD: torch.Tensor,
        residuals: Residuals | None = None,
    ) -> torch.Tensor:
        """The UNet's output, [B, C, H, W] in `exact_dtype`."""
        output: torch.Tensor = self.unet(
            noisy_BCHW.to(self.dtype),
            timesteps_B,
            text_BLD.to(self.dtype),
            down_block_additional_residuals=None if residuals is None else residuals.down,
            mid_block_additional_residual=None if residuals is None else residuals.mid,
        ).sample
        return output.to(self.exact_dtype)

    def add_noise(self, latents_BCHW: torch.Tensor, noise_BCHW: torch.Tensor, abar_B: torch.Tensor) -> torch.Tensor:
        """z_t = sqrt(abar) z_0 + sqrt(1 - abar) eps, [B, C, H, W]."""
        abar = abar_B.view(-1, 1, 1, 1)
        return abar.sqrt() * latents_BCHW + (1 - abar).sqrt() * noise_BCHW


def _inject_hook(
    slots_BL: torch.Tensor, words_BVD: torch.Tensor, _module: torch.nn.Module, _inputs: object, embeds: torch.Tensor
) -> torch.Tensor:
    return inject(embeds, slots_BL, words_BVD)


def _prediction_type(schedule: DDPMScheduler, pack: Pack) -> PredictionType:
    kind: Literal["epsilon", "v_prediction"] | str = schedule.config.prediction_type
    if kind == "epsilon" or kind == "v_prediction":
        return kind  # type: ignore[return-value]
    raise PackError(
        f"pack {pack.name}: the base model predicts {kind!r}; only 'epsilon' and 'v_prediction' are known to the loss"
    )
