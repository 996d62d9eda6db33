"""Training data in files that are made once (studio/training/chunks.py)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from studio.training import chunks


@dataclass(frozen=True)
class Numbers:
    number: torch.Tensor  # int64 [N]


def test_only_what_is_missing_is_made(tmp_path: Path) -> None:
    made: list[range] = []

    def make(items: range) -> dict[str, np.ndarray]:
        made.append(items)
        if items[0] == 4 and len(made) == 3:
            raise KeyboardInterrupt
        return {"number": np.array(items)}

    with pytest.raises(KeyboardInterrupt):
        chunks.build(tmp_path, "some", 6, 2, make)
    chunks.build(tmp_path, "some", 6, 2, make)
    assert made == [range(2), range(2, 4), range(4, 6), range(4, 6)]
    assert chunks.load(tmp_path, "some", Numbers).number.tolist() == [0, 1, 2, 3, 4, 5]
