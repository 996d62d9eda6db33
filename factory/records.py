"""What travels between the stages: photo -> face -> masks, features -> words -> images.

Every record is a frozen dataclass of plain values and numpy arrays; each field names its dtype, shape, range and
unit. `S` is the pack's face resolution in pixels (512 for sd21, 128 for studio), `F` the feature width, `D` the text
width, `V` = 2 the words per identity.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from factory.config import AnimateConfig, GenerateConfig, SculptConfig
from factory.consent import Consent, iso
from factory.errors import ConsentExpired, PhotoRejected
from factory.scores import PhotoQuality

TEXT_ENCODER: Final = "text_encoder"  # the first text encoder of a base model; Stable Diffusion 1 and 2 have no other


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """How a picture came out of its file."""

    rotation: int = 0  # degrees clockwise, 0 90 180 270: what it was turned by after EXIF, because its faces lie so
    frame: int = 0  # of an animation, or page of a TIFF, counted from 0
    salvaged: bool = False  # only the whole rows of a damaged file were used


@dataclass(frozen=True, slots=True, kw_only=True)
class Photo:
    """A decoded photo, upright."""

    photo_id: str  # sha256 of the file's bytes, hex
    name: str  # the caller's name for it: the `name` column, or the file's stem
    image: np.ndarray  # uint8 [H, W, 3], RGB, EXIF orientation applied
    origin: Origin = Origin()
    unread: int = 0  # further pages of its file, pictures of their own


@dataclass(frozen=True, slots=True, kw_only=True)
class Face:
    """One face found in a photo, with its aligned crop."""

    face_id: str  # photo_id + "-" + face_index
    face_index: int  # 0 is the largest face of the photo
    box: np.ndarray  # float32 [4], x0 y0 x1 y1 in pixels of the photo, turned so that its faces are upright
    landmarks: np.ndarray  # float32 [5, 2], x y in pixels of the same: left eye, right eye, nose, mouth corners
    score: float  # the detector's confidence, 0..1
    crop: np.ndarray  # uint8 [S, S, 3], RGB, aligned to the FFHQ five-point template
    inside: np.ndarray  # float32 [4, 2], the photo's corners in pixels of the crop: beyond them it repeats the edge


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundFaces:
    """The faces of one photo before they are parsed and encoded."""

    photo_id: str  # "" if the bytes could not be read
    name: str  # of the photo
    faces: list[Face]  # the largest first
    refused: list[tuple[int, PhotoRejected]]  # by face_index; a photo without any face is refused as its face 0
    origin: Origin = Origin()
    num_aside: int = 0  # faces that were passed over, as the largest alone was asked for


@dataclass(frozen=True, slots=True, kw_only=True)
class FaceMasks:
    """What the loss looks at (Eq. 6), in pixels of the crop."""

    face: np.ndarray  # bool [S, S], skin, brows, eyes, glasses, ears, nose, mouth, lips
    hair: np.ndarray  # bool [S, S], disjoint from `face`


@dataclass(frozen=True, slots=True, kw_only=True)
class FaceFeatures:
    """FR-ViT features of the only two inputs that ever occur."""

    crop: np.ndarray  # float32 [F], of the crop
    mirror: np.ndarray  # float32 [F], of the crop's mirror image


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedFace:
    """A row of the `faces` table: everything training needs to know of a face."""

    face_id: str
    photo_id: str
    name: str  # the photo's name; faces after the first are "<name>-<face_index>"
    face_index: int
    box: np.ndarray  # float32 [4], pixels of the photo, turned as `origin` says
    landmarks: np.ndarray  # float32 [5, 2], the same
    score: float  # 0..1
    crop: np.ndarray  # uint8 [S, S, 3], RGB
    masks: FaceMasks
    features: FaceFeatures
    pack: str  # name of the pack that prepared it
    origin: Origin = Origin()
    consent: Consent = field(default_factory=Consent)
    quality: PhotoQuality | None = None  # None: an older version prepared it
    more: tuple[PreparedFace, ...] = ()  # of other photos of the same person (factory/faces/people.py: of_one_person)

    @property
    def face_ids(self) -> list[str]:
        """Its own, and those of the person's other photos."""
        return [self.face_id, *(other.face_id for other in self.more)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reject:
    """A row of the `rejects` table: a photo or face that could not be used, and why."""

    reject_id: str  # photo_id; face_id of one face; identity_id that training would give; sha256 of an unreadable uri
    photo_id: str  # "" if the bytes could not be read
    name: str
    pack: str  # name of the pack in use: another pack may find what this one did not
    stage: str  # "prepare" | "train"
    reason: str  # one of factory.errors.REASONS
    detail: str  # for a person to read: what was found, with numbers and units
    uri: str | None = None  # where the photo was: a path or uri, "x.parquet#7", "photos.zip#a/b.jpg"; None: not known


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """A row of the `identities` table: two words that behave in a prompt like a celebrity's name."""

    identity_id: str  # 16 hex digits, of face_id, MethodConfig, TrainConfig and Pack.learning_fingerprint
    face_id: str
    photo_id: str
    name: str
    words: Mapping[str, np.ndarray]  # by text encoder of the base model: token embeddings, float32 [V, D]
    pack: str  # name of the pack it was learned with
    fingerprint: str  # of that pack's text encoder: these words mean nothing to another one
    preset: str  # "paper", "release" or "custom"
    config: str  # JSON of the MethodConfig and TrainConfig
    num_steps: int
    final_loss: float  # mean masked loss over the last 10 % of the steps
    train_s: float  # seconds, its share of the batches it was in
    created_at: str  # ISO 8601, UTC
    consent: str | None = None  # of the photo, as the next two (factory/consent.py)
    consent_expires: float | None = None  # Unix time, s
    consent_scope: str | None = None
    more_faces: list[str] | None = None  # face_ids of the other photos that it was learned from; None: of one

    def check_consent(self, now: float) -> None:
        """Raises ConsentExpired once the consent is over, at this Unix time, s."""
        if self.consent_expires is not None and now >= self.consent_expires:
            who = f"{self.name!r} ({self.identity_id})"  # by the id erasing finds where this is written down
            raise ConsentExpired(f"what {who} agreed to is over since {iso(self.consent_expires)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """Where in a picture one of several people is, and what is said of them."""

    identity: Identity
    prompt: str  # with <person>
    box: tuple[float, float, float, float]  # x0 y0 x1 y1, shares of the picture


@dataclass(frozen=True, slots=True, kw_only=True)
class PoseControl:
    """Where heads are to be, as a skeleton that the pack's pose ControlNet reads."""

    skeleton: np.ndarray  # uint8 [H, W, 3], RGB, of the picture's size
    scale: float = 1.0  # how much it counts, 0..2
    start: float = 0.0  # from this share of the steps on
    end: float = 1.0  # to this one


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRequest:
    """One picture to make."""

    identity: Identity  # with several people, the first
    prompt: str  # with or without <person>
    seed: int
    config: GenerateConfig
    regions: tuple[Region, ...] = ()  # several people; empty: `identity` alone, everywhere
    pose: PoseControl | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipRequest:
    """One clip to make: frames of one person that follow one another."""

    identity: Identity
    prompt: str  # with or without <person>; it names the motion, too
    seed: int
    config: AnimateConfig  # num_frames, fps, and how each frame is sampled
    poses: tuple[PoseControl, ...] = ()  # empty, or one for each frame: pose-driven video

    def __post_init__(self) -> None:
        if self.poses and len(self.poses) != self.config.num_frames:
            raise ValueError(f"{len(self.poses)} poses for {self.config.num_frames} frames: give one for each, or none")


@dataclass(frozen=True, slots=True, kw_only=True)
class SculptRequest:
    """One head to make."""

    identity: Identity
    prompt: str  # with or without <person>
    config: SculptConfig
    crop: np.ndarray | None = None  # uint8 [S, S, 3], RGB, of the identity's face: its first colours; None: grey
    mask: np.ndarray | None = None  # bool [S, S], face and hair in it; None: all of it


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenCount:
    """How much of a text the text encoder reads: what lies beyond its length is cut."""

    given: int  # tokens of the text, two for each <person>
    read: int  # of these, from the start


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratedImage:
    """A row of the `images` table."""

    image_id: str  # 16 hex digits, of identity_id, prompt, seed, GenerateConfig and Pack.model_fingerprint
    identity_id: str
    name: str  # of the identity
    prompt: str  # as given, with <person>
    seed: int
    image: np.ndarray  # uint8 [H, W, 3], RGB
    config: str  # JSON of the GenerateConfig
    created_at: str  # ISO 8601, UTC
    people: Sequence[str] | None = None  # identity_ids of all who are in it; None: one person
    pose: str | None = None  # what the pose was called when it was asked for
    best_of: Sequence[int] | None = None  # seeds that were drawn, of which this one's picture was kept; None: it alone
    likeness: float | None = None  # where seeds were compared: Face Sim, -1..1; NaN: no face
    clip_t: float | None = None  # the same: CLIP-T, -1..1


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratedClip:
    """A row of the `videos` table."""

    video_id: str  # 16 hex digits, of identity_id, prompt, seed, poses, AnimateConfig and what draws it
    identity_id: str
    name: str  # of the identity
    prompt: str  # as given, with <person>
    seed: int
    video: bytes  # MP4, H.264, of num_frames frames
    poster: np.ndarray  # uint8 [H, W, 3], RGB: the first frame as it was drawn
    num_frames: int
    fps: int  # frames per second
    width: int  # px, W
    height: int  # px, H
    config: str  # JSON of the AnimateConfig
    created_at: str  # ISO 8601, UTC
    people: Sequence[str]  # identity_ids of all who are in it
    poses: str = ""  # what the path of poses was called when it was asked for; empty: none


@dataclass(frozen=True, slots=True, kw_only=True)
class SculptedModel:
    """A row of the `models` table."""

    model_id: str  # 16 hex digits, of identity_id, prompt, SculptConfig and Pack.model_fingerprint
    identity_id: str
    name: str  # of the identity
    prompt: str  # as given, with <person>
    splats: bytes  # PLY of 3D Gaussians (factory/draw/splat_files.py)
    turntable: bytes  # MP4 (WebP in rows of before 2026-11-29)
    poster: np.ndarray  # uint8 [H, W, 3], RGB: from the front
    num_gaussians: int
    num_iterations: int  # updates
    seconds: float  # of work, also of jobs that were interrupted
    config: str  # JSON of the SculptConfig
    created_at: str  # ISO 8601, UTC


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureMetrics:
    """A row of the `metrics` table: what one picture measures within one protocol. NaN where no face was found."""

    image_id: str
    protocol: str  # 16 hex digits: hash of prompts, seeds, configs and the measuring networks
    identity_id: str
    prompt: str  # as given, with <person>
    seed: int
    clip_i: float  # CLIP-I: cosine to the aligned crop of the identity's photo, -1..1
    clip_t: float  # CLIP-T: cosine to the prompt with <person> written out, -1..1
    face_sim: float  # Face Sim: the judge's cosine to the face of the photo, -1..1
    face_div: float  # mean perceptual distance to the identity's other faces of this protocol, from 0
    trusted_div: float  # mean over the same pairs of the pair's Face Sim times its distance
    face_embedding: np.ndarray  # float32 [E], of the judge, length 1; empty where no face was found
    features: np.ndarray  # float32 [K], what FID compares
    created_at: str  # ISO 8601, UTC
