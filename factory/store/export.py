"""Identities as files that other tools read (which reads which: README, "Use an identity elsewhere").

A person's name may be anything; a file's name must do on every file system, and a token survive every tokenizer.
"""

from __future__ import annotations

import io
import json
import re
import unicodedata
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Literal, assert_never

import torch
from safetensors.torch import save

from factory.files import write_whole
from factory.records import TEXT_ENCODER, Identity

ExportFormat = Literal["kohya", "diffusers", "a1111", "release"]
SUFFIXES: Final[dict[ExportFormat, str]] = {
    "kohya": ".safetensors",
    "diffusers": ".safetensors",
    "a1111": ".pt",
    "release": ".pt",
}
_OF_WEIGHTS = re.compile(r"[()\[\]]")  # in prompts of ComfyUI and AUTOMATIC1111, unless a \ is before them
_APART = re.compile(r"[ ,()\[\]{}]+")
_PARTS_OF_PT = re.compile(r"[^/]+/(data/\d+|version|data\.pkl)")
_NAME_BYTES = 200  # of a stem in UTF-8: file systems take 255, with what is put behind it
_TOKEN_CHARS = 40
_RESERVED = frozenset({"CON", "PRN", "AUX", "NUL", *(f"{port}{n}" for port in ("COM", "LPT") for n in "0123456789¹²³")})


def export_identity(
    identity: Identity, path: str | Path, format: ExportFormat = "kohya", *, token: str | None = None
) -> Path:
    """Writes the words [V, D] as one embedding file; gives its path (`<name><suffix>` if `path` is a folder, as
    `export_identities` calls it).

    `kohya`: {"emb_params"}, read by kohya, ai-toolkit, InvokeAI, ComfyUI and, given `token=`, diffusers.
    `diffusers`: {token: words}, exactly one key (learned_embeds.safetensors), `token_of` the name unless given.
    `a1111`: AUTOMATIC1111's dictionary. `release`: the bare [1, V, D] tensor of StableIdentity's published code.
    """
    target = Path(path)
    if target.is_dir() or not target.suffix:
        target /= _asked_for(identity.name) + SUFFIXES[format]
    data = _file_of(identity, target, format, token or token_of(identity))
    target.parent.mkdir(parents=True, exist_ok=True)
    write_whole(target, data)
    return target


def _file_of(identity: Identity, target: Path, format: ExportFormat, token: str) -> bytes:
    if target.suffix != SUFFIXES[format]:
        raise ValueError(f"format {format} is a {SUFFIXES[format]} file, not {target.name}")
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
            return _sorted(save({"emb_params": words_VD}, metadata=about))
        case "diffusers":
            return _sorted(save({token: words_VD}, metadata=about))
        case "a1111":
            return _pickled(_a1111(identity, words_VD, target.stem))
        case "release":
            return _pickled(words_VD[None])
        case _:
            assert_never(format)


def _sorted(data: bytes) -> bytes:
    """A safetensors file whose header has its entries in order, which are written in any: the same words are the same
    bytes. The header is JSON behind its length, filled up with blanks to a multiple of 8 bytes."""
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8:end]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + data[end:]


def _pickled(value: object) -> bytes:
    """As `torch.save`, with those parts of its zip alone that every version knows: AUTOMATIC1111's check for what is
    safe refuses files with others (modules/safe.py), and what newer versions add is how to map them to memory."""
    buffer, plain = io.BytesIO(), io.BytesIO()
    torch.save(value, buffer)
    with zipfile.ZipFile(buffer) as saved, zipfile.ZipFile(plain, "w") as kept:
        for part in saved.infolist():
            if _PARTS_OF_PT.fullmatch(part.filename):
                kept.writestr(zipfile.ZipInfo(part.filename), saved.read(part))
    return plain.getvalue()


def export_identities(
    identities: Sequence[Identity],
    out: Path,
    format: ExportFormat,
    *,
    overwrite: bool = False,
    beside: Sequence[str] = (),
) -> dict[Path, str]:
    """A file each, and what stands for the person in a prompt: `out` itself if it is one, else <name><suffix> in it.

    Names and tokens that two of these people would share get the identity's id behind them, and so do those that
    somebody else's name would give, of these `beside`: files that are made one by one are used together.
    Raises FileExistsError, before anything is written, where another file is in the way, unless `overwrite`.
    """
    ids = [who.identity_id for who in identities]
    others_names = {*beside} - {who.name for who in identities}
    if out.suffix and not out.is_dir():
        targets = [out for _ in identities]
    else:
        taken = {_asked_for(name).casefold() for name in others_names}  # as of long names that are cut
        stems = _told_apart([_asked_for(who.name) for who in identities], ids)
        stems = [
            f"{stem}-{an_id}" if stem.casefold() in taken else stem for stem, an_id in zip(stems, ids, strict=True)
        ]
        targets = [out / f"{stem}{SUFFIXES[format]}" for stem in stems]
    others = {_slug(name, "") for name in others_names}
    slugs = zip(identities, _told_apart([_slug(who.name, who.identity_id) for who in identities], ids), strict=True)
    tokens = [f"<{slug}-{who.identity_id}>" if slug in others else f"<{slug}>" for who, slug in slugs]
    whose = list(zip(identities, targets, tokens, strict=True))
    files = {target: _file_of(who, target, format, token) for who, target, token in whose}
    for target, data in files.items():
        if not overwrite:
            check_free(target, data)
    for target, data in files.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        write_whole(target, data)
    return dict(zip(targets, [_called(*one, format) for one in zip(targets, tokens, strict=True)], strict=True))


def _called(target: Path, token: str, format: ExportFormat) -> str:
    """How a file's person is asked for: diffusers by the token in it, most others by the file's name."""
    stem = _OF_WEIGHTS.sub(r"\\\g<0>", target.stem)
    names = {"diffusers": token, "kohya": f"embedding:{stem} in ComfyUI", "a1111": stem, "release": ""}
    return names[format]


def _asked_for(name: str) -> str:
    """A name as a file's that can stand in a prompt as it is, without what ends it or weighs it there."""
    return file_stem(_APART.sub("_", name).strip("_"))


def check_free(target: Path, data: bytes | None = None) -> None:
    """Raises FileExistsError, with the remedy, if there is a file, unless it says the same."""
    if target.exists() and (data is None or _content(target.read_bytes()) != _content(data)):
        raise FileExistsError(f"{target} is there already, and is another file; give another --out, or --overwrite")


def _content(data: bytes) -> object:
    """What a file says; safetensors writes the entries of its header (JSON behind its length) in any order."""
    end = 8 + int.from_bytes(data[:8], "little")
    try:
        return json.loads(data[8:end]), data[end:]
    except ValueError:  # another format
        return data


def token_of(identity: Identity) -> str:
    """What stands for the identity in a prompt of diffusers: "<ada-lovelace>".

    Lower case, as CLIP's tokenizer makes all text; ASCII without spaces, as it would split; and in brackets, so that
    none is the beginning of another: diffusers puts the second word in by replacing text.
    """
    return f"<{_slug(identity.name, identity.identity_id)}>"


def _slug(name: str, identity_id: str) -> str:
    """A name in a-z, 0-9 and hyphens; of names that have too few of these, the identity's id."""
    plain = unicodedata.normalize("NFKD", name.casefold())
    kept = "".join(char for char in plain if not unicodedata.combining(char))
    slug = "-".join("".join(char if char.isascii() and char.isalnum() else " " for char in kept).split())
    if len(slug) > _TOKEN_CHARS:
        return f"{slug[:_TOKEN_CHARS].rstrip('-')}-{identity_id}"
    lost = sum(char.isalnum() and not char.isascii() for char in kept)
    return slug if slug and not lost else f"{slug}-{identity_id}".lstrip("-")


def file_stems(people: Mapping[str, str]) -> dict[str, str]:
    """Name by identity_id -> what the person's files begin with, "<name>-<identity_id>" of those who share it."""
    names = [file_stem(name) for name in people.values()]
    return dict(zip(people, _told_apart(names, list(people)), strict=True))


def _told_apart(names: Sequence[str], ids: Sequence[str]) -> list[str]:
    """People's names, with the id behind those that are not alone; some file systems take "Ada" and "ada" for the
    same."""
    with_id = [f"{name}-{an_id}" for name, an_id in zip(names, ids, strict=True)]
    shared = Counter(name.casefold() for name in [*names, *set(with_id)])  # somebody may be called "ada-<id>"
    return [name if shared[name.casefold()] == 1 else longer for name, longer in zip(names, with_id, strict=True)]


def _a1111(identity: Identity, words_VD: torch.Tensor, name: str) -> dict[str, object]:
    """`name` is what stands in prompts, the file's: some tools go by the one inside."""
    return {
        "string_to_token": {"*": 265},  # CLIP's token of "*", what the web UI itself writes
        "string_to_param": {"*": words_VD},
        "name": name,
        "step": identity.num_steps,
        "sd_checkpoint": identity.fingerprint,
        "sd_checkpoint_name": identity.pack,
    }


def file_stem(name: str) -> str:
    """A name as part of a file name that every file system takes: characters, length, reserved words, last letter."""
    composed = unicodedata.normalize("NFC", name)
    stem = "".join("_" if char in '/\\:*?"<>|' or not _printable(char) else char for char in composed)
    stem = stem.encode()[:_NAME_BYTES].decode(errors="ignore").strip(". ")
    reserved = stem.partition(".")[0].rstrip().upper() in _RESERVED  # for Windows, also with a suffix
    return f"_{stem}" if reserved else stem or "_"


def _printable(char: str) -> bool:
    return unicodedata.category(char) not in ("Cc", "Cs", "Cn")  # control, half of a pair (a byte), unassigned
