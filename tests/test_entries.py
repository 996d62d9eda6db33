"""Photos in Parquet files and archives: each row and member is a photo, or a reject of its own."""

from __future__ import annotations

import base64
import shutil
import tarfile
import unicodedata
import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from factory.ids import content_id
from pipelines.photos.places import find_places
from pipelines.photos.sources import hash_contents
from tests.sources import listed, photos_of, read, table, tarred, write


def test_parquet_with_bytes_uris_and_names(tmp_path: Path) -> None:
    (tmp_path / "beside.jpg").write_bytes(b"beside")
    (tmp_path / "a b.jpg").write_bytes(b"a b")
    data = tmp_path / "data"
    uris = [None, "../beside.jpg", str(tmp_path / "beside.jpg"), "gone.jpg", "https://host/far.jpg"]
    columns = {
        "image": [b"one", None, None, None, None, None],
        "uri": [*uris, (tmp_path / "a b.jpg").as_uri()],
        "name": ["Ann", None, unicodedata.normalize("NFD", "Zoë"), None, None, None],
    }
    table(data / "p.parquet", columns, row_group_size=3)
    (data / "_SUCCESS").touch()
    photos = photos_of(data)
    assert [(p["name"], p["image"], p["reason"]) for p in photos] == [
        ("Ann", b"one", None),
        ("beside", b"beside", None),
        (unicodedata.normalize("NFC", "Zoë"), b"beside", None),
        ("gone", None, "unreadable"),
        ("far", None, "unreadable"),
        ("a b", b"a b", None),
    ]
    assert photos[0]["uri"] == f"{data / 'p.parquet'}#0" and photos[3]["uri"] == f"{data}/gone.jpg"
    assert "https:// is not read, only paths and s3://" in photos[4]["detail"]
    assert photos[3]["photo_id"] == ""
    assert len(photos[3]["reject_id"]) == 64
    assert photos_of(data / "p.parquet") == photos


def test_a_row_or_file_without_a_picture_is_a_reject_of_its_own(tmp_path: Path) -> None:
    table(tmp_path / "t/x.parquet", {"image": [b"one", None, None, b""], "name": ["a", "b", "c", "d"]})
    photos = photos_of(tmp_path / "t")
    assert [p["reason"] for p in photos] == [None, "unreadable", "unreadable", "unreadable"]
    assert len({p["reject_id"] for p in photos}) == 4
    assert [p["detail"] for p in photos[2:]] == [
        "the row holds no picture: it is null",
        "empty: 0 bytes, as a copy that broke off leaves it, or a file that is only in a cloud; copy it again",
    ]
    for name in ("e.jpg", "f.jpg"):
        (tmp_path / "files" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "files" / name).touch()
    assert len({p["reject_id"] for p in photos_of(tmp_path / "files")}) == 2


def test_a_picture_never_becomes_text(tmp_path: Path) -> None:
    """Of `detail` or `uri`, where no erasure would find it."""
    picture = np.random.default_rng(0).bytes(3000)
    text = base64.b64encode(picture).decode()
    uris = [f"data:image/jpeg;base64,{text}", f"DATA:;base64,{text[:-1]}?", "data:,a%20b", text]
    uris += ["data:image/png", "!" + text * 2]
    photos = photos_of(table(tmp_path / "p.parquet", {"uri": uris}))
    assert [p["image"] for p in photos] == [picture, None, b"a b", None, None, None]
    assert all(f"{tmp_path}/p.parquet#{row}" == p["uri"] and p["name"] == f"p-{row}" for row, p in enumerate(photos))
    details = [photos[row]["detail"] for row in (1, 3, 4, 5)]
    assert details[1] == "uri holds 4,000 characters of base64, not where a photo is; bytes belong into a column image"
    assert all(len(detail) < 120 and text[:40] not in detail for detail in details)
    struct = pa.array([{"bytes": None, "path": uris[0]}], pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    assert photos_of(table(tmp_path / "s.parquet", {"image": struct}))[0]["image"] == picture


def test_archives_are_read_member_by_member(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "00000.tar", "w") as shard:
        for name in ("000000000.jpg", "000000000.json", "000000000.cls", "deep/000000001.png", "__MACOSX/._x.jpg"):
            info = tarfile.TarInfo(name)
            info.size = len(name)
            shard.addfile(info, BytesIO(name.encode()))
        link = tarfile.TarInfo("again.jpg")
        link.type, link.linkname = tarfile.LNKTYPE, "000000000.jpg"
        shard.addfile(link)
        link.name, link.linkname = "lost.jpg", "elsewhere.jpg"
        shard.addfile(link)
        sparse = tarfile.TarInfo("sparse.jpg")
        sparse.type = tarfile.GNUTYPE_SPARSE
        shard.addfile(sparse)
    with zipfile.ZipFile(tmp_path / "photos.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.mkdir("empty")
        for name in ("ada.jpg", "deep/Zoë.jpg", "big.jpg", "Thumbs.db"):
            archive.writestr(name, name * (10**6 if name == "big.jpg" else 1))
    write(tmp_path, "beside.jpg", "old.7z", "more.tar.gz")
    (tmp_path / "broken.zip").write_bytes(b"PK\x03\x04 and no more")
    zipfile.ZipFile(tmp_path / "nothing.zip", "w").close()
    photos = {p["name"]: p for p in photos_of(tmp_path)}
    assert {name: p["image"] for name, p in photos.items() if p["image"]} == {
        "000000000": b"000000000.jpg",
        "000000001": b"deep/000000001.png",
        "again": b"000000000.jpg",
        "beside": b"beside.jpg",
        "ada": b"ada.jpg",
        "Zoë": "deep/Zoë.jpg".encode(),
    }
    assert photos["Zoë"]["uri"] == f"{tmp_path}/photos.zip#deep/Zoë.jpg"
    assert photos["big"]["reason"] == "too_large"
    assert "no readable archive" in photos["broken"]["detail"]
    assert all("only .tar and .zip" in photos[name]["detail"] for name in ("old", "more.tar"))
    assert dict(find_places(str(tmp_path)).left_out) == {
        "sidecar": 2,
        "system": 2,
        "empty archive": 1,
        "link in an archive": 1,
        "sparse file in an archive": 1,
    }
    alone = photos_of(tmp_path / "photos.zip")
    assert [p["name"] for p in alone] == ["ada", "Zoë", "big"]


def test_damage_inside_an_archive_is_its_members(tmp_path: Path) -> None:
    file = tmp_path / "x.zip"
    with zipfile.ZipFile(file, "w") as archive:
        for name in ("a.jpg", "b.jpg", "c.jpg"):
            archive.writestr(name, name * 50)
    data = bytearray(file.read_bytes())
    data[data.index(b"b.jpgb.jpg") + 20] ^= 1
    central = data.index(b"PK\x01\x02", data.index(b"PK\x01\x02", data.index(b"PK\x01\x02") + 1) + 1)
    data[central + 8] |= 1  # c is said to be encrypted
    file.write_bytes(data)
    found = {p["name"]: (p["image"], p["detail"]) for p in photos_of(file)}
    assert found["a"] == (b"a.jpg" * 50, None)
    assert (
        "damaged in the archive" in found["b"][1]
        and found["c"][1] == "it is encrypted: unpack the archive with its password"
    )
    with tarfile.open(tmp_path / "cut.tar", "w") as shard:
        for name in ("a.jpg", "b.jpg"):
            info = tarfile.TarInfo(name)
            info.size = 3000
            shard.addfile(info, BytesIO(bytes(3000)))
    contents = listed(tmp_path / "cut.tar")
    with (tmp_path / "cut.tar").open("r+b") as stream:
        stream.truncate(6000)
    assert [(p["name"], p["reason"]) for p in read(contents)] == [("a", None), ("b", "unreadable")]


def test_a_tar_that_is_cut_or_follows_another_loses_nothing_in_silence(tmp_path: Path) -> None:
    whole = tarred("a.jpg", "b.jpg", "c.jpg")
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut/x.tar").write_bytes(whole[: 2 * 3584 + 100])  # in the header of c
    photos = {photo["name"]: photo for photo in photos_of(tmp_path / "cut")}
    assert set(photos) == {"a", "b", "x"} and photos["b"]["image"] == b"b.jpg" * 600
    assert photos["x"]["reason"] == "unreadable" and "behind its member 2" in photos["x"]["detail"]
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged/x.tar").write_bytes(whole.replace(b"b.jpg\0", b"?.jpg\0"))  # whose checksum does not fit
    photos = {photo["name"]: photo for photo in photos_of(tmp_path / "damaged")}
    assert set(photos) == {"a", "x"} and "behind its member 1" in photos["x"]["detail"]
    (tmp_path / "two.tar").write_bytes(whole + tarred("d.jpg"))  # as cat puts them together
    images = {photo["name"]: photo["image"] for photo in photos_of(tmp_path / "two.tar")}
    assert images == {name: f"{name}.jpg".encode() * 600 for name in "abcd"}


def test_a_parquet_file_damaged_inside_loses_only_its_damaged_rows(tmp_path: Path) -> None:
    file = tmp_path / "p.parquet"
    noise = [np.random.default_rng(i).bytes(5000) for i in range(8)]
    table(file, {"image": noise}, row_group_size=4, compression="none", use_dictionary=False)
    damaged = bytearray(file.read_bytes())
    start = pq.read_metadata(file).row_group(1).column(0).data_page_offset
    damaged[start : start + 40] = b"\xff" * 40
    file.write_bytes(damaged)
    photos = photos_of(file)
    assert [photo["reason"] for photo in photos] == [None] * 4 + ["unreadable"] * 4
    assert len({photo["reject_id"] for photo in photos}) == 8
    assert all("damaged" in photo["detail"] for photo in photos[4:])


@pytest.mark.parametrize("after", ["the listing", "the hashing"])
def test_a_file_that_disappears_is_rejects_of_its_rows(tmp_path: Path, after: str) -> None:
    kept = table(tmp_path / "kept.parquet", {"image": [b"one"]})
    gone = table(tmp_path / "gone.parquet", {"image": [b"two", b"three", b"four"]}, row_group_size=2)
    places = find_places(str(tmp_path)).table
    contents = pa.concat_tables(hash_contents(places))
    gone.unlink()
    if after == "the listing":
        contents = pa.concat_tables(hash_contents(places))
        assert sum(photo is None for photo in contents["photo_id"].to_pylist()) == 3
    photos = read(contents)
    assert sorted((p["name"], p["reason"]) for p in photos) == [
        *((f"gone-{row}", "unreadable") for row in range(3)),
        ("kept-0", None),
    ]
    shutil.copy(kept, gone)  # and comes back as another
    names = {p["name"]: (p["image"], p["detail"]) for p in read(contents)}
    assert names["gone-0"][0] == b"one" and "has fewer rows than it had" in names["gone-1"][1]
    assert names["gone-2"][0] is None


def test_the_id_is_that_of_the_bytes_that_are_decoded(tmp_path: Path) -> None:
    """Also where a file was replaced between the passes: it is the photo that it is then."""
    write(tmp_path, "x.jpg")
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        archive.writestr("y.jpg", b"old")
    table(tmp_path / "t/p.parquet", {"image": [b"row"]})
    for src, replace in (
        (tmp_path, lambda: (tmp_path / "x.jpg").write_bytes(b"new")),
        (tmp_path / "t", lambda: table(tmp_path / "t/p.parquet", {"image": [b"other row"]})),
    ):
        contents = listed(src)
        replace()
        photos = read(contents)
        assert all(p["photo_id"] == p["reject_id"] == content_id(p["image"]) for p in photos)
        assert {p["photo_id"] for p in photos} - set(contents["photo_id"].to_pylist())
    contents = listed(tmp_path / "z.zip")
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        archive.writestr("other.jpg", b"new")
    assert [p["detail"] for p in read(contents)] == ["the archive was replaced meanwhile"]


def test_links_that_lead_nowhere_and_parts_of_archives_are_told(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").symlink_to(".git/annex/objects/q/a.jpg")
    (tmp_path / "b.jpg").symlink_to("gone/b.jpg")
    parts = ["c.7z.001", "c.zip.part2", "d.z01", "e.r00", "f.part1.rar", "g.tar.gz.partaa", "h.tar.ab"]
    write(tmp_path, *parts, "i.part.jpg", "j.zip.jpg", "k.7z")
    photos = {photo["uri"].rpartition("/")[2]: photo["detail"] for photo in photos_of(tmp_path)}
    assert photos["a.jpg"] == "a link to .git/annex/objects/q/a.jpg, where nothing is; run `git annex get` there"
    assert photos["b.jpg"] == "a link to gone/b.jpg, where nothing is; mend it, or copy the photo there"
    assert {photos[part] for part in parts} == {
        "one part of an archive is not read: join the parts, and unpack what they are"
    }
    assert photos["k.7z"] == "archives of this kind are not read, only .tar and .zip; unpack it (`7z x k.7z`)"
    assert photos["i.part.jpg"] is photos["j.zip.jpg"] is None
