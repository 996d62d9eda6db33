"""Where photos are read from: every entry is a photo, a row that says why not, or counted as left out."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import pyarrow as pa
import pytest

from factory.config import PrepareConfig
from factory.errors import PhotoRejected, SourceError
from factory.faces.photos import decode_photo
from pipelines.photos.allowed import Allowed
from pipelines.photos.names import unique_names
from pipelines.photos.places import find_places
from pipelines.photos.sources import hash_contents, read_photos
from tests.sources import named, photos_of, table, write

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 123456\n"


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
    # each source by itself is a data set or a folder of photos: what is named is not left out for what is beside it
    rows = table(tmp_path / "rows.parquet", {"image": [b"x"], "name": [" x "]})
    assert [p["name"] for p in photos_of([str(tmp_path / "a"), str(rows)])] == ["x", "1"]
    assert find_places(str(tmp_path)).left_out["Parquet beside photos"] == 1


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
        "gone": (None, "a link to nothing, where nothing is; mend it, or copy the photo there"),
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
        *("My.photoslibrary/originals/1/eve.jpg", "My.photoslibrary/resources/derivatives/eve.jpg", "P.lrdata/x.jpg"),
    )
    assert set(named(tmp_path)) == {"ada", "readme", "eve"}
    assert dict(find_places(str(tmp_path)).left_out) == {"hidden": 3, "system": 8, "sidecar": 7}


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
    assert alike == ["b/1", "1.jpg", "1.png", "1", "n\u00e9", "n\u00e9 (2)"]
    assert unique_names(["s.tar/a.jpg", "s.tar/a.jpg", "s.tar/a.jpg", "s.tar/a (2).jpg"]) == [
        *("a", "a (3)", "a (4)", "a (2)")
    ]


def test_data_sets_are_found_as_they_are_laid_out(tmp_path: Path) -> None:
    hub = tmp_path / "hub"
    rows = pa.array([{"bytes": bytes([n]), "path": f"{n:06}.jpg"} for n in range(2)])
    table(hub / "data/train-00000-of-00002.parquet", {"image": rows})
    table(hub / "data/train-00001-of-00002.parquet", {"image": [b"x", b"y"], "label": [0, 1]})
    write(hub, "README.md", ".gitattributes", "dataset_infos.json", "script.py", "LICENSE", "_SUCCESS")
    assert named(hub) == {
        "000000": b"\0",
        "000001": b"\1",
        "train-00001-of-00002-0": b"x",
        "train-00001-of-00002-1": b"y",
    }
    assert dict(find_places(str(hub)).left_out) == {"hidden": 1, "sidecar": 3, "beside Parquet": 2}
    spark = tmp_path / "spark"
    table(spark / "photos.parquet/part-0.snappy.parquet", {"image": [b"s"]})
    table(spark / "photos.parquet/_temporary/0/part-1.parquet", {"half": [1]})
    table(spark / "photos.parquet/_delta_log/0.checkpoint.parquet", {"add": [1]})
    write(spark, "photos.parquet/_SUCCESS", "photos.parquet/.part-0.snappy.parquet.crc")
    assert set(named(spark)) == {"part-0.snappy-0"}
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


def test_what_git_lfs_left_in_a_file_s_place_is_told(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for name in ("a.jpg", "b.zip"):
        (tmp_path / "photos" / name).write_text(POINTER)
    (tmp_path / "train.parquet").write_text(POINTER)
    photo, archive = photos_of(tmp_path / "photos")
    assert "run git lfs pull" in archive["detail"]
    with pytest.raises(PhotoRejected, match="run git lfs pull"):
        decode_photo(photo["image"], name="a", config=PrepareConfig())
    with pytest.raises(SourceError, match=r"is no Parquet file, but a Git LFS pointer .*; run git lfs pull"):
        find_places(str(tmp_path / "train.parquet"))


def test_a_folder_that_may_not_be_read_is_counted_and_the_others_are_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "ada.jpg", "locked/bob.jpg", "open/cy.jpg")
    scan, locked = os.scandir, [str(tmp_path / "locked")]

    def scandir(folder: str) -> object:
        if folder in locked:
            raise PermissionError(13, "Permission denied", folder)
        return scan(folder)

    monkeypatch.setattr(os, "scandir", scandir)
    places = find_places(str(tmp_path))
    assert (places.num_photos, dict(places.left_out)) == (2, {"folder that cannot be read": 1})
    assert places.told == [f"cannot be read: {locked[0]}; let this user read it, if it holds photos"]
    locked.append(str(tmp_path))
    with pytest.raises(SourceError, match="cannot be listed"):
        find_places(str(tmp_path))


def test_a_parquet_file_that_cannot_be_used_is_one_reject_among_the_others(tmp_path: Path) -> None:
    table(tmp_path / "a.parquet", {"image": [b"one", b"two"]})
    (tmp_path / "b.parquet").write_bytes(b"PAR1 and nothing more PAR1")
    (tmp_path / "c.parquet").write_text(POINTER)
    table(tmp_path / "captions.parquet", {"text": ["a photo"]})
    assert find_places(str(tmp_path)).num_photos == 5
    found = {photo["name"]: (photo["image"], photo["detail"] or "") for photo in photos_of(tmp_path)}
    assert [found.pop(name)[0] for name in ("a-0", "a-1")] == [b"one", b"two"]
    assert {name: image for name, (image, _) in found.items()} == dict.fromkeys(("b", "c", "captions"))
    for name, said in (("b", "no readable Parquet file"), ("c", "git lfs pull"), ("captions", "has columns text; it")):
        assert said in found[name][1]


def test_a_source_that_cannot_be_used_says_why(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is nothing at"):
        find_places(str(tmp_path / "gone"))
    for src in ("", "gcs://bucket/photos", "nowhere://host/photos", "s3://", "s3:///key"):
        with pytest.raises(ValueError, match=r"a path is empty|no package of fsspec|pip install gcsfs|names no bucket"):
            find_places(src)
    for typo in ("s3:/bucket/photos", "s3:bucket", "file:photos"):  # else a root makes a folder of it
        with pytest.raises(ValueError, match=r"is neither a path nor an address: write (s3|file)://"):
            find_places(typo)
    with pytest.raises(ValueError, match="holds no photos"):
        find_places(str(tmp_path))
    (tmp_path / "a.txt").touch()
    with pytest.raises(ValueError, match="holds no photos"):  # it is not the source's fault that the root is a file
        find_places(str(tmp_path), str(tmp_path / "a.txt"))
    with pytest.raises(ValueError, match=r"holds no photos \(1 sidecar left out\)"):
        find_places(str(tmp_path))
    (tmp_path / "People.CSV").touch()
    with pytest.raises(ValueError, match=r"People.CSV is a list of rows, which is read as Parquet alone; write it so"):
        find_places(str(tmp_path / "People.CSV"))
    with pytest.raises(ValueError, match=r"a.txt is a list of rows"):
        find_places(str(tmp_path / "a.txt"))
    with pytest.raises(ValueError, match=r"faces.lance is a Lance table"):
        find_places(str(write(tmp_path / "faces.lance", "data/x.lance")))
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
    with pytest.raises(ValueError, match="is no Parquet file, but a text; take it away"):
        find_places(str(tmp_path))
    (tmp_path / "p.parquet").write_bytes(b"PAR1" + bytes(80))
    with pytest.raises(ValueError, match="no readable Parquet file"):
        find_places(str(tmp_path / "p.parquet"))


def test_a_tenants_rows_name_photos_beside_them_or_below_the_operators_prefixes(tmp_path: Path) -> None:
    root, secret = tmp_path / "root", write(tmp_path / "secret", "s.jpg") / "s.jpg"
    data = write(tmp_path / "data", "a.jpg")
    shared = write(tmp_path / "shared", "b.jpg")
    (data / "link.jpg").symlink_to(secret)
    uris = [
        "a.jpg",
        str(data / "a.jpg"),
        str(shared / "b.jpg"),
        str(secret),
        "../secret/s.jpg",
        "link.jpg",
        "s3://x/y.jpg",
    ]
    parquet = table(data / "t.parquet", {"uri": uris, "name": list("abcdefg")})
    root.mkdir()
    tenant = str(root / "tenants" / "acme")
    read: dict[str, set[str]] = {}
    for prefixes in ("[]", f'["{shared}"]'):
        (root / "settings.toml").write_text(f"uri_prefixes = {prefixes}\n")
        allowed = Allowed.of(tenant)
        places = find_places(str(parquet)).table
        contents = pa.concat_tables(hash_contents(places, allowed))
        photos = pa.concat_tables(read_photos(contents, max_bytes=1000, allowed=allowed)).to_pylist()
        read[prefixes] = {photo["name"] for photo in photos if photo["image"] is not None}
        assert {photo["detail"].split(":")[0] for photo in photos if photo["image"] is None} == {"it is elsewhere"}
        assert all(str(secret) not in str(photo) for photo in photos), "nor is it told whether such a file is there"
    assert read == {"[]": {"a", "b"}, f'["{shared}"]': {"a", "b", "c"}}
    bucket = Allowed(("s3://theirs/photos/",))
    named = ["s3://own/data/b.jpg", "s3://theirs/photos/c.jpg", "s3://theirs/photos2/c.jpg", "s3://own/secret.jpg"]
    named += [
        "s3://theirs/photos/../keys/k.jpg",
        "s3://theirs/photos/%2e%2E/k.jpg",
        "/etc/passwd",
        "gs://own/data/b.jpg",
    ]
    assert [uri for uri in named if bucket.holds(uri, "s3://own/data/t.parquet")] == named[:2]
    assert Allowed.of(str(root)) is None, "the operator's own jobs read what their rows name"
