"""A model pack: everything the factory must know about models, read from one `pack.toml`.

A pack is a folder with a `pack.toml`, the list of celebrity names and the weights of five parts: the base model, the
face-recognition ViT, CLIP (optional), the face detector and recogniser, and the face parser; and of those that a pack
may lack: controls such as the pose's, and what makes clips. Where the weights may not be redistributed the folder holds
only the description, and `identity-factory packs fetch` brings the rest
(`factory.supply.fetch`); `packs verify` says what is missing, changed or does not fit (`factory.supply.verify`).
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from factory.config import AssessConfig, EvaluateConfig, GenerateConfig, MethodConfig, TrainConfig
from factory.errors import IncompatibleIdentity, PackError
from factory.pack_cache import cache_folder, node_copy, source_of
from factory.parts import ControlPart, FacesPart, FeaturesPart, MotionPart, ParserPart, Source, VideoPart
from factory.records import Identity

PACKS = Path(__file__).resolve().parent.parent / "packs"
Setting = bool | int | float | str


class Pack(BaseModel):
    """A pack as described; nothing is loaded. `load_pack` makes one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    root: Path  # the pack's folder
    description: str
    resolution: int = Field(gt=0)  # px, side S of the aligned crop and of generated images
    crop_box: tuple[float, float, float, float]  # x0 y0 x1 y1 of the FR-ViT's view, fractions of the crop's side
    base: Source  # diffusers folder: tokenizer, text_encoder, vae, unet, scheduler
    fr_vit: FeaturesPart  # features of faces, which the method reads
    clip: Source | None = None  # transformers CLIPModel folder: evaluation, and the ablation of the encoder
    faces: FacesPart
    parser: ParserPart
    several_px: tuple[int, int] | None = None  # width, height of a picture of several people; None: twice as wide
    control: dict[str, ControlPart] = {}  # by what they control: "pose"; a pack works without
    motion: MotionPart | None = None  # makes clips with the base model's own UNet; a pack works without
    video: VideoPart | None = None  # makes clips in the place of the base model; a pack works without
    celebrities: list[tuple[str, str]]  # first and last name, from the file that pack.toml names
    prompt_templates: list[str] = []  # training texts with {} for the identity; empty: those of factory.prompts
    train: dict[str, Setting] = {}  # what this base model needs otherwise than MethodConfig and TrainConfig say
    generate: dict[str, Setting] = {}  # the same for GenerateConfig
    evaluate: dict[str, Setting] = {}  # the same for EvaluateConfig
    quality: AssessConfig = AssessConfig()  # how identities are assessed, and what good ones reach

    @field_validator("crop_box")
    @classmethod
    def _inside(cls, box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
        if not (0 <= box[0] < box[2] <= 1 and 0 <= box[1] < box[3] <= 1):
            raise ValueError("must be x0 y0 x1 y1 within 0..1, with x0 < x1 and y0 < y1")
        return box

    @field_validator("prompt_templates")
    @classmethod
    def _with_a_place(cls, templates: list[str]) -> list[str]:
        lacking = [template for template in templates if template.count("{}") != 1]
        if lacking:
            raise ValueError(f"{lacking[0]!r} needs exactly one {{}}, where the identity goes")
        return templates

    @field_validator("train")
    @classmethod
    def _known_train(cls, settings: dict[str, Setting]) -> dict[str, Setting]:
        return _known(settings, {**MethodConfig.model_fields, **TrainConfig.model_fields})

    @field_validator("generate")
    @classmethod
    def _known_generate(cls, settings: dict[str, Setting]) -> dict[str, Setting]:
        return _known(settings, GenerateConfig.model_fields)

    @field_validator("evaluate")
    @classmethod
    def _known_evaluate(cls, settings: dict[str, Setting]) -> dict[str, Setting]:
        return _known(settings, EvaluateConfig.model_fields)

    def parts(self) -> dict[str, Source]:
        """The parts by name, in the order of pack.toml; without those that the pack has none of."""
        clip = {} if self.clip is None else {"clip": self.clip}
        control: dict[str, Source] = {}
        clips: dict[str, Source] = {} if self.motion is None else {"motion": self.motion}
        if self.video is not None:
            clips["video"] = self.video
        for name, part in self.control.items():
            control[f"control.{name}"] = part
            if part.estimator is not None:
                control[f"control.{name}.estimator"] = part.estimator
        needed = {"base": self.base, "fr_vit": self.fr_vit, **clip, "faces": self.faces, "parser": self.parser}
        return {**needed, **control, **clips}

    def place(self, part: Source) -> Path:
        """Where a part belongs, whether or not it is there."""
        return self.root / part.path

    def folder(self, part: Source) -> Path:
        """Where a part lies (for a part of one file: that file). PackError with the remedy if it is missing."""
        place = self.place(part)
        if not place.exists():
            raise PackError(f"pack {self.name!r} has no {part.path} at {place}; {self.remedy(part)}")
        return place

    def remedy(self, part: Source) -> str:
        """What a user can do about a part that is missing or damaged."""
        if part.hub or part.url:
            return f"run `identity-factory packs fetch {self.name}` ({part.hub or part.url}; {part.licence})"
        return f"restore it from the repository (packs/{self.name}), or name its `hub` or `url` in pack.toml"

    def portable_name(self) -> str:
        """What finds this pack on whichever node: its name if it comes with the code, or where it was copied from."""
        return source_of(self.root) or (self.root.name if self.root.parent == PACKS else str(self.root))

    def fingerprint(self) -> str:
        """16 hex digits over the content of the text encoder's weights and the tokenizer's files.

        Words learned for one text encoder mean nothing to another; this is how the two are told apart. Digests are
        cached by path, size and time of change, as hashing 1.4 GB takes seconds. Raises PackError without the weights.
        """
        base = self.folder(self.base)
        weights = _first_found(base / "text_encoder", ("*.safetensors",))
        vocabulary = _first_found(base / "tokenizer", ("vocab.json", "tokenizer.json"))
        merges = _first_found(base / "tokenizer", ("merges.txt", "tokenizer.json"))
        files = [*weights, *dict.fromkeys(vocabulary + merges)]
        if not (weights and vocabulary):
            raise PackError(f"{base} has no text encoder weights or no tokenizer; {self.remedy(self.base)}")
        return _digest(file_sha256(file) for file in files)

    def check_fit(self, identity: Identity) -> None:
        """Before each picture enters an engine. Raises IncompatibleIdentity if an identity was learned for another text
        encoder than this pack's, ConsentExpired."""
        identity.check_consent(time.time())
        mine = self.fingerprint()
        if identity.fingerprint != mine:
            raise IncompatibleIdentity(
                f"identity {identity.name!r} ({identity.identity_id}) was learned with pack {identity.pack!r} (text "
                f"encoder {identity.fingerprint}), not with {self.name!r} ({mine}); use pack {identity.pack!r}, "
                f"or train it again with {self.name!r}"
            )

    def model_fingerprint(self) -> str:
        """16 hex digits over the whole base model: what a picture depends on besides words, prompt, seed and settings.

        Packs that share a text encoder (a fine-tuned UNet, another VAE) read each other's words but draw other
        pictures. Raises PackError without the weights.
        """
        base = self.folder(self.base)
        files = [base / "scheduler" / "scheduler_config.json"]
        for part in ("text_encoder", "vae", "unet"):
            weights = _first_found(base / part, ("*.safetensors",))
            if not weights:
                raise PackError(f"{base} has no weights in {part}; {self.remedy(self.base)}")
            files += [base / part / "config.json", *weights]
        return _digest([self.fingerprint(), *(file_sha256(file) for file in files if file.exists())])

    def learning_fingerprint(self) -> str:
        """16 hex digits over what words depend on besides the face and the settings.

        That is the base model, the celebrity names and the training texts. Raises PackError without the weights.
        """
        names = [" ".join(pair) for pair in self.celebrities]
        return _digest([self.model_fingerprint(), *names, *self.prompt_templates])

    def clip_fingerprint(self) -> str:
        """16 hex digits over all that a clip depends on besides words, prompt, seed, poses and settings: the base model
        and what makes clips of its pictures, or in its place. Raises PackError where the pack has nothing of the kind,
        or not its weights."""
        makers = [part for name, part in self.parts().items() if name in ("motion", "video")]
        if not makers:
            raise PackError(
                f"pack {self.name!r} makes no clips: its pack.toml has neither [motion] nor [video]; use one that has"
            )
        settings = [part.model_dump_json(exclude=set(Source.model_fields)) for part in makers]
        files = [file for part in makers for file in sorted(self.folder(part).rglob("*"))]
        kept = [file for file in files if file.suffix in (".json", ".safetensors")]
        return _digest([self.model_fingerprint(), *settings, *map(file_sha256, kept)])


def list_packs() -> list[str]:
    """Names of the packs that come with the factory, sorted."""
    return sorted(file.parent.name for file in PACKS.glob("*/pack.toml"))


def load_pack(name_or_path: str | Path) -> Pack:
    """Read a pack by its name (`studio`), its folder, its pack.toml, or its s3:// uri (then from this node's copy).

    Raises PackError, naming file and field.
    """
    file = _pack_file(name_or_path)
    try:
        fields: dict[str, Any] = tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise PackError(f"{file} is not valid TOML: {error}") from error
    names = fields.pop("celebrities", None)
    if not isinstance(names, str):
        raise PackError(f"{file}: celebrities: must name a text file with a first and a last name per line")
    fields = {"name": file.parent.name, **fields, "root": file.parent, "celebrities": read_names(file.parent / names)}
    try:
        return Pack.model_validate(fields)
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise PackError(f"{file}: {faults}. packs/sd21/pack.toml shows every field") from error


def read_names(file: Path) -> list[tuple[str, str]]:
    """Celebrity names, one "First Last" per line; empty lines and those that begin with # are skipped."""
    if not file.is_file():
        raise PackError(f"{file} is missing: the celebrity names that pack.toml points to, one 'First Last' per line")
    names = []
    for number, line in enumerate(file.read_text(encoding="utf-8-sig").splitlines(), start=1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) != 2:
            raise PackError(f"{file}, line {number}: {line.strip()!r} is not exactly two words")
        names.append((words[0], words[1]))
    return names


def file_sha256(file: Path, on_bytes: Callable[[int], None] | None = None) -> str:
    """Hex sha256 of a file, remembered by path, size and time of change; `on_bytes` hears the bytes read so far."""
    stat = file.stat()
    key = f"{file.resolve()}|{stat.st_size}|{stat.st_mtime_ns}"
    if not _DIGESTS:
        _DIGESTS.update(_read_digests())
    if key not in _DIGESTS:
        digest, done = hashlib.sha256(), 0
        with file.open("rb") as stream:
            while block := stream.read(8 * 2**20):
                digest.update(block)
                done += len(block)
                if on_bytes is not None:
                    on_bytes(done)
        _DIGESTS[key] = digest.hexdigest()
        if stat.st_size > 64 * 2**20:
            _write_digests()
    return _DIGESTS[key]


# Digests of this process; those of files that take a noticeable time are kept in the user's cache folder as well.
_DIGESTS: dict[str, str] = {}


def _cache_file() -> Path:
    return cache_folder() / "sha256.json"


def _read_digests() -> dict[str, str]:
    try:
        return dict(json.loads(_cache_file().read_text()))
    except (OSError, ValueError):  # no cache, or a damaged one: the files are hashed again
        return {}


def _write_digests() -> None:
    file = _cache_file()
    partial = file.with_name(f"{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(_DIGESTS))
        partial.replace(file)
    except OSError:  # a read-only home costs the next process a few seconds, nothing else
        return


def _pack_file(name_or_path: str | Path) -> Path:
    if str(name_or_path).startswith("s3://"):
        return node_copy(str(name_or_path)) / "pack.toml"
    for folder in (PACKS / name_or_path, Path(name_or_path)):
        file = folder if folder.name == "pack.toml" else folder / "pack.toml"
        if file.is_file():
            return file.resolve()
    raise PackError(f"no pack {str(name_or_path)!r}; there are {', '.join(list_packs()) or 'none'}, or give a folder")


def _known(settings: dict[str, Setting], fields: dict[str, Any]) -> dict[str, Setting]:
    unknown = sorted(set(settings) - set(fields))
    if unknown:
        raise ValueError(f"no such setting: {', '.join(unknown)}; there are {', '.join(sorted(fields))}")
    return settings


def _digest(texts: Iterable[str]) -> str:
    """16 hex digits of these texts in this order."""
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]


def _first_found(folder: Path, patterns: tuple[str, ...]) -> list[Path]:
    """The files of the first pattern that matches any, sorted."""
    return next((found for pattern in patterns if (found := sorted(folder.glob(pattern)))), [])
