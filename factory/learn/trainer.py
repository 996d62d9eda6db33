"""Learning identities: one face photo each -> two word embeddings each, many in one batch of the frozen model.

Continuous batching: an identity that is done leaves its slot, and the next face enters at once. Identities share
nothing but the batched products (factory/learn/slots.py), so words do not depend on pack size, order or neighbours.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property, partial
from itertools import chain, islice

import numpy as np
import torch

from factory.base.diffusion import DiffusionBase
from factory.base.text import tokenise
from factory.config import EngineConfig, MethodConfig, TrainConfig
from factory.faces.encode import FeatureEncoder
from factory.ids import identity_id, training_json
from factory.learn.celebs import celeb_prior
from factory.learn.memory import choose_slots
from factory.learn.slots import Finished, Slots
from factory.pack import Pack
from factory.prompts import PERSON, TEMPLATES
from factory.records import TEXT_ENCODER, Identity, PreparedFace

OnStep = Callable[[int, int], None]  # steps done of the identities in their slots, together; steps of one identity
_DTYPES = {"auto": None, "float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16}

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """What came of one face."""

    face: PreparedFace
    words_VD: np.ndarray  # as they were learned: float64 where the model is, else float32
    identity: Identity | None  # None: the words are not finite; the caller records the face as `diverged`


class Trainer:
    """Holds the frozen model and the celeb prior; learns any number of faces. One per device and process."""

    def __init__(self, base: DiffusionBase, engine: EngineConfig | None = None) -> None:
        self.base, self.engine = base, engine or EngineConfig()
        self.prior = celeb_prior(base.pack.celebrities, base.tokenizer, base.token_embedding)
        own = [template.replace("{}", PERSON) for template in base.pack.prompt_templates]
        self.templates = tokenise(own or TEMPLATES, base.tokenizer).to(base.device)
        self.fingerprint = base.pack.learning_fingerprint()
        self._fitting: dict[int, int] = {}  # samples per identity and step -> slots that fit, once known

    def train(
        self,
        faces: Sequence[PreparedFace],
        *,
        preset: str,
        method: MethodConfig,
        train: TrainConfig,
        on_step: OnStep | None = None,
    ) -> list[Identity]:
        """Learn one identity per face, in the order of `faces`. A face whose words are not finite is left out."""
        waves = self.stream(faces, preset=preset, method=method, train=train, on_step=on_step)
        learned = {one.face.face_id: one.identity for wave in waves for one in wave}
        return [identity for face in faces if (identity := learned[face.face_id]) is not None]

    def stream(
        self,
        faces: Iterable[PreparedFace],
        *,
        preset: str,
        method: MethodConfig,
        train: TrainConfig,
        on_step: OnStep | None = None,
    ) -> Iterator[list[Learned]]:
        """Learn faces, taken one by one as slots come free; gives those that finish at the same step, as they do.

        If the device's memory runs out, half of the identities go on and the others start again when there is room.

        Raises:
            torch.OutOfMemoryError: one identity alone does not fit.
        """
        waiting = iter(faces)
        ahead = next(waiting, None)
        if ahead is None:
            return
        width = self.features(ahead, method).shape[-1]
        room = self._room(train, width)
        first = [ahead, *islice(waiting, room - 1)]
        waiting, room = chain(first, waiting), len(first)
        made: list[Slots] = []

        def make() -> None:
            shape = {"num_slots": room, "feature_width": width}
            made.append(Slots(self.base, self.templates, self.prior, method, train, **shape))

        while not _fits(make):
            room = self._halve(room, train)
        (slots,) = made
        while True:
            fits = True
            while fits and len(slots) < room and (face := next(waiting, None)) is not None:
                fits = _fits(partial(slots.add, face, self.features(face, method)))
                waiting = waiting if fits else chain([face], waiting)
            if fits and not slots:
                return
            tried = len(slots) + (not fits)
            if not (fits and _fits(slots.step)):
                room = self._halve(tried, train)
                waiting = chain(slots.keep(room), waiting)
                continue
            if on_step is not None:
                on_step(slots.steps_done(), train.num_steps)
            done = slots.finished()
            for slot in sorted(done, reverse=True):
                slots.remove(slot)
            if done:
                yield [self._learned(one, preset, method, train) for one in done.values()]

    def features(self, face: PreparedFace, method: MethodConfig) -> torch.Tensor:
        """What the MLP reads of a face and of its mirror image, float32 [2, F]."""
        features = face.features
        if method.features == "clip":  # Table 2, "CLIP encoder": not kept in the table, so made here
            (features,) = self._clip.encode(face.crop[None])
        return torch.from_numpy(np.stack([features.crop, features.mirror]))

    @cached_property
    def _clip(self) -> FeatureEncoder:
        return FeatureEncoder(self.base.pack, device=self.base.device, source="clip")

    def _room(self, train: TrainConfig, feature_width: int) -> int:
        num_samples = train.samples_per_step
        if num_samples not in self._fitting:
            chosen = self.engine.slots or choose_slots(self.base, self.templates, train, feature_width)
            self._fitting[num_samples] = chosen
        return self._fitting[num_samples]

    def _halve(self, tried: int, train: TrainConfig) -> int:
        """Half of the slots that were too many; it stays so for this trainer."""
        room = tried // 2
        if room == 0:
            raise torch.OutOfMemoryError(
                f"one identity alone does not fit in the free memory of {self.base.device}; "
                "set precision=bfloat16, a smaller samples_per_step, or use a GPU with more memory"
            )
        logger.warning("%d identities do not fit in the memory of %s; going on with %d", tried, self.base.device, room)
        self._fitting[train.samples_per_step] = room
        return room

    def _learned(self, finished: Finished, preset: str, method: MethodConfig, train: TrainConfig) -> Learned:
        face, words_VD = finished.face, finished.words_VD
        identity = Identity(
            identity_id=identity_id(face.face_id, method, train, self.fingerprint),
            face_id=face.face_id,
            photo_id=face.photo_id,
            name=face.name,
            words={TEXT_ENCODER: words_VD.astype(np.float32)},
            pack=self.base.pack.name,
            fingerprint=self.base.fingerprint,
            preset=preset,
            config=training_json(method, train),
            num_steps=finished.num_steps,
            final_loss=finished.final_loss,
            train_s=finished.seconds,
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        return Learned(face=face, words_VD=words_VD, identity=identity if np.isfinite(words_VD).all() else None)


def load_trainer(pack: Pack, *, device: str = "cpu", engine: EngineConfig | None = None) -> Trainer:
    """A trainer on a pack's base model. Raises PackError where the pack is incomplete."""
    engine = engine or EngineConfig()
    dtype = _DTYPES[engine.precision]
    base = DiffusionBase.load(pack, device=device, dtype=dtype, channels_last=engine.channels_last)
    if device.startswith("cuda"):  # these hold for the whole process
        torch.set_float32_matmul_precision("high" if engine.tf32 else "highest")
        torch.backends.cudnn.allow_tf32 = engine.tf32
    if engine.compile != "off":
        base.unet.compile(mode=engine.compile)
    return Trainer(base, engine)


def _fits(action: Callable[[], None]) -> bool:
    """Does it; False if memory ran out. By then the failed attempt's tensors are free: its traceback is gone."""
    try:
        action()
    except torch.OutOfMemoryError:
        pass
    else:
        return True
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return False
