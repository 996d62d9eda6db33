"""Is a pack complete, unchanged and of one piece? Every fault with where to get the remedy."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from google.protobuf.message import DecodeError
from insightface.model_zoo import get_model
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument, InvalidGraph, InvalidProtobuf
from transformers import CLIPTokenizer

from factory.pack import Pack, Source, file_sha256

FETCHED = "fetched.json"  # in the pack's folder: what `packs fetch` brought, {part's path: {file: sha256}}
NUM_CLASSES = 19  # of the face parsing networks
PREDICTION_TYPES = ("epsilon", "v_prediction")
_WEIGHTS = ("*.safetensors", "*.bin")
_BIG = 64 * 2**20  # bytes; hashing a file of this size takes a noticeable part of a second
_UNREADABLE_ONNX = (DecodeError, Fail, InvalidArgument, InvalidGraph, InvalidProtobuf)


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Something about a pack that a user should know."""

    part: str  # base, fr_vit, clip, faces, parser, or a field of pack.toml
    message: str
    remedy: str
    level: Literal["error", "warning"] = "error"  # a pack with warnings works


def verify_pack(pack: Pack, on_progress: Callable[[str], None] | None = None) -> list[Problem]:
    """Presence and hashes of every part, and whether the parts fit together; empty if there is nothing to say.

    `on_progress` hears of each big file before it is hashed. Nothing is downloaded, and no weights are loaded but those
    of the detector and the recogniser.
    """
    problems: list[Problem] = []
    complete = set()
    for name, part in pack.parts().items():
        missing = missing_files(pack, name)
        if missing:
            text = f"missing in {pack.place(part)}: {', '.join(missing)}"
            problems.append(Problem(part=name, message=text, remedy=pack.remedy(part)))
        else:
            complete.add(name)
        problems.extend(check_hashes(pack, name, on_progress))
    if "base" in complete:
        problems.extend(_check_base(pack))
    if "faces" in complete:
        problems.extend(_check_faces(pack))
    problems.extend(_check_classes(pack))
    return problems


def missing_files(pack: Pack, name: str) -> list[str]:
    """What a part lacks, as file names relative to its place; empty if it is complete."""
    place = pack.place(pack.parts()[name])
    if name == "parser":
        return [] if place.is_file() else ["the weights file"]
    if name == "faces":
        wanted = [pack.faces.det_file, *([pack.faces.judge] if pack.faces.judge else [])]
        return [file for file in wanted if not (place / file).is_file()]
    folders = {"": ("config.json",)}
    files: list[str] = []
    if name == "base":
        folders = {part: ("config.json",) for part in ("text_encoder/", "unet/", "vae/")}
        files = ["model_index.json", "scheduler/scheduler_config.json", "tokenizer/tokenizer_config.json"]
        if not (place / "tokenizer" / "tokenizer.json").is_file():
            files += ["tokenizer/vocab.json", "tokenizer/merges.txt"]
    else:
        files.append("preprocessor_config.json")
    files += [f"{folder}{file}" for folder, needed in folders.items() for file in needed]
    missing = [file for file in files if not (place / file).is_file()]
    weights = [f"{folder}*.safetensors (or .bin)" for folder in folders if not _has_weights(place / folder)]
    return missing + weights


def check_hashes(pack: Pack, name: str, on_progress: Callable[[str], None] | None = None) -> list[Problem]:
    """Compare a part's files with the hashes of pack.toml and with those recorded when they were fetched."""
    part = pack.parts()[name]
    place = pack.place(part)
    recorded = recorded_hashes(pack).get(part.path, {})
    expected = {**recorded, **listed_hashes(part)}
    problems = []
    for relative, digest in expected.items():
        file = place / relative if relative else place
        if not file.is_file():
            continue  # named by missing_files where it is needed
        if on_progress is not None and file.stat().st_size > _BIG:
            on_progress(f"{name}: hashing {file.name}, {file.stat().st_size / 1e6:,.0f} MB")
        found = file_sha256(file)
        if found != digest:
            text = f"{file} has changed: sha256 {found}, expected {digest}"
            remedy = f"delete it, then {pack.remedy(part)}"
            problems.append(Problem(part=name, message=text, remedy=remedy))
    if (part.hub or part.url) and place.exists() and not expected:
        remedy = f"`identity-factory packs fetch {pack.name}` records what it downloads; or list sha256 in pack.toml"
        text = "no hash recorded, so a changed file would go unnoticed"
        problems.append(Problem(part=name, message=text, remedy=remedy, level="warning"))
    return problems


def listed_hashes(part: Source) -> dict[str, str]:
    """The hashes pack.toml gives, by file relative to the part's place ("" where that is itself the file)."""
    single = part.url is not None and part.url_sha256 is not None and not part.url.endswith(".zip")
    return {**({"": part.url_sha256} if single and part.url_sha256 else {}), **part.sha256}


def recorded_hashes(pack: Pack) -> dict[str, dict[str, str]]:
    """The hashes recorded when parts were fetched, by the part's path and the file relative to it."""
    file = pack.root / FETCHED
    return dict(json.loads(file.read_text())) if file.is_file() else {}


def _check_base(pack: Pack) -> Iterator[Problem]:
    base = pack.folder(pack.base)
    text, unet, vae = (_config(base / part / "config.json") for part in ("text_encoder", "unet", "vae"))
    schedule = _config(base / "scheduler" / "scheduler_config.json")
    another = "the parts come from different models: use one base model's own folder"
    if text["hidden_size"] != unet["cross_attention_dim"]:
        message = f"text width {text['hidden_size']} but the UNet attends to {unet['cross_attention_dim']}"
        yield Problem(part="base", message=message, remedy=another)
    if unet["in_channels"] != vae["latent_channels"]:
        message = f"the VAE has {vae['latent_channels']} latent channels, the UNet takes {unet['in_channels']}"
        remedy = "inpainting and depth models cannot be used; choose a text-to-image model"
        yield Problem(part="base", message=message, remedy=remedy)
    predicts = schedule.get("prediction_type", "epsilon")
    if predicts not in PREDICTION_TYPES:
        message = f"the scheduler's prediction_type is {predicts!r}"
        yield Problem(part="base", message=message, remedy=f"the loss is defined for {' and '.join(PREDICTION_TYPES)}")
    factor = 2 ** (len(vae.get("block_out_channels") or vae["decoder_block_out_channels"]) - 1)
    if pack.resolution % factor:
        message = f"{pack.resolution} px is not divisible by the VAE's factor of {factor}"
        yield Problem(part="resolution", message=message, remedy=f"use a multiple of {factor} px in pack.toml")
    elif isinstance(unet.get("sample_size"), int) and unet["sample_size"] * factor != pack.resolution:
        message = f"the base model was trained at {unet['sample_size'] * factor} px, the pack uses {pack.resolution} px"
        remedy = "pictures may fall apart; set `resolution` to the trained one"
        yield Problem(part="resolution", message=message, remedy=remedy, level="warning")
    yield from _check_names(pack, CLIPTokenizer.from_pretrained(base / "tokenizer"))


def _check_names(pack: Pack, tokenizer: CLIPTokenizer) -> Iterator[Problem]:
    """The celeb prior needs names of exactly two tokens; the others are left out when it is computed."""
    split = [
        f"{first} {last}"
        for first, last in pack.celebrities
        if len(tokenizer(f"{first} {last}", add_special_tokens=False).input_ids) != 2
    ]
    kept = len(pack.celebrities) - len(split)
    if split:
        message = f"{kept} of {len(pack.celebrities)} names are two tokens and are used; not, e.g., {split[0]!r}"
        remedy = "nothing to do, unless far fewer than the paper's 326 are left"
        level: Literal["error", "warning"] = "warning"
        if kept < 2:
            remedy, level = "the tokenizer may belong to another model; otherwise list commoner names", "error"
        yield Problem(part="celebrities", message=message, remedy=remedy, level=level)


def _check_faces(pack: Pack) -> Iterator[Problem]:
    folder = pack.folder(pack.faces)
    wanted = {pack.faces.det_file: "detection"}
    if pack.faces.judge:
        wanted[pack.faces.judge] = "recognition"
    for file, task in wanted.items():
        try:
            model = get_model(str(folder / file), providers=["CPUExecutionProvider"])
        except _UNREADABLE_ONNX as error:
            message = f"{folder / file} cannot be read as ONNX: {str(error).splitlines()[0]}"
            yield Problem(part="faces", message=message, remedy=pack.remedy(pack.faces))
            continue
        found = getattr(model, "taskname", "nothing it knows")
        if found != task:
            message = f"insightface takes {file} for {found}, where a model for {task} is needed"
            yield Problem(part="faces", message=message, remedy="name the right file in pack.toml")


def _check_classes(pack: Pack) -> Iterator[Problem]:
    face, hair = set(pack.parser.face_classes), set(pack.parser.hair_classes)
    outside = sorted(number for number in face | hair if number >= NUM_CLASSES)
    remedy = "see the class lists of the parsing networks in packs/sd21/pack.toml"
    if outside:
        message = f"classes {outside} do not exist: the networks have {NUM_CLASSES}, from 0"
        yield Problem(part="parser", message=message, remedy=remedy)
    if face & hair:
        message = f"classes {sorted(face & hair)} are both face and hair; the two masks must be disjoint"
        yield Problem(part="parser", message=message, remedy=remedy)


def _has_weights(folder: Path) -> bool:
    return any(file.stat().st_size for pattern in _WEIGHTS for file in folder.glob(pattern))


def _config(file: Path) -> dict[str, Any]:
    return dict(json.loads(file.read_text()))
