"""What is told of people, as lists and one by one, and of the server."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel

from factory.records import Identity
from serve.catalog import Listed
from serve.loop import LoopStats


class ModelCard(BaseModel):
    """An identity in GET /v1/models."""

    id: str  # what to ask for: the name, or the identity_id where the name is not its own or no part of a URL
    object: Literal["model"] = "model"
    created: int  # Unix time, s
    owned_by: str = "identity-factory"
    identity_id: str
    name: str
    pack: str

    @classmethod
    def of(cls, listed: Listed) -> ModelCard:
        """An identity of the catalogue."""
        return cls(
            id=listed.handle,
            created=int(datetime.fromisoformat(listed.created_at).timestamp()),
            identity_id=listed.identity_id,
            name=listed.name,
            pack=listed.pack,
        )


class ModelList(BaseModel):
    """GET /v1/models: a page; `?after=` its last_id gives the next one."""

    object: Literal["list"] = "list"
    data: list[ModelCard]
    first_id: str | None
    last_id: str | None
    has_more: bool

    @classmethod
    def of(cls, listed: Sequence[Listed], limit: int) -> ModelList:
        """The first `limit` of the identities; more of them than that means that there are more."""
        cards = [ModelCard.of(one) for one in listed[:limit]]
        first, last = (cards[0].id, cards[-1].id) if cards else (None, None)
        return cls(data=cards, first_id=first, last_id=last, has_more=len(listed) > limit)


class Stats(BaseModel):
    """GET /v1/stats: what the replicas that run now have done, and are at."""

    images: int
    steps: int  # of the engine
    rows_per_step: float  # pictures that share a step, on average
    most_rows: int  # of one step
    seconds_a_step: float
    waiting: int  # pictures that replicas hold and have not begun
    in_the_making: int

    @classmethod
    def of(cls, stats: LoopStats) -> Stats:
        """What all replicas have done, together."""
        steps = max(stats.steps, 1)
        return cls(
            images=stats.images,
            steps=stats.steps,
            rows_per_step=round(stats.rows / steps, 3),
            most_rows=stats.most_rows,
            seconds_a_step=round(stats.step_s / steps, 6),
            waiting=stats.waiting,
            in_the_making=stats.in_the_making,
        )


def identity_card(identity: Identity, *, compatible: bool, words: bool) -> dict[str, Any]:
    """GET /v1/identities/{id}: what is known of an identity; the words only if asked for (they *are* the person)."""
    names = ("identity_id", "name", "face_id", "photo_id", "pack", "fingerprint", "preset", "config")
    numbers = ("num_steps", "final_loss", "train_s", "created_at")
    card: dict[str, Any] = {"object": "identity", **{name: getattr(identity, name) for name in (*names, *numbers)}}
    card["compatible"] = compatible  # with the pack that is served
    if words:
        card["words"] = {encoder: block.tolist() for encoder, block in identity.words.items()}
    return card
