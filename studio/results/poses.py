"""What the pose control does, measured on held-out people: poses met, likeness and text kept; and a sheet to look at.

Landmarks are measured twice: with the pack's detector, as any user would, and with a ruler trained on renders alone
(studio/training/landmarks.py), as the detector's own error on real renders in these poses is larger. Beside
each stands its error on real renders of the same people, poses and contexts.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import torch
from diffusers import ControlNetModel, DPMSolverMultistepScheduler, StableDiffusionControlNetPipeline
from diffusers.models.attention_processor import AttnProcessor

from factory.base.diffusion import DiffusionBase
from factory.base.text import tokenise
from factory.config import EvaluateConfig, PrepareConfig
from factory.faces.detect import FaceRecogniser
from factory.faces.pose import HeadPose, draw_skeleton
from factory.faces.scan import Scan
from factory.measure.clip import ClipScorer
from factory.measure.formulas import cosine
from factory.pack import Pack, load_pack
from factory.prompts import PERSON
from studio.training import grid, landmarks
from studio.training import pose as training
from studio.training.build import PACK
from studio.training.dataset import PICTURE_PX, held_out
from studio.training.words import true_words
from studio.world.people import Person
from studio.world.render import render
from studio.world.scenes import sample_scene

GUIDANCE, NUM_STEPS = 2.0, 10  # as the pack generates
NUM_PEOPLE = 16
POSES = (
    HeadPose(),
    HeadPose(yaw=-30),
    HeadPose(yaw=-15),
    HeadPose(yaw=15),
    HeadPose(yaw=30),
    HeadPose(roll=15),
    HeadPose(scale=0.7, dx=0.12, dy=0.05),
    HeadPose(yaw=-20, pitch=5, roll=-12, scale=0.85, dx=-0.08, dy=0.05),
)
CONTEXTS: tuple[tuple[str, dict[str, str]], ...] = (  # prompts, and the same as fields of a scene
    ("a photo of <person>", {}),
    ("a photo of <person> wearing a red beanie", {"hat": "beanie"}),
    ("a photo of <person> on the beach", {"place": "beach"}),
    ("a pencil sketch of <person>", {"style": "sketch"}),
    ("a photo of <person> wearing a spacesuit in space", {"clothes": "spacesuit", "place": "space"}),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Measured over people x poses x contexts; `front` is the first pose, `free` the pictures without control."""

    people: str
    detector_px: float  # median error of the five landmarks against the renderer's, by the pack's detector
    detector_px_real: float  # the same of real renders: the detector's own error
    detector_px_paired: float  # detector on the picture against detector on the real render
    ruler_px: float  # median error by the ruler
    ruler_px_real: float
    ruler_px_p90: float
    found: float  # share of the pictures in which the detector finds a face
    found_real: float
    face_sim: float
    face_sim_front: float
    face_sim_free: float
    front_to_free: float
    nearest: float  # share of all pictures that are most like the right one of NUM_PEOPLE people
    nearest_free: float
    clip_t: float
    clip_t_free: float
    clip_t_to_free: float


class Posing:
    """The pack's pipeline with a pose control, speaking of people by their true words."""

    def __init__(self, net: ControlNetModel, pack: Path = PACK) -> None:
        self.base = DiffusionBase.load(load_pack(pack))
        self.base.unet.set_attn_processor(AttnProcessor())
        pipe = self.base.pipeline
        scheduler = DPMSolverMultistepScheduler.from_config(
            pipe.scheduler.config, algorithm_type="dpmsolver++", solver_order=2
        )
        self.free = pipe
        self.free.scheduler = scheduler
        parts = {name: getattr(pipe, name) for name in ("vae", "text_encoder", "tokenizer", "unet")}
        self.posed = StableDiffusionControlNetPipeline(
            **parts,
            controlnet=net.to(self.base.dtype).eval(),
            scheduler=scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        self.posed.set_progress_bar_config(disable=True)

    @torch.inference_mode()
    def draw(self, person: Person, prompt: str, poses: Sequence[HeadPose | None], *, seed: int) -> np.ndarray:
        """Pictures uint8 [B, S, S, 3] from the same noise, all with a pose or all without."""
        base, num = self.base, len(poses)
        words = torch.from_numpy(np.stack(true_words(base.pack, [person])))
        shape = (1, base.num_channels, base.latent_side, base.latent_side)
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).expand(num, -1, -1, -1)
        given = {
            "prompt_embeds": base.encode_text(tokenise([prompt], base.tokenizer), words),
            "negative_prompt_embeds": base.encode_text(tokenise([""], base.tokenizer)),
            "latents": noise,
        }
        inputs = {name: value.expand(num, *value.shape[1:]).to(base.dtype) for name, value in given.items()}
        drawn = [draw_skeleton([pose], PICTURE_PX, PICTURE_PX) for pose in poses if pose is not None]
        if drawn:
            inputs["image"] = torch.from_numpy(np.stack(drawn)).movedim(-1, 1).to(base.dtype) / 255
        pipe = self.posed if drawn else self.free
        output = pipe(**inputs, guidance_scale=GUIDANCE, num_inference_steps=NUM_STEPS, output_type="np").images
        return (output * 255).round().astype(np.uint8)


def real_render(person: Person, pose: HeadPose, context: dict[str, str]) -> tuple[np.ndarray, np.ndarray]:
    """A render, uint8 [S, S, 3] RGB, and its landmarks [5, 2] in pixels."""
    scene = sample_scene(np.random.default_rng(5), context="plain", **asdict(pose), **context, smile=0.1)
    made = render(person, scene)
    return made.image, made.landmarks


def detector(pack: Pack) -> Scan:
    """The pack's detector, as `detected` uses it."""
    return Scan(pack, PrepareConfig().min_score, 1)


def detected(scan: Scan, image: np.ndarray) -> np.ndarray:
    """The detector's five points of the largest face, [5, 2] in pixels; NaN where it finds none."""
    found = scan(image)
    return found[0].landmarks if found else np.full((5, 2), np.nan)


def apart(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Mean distance of five points [N, 5, 2], pixels [N]."""
    out: np.ndarray = np.linalg.norm(a - b, axis=2).mean(1)
    return out


def measure(net: ControlNetModel, state: Path, sheet: Path, *, first: int = 24, pack: Path = PACK) -> Figures:
    """Measure NUM_PEOPLE held-out people from number `first`, and write a sheet of pictures."""
    posing, people = Posing(net, pack), [held_out(first + number) for number in range(NUM_PEOPLE)]
    rows, made, free, real, points = [], [], [], [], []
    for number, person in enumerate(people):
        for prompt, context in CONTEXTS:
            shown = posing.draw(person, prompt, POSES, seed=number)
            alone = posing.draw(person, prompt, [None], seed=number)
            truth = [real_render(person, pose, context) for pose in POSES]
            made.append(shown)
            free.append(alone)
            real.append(np.stack([image for image, _ in truth]))
            points.append(np.stack([marks for _, marks in truth]))
            if (prompt, context) == CONTEXTS[number % len(CONTEXTS)] and number < 2 * len(CONTEXTS):
                rows += [np.concatenate([real[-1], real[-1][:1]]), np.concatenate([shown, alone])]
    skeletons = np.stack([draw_skeleton([pose], PICTURE_PX, PICTURE_PX) for pose in POSES])
    grid.write_png(sheet, [np.concatenate([skeletons, skeletons[:1] * 0]), *rows])
    arrays = [np.concatenate(part) for part in (made, free, real, points)]
    return _figures(arrays, people, state, pack, f"held-out {first} to {first + NUM_PEOPLE - 1}")


def _figures(arrays: Sequence[np.ndarray], people: Sequence[Person], state: Path, pack: Path, names: str) -> Figures:
    made, free, real, truth = arrays
    scan, ruler = detector(load_pack(pack)), landmarks.load(state, pack)
    seen, seen_real = (np.stack([detected(scan, image) for image in images]) for images in (made, real))
    by_ruler, by_ruler_real = (apart(ruler(images), truth) for images in (made, real))
    likeness = _likeness(made, free, people, pack)
    clip = ClipScorer(load_pack(pack))
    word = EvaluateConfig().class_word
    texts = clip.texts([prompt.replace(PERSON, word) for prompt, _ in CONTEXTS] * NUM_PEOPLE)
    clip_t = float(cosine(clip.images(list(made)), texts.repeat(len(POSES), axis=0)).mean())
    clip_t_free = float(cosine(clip.images(list(free)), texts).mean())
    return Figures(
        people=names,
        detector_px=float(np.nanmedian(apart(seen, truth))),
        detector_px_real=float(np.nanmedian(apart(seen_real, truth))),
        detector_px_paired=float(np.nanmedian(apart(seen, seen_real))),
        ruler_px=float(np.median(by_ruler)),
        ruler_px_real=float(np.median(by_ruler_real)),
        ruler_px_p90=float(np.quantile(by_ruler, 0.9)),
        found=float(np.isfinite(seen[:, 0, 0]).mean()),
        found_real=float(np.isfinite(seen_real[:, 0, 0]).mean()),
        clip_t=clip_t,
        clip_t_free=clip_t_free,
        clip_t_to_free=clip_t / clip_t_free,
        **likeness,
    )


def _likeness(made: np.ndarray, free: np.ndarray, people: Sequence[Person], pack: Path) -> dict[str, float]:
    """Face Sim to a plain photo of the same person, and how often that is the nearest of all people."""
    judge = FaceRecogniser(load_pack(pack))
    photos = [real_render(person, HeadPose(), {})[0] for person in people]
    own = np.stack([face for photo in photos if (face := judge.embed(photo, aligned=True)) is not None])
    missing = np.full(own.shape[1], np.nan, np.float32)

    def sims(images: np.ndarray) -> np.ndarray:
        """Likeness [people, pictures of each, people]."""
        found = [judge.embed(image) for image in images]
        faces = np.stack([missing if face is None else face for face in found])
        return (faces @ own.T).reshape(len(people), -1, len(people))

    posed, alone = sims(made), sims(free)
    rights, alone_rights = (np.stack([s[k, :, k] for k in range(len(people))]) for s in (posed, alone))
    front = rights.reshape(len(people), len(CONTEXTS), len(POSES))[..., 0]

    def nearest(s: np.ndarray, right: np.ndarray) -> float:
        """A picture without a face counts as one of nobody."""
        return float((np.nan_to_num(right, nan=-2) >= np.nan_to_num(s, nan=-1).max(2)).mean())

    return {
        "face_sim": float(np.nanmean(rights)),
        "face_sim_front": float(np.nanmean(front)),
        "face_sim_free": float(np.nanmean(alone_rights)),
        "front_to_free": float(np.nanmean(front) / np.nanmean(alone_rights)),
        "nearest": nearest(posed, rights),
        "nearest_free": nearest(alone, alone_rights),
    }


def look(state: Path, *, first: int = 24, pack: Path = PACK) -> Figures:
    """Measure the latest checkpoint, or what is in the pack where there is none; prints and keeps the figures."""
    checkpoint, step = state / "checkpoints" / "pose.pt", 0
    if checkpoint.exists():
        net, step = training.average_of(state, pack)
    else:
        net = ControlNetModel.from_pretrained(pack / "control" / "pose")
    net.set_attn_processor(AttnProcessor())
    figures = measure(net, state, state / "grids" / f"pose_{step:06d}_{first}.png", first=first, pack=pack)
    line = {"step": step, **{f.name: getattr(figures, f.name) for f in fields(figures)}}
    with (state / "logs" / "pose_results.jsonl").open("a") as log:
        log.write(json.dumps(line) + "\n")
    for name, value in line.items():
        print(f"{name:20} {value if isinstance(value, str | int) else format(value, '.3f')}")
    return figures
