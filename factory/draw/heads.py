"""One head from a request to its row: sculpted, also from where it was left, rendered, and timed."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final, TypeAlias

from factory.draw.clips import encode_mp4
from factory.draw.sculpt import OnStep, Sculptor, show, turntable
from factory.draw.splat_files import TURNTABLE_FPS, to_ply
from factory.draw.splats import View
from factory.records import SculptedModel, SculptRequest

Keep: TypeAlias = Callable[[bytes, int, float], None]  # a checkpoint, iterations done, seconds of work so far
CHECKPOINT_EVERY_S: Final = 30.0
_FRAMES: Final = 24  # of a turntable


def make_head(
    sculptor: Sculptor,
    request: SculptRequest,
    model_id: str,
    *,
    kept: tuple[bytes, float] | None,
    keep: Keep,
    on_step: OnStep,
    checkpoint_every_s: float = CHECKPOINT_EVERY_S,
) -> SculptedModel:
    """A head as it is stored. `kept`: the checkpoint to go on from, and the seconds of work before it. Raises as
    `Sculptor.sculpt`, and whatever `on_step` raises."""
    state, before_s = kept or (None, 0.0)
    started = time.monotonic()

    def seconds() -> float:
        return before_s + time.monotonic() - started

    splats = sculptor.sculpt(
        request,
        on_step=on_step,
        on_checkpoint=lambda state, done: keep(state, done, seconds()),
        checkpoint_every_s=checkpoint_every_s,
        checkpoint=state,
    )
    config = request.config
    side_px = config.side_px or sculptor.base.pack.resolution
    frames = show(splats, [View(), *turntable(_FRAMES, config.yaw_limit)], side_px)
    return SculptedModel(
        model_id=model_id,
        identity_id=request.identity.identity_id,
        name=request.identity.name,
        prompt=request.prompt,
        splats=to_ply(splats),
        turntable=encode_mp4(frames[1:], TURNTABLE_FPS),
        poster=frames[0],
        num_gaussians=len(splats),
        num_iterations=config.num_iterations,
        seconds=seconds(),
        config=config.model_dump_json(),
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
