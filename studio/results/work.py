"""One evaluation at work: where its tables are, who is in it, and the upper bounds filed beside the learned."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from factory.base.diffusion import DiffusionBase
from factory.config import Recipe
from factory.ids import identity_id
from factory.learn.celebs import CelebPrior, celeb_prior
from factory.pack import Pack
from factory.records import Identity, PreparedFace
from factory.settings import train_settings
from factory.store.rows import identity_row
from factory.store.tables import Store
from studio.results.bounds import Kind, bound, name_words
from studio.results.protocol import Arm, Plan, celebrities_of, people_of
from studio.training.words import true_words


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One evaluation: what is run, with what, and where it is kept."""

    plan: Plan
    pack: Pack
    folder: Path

    @property
    def people(self) -> Store:
        """Held-out people: every arm, true vectors, real renders."""
        return Store(self.folder / "people")

    @property
    def celebrities(self) -> Store:
        """Celebrities by name, kept apart: a training job would learn their faces too."""
        return Store(self.folder / "celebrities")

    def recipe(self, arm: Arm) -> Recipe:
        """How an arm learns."""
        steps = {} if self.plan.num_steps is None else {"num_steps": self.plan.num_steps}
        return train_settings(self.pack, arm.preset, {**arm.changes, **steps})

    def id_of(self, arm: Arm, face: PreparedFace) -> str:
        """The identity that an arm learns of a face."""
        return identity_id(face.face_id, self.recipe(arm), self.pack.learning_fingerprint())

    @property
    def stages(self) -> dict[str, float]:
        """Seconds of each stage, over all runs that did something."""
        file = self.folder / "stages.json"
        return dict(json.loads(file.read_text())) if file.exists() else {}

    def add_seconds(self, stage: str, seconds: float) -> None:
        """Notes what a stage took; an interrupted run's part counts too."""
        known = self.stages
        known[stage] = known.get(stage, 0.0) + seconds
        (self.folder / "stages.json").write_text(json.dumps(known, indent=1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Cast:
    """Who is compared: faces in the protocol's order, and each row's identities in the order of its faces."""

    faces: list[PreparedFace]  # of people whom every arm learned
    celebrity_faces: list[PreparedFace]  # of measured celebrities
    identities: dict[str, list[Identity]]  # by arm; and `celebrity`, `true_vector`, `render`
    reference: list[Identity]  # celebrities that FID compares with
    prior: CelebPrior

    def ids(self, keys: Iterable[str]) -> list[str]:
        """Identity ids of rows, each once."""
        return list(dict.fromkeys(who.identity_id for key in keys for who in self.identities[key]))


def cast_of(work: Work) -> Cast:
    """Looks up who was learned, and files the bounds' words. ValueError if nobody was learned in every arm."""
    arms, learned = work.plan.arms(), {who.identity_id: who for who in work.people.identities()}
    people = people_of(work.plan)
    faces = [
        face
        for face in _in_order(work.people.faces(), people)
        if all(work.id_of(arm, face) in learned for arm in arms.values())
    ]
    if not faces:
        raise ValueError(f"nobody was learned in every arm; see the table rejects under {work.people.root}")
    measured, reference = (_in_order(work.celebrities.faces(), names) for names in celebrities_of(work.plan))
    base = DiffusionBase.load(work.pack)
    prior = celeb_prior(base.pack.celebrities, base.tokenizer, base.token_embedding)
    true = true_words(work.pack, [people[face.name] for face in faces])
    identities = {key: [learned[work.id_of(arm, face)] for face in faces] for key, arm in arms.items()}
    identities["true_vector"] = _bounds(work, faces, true, "true_vector")
    identities["render"] = _bounds(work, faces, true, "render")
    identities["celebrity"], others = (
        _bounds(work, group, name_words(prior, [face.name for face in group]), "celebrity")
        for group in (measured, reference)
    )
    _file(work.people, [*identities["true_vector"], *identities["render"]])
    _file(work.celebrities, [*identities["celebrity"], *others])
    return Cast(faces=faces, celebrity_faces=measured, identities=identities, reference=others, prior=prior)


def _bounds(work: Work, faces: Sequence[PreparedFace], words: Sequence[np.ndarray], kind: Kind) -> list[Identity]:
    fingerprint = work.pack.fingerprint()
    return [bound(face, own, kind, fingerprint) for face, own in zip(faces, words, strict=True)]


def _in_order(faces: Sequence[PreparedFace], names: Iterable[str]) -> list[PreparedFace]:
    """The faces of these names, in the names' order; a name whose photo was refused is left out."""
    by_name = {face.name: face for face in faces}
    return [by_name[name] for name in names if name in by_name]


def _file(store: Store, identities: Sequence[Identity]) -> None:
    known = store.existing_ids("identities")
    store.upsert("identities", [identity_row(who) for who in identities if who.identity_id not in known])
