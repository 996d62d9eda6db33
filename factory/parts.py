"""The parts of a model pack as its pack.toml describes them: where each lies, where it can be had, what is in it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class Source(BaseModel):
    """One part: where it lies, where it can be had, what it must hash to, and on whose terms."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str  # folder or file, relative to the pack's folder (an absolute path is kept: weights shared on a disk)
    licence: str  # shown by `packs fetch` before anything is downloaded
    hub: str | None = None  # Hugging Face repository "owner/name"
    mirrors: list[str] = []  # other repositories with the same content, tried in this order
    revision: str | None = None  # commit of `hub`; mirrors have commits of their own, so there the hashes decide
    files: list[str] = []  # patterns of the files wanted from the hub; empty: all of them
    url: str | None = None  # a file to download; a .zip is unpacked into the folder `path`
    sha256: dict[str, Sha256] = {}  # file relative to `path` -> digest ("" where `path` is itself the file)
    url_sha256: Sha256 | None = None  # of the file behind `url` as it is downloaded


class FacesPart(Source):
    """An insightface model-pack folder: ONNX files, with or without a `manifest.json`."""

    det_file: str  # detector, a file of the folder
    judge: str | None = None  # recogniser, a file of the folder; it measures results and is never trained against
    det_size: int = Field(640, gt=0, multiple_of=32)  # px, side of the detector's square input


class FeaturesPart(Source):
    """A transformers ViTModel folder with its image processor, and how alike its features of one person are."""

    same_person: float | None = Field(None, gt=0, le=1)  # cosine from which two faces are one person's; None: not known
    other_person: float | None = Field(None, gt=0, le=1)  # mean cosine to a person's photos: less is another's
    near_duplicate: float | None = Field(None, gt=0, le=1)  # from which one may be a copy of the other's photo


class ParserPart(Source):
    """A 19-class face parsing network of facexlib, and what its classes mean (the two networks number them apart)."""

    network: Literal["ParseNet", "BiSeNet"]
    options: dict[str, int | list[int]] = {}  # arguments of the network's constructor
    input_px: int = Field(gt=0)  # px, side of the network's square input
    mean: tuple[float, float, float]  # RGB, of values in 0..1
    std: tuple[float, float, float]  # RGB, of values in 0..1
    face_classes: list[Annotated[int, Field(ge=0)]] = Field(min_length=1)
    hair_classes: list[Annotated[int, Field(ge=0)]] = Field(min_length=1)


class PoseEstimatorPart(Source):
    """A folder with DWPose's two ONNX files, which take the pose of a photo over."""

    det_file: str  # YOLOX, which boxes people
    pose_file: str  # RTMPose for the whole body


class ControlPart(Source):
    """A diffusers ControlNetModel folder that steers the base model, and what it wants to be shown."""

    conditioning: Literal["head_pose", "openpose"]  # a skeleton of factory/faces/pose.py, or of openpose.py
    poses: dict[str, dict[str, float]] = {}  # named ones: fields of HeadPose that are not as in front
    estimator: PoseEstimatorPart | None = None  # of bodies; head poses come from the pack's face detector


class MotionPart(Source):
    """Motion layers for the base model's own UNet: `adapter`, a diffusers MotionAdapter folder, and perhaps `text`."""

    num_frames: int = Field(16, ge=2, le=32)  # the longest clip that they were trained on
    fps: int = Field(8, ge=1, le=60)  # frames a second of what they were trained on
    shared_noise: float = Field(0.0, ge=0, lt=1)  # share of the noise's variance that is the same in every frame
    steadiness: float = Field(0.0, ge=0)  # how much of what flickers is taken out of a clip (factory/draw/motion.py)


class VideoPart(Source):
    """A whole text-to-video model, a diffusers folder as ModelScope's, with the text encoder of the base model."""

    resolution: int = Field(256, gt=0, multiple_of=8)  # px, side of its frames
    num_frames: int = Field(16, ge=2, le=64)
    fps: int = Field(8, ge=1, le=60)
