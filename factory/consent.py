"""What a person agreed to: a reference, until when, and for what. Nothing here is ever filled in by the program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from typing import Any, Final

COLUMNS: Final = ("consent", "consent_expires", "consent_scope")
_NO: Final = ("no", "false", "n", "0")  # in the place of a reference, in any case of letters
_NOTHING: Final = ("nan", "none", "null", "<na>", "n/a", "-")  # what is left of null where a column was made texts
_DAY_S: Final = 86_400
_FIRST: Final = -62_135_596_800  # Unix time of the begin of the year 1, s
_LAST: Final = 253_402_300_799  # Unix time of the end of the year 9999, s; milliseconds of today are more


@dataclass(frozen=True, slots=True, kw_only=True)
class Consent:
    """Of one photo's people."""

    reference: str | None = None  # where it is written down: a number of a form, an address; None: nothing is told
    expires: float | None = None  # Unix time, s; None: it does not expire
    scope: str | None = None  # what for, as whoever gave it put it; for people to read

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Consent:
        """From the three columns, as a row of Parquet, of a CSV or a form has them. Raises ValueError for a date that
        is none, and for a date or scope without a reference."""
        reference, scope = (_text(values.get(name)) for name in ("consent", "consent_scope"))
        reference = None if reference is not None and reference.casefold() in _NOTHING else reference
        expires = as_time(values.get("consent_expires"))
        if reference is None and (expires is not None or scope is not None):
            raise ValueError("consent_expires or consent_scope without a consent: write where it is written down")
        return cls(reference=reference, expires=expires, scope=scope)

    @classmethod
    def of_all(cls, consents: Sequence[Consent]) -> Consent:
        """Of what is made of several photos: it ends when the first of them does, also where others were told none; the
        references are there if each photo has one."""
        ends = [one.expires for one in consents if one.expires is not None]
        expires = min(ends, default=None)
        if not all(one.reference is not None for one in consents):
            return cls(expires=expires)
        texts = [[getattr(one, name) for one in consents] for name in ("reference", "scope")]
        reference, scope = ("; ".join(dict.fromkeys(filter(None, each))) or None for each in texts)
        return cls(reference=reference, expires=expires, scope=scope)

    @property
    def refuses(self) -> bool:
        """Whether what is written in the place of a reference says that nobody agreed."""
        return self.reference is not None and self.reference.casefold() in _NO

    def columns(self) -> dict[str, Any]:
        """The three columns of a row."""
        return dict(zip(COLUMNS, (self.reference, self.expires, self.scope), strict=True))

    def lacking(self, now: float, *, required: bool) -> str:
        """Why a photo may not be used at this Unix time: a consent that is `required` is not there, or one that was is
        over; empty: it may."""
        if self.refuses:
            return f"its consent says {self.reference!r}: nobody agreed"
        if required and self.reference is None:
            return "nobody's consent is told for it, and this root requires one (columns or consent.csv)"
        return f"its consent expired at {iso(self.expires)}" if self.has_expired(now) else ""

    def ends_before(self, other: Consent) -> bool:
        """Whether it is over sooner than another one."""
        return self.expires is not None and (other.expires is None or self.expires < other.expires)

    def has_expired(self, now: float) -> bool:
        """Whether there was one, which is over."""
        return self.expires is not None and now >= self.expires


def as_time(value: object) -> float | None:
    """Unix time, s, of a date in ISO 8601, a date, a moment or a number; None of nothing. A date without a time of day
    holds until that day ends; without a zone it is UTC. Raises ValueError."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, (int, float)) and not isinstance(value, bool) and value == value:
        if not 0 <= value <= _LAST:
            raise ValueError(f"consent_expires {value} is beyond the year 9999: a number is Unix time in seconds")
        return float(value)
    if isinstance(value, str):
        text = value.strip()
        try:
            value = date.fromisoformat(text) if len(text) == len("2027-01-31") else datetime.fromisoformat(text)
        except ValueError:
            raise ValueError(f"consent_expires {text[:40]!r} is no date: write one as 2027-01-31") from None
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
    if isinstance(value, date):
        return min(datetime.combine(value, time(), UTC).timestamp() + _DAY_S, _LAST)  # "9999-12-31" has no next day
    raise ValueError(f"consent_expires is {type(value).__name__}: write a date")


def iso(at: float | None) -> str:
    """A Unix time for people, in the years 1 to 9999; empty of None."""
    return "" if at is None else datetime.fromtimestamp(min(max(at, _FIRST), _LAST), UTC).isoformat(timespec="seconds")


def _text(value: object) -> str | None:
    text = "" if value is None else str(value).strip()
    return text or None
