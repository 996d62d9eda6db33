"""Numbers of a request: `true` is none of them, though Python counts it as 1."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator


def _no_truth(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("must be a number, not true or false")
    return value


Whole = Annotated[int, BeforeValidator(_no_truth)]
Real = Annotated[float, BeforeValidator(_no_truth)]
