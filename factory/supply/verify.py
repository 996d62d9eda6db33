"""Is a pack complete, unchanged and of one piece? Every fault with where to get the remedy."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from transformers import CLIPTokenizer

from factory.config import PrepareConfig
from factory.errors import PackError
from factory.faces.detect import FaceDetector, FaceRecogniser
from factory.faces.encode import FeatureEncoder
from factory.faces.openpose import BodyEstimator
from factory.faces.parse import FaceParser
from factory.faces.pose import HeadPose, draw_skeleton
from factory.pack import Pack, file_sha256
from factory.parts import PoseEstimatorPart, Source
from factory.supply.pickles import PICKLES

HASHES = "hashes.json"  # in the pack's folder: its files as they were fetched or built, {part's path: {file: sha256}}
REJECTED = ".rejected"  # ending of a file that was put aside for its wrong hash
NUM_CLASSES = 19  # of the face parsing networks
PREDICTION_TYPES = ("epsilon", "v_prediction")
_BIG = 64 * 2**20  # bytes; hashing a file of this size takes a noticeable part of a second


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Something about a pack that a user should know."""

    part: str  # base, fr_vit, clip, faces, parser, control.pose(.estimator), motion, video, or a field of pack.toml
    message: str
    remedy: str
    level: Literal["error", "warning"] = "error"  # a pack with warnings works
    file: Path | None = None  # the file whose content is wrong, where it is one


def verify_pack(pack: Pack, on_progress: Callable[[str], None] | None = None) -> list[Problem]:
    """Presence and hashes of every part, and whether the parts fit together; empty if there is nothing to say.

    `on_progress` hears of each big file before it is hashed. Nothing is downloaded. The base model is judged by its
    configuration files; the smaller models are loaded.
    """
    problems: list[Problem] = []
    complete = set()
    for name, part in pack.parts().items():
        missing = missing_files(pack, name)
        if missing:
            text = f"missing in {pack.place(part)}: {', '.join(missing)}"
            level: Literal["error", "warning"] = "warning" if _optional(name) else "error"
            problems.append(Problem(part=name, message=text, remedy=pack.remedy(part), level=level))
        else:
            complete.add(name)
        problems.extend(check_hashes(pack, name, on_progress))
    if "base" in complete:
        try:
            problems.extend(_check_base(pack))
        except (KeyError, ValueError, OSError) as error:  # a config that is no JSON, lacks a field, or a bad tokenizer
            text = f"a configuration file in {pack.folder(pack.base)} cannot be used: {type(error).__name__}: {error}"
            problems.append(Problem(part="base", message=text, remedy=pack.remedy(pack.base)))
        for name in sorted(complete.intersection(f"control.{name}" for name in pack.control)):
            problems.extend(_check_control(pack, name))
    problems.extend(_check_poses(pack))
    problems.extend(_check_small_models(pack, complete))
    problems.extend(_check_classes(pack))
    return problems


def missing_files(pack: Pack, name: str) -> list[str]:
    """What a part lacks, as file names relative to its place; empty if it is complete."""
    part = pack.parts()[name]
    place = pack.place(part)
    if isinstance(part, PoseEstimatorPart):
        return [file for file in (part.det_file, part.pose_file) if not (place / file).is_file()]
    if name == "parser":
        return [] if place.is_file() else ["the weights file"]
    if name == "faces":
        wanted = [pack.faces.det_file, *([pack.faces.judge] if pack.faces.judge else [])]
        return [file for file in wanted if not (place / file).is_file()]
    if name in ("base", "video"):
        models = ["text_encoder/", "unet/", "vae/"]
        files = ["model_index.json", "scheduler/scheduler_config.json", "tokenizer/tokenizer_config.json"]
        if not (place / "tokenizer" / "tokenizer.json").is_file():
            files += ["tokenizer/vocab.json", "tokenizer/merges.txt"]
    elif name == "motion":
        models, files = ["adapter/", *(["text/"] if (place / "text").exists() else [])], []
    else:
        models, files = [""], [] if _optional(name) else ["preprocessor_config.json"]
    files += [f"{model}config.json" for model in models]
    missing = [file for file in files if not (place / file).is_file()]
    return missing + [f"{model}*.safetensors" for model in models if not _has_weights(place / model)]


def _optional(name: str) -> bool:
    """Whether a pack works without this part, but for what it is there for."""
    return name.startswith("control.") or name in ("motion", "video")


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
            problems.append(Problem(part=name, message=text, remedy=remedy, file=file))
    if (part.hub or part.url) and place.exists() and not expected:
        remedy = f"`identity-factory packs fetch {pack.name}` records what it downloads; or list sha256 in pack.toml"
        text = "no hash recorded, so a changed file would go unnoticed"
        problems.append(Problem(part=name, message=text, remedy=remedy, level="warning"))
    return problems


def listed_hashes(part: Source) -> dict[str, str]:
    """The hashes pack.toml gives, by file relative to the part's place ("" where that is itself the file)."""
    # a zip is unpacked, and a pickle converted
    single = part.url is not None and part.url_sha256 is not None and not part.url.endswith((".zip", *PICKLES))
    return {**({"": part.url_sha256} if single and part.url_sha256 else {}), **part.sha256}


def recorded_hashes(pack: Pack) -> dict[str, dict[str, str]]:
    """The hashes recorded when parts were fetched or built, by the part's path and the file relative to it."""
    file = pack.root / HASHES
    return dict(json.loads(file.read_text())) if file.is_file() else {}


def record_hashes(pack: Pack, name: str) -> None:
    """Note a part's files as they are, so that later changes are noticed even where pack.toml lists no hash."""
    part = pack.parts()[name]
    place = pack.place(part)
    files = [place] if place.is_file() else [file for file in sorted(place.rglob("*")) if file.is_file()]
    hashes = {
        "" if file == place else file.relative_to(place).as_posix(): file_sha256(file)
        for file in files
        if ".cache" not in file.relative_to(place).parts and file.suffix != REJECTED  # .cache: the hub client's own
    }
    partial = pack.root / f"{HASHES}.part"
    partial.write_text(json.dumps({**recorded_hashes(pack), part.path: hashes}, indent=1, sort_keys=True) + "\n")
    partial.replace(pack.root / HASHES)


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
    yield from _check_names(pack, CLIPTokenizer.from_pretrained(base / "tokenizer", local_files_only=True))


def _check_control(pack: Pack, name: str) -> Iterator[Problem]:
    """A ControlNet adds to what the UNet's blocks hand over, so it must have been made for a UNet of this shape."""
    unet_file = pack.folder(pack.base) / "unet" / "config.json"
    file = pack.folder(pack.parts()[name]) / "config.json"
    try:
        control, unet = _config(file), _config(unet_file)
    except ValueError as error:
        yield Problem(part=name, message=f"{file} is no JSON: {error}", remedy=pack.remedy(pack.parts()[name]))
        return
    for field in ("in_channels", "cross_attention_dim", "block_out_channels", "layers_per_block"):
        if control.get(field) != unet.get(field):
            message = f"its {field} is {control.get(field)}, the base model's UNet has {unet.get(field)}"
            yield Problem(part=name, message=message, remedy="it belongs to another base model; use one made for this")


def _check_poses(pack: Pack) -> Iterator[Problem]:
    for name, part in pack.control.items():
        for pose, numbers in part.poses.items():
            try:
                draw_skeleton([HeadPose(**numbers)], pack.resolution, pack.resolution)
            except (TypeError, ValueError) as error:
                remedy = "give yaw, pitch, roll in degrees, scale, dx and dy in shares of the side, within their limits"
                yield Problem(part=f"control.{name}.poses", message=f"{pose}: {error}", remedy=remedy)


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


def _check_small_models(pack: Pack, complete: set[str]) -> Iterator[Problem]:
    """Load what the jobs load of the smaller models, with the jobs' own loaders; they raise what is wrong."""
    loads: list[tuple[str, Callable[[], object]]] = [
        ("fr_vit", lambda: FeatureEncoder(pack)),
        ("clip", lambda: FeatureEncoder(pack, source="clip")),
        ("faces", lambda: FaceDetector(pack, PrepareConfig())),
        ("parser", lambda: FaceParser(pack)),
        ("control.pose.estimator", lambda: BodyEstimator(pack)),
    ]
    if pack.faces.judge is not None:
        loads.append(("faces", lambda: FaceRecogniser(pack)))
    for name, load in loads:
        if name in complete:
            try:
                load()
            except PackError as error:
                yield Problem(part=name, message=str(error), remedy=pack.remedy(pack.parts()[name]))


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
    return any(file.stat().st_size for file in folder.glob("*.safetensors"))


def _config(file: Path) -> dict[str, Any]:
    return dict(json.loads(file.read_text()))
