"""What others do per step, written for speed comparisons: the published code's loop, and diffusers' textual inversion.

Both draw their random numbers as the factory does, from the identity's own stream, so that the first one's words can be
compared with ours and both see the same noise, time steps and crops.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from transformers import AutoImageProcessor, ViTModel

from factory.base.text import NUM_WORDS
from factory.config import Recipe
from factory.learn.augment import crop_layers
from factory.learn.draws import draw_step, identity_generator
from factory.learn.losses import in_noise_phase, two_phase_loss
from factory.learn.projector import PackedProjector
from factory.learn.trainer import Trainer
from factory.learn.views import EncodedViews, encode_fresh
from factory.records import PreparedFace


class ReleaseLoop:
    """StableIdentity's published loop: one sample a step; the view goes through the VAE, and the crop through the
    FR-ViT, in every step; the ViT is not frozen, so the backward pass runs through it too, for nothing."""

    def __init__(self, trainer: Trainer, face: PreparedFace, recipe: Recipe) -> None:
        base, pack, method, train = trainer.base, trainer.base.pack, recipe.method, recipe.train
        self.base, self.templates, self.method, self.train = base, trainer.templates, method, train
        folder = pack.folder(pack.fr_vit)
        self.vit = ViTModel.from_pretrained(folder, add_pooling_layer=False, dtype=base.dtype).to(base.device)
        processor = AutoImageProcessor.from_pretrained(folder)
        x0, y0, x1, y1 = (round(edge * pack.resolution) for edge in pack.crop_box)
        inner = face.crop[y0:y1, x0:x1]
        pixels = processor(
            [inner, np.ascontiguousarray(inner[:, ::-1])], return_tensors="pt", input_data_format="channels_last"
        )["pixel_values"]
        self.pixels = pixels.to(base.device, base.dtype)  # of the crop and its mirror image
        self.layers = crop_layers(face.crop, face.masks).to(base.device)
        self.generator = identity_generator(train.seed, face.face_id)
        moments = trainer.prior.moments(method.celeb_moments)
        self.mlp = PackedProjector(1, self.vit.config.hidden_size, *moments, method)
        self.mlp.start(0, self.generator)
        self.mlp.to(base.device, base.exact_dtype)
        self.optimiser = torch.optim.AdamW(
            self.mlp.parameters(),
            lr=train.learning_rate,
            betas=train.betas,
            eps=train.eps,
            weight_decay=train.weight_decay,
        )

    def step(self) -> None:
        """One update."""
        base = self.base
        views = fresh_view(self)
        draw = draw_step(
            base,
            [self.generator],
            num_samples=1,
            num_views=self.train.num_views,
            num_templates=len(self.templates.ids_BL),
        )
        features_BF = self.vit(self.pixels[views.mirrored_B]).last_hidden_state[:, 0].to(base.exact_dtype)
        words_BVD = self.mlp(features_BF.unsqueeze(0))[0]
        text_BLD = base.encode_text(self.templates[draw.template_B], words_BVD)
        latents_BCHW = views.images.sample(draw.vae_noise_BCHW)
        abar_B = base.abar_T[draw.timestep_B]
        noisy_BCHW = base.add_noise(latents_BCHW, draw.noise_BCHW, abar_B)
        loss_B = two_phase_loss(
            output_BCHW=base.denoise(noisy_BCHW, draw.timestep_B, text_BLD),
            noisy_BCHW=noisy_BCHW,
            latents_BCHW=latents_BCHW,
            noise_BCHW=draw.noise_BCHW,
            abar_B=abar_B,
            noise_phase_B=in_noise_phase(draw.timestep_B, len(base.abar_T), self.method),
            weights_BHW=views.weights_BHW,
            prediction_type=base.prediction_type,
            rec_divisor=base.vae_scaling if self.method.rec_scale == "vae" else 1.0,
        )
        loss_B.mean().backward()
        nn.utils.clip_grad_norm_(self.mlp.parameters(), self.train.max_grad_norm)
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.vit.zero_grad()

    @torch.no_grad()
    def words(self) -> torch.Tensor:
        """The words of the plain crop, [V, D]."""
        feature_F = self.vit(self.pixels[:1]).last_hidden_state[:, 0].to(self.base.exact_dtype)
        words: torch.Tensor = self.mlp(feature_F.unsqueeze(0))[0, 0]
        return words


class TextualInversion:
    """diffusers' examples/textual_inversion.py: the whole table of token embeddings is trained and all of it but the
    placeholder's rows is put back after each step; the picture goes through the VAE in every step."""

    def __init__(self, trainer: Trainer, face: PreparedFace, recipe: Recipe) -> None:
        base, train = trainer.base, recipe.train
        self.base, self.templates, self.method, self.train = base, trainer.templates, recipe.method, train
        self.layers = crop_layers(face.crop, face.masks).to(base.device)
        self.generator = identity_generator(train.seed, face.face_id)
        known_ND = base.token_embedding.weight.detach().to(base.exact_dtype)
        self.known = len(known_ND)
        self.table = nn.Parameter(torch.cat([known_ND, known_ND[:NUM_WORDS]]))
        self.original = self.table.detach().clone()
        self.optimiser = torch.optim.AdamW([self.table], lr=train.learning_rate)

    def step(self) -> None:
        """One update."""
        base = self.base
        views = fresh_view(self)
        draw = draw_step(
            base,
            [self.generator],
            num_samples=1,
            num_views=self.train.num_views,
            num_templates=len(self.templates.ids_BL),
        )
        words_BVD = nn.functional.embedding(torch.arange(NUM_WORDS, device=base.device) + self.known, self.table)
        text_BLD = base.encode_text(self.templates[draw.template_B], words_BVD.unsqueeze(0))
        latents_BCHW = views.images.sample(draw.vae_noise_BCHW)
        noisy_BCHW = base.add_noise(latents_BCHW, draw.noise_BCHW, base.abar_T[draw.timestep_B])
        output_BCHW = base.denoise(noisy_BCHW, draw.timestep_B, text_BLD)
        nn.functional.mse_loss(output_BCHW, draw.noise_BCHW).backward()
        self.optimiser.step()
        self.optimiser.zero_grad()
        with torch.no_grad():
            self.table[: self.known] = self.original[: self.known]


def fresh_view(loop: ReleaseLoop | TextualInversion) -> EncodedViews:
    """One new view through the VAE."""
    return encode_fresh(loop.base, [[loop.layers]], [loop.generator], 1, loop.method)
