"""Folders, archives and tables as other programs leave them, read as a job reads them, without a job."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.cases.desk import Desk, Got, short, words_of, write
from factory.errors import SourceError


def n18(desk: Desk) -> Got:
    """icloudpd's IMG_1-1.JPG beside IMG_1.JPG, a movie, a placeholder, an empty file: no name of a second face."""
    files = {f"{name}.JPG": name.encode() for name in ("IMG_1", "IMG_1-1", "IMG_1-2345")}
    others = {"IMG_3.JPG": b"", ".IMG_2.JPG.icloud": b"bplist00", "IMG_4_HEVC.MOV": b"\0\0\0\x14ftypqt  "}
    photos, left_out = desk.read(write(desk.folder("n18"), {**files, **others}))
    names = {photo["name"] for photo in photos}
    right = len(names) == len(photos) == 5 and "IMG_1" in names and not {"IMG_1-1", "IMG_1-2345"} & names
    return Got(right and left_out == {"only in iCloud": 1}, words_of(photos))


def n19(desk: Desk) -> Got:
    """Parts of archives (.7z.001, .z01, .part1.rar, .tar.gz.partaa) beside a photo: each archive told once to be joined
    and unpacked."""
    parts = ("i.7z.001", "i.7z.002", "p.zip.001", "p.z01", "p.part1.rar", "p.r00", "x.tar.gz.partaa")
    photos, left_out = desk.read(write(desk.folder("n19"), {"a.jpg": b"a", **dict.fromkeys(parts, b"part")}))
    told = [photo for photo in photos if "one part of an archive" in (photo["detail"] or "")]
    right = len(told) == 4 and len(photos) == 5 and sum(left_out.values()) == len(parts) - 4
    return Got(right, f"{words_of(photos)}; left out {dict(left_out)}")


def n20(desk: Desk) -> Got:
    """Links into .git/annex/objects, there and not there: used, and told to run `git annex get`."""
    folder = write(desk.folder("n20"), {".git/annex/objects/a/x.jpg": b"x"})
    for name, there in (("x", "a"), ("y", "b")):
        (folder / f"{name}.jpg").symlink_to(f".git/annex/objects/{there}/{name}.jpg")
    photos = {photo["name"]: photo for photo in desk.read(folder)[0]}
    right = set(photos) == {"x", "y"} and photos["x"]["image"] == b"x" and "git annex get" in photos["y"]["detail"]
    return Got(right, words_of(list(photos.values())))


def n21(desk: Desk) -> Got:
    """A trainer's folders (10_ada woman/, captions, cached latents, weights): photos, and people by folder."""
    files = ("img/10_ada/1.jpg", "img/10_ada/2.jpg", "reg/1_woman/a.png")
    others = ("img/10_ada/1.txt", "img/10_ada/2.caption", "img/10_ada/1_sd.npz", "model/last.safetensors")
    folder = write(desk.folder("n21"), {name: name.encode() for name in (*files, *others)})
    photos, left_out = desk.read(folder, person_from="folder")
    persons = sorted(str(photo["person"]) for photo in photos)
    right = persons == ["img/10_ada", "img/10_ada", "reg/1_woman"] and left_out == {"sidecar": 4}
    return Got(right, f"{persons}; left out {dict(left_out)}")


def n22(desk: Desk) -> Got:
    """Names as programs leave them: "a.jpg ", exiftool's _original, ~, .bak, Zone.Identifier: each its own."""
    files = ("a.jpg ", "b.jpg_original", "c.jpg~", "d.jpg.bak", "h.JPG.jpg", "i", "#j.jpg#", "-k.jpg", "%s{}.jpg")
    others = ("e.jpg:Zone.Identifier", "f.jpg.xmp", ".g.jpg.swp")
    photos, left_out = desk.read(write(desk.folder("n22"), {name: name.encode() for name in (*files, *others)}))
    names = {photo["name"] for photo in photos}
    return Got(len(names) == len(photos) == len(files) and sum(left_out.values()) == 3, words_of(photos))


def n23(desk: Desk) -> Got:
    """ada.jpg, ada/ada.jpg, ada.zip and ada.tar with ada.jpg in each: four names."""
    folder = write(desk.folder("n23"), {"ada.jpg": b"1", "ada/ada.jpg": b"2"})
    _zip(folder / "ada.zip", {"ada.jpg": b"3"})
    _tar(folder / "ada.tar", {"ada.jpg": b"4"})
    photos, _ = desk.read(folder)
    return Got(len({photo["name"] for photo in photos}) == 4, words_of(photos))


def p16(desk: Desk) -> Got:
    """Tables of Delta, Iceberg and Hudi: read if nothing was taken out of them, else told."""
    logs = {
        "kept": (f"_delta_log/{0:020}.json", {"add": {"path": "a.parquet"}}),
        "Delta": (f"_delta_log/{0:020}.json", {"remove": {"path": "a.parquet"}}),
        "Iceberg": ("metadata/v1.metadata.json", {"snapshots": [{"summary": {"operation": "delete"}}]}),
        "Hudi": (".hoodie/hoodie.properties", {}),
    }
    said = {}
    for name, (file, action) in logs.items():
        folder = write(desk.folder(f"p16/{name}"), {file: json.dumps(action).encode()})
        pq.write_table(pa.table({"image": [b"1"]}), folder / "a.parquet")
        try:
            said[name] = f"{len(desk.read(folder)[0])} read"
        except SourceError as error:
            said[name] = str(error)
    right = said.pop("kept") == "1 read" and all(f"is a table of {name}" in text for name, text in said.items())
    return Got(right, short("; ".join(text.rpartition("/")[2] for text in said.values()), 250))


def p17(desk: Desk) -> Got:
    """consent.csv inside a zip counts; a consent that says no is a reject, also where none is required."""
    folder = desk.folder("p17")
    _zip(
        folder / "p.zip",
        {"in/a.jpg": b"a", "in/b.jpg": b"b", "in/consent.csv": b"file,consent\na.jpg,form\nb.jpg,no\n"},
    )
    photos = {photo["name"]: photo for photo in desk.read(folder)[0]}
    right = photos["a"]["consent"] == "form" and photos["b"]["reason"] == "no_consent"
    return Got(right, words_of(list(photos.values())))


def p18(desk: Desk) -> Got:
    """A row called Ada-1 beside Ada, whose photo may have a second face: told apart."""
    file = desk.folder("p18") / "rows.parquet"
    pq.write_table(pa.table({"image": [b"1", b"2"], "name": ["Ada", "Ada-1"]}), file)
    names = [photo["name"] for photo in desk.read(file)[0]]
    return Got(len(set(names)) == 2 and "Ada-1" not in names, f"{names}")


def p19(desk: Desk) -> Got:
    """Zips with data before them, streamed, zip64, bzip2, lzma, a long comment: read; deflate64: told."""
    folder, photo = desk.folder("p19"), b"photo" * 99
    for name, method in (("plain", 0), ("bzip2", zipfile.ZIP_BZIP2), ("lzma", zipfile.ZIP_LZMA)):
        _zip(folder / f"{name}.zip", {"a.jpg": photo}, method)
    plain = (folder / "plain.zip").read_bytes()
    (folder / "before.zip").write_bytes(b"MZ" + bytes(5000) + plain)
    with zipfile.ZipFile(folder / "zip64.zip", "w") as archive:
        archive.comment = b"x" * 65_535
        with archive.open("a.jpg", "w", force_zip64=True) as member:
            member.write(photo)
    stream = _Stream()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.jpg", photo)
    (folder / "stream.zip").write_bytes(stream.written)
    other = bytearray(plain)
    central = other.index(b"PK\1\2")
    other[8:10] = other[central + 10 : central + 12] = b"\x09\0"
    (folder / "deflate64.zip").write_bytes(other)
    photos, _ = desk.read(folder)
    told = [photo["detail"] for photo in photos if photo["reason"]]
    return Got(len(photos) == 7 and len(told) == 1 and "Deflate64" in told[0], words_of(photos))


def p20(desk: Desk) -> Got:
    """A tar with ./a.jpg, /d.jpg, hidden ones, upper case, links, a sparse file: each counted."""
    folder = desk.folder("p20")
    photos = {name: name.encode() for name in ("./a.jpg", "././x/b.JPG", "/d.Left.PNG", "x/.e.jpg", "./._f.jpg")}
    links = {"g.jpg": tarfile.LNKTYPE, "h.jpg": tarfile.SYMTYPE, "i.jpg": tarfile.GNUTYPE_SPARSE}
    _tar(folder / "x.tar", photos, links)
    read, left_out = desk.read(folder)
    right = len(read) == 5 and left_out == {"hidden": 2, "sparse file in an archive": 1}
    return Got(right, f"{words_of(read)}; left out {dict(left_out)}")


class _Stream(io.RawIOBase):
    """What can only be written on, as a pipe."""

    written = b""

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]
        self.written += bytes(data)
        return len(data)


def _zip(file: Path, members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def _tar(file: Path, members: dict[str, bytes], links: dict[str, bytes] | None = None) -> None:
    with tarfile.open(file, "w", format=tarfile.GNU_FORMAT) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for name, kind in (links or {}).items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "a.jpg"
            archive.addfile(info)


CASES = (n18, n19, n20, n21, n22, n23, p16, p17, p18, p19, p20)
