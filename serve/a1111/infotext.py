"""The text that AUTOMATIC1111 keeps in a picture and reads back: prompt, negative prompt, and a line of settings."""

from __future__ import annotations

import binascii
import io
import json
import re
from collections.abc import Mapping
from typing import Any, Final

from PIL import Image, PngImagePlugin

from serve.openai.pictures import from_base64
from serve.openai.schemas import RequestRefused

KEY: Final = "parameters"  # of the PNG's text
_NEGATIVE: Final = "Negative prompt:"
# A setting: its name, and a value that is quoted as JSON where it holds what separates settings.
_SETTING: Final = re.compile(r'\s*(\w[\w \-/]*):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')
_FEWEST: Final = 3  # settings in the last line, else it belongs to the prompt
_LONGEST: Final = 200_000  # characters of an infotext


def infotext(prompt: str, negative: str, settings: Mapping[str, Any]) -> str:
    """As A1111 writes it; a setting that is None is left out."""
    told = ", ".join(f"{name}: {_quoted(str(value))}" for name, value in settings.items() if value is not None)
    lines = [prompt.strip(), f"{_NEGATIVE} {negative.strip()}" if negative.strip() else None, told]
    return "\n".join(line for line in lines if line is not None)


def parse(text: str) -> dict[str, str]:
    """Prompt, negative prompt and settings of an infotext; empty if there is none."""
    if not text.strip() or len(text) > _LONGEST:
        return {}
    *lines, last = text.strip().split("\n")
    settings = _settings(last)
    if len(settings) < _FEWEST:
        lines, settings = [*lines, last], []
    prompt, negative, found = list[str](), list[str](), False
    for line in map(str.strip, lines):
        if line.startswith(_NEGATIVE):
            found, line = True, line.removeprefix(_NEGATIVE).strip()
        (negative if found else prompt).append(line)
    values = {name.strip(): _unquoted(value.strip()) for name, value in settings}
    if size := re.fullmatch(r"(\d+)x(\d+)", values.get("Size", "")):
        values |= {"Size-1": size[1], "Size-2": size[2]}
    return {"Prompt": "\n".join(prompt), "Negative prompt": "\n".join(negative), **values}


def _settings(line: str) -> list[tuple[str, str]]:
    """Names and values. In one pass: `findall` looks for a setting from each letter on, which takes a line without one
    the square of its length."""
    found, at = list[tuple[str, str]](), 0
    while at < len(line):
        if match := _SETTING.match(line, at):
            found.append((match[1], match[2]))
            at = match.end()
        else:
            at = line.find(",", at) + 1 or len(line)
    return found


def with_infotext(picture: Image.Image, text: str, level: int) -> bytes:
    """A PNG that carries an infotext; `level` 0..9 is zlib's."""
    info, buffer = PngImagePlugin.PngInfo(), io.BytesIO()
    info.add_text(KEY, text.replace("\0", ""))
    picture.save(buffer, "PNG", pnginfo=info, compress_level=level)
    return buffer.getvalue()


def read_png(text: str) -> dict[str, str]:
    """The texts of a PNG in base64 (or a data: URL), by their names. Raises RequestRefused."""
    try:
        with Image.open(io.BytesIO(from_base64(text)), formats=["PNG"]) as picture:
            return {name: value for name, value in picture.info.items() if isinstance(name, str) and _is_text(value)}
    except (binascii.Error, ValueError, OSError, SyntaxError, Image.DecompressionBombError):
        raise RequestRefused("this is no PNG in base64", "image") from None


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value.encode(errors="ignore").decode() == value


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False) if any(sign in text for sign in ',\n:"') else text


def _unquoted(text: str) -> str:
    if len(text) < 2 or not text.startswith('"') or not text.endswith('"'):
        return text
    try:
        return str(json.loads(text))
    except ValueError:
        return text
