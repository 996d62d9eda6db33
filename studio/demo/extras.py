"""What the demo shows beside its table: one person in poses of the pack, and pictures of two people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from factory.pack import Pack
from factory.records import Identity
from studio.demo.sheet import ExtraRow

POSED = "Harper"
POSES = ("left", "three_quarter_left", "front", "three_quarter_right", "right", "tilted_left", "far_right", "close")
PAIRS = (("Alex", "Bo"), ("Dana", "Gray"), ("Indra", "Kim"), ("Eli", "Lou"))
PAIR_PROMPTS = (
    "a photo of {}",
    "a photo of {} on the beach",
    "a photo of {} wearing a red beanie",
    "a photo of {} in the snow",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A picture to ask the endpoint for."""

    who: Identity
    prompt: str
    body: Mapping[str, Any]  # fields beside the prompt: seed, pose
    path: Path  # where it is kept


def posed_orders(people: Mapping[str, Identity], pack: Pack, folder: Path) -> list[Order]:
    """One person in eight poses; none where the pack has no pose control of its own."""
    if POSED not in people or not _has_heads(pack):
        return []
    return [
        Order(
            who=people[POSED],
            prompt="a photo of <person>",
            body={"seed": 0, "pose": {"name": pose}},
            path=folder / "poses" / f"{pose}.png",
        )
        for pose in POSES
    ]


def pair_orders(people: Mapping[str, Identity], pack: Pack, folder: Path) -> list[Order]:
    """Two people in one picture, by their names; none where the pack has no pose control of its own."""
    pairs = [(pair, prompt) for pair, prompt in zip(PAIRS, PAIR_PROMPTS, strict=True) if people.keys() >= set(pair)]
    return [
        Order(
            who=people[one],
            prompt=prompt.format(f"<person> and <person:{people[other].identity_id}>"),
            body={"seed": 0},
            path=folder / "pairs" / f"{one}_{other}.png".lower(),
        )
        for (one, other), prompt in pairs
        if _has_heads(pack)
    ]


def extra_rows(posed: Sequence[Order], pairs: Sequence[Order]) -> list[ExtraRow]:
    """The sheet's last rows, from the pictures that were kept."""
    rows = []
    if posed:
        rows.append(ExtraRow(name=POSED, notes=["in poses of", "the pack"], pictures=_read(posed)))
    if pairs:
        names = [f"{one} and {other}" for one, other in PAIRS[:2]]
        rows.append(ExtraRow(name="Two people", notes=[names[0], f"{names[1]}, ..."], pictures=_read(pairs)))
    return rows


def _read(orders: Sequence[Order]) -> list[np.ndarray]:
    return [np.asarray(Image.open(order.path)) for order in orders]


def _has_heads(pack: Pack) -> bool:
    part = pack.control.get("pose")
    return part is not None and part.conditioning == "head_pose" and pack.place(part).exists()
