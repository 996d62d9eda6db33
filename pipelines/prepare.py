"""photos -> faces: read, find faces (CPU), parse masks and encode features (GPU or CPU), commit.

Networks are imported where a worker loads them: the driver and the light tasks need none, and start in a second.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import ray

from factory.config import PrepareConfig
from factory.errors import PhotoRejected
from factory.pack import Pack, load_pack
from factory.photos import decode_photo
from factory.records import Face, Photo, Reject
from factory.rows import SCHEMAS, decode_png, encode_png, reject_row
from factory.tables import Store
from pipelines.job import LIGHT, Summary, connect, counts_table, cpu_and_model_pools, open_job, portable_name, tally
from pipelines.new_photos import find_new_photos, work_units
from pipelines.progress import Progress
from pipelines.sources import read_photos

BATCH: Final = 16  # photos: what is read, worked on and committed together
# One row per photo, so that a photo's faces and refusals are committed together.
OUTCOME: Final = pa.schema(
    [
        ("faces", pa.list_(pa.struct(list(SCHEMAS["faces"])))),  # rows of `faces`, masks and features still null
        ("rejects", pa.list_(pa.struct(list(SCHEMAS["rejects"])))),
    ]
)


def prepare(
    photos: str,
    root: str,
    pack: str | Path = "studio",
    config: PrepareConfig | None = None,
    *,
    finders: int | None = None,
    readers: int | None = None,
    within: Summary | None = None,
) -> Summary:
    """Fills `faces` and `rejects` from SRC; photos that are in either are skipped, as are copies in SRC itself.

    `pack` is a name or folder; `finders` and `readers` are numbers of workers (default: what the cluster has).
    Raises ValueError or PackError, before anything is done, if SRC or the pack cannot be used.
    """
    store, config, loaded = Store(root), config or PrepareConfig(), load_pack(pack)
    name = portable_name(loaded)
    for part in (loaded.fr_vit, loaded.faces, loaded.parser):
        loaded.folder(part)
    with open_job("prepare", store, within) as summary:
        connect()
        new = find_new_photos(photos, store, loaded, summary)
        if not new.num_rows:
            return summary
        finding, reading = cpu_and_model_pools(finders, readers)
        chain = (
            ray.data.from_arrow(work_units(new))
            .map_batches(
                partial(read_photos, max_bytes=config.max_bytes),
                batch_size=None,
                batch_format="pyarrow",
                num_cpus=LIGHT,
            )
            .repartition(target_num_rows_per_block=BATCH)
            .map_batches(
                FaceFinder,
                fn_constructor_args=[name, config, finding.threads],
                batch_size=BATCH,
                batch_format="pyarrow",
                compute=finding.strategy,
                num_cpus=finding.num_cpus,
            )
            .map_batches(
                FaceReader,
                fn_constructor_args=[name, config, reading.device, reading.threads],
                batch_size=BATCH,
                batch_format="pyarrow",
                compute=reading.strategy,
                num_cpus=reading.num_cpus,
                num_gpus=reading.num_gpus,
            )
            .map_batches(partial(commit, store=store), batch_size=None, batch_format="pyarrow", num_cpus=LIGHT)
        )
        with Progress("prepare", "photos", new.num_rows) as progress:
            for counts in tally(chain):
                _count(summary, counts)
                progress.add(counts["photos"], f"{sum(summary.rejected.values())} rejected")
        store.tidy("faces")
        store.tidy("rejects")
    return summary


class FaceFinder:
    """Decodes photos and cuts out their faces. Needs no GPU."""

    def __init__(self, pack: str, config: PrepareConfig, threads: int) -> None:
        from factory.detect import FaceDetector

        self.pack, self.config = load_pack(pack), config
        self.detector = FaceDetector(self.pack, config, num_threads=threads)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """PHOTO -> OUTCOME."""
        return pa.Table.from_pylist([self._find(row) for row in batch.to_pylist()], OUTCOME)

    def _find(self, row: dict[str, Any]) -> dict[str, Any]:
        try:
            if row["reason"] is not None:
                raise PhotoRejected(row["reason"], row["detail"])
            photo = decode_photo(row["image"], name=row["name"], config=self.config)
            faces, bad_faces = self.detector.find(photo)
        except PhotoRejected as error:
            return {"faces": [], "rejects": [_reject(row, row["reject_id"], error, self.pack.name)]}
        return {
            "faces": [_found_row(face, photo, self.pack) for face in faces],
            "rejects": [_reject(row, f"{photo.photo_id}-{i}", error, self.pack.name) for i, error in bad_faces],
        }


class FaceReader:
    """Masks and FR-ViT features of the faces, all faces of the batch at once."""

    def __init__(self, pack: str, config: PrepareConfig, device: str, threads: int) -> None:
        import torch

        from factory.encode import FeatureEncoder
        from factory.parse import FaceParser, check_masks

        torch.set_num_threads(threads)
        self.pack, self.config = load_pack(pack), config
        self.check_masks = check_masks
        self.parser = FaceParser(self.pack, device=device)
        self.encoder = FeatureEncoder(self.pack, device=device)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """OUTCOME -> OUTCOME, complete."""
        photos = batch.to_pylist()
        faces = [face for photo in photos for face in photo["faces"]]
        if faces:
            self._read(faces, np.stack([decode_png(face["crop"]) for face in faces]))
        return pa.Table.from_pylist([self._settle(photo) for photo in photos], OUTCOME)

    def _read(self, faces: list[dict[str, Any]], crops: np.ndarray) -> None:
        masks, features = self.parser.parse(crops), self.encoder.encode(crops)
        for face, mask, feature in zip(faces, masks, features, strict=True):
            try:
                self.check_masks(mask, self.config)
            except PhotoRejected as error:
                face["error"] = error
            face |= {"face_mask": encode_png(mask.face), "hair_mask": encode_png(mask.hair)}
            face |= {"features": feature.crop.tolist(), "features_mirror": feature.mirror.tolist()}

    def _settle(self, photo: dict[str, Any]) -> dict[str, Any]:
        faces = [face for face in photo["faces"] if "error" not in face]
        bad = [face for face in photo["faces"] if "error" in face]
        rejects = photo["rejects"] + [_reject(face, face["face_id"], face["error"], self.pack.name) for face in bad]
        if not faces:  # then the photo itself is refused, for what is wrong with its largest face
            rejects.sort(key=lambda row: int(row["reject_id"].partition("-")[2] or 0))
            rejects[0]["reject_id"] = rejects[0]["reject_id"].partition("-")[0]
        return {"faces": faces, "rejects": rejects}


def _reject(photo: Mapping[str, Any], reject_id: str, error: PhotoRejected, pack: str) -> dict[str, Any]:
    reject = Reject(
        reject_id=reject_id,
        photo_id=photo["photo_id"],
        name=photo["name"],
        pack=pack,
        stage="prepare",
        reason=error.reason,
        detail=error.detail,
    )
    return reject_row(reject)


def commit(outcomes: pa.Table, store: Store) -> pa.Table:
    """OUTCOME -> COUNTS. The faces go last: they (or the photo's own reject) are what marks a photo as done."""
    photos = outcomes.to_pylist()
    store.upsert("rejects", [reject for photo in photos for reject in photo["rejects"]])
    store.upsert("faces", [face for photo in photos for face in photo["faces"]])
    counts = Counter(photos=len(photos), faces=sum(len(photo["faces"]) for photo in photos))
    for photo in photos:
        counts["photos_with_faces"] += bool(photo["faces"])
        for reject in photo["rejects"]:
            kind = "rejected_face" if "-" in reject["reject_id"] else "rejected"
            counts[f"{kind}:{reject['reason']}"] += 1
    return counts_table(counts)


def _found_row(face: Face, photo: Photo, pack: Pack) -> dict[str, Any]:
    return {
        "face_id": face.face_id,
        "pack": pack.name,
        "photo_id": photo.photo_id,
        "name": photo.name if face.face_index == 0 else f"{photo.name}-{face.face_index}",
        "face_index": face.face_index,
        "box": face.box.tolist(),
        "landmarks": face.landmarks.ravel().tolist(),
        "score": face.score,
        "crop": encode_png(face.crop),
    }


def _count(summary: Summary, counts: Counter[str]) -> None:
    summary.photos_with_faces += counts["photos_with_faces"]
    summary.faces += counts["faces"]
    summary.count_rejects(counts)
