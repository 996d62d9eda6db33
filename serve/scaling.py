"""Deployments that have no replica until somebody asks, nor when nobody has for a while."""

from __future__ import annotations

import warnings
from typing import Final

from ray.serve.config import AutoscalingConfig

# Whether somebody asks is told to the controller at the first request, but by what was seen before it: mostly that
# nobody does. The next time it is told decides, which Serve's 10 s would put off by as much.
_TOLD_EVERY_S: Final = 1.0


def while_asked_for(target: int, idle_s: float) -> AutoscalingConfig:
    """One replica, for `target` requests at a time, until nobody has asked for `idle_s` seconds."""
    with warnings.catch_warnings():
        # Serve has variables of the environment for it, which it does not read yet (2.60).
        warnings.filterwarnings("ignore", "The `metrics_interval_s` field", DeprecationWarning)
        return AutoscalingConfig(
            min_replicas=0,
            initial_replicas=0,
            max_replicas=1,
            target_ongoing_requests=target,
            metrics_interval_s=_TOLD_EVERY_S,
            upscale_delay_s=0.0,
            downscale_delay_s=idle_s,
        )
