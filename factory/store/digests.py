"""Sets of texts of any size at 16 bytes a text: what a job asks millions of ids and names for, in place of the ids."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np

_TYPE = "S16"  # 128 bits of BLAKE2b: of 10 million texts two have the same with a chance of 1e-25


def digests(texts: Iterable[str]) -> np.ndarray:
    """A digest of each text, S16 [n]."""
    each = (hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=16).digest() for text in texts)
    return np.frombuffer(b"".join(each), _TYPE)


def pairs(left: Iterable[str], right: Iterable[str]) -> Iterable[str]:
    """One text for each pair of two."""
    return (f"{one}\n{other}" for one, other in zip(left, right, strict=True))


class DigestSet:
    """A set of texts, each by its digest."""

    def __init__(self, parts: Iterable[np.ndarray] = ()) -> None:
        each = np.concatenate([np.empty(0, _TYPE), *parts])
        each.sort()  # in place, where numpy.unique makes a copy and a hash table
        is_first = np.append(True, each[1:] != each[:-1])[: len(each)]
        self._sorted = each if is_first.all() else each[is_first]

    def __len__(self) -> int:
        return len(self._sorted)

    def hold(self, wanted: np.ndarray) -> np.ndarray:
        """Which of these digests are in the set, bool [n]."""
        if not len(self._sorted):
            return np.zeros(len(wanted), bool)
        places = np.minimum(np.searchsorted(self._sorted, wanted), len(self._sorted) - 1)
        found: np.ndarray = self._sorted[places] == wanted
        return found
