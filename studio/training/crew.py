"""Several processes, one thread each, that train one model: on a busy machine they wait less than threads do."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import distributed
from torch import multiprocessing as mp


class Crew:
    """This process's place among `size`; a crew of one communicates with nobody."""

    def __init__(self, rank: int, size: int, meeting: str) -> None:
        self.rank, self.size = rank, size
        if size > 1:
            distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=size)

    def sum(self, tensors: list[torch.Tensor]) -> None:
        """Replace every tensor by its sum over the crew."""
        if self.size > 1:
            flat = torch.cat([tensor.flatten() for tensor in tensors])
            distributed.all_reduce(flat)
            parts = flat.split([tensor.numel() for tensor in tensors])
            torch._foreach_copy_(tensors, [part.view_as(t) for part, t in zip(parts, tensors, strict=True)])

    def average_gradients(self, parameters: Iterable[torch.Tensor]) -> None:
        """Replace every gradient by its mean over the crew."""
        if self.size > 1:
            gradients = [p.grad for p in parameters if p.grad is not None]
            self.sum(gradients)
            torch._foreach_div_(gradients, self.size)

    def from_first(self, value: float) -> float:
        """The value that the first of the crew has."""
        if self.size == 1:
            return value
        shared = torch.tensor([value], dtype=torch.float64)
        distributed.broadcast(shared, 0)
        return float(shared)


def _member(rank: int, size: int, meeting: str, work: Callable[..., None], args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    work(*args, crew=Crew(rank, size, meeting))


def start(work: Callable[..., None], *args: Any, size: int) -> None:
    """Call `work(*args, crew=...)` in `size` processes; this one is the first of them, the others end with it."""
    with tempfile.TemporaryDirectory() as folder:
        meeting = str(Path(folder) / "meeting")
        context = mp.get_context("spawn")
        others = [
            context.Process(target=_member, args=(rank, size, meeting, work, args), daemon=True)
            for rank in range(1, size)
        ]
        for process in others:
            process.start()
        threads = torch.get_num_threads()
        if size > 1:
            torch.set_num_threads(1)
        try:
            work(*args, crew=Crew(0, size, meeting))
        except BaseException:
            for process in others:  # they wait for this one, and ask nobody else whether they may end
                process.kill()
            raise
        for process in others:
            process.join()
        if size > 1:  # so that another crew may follow
            distributed.destroy_process_group()
            torch.set_num_threads(threads)
