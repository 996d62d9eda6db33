"""Photos in, two word embeddings per face out: the method (arXiv 2401.15975) as a pure library.

Importing this package first also makes `import torchvision` (hence facexlib, transformers and diffusers) work with a
CPU build of torch. The index's torchvision is linked against CUDA: beside a CPU torch its C++ operators do not load,
and its Python part then fails at "operator torchvision::nms does not exist" where it attaches shape functions to
two of them. Declaring the two schemas is enough for the networks used here; calling the operators themselves still
raises. Where torchvision's own operators load (CUDA builds, matching CPU builds) nothing is declared.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

_SCHEMAS = {
    "nms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}


class _TorchvisionSchemas(MetaPathFinder):
    """Declares the missing schemas at the first import that follows torchvision's own try to load its operators.

    It finds no module itself, and until torchvision is imported it costs one comparison of strings per import.
    """

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.startswith("torchvision."):
            extension = sys.modules.get("torchvision.extension")
            # `_has_ops` is the last thing its module defines, so its absence means "still being imported".
            if extension is not None and hasattr(extension, "_check_cuda_version") and not extension._has_ops():
                _declare_missing()
        return None


def _declare_missing() -> None:
    import torch

    for name, schema in _SCHEMAS.items():
        if not hasattr(torch.ops.torchvision, name):
            torch.library.define(f"torchvision::{name}", schema)


if not any(isinstance(finder, _TorchvisionSchemas) for finder in sys.meta_path):
    sys.meta_path.insert(0, _TorchvisionSchemas())
