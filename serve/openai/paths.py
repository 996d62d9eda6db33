"""What to ask for instead of a path that is none."""

from __future__ import annotations

import re
from typing import Final

# Of clients that take the people of GET /v1/models for models to chat with, or to embed with
_OTHERS: Final = re.compile(
    r"/(chat/completions|completions|responses|messages|embeddings|audio/\w+|images/variations|api/(chat|generate))"
)
_OPENAIS: Final = re.compile(r"/(models|images/generations|images/edits|files|batches|videos)")


def no_route(path: str) -> str:
    """In words: that nothing else than pictures is made here, or how the client's base address ends, which lacks
    OpenAI's /v1 or has more than that, or what a proxy leaves of its own path."""
    shown = path[:100]
    if _OTHERS.search(path):
        return f"there is no {shown}: people are drawn here, by POST /v1/images/generations and /v1/images/edits"
    if found := _OPENAIS.search(path):
        there = f"/v1{found[0]}"
        own = path.removesuffix(there) if path.endswith(there) else ""
        proxy = f"; or let the proxy that leads here take {own[:100]} off" if own else ""
        return f"there is no {shown}, but {there}: let the client's base address end with /v1, once{proxy}"
    return f"there is no {shown}; GET /openapi.json lists what there is. A proxy that leads here takes its own path off"


def no_method(method: str, path: str) -> str:
    """In words: what to do instead of this."""
    if method == "DELETE" and path.startswith("/v1/models/"):
        return "a person is erased by DELETE /v1/identities/NAME"
    return f"{path[:100]} is not asked by {method[:20]}: the header `allow` says by what"
