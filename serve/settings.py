"""The settings that the endpoint runs with."""

from __future__ import annotations

from typing import Final, Literal

from pydantic import Field, field_validator, model_validator

from factory.config import Config
from serve.hosts import page_origin

Keyless = Literal["refuse", "loopback", "anyone"]  # who gets in while a root has no keys
# How long a replica may take to answer Serve's health check, twice Ray's own limit; the third time it is replaced, and
# what it was at is lost. One that died is replaced at once, whatever this says.
HEALTH_CHECK_S: Final = 60.0
_BURST: Final = 20  # pictures: two requests of as many as one may have (serve.openai.schemas.MAX_IMAGES)


class Settings(Config):
    """How the endpoint batches, queues and scales. serve.yaml comments on them for a cluster."""

    max_batch: int = Field(default=24, ge=1, le=32)  # pictures in the making at a time; guidance doubles their samples
    # Pictures a replica holds: in the making and next in line; >= max_batch. Among them tenants take turns.
    max_ongoing: int = Field(default=256, ge=1)
    max_queued: int = Field(default=64, ge=1)  # images that ingresses hold beyond that, first come first; more get 429
    timeout_s: float = Field(default=300.0, gt=0.0)  # of one request, queue included
    num_ingresses: int = Field(default=1, ge=1)  # replicas that take requests; each has its part of max_queued
    num_cpus: float = Field(default=0.2, gt=0.0)  # booked by a generator: small, so that jobs find room
    num_gpus: float | None = Field(default=None, ge=0.0)  # None: 0.6 where the cluster has GPUs, else 0
    num_threads: int | None = Field(default=None, ge=1)  # of torch in a generator; None: num_cpus rounded up

    cors: list[str] = Field(default=[])  # origins whose pages may read answers, as https://front.example; none
    keyless: Keyless = "refuse"  # once the root has a key, every route but /healthz asks for one anyway
    sculptor_num_cpus: float = Field(default=0.1, gt=0.0)  # booked by what makes heads, while it runs
    sculptor_num_gpus: float | None = Field(default=None, ge=0.0)  # None: 0.2 where generators have GPUs, else 0
    sculptor_idle_s: float = Field(default=600.0, ge=0.0)  # without heads to make, then it ends and its memory is free
    learner_slots: int = Field(default=16, ge=1, le=64)  # people who are learned at a time; each adds its views' memory
    learner_num_cpus: float = Field(default=0.1, gt=0.0)  # booked by the learner while there is one
    learner_num_gpus: float | None = Field(default=None, ge=0.0)  # None: 0.2 where generators have GPUs, else 0
    assess_uploads: bool = True  # whoever was learned from an upload, where the pack has what measures
    learner_idle_s: float = Field(default=600.0, ge=0.0)  # without uploads, then it ends and its memory is free

    @property
    def queued_each(self) -> int:
        """An ingress's part of `max_queued`, not less than `_BURST`: Ray counts a picture as waiting until it is sent
        to a replica, also to one with room, so a request of more pictures than this would be refused always."""
        return max(-(-self.max_queued // self.num_ingresses), min(self.max_queued, _BURST))

    @field_validator("cors")
    @classmethod
    def _as_browsers_send_them(cls, origins: list[str]) -> list[str]:
        return [page_origin(one) for one in origins]

    @model_validator(mode="after")
    def _room_for_a_batch(self) -> Settings:
        if self.max_ongoing < self.max_batch:
            raise ValueError(f"max_ongoing ({self.max_ongoing}) must be at least max_batch ({self.max_batch})")
        return self


class AppArgs(Settings):
    """The arguments of `serve.app:builder` in serve.yaml."""

    root: str  # root of the tables, a local path or s3://
    pack: str = "studio"  # name or folder
    host: str = "localhost"  # what it is called, for `keyless: loopback`
