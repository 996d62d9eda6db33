"""What goes in and out of the endpoint."""

from __future__ import annotations

import re
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from factory.config import GenerateConfig
from factory.draw.compose import MAX_PEOPLE
from factory.prompts import people_in
from serve.openai.contract import IMAGES_GENERATE, Fates, beside_words
from serve.openai.contract import ignoring as ignoring
from serve.openai.pictures import OutputFormat
from serve.openai.values import Prompt, Real, Whole

MIN_SIDE_PX, MAX_SIDE_PX = 16, 2048  # of a picture as it is sent
MAX_PREVIEWS = 3  # of a picture, as in OpenAI's API
MAX_IMAGES = 10  # of one request, as in OpenAI's API
MIN_FRAMES, MAX_FRAMES = 2, 16  # of a GIF, as in OpenAI's API
OPENAIS = re.compile(r"(openai/)?(dall-e|gpt-image|chatgpt-image|sora)[\w.-]*", re.IGNORECASE)  # of OpenAI's models
MAX_SEED = 2**53 - MAX_IMAGES  # every seed .. seed + n - 1 is exact in JSON


class RequestRefused(ValueError):
    """The caller's request cannot be carried out as it is; `param` names the field, None if it is no single one.

    `status` is HTTP's, where it has a more telling one than 422.
    """

    def __init__(self, message: str, param: str | None = None, status: int = 422) -> None:
        super().__init__(message, param, status)  # all in args, so that it survives pickling between processes
        self.message = message
        self.param = param
        self.status = status

    def __str__(self) -> str:
        return self.message


class PoseField(BaseModel):
    """A pose: one of the three ways to give it, and how much it counts."""

    model_config = ConfigDict(extra="forbid")

    name: str | None = Field(default=None, max_length=100)  # of the pack: `identity-factory packs poses`
    photo: str | None = None  # base64 of a photo whose largest face's pose is taken over
    skeleton: str | None = None  # base64 of a picture of the drawn size that the pack's pose control reads
    scale: Real = Field(default=1.0, ge=0.0, le=2.0, allow_inf_nan=False)
    start: Real = Field(default=0.0, ge=0.0, le=1.0, allow_inf_nan=False)  # share of the steps
    end: Real = Field(default=1.0, ge=0.0, le=1.0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _given_once(self) -> PoseField:
        if sum(given is not None for given in (self.name, self.photo, self.skeleton)) != 1:
            raise ValueError("give one of name, photo and skeleton")
        if self.start >= self.end:
            raise ValueError("start comes before end")
        return self


class RegionField(BaseModel):
    """Where one of several people is."""

    model_config = ConfigDict(extra="forbid")

    person: str = Field(max_length=1000)  # name or id
    box: tuple[Real, Real, Real, Real] | None = None  # x0 y0 x1 y1, shares of the picture; None: side by side


class ImagesRequest(BaseModel):
    """POST /v1/images/generations: OpenAI's fields, then ours. null means not given, and so does an empty text but for
    prompts: clients in some languages send it for each field that they have.

    A field that is unknown, or asks for what is not done, is named in the answer's header x-ignored-fields; `strict`
    refuses it.
    """

    model_config = ConfigDict(extra="allow")
    fates: ClassVar[Fates] = IMAGES_GENERATE

    prompt: Prompt = Field(min_length=1, max_length=32_000)  # with <person>, or the identity is put in front
    model: str | None = None  # the identity's name or id
    n: Whole = Field(default=1, ge=1, le=MAX_IMAGES)  # images, with the seeds seed .. seed + n - 1
    size: str = "auto"  # "auto" is the pack's own; others are drawn in the nearest shape and resampled
    response_format: Literal["b64_json", "url"] = "b64_json"  # url: an address on this server, for an hour
    output_format: OutputFormat = "png"  # in any case, and "jpg"; gif: a clip
    frame_count: Whole = Field(default=9, ge=MIN_FRAMES, le=MAX_FRAMES)  # of a gif
    frame_duration_ms: Whole = Field(default=200, ge=1, le=10**9)  # of a gif; rounded to 10 ms, at most 655,350
    output_compression: Whole = Field(default=100, ge=0, le=100)  # quality of jpeg and webp, percent
    background: Literal["auto", "opaque"] = "auto"  # pictures have no transparency
    stream: bool = False
    partial_images: Whole = Field(default=0, ge=0, le=MAX_PREVIEWS)  # of a stream: looks at each picture in the making
    # Accepted without effect, and refused: contract.py says why.
    quality: Any = None
    complexity: Any = None
    style: Any = None
    moderation: Any = None
    user: Any = None
    safety_identifier: Any = None
    svg: Any = None
    # Extensions, top level: `extra_body` in the openai client.
    identity: str | None = None  # name or id; overrides `model`
    seed: Whole | None = Field(default=None, ge=0, le=MAX_SEED)  # None: drawn, and told in the answer
    num_inference_steps: Whole | None = Field(default=None, ge=1, le=200)  # None: the pack's own, as for the next two
    guidance_scale: Real | None = Field(default=None, ge=0.0, le=100.0, allow_inf_nan=False)
    negative_prompt: str | None = Field(default=None, max_length=32_000)
    pose: PoseField | list[PoseField] | None = None  # of everybody, or one a person in the prompt's order
    regions: list[RegionField] = Field(default=[], max_length=MAX_PEOPLE)  # places of people; None: side by side
    best_of: Whole = Field(default=1, ge=1, le=MAX_IMAGES)  # seeds drawn for each picture, of which the best is sent
    strict: bool = False  # refuse what would be named as ignored

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, fields: Any) -> Any:
        if not isinstance(fields, dict):
            return fields  # pydantic says what it should have been
        written = ("prompt", "negative_prompt")
        return {name: value for name, value in fields.items() if value is not None and (value != "" or name in written)}

    @field_validator("output_format", mode="before")
    @classmethod
    def _spelled_alike(cls, name: Any) -> Any:
        if not isinstance(name, str):
            return name
        plain = name.lower()
        if plain == "svg":
            raise ValueError(IMAGES_GENERATE.refused["svg"])
        return "jpeg" if plain == "jpg" else plain

    @field_validator("background", mode="before")
    @classmethod
    def _no_transparency(cls, value: Any) -> Any:
        if value == "transparent":
            raise ValueError("pictures have no transparency; ask for opaque or auto")
        return value

    @field_validator("frame_count", "frame_duration_ms")
    @classmethod
    def _of_a_gif(cls, value: int, info: ValidationInfo) -> int:
        if info.data.get("output_format", "gif") != "gif":
            raise ValueError('only of output_format "gif"')
        return value

    @field_validator("stream", "partial_images", "output_compression")
    @classmethod
    def _not_of_a_gif(cls, value: int, info: ValidationInfo) -> int:
        if info.data.get("output_format") == "gif" and value != (100 if info.field_name == "output_compression" else 0):
            raise ValueError('not with output_format "gif", which is neither streamed nor compressed')
        return value

    @field_validator(*IMAGES_GENERATE.refused)
    @classmethod
    def _refused(cls, _value: Any, info: ValidationInfo) -> None:
        raise ValueError(IMAGES_GENERATE.refused[str(info.field_name)])

    @field_validator("pose")
    @classmethod
    def _guiding_alike(cls, pose: Any) -> Any:
        if isinstance(pose, list) and len({(one.scale, one.start, one.end) for one in pose}) > 1:
            raise ValueError("scale, start and end are the whole picture's: alike in every pose")
        return pose

    @field_validator("size")
    @classmethod
    def _readable_size(cls, size: str) -> str:
        sides = _sides(size)
        if size != "auto" and (sides is None or not all(MIN_SIDE_PX <= side <= MAX_SIDE_PX for side in sides)):
            raise ValueError(f"must be 'auto' or WIDTHxHEIGHT, {MIN_SIDE_PX} to {MAX_SIDE_PX} pixels each, as 512x512")
        return size

    @model_validator(mode="after")
    def _only_known(self) -> ImagesRequest:
        if self.strict and (ignored := self.ignored_fields()):
            raise ValueError(f"strict: without effect here are {ignored}")
        return self

    def ignored_fields(self) -> str:
        """The fields that nothing was done about, as a header names them: events hold pictures, not addresses."""
        events = ["response_format"] if self.stream and self.response_format == "url" else []
        names = [*self.fates.in_vain(self.__dict__), *events, *(self.model_extra or ())]
        names += beside_words(self.prompt, self.negative_prompt)
        names += ["model"] if self.model and chosen_model(self.model, self.prompt) is None else []
        return ", ".join(ignoring(dict.fromkeys(names)).values())

    def wanted_identity(self) -> str | None:
        """The name or id of who `<person>` stands for; None where the prompt names everybody.

        Raises RequestRefused if nobody is named at all.
        """
        wanted = self.identity or chosen_model(self.model, self.prompt)
        if not wanted and None in people_in(self.prompt):
            raise RequestRefused("name an identity in `model` (or `identity`); GET /v1/models lists them", "model")
        return wanted or None

    def poses(self) -> list[PoseField]:
        """The poses, however many there are."""
        return self.pose if isinstance(self.pose, list) else [self.pose] if self.pose else []

    def size_px(self) -> tuple[int, int] | None:
        """Width and height of the pictures to send; None: as they are drawn."""
        return _sides(self.size)

    def told(self, seed: int) -> dict[str, Any]:
        """How a picture with this seed is made, for its file; photos of poses are left out."""
        fields = ("prompt", "size", "num_inference_steps", "guidance_scale", "negative_prompt")
        return {**self.model_dump(include=set(fields), exclude_none=True), "seed": seed}

    def config(self, defaults: GenerateConfig) -> GenerateConfig:
        """The pack's sampling settings with the request's own in their place."""
        given = self.model_dump(include={"num_inference_steps", "guidance_scale", "negative_prompt"}, exclude_none=True)
        return GenerateConfig.model_validate({**defaults.model_dump(), **given})


def chosen_model(model: str | None, prompt: str) -> str | None:
    """`model`, unless it is what clients send that leave nobody a choice, and the prompt names everybody by itself."""
    return None if model and OPENAIS.fullmatch(str(model)) and None not in people_in(prompt) else model


def _sides(size: str) -> tuple[int, int] | None:
    """Width and height of a size, in pixels."""
    match = re.fullmatch(r"([0-9]{1,5})[x×X]([0-9]{1,5})", size)
    return None if match is None else (int(match[1]), int(match[2]))
