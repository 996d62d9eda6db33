"""Every constant of the method and of the jobs, with its unit and source.

Frozen models: `PrepareConfig` (photos -> faces), `MethodConfig` (the paper's maths) and `TrainConfig` (the optimiser
and what it sees), which make a `Recipe`, `EngineConfig` (how training runs on the hardware), `GenerateConfig`
(identities -> images), `AnimateConfig` (identities -> clips), `SculptConfig` (identities -> heads), `EvaluateConfig`
(images -> metrics), `AssessConfig` (identities -> quality). The defaults of the method are the paper's (arXiv
2401.15975); `preset("release")` is what the authors' published code computes (docs/method.md tells them apart).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Share = Annotated[float, Field(ge=0, lt=1)]
Preset = Literal["paper", "release"]


class Config(BaseModel):
    """Frozen, and refusing unknown fields: a misspelt option is an error, not a silence."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class PrepareConfig(Config):
    """Limits for photos and faces."""

    max_bytes: int = Field(default=64 * 2**20, ge=1)  # bytes of the encoded file
    max_pixels: int = Field(default=64_000_000, ge=1)  # width x height, checked before decoding; cameras: 61e6
    min_side_px: int = Field(default=64, ge=1)  # shorter side of the photo
    salvage: bool = False  # use the whole rows of files that are cut short, however few
    faces: Literal["all", "largest"] = "all"  # which faces of a photo become identities
    min_score: float = Field(default=0.5, gt=0, le=1)  # detector confidence
    min_face_px: float = Field(default=24.0, ge=0, allow_inf_nan=False)  # shorter side of the face box, px
    min_visible: float = Field(default=0.7, ge=0, le=1)  # share of the face, forehead to chin, inside the photo
    min_sharpness: float = Field(default=0.03, ge=0, allow_inf_nan=False)  # Laplacian variance / variance of the
    # face; measured: docs/log.md, 2026-11-24
    max_photo_s: float = Field(default=300.0, gt=0, allow_inf_nan=False)  # of work on one photo before it is given up
    min_mask_fraction: float = Field(default=0.05, ge=0, le=1)  # share of the crop the face mask must cover


class MethodConfig(Config):
    """The paper's maths. Numbers in brackets are rows of the table in docs/method.md."""

    normalise: Literal["per_word", "joint_affine", "none"] = "per_word"  # [1] Eq. 4: each word by its own mean, std
    celeb_moments: Literal["shared", "per_slot"] = "shared"  # [2] mu(C), sigma(C) in R^D, or one pair per name slot
    adain: bool = True  # False: Table 2, "without AdaIN": the MLP's words as they are
    words: Literal["mlp", "free", "basis"] = "mlp"  # "free", "basis": Table 1, Textual Inversion and Celeb-Basis
    features: Literal["fr_vit", "clip"] = "fr_vit"  # "clip": Table 2, the base pack's CLIP image encoder
    loss: Literal["two_phase", "noise", "reconstruction"] = "two_phase"  # Eq. 6; Table 2: only L_noise, only L_rec
    mask: bool = True  # False: Table 2, "without mask"
    phase_boundary: float = Field(default=0.6, ge=0.0, le=1.0)  # alpha of Eq. 6, a fraction of T
    boundary: Literal["at_least", "above"] = "at_least"  # [4] t >= alpha T, t in 1..T; or t > alpha T, 0..T-1
    hair_weight: float = Field(default=0.1, ge=0.0)  # beta of Eq. 6 [6: 0.1 is also the release's documented command]
    rec_scale: Literal["latent", "vae"] = "latent"  # [3] "vae": both sides of L_rec divided by the VAE scaling factor
    mirror: float = Field(default=0.0, ge=0.0, le=1.0)  # [7] probability of the mirrored crop (with its own features)
    area_normalise: bool = False  # divide by the mask's mean weight: small faces count as much; not in the paper


class TrainConfig(Config):
    """The optimiser, and what it sees."""

    num_steps: int = Field(default=450, ge=1)  # updates per identity [5: the release's file "-450" holds 451]
    learning_rate: float = Field(default=5e-5, ge=0, allow_inf_nan=False)  # AdamW, constant
    betas: tuple[Share, Share] = (0.9, 0.999)
    weight_decay: float = Field(default=1e-2, ge=0, allow_inf_nan=False)
    eps: float = Field(default=1e-8, gt=0, allow_inf_nan=False)
    max_grad_norm: float = Field(default=1.0, gt=0, allow_inf_nan=False)  # clipped per identity
    samples_per_step: int = Field(default=1, ge=1)  # noised views per identity and step; the paper's batch is 1
    seed: int = 0  # with the face's id, the root of every random number of an identity
    views: Literal["pool", "every_step"] = "every_step"  # encode a pool of views once, or a fresh view at each step
    num_views: int = Field(default=32, ge=1)  # size of the pool
    # Early stopping, off: an identity is done when in `stop_every` steps its words moved by less than this share of
    # the way they have come since its first step (Euclidean, of the plain crop's words). Not in the paper.
    stop_below: float | None = Field(default=None, gt=0, lt=1)
    stop_every: int = Field(default=25, ge=1)  # steps from one look to the next
    # Averaging, off: what is kept are not the words after the last step but their mean over all steps n, weighted by
    # n ** average_power (2: about the last half counts). Not in the paper.
    average_power: float | None = Field(default=None, ge=0)


class Recipe(Config):
    """How an identity is learned. Method and training are hashed into its id; the name is a label for people."""

    preset: str = "custom"  # "paper" or "release", as long as the method is that preset's (factory/settings.py)
    method: MethodConfig = MethodConfig()
    train: TrainConfig = TrainConfig()


class EngineConfig(Config):
    """How training runs on the hardware. It changes words by rounding only, so it is no part of an identity's id."""

    slots: int | None = Field(default=None, ge=1)  # identities learned together at most; None: what memory allows
    precision: Literal["auto", "float64", "float32", "bfloat16"] = "auto"  # of the frozen model; auto: bfloat16
    # where the hardware multiplies it natively, else float32. Words, latents and losses: float32, or float64.
    tf32: bool = False  # CUDA: products of float32 numbers with 10 bits of mantissa
    channels_last: bool = True  # CUDA: memory order of the UNet's weights
    compile: Literal["off", "default", "reduce-overhead", "max-autotune"] = "off"  # torch.compile of the UNet, by its
    # modes; the last two use CUDA graphs. Compiling takes minutes, and again for each new number of identities.


class GenerateConfig(Config):
    """Sampling. DPM-Solver++ multistep, as in the paper."""

    num_inference_steps: int = Field(default=25, ge=1, le=1000)
    guidance_scale: float = Field(default=8.5, ge=0.0)  # 1 and less: none, which costs half
    negative_prompt: str = ""
    sampler: Literal["dpm_solver++", "ddim", "euler"] = "dpm_solver++"
    guidance_until: float = Field(default=1.0, ge=0.0, le=1.0)  # share of the steps that are guided, from the first on
    width_px: int | None = Field(default=None, ge=8, multiple_of=8)  # of the picture; None: the pack's resolution
    height_px: int | None = Field(default=None, ge=8, multiple_of=8)


class AnimateConfig(Config):
    """A clip: how long it is, and how each of its frames is sampled."""

    num_frames: int = Field(default=16, ge=1, le=32)
    fps: int = Field(default=8, ge=1, le=60)  # frames per second
    generate: GenerateConfig = GenerateConfig()


class SculptConfig(Config):
    """A head of 3D Gaussians from an identity's words. What no source is named for was tuned on the studio pack
    (docs/log.md, 2026-11-28)."""

    objective: Literal["ism", "reconstruction"] = "reconstruction"  # few-step denoisings of the noised renders as
    # targets, or LucidDreamer's interval score matching (arXiv 2311.11284, Eq. 17)
    num_iterations: int = Field(default=240, ge=1)  # updates of the Gaussians
    views_per_iteration: int = Field(default=4, ge=1)
    guidance_scale: float = Field(default=2.0, ge=0.0)  # 1 and less: none
    control: bool = True  # the pack's pose ControlNet shows the view's head pose, if it takes such; else view words
    control_scale: float = Field(default=1.0, ge=0.0, le=2.0)
    yaw_limit: float = Field(default=32.0, gt=0.0, le=180.0)  # degrees to either side
    pitch_limit: float = Field(default=10.0, ge=0.0, le=60.0)  # degrees up and down
    side_px: int | None = Field(default=None, ge=8, multiple_of=8)  # of a render; None: the pack's resolution
    num_gaussians: int = Field(default=2500, ge=8, le=1_000_000)  # at the start
    max_gaussians: int = Field(default=4000, ge=8, le=1_000_000)
    sh_degree: Literal[0, 1] = 0  # of the colours' spherical harmonics
    densify_every: int = Field(default=50, ge=1)  # iterations, between a tenth and three quarters of them
    prune_below: float = Field(default=0.03, ge=0.0, lt=1.0)  # opacity
    first_t: tuple[float, float] = (0.5, 0.95)  # noise levels at the start, shares of T ...
    last_t: tuple[float, float] = (0.1, 0.4)  # ... and at the end; in between they move evenly
    interval_t: float = Field(default=0.05, gt=0.0, lt=1.0)  # ISM: t - s, a share of T (the source: 50 of 1000)
    inversion_t: float = Field(default=0.2, gt=0.0, le=1.0)  # ISM: step of the DDIM inversion (the source: 200)
    denoising_steps: int = Field(default=4, ge=1)  # reconstruction: of a target
    refresh_every: int = Field(default=30, ge=1)  # reconstruction: iterations that share their targets
    seed: int = 0


class EvaluateConfig(Config):
    """What pictures are measured with. The defaults need nothing but the pack's own networks."""

    face_div: Literal["clip", "lpips"] = "clip"  # distance of Face Div: the pack's CLIP, or LPIPS (AlexNet weights)
    fid: Literal["clip", "inception"] = "clip"  # features that FID compares: CLIP image embeddings, or Inception-v3
    class_word: str = "a person"  # what stands for <person> in the text of CLIP-T


class AssessConfig(Config):
    """The few pictures that say how good an identity is, and what good ones reach (factory/measure/quality.py)."""

    prompts: tuple[str, ...] = Field(
        default=(
            "a photo of <person>",
            "a photo of <person> in the snow",
            "a pencil sketch of <person>",
            "a photo of <person> wearing a red hat",
        ),
        min_length=2,
    )  # of each other: how well a text is followed is told by the others'
    num_seeds: int = Field(default=2, ge=1)  # pictures of each prompt
    num_inference_steps: int = Field(default=10, ge=1, le=1000)
    class_word: str = "a person"  # what stands for <person> in the text of CLIP-T
    good_likeness: float | None = Field(default=None, gt=0, le=1)  # cosine; median of good identities; None: not known
    good_alignment: float | None = Field(default=None, gt=0, le=2)  # difference of cosines; the same of text alignment
    good_from: float = Field(default=0.75, ge=0, le=1)  # quality from which on an identity is called good
    weak_from: float = Field(default=0.5, ge=0, le=1)  # and from which on it is called weak; below, it failed


def preset(name: str) -> Recipe:
    """The paper's equations as printed, or what the published code computes."""
    if name == "paper":
        return Recipe(preset=name)
    if name == "release":
        method = MethodConfig(
            normalise="joint_affine", celeb_moments="per_slot", boundary="above", rec_scale="vae", mirror=0.5
        )
        return Recipe(preset=name, method=method, train=TrainConfig(num_steps=451))
    raise ValueError(f"unknown preset {name!r}; choose 'paper' or 'release'")


def checked_size(pack: str, side: int, width_px: int | None, height_px: int | None) -> tuple[int, int]:
    """Height and width of a picture, px; None is `side`, the resolution of `pack`.

    Raises ValueError for a size that its base model does not draw: each side must be a multiple of 8 px, and 0.5 to 2
    times that resolution.
    """
    height, width = (side if px is None else px for px in (height_px, width_px))
    if any(px % 8 or not side // 2 <= px <= 2 * side for px in (height, width)):
        raise ValueError(
            f"{width}x{height} px is no size that pack {pack!r} draws: each side is a multiple of 8, from {side // 2} "
            f"to {2 * side}"
        )
    return height, width
