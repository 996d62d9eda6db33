"""What is rendered and encoded for a training, in files of some items each: those that are there are not made again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

Data = TypeVar("Data")


def build(state: Path, name: str, num_items: int, size: int, make: Callable[[range], dict[str, np.ndarray]]) -> None:
    """STATE/data/NAME_000.npz and so on, of `size` items each; `make` gives the arrays of the items of a range."""
    (state / "data").mkdir(parents=True, exist_ok=True)
    for number, first in enumerate(range(0, num_items, size)):
        path = state / "data" / f"{name}_{number:03d}.npz"
        if path.exists():
            continue
        arrays, partial = make(range(first, first + size)), path.with_suffix(".partial.npz")
        np.savez(partial, allow_pickle=False, **arrays)
        partial.replace(path)
        print(f"{name}_data: {first + size} of {num_items}", flush=True)


def load(state: Path, name: str, kind: Callable[..., Data]) -> Data:
    """All that `build` has made, as a dataclass whose fields are called as the arrays are."""
    arrays = [np.load(path) for path in sorted((state / "data").glob(f"{name}_[0-9][0-9][0-9].npz"))]
    names = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    return kind(**{key: torch.from_numpy(np.concatenate([part[key] for part in arrays])) for key in names})
