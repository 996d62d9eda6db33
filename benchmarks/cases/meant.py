"""Sources that are not what they are called, or were meant otherwise, read as a job reads them, without a job."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.cases.desk import Desk, Got, short, words_of, write
from factory.errors import SourceError


def n24(desk: Desk) -> Got:
    """Masks beside their photos (masks/a.png, b_mask.png, 0.mask.png in a shard): left out, and take no name."""
    files = {name: name.encode() for name in ("images/a.jpg", "masks/a.png", "b.jpg", "b_mask.png")}
    folder = write(desk.folder("n24"), {**files, "0.tar": _tar({"0.jpg": b"0", "0.mask.png": b"m"})})
    photos, left_out = desk.read(folder)
    right = {photo["name"] for photo in photos} == {"a", "b", "0"} and sum(left_out.values()) == 3
    return Got(right, f"{words_of(photos)}; left out {dict(left_out)}")


def n25(desk: Desk) -> Got:
    """A cache of Hugging Face (blobs, refs, snapshots), and Immich's folders: each photo once, by its own name."""
    folder = write(
        desk.folder("n25") / "datasets--x", {"blobs/" + "a" * 64: b"a", "refs/main": b"0", "snapshots/0/x.md": b""}
    )
    (folder / "snapshots/0/ada.jpg").symlink_to("../../blobs/" + "a" * 64)
    files = {"upload/u/bob.jpg": b"b", "thumbs/u/bob-preview.jpeg": b"p", "upload/.immich": b"", "thumbs/.immich": b""}
    photos, _ = desk.read(folder, write(desk.folder("n25/immich"), files))
    return Got(sorted(photo["name"] for photo in photos) == ["ada", "bob"], words_of(photos))


def n26(desk: Desk) -> Got:
    """'p/*.jpg' in quotes, dbfs:/, an ARN, a folder that DVC keeps: what to give instead."""
    folder = write(desk.folder("n26"), {"p/a.jpg": b"a", "gone.dvc": b"outs:"})
    said = {}
    for source, word in (
        (f"{folder}/p/*.jpg", "give the folder"),
        ("dbfs:/mnt/p", "/dbfs/mnt/p"),
        ("s3://arn:aws:s3:us-west-2:123456789012:accesspoint/p", "alias"),
        (f"{folder}/gone", "dvc pull"),
    ):
        try:
            desk.read(source)
            said[word] = "read"
        except ValueError as error:
            said[word] = str(error)
    return Got(all(word in text for word, text in said.items()), short("; ".join(said.values()), 250))


def p21(desk: Desk) -> Got:
    """A zip of a Mac (UTF-8 that does not say so) with Zoë.jpg and a link: the name in letters, the link left out."""
    folder = desk.folder("p21")
    with zipfile.ZipFile(folder / "mac.zip", "w") as packed:
        packed.writestr(_Unmarked("Zoë.jpg"), b"z")
        link = zipfile.ZipInfo("link.jpg")
        link.create_system, link.external_attr = 3, 0o120777 << 16
        packed.writestr(link, b"a.jpg")
    photos, left_out = desk.read(folder)
    right = [photo["name"] for photo in photos] == ["Zoë"] and left_out == {"link in an archive": 1}
    return Got(right, f"{words_of(photos)}; left out {dict(left_out)}")


def p22(desk: Desk) -> Got:
    """A tar called .zip, a gzip file called .tar, web pages called .zip and .parquet: read, or told what they are."""
    page = b"<!DOCTYPE html><title>Quota exceeded</title>"
    files = {"t.zip": _tar({"a.jpg": b"a"}), "g.tar": gzip.compress(_tar({"a.jpg": b"a"})), "p.zip": page}
    photos, _ = desk.read(write(desk.folder("p22"), files))
    details = " ".join(photo["detail"] or "read" for photo in photos)
    try:
        desk.read(write(desk.folder("p22/rows"), {"p.parquet": page}) / "p.parquet")
    except SourceError as error:
        details += f" {str(error).rpartition('/')[2]}"
    right = "read" in details and "a gzip file; unpack it" in details and details.count("HTML page") == 2
    return Got(right, short(details, 250))


def p23(desk: Desk) -> Got:
    """people.pq and people.parquet.gzip; uris with line ends, blanks, quotes; names 1.0 and nan of pandas: as meant."""
    folder = write(desk.folder("p23"), {f"{name}.jpg": name.encode() for name in "abc"})
    uris, names = ["a.jpg\r\n", " b.jpg ", '"c.jpg"'], [1.0, 2.0, float("nan")]
    got = []
    for name in ("people.pq", "people.parquet.gzip"):
        pq.write_table(pa.table({"uri": uris, "name": names}), folder / name)
        got.append([(photo["name"], photo["image"]) for photo in desk.read(folder / name)[0]])
    return Got(got == [[("1", b"a"), ("2", b"b"), ("c", b"c")]] * 2, str(got))


class _Unmarked(zipfile.ZipInfo):
    """A member whose name is UTF-8, and does not say so."""

    def _encodeFilenameFlags(self) -> tuple[bytes, int]:
        return self.filename.encode(), 0


def _tar(members: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return packed.getvalue()


CASES = (n24, n25, n26, p21, p22, p23)
