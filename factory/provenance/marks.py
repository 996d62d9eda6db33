"""Marking what leaves: XMP, and C2PA content credentials around it; and reading them back.

Stored bytes carry no marks: rows stay what ids, equality and erasure know them as, and whoever changes the certificate
changes no table. Marks are put on where bytes leave, by one function.
"""

from __future__ import annotations

import io
import json
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from typing import Any, Final

import c2pa

from factory.files import operator_root
from factory.provenance.credentials import Credentials
from factory.provenance.xmp import SOURCE_TYPE, SYSTEM, kind_of, packet, with_xmp

PARAMETERS: Final = "IDENTITY_FACTORY_PARAMETERS"  # environment variable; 0: files do not tell how they were made
_SETTINGS: Final[dict[str, Any]] = {
    # what was just signed need not be verified (50 ms), and a picture needs no small one beside it (as much again)
    "verify": {"verify_after_sign": False},
    "builder": {"thumbnail": {"enabled": False}},
}


class Marker:
    """Puts marks on files. Safe to use from several threads; one a process is enough (`of`)."""

    def __init__(self, credentials: Credentials | None, *, parameters: bool = True) -> None:
        """Without credentials XMP alone is put on; `parameters`: whether files tell how they were made."""
        self._parameters, self._lock = parameters, threading.Lock()
        self._signer: c2pa.Signer | None = None
        if credentials is not None:
            alg = c2pa.C2paSigningAlg.ES256
            info = c2pa.C2paSignerInfo(alg, credentials.chain, credentials.key, None)
            self._signer = c2pa.Signer.from_info(info)
            self._context = c2pa.Context.from_dict(_SETTINGS)

    @classmethod
    def of(cls, root: str) -> Marker:
        """The marker of a root: signs with the operator's certificate, or with the root's own (credentials.py)."""
        return _marker(operator_root(root), tells_how())

    def mark(self, data: bytes, made: Mapping[str, Any] | None = None) -> bytes:
        """A PNG, JPEG, WebP, GIF or MP4 that says that a model made it, and with `made` how. Raises ValueError for
        any other file."""
        data = with_xmp(data, packet(made if self._parameters else None))
        if self._signer is None:
            return data
        kind, signed = kind_of(data), io.BytesIO()
        mime = f"video/{kind}" if kind == "mp4" else f"image/{kind}"
        action = {"action": "c2pa.created", "digitalSourceType": SOURCE_TYPE}
        manifest = {
            "claim_generator_info": [{"name": SYSTEM, "version": version(SYSTEM)}],
            "format": mime,
            "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": [action]}}],
        }
        with self._lock, c2pa.Builder(manifest, self._context) as builder:
            builder.sign(self._signer, mime, io.BytesIO(data), signed)
        return signed.getvalue()


def tells_how() -> bool:
    """Whether files that leave this process tell how they were made."""
    return os.environ.get(PARAMETERS, "1") not in ("", "0")


@lru_cache(maxsize=8)
def _marker(root: str, parameters: bool) -> Marker:
    return Marker(Credentials.of(root), parameters=parameters)


_UNSIGNED: Final = Marker(None)
_marker_of_process: Marker = _UNSIGNED


def mark_with(marker: Marker | None) -> None:
    """From now on `mark` uses this marker in this process; None: XMP alone, unsigned, as before the first call."""
    global _marker_of_process
    _marker_of_process = marker or _UNSIGNED


def mark(data: bytes, made: Mapping[str, Any] | None = None) -> bytes:
    """As `Marker.mark`, by the marker of this process."""
    return _marker_of_process.mark(data, made)


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What a file's content credentials say."""

    state: str  # Trusted: signed by the root's certificate; Valid: whole, by somebody else's; Invalid: changed since
    signer: str  # what the certificate calls itself
    synthetic: bool  # whether they say that a model made it


def read_claim(data: bytes, credentials: Credentials) -> Claim | None:
    """The content credentials of a file, None if it has none; `credentials` are those that are trusted."""
    kind = kind_of(data)
    trusted = {"trust": {"trust_anchors": credentials.anchor.decode()}, "verify": {"verify_trust": True}}
    context, mime = c2pa.Context.from_dict(trusted), f"video/{kind}" if kind == "mp4" else f"image/{kind}"
    reader = c2pa.Reader.try_create(mime, io.BytesIO(data), context=context)
    if reader is None:
        return None
    with reader:
        manifest = reader.get_active_manifest() or {}
        signed = manifest.get("signature_info", {})
        return Claim(
            state=reader.get_validation_state() or "Invalid",
            signer=str(signed.get("common_name") or signed.get("issuer") or ""),
            synthetic=SOURCE_TYPE in json.dumps(manifest.get("assertions", [])),
        )
