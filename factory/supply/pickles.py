"""Weights that were published as pickles become safetensors as they are fetched; packs load nothing else.

A pickle is a program. `torch.load(weights_only=True)` runs none of it but what makes tensors, and it is called here
alone, once, where somebody watches.
"""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save_file

from factory.errors import PackError

PICKLES: Final = (".bin", ".pth", ".pt", ".ckpt")
_WRAPPED: Final = ("params_ema", "params", "state_dict")  # under which training code keeps the weights
_TRANSFORMERS: Final = "pytorch_model"  # its pickles; its safetensors are called "model"


def pickles_in(place: Path) -> list[Path]:
    """The pickles of a part: `place` is its folder."""
    return sorted(file for file in place.rglob("*") if file.suffix in PICKLES and file.is_file())


def safe_name(file: Path) -> Path:
    """What the libraries call the safetensors of the same weights."""
    stem = "model" + file.stem.removeprefix(_TRANSFORMERS) if file.stem.startswith(_TRANSFORMERS) else file.stem
    return file.with_name(f"{stem}.safetensors")


def convert(file: Path, target: Path) -> None:
    """Writes a pickle's tensors as safetensors. Raises PackError for one that holds anything but tensors by names."""
    tensors = _tensors(file)
    partial = target.with_name(f"{target.name}.part")
    save_file(tensors, partial, metadata={"format": "pt"})
    partial.replace(target)


def _tensors(file: Path) -> dict[str, torch.Tensor]:
    try:
        state: Any = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:  # whose text tells how to run it
        raise PackError(f"{file} holds more than tensors, or is damaged ({type(error).__name__})") from None
    for name in _WRAPPED:
        if isinstance(state, dict) and isinstance(state.get(name), dict):
            state = state[name]
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise PackError(f"{file} is no dictionary of tensors")
    seen = set[int]()
    tensors: dict[str, torch.Tensor] = {}
    for name, tensor in state.items():
        at = tensor.untyped_storage().data_ptr()
        # safetensors shares nothing: of weights that are tied, each name gets its own
        tensors[str(name)] = tensor.detach().clone().contiguous() if at in seen else tensor.detach().contiguous()
        seen.add(at)
    return tensors
