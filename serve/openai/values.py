"""Values of a request's fields: numbers, of which `true` is none, though Python counts it as 1; and prompts, in which
chat front ends write "&lt;person&gt;" or "\\<person\\>", and input methods "＜person：ada＞"."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final

from pydantic import BeforeValidator

from factory.prompts import NETWORKS

_ESCAPED: Final = re.compile(rf"&lt;(\s*person\s*(?::[^<>&]{{0,1000}})?|(?i:{NETWORKS}):[^<>&]{{1,1000}})&gt;")
_TYPED: Final = re.compile(r"(\\?)[<＜]\s*person\s*(?:[:：]([^<>＜＞]{0,1000}))?\\?[>＞]", re.IGNORECASE)


def _tags(value: Any) -> Any:
    return _TYPED.sub(_as_tag, _ESCAPED.sub(r"<\1>", value)) if isinstance(value, str) else value


def _as_tag(found: re.Match[str]) -> str:
    escaped, name = found.groups()
    return "<person>" if name is None else f"<person:{name.removesuffix(escaped) if escaped else name}>"


def _no_truth(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("must be a number, not true or false")
    return value


Whole = Annotated[int, BeforeValidator(_no_truth)]
Real = Annotated[float, BeforeValidator(_no_truth)]
Prompt = Annotated[str, BeforeValidator(_tags)]
