"""Samples for a job's report: some of the faces it found and of the photos it refused.

A sample is one line of HTML with the ids of what it shows, so that erasing a person can take it out.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from html import escape
from typing import Any, Final

import numpy as np
import pyarrow as pa
from PIL import Image

from factory.config import PrepareConfig
from factory.errors import PhotoRejected
from factory.faces.photos import decode_photo
from factory.ids import any_face
from factory.scores import PhotoQuality
from factory.store.queries import (
    face_pictures,
    faces_by_id,
    faces_of_pack,
    identities_by_id,
    rejects_of_prepare,
)
from factory.store.rows import decode_png
from factory.store.tables import Store
from pipelines.jobs.report import Sample
from pipelines.photos.allowed import Allowed
from pipelines.photos.sources import read_photos

NUM_ACCEPTED: Final = 24
NUM_A_REASON: Final = 4
_SIDE_PX: Final = 96
# These would do it again, to the driver; and nobody agreed that those are shown.
_NOT_OPENED: Final = ("crashed_worker", "out_of_memory", "no_consent")


def samples(store: Store, pack: str, contents: pa.Table, config: PrepareConfig) -> list[Sample]:
    """Of photos that a job has just done (CONTENT): some faces, and some rejects of each reason."""
    ids = set(contents["photo_id"].to_pylist()) - {None}
    faces = faces_of_pack(store, pack, ["face_id", "photo_id"]).to_pylist()
    chosen = sorted(row["face_id"] for row in faces if row["photo_id"] in ids)[:NUM_ACCEPTED]
    crops = faces_by_id(store, pack, chosen, ["photo_id", "face_id", "name", "crop", "quality_parts"])
    shown = [_accepted(row) for row in crops.to_pylist()]
    per_reason: dict[str, list[dict[str, Any]]] = {}
    for row in rejects_of_prepare(store, pack).to_pylist():
        mine = per_reason.setdefault(row["reason"], [])
        if row["photo_id"] in ids and len(mine) < NUM_A_REASON:
            mine.append(row)
    refused = [row for rows in per_reason.values() for row in rows]
    shown_again = {row["photo_id"] for row in refused if row["reason"] not in _NOT_OPENED}
    pictures = _pictures(contents, shown_again, config, Allowed.of(store.root))
    return [*shown, *(_refused(row, pictures.get(row["photo_id"])) for row in refused)]


def assessed_samples(store: Store, qualities: Mapping[str, Mapping[str, Any]]) -> list[Sample]:
    """Faces of the people of some rows of `quality`, by identity_id: those of the lowest, with what was measured."""
    lowest = sorted(qualities.values(), key=lambda row: (row["quality"] or 0.0, row["likeness"]))[:NUM_ACCEPTED]
    people = identities_by_id(store, [row["identity_id"] for row in lowest])
    shown = []
    for row in lowest:
        who = people.get(row["identity_id"])
        face = None if who is None else face_pictures(store, who.pack, who.face_id)
        if who is None or face is None:
            continue
        told = "" if row["quality"] is None else f"<br><b>{row['verdict']}</b> {row['quality']:.2f}"
        told += f"<br>likeness {row['likeness']:.2f}, text {row['text_alignment']:.3f}"
        ids = [who.photo_id, who.face_id, who.identity_id]
        html = _figure(ids, escape(who.name) + told, _thumbnail(decode_png(face["crop"])))
        shown.append(Sample(html=html, photo_id=who.photo_id, face_id=who.face_id, also=(who.identity_id,)))
    return shown


def _pictures(
    contents: pa.Table, photo_ids: set[str], config: PrepareConfig, allowed: Allowed | None
) -> dict[str, str]:
    """Thumbnails of the photos that can be decoded; they are read from the source again, one at a time: 150 MB each."""
    chosen = [photo_id in photo_ids for photo_id in contents["photo_id"].to_pylist()]
    wanted = contents.filter(pa.array(chosen, pa.bool_()))
    thumbnails: dict[str, str] = {}
    for table in read_photos(wanted, max_bytes=config.max_bytes, allowed=allowed):
        for row in table.to_pylist():
            try:
                if row["image"] is not None:
                    photo = decode_photo(row["image"], name=row["name"], config=config)
                    thumbnails[row["photo_id"]] = _thumbnail(photo.image)
            except PhotoRejected:  # there is nothing to show
                continue
    return thumbnails


def _accepted(row: dict[str, Any]) -> Sample:
    text = escape(row["name"])
    if row["quality_parts"] is not None:
        quality = PhotoQuality(**row["quality_parts"])
        text += f"<br>photo {quality.score:.2f}" + "".join(f", {fault}" for fault in quality.faults)
    html = _figure([row["photo_id"], row["face_id"]], text, _thumbnail(decode_png(row["crop"])))
    return Sample(html=html, photo_id=row["photo_id"], face_id=row["face_id"])


def _refused(row: dict[str, Any], thumbnail: str | None) -> Sample:
    photo_id = row["photo_id"]
    where = f"<br><code>{escape(row['uri'])}</code>" if row["uri"] else ""
    text = f"{escape(row['name'])} <b>{escape(row['reason'])}</b> {escape(row['detail'])}{where}"
    return Sample(html=_figure([photo_id, row["reject_id"], any_face(photo_id)], text, thumbnail), photo_id=photo_id)


def _figure(ids: list[str], text: str, thumbnail: str | None) -> str:
    shown = "" if thumbnail is None else f'<img alt="" src="data:image/jpeg;base64,{thumbnail}">'
    return f'<figure data-ids="{" ".join(ids)}">{shown}{text}</figure>'.replace("\n", " ")


def _thumbnail(image: np.ndarray) -> str:
    picture = Image.fromarray(image)
    picture.thumbnail((_SIDE_PX, _SIDE_PX))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=80)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
