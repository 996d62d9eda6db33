"""How many identities are learned at once: on a GPU what its free memory holds, by a measurement on that GPU."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

import torch

from factory.base.diffusion import DiffusionBase
from factory.base.text import NUM_WORDS, TokenisedPrompts
from factory.config import TrainConfig

CPU_SLOTS = 16  # a CPU is busy with this many, and saves what it has learned often
_MOST = 64  # on a GPU: beyond this a batch is as efficient, and only makes each identity wait longer
_USABLE = 0.9  # of the free memory; the rest is for fragments
_COPIES = 4  # of an identity's weights: themselves, gradients, two moments

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Fitting:
    """How many identities fit on a device, as far as it is known: measured once, halved whenever it was too many."""

    base: DiffusionBase
    templates: TokenisedPrompts
    given: int | None = None  # by the user, in place of a measurement
    _known: dict[tuple[int, int], int] = field(default_factory=dict)  # what an identity takes -> slots

    def slots(self, train: TrainConfig, feature_width: int) -> int:
        """For identities that are learned so, from features [F]."""
        takes = self._takes(train, feature_width)
        if takes not in self._known:
            self._known[takes] = self.given or choose_slots(self.base, self.templates, train, feature_width)
        return self._known[takes]

    def halve(self, tried: int, train: TrainConfig, feature_width: int) -> int:
        """Half of what was too many; it stays so for identities that take as much.

        Raises torch.OutOfMemoryError, with the remedy, if one alone was too many.
        """
        device, slots = self.base.device, tried // 2
        if slots == 0:
            raise torch.OutOfMemoryError(
                f"one identity alone does not fit in the free memory of {device}; "
                "set precision=bfloat16, a smaller samples_per_step, or use a GPU with more memory"
            )
        logger.warning("%d identities do not fit in the memory of %s; going on with %d", tried, device, slots)
        self._known[self._takes(train, feature_width)] = slots
        return slots

    def _takes(self, train: TrainConfig, feature_width: int) -> tuple[int, int]:
        """Samples in a batch, and bytes beside it: all that the number of slots depends on."""
        return train.samples_per_step, state_bytes(self.base, train, feature_width)


def choose_slots(base: DiffusionBase, templates: TokenisedPrompts, train: TrainConfig, feature_width: int) -> int:
    """Slots for this device and base model; on a GPU a forward and a backward pass of 1 and of 2 samples are made."""
    if not base.device.startswith("cuda"):
        return CPU_SLOTS
    _peak_bytes(base, templates, 1)  # libraries take their workspaces now
    one, two = (_peak_bytes(base, templates, num) for num in (1, 2))
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info(base.device)
    own = state_bytes(base, train, feature_width)
    slots = min(_MOST, slots_that_fit(free, one, two, own, train.samples_per_step))
    logger.info(
        "%d slots: %.1f of %.1f GB are free; a sample takes %.2f GB, an identity's weights and views %.2f GB",
        *(slots, free / 1e9, total / 1e9, (two - one) / 1e9, own / 1e9),
    )
    return slots


def slots_that_fit(free: int, peak_one: int, peak_two: int, own: int, num_samples: int) -> int:
    """How many identities fit in `free` bytes, at least 1. `peak_one` and `peak_two` are the bytes that a batch of one
    and of two samples needs, `own` what an identity needs besides, `num_samples` its samples in a batch."""
    sample = max(peak_two - peak_one, 1)
    shared = max(peak_one - sample, 0)
    return max(1, int((_USABLE * free - shared) // (num_samples * sample + own)))


def state_bytes(base: DiffusionBase, train: TrainConfig, feature_width: int) -> int:
    """What an identity holds from its first step to its last: its MLP with the optimiser's state, and its views."""
    width = NUM_WORDS * base.text_width
    numbers = _COPIES * width * (feature_width + width)
    if train.views == "pool":
        numbers += train.num_views * (2 * base.num_channels + 1) * base.latent_side**2
    return numbers * base.exact_dtype.itemsize


def _peak_bytes(base: DiffusionBase, templates: TokenisedPrompts, num: int) -> int:
    """The most memory that a forward and backward pass of `num` samples takes, beyond what is held already."""
    rows = torch.zeros(num, dtype=torch.int64, device=base.device)
    words_BVD = torch.zeros(num, NUM_WORDS, base.text_width, device=base.device, requires_grad=True)
    latents_BCHW = torch.zeros(num, base.num_channels, base.latent_side, base.latent_side, device=base.device)
    torch.cuda.reset_peak_memory_stats(base.device)
    before = torch.cuda.memory_allocated(base.device)
    base.denoise(latents_BCHW, rows, base.encode_text(templates[rows], words_BVD)).square().mean().backward()
    return torch.cuda.max_memory_allocated(base.device) - before
