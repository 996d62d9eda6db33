"""consent.csv beside photos, or in an archive of them: who agreed to what.

Its columns are file, consent, consent_expires, consent_scope."""

from __future__ import annotations

import codecs
import csv
import io
import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import pyarrow as pa

from factory.consent import COLUMNS, Consent
from factory.errors import SourceError
from factory.files import shown
from pipelines.photos.entries import Entry

CONSENT: Final = [("consent", pa.string()), ("consent_expires", pa.float64()), ("consent_scope", pa.string())]
_MOST: Final = 2**28  # bytes
_SEPARATORS: Final = ";\t"  # of spreadsheets in countries where the comma is in numbers


def read_consents(lists: Sequence[tuple[str, Entry]]) -> dict[str, Consent]:
    """The consents of files, by their uris; of a member of an archive "photos.zip#a/b.jpg". `lists`: what stands before
    the names of their files ("photos/", "photos.zip#a/"), and the file consent.csv.

    Raises SourceError, with the remedy, if a list cannot be understood, or two rows tell of one file otherwise: a photo
    that somebody agreed to would count as one that nobody did.
    """
    found: dict[str, Consent] = {}
    with ThreadPoolExecutor(16) as threads:
        for (_, file), rows in zip(lists, threads.map(lambda one: _read(*one), lists), strict=True):
            for name, consent in rows:
                if found.setdefault(name, consent) != consent:
                    raise _refused(file.uri, f"{name} has another consent in a row before")
    return found


def with_consents(
    places: list[dict[str, Any]], consents: Mapping[str, Consent]
) -> tuple[list[dict[str, Any]], list[str]]:
    """Rows of PLACE with what consent.csv says of them, and the files that it tells of and that are not there.

    A file is the one that a row names to the letter; else one that is called so but for what a spreadsheet or another
    system changes (blanks around it, "./", "\\", how accents are composed, then capitals), if there is but one.
    """
    files = [file_of(place) for place in places]
    meant = matched(files, consents)
    for place, file in zip(places, files, strict=True):
        if file in meant:
            place |= consents[meant[file]].columns()
    return places, sorted(consents.keys() - set(meant.values()))


def matched(files: Sequence[str], told: Collection[str]) -> dict[str, str]:
    """Of these files that a list tells of, as which of `told`, its files as its rows name them."""
    names = set(told)
    meant = {file: file for file in files if file in names}
    for alike in (_plain, _folded):
        rows = _by_key(alike, names - set(meant.values()))
        there = _by_key(alike, (file for file in files if file not in meant)) if rows else {}
        meant |= {there[key][0]: row[0] for key, row in rows.items() if len(row) == 1 and len(there.get(key, ())) == 1}
    return meant


def _by_key(key: Callable[[str], str], files: Iterable[str]) -> dict[str, list[str]]:
    """Files by what they are alike in."""
    found: dict[str, list[str]] = {}
    for file in files:
        found.setdefault(key(file), []).append(file)
    return found


def file_of(place: Mapping[str, Any]) -> str:
    """What a row of PLACE is of, as lists name it."""
    uri = str(place["uri"].decode("utf-8", "surrogateescape"))
    return uri if place["member"] is None else f"{uri}#{place['member'].decode('utf-8', 'surrogateescape')}"


def _plain(file: str) -> str:
    parts = unicodedata.normalize("NFC", file).replace("\\", "/").replace("#./", "#").split("/")
    return "/".join(part.strip() for part in parts if part != ".")


def _folded(file: str) -> str:
    return _plain(file).casefold()


def _read(before: str, file: Entry) -> list[tuple[str, Consent]]:
    try:
        data = file.read(_MOST)
        if data is None:
            raise ValueError(f"it has more than {_MOST:,} bytes")
        return [(f"{before}{row['file']}", _consent(line, row)) for line, row in rows_of_csv(text_of(data))]
    except (OSError, ValueError, csv.Error) as error:
        raise _refused(file.uri, str(error)) from None


def _consent(line: int, row: Mapping[str, Any]) -> Consent:
    try:
        return Consent.of(row)
    except ValueError as error:
        raise ValueError(f"line {line}, of {row['file']}: {error}") from None


def text_of(data: bytes) -> str:
    """A list's text. Raises ValueError for one in the letters of one country, as nobody can tell which they are."""
    try:
        return data.decode("utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig")
    except UnicodeError:
        raise ValueError("it is not written in UTF-8: save it anew, in spreadsheets as CSV UTF-8") from None


def rows_of_csv(text: str, needed: Sequence[str] = ("file", "consent")) -> Iterator[tuple[int, dict[str, str | None]]]:
    """The rows below the names of the columns, which some are needed of, the first one filled in each row; each with
    the number of its line. Raises ValueError, csv.Error."""
    if skipped := int(text.lower().startswith("sep=")):  # what a spreadsheet is told, and takes for no row
        text = text.partition("\n")[2]
    header = text.partition("\n")[0]
    separator = next((one for one in _SEPARATORS if one in header and "," not in header), ",")
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    names = [name.strip().lower() for name in next(lines, [])]
    if not set(needed) <= set(names):
        raise ValueError(f"it has columns {', '.join(names)}")
    for cells in lines:
        if len(cells) > len(names):
            raise ValueError(
                f"line {lines.line_num + skipped} has more cells than there are columns; quote texts with commas"
            )
        row = dict(zip(names, [*cells, *[None] * (len(names) - len(cells))], strict=True))
        if any(cells) and not row[needed[0]]:
            raise ValueError(f"line {lines.line_num + skipped} names no file")
        if any(cells):
            yield lines.line_num + skipped, row


def _refused(uri: str, why: str) -> SourceError:
    columns = ", ".join(COLUMNS)
    return SourceError(f"{uri} cannot be used ({shown(why)[:300]}); its columns are file, {columns}")
