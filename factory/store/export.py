"""One identity as a file that other tools read (which reads which: README, "Use an identity elsewhere")."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal, assert_never

import torch
from safetensors.torch import save_file

from factory.records import TEXT_ENCODER, Identity

ExportFormat = Literal["kohya", "diffusers", "a1111", "release"]
SUFFIXES: Final[dict[ExportFormat, str]] = {
    "kohya": ".safetensors",
    "diffusers": ".safetensors",
    "a1111": ".pt",
    "release": ".pt",
}


def export_identity(
    identity: Identity, path: str | Path, format: ExportFormat = "kohya", *, token: str | None = None
) -> Path:
    """Writes the words [V, D] as one embedding file; gives its path (`<name><suffix>` if `path` is a folder).

    `kohya`: {"emb_params"}, read by kohya, ai-toolkit, InvokeAI, ComfyUI and, given `token=`, diffusers.
    `diffusers`: {token: words}, exactly one key (learned_embeds.safetensors); the token is "<name>" unless given.
    `a1111`: AUTOMATIC1111's dictionary. `release`: the bare [1, V, D] tensor of StableIdentity's published code.
    """
    target = Path(path)
    if target.is_dir() or not target.suffix:
        target.mkdir(parents=True, exist_ok=True)
        target /= file_stem(identity.name) + SUFFIXES[format]
    elif target.suffix != SUFFIXES[format]:
        raise ValueError(f"format {format} is a {SUFFIXES[format]} file, not {target.name}")
    target.parent.mkdir(parents=True, exist_ok=True)
    if set(identity.words) != {TEXT_ENCODER}:
        encoders = ", ".join(identity.words)
        raise ValueError(f"{identity.name!r} has words for {encoders}; format {format} holds one block")
    words_VD = torch.from_numpy(identity.words[TEXT_ENCODER].copy())
    about = {
        "name": identity.name,
        "identity_id": identity.identity_id,
        "pack": identity.pack,
        "fingerprint": identity.fingerprint,
    }
    match format:
        case "kohya":
            save_file({"emb_params": words_VD}, target, metadata=about)
        case "diffusers":
            save_file({token or f"<{identity.name}>": words_VD}, target, metadata=about)
        case "a1111":
            torch.save(_a1111(identity, words_VD), target)
        case "release":
            torch.save(words_VD[None], target)
        case _:
            assert_never(format)
    return target


def export_paths(identities: Sequence[Identity], out: Path, format: ExportFormat) -> list[Path]:
    """A file each: `out` itself if it is one, else <name><suffix> in it; people of one name get their id behind it."""
    if out.suffix and not out.is_dir():
        return [out] * len(identities)
    stems = [file_stem(identity.name) for identity in identities]
    taken = Counter(stem.casefold() for stem in stems)  # some file systems take "Ada" and "ada" for the same
    return [
        out / f"{stem}{f'-{identity.identity_id}' if taken[stem.casefold()] > 1 else ''}{SUFFIXES[format]}"
        for stem, identity in zip(stems, identities, strict=True)
    ]


def _a1111(identity: Identity, words_VD: torch.Tensor) -> dict[str, object]:
    return {
        "string_to_token": {"*": 265},  # CLIP's token of "*", what the web UI itself writes
        "string_to_param": {"*": words_VD},
        "name": identity.name,
        "step": identity.num_steps,
        "sd_checkpoint": identity.fingerprint,
        "sd_checkpoint_name": identity.pack,
    }


def file_stem(name: str) -> str:
    """A name as part of a file name: path separators and control characters become "_"."""
    stem = "".join("_" if char in '/\\:*?"<>|' or ord(char) < 32 else char for char in name).strip(". ")
    return stem or "_"
