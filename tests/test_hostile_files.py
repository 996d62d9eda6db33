"""Files that somebody hostile made, and folders and lists that lead elsewhere."""

import struct
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pylibjxl
import pytest
from pillow_heif import libheif_version

from factory.errors import SourceError
from factory.faces.boxes import jxl_codestream
from factory.files import tenant_root
from pipelines.photos.listing import list_files
from pipelines.photos.parquet import row_groups, rows_of


def test_a_tenants_folder_leads_nowhere_else(tmp_path: Path) -> None:
    photos, others, root = tmp_path / "photos", tmp_path / "others", str(tmp_path / "root")
    for file in (photos / "a.jpg", others / "b.jpg", others / "deep" / "c.jpg"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"jpeg")
    (photos / "b.jpg").symlink_to(others / "b.jpg")
    (photos / "more").symlink_to(others)
    (photos / "consent.csv").symlink_to(others / "b.jpg")
    (photos / "again.jpg").symlink_to(photos / "a.jpg")
    own = list_files(str(photos), tenant_root(root, "acme"))
    assert [Path(file).name for file in own.files] == ["a.jpg", "again.jpg"] and not own.consents
    assert own.left_out == {"link out of the tenant's photos": 3}
    assert len(list_files(str(photos), root).files) == 5, "the operator's own jobs follow links"
    Path(root).mkdir()
    (Path(root) / "settings.toml").write_text(f'uri_prefixes = ["{others}"]\n')
    assert len(list_files(str(photos), tenant_root(root, "acme")).files) == 5


def test_a_list_from_a_server_names_photos_of_it_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "people.parquet"
    uris = ["http://photos.example/a.jpg", "http://169.254.169.254/a.jpg", "http://photos.example:81/a.jpg"]
    pq.write_table(pa.table({"uri": uris}), file)
    monkeypatch.setattr("pipelines.photos.parquet.open_file", lambda _uri: file.open("rb"))
    entries = list(rows_of("http://photos.example/people.parquet", 0, 0, 3, "people"))
    told = [entry.size.args for entry in entries if hasattr(entry.size, "args")]
    assert told == [("http://photos.example/a.jpg",)], "of the others only the reason"
    for entry in entries[1:]:
        with pytest.raises(OSError, match="is not read"):
            entry.size()


def test_parquet_that_is_packed_by_brotli_is_not_unpacked(tmp_path: Path) -> None:
    rows = pa.table({"image": [b"a"], "notes": ["b"]})
    pq.write_table(rows, tmp_path / "notes.parquet", compression={"image": "zstd", "notes": "brotli"})
    assert row_groups(str(tmp_path / "notes.parquet")) == [1], "a column that is not read"
    pq.write_table(rows, tmp_path / "all.parquet", compression="brotli")
    with pytest.raises(SourceError, match=r"Brotli.*zstd"):
        row_groups(str(tmp_path / "all.parquet"))


def test_parquet_of_a_packing_that_no_build_reads_names_it(tmp_path: Path) -> None:
    file = tmp_path / "lzo.parquet"
    pq.write_table(pa.table({"image": [b"a"]}), file, compression="snappy")
    written = file.read_bytes()
    end = written.rindex(b"image\x15\x02")  # of the footer: the column's path, and its codec, of Thrift's enum
    file.write_bytes(written[:end] + b"image\x15\x06" + written[end + 7 :])
    with pytest.raises(SourceError, match=r"lzo\.parquet is packed by LZO, .*zstd"):
        row_groups(str(file))


def test_boxes_around_a_jpeg_xl_are_not_unpacked() -> None:
    grey = np.full((32, 48, 3), 77, np.uint8)
    plain = pylibjxl.encode(grey, effort=3, lossless=True)
    stream = jxl_codestream(plain)
    assert stream.startswith(b"\xff\x0a")

    def box(kind: bytes, body: bytes, long: bool = False) -> bytes:
        if long:
            return struct.pack(">I4sQ", 1, kind, 16 + len(body)) + body
        return struct.pack(">I4s", 8 + len(body), kind) + body

    start = box(b"JXL ", b"\r\n\x87\n") + box(b"ftyp", b"jxl \0\0\0\0jxl ")
    packed = box(b"brob", b"Exif" + b"\xff" * 64)  # no Brotli
    half = len(stream) // 2
    parts = box(b"jxlp", b"\0\0\0\0" + stream[:half]) + packed + box(b"jxlp", b"\x80\0\0\1" + stream[half:])
    whole = packed + box(b"jxlc", stream), box(b"jxlc", stream, long=True) + packed
    for file in (start + whole[0], start + whole[1], start + parts):
        assert jxl_codestream(file) == stream
        assert (pylibjxl.decode(jxl_codestream(file)) == grey).all()
    with pytest.raises(ValueError, match="no picture"):
        jxl_codestream(start + packed)


def test_the_heif_library_is_one_without_known_holes() -> None:
    version = tuple(map(int, libheif_version().split(".")))
    assert version >= (1, 23, 4), "libheif 1.23.0 runs what a file says (GHSA-2jg2-4ch7-h545)"
