"""consent.csv beside photos: who agreed to what. Columns file, consent, consent_expires, consent_scope."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import pyarrow as pa

from factory.consent import COLUMNS, Consent
from factory.errors import SourceError
from factory.files import shown
from pipelines.photos.entries import open_file

CONSENT: Final = [("consent", pa.string()), ("consent_expires", pa.float64()), ("consent_scope", pa.string())]
_MOST: Final = 2**28  # bytes


def read_consents(uris: Sequence[str]) -> dict[str, Consent]:
    """The consents of files, by their uris; of a member of an archive "photos.zip#a/b.jpg". Raises SourceError, with
    the remedy, if a list cannot be understood: a photo that somebody agreed to would count as one that nobody did."""
    with ThreadPoolExecutor(16) as threads:
        return {file: consent for one in threads.map(_read, uris) for file, consent in one.items()}


def with_consents(places: list[dict[str, Any]], consents: Mapping[str, Consent]) -> list[dict[str, Any]]:
    """Rows of PLACE with what consent.csv says of them."""
    if consents:
        for place in places:
            uri = place["uri"].decode("utf-8", "surrogateescape")
            member = "" if place["member"] is None else f"#{place['member'].decode('utf-8', 'surrogateescape')}"
            place |= consents.get(uri + member, Consent()).columns()
    return places


def _read(uri: str) -> dict[str, Consent]:
    folder = uri.rpartition("/")[0]
    try:
        with open_file(uri) as stream:
            text = stream.read(_MOST).decode("utf-8-sig")
        rows = csv.DictReader(io.StringIO(text), strict=True)
        fields = set(rows.fieldnames or ())
        if not {"file", "consent"} <= fields:
            raise ValueError(f"it has columns {', '.join(rows.fieldnames or ())}")
        found = {}
        for number, row in enumerate(rows, start=2):
            if not row["file"]:
                raise ValueError(f"row {number} names no file")
            found[f"{folder}/{row['file']}"] = Consent.of(row)
        return found
    except (OSError, ValueError, csv.Error) as error:
        raise SourceError(
            f"{shown(uri)} cannot be used ({shown(str(error))[:200]}); its columns are file, {', '.join(COLUMNS)}"
        ) from None
