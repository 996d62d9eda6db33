"""CPU seconds of this process and of everything it started, by what each does for the endpoint. Linux only."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

# What Ray calls its processes; what is none of these is Ray's own (raylet, store, control, agents).
ROLES = {"Drawer": "drawer", "Ingress": "ingress", "ProxyActor": "proxy", "ServeController": "controller"}
CLIENTS = "clients"  # this process: also the engine in a process, when that is what runs
_TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(root: Path = Path("/proc"), own: int | None = None) -> Counter[str]:
    """Seconds so far, by role; of threads too. A process that has ended no longer counts."""
    own = os.getpid() if own is None else own
    total: Counter[str] = Counter()
    for process, seconds in cpu_by_process(root, own).items():
        total[CLIENTS if process == own else role_of(process, root)] += seconds  # type: ignore[assignment]
    return total


def cpu_by_process(root: Path = Path("/proc"), own: int | None = None) -> dict[int, float]:
    """Seconds so far of this process and each that it, or one of these, started and that is still there."""
    own = os.getpid() if own is None else own
    parents, seconds = dict[int, int](), dict[int, float]()
    for folder in root.iterdir():
        if not folder.name.isdigit():
            continue
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()  # the name before it may hold anything
        except (FileNotFoundError, ProcessLookupError):  # it has ended
            continue
        parents[int(folder.name)] = int(fields[1])
        seconds[int(folder.name)] = (int(fields[11]) + int(fields[12])) / _TICKS  # user and system
    return {one: used for one, used in seconds.items() if one == own or _descends(one, own, parents)}


def role_of(process: int, root: Path = Path("/proc"), roles: Mapping[str, str] = ROLES) -> str:
    """What a process does, by a part of its title; "Ray" if none is known."""
    try:
        title = (root / str(process) / "cmdline").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return "Ray"
    return next((role for name, role in roles.items() if name in title), "Ray")


def _descends(process: int, own: int, parents: dict[int, int]) -> bool:
    while process in parents:
        process = parents[process]
        if process == own:
            return True
    return False
