"""Learning identities: one face photo each -> two word embeddings each, many in one batch of the frozen model.

Continuous batching: an identity that is done leaves its slot, and the next face enters at once. Identities share
nothing but the batched products (factory/learn/slots.py), so words do not depend on pack size, order or neighbours.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property, partial

import numpy as np
import torch

from factory.base.diffusion import DiffusionBase
from factory.base.text import tokenise
from factory.config import EngineConfig, MethodConfig, Recipe
from factory.faces.encode import FeatureEncoder
from factory.ids import faces_key, identity_id, recipe_json
from factory.learn.celebs import celeb_prior
from factory.learn.memory import Fitting
from factory.learn.slots import Finished, Slots
from factory.pack import Pack
from factory.prompts import PERSON, TEMPLATES
from factory.records import TEXT_ENCODER, Identity, PreparedFace

OnStep = Callable[[int, int], None]  # steps done of the identities in their slots, together (all of them by those
# that are done just now); steps of one identity
_DTYPES = {"auto": None, "float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16}


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
        self.fitting = Fitting(base, self.templates, self.engine.slots)

    def train(self, faces: Sequence[PreparedFace], recipe: Recipe, *, on_step: OnStep | None = None) -> list[Identity]:
        """Learn one identity per face, in the order of `faces`. A face whose words are not finite is left out."""
        waves = self.stream(faces, recipe, on_step=on_step)
        learned = {faces_key(one.face.face_ids): one.identity for wave in waves for one in wave}
        return [identity for face in faces if (identity := learned[faces_key(face.face_ids)]) is not None]

    def stream(
        self, faces: Iterable[PreparedFace], recipe: Recipe, *, on_step: OnStep | None = None
    ) -> Iterator[list[Learned]]:
        """Learn faces, taken one by one as slots come free; gives those that finish at the same step, as they do.

        Raises:
            torch.OutOfMemoryError: one identity alone does not fit.
        """
        waiting, learning, steps = iter(faces), self.open(recipe), recipe.train.num_steps
        while True:
            while learning.free and (face := next(waiting, None)) is not None:
                learning.add(face)
            if not learning:
                return
            done = learning.step()
            if on_step is not None:
                on_step(learning.steps_done() + len(done) * steps, steps)
            if done:
                yield done

    def open(self, recipe: Recipe) -> Learning:
        """Slots for one recipe that faces may enter at any time."""
        return Learning(self, recipe)

    def features(self, face: PreparedFace, method: MethodConfig) -> torch.Tensor:
        """What the MLP reads of a face and of its mirror image, float32 [2, F]; of several photos, their mean."""
        photos = [face, *face.more]
        features = [one.features for one in photos]
        if method.features == "clip":  # Table 2, "CLIP encoder": not kept in the table, so made here
            features = self._clip.encode(np.stack([one.crop for one in photos]))
        return torch.from_numpy(np.stack([[one.crop, one.mirror] for one in features]).mean(0))

    @cached_property
    def _clip(self) -> FeatureEncoder:
        return FeatureEncoder(self.base.pack, device=self.base.device, source="clip")


class Learning:
    """Identities that are learned together, by one recipe: a face is added while others are in the middle.

    If the device's memory runs out, half of the identities go on and the others start again when there is room.
    """

    def __init__(self, trainer: Trainer, recipe: Recipe) -> None:
        self.trainer, self.recipe = trainer, recipe
        self._waiting: deque[PreparedFace] = deque()
        self._slots: Slots | None = None  # until the first step
        self._width = 0  # of features, known with the first face
        self._room = 1  # slots that may be taken

    def __len__(self) -> int:
        """Faces in a slot, or waiting for one."""
        return len(self._waiting) + (0 if self._slots is None else len(self._slots))

    @property
    def free(self) -> int:
        """Slots that nobody has or waits for; one until the first face tells how large they are."""
        return max(0, self._room - len(self))

    def add(self, face: PreparedFace) -> None:
        """It enters before the next step, or when a slot comes free."""
        if not self._width:
            self._width = self._features(face).shape[-1]
            self._room = self.trainer.fitting.slots(self.recipe.train, self._width)
        self._waiting.append(face)

    def drop(self, face: PreparedFace) -> None:
        """A face that was added leaves its slot, or waits for none any more; nothing is kept of it."""
        self._waiting = deque(other for other in self._waiting if other is not face)
        if self._slots is not None:
            for slot in [number for number, who in enumerate(self._slots.occupants) if who.face is face]:
                self._slots.remove(slot)

    def step(self) -> list[Learned]:
        """One update of everybody who has a slot; gives those that are done, and whose slots are free now.

        Raises torch.OutOfMemoryError if one identity alone does not fit.
        """
        if not self:
            return []
        while self._slots is None:
            if not _fits(self._open):
                self._halve(self._room)
        slots = self._slots
        while not ((entered := self._enter(slots)) and _fits(slots.step)):
            self._halve(len(slots) + (not entered))
            self._waiting.extendleft(reversed(slots.keep(self._room)))
        done = slots.finished()
        for slot in sorted(done, reverse=True):
            slots.remove(slot)
        return [self._learned(one) for one in done.values()]

    def steps_done(self) -> int:
        """Of all identities that are in their slots, together."""
        return 0 if self._slots is None else self._slots.steps_done()

    def progress(self) -> list[tuple[PreparedFace, float]]:
        """Those in a slot, and the share of their steps that is done, 0..1."""
        occupants = [] if self._slots is None else self._slots.occupants
        return [(who.face, who.num_steps / self.recipe.train.num_steps) for who in occupants]

    def _open(self) -> None:
        trainer = self.trainer
        shape = {"num_slots": self._room, "feature_width": self._width}
        self._slots = Slots(trainer.base, trainer.templates, trainer.prior, self.recipe, **shape)

    def _enter(self, slots: Slots) -> bool:
        """Who waits takes the free slots; False if memory ran out, with the one it ran out for still waiting."""
        while self._waiting and len(slots) < self._room:
            face = self._waiting[0]
            if not _fits(partial(slots.add, face, self._features(face))):
                return False
            self._waiting.popleft()
        return True

    def _halve(self, tried: int) -> None:
        self._room = self.trainer.fitting.halve(tried, self.recipe.train, self._width)

    def _features(self, face: PreparedFace) -> torch.Tensor:
        return self.trainer.features(face, self.recipe.method)

    def _learned(self, finished: Finished) -> Learned:
        face, words_VD, trainer = finished.face, finished.words_VD, self.trainer
        identity = Identity(
            identity_id=identity_id(face.face_id, self.recipe, trainer.fingerprint, face.face_ids[1:]),
            face_id=face.face_id,
            photo_id=face.photo_id,
            name=face.name,
            words={TEXT_ENCODER: words_VD.astype(np.float32)},
            pack=trainer.base.pack.name,
            fingerprint=trainer.base.fingerprint,
            preset=self.recipe.preset,
            config=recipe_json(self.recipe),
            num_steps=finished.num_steps,
            final_loss=finished.final_loss,
            train_s=finished.seconds,
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
            **face.consent.columns(),
            more_faces=face.face_ids[1:] or None,
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
