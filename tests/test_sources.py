"""Where photos are read from: every entry is a photo, a row that says why not, or counted as left out."""

from __future__ import annotations

import base64
import os
import shutil
import tarfile
import unicodedata
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from factory.config import PrepareConfig
from factory.errors import PhotoRejected, SourceError
from factory.faces.photos import decode_photo
from factory.ids import content_id
from pipelines.photos.names import unique_names
from pipelines.photos.sources import CONTENT, PHOTO, find_places, hash_contents, read_photos

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 123456\n"


def listed(src: Path | str | list[str]) -> pa.Table:
    places = find_places(src if isinstance(src, list) else str(src))
    contents = pa.concat_tables([CONTENT.empty_table(), *hash_contents(places.table)])
    assert contents.num_rows == places.num_photos
    return contents


def read(contents: pa.Table, max_bytes: int = 10**6) -> list[dict[str, Any]]:
    return pa.concat_tables([PHOTO.empty_table(), *read_photos(contents, max_bytes=max_bytes)]).to_pylist()


def photos_of(src: Path | str | list[str], max_bytes: int = 10**6) -> list[dict[str, Any]]:
    return read(listed(src), max_bytes)


def named(src: Path | str) -> dict[str, bytes | None]:
    photos = photos_of(src)
    assert len({photo["name"] for photo in photos}) == len(photos)
    return {photo["name"]: photo["image"] for photo in photos}


def write(folder: Path, *names: str) -> Path:
    """Files that hold their own path."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    return folder


def table(file: Path, columns: dict[str, Any], **how: Any) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), file, **how)
    return file


def test_every_file_of_a_folder_is_a_photo(tmp_path: Path) -> None:
    write(tmp_path, "b.jpg", "sub/a.jpg", ".seen_not", "sub/.hidden/c.jpg", "sub/long_name.bin")
    photos = photos_of(tmp_path, max_bytes=9)
    assert [(p["name"], p["image"], p["reason"]) for p in photos] == [
        ("b", b"b.jpg", None),
        ("a", b"sub/a.jpg", None),
        ("long_name", None, "too_large"),
    ]
    assert len(photos[2]["photo_id"]) == 64
    assert [p["uri"] for p in photos] == [str(tmp_path / n) for n in ("b.jpg", "sub/a.jpg", "sub/long_name.bin")]
    assert photos_of(tmp_path / "sub/a.jpg") == photos[1:2]


def test_several_sources_are_one_and_what_is_in_two_is_there_once(tmp_path: Path) -> None:
    write(tmp_path, "a/1.jpg", "b/1.jpg", "b/c/2.jpg")
    both = photos_of([str(tmp_path / "a"), str(tmp_path / "b"), str(tmp_path / "b/c")])
    assert [p["name"] for p in both] == ["a/1", "b/1", "2"]


def test_names_of_any_bytes_are_read_and_shown_escaped(tmp_path: Path) -> None:
    write(tmp_path, "good.jpg")
    (tmp_path / os.fsdecode(b"Jos\xe9")).mkdir()
    Path(os.fsdecode(bytes(tmp_path) + b"/Jos\xe9/Jos\xe9.jpg")).write_bytes(b"other")
    photos = {p["name"]: p for p in photos_of(tmp_path)}
    assert set(photos) == {"good", "Jos\\xe9"} and photos["Jos\\xe9"]["image"] == b"other"
    assert photos["Jos\\xe9"]["uri"].endswith("/Jos\\xe9/Jos\\xe9.jpg")
    assert photos_of(os.fsdecode(bytes(tmp_path) + b"/Jos\xe9"))[0]["image"] == b"other"


@pytest.mark.timeout(20)
def test_links_are_followed_once_and_nothing_is_waited_for(tmp_path: Path) -> None:
    write(tmp_path, "photos/ada.jpg", "elsewhere/bob.jpg")
    photos = tmp_path / "photos"
    for link, target in (("a", "."), ("b", "."), ("elsewhere", "../elsewhere"), ("gone.jpg", "nothing"), ("o", "o")):
        (photos / link).symlink_to(target)
    (photos / "same.jpg").symlink_to("ada.jpg")
    os.mkfifo(photos / "pipe.jpg")
    places = find_places(str(photos))
    assert dict(places.left_out) == {"link to a folder listed already": 2, "neither file nor folder": 1}
    found = {p["name"]: (p["image"], p["detail"]) for p in photos_of(photos)}
    assert found == {
        "ada": (b"photos/ada.jpg", None),
        "bob": (b"elsewhere/bob.jpg", None),
        "same": (b"photos/ada.jpg", None),
        "gone": (None, "No such file or directory"),
        "o": (None, "Too many levels of symbolic links"),
    }
    table(tmp_path / "p/p.parquet", {"uri": [str(photos / "pipe.jpg"), "/dev/zero", str(photos)]})
    assert {p["detail"] for p in photos_of(tmp_path / "p")} == {"it is no file"}


def test_what_systems_and_programs_leave_beside_photos_is_counted(tmp_path: Path) -> None:
    write(
        tmp_path,
        *("ada.jpg", "@eaDir/ada.jpg/SYNOPHOTO_THUMB_XL.jpg", "__MACOSX/._ada.jpg", "$RECYCLE.BIN/x.jpg", "Thumbs.db"),
        *("sub/desktop.ini", "sub/#recycle/bob.jpg", ".thumbnails/1.jpg", "._ada.jpg", ".DS_Store", "ada.XMP"),
        *("ada.jpg.json", "ada.txt", "IMG_1.AAE", "MVI.THM", "README.md", "LICENSE", "readme.jpg"),
    )
    assert set(named(tmp_path)) == {"ada", "readme"}
    assert dict(find_places(str(tmp_path)).left_out) == {"hidden": 3, "system": 6, "sidecar": 7}


def test_a_root_in_the_source_is_no_photo(tmp_path: Path) -> None:
    write(tmp_path, "ada.jpg", "people/faces.lance/data/1.lance", "people/jobs/j/report.html", "jobs/bob.jpg")
    write(tmp_path, "people/jobs/j/odd.bin", "other/images.lance/2.bin")
    places = find_places(str(tmp_path), str(tmp_path / "people"))
    assert (places.num_photos, dict(places.left_out)) == (2, {"table or job of a root": 3})
    assert find_places(str(tmp_path), str(tmp_path / "none")).num_photos == 3


def test_photos_that_are_called_alike_are_told_apart(tmp_path: Path) -> None:
    write(tmp_path, "Ada Lovelace/1.jpg", "Grace Hopper/1.jpg", "2023/x.png", "2023/x.jpg", "ada.jpg", "ada-1.jpg")
    nfc = unicodedata.normalize("NFC", "Zoë Müller")
    write(tmp_path, unicodedata.normalize("NFD", "Zoë Müller") + ".jpg")
    assert set(named(tmp_path)) == {
        *("Ada Lovelace/1", "Grace Hopper/1", "x.jpg", "x.png", "ada", f"{tmp_path.name}/ada-1", nfc)
    }
    alike = unique_names(["/a/b/1.jpg", "/c/b/1.jpg", "/c/b/1.png", "1.jpg", "/a/n\u00e9.jpg", "/a/ne\u0301.jpg"])
    assert alike == ["b/1", "1.jpg", "1.png", "1", "a/n\u00e9.jpg", "a/n\u00e9.jpg (2)"]


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


def test_data_sets_are_found_as_they_are_laid_out(tmp_path: Path) -> None:
    hub = tmp_path / "hub"
    rows = pa.array([{"bytes": bytes([n]), "path": f"{n:06}.jpg"} for n in range(2)])
    table(hub / "data/train-00000-of-00002.parquet", {"image": rows})
    table(hub / "data/train-00001-of-00002.parquet", {"image": [b"x", b"y"], "label": [0, 1]})
    write(hub, "README.md", ".gitattributes", "dataset_infos.json", "script.py", "LICENSE", "_SUCCESS")
    assert named(hub) == {
        "000000": b"\0", "000001": b"\1",
        "train-00001-of-00002-0": b"x", "train-00001-of-00002-1": b"y",
    }
    assert dict(find_places(str(hub)).left_out) == {"hidden": 1, "sidecar": 3, "beside Parquet": 2}
    hive = tmp_path / "hive"
    for name in ("Ada", "Grace%20Hopper"):
        table(hive / f"year=2024/name={name}/part-0.parquet", {"image": [name.encode()]})
    assert named(hive) == {"Ada": b"Ada", "Grace Hopper": b"Grace%20Hopper"}
    crawl = tmp_path / "img2dataset"
    table(crawl / "00000.parquet", {"url": ["https://h/1"], "key": ["000000007"], "jpg": [b"seven"]})
    write(crawl, "00000_stats.json")
    assert named(crawl) == {"000000007": b"seven"}
    files = tmp_path / "files"
    write(files, "00000/000000001.jpg", "00000/000000001.txt", "00000/000000001.json")
    table(files / "00000.parquet", {"url": ["https://h/1"], "key": ["000000001"]})
    assert set(named(files)) == {"000000001"}
    assert dict(find_places(str(files)).left_out) == {"sidecar": 2, "Parquet beside photos": 1}


def test_a_row_or_file_without_a_picture_is_a_reject_of_its_own(tmp_path: Path) -> None:
    table(tmp_path / "t/x.parquet", {"image": [b"one", None, None, b""], "name": ["a", "b", "c", "d"]})
    photos = photos_of(tmp_path / "t")
    assert [p["reason"] for p in photos] == [None, "unreadable", "unreadable", "unreadable"]
    assert len({p["reject_id"] for p in photos}) == 4
    assert [p["detail"] for p in photos[2:]] == ["the row holds no picture: it is null", "empty: 0 bytes"]
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
    with zipfile.ZipFile(tmp_path / "photos.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.mkdir("empty")
        for name in ("ada.jpg", "deep/Zoë.jpg", "big.jpg", "Thumbs.db"):
            archive.writestr(name, name * (10**6 if name == "big.jpg" else 1))
    write(tmp_path, "beside.jpg", "old.7z", "more.tar.gz")
    (tmp_path / "broken.zip").write_bytes(b"PK\x03\x04 and no more")
    zipfile.ZipFile(tmp_path / "nothing.zip", "w").close()
    photos = {p["name"]: p for p in photos_of(tmp_path)}
    assert {name: p["image"] for name, p in photos.items() if p["image"]} == {
        "000000000": b"000000000.jpg", "000000001": b"deep/000000001.png", "beside": b"beside.jpg",
        "ada": b"ada.jpg", "Zoë": "deep/Zoë.jpg".encode(),
    }
    assert photos["Zoë"]["uri"] == f"{tmp_path}/photos.zip#deep/Zoë.jpg"
    assert photos["big"]["reason"] == "too_large"
    assert "no readable archive" in photos["broken"]["detail"]
    assert all("only .tar and .zip" in photos[name]["detail"] for name in ("old", "more.tar"))
    assert dict(find_places(str(tmp_path)).left_out) == {"sidecar": 2, "system": 2, "empty archive": 1}
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
    assert "CRC" in found["b"][1] and "encrypted" in found["c"][1]
    with tarfile.open(tmp_path / "cut.tar", "w") as shard:
        for name in ("a.jpg", "b.jpg"):
            info = tarfile.TarInfo(name)
            info.size = 3000
            shard.addfile(info, BytesIO(bytes(3000)))
    contents = listed(tmp_path / "cut.tar")
    with (tmp_path / "cut.tar").open("r+b") as stream:
        stream.truncate(6000)
    assert [(p["name"], p["reason"]) for p in read(contents)] == [("a", None), ("b", "unreadable")]


def test_what_git_lfs_left_in_a_file_s_place_is_told(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for name in ("a.jpg", "b.zip"):
        (tmp_path / "photos" / name).write_text(POINTER)
    (tmp_path / "train.parquet").write_text(POINTER)
    photo, archive = photos_of(tmp_path / "photos")
    assert "run `git lfs pull`" in archive["detail"]
    with pytest.raises(PhotoRejected, match="run git lfs pull"):
        decode_photo(photo["image"], name="a", config=PrepareConfig())
    with pytest.raises(SourceError, match="is a Git LFS pointer, not the file; run `git lfs pull`"):
        find_places(str(tmp_path / "train.parquet"))


def test_a_source_that_cannot_be_used_says_why(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is nothing at"):
        find_places(str(tmp_path / "gone"))
    with pytest.raises(ValueError, match="holds no photos"):
        find_places(str(tmp_path))
    (tmp_path / "a.txt").touch()
    with pytest.raises(ValueError, match=r"holds no photos \(1 sidecar left out\)"):
        find_places(str(tmp_path))
    table(tmp_path / "p.parquet", {"picture": [b""]})
    with pytest.raises(ValueError, match=r"has columns picture; it needs image .*; rename picture"):
        find_places(str(tmp_path))
    for columns, message in (
        ({"image": ["a.jpg"]}, r"column image holds string; .* paths belong into uri"),
        ({"image": [[1, 2]]}, "column image holds list"),
        ({"uri": [7]}, "column uri holds int64; it takes a path"),
        ({"Image": [b""]}, "rename Image"),
        ({"label": [1], "images": [[b""]]}, "rename images"),
    ):
        table(tmp_path / "p.parquet", columns)
        with pytest.raises(SourceError, match=message):
            find_places(str(tmp_path))
    image = pa.array([{"bytes": b"one", "path": "a.jpg"}])
    table(tmp_path / "p.parquet", {"image": image, "uri": pa.array(["x"]).dictionary_encode()})
    assert find_places(str(tmp_path)).num_photos == 1
    (tmp_path / "p.parquet").write_bytes(b"no parquet")
    with pytest.raises(ValueError, match="no readable Parquet file"):
        find_places(str(tmp_path / "p.parquet"))


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
