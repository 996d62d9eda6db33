"""Why a book of work takes something not in, or does not find it."""

from __future__ import annotations


class UnknownWork(LookupError):
    """There is no such work, or it was erased."""


class KeyReused(ValueError):
    """An Idempotency-Key came again with another request."""


class TooMuchWork(Exception):
    """As much is waiting as may wait."""

    retry_after_s = 10.0

    def __str__(self) -> str:
        return "too much is waiting; try again later"
