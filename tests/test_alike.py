"""Rows of Parquet that are called alike, and photos that a later job calls as who is there."""

from __future__ import annotations

import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import skimage.data
from PIL import Image

from factory.pack import Pack
from factory.store.tables import Store
from pipelines.photos.alike import by_own_names
from pipelines.photos.places import find_places
from pipelines.photos.sources import hash_contents, read_photos
from pipelines.prepare import prepare
from tests.local_chain import use_local_chain
from tests.sources import listed, table, write


def names(*sources: Path) -> dict[bytes, str]:
    """By the bytes; as they are told apart, and as they are read then."""
    places = find_places([str(one) for one in sources])
    contents = places.alike.told_apart(pa.concat_tables(hash_contents(places.table)))
    photos = [row for photo in read_photos(contents, max_bytes=10_000) for row in photo.to_pylist()]
    assert [row["name"] for row in photos] == contents["name"].to_pylist()
    assert len({row["name"] for row in photos}) == len(photos)
    return {row["image"]: row["name"] for row in photos}


def test_one_name_in_several_rows_and_files(tmp_path: Path) -> None:
    called = {"image": [b"1", b"2", b"3", b"4"], "name": ["Ada", "Bob", " Ada", None]}
    table(tmp_path / "in/a.parquet", called, row_group_size=2)
    table(tmp_path / "in/b.parquet", {"image": [b"5", b"6"], "name": ["Bob", "Zoe\u0308"]})
    assert names(tmp_path / "in") == {
        b"1": "Ada/a-0",
        b"2": "Bob/a-1",
        b"3": "Ada/a-2",
        b"4": "a-3",
        b"5": "Bob/b-0",
        b"6": "Zo\u00eb",
    }


def test_rows_that_name_files_are_called_by_their_folders(tmp_path: Path) -> None:
    write(tmp_path, "Ada/1.jpg", "Bob/1.jpg", "Bob/2.jpg")
    uris = ["Ada/1.jpg", str(tmp_path / "Bob/1.jpg"), "Bob/2.jpg"]
    assert names(table(tmp_path / "list.parquet", {"uri": uris})) == {
        b"Ada/1.jpg": "Ada/1.jpg",
        b"Bob/1.jpg": "Bob/1.jpg",
        b"Bob/2.jpg": "2",
    }


def test_structs_partitions_and_img2datasets_keys(tmp_path: Path) -> None:
    pictures = [{"bytes": b"1", "path": "image.jpg"}, {"bytes": b"2", "path": "image.jpg"}]
    assert names(table(tmp_path / "hf.parquet", {"image": pictures})) == {b"1": "image/hf-0", b"2": "image/hf-1"}
    table(tmp_path / "hive/name=Ada/part-0.parquet", {"image": [b"3", b"4"]})
    assert names(tmp_path / "hive") == {b"3": "Ada/part-0-0", b"4": "Ada/part-0-1"}
    table(tmp_path / "web.parquet", {"key": ["7", "7", "8"], "jpg": [b"5", b"6", b"7"]})
    assert names(tmp_path / "web.parquet") == {b"5": "7/web-0", b"6": "7/web-1", b"7": "8"}


def test_a_row_called_as_a_file_of_another_source(tmp_path: Path) -> None:
    write(tmp_path / "photos", "Ada.jpg")
    rows = table(tmp_path / "rows.parquet", {"image": [b"1"], "name": ["Ada"]})
    assert names(tmp_path / "photos", rows) == {b"Ada.jpg": "Ada", b"1": "Ada/rows-0"}


def test_no_row_is_called_as_another_photos_second_face(tmp_path: Path) -> None:
    write(tmp_path / "photos", "Zoe-2.jpg")
    rows = table(
        tmp_path / "rows.parquet", {"image": [b"1", b"2", b"3", b"4"], "name": ["Ada-1", "Ada", "Zoe", "Bob-7"]}
    )
    assert names(tmp_path / "photos", rows) == {
        b"1": "Ada-1/rows-0",  # second face of "Ada"
        b"2": "Ada",
        b"3": "Zoe/rows-2",  # whose third face would be called as the file
        b"4": "Bob-7",
        b"Zoe-2.jpg": "Zoe-2",
    }


def jpeg(*pictures: np.ndarray) -> bytes:
    file = BytesIO()
    Image.fromarray(np.concatenate(pictures, axis=1)).save(file, "JPEG")
    return file.getvalue()


@pytest.mark.parametrize("first", ["ada.jpg", "ada-1.jpg"])
def test_second_faces_and_photos_of_two_jobs(
    tmp_path: Path, tiny_pack: Pack, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    """Whichever comes first: nobody new is called as somebody who is there, and nobody changes their name."""
    use_local_chain(monkeypatch)
    portrait = np.asarray(skimage.data.astronaut())[:256, 96:352]
    folder, root = tmp_path / "photos", tmp_path / "root"
    folder.mkdir()
    photos = {"ada.jpg": jpeg(portrait, portrait[:, ::-1]), "ada-1.jpg": jpeg(portrait[::-1, ::-1][::-1])}

    def names() -> dict[str, str]:
        prepare(str(folder), str(root), str(tiny_pack.root))
        return {face.face_id: face.name for face in Store(root).faces()}

    (folder / first).write_bytes(photos[first])
    before = names()
    (folder / first).unlink()
    [other] = set(photos) - {first}
    (folder / other).write_bytes(photos[other])
    after = names()
    assert len(after) == 3 and before.items() < after.items()
    new = [name for face_id, name in after.items() if face_id not in before]
    assert sorted(new) == (["ada-1.jpg"] if first == "ada.jpg" else ["ada.jpg", "ada.jpg-1"])
    assert names() == after, "nor does it at the next job"
    (folder / first).write_bytes(photos[first])
    assert names() == after


def test_a_member_is_called_by_where_it_is(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as packed:
        packed.writestr("d/ada.jpg", b"1")
    contents = listed(tmp_path)
    assert by_own_names(contents, np.array([True]))["name"].to_pylist() == ["x.zip/d/ada.jpg"]
    assert by_own_names(contents, np.array([False])) is contents
