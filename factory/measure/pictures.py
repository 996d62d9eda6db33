"""What a person's pictures measure: all networks that look at pictures, in one place. Formulas: formulas.py."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from factory.config import EvaluateConfig, GenerateConfig
from factory.errors import PackError
from factory.faces.detect import FaceRecogniser
from factory.ids import hashed_json, short_hash
from factory.measure.clip import ClipScorer
from factory.measure.formulas import cosine, face_diversity, perceptual_distances, trusted_diversity
from factory.measure.perceptual import Inception, Lpips
from factory.pack import Pack, file_sha256
from factory.prompts import PERSON, with_person
from factory.records import GeneratedImage, PictureMetrics


def protocol_id(
    pack: Pack, prompts: Sequence[str], seeds: Sequence[int], generate: GenerateConfig, config: EvaluateConfig
) -> str:
    """16 hex digits: whatever a metric depends on beside the picture, its identity's photo included by its id.

    Face Div is over pairs, so prompts and seeds belong to it; measuring networks are hashed by content. Raises
    PackError where the pack lacks them.
    """
    networks = measuring_files(pack)
    lines = [*sorted(map(with_person, prompts)), *map(str, sorted(seeds)), hashed_json(generate)]
    lines += [hashed_json(config), *map(file_sha256, networks)]
    return short_hash(lines)


def measuring_files(pack: Pack) -> list[Path]:
    """The files of a pack's CLIP, detector and judge. Raises PackError where it lacks some."""
    if pack.clip is None or pack.faces.judge is None:
        raise PackError(f"pack {pack.name!r} needs [clip] and `judge` under [faces] to measure pictures")
    faces = pack.folder(pack.faces)
    networks = [*_weights(pack.folder(pack.clip)), faces / pack.faces.det_file, faces / pack.faces.judge]
    missing = [str(file) for file in networks if not file.is_file()]
    if missing:
        raise PackError(f"pack {pack.name!r} lacks {', '.join(missing)}; {pack.remedy(pack.faces)}")
    return networks


class PictureMeasurer:
    """Holds the measuring networks: the pack's CLIP and judge; LPIPS and Inception where the config asks for them."""

    def __init__(self, pack: Pack, config: EvaluateConfig, *, device: str = "cpu", num_threads: int = 1) -> None:
        """Load them; raises PackError for what is missing. Torch's threads are the caller's."""
        self.clip = ClipScorer(pack, device=device)
        self.judge = FaceRecogniser(pack, num_threads=num_threads)
        self.lpips = Lpips(device=device) if config.face_div == "lpips" else None
        self.inception = Inception(device=device) if config.fid == "inception" else None
        self._class_word = config.class_word

    def measure(self, pictures: Sequence[GeneratedImage], photo: np.ndarray, protocol: str) -> list[PictureMetrics]:
        """All pictures of one identity, in their order; `photo` is the aligned crop of its face, uint8 [S, S, 3]."""
        images = [picture.image for picture in pictures]
        embeddings = self.clip.images([*images, photo])
        texts = self.clip.texts([with_person(p.prompt).replace(PERSON, self._class_word) for p in pictures])
        face_sim, face_div, trusted_div, faces = self._faces(images, photo)
        features = embeddings[:-1] if self.inception is None else self.inception.images(images)
        clip_i, clip_t = cosine(embeddings[:-1], embeddings[-1]), cosine(embeddings[:-1], texts)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        return [
            PictureMetrics(
                image_id=picture.image_id,
                protocol=protocol,
                identity_id=picture.identity_id,
                prompt=picture.prompt,
                seed=picture.seed,
                clip_i=float(clip_i[i]),
                clip_t=float(clip_t[i]),
                face_sim=float(face_sim[i]),
                face_div=float(face_div[i]),
                trusted_div=float(trusted_div[i]),
                face_embedding=faces[i] if np.isfinite(faces[i]).all() else np.empty(0, np.float32),
                features=features[i],
                created_at=now,
            )
            for i, picture in enumerate(pictures)
        ]

    def _faces(
        self, images: Sequence[np.ndarray], photo: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Face Sim, Face Div and Trusted Div, [N] each, and embeddings [N, E]; NaN where no face was found."""
        own = self.judge.embed(photo, aligned=True)
        assert own is not None
        seen = [self.judge.look(image) for image in images]
        found = [i for i, look in enumerate(seen) if look is not None]
        faces = np.full((len(images), len(own)), np.nan, np.float32)
        distances = np.full((len(images), len(images)), np.nan)
        crops = [look[1] for look in seen if look is not None]
        for i, look in zip(found, (look for look in seen if look is not None), strict=True):
            faces[i] = look[0]
        if crops:
            distances[np.ix_(found, found)] = self._distances(crops)
        return cosine(faces, own), face_diversity(distances), trusted_diversity(faces, distances), faces

    def _distances(self, crops: Sequence[np.ndarray]) -> np.ndarray:
        if self.lpips is not None:
            return self.lpips.distances(crops)
        return perceptual_distances(self.clip.patches(crops))


def _weights(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))
