"""How good an identity is, by a few probe pictures; and which of several pictures is the best one.

Likeness is the judge's, to the face of the photo. Whether the text is followed is CLIP's, as a margin: a picture's
cosine to its own prompt less its mean cosine to the other prompts. An identity that draws the same picture whatever is
asked reaches 0 on average, and no constant of the CLIP in use is left in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

import numpy as np

from factory.config import AssessConfig, GenerateConfig
from factory.errors import PackError
from factory.faces.detect import FaceRecogniser
from factory.ids import hashed_json, short_hash
from factory.measure.clip import ClipScorer
from factory.measure.formulas import cosine
from factory.measure.pictures import measuring_files
from factory.pack import Pack, file_sha256
from factory.prompts import PERSON, with_person
from factory.records import Identity, ImageRequest
from factory.scores import IdentityQuality

ENOUGH: Final = 0.5  # of a photo's score: from there on it is told by what was learned
NO_FACE: Final = -1.0  # stands for the likeness of a picture in which the judge finds no face, where one is chosen


def assessment_protocol(pack: Pack, config: AssessConfig) -> str:
    """16 hex digits: whatever a row of `quality` depends on beside the identity and its photo.

    Raises PackError where the pack lacks what measures.
    """
    networks = [file_sha256(file) for file in measuring_files(pack)]
    lines = [config.model_dump_json(), hashed_json(probe_config(pack, config)), pack.model_fingerprint(), *networks]
    return short_hash(lines)


def probe_config(pack: Pack, config: AssessConfig) -> GenerateConfig:
    """How probe pictures are sampled: as the pack samples, in `config`'s steps."""
    usual = GenerateConfig.model_validate(pack.generate)
    return usual.model_copy(update={"num_inference_steps": config.num_inference_steps})


def probes(identity: Identity, pack: Pack, config: AssessConfig) -> list[ImageRequest]:
    """The pictures that an identity is assessed by: the prompts, each with every seed."""
    sampling = probe_config(pack, config)
    return [
        ImageRequest(identity=identity, prompt=prompt, seed=seed, config=sampling)
        for prompt in config.prompts
        for seed in range(config.num_seeds)
    ]


class Scorer:
    """A pack's judge and CLIP, for pictures of one person and the aligned crop of their face."""

    def __init__(self, pack: Pack, *, device: str = "cpu", num_threads: int = 1) -> None:
        """Load them; raises PackError for what is missing. Torch's threads are the caller's."""
        self._judge = FaceRecogniser(pack, num_threads=num_threads)
        self._clip = ClipScorer(pack, device=device)

    def likeness(self, pictures: Sequence[np.ndarray], crop: np.ndarray) -> np.ndarray:
        """Face Sim of each picture, uint8 [H, W, 3] RGB, to the face of a crop, -1..1, float64 [N]; NaN: no face."""
        own = self._judge.embed(crop, aligned=True)
        assert own is not None  # aligned: its landmarks are known
        seen = [self._judge.embed(picture) for picture in pictures]
        return np.array([np.nan if one is None else float(one @ own) for one in seen])

    def text_fit(self, pictures: Sequence[np.ndarray], texts: Sequence[str]) -> np.ndarray:
        """CLIP-T of each picture with each text, -1..1, float64 [N, M]."""
        images_NK, texts_MK = self._clip.images(pictures), self._clip.texts(texts)
        return np.asarray(cosine(images_NK[:, None], texts_MK[None]), np.float64)

    def assess(
        self,
        identity_id: str,
        pictures: Sequence[np.ndarray],
        crop: np.ndarray,
        config: AssessConfig,
        protocol: str,
        photo: float | None = None,
    ) -> IdentityQuality:
        """What the pictures of `probes`, in their order, say of an identity learned from the photo of a crop, whose
        score is `photo`, 0..1; None: it was not measured."""
        likeness = self.likeness(pictures, crop)
        found = np.isfinite(likeness)
        fit = self.text_fit(pictures, [as_text(prompt, config.class_word) for prompt in config.prompts])
        own = np.repeat(np.arange(len(config.prompts)), config.num_seeds)
        like, follows = float(np.where(found, likeness, 0.0).mean()), text_alignment(fit, own)
        quality = overall(like, follows, photo, config)
        return IdentityQuality(
            identity_id=identity_id,
            protocol=protocol,
            likeness=like,
            text_alignment=follows,
            quality=quality,
            verdict=verdict(quality, config),
            num_pictures=len(pictures),
            num_faces=int(found.sum()),
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )

    def choose(
        self, pictures: Sequence[np.ndarray], crop: np.ndarray | None, prompt: str, class_word: str
    ) -> tuple[int, float, float]:
        """The best of several pictures of one prompt, its likeness (NaN: no face) and CLIP-T. Without a crop, as when
        the face is not kept, the text decides."""
        likeness = np.full(len(pictures), np.nan) if crop is None else self.likeness(pictures, crop)
        clip_t = self.text_fit(pictures, [as_text(prompt, class_word)])[:, 0]
        chosen = best(likeness, clip_t)
        return chosen, float(likeness[chosen]), float(clip_t[chosen])


def text_alignment(fit_NM: np.ndarray, own_N: np.ndarray) -> float:
    """Mean over pictures of the cosine to the own text, number `own_N` of M, less the mean of those to the others."""
    num = fit_NM.shape[1]
    own = fit_NM[np.arange(len(fit_NM)), own_N]
    return float((own - (fit_NM.sum(1) - own) / (num - 1)).mean())


def overall(likeness: float, alignment: float, photo: float | None, config: AssessConfig) -> float | None:
    """0..1: the worst of likeness and text alignment, each as a share of what good identities of the pack reach in the
    middle, and of the photo's score, of which half is enough; more than that is 1. The photo counts, as pictures may
    be like a photo that is not like the person. None where the pack does not say what good ones reach."""
    if config.good_likeness is None or config.good_alignment is None:
        return None
    shares = [likeness / config.good_likeness, alignment / config.good_alignment]
    shares += [] if photo is None else [photo / ENOUGH]
    return min(max(min(shares), 0.0), 1.0)


def verdict(quality: float | None, config: AssessConfig) -> str | None:
    """ "good", "weak" or "failed"; None where the quality is not known."""
    if quality is None:
        return None
    return "good" if quality >= config.good_from else "weak" if quality >= config.weak_from else "failed"


def best(likeness_N: np.ndarray, clip_t_N: np.ndarray) -> int:
    """The picture nearest to the photo among those that follow the text: whose CLIP-T is not below the lower median. A
    picture without a face (NaN) comes after all that have one; where none has, the text decides."""
    if not np.isfinite(likeness_N).any():
        return int(clip_t_N.argmax())
    least = np.sort(clip_t_N)[(len(clip_t_N) - 1) // 2]
    near = np.where(np.isfinite(likeness_N), likeness_N, NO_FACE)
    return int(np.where(clip_t_N >= least, near, -np.inf).argmax())


def as_text(prompt: str, class_word: str) -> str:
    """What CLIP reads: the class word where the person is."""
    return with_person(prompt).replace(PERSON, class_word)


def check_measures(pack: Pack) -> None:
    """Raises PackError, with the remedy, where a pack cannot be measured with, or does not say what good ones reach."""
    measuring_files(pack)
    if pack.quality.good_likeness is None or pack.quality.good_alignment is None:
        raise PackError(
            f"pack {pack.name!r} does not say what good identities reach; run `identity-factory assess`, look at the "
            "medians over identities that you find good, and write them as good_likeness and good_alignment under "
            "[quality] in its pack.toml"
        )
