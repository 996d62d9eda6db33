"""Whether Ray's memory monitor ends workers on this machine: above a share of its memory, whoever uses it, it ends each
one that starts, and tries again for ever."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

_EVERY, _SHARE = "RAY_memory_monitor_refresh_ms", "RAY_memory_usage_threshold"  # Ray's environment variables
_THRESHOLD: Final = 0.95  # Ray's own default of the second
_CGROUP: Final = Path("/sys/fs/cgroup")
_LIMITS: Final = (  # (limit, used, cache that can be given up), in bytes, of a container: cgroup v2 and v1
    ("memory.max", "memory.current", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
)


def short_of_memory() -> str:
    """What is wrong and what helps; empty where there is memory enough, or the monitor is off."""
    with suppress(ValueError, OSError):
        if float(os.environ.get(_EVERY, "250")) <= 0:
            return ""
        threshold = float(os.environ.get(_SHARE, _THRESHOLD))
        share = max(_of_machine(), _of_container())
        if share > threshold:
            return (
                f"{share:.0%} of this machine's memory is in use, and above {threshold:.0%} Ray ends every worker "
                f"({_SHARE}): end other programs, take fewer --workers, or a machine with more memory"
            )
    return ""


def _of_machine() -> float:
    lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    kib = {line[0].rstrip(":"): int(line[1]) for line in lines}
    return 1.0 - kib["MemAvailable"] / kib["MemTotal"]


def _of_container() -> float:
    for limit, used, cache in _LIMITS:
        with suppress(ValueError, OSError):  # not there, or "max"
            most, now = int((_CGROUP / limit).read_text()), int((_CGROUP / used).read_text())
            stat = dict(line.split() for line in (_CGROUP / used).with_name("memory.stat").read_text().splitlines())
            return (now - int(stat.get(cache, 0))) / most
    return 0.0
