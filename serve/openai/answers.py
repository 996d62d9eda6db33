"""What comes out of POST /v1/images/generations."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

from factory.records import TokenCount
from serve.openai.pictures import OutputFormat


class ImageData(BaseModel):
    """One picture of an answer. OpenAI's fields (one of the two), then ours; `seed` makes it again."""

    b64_json: str | None = None
    url: str | None = None
    seed: int
    likeness: float | None = None  # with best_of: Face Sim to the photo, -1..1; None: no face
    clip_t: float | None = None  # with best_of: CLIP-T, -1..1
    rows_per_step: float | None = None  # pictures that shared a step of its making, itself included, on average


class Usage(BaseModel):
    """What OpenAI's clients reckon with. Pictures are not made of tokens here: those are 0."""

    input_tokens: int
    input_tokens_details: dict[str, int]
    output_tokens: int = 0
    total_tokens: int

    @classmethod
    def of(cls, prompt: TokenCount) -> Usage:
        """The tokens of a prompt that were read."""
        parts = {"image_tokens": 0, "text_tokens": prompt.read}
        return cls(input_tokens=prompt.read, input_tokens_details=parts, total_tokens=prompt.read)


class ImagesResponse(BaseModel):
    """The answer to POST /v1/images/generations."""

    created: int  # Unix time, s
    data: list[ImageData]
    size: str  # of the pictures as they are sent
    drawn_size: str  # as the pack drew them
    output_format: OutputFormat
    background: Literal["opaque"] = "opaque"
    identity: str  # identity_id
    model: str  # the identity's name
    num_inference_steps: int
    guidance_scale: float
    prompt_tokens: TokenCount | None = None  # fewer read than given: the prompt was cut; None: it was drawn earlier
    negative_prompt_tokens: TokenCount | None = None
    usage: Usage | None = None
