"""How things are measured: ceilings of the machine, counted FLOPs, and interleaved times with their spread."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}  # "cpu": this process's, for a busy machine
_BIG = 2**26  # float32 numbers of the copy that measures memory: 256 MB, more than any cache


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceilings:
    """What this machine can do at best, measured in the same run as everything else."""

    matmul_tflops: float  # in the precision of the frozen model
    copy_gbs: float  # bytes read and written, in GB/s


@dataclass(slots=True, kw_only=True)
class Contender:
    """One way to do the same work."""

    name: str
    run: Callable[[], object]
    items: int  # pieces of work of a run, such as steps of an identity
    flops: float = 0.0  # of an item
    seconds: list[float] = field(default_factory=list)  # of an item, once per round

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """Half of the distance between the slowest and the fastest round, as a share of the median."""
        return (max(self.seconds) - min(self.seconds)) / 2 / self.median


def interleave(
    contenders: Sequence[Contender], *, rounds: int, device: str, clock: Callable[[], float] = time.perf_counter
) -> None:
    """Times all contenders: a warm-up, then A B C, A B C, ... so that all share what else the machine is doing."""
    for contender in contenders:
        contender.run()
    for _ in range(rounds):
        for contender in contenders:
            synchronise(device)
            started = clock()
            contender.run()
            synchronise(device)
            contender.seconds.append((clock() - started) / contender.items)


def count_flops(action: Callable[[], object], *, device: str, compiled: bool = False) -> float:
    """FLOPs of what it does once. On a CPU attention is counted in its plain form, because the fused one has no
    formula there; what is compiled is counted uncompiled, because compiled kernels are not seen. Nor are other threads
    than this one: it has none beside it meanwhile."""
    num_threads = torch.get_num_threads()
    with ExitStack() as stack:
        torch.set_num_threads(1)
        stack.callback(torch.set_num_threads, num_threads)
        if not device.startswith("cuda"):
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        if compiled:
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        counter = stack.enter_context(FlopCounterMode(display=False))
        action()
    return float(counter.get_total_flops())


def measure_ceilings(device: str, dtype: torch.dtype, clock: Callable[[], float] = time.perf_counter) -> Ceilings:
    """A large matrix product and a large copy, the best of several each."""
    side = 8192 if device.startswith("cuda") else 1536
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    product = torch.empty_like(left)
    source = torch.zeros(_BIG, device=device)
    target = torch.empty_like(source)
    matmul_s = _best(lambda: torch.mm(left, right, out=product), device, clock)
    copy_s = _best(lambda: target.copy_(source), device, clock)
    return Ceilings(matmul_tflops=2 * side**3 / matmul_s / 1e12, copy_gbs=2 * 4 * _BIG / copy_s / 1e9)


def synchronise(device: str) -> None:
    """Waits for a GPU; a CPU is never behind."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def hardware(device: str) -> str:
    """What computed, in words."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {torch.get_num_threads()} threads"


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _best(action: Callable[[], object], device: str, clock: Callable[[], float]) -> float:
    seconds: list[float] = []
    for _ in range(6):
        synchronise(device)
        started = clock()
        action()
        synchronise(device)
        seconds.append(clock() - started)
    return min(seconds[1:])
