"""CPU seconds of this process and of everything it started, by what each does for the endpoint. Linux only."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

# What Ray calls its processes; what is none of these is Ray's own (raylet, store, control, agents).
ROLES = {"Drawer": "drawer", "Ingress": "ingress", "ProxyActor": "proxy", "ServeController": "controller"}
CLIENTS = "clients"  # this process: also the engine in a process, when that is what runs
_TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(root: Path = Path("/proc"), own: int | None = None) -> Counter[str]:
    """Seconds so far, by role; of threads too. A process that has ended no longer counts."""
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
    total: Counter[str] = Counter()
    for process, used in seconds.items():
        if process == own:
            total[CLIENTS] += used  # type: ignore[assignment]
        elif _descends(process, own, parents):
            total[_role(root / str(process))] += used  # type: ignore[assignment]
    return total


def role_of(process: int, root: Path = Path("/proc")) -> str:
    """What a process does for the endpoint."""
    return _role(root / str(process))


def _descends(process: int, own: int, parents: dict[int, int]) -> bool:
    while process in parents:
        process = parents[process]
        if process == own:
            return True
    return False


def _role(folder: Path) -> str:
    try:
        title = (folder / "cmdline").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return "Ray"
    return next((role for name, role in ROLES.items() if name in title), "Ray")
