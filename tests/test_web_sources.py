"""Photos on a web server, which tells a folder as a page of links."""

from __future__ import annotations

import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from factory.reach import check_stores
from pipelines.photos.places import find_places
from tests.sources import named, photos_of, table, write


class Quiet(SimpleHTTPRequestHandler):
    """Python's own server, which gives no parts of files."""

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield tmp_path, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_folder_is_read_by_its_page(served: tuple[Path, str]) -> None:
    folder, url = served
    write(folder, "p/a b.jpg", "p/Zoë/c.jpg", "p/notes.txt", "p/.hidden.jpg", "other/d.jpg")
    expected = {"a b": b"p/a b.jpg", "c": "p/Zoë/c.jpg".encode()}
    for source in ("p/", "p"):
        assert named(f"{url}/{source}") == expected  # type: ignore[arg-type]
    places = find_places(f"{url}/p", person_from="folder")
    assert {row["folder"] for row in places.table.to_pylist()} == {None, "Zoë"}
    assert places.left_out == {"sidecar": 1, "hidden": 1}
    [photo] = photos_of(f"{url}/p/a%20b.jpg")
    assert (photo["name"], photo["image"]) == ("a b", b"p/a b.jpg")


def test_a_table_is_read_and_an_archive_of_which_no_part_is_given_is_told(served: tuple[Path, str]) -> None:
    folder, url = served
    table(folder / "people.parquet", {"image": [b"1"], "name": ["Ada"]})
    with zipfile.ZipFile(folder / "z.zip", "w") as packed:
        packed.writestr("a.jpg", b"a" * 12_000_000)
    assert named(f"{url}/people.parquet") == {"Ada": b"1"}  # type: ignore[arg-type]
    [photo] = photos_of(f"{url}/z.zip")
    assert photo["image"] is None and "download it first" in photo["detail"]


def test_a_server_that_does_not_answer_is_told(served: tuple[Path, str]) -> None:
    check_stores([f"{served[1]}/p"])
    with pytest.raises(OSError, match=r"127\.0\.0\.1:9 does not answer \(.*refused\): check the address"):
        check_stores(["http://127.0.0.1:9/p"])
