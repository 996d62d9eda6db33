"""Every id and every derived name, composed and taken apart in this one place.

Ids are content-addressed, so a row written twice is one row. A config field that a later version adds takes part in a
hash only where it differs from its default: what was learned or drawn before the field existed keeps its id.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any, Final

from factory.config import (
    AnimateConfig,
    Config,
    EvaluateConfig,
    GenerateConfig,
    MethodConfig,
    Recipe,
    SculptConfig,
    TrainConfig,
)
from factory.prompts import with_person
from factory.records import ClipRequest, ImageRequest, PoseControl, SculptRequest

_FIRST_FIELDS: Final[dict[type[Config], tuple[str, ...]]] = {  # hashed always; fields that came later are not listed
    MethodConfig: (
        *("normalise", "celeb_moments", "adain", "words", "features", "loss", "mask", "phase_boundary", "boundary"),
        *("hair_weight", "rec_scale", "mirror", "area_normalise"),
    ),
    TrainConfig: (
        *("num_steps", "learning_rate", "betas", "weight_decay", "eps", "max_grad_norm", "samples_per_step", "seed"),
        *("views", "num_views"),
    ),
    GenerateConfig: ("num_inference_steps", "guidance_scale", "negative_prompt"),
    AnimateConfig: ("num_frames", "fps"),
    SculptConfig: (
        *("objective", "num_iterations", "views_per_iteration", "guidance_scale", "control", "control_scale"),
        *("yaw_limit", "pitch_limit", "side_px", "num_gaussians", "max_gaussians", "sh_degree", "densify_every"),
        *("prune_below", "first_t", "last_t", "interval_t", "inversion_t", "denoising_steps", "refresh_every", "seed"),
    ),
    EvaluateConfig: ("face_div", "fid", "class_word"),
}


def content_id(data: bytes) -> str:
    """A photo's id: sha256 of the file's bytes, hex."""
    return hashlib.sha256(data).hexdigest()


def unread_photo_id(uri: str) -> str:
    """What stands for a photo whose bytes could not be read: sha256 of where it is, hex."""
    return hashlib.sha256(uri.encode()).hexdigest()


def face_id(photo: str, index: int) -> str:
    """The photo's id and the face's number; 0 is the largest face."""
    return f"{photo}-{index}"


def photo_of(a_face_id: str) -> str:
    """The photo's id in a face's."""
    return a_face_id.rpartition("-")[0]


def is_face_id(an_id: str) -> bool:
    """Whether an id of a reject is a face's: a photo's, and an identity's, are hexadecimal digits alone."""
    return "-" in an_id


def index_of(a_face_id: str) -> int:
    """The face's number in a face's id."""
    return int(a_face_id.rpartition("-")[2])


def any_face(photo: str) -> str:
    """What a tombstone remembers of a photo of which one face was erased: none of it is prepared anew, as another
    detector may number its faces differently."""
    return f"{photo}-any"


def face_name(photo_name: str, index: int) -> str:
    """The largest face is called as its photo, the others "<name>-<index>"."""
    return photo_name if index == 0 else f"{photo_name}-{index}"


def stem_of_face(name: str) -> str | None:
    """The photo's name, where a name is as a second face's may be: "a" of "a-2"; else None."""
    return next((stem for stem, number in faces_called(name) if number), None)


def faces_called(name: str) -> list[tuple[str, int]]:
    """The (photo's name, face's number) that a name may mean: "a-2" is photo "a-2", or face 2 of photo "a"."""
    stem, _, number = name.rpartition("-")
    # `isdecimal` is true of other scripts' digits and "007" names nobody: only what `face_name` writes
    return [(name, 0), *([(stem, int(number))] if number.isascii() and number.isdecimal() and number[0] != "0" else [])]


def spellings(name: str) -> list[str]:
    """A name in the ways that its accents may be written: as one character with its letter, or behind it. File systems
    and keyboards differ in that, and nobody sees it."""
    return list(dict.fromkeys([name, unicodedata.normalize("NFC", name), unicodedata.normalize("NFD", name)]))


def photo_name_of(a_face_name: str, index: int) -> str:
    """The photo's name in a face's."""
    return a_face_name.removesuffix(f"-{index}") if index else a_face_name


def identity_id(a_face_id: str, recipe: Recipe, learning_fingerprint: str, more_faces: Sequence[str] = ()) -> str:
    """16 hex digits: the same face, recipe and pack (its `learning_fingerprint`) always give the same identity; so do
    the same faces of one person, in whatever order."""
    return identity_ids([faces_key([a_face_id, *more_faces])], recipe, learning_fingerprint)[0]


def identity_ids(keys: Iterable[str], recipe: Recipe, learning_fingerprint: str) -> list[str]:
    """`identity_id` of each of many: by a face's id, or by a `faces_key`."""
    asked = recipe_json(recipe)
    return [short_hash([key, asked, learning_fingerprint]) for key in keys]


def faces_key(face_ids: Iterable[str]) -> str:
    """One text for the faces that somebody is learned from, in whatever order: of one face its id."""
    return "+".join(sorted(face_ids))


def faces_of_key(key: str) -> list[str]:
    """The face ids of a `faces_key`, sorted."""
    return key.split("+")


def recipe_json(recipe: Recipe) -> str:
    """A recipe as it is hashed, and kept with an identity; its name is no part of it."""
    train = recipe.train
    fields = hashed_fields(recipe.method) | hashed_fields(train)
    if train.stop_below is None:
        fields.pop("stop_every", None)  # it changes nothing where early stopping is off
    else:
        fields["stop_every"] = train.stop_every
    return json.dumps(fields, sort_keys=True)


def image_id(request: ImageRequest, model_fingerprint: str) -> str:
    """16 hex digits: the same identity, prompt, seed, config and base model (the pack's `model_fingerprint`) always
    give the same picture."""
    asked = [request.identity.identity_id, with_person(request.prompt), str(request.seed)]
    for region in request.regions:
        asked += [region.identity.identity_id, region.prompt, json.dumps(region.box)]
    if request.pose is not None:
        asked += _pose_lines(request.pose)
    return short_hash([*asked, hashed_json(request.config), model_fingerprint])


def video_id(request: ClipRequest, model_fingerprint: str) -> str:
    """16 hex digits: the same identity, prompt, seed, poses, config and networks (the fingerprint of all that draw a
    clip) always give the same clip."""
    asked = ["clip", request.identity.identity_id, with_person(request.prompt), str(request.seed)]
    asked += [line for pose in request.poses for line in _pose_lines(pose)]
    return short_hash([*asked, hashed_json(request.config), hashed_json(request.config.generate), model_fingerprint])


def model_id(request: SculptRequest, model_fingerprint: str) -> str:
    """16 hex digits: the same identity, prompt, config and base model (the pack's `model_fingerprint`) always give the
    same head."""
    asked = ["head", request.identity.identity_id, with_person(request.prompt)]
    return short_hash([*asked, hashed_json(request.config), model_fingerprint])


def _pose_lines(pose: PoseControl) -> list[str]:
    return [hashlib.sha256(pose.skeleton.tobytes()).hexdigest(), json.dumps([pose.scale, pose.start, pose.end])]


def hashed_json(config: Config) -> str:
    """A config as it is hashed."""
    return config.model_dump_json(include=set(hashed_fields(config)))


def hashed_fields(config: Config) -> dict[str, Any]:
    """The fields that take part in a hash, in their order: the first version's, and later ones that are set. A config
    within a config is hashed by itself."""
    first = _FIRST_FIELDS[type(config)]
    inner = {name for name, value in config if isinstance(value, Config)}
    dumped = config.model_dump(mode="json", exclude=inner)
    defaults = type(config)().model_dump(mode="json", exclude=inner)
    return {name: value for name, value in dumped.items() if name in first or value != defaults[name]}


def short_hash(lines: list[str]) -> str:
    """16 hex digits of these texts in this order."""
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
