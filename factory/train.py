"""Learning identities: one face photo each -> two word embeddings each, B identities in one batch of the frozen model.

Identities that share a pack share nothing but the batched products: weights, optimiser state, gradient clip and random
numbers are each identity's own, so its words do not depend on its neighbours (up to rounding).
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import torch

from factory.augment import RenderedView, apply_view, crop_layers, draw_view
from factory.config import MethodConfig, TrainConfig
from factory.diffusion import DiffusionBase, EncodedImages
from factory.encode import FeatureEncoder
from factory.losses import in_noise_phase, mask_weights, two_phase_loss
from factory.pack import Pack
from factory.projector import packed_words
from factory.prompts import PERSON, TEMPLATES, tokenise
from factory.records import Identity, PreparedFace

OnStep = Callable[[int, int], None]  # steps done, steps in all
_TAIL = 0.1  # share of the steps, at the end, over which the final loss is averaged


def identity_id(face_id: str, method: MethodConfig, train: TrainConfig, fingerprint: str) -> str:
    """16 hex digits: the same face, config and text encoder always give the same identity."""
    text = "\n".join([face_id, _config_json(method, train), fingerprint])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _config_json(method: MethodConfig, train: TrainConfig) -> str:
    return json.dumps({**method.model_dump(), **train.model_dump()}, sort_keys=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """The random numbers of one step: M samples of each of B identities, as B*M rows."""

    view_B: torch.Tensor  # int64, which view of the pool (0 where views are fresh)
    template_B: torch.Tensor  # int64
    timestep_B: torch.Tensor  # int64, 0..T-1
    vae_noise_BCHW: torch.Tensor  # standard normal, of the VAE's Gaussian
    noise_BCHW: torch.Tensor  # standard normal, eps of the loss


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedViews:
    """Augmented views after the VAE, [..., C, H, W], with what the loss and the MLP need to know of them."""

    images: EncodedImages
    weights_BHW: torch.Tensor  # M_face + beta M_hair
    mirrored_B: torch.Tensor  # int64, 0 or 1


class Trainer:
    """Holds the frozen model and the celeb prior; trains any number of packs."""

    def __init__(self, base: DiffusionBase) -> None:
        self.base = base
        self.prior = base.celeb_prior()
        own = [template.replace("{}", PERSON) for template in base.pack.prompt_templates]
        self.templates = tokenise(own or TEMPLATES, base.tokenizer).to(base.device)

    def features(self, faces: Sequence[PreparedFace], method: MethodConfig) -> torch.Tensor:
        """What the MLP reads of each face and of its mirror image, float32 [B, 2, F]."""
        features = [face.features for face in faces]
        if method.features == "clip":  # Table 2, "CLIP encoder": not kept in the table, so made here
            encoder = FeatureEncoder(self.base.pack, device=self.base.device, source="clip")
            features = encoder.encode(np.stack([face.crop for face in faces]))
        return torch.from_numpy(np.stack([[feature.crop, feature.mirror] for feature in features]))

    def train(
        self,
        faces: Sequence[PreparedFace],
        *,
        preset: str,
        method: MethodConfig,
        train: TrainConfig,
        on_step: OnStep | None = None,
    ) -> list[Identity]:
        """Learn one identity per face, all in one pack; the order is that of `faces`.

        A face whose words are not finite at the end is left out: the caller records it as `diverged`.
        """
        if not faces:
            return []
        started = time.perf_counter()
        pack = _Pack(self, faces, method, train)
        for step in range(train.num_steps):
            pack.step()
            if on_step is not None:
                on_step(step + 1, train.num_steps)
        words_BVD = pack.words().cpu().numpy().astype(np.float32)
        losses_B = torch.stack(pack.losses[-max(1, round(_TAIL * train.num_steps)) :]).mean(0).tolist()
        seconds = (time.perf_counter() - started) / len(faces)
        return [
            Identity(
                identity_id=identity_id(face.face_id, method, train, self.base.fingerprint),
                face_id=face.face_id,
                photo_id=face.photo_id,
                name=face.name,
                words=words_VD,
                pack=self.base.pack.name,
                fingerprint=self.base.fingerprint,
                preset=preset,
                config=_config_json(method, train),
                num_steps=train.num_steps,
                final_loss=loss,
                train_s=seconds,
                created_at=datetime.now(UTC).isoformat(timespec="seconds"),
            )
            for face, words_VD, loss in zip(faces, words_BVD, losses_B, strict=True)
            if np.isfinite(words_VD).all()
        ]


def load_trainer(pack: Pack, *, device: str = "cpu", dtype: torch.dtype | None = None) -> Trainer:
    """A trainer on a pack's base model. Raises PackError where the pack is incomplete."""
    return Trainer(DiffusionBase.load(pack, device=device, dtype=dtype))


class _Pack:
    """B identities being trained together."""

    def __init__(
        self, trainer: Trainer, faces: Sequence[PreparedFace], method: MethodConfig, train: TrainConfig
    ) -> None:
        base = trainer.base
        self.base, self.templates, self.method, self.train = base, trainer.templates, method, train
        self.generators = [_generator(train.seed, face.face_id) for face in faces]
        self.features_B2F = trainer.features(faces, method).to(base.device, base.exact_dtype)
        projector = packed_words(self.features_B2F.shape[-1], trainer.prior, method, self.generators)
        self.projector = projector.to(base.device, base.exact_dtype)
        self.parameters = list(self.projector.parameters())
        self.optimiser = torch.optim.AdamW(
            self.parameters,
            lr=train.learning_rate,
            betas=train.betas,
            eps=train.eps,
            weight_decay=train.weight_decay,
            fused=True,
        )
        self.crops = [crop_layers(face.crop, face.masks).to(base.device) for face in faces]
        self.losses: list[torch.Tensor] = []  # per step, [B]
        self.pool = self._encode_fresh(train.num_views) if train.views == "pool" else None

    def step(self) -> None:
        """One update of every identity."""
        fresh = self._encode_fresh(self.train.samples_per_step) if self.pool is None else None
        draw = self._draw()
        views = fresh or self._from_pool(draw.view_B)
        words_BVD = self.projector(self._features(views.mirrored_B)).flatten(0, 1)
        text_BLD = self.base.encode_text(self.templates[draw.template_B], words_BVD)
        latents_BCHW = views.images.sample(draw.vae_noise_BCHW)
        abar_B = self.base.abar_T[draw.timestep_B]
        noisy_BCHW = self.base.add_noise(latents_BCHW, draw.noise_BCHW, abar_B)
        loss_B = two_phase_loss(
            output_BCHW=self.base.denoise(noisy_BCHW, draw.timestep_B, text_BLD),
            noisy_BCHW=noisy_BCHW,
            latents_BCHW=latents_BCHW,
            noise_BCHW=draw.noise_BCHW,
            abar_B=abar_B,
            noise_phase_B=in_noise_phase(draw.timestep_B, len(self.base.abar_T), self.method),
            weights_BHW=views.weights_BHW,
            prediction_type=self.base.prediction_type,
            rec_divisor=self.base.vae_scaling if self.method.rec_scale == "vae" else 1.0,
        ).view(len(self.generators), -1)
        loss_B = loss_B.mean(1)  # over an identity's samples; the sum below keeps the identities' gradients apart
        self.optimiser.zero_grad(set_to_none=True)
        loss_B.sum().backward()
        clip_per_slot(self.parameters, self.train.max_grad_norm)
        self.optimiser.step()
        self.losses.append(loss_B.detach())

    @torch.no_grad()
    def words(self) -> torch.Tensor:
        """The words of the un-augmented, un-mirrored crop: what is kept of an identity. [B, V, D]."""
        words: torch.Tensor = self.projector(self.features_B2F[:, :1])[:, 0]
        return words

    def _draw(self) -> Step:
        base, count = self.base, self.train.samples_per_step
        shape = (count, base.num_channels, base.latent_side, base.latent_side)
        limits = (self.train.num_views, len(self.templates.ids_BL), len(base.abar_T))
        integers: list[list[torch.Tensor]] = [[], [], []]
        normals: list[list[torch.Tensor]] = [[], []]
        for generator in self.generators:
            for drawn, limit in zip(integers, limits, strict=True):
                drawn.append(torch.randint(limit, (count,), generator=generator))
            for noise in normals:
                noise.append(torch.randn(shape, generator=generator, dtype=base.exact_dtype))
        view_B, template_B, timestep_B = (torch.cat(drawn).to(base.device) for drawn in integers)
        vae_noise_BCHW, noise_BCHW = (torch.cat(noise).to(base.device) for noise in normals)
        return Step(
            view_B=view_B,
            template_B=template_B,
            timestep_B=timestep_B,
            vae_noise_BCHW=vae_noise_BCHW,
            noise_BCHW=noise_BCHW,
        )

    def _encode_fresh(self, count: int) -> EncodedViews:
        """`count` new views of every identity through the VAE, as B*count rows."""
        rendered: list[RenderedView] = []
        mirrored: list[bool] = []
        for layers, generator in zip(self.crops, self.generators, strict=True):
            for _ in range(count):
                view = draw_view(generator, mirror=self.method.mirror)
                rendered.append(apply_view(layers, view, latent_side=self.base.latent_side))
                mirrored.append(view.mirrored)
        face_BHW, hair_BHW = (torch.stack([getattr(view, mask) for view in rendered]) for mask in ("face", "hair"))
        chunks = torch.stack([view.image for view in rendered]).split(_VAE_BATCH)
        encoded = [self.base.encode_images(chunk) for chunk in chunks]
        return EncodedViews(
            images=EncodedImages(
                mean_BCHW=torch.cat([part.mean_BCHW for part in encoded]),
                std_BCHW=torch.cat([part.std_BCHW for part in encoded]),
            ),
            weights_BHW=mask_weights(face_BHW, hair_BHW, self.method).to(self.base.exact_dtype),
            mirrored_B=torch.tensor(mirrored, dtype=torch.int64, device=self.base.device),
        )

    def _from_pool(self, view_B: torch.Tensor) -> EncodedViews:
        assert self.pool is not None
        slots_B = torch.arange(len(self.generators), device=view_B.device).repeat_interleave(
            self.train.samples_per_step
        )
        rows_B = slots_B * self.train.num_views + view_B
        images = self.pool.images
        return EncodedViews(
            images=EncodedImages(mean_BCHW=images.mean_BCHW[rows_B], std_BCHW=images.std_BCHW[rows_B]),
            weights_BHW=self.pool.weights_BHW[rows_B],
            mirrored_B=self.pool.mirrored_B[rows_B],
        )

    def _features(self, mirrored_B: torch.Tensor) -> torch.Tensor:
        """FR-ViT features of each sample's view, [B, M, F]."""
        which_BM = mirrored_B.view(len(self.generators), -1, 1).expand(-1, -1, self.features_B2F.shape[-1])
        return self.features_B2F.gather(1, which_BM)


@torch.no_grad()
def clip_per_slot(parameters: Sequence[torch.nn.Parameter], max_norm: float) -> None:
    """Clip the gradient norm of every identity by itself; axis 0 of each parameter is the identity's slot."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm_B = torch.stack([gradient.flatten(1).square().sum(1) for gradient in gradients]).sum(0).sqrt()
    scale_B = (max_norm / (norm_B + 1e-6)).clamp(max=1.0)  # the same guard against 0 as torch's own clip
    for gradient in gradients:
        gradient.mul_(scale_B.view(-1, *[1] * (gradient.ndim - 1)))


def _generator(seed: int, face_id: str) -> torch.Generator:
    digest = hashlib.sha256(f"{seed}\n{face_id}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


_VAE_BATCH = 32  # images; bounds the memory of encoding a pool of views
