"""The clock, log and checkpoints that every training recipe shares."""

from __future__ import annotations

import json
import math
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import torch

from factory.base.diffusion import working_dtype

LOG_EVERY = 100


class Stateful(Protocol):
    """What a checkpoint can hold: modules, optimisers."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any: ...


class Run:
    """One training of `steps` steps, or of `minutes` minutes (all its sessions together) where given.

    Files: `<state>/checkpoints/<name>.pt` (replaced atomically), `<state>/logs/<name>.jsonl`.
    """

    def __init__(
        self, state: Path, name: str, *, steps: int, minutes: float | None = None, save_every_s: float = 120
    ) -> None:
        self.name, self.steps, self.minutes, self.save_every_s = name, steps, minutes, save_every_s
        self.checkpoint = state / "checkpoints" / f"{name}.pt"
        self.log_file = state / "logs" / f"{name}.jsonl"
        self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        self.log_file.parent.mkdir(parents=True, exist_ok=True)
        self.step, self.seconds = 0, 0.0
        self.parts: dict[str, Stateful] = {}
        self._tick = self._saved = time.monotonic()
        self._sums: dict[str, Any] = {}
        self._count = 0
        self._stopped = False
        signal.signal(signal.SIGTERM, self._stop)

    def _stop(self, *_: Any) -> None:
        """Asked to end: finish the step, save, leave."""
        self._stopped = True

    def resume(self, **parts: Stateful) -> None:
        """Name the parts of the checkpoint, and load them where there is one."""
        self.parts = parts
        if self.checkpoint.exists():
            saved = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
            self.step, self.seconds = saved["step"], saved["seconds"]
            for name, part in parts.items():
                part.load_state_dict(saved[name])
            print(f"{self.name}: resumed at step {self.step}, {self.seconds / 60:.1f} min", flush=True)
        self._tick = self._saved = time.monotonic()

    @property
    def progress(self) -> float:
        """Done part of the run in [0, 1], by time if the run has a time limit."""
        share = self.seconds / (60 * self.minutes) if self.minutes else self.step / self.steps
        return min(1.0, share)

    def __iter__(self) -> Iterator[int]:
        """Step numbers until the run is over; saves on the way and at the end."""
        while self.progress < 1:
            yield self.step
            self.advance()
        self.save()

    def advance(self, *, save: bool = True) -> None:
        """Count a step; save where it is time to, or leave where the process was asked to end."""
        self.step += 1
        now = time.monotonic()
        self.seconds, self._tick = self.seconds + now - self._tick, now
        if save and (now - self._saved > self.save_every_s or self._stopped):
            self.save()
        if self._stopped:
            raise SystemExit(f"{self.name}: saved at step {self.step}")

    def save(self) -> None:
        """Write the checkpoint; a reader sees the old one or the new one, never half of one."""
        partial = self.checkpoint.with_suffix(".partial")
        states = {name: part.state_dict() for name, part in self.parts.items()}
        torch.save({"step": self.step, "seconds": self.seconds, **states}, partial)
        partial.replace(self.checkpoint)
        self._saved = time.monotonic()

    def track(self, **values: float | torch.Tensor) -> None:
        """Average `values`, and log them each LOG_EVERY steps; a GPU is not waited for in between."""
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + (value.detach() if torch.is_tensor(value) else value)
        self._count += 1
        if self._count == LOG_EVERY:
            self.note(**{name: float(total) / LOG_EVERY for name, total in self._sums.items()})
            self._sums, self._count = {}, 0

    def note(self, **values: Any) -> None:
        """One line in the log and on the screen."""
        line = {"step": self.step, "min": round(self.seconds / 60, 2), "done": round(self.progress, 3)}
        line |= {k: round(v, 5) if isinstance(v, float) else v for k, v in values.items()}
        with self.log_file.open("a") as log:
            log.write(json.dumps(line) + "\n")
        print(self.name, *(f"{k}={v}" for k, v in line.items()), flush=True)


def cosine_lr(optimiser: torch.optim.Optimizer, step: int, progress: float, *, warmup: int = 100) -> None:
    """Set each group's lr to its `base_lr` x warm-up x cosine of the run's progress, 1 to 0.01."""
    wave = 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress))
    for group in optimiser.param_groups:
        base = group.setdefault("base_lr", group["lr"])
        group["lr"] = base * min(1.0, (step + 1) / warmup) * wave


def working_precision(device: torch.device) -> torch.autocast:
    """Autocast to bfloat16 where the hardware multiplies it natively; elsewhere it would be many times slower."""
    native = working_dtype(device.type) == torch.bfloat16
    return torch.autocast(device.type, torch.bfloat16, enabled=native)


def finished(state: Path, name: str) -> bool:
    """Whether the result of a training lies in `<state>/models/<name>`."""
    return (state / "models" / name).exists()
