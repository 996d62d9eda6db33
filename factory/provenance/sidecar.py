"""Content credentials that lie beside a file (`NAME.c2pa`), for formats that have no place for them.

C2PA calls them external manifests: the same boxes, bound to the file by the sha256 of all its bytes. c2pa-python signs
only into formats that it knows; the library under it has a call for others, which is made here through ctypes.
"""

from __future__ import annotations

import ctypes
import json
from collections.abc import Mapping
from typing import Any, Final

import c2pa
from c2pa import c2pa as native

SUFFIX: Final = ".c2pa"
_MIME: Final = b"application/c2pa"
_RESERVED: Final = 10_000  # bytes for the signature, as c2pa's own signer of a key reserves
_Bytes: Final = ctypes.POINTER(ctypes.c_ubyte)


def sign_beside(manifest: Mapping[str, Any], digest: bytes, context: c2pa.Context, signer: c2pa.Signer) -> bytes:
    """The credentials of a file with this sha256. Raises c2pa.C2paError."""
    binding = {
        "alg": "sha256",
        "hash": list(digest),
        "name": "jumbf manifest",  # what c2pa calls the binding; nothing of the file is left out
        "exclusions": [],
        "pad": "",
    }
    with c2pa.Builder(manifest, context) as builder:
        handle = ctypes.cast(builder._handle, ctypes.c_void_p)
        _call("c2pa_builder_data_hashed_placeholder", handle, ctypes.c_size_t(_RESERVED), _MIME)
        signed = ctypes.cast(signer._handle, ctypes.c_void_p)
        text = json.dumps(binding).encode()
        return _call("c2pa_builder_sign_data_hashed_embeddable", handle, signed, text, _MIME, ctypes.c_void_p())


def _call(name: str, *arguments: Any) -> bytes:
    """A call that gives bytes through its last argument."""
    function = getattr(native._lib, name)
    function.restype = ctypes.c_int64
    given = _Bytes()
    size = function(*arguments, ctypes.byref(given))
    if size < 0:
        raise c2pa.C2paError(f"{name} failed: {_error()}")
    try:
        return ctypes.string_at(given, size)
    finally:
        native._lib.c2pa_free(given)


def _error() -> str:
    text = native._lib.c2pa_error()
    return ctypes.string_at(text).decode(errors="replace") if text else "no reason given"
