"""Marking what leaves: XMP, and C2PA content credentials around it; and reading them back.

Stored bytes carry no marks: rows stay what ids, equality and erasure know them as, and whoever changes the certificate
changes no table. Marks are put on where bytes leave, by one function.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import c2pa

from factory.files import operator_root, write_whole
from factory.provenance.credentials import Credentials
from factory.provenance.exports import model_kind, with_remarks
from factory.provenance.sidecar import SUFFIX, sign_beside
from factory.provenance.xmp import COMPOSITE_TYPE, SOURCE_TYPE, SYSTEM, has_place, kind_of, packet, with_xmp

PARAMETERS: Final = "IDENTITY_FACTORY_PARAMETERS"  # environment variable; 0: files do not tell how they were made
_OTHER: Final = "application/octet-stream"
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

    def mark(self, data: bytes, made: Mapping[str, Any] | None = None, *, composite: bool = False) -> bytes:
        """A PNG, JPEG, WebP, GIF or MP4 that says that a model made it (of a `composite`: parts of it), and with `made`
        how; a PLY, SPZ or binary glTF says so without a signature, which lies beside it (`beside`). Raises ValueError
        for any other file."""
        made = made if self._parameters else None
        if model_kind(data) is not None:
            return with_remarks(data, made)
        data = with_xmp(data, packet(made, composite=composite))
        if self._signer is None:
            return data
        mime, signed = _mime(data), io.BytesIO()
        with self._lock, c2pa.Builder(_manifest(mime, composite), self._context) as builder:
            builder.sign(self._signer, mime, io.BytesIO(data), signed)
        return signed.getvalue()

    def beside(self, data: bytes) -> bytes | None:
        """The content credentials of a file of any kind, to lie beside it; None without a certificate."""
        return self._beside(hashlib.sha256(data).digest())

    def _beside(self, digest: bytes) -> bytes | None:
        if self._signer is None:
            return None
        with self._lock:
            return sign_beside(_manifest(_OTHER), digest, self._context, self._signer)

    def write_beside(self, file: Path) -> Path | None:
        """The same as a file beside `file`, which may be large: its path."""
        with file.open("rb") as stream:
            signed = self._beside(hashlib.file_digest(stream, "sha256").digest())
        if signed is None:
            return None
        target = file.with_name(file.name + SUFFIX)
        write_whole(target, signed)
        return target


def _mime(data: bytes) -> str:
    kind = kind_of(data)
    return f"video/{kind}" if kind == "mp4" else f"image/{kind}"


def _manifest(mime: str, composite: bool = False) -> dict[str, Any]:
    action = {"action": "c2pa.created", "digitalSourceType": COMPOSITE_TYPE if composite else SOURCE_TYPE}
    return {
        "claim_generator_info": [{"name": SYSTEM, "version": version(SYSTEM)}],
        "format": mime,
        "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": [action]}}],
    }


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


def beside(data: bytes) -> bytes | None:
    """As `Marker.beside`, by the marker of this process."""
    return _marker_of_process.beside(data)


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What a file's content credentials say."""

    state: str  # Trusted: signed by the root's certificate; Valid: whole, by somebody else's; Invalid: changed since
    signer: str  # what the certificate calls itself
    synthetic: bool  # whether they say that a model made it


def read_claim(data: bytes, credentials: Credentials | None, manifest: bytes | None = None) -> Claim | None:
    """The content credentials of a file, or those in `manifest`, which lay beside it; None if it has none.
    `credentials` are those that are trusted, None: of nobody."""
    trusted: dict[str, Any] = {"verify": {"verify_trust": credentials is not None}}
    if credentials is not None:
        trusted["trust"] = {"trust_anchors": credentials.anchor.decode()}
    if manifest is None and not has_place(data):
        return None
    context, mime = c2pa.Context.from_dict(trusted), _OTHER if manifest is not None else _mime(data)
    reader = c2pa.Reader.try_create(mime, io.BytesIO(data), manifest, context=context)
    if reader is None:
        return None
    with reader:
        active = reader.get_active_manifest() or {}
        signed = active.get("signature_info", {})
        said = json.dumps(active.get("assertions", []))
        return Claim(
            state=reader.get_validation_state() or "Invalid",
            signer=str(signed.get("common_name") or signed.get("issuer") or ""),
            synthetic=SOURCE_TYPE in said or COMPOSITE_TYPE in said,
        )
