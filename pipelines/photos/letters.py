"""The names in a zip archive, in the letters that they were written in.

The format knows two: UTF-8, which is marked, and the old ones of the PC (CP437), which Python takes all others for.
Windows in Chinese, Japanese or Korean packs names in its own and does not say so.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Sequence
from typing import Final

_IS_UTF8: Final = 1 << 11  # of a member: what its name is written in
_OLD: Final = "cp437"
_HANZI, _KANA, _HANGUL = "\u4e00-\u9fff", "\u3041-\u30ff々〇", "\uac00-\ud7a3"
_MARKS: Final = "\u30fb\u00b7\u2014\u2018-\u201d\u2026\u3000-\u303f\uff01-\uff5e"  # among them, never alone
# Which encoding judges, which one reads, and what its names are made of. Each is narrow enough that names in the next
# ones, and in European letters, hardly ever pass; of Korean a few more, as its letters are Chinese ones, too.
_ASIAN: Final = (
    ("euc_kr", "cp949", _HANGUL, 8),
    ("gb2312", "gb18030", _HANZI, 2),
    ("cp932", "cp932", _HANZI + _KANA, 2),
    ("big5", "cp950", _HANZI, 2),
)
_MOST: Final = 0.75  # of the names
_WINDOWS: Final = {"cp949": "Korean", "gb18030": "Chinese", "cp932": "Japanese", "cp950": "traditional Chinese"}
_EUROPEAN: Final = re.compile("[\0-\x7f\u00a0-\u00ff]*")


def paths_of(infos: Sequence[zipfile.ZipInfo]) -> tuple[list[str], str]:
    """Members' paths, and what there is to say of how they are written.

    Some programs of Windows (.NET's before 4.6.1) part folders by backslashes, against the format; `unzip` takes them
    for slashes by the same rule. Others, macOS' Finder first of all, write UTF-8 and do not say so: by chance next to
    no name in the old letters is UTF-8, too.
    """
    unsaid = {info.filename: _bytes_of(info) for info in infos if not info.flag_bits & _IS_UTF8}
    texts = {name: written for name, written in unsaid.items() if written and not written.isascii()}
    named = {name: text for name, written in texts.items() if (text := _read(written, "utf-8"))}
    rest = {name: written for name, written in texts.items() if name not in named}
    told = ""
    if reading := _reading_of(list(rest.values())):
        told = f"does not say in which letters names are written: read as those of {_WINDOWS[reading]} Windows"
        named |= {name: text for name, written in rest.items() if (text := _read(written, reading))}
    elif odd := [name for name in rest if not _EUROPEAN.fullmatch(name)]:
        told = f"does not say in which letters names are written, such as {odd[0]}: pack it anew, with names in UTF-8"
    return [_slashed(named.get(info.filename, info.filename), info) for info in infos], told


def _bytes_of(info: zipfile.ZipInfo) -> bytes | None:
    try:
        return info.filename.encode(_OLD)
    except UnicodeError:  # told in a field of its own
        return None


def _slashed(name: str, info: zipfile.ZipInfo) -> str:
    is_windows = info.create_system == 0 and "/" not in name
    return name.replace("\\", "/") if is_windows else name


def _reading_of(names: Sequence[bytes]) -> str | None:
    """The encoding of these names; None: it cannot be told."""
    for judge, reading, letters, least in _ASIAN:
        known = [runs for name in names if (runs := _runs(name, judge, letters))]
        if not known or len(known) < _MOST * len(names):
            continue
        num_letters, num_runs = sum(sum(one) for one in known), sum(map(len, known))
        if num_letters >= max(least, 2 * num_runs):  # in European names such letters stand alone among others
            return reading
    return None


def _runs(name: bytes, encoding: str, letters: str) -> list[int]:
    """Lengths of the parts of a name that are no ASCII, in letters; empty if they are not all of these."""
    text = _read(name, encoding) or ""
    parts = re.findall(r"[^\0-\x7f]+", text)
    if any(re.fullmatch(f"[{letters}{_MARKS}]*[{letters}][{letters}{_MARKS}]*", part) is None for part in parts):
        return []
    return [len(part) for part in parts]


def _read(name: bytes, encoding: str) -> str | None:
    try:
        return name.decode(encoding)
    except UnicodeError:
        return None
