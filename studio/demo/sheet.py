"""The contact sheet: one row a person (photo, masks, pictures), drawn with Pillow and its bundled font."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from factory.records import FaceMasks

CELL_PX, GAP_PX, MARGIN_PX, LABEL_PX, HEAD_PX = 176, 8, 40, 190, 150
EXTRA_GAP_PX = 32  # between the people and what is shown beside
PAPER, INK, SOFT, ACCENT = (250, 249, 246), (28, 28, 32), (112, 112, 120), (196, 84, 40)
SMALL_PX = 1360  # width of the sheet in a page
FACE_RGB, HAIR_RGB = (255, 120, 40), (60, 130, 255)


@dataclass(frozen=True, slots=True, kw_only=True)
class SheetRow:
    """One person of the sheet."""

    name: str
    notes: Sequence[str]  # small lines under the name
    photo: np.ndarray  # uint8 [H, W, 3] RGB, as it was given
    crop: np.ndarray  # uint8 [S, S, 3] RGB, the aligned face in it
    masks: FaceMasks  # of the crop
    pictures: Sequence[np.ndarray | None]  # uint8 [S, S, 3] RGB, one a column; None leaves the cell empty


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtraRow:
    """A row of pictures alone, below the people; a wide one takes two columns."""

    name: str
    notes: Sequence[str]  # small lines under the name
    pictures: Sequence[np.ndarray]  # uint8 [H, W, 3] RGB


def overlay(crop: np.ndarray, masks: FaceMasks) -> np.ndarray:
    """What the loss looks at: the crop greyed, its face tinted orange and its hair blue. uint8 [S, S, 3]."""
    grey = crop.astype(np.float32).mean(axis=2, keepdims=True).repeat(3, axis=2)
    out = 90 + 0.55 * grey
    for mask, colour in ((masks.face, FACE_RGB), (masks.hair, HAIR_RGB)):
        out[mask] = 0.5 * grey[mask] + 0.5 * np.asarray(colour, np.float32)
    return np.clip(out, 0, 255).astype(np.uint8)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _centred(draw: ImageDraw.ImageDraw, text: str, left: int, bottom: int) -> None:
    """Column caption, shrunk until it fits its column."""
    size = 20
    while size > 12 and draw.textlength(text, font=_font(size)) > CELL_PX:
        size -= 1
    draw.text((left + CELL_PX // 2, bottom), text, font=_font(size), fill=SOFT, anchor="ms")


def _paste(sheet: Image.Image, picture: np.ndarray, left: int, top: int, columns: int = 1) -> None:
    size = columns * CELL_PX + (columns - 1) * GAP_PX, CELL_PX
    sheet.paste(ImageOps.fit(Image.fromarray(picture), size, Image.Resampling.LANCZOS), (left, top))


def _label(draw: ImageDraw.ImageDraw, name: str, notes: Sequence[str], top: int) -> None:
    draw.text((MARGIN_PX, top + CELL_PX // 2 - 34), name, font=_font(26), fill=INK, anchor="lm")
    for line, note in enumerate(notes):
        draw.text((MARGIN_PX, top + CELL_PX // 2 + 2 + 24 * line), note, font=_font(18), fill=SOFT, anchor="lm")


def save_small(sheet: Image.Image, path: Path) -> None:
    """The sheet as a JPEG for a page such as the README, which shows it no wider: under 400 kB."""
    size = SMALL_PX, round(sheet.height * SMALL_PX / sheet.width)
    small = sheet.resize(size, Image.Resampling.LANCZOS)
    small.save(path, format="JPEG", quality=70, optimize=True, progressive=True)


def contact_sheet(
    rows: Sequence[SheetRow], captions: Sequence[str], *, title: str, subtitle: str, extras: Sequence[ExtraRow] = ()
) -> Image.Image:
    """Draw the sheet: columns are the photo, its masks, and one picture for each of `captions`; `extras` below."""
    columns = ["the one photo", "face, hair", *captions]
    width = 2 * MARGIN_PX + LABEL_PX + len(columns) * (CELL_PX + GAP_PX) + GAP_PX
    height = 2 * MARGIN_PX + HEAD_PX + (len(rows) + len(extras)) * (CELL_PX + GAP_PX) + EXTRA_GAP_PX * bool(extras)
    sheet = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN_PX, MARGIN_PX), title, font=_font(40), fill=INK, anchor="lt")
    draw.text((MARGIN_PX, MARGIN_PX + 54), subtitle, font=_font(21), fill=SOFT, anchor="lt")

    def left(column: int) -> int:  # pictures stand a little apart from what they were learned from
        return MARGIN_PX + LABEL_PX + column * (CELL_PX + GAP_PX) + (GAP_PX if column >= 2 else 0)

    top = MARGIN_PX + HEAD_PX
    for column, caption in enumerate(columns):
        _centred(draw, caption, left(column), top - 12)
    for row in rows:
        _label(draw, row.name, row.notes, top)
        for column, picture in enumerate([row.photo, overlay(row.crop, row.masks), *row.pictures]):
            if picture is not None:
                _paste(sheet, picture, left(column), top)
        top += CELL_PX + GAP_PX
    rule = left(2) - GAP_PX
    draw.line([(rule, MARGIN_PX + HEAD_PX), (rule, top - GAP_PX)], fill=ACCENT, width=2)
    top += EXTRA_GAP_PX
    for extra in extras:
        _label(draw, extra.name, extra.notes, top)
        column = 2
        for picture in extra.pictures:
            wide = max(1, round(picture.shape[1] / picture.shape[0]))
            _paste(sheet, picture, left(column), top, wide)
            column += wide
        top += CELL_PX + GAP_PX
    return sheet
