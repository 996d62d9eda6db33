"""Upper bounds, as rows of the same tables: named celebrities, true identity vectors, real renders of a person.

Each is an identity whose words were not learned from its face; `preset` says which kind it is. So the same jobs make
and measure their pictures.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from itertools import product
from typing import Literal

import numpy as np

from factory.config import GenerateConfig
from factory.ids import image_id
from factory.learn.celebs import CelebPrior
from factory.records import TEXT_ENCODER, GeneratedImage, Identity, ImageRequest, PreparedFace
from studio.results.protocol import Plan, draw_context
from studio.world.people import Person

Kind = Literal["celebrity", "true_vector", "render"]


def name_words(prior: CelebPrior, names: Iterable[str]) -> list[np.ndarray]:
    """The token embeddings of celebrities' names, float32 [V, D] each."""
    rows = {name: number for number, name in enumerate(prior.names)}
    return [prior.words_NVD[rows[name]].cpu().numpy() for name in names]


def bound_id(face_id: str, kind: Kind, fingerprint: str) -> str:
    """16 hex digits, the same whenever face, kind and text encoder are."""
    return hashlib.sha256("\n".join([face_id, kind, fingerprint]).encode()).hexdigest()[:16]


def bound(face: PreparedFace, words: np.ndarray, kind: Kind, fingerprint: str) -> Identity:
    """An identity with given words; `face` is what its pictures are compared with."""
    return Identity(
        identity_id=bound_id(face.face_id, kind, fingerprint),
        face_id=face.face_id,
        photo_id=face.photo_id,
        name=face.name,
        words={TEXT_ENCODER: words.astype(np.float32)},
        pack=face.pack,
        fingerprint=fingerprint,
        preset=kind,
        config="{}",
        num_steps=0,
        final_loss=float("nan"),
        train_s=0.0,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def renders(
    identities: Mapping[str, Identity],
    people: Mapping[str, Person],
    plan: Plan,
    config: GenerateConfig,
    size: int,
    model: str,
) -> Iterable[GeneratedImage]:
    """Real renders of the people in every context and seed, filed as if they had been generated.

    `model` is the `model_fingerprint` of the pack that would have been used.
    """
    for number, (name, person) in enumerate(people.items()):
        if name not in identities:
            continue
        for (column, context), seed in product(enumerate(plan.contexts), plan.seeds):
            request = ImageRequest(identity=identities[name], prompt=context.prompt, seed=seed, config=config)
            yield GeneratedImage(
                image_id=image_id(request, model),
                identity_id=identities[name].identity_id,
                name=name,
                prompt=context.prompt,
                seed=seed,
                image=draw_context(person, context, (number, column, seed), size),
                config=config.model_dump_json(),
                created_at=datetime.now(UTC).isoformat(timespec="seconds"),
            )
