"""Looks at an assembled pack: a contact sheet, and the oracle, Face Sim of pictures made from true identity vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime
import torch
from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline
from insightface.model_zoo.arcface_onnx import ArcFaceONNX
from insightface.model_zoo.scrfd import SCRFD
from safetensors.torch import load_file

from studio.training import grid, tokenizer
from studio.training.build import PACK
from studio.training.dataset import held_out
from studio.training.loop import working_precision
from studio.world.people import CELEBRITY_NAMES, celebrity
from studio.world.render import render
from studio.world.scenes import sample_scene

NUM_PEOPLE, NUM_REAL = 20, 4


class Studio:
    """The pack's pipeline, speaking of a person by name or by the true identity vector."""

    def __init__(self, pack: Path) -> None:
        self.pipe = StableDiffusionPipeline.from_pretrained(
            pack / "base", safety_checker=None, torch_dtype=torch.float32
        )
        self.pipe.scheduler = DPMSolverMultistepScheduler.from_config(self.pipe.scheduler.config)
        self.pipe.set_progress_bar_config(disable=True)
        self.map = load_file(pack / "identity_map.safetensors")

    def states(self, prompts: list[str], words: torch.Tensor | None = None) -> torch.Tensor:
        """Text states [B, L, D]; `words` [2, D] take the place of the first celebrity's name."""
        table = self.pipe.text_encoder.get_input_embeddings().weight
        rows = [self.pipe.tokenizer.convert_tokens_to_ids(f"{word}</w>") for word in CELEBRITY_NAMES[0]]
        kept = table.detach()[rows].clone()
        with torch.no_grad():
            if words is not None:
                table[rows] = words
            states = self.pipe.text_encoder(tokenizer.encode(self.pipe.tokenizer, prompts))[0]
            table[rows] = kept
        return states

    def draw(self, prompts: list[str], words: torch.Tensor | None = None, *, seed: int = 0) -> np.ndarray:
        """Pictures uint8 [B, S, S, 3] of the prompts."""
        empty = self.states([""]).expand(len(prompts), -1, -1)
        with working_precision(torch.device("cpu")):
            pictures = self.pipe(
                prompt_embeds=self.states(prompts, words),
                negative_prompt_embeds=empty,
                guidance_scale=grid.GUIDANCE,
                num_inference_steps=grid.NUM_STEPS,
                generator=torch.Generator().manual_seed(seed),
                output_type="np",
            ).images
        return (pictures * 255).round().astype(np.uint8)

    def words(self, vector: np.ndarray) -> torch.Tensor:
        """The two words of an identity vector."""
        scaled = (torch.from_numpy(vector) - self.map["mean"]) / self.map["std"]
        return torch.einsum("p,vpd->vd", scaled, self.map["weight"]) + self.map["bias"]


class Faces:
    """The pack's detector and judge."""

    def __init__(self, pack: Path) -> None:
        def session(file: Path) -> dict[str, Any]:
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = 1
            return {"model_file": str(file), "session": onnxruntime.InferenceSession(str(file), options)}

        self.detector = SCRFD(**session(next((pack / "faces").glob("det*.onnx"))))
        self.detector.prepare(-1, input_size=(320, 320), det_thresh=0.4)
        self.judge = ArcFaceONNX(**session(pack / "faces" / "judge.onnx"))

    def embed(self, image: np.ndarray) -> np.ndarray | None:
        """Unit embedding of the first face of an RGB picture, None where none is found."""
        padded = cv2.copyMakeBorder(image, 32, 32, 32, 32, cv2.BORDER_REPLICATE)[..., ::-1].copy()
        boxes, points = self.detector.detect(padded, max_num=1)
        if len(boxes) == 0:
            return None
        from insightface.utils import face_align

        feature = self.judge.get_feat(face_align.norm_crop(padded, points[0], 112)).ravel()
        return feature / np.linalg.norm(feature)


def _real(person: Any, rng: np.random.Generator, context: Any) -> np.ndarray:
    return render(person, sample_scene(rng, context=context)).image


def look(state: Path, pack: Path = PACK) -> None:
    """Write `<state>/grids/pack.png` and print the oracle's figures."""
    studio, faces = Studio(pack), Faces(pack)
    rng, rows = np.random.default_rng(11), []
    for index in (1, 5, 9, 12):
        texts = [prompt.format(" ".join(CELEBRITY_NAMES[index])) for prompt in grid.PROMPTS]
        rows.append(np.concatenate([[_real(celebrity(index), rng, "plain")], studio.draw(texts)]))
    texts = [prompt.format(" ".join(CELEBRITY_NAMES[0])) for prompt in grid.PROMPTS]
    sims: dict[str, list[float]] = {"oracle": [], "real": [], "stranger": []}
    missed, previous = 0, None
    for index in range(NUM_PEOPLE):
        person = held_out(index)
        plain = [_real(person, rng, "plain") for _ in range(2)]
        found = [v for v in map(faces.embed, plain) if v is not None]
        pictures = studio.draw(texts, studio.words(person.vector()), seed=index)
        if index < 6:
            rows.append(np.concatenate([plain[:1], pictures]))
        if not found:
            continue
        own = np.mean(found, axis=0)
        own /= np.linalg.norm(own)
        made = [faces.embed(picture) for picture in pictures]
        real = [faces.embed(_real(person, rng, "mixed")) for _ in range(NUM_REAL)]
        missed += sum(v is None for v in made)
        sims["oracle"] += [float(v @ own) for v in made if v is not None]
        sims["real"] += [float(v @ own) for v in real if v is not None]
        if previous is not None:
            sims["stranger"] += [float(v @ previous) for v in made if v is not None]
        previous = own
    grid.write_png(state / "grids" / "pack.png", rows)
    for name, values in sims.items():
        print(f"Face Sim {name}: {np.mean(values):.3f} ({len(values)} pictures)")
    print(f"no face found in {missed} of {NUM_PEOPLE * len(texts)} pictures")
