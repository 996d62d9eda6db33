"""Looking for somebody's bytes: every place, every alphabet, packed or not."""

from __future__ import annotations

import base64
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import lance
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from factory.store.traces import Search, pieces_of, scan, tellable, with_base64

REPO = Path(__file__).parents[1]
RANDOM = random.Random(0)


def test_a_needle_is_found_wherever_it_is() -> None:
    for size in (8, 9, 15, 16, 40):
        data = RANDOM.randbytes(size)
        for start in range(size - 7):
            for end in range(start + 8, size + 1):
                assert Search({data[start:end]: "it"}).found_in(data) == {"it"}
        assert Search({data: "it"}).found_in(data[:-1]) == Search({}).found_in(data) == set()


def test_needles_that_begin_alike_are_told_apart() -> None:
    search = Search({b"12345678-a": "a", b"12345678-b": "b", b"12345678": "both"})
    assert search.found_in(b"..12345678-b..") == {"b", "both"}


def test_a_needle_across_two_pieces_of_a_file_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("factory.store.traces._CHUNK", 16)
    needle = RANDOM.randbytes(20)
    for start in range(40):
        (tmp_path / "file").write_bytes(bytes(start) + needle + bytes(7))
        searched = scan(str(tmp_path), {needle: "it"})
        assert (searched.num_files, searched.num_bytes, searched.found) == (1, start + 27, [])
        assert searched.others == [f"{tmp_path}/file: it"]


@pytest.mark.parametrize("is_category", [False, True])
def test_what_parquet_packs_is_found(tmp_path: Path, is_category: bool) -> None:
    ids = [f"{RANDOM.getrandbits(256):064x}" for _ in range(3000)]
    column = pa.array(ids).dictionary_encode() if is_category else pa.array(ids)  # as pandas' categories
    pq.write_table(pa.table({"id": column}), tmp_path / "ids.parquet", compression="zstd")
    needle = ids[777].encode()
    assert Search({needle: "it"}).found_in((tmp_path / "ids.parquet").read_bytes()) == set(), "it shows nothing else"
    assert scan(str(tmp_path), {needle: "it"}).others == [f"{tmp_path}/ids.parquet: it"]


def test_links_that_lead_round_are_followed_once(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/a").write_bytes(b"12345678")
    for name in ("one", "two"):  # followed each time, some 2 to the power of 40 folders
        (tmp_path / "photos" / name).symlink_to(tmp_path)
    assert scan(str(tmp_path), {b"12345678": "it"}).others == [f"{tmp_path}/photos/a: it"]


@pytest.mark.skipif(os.getuid() != 0, reason="only root may become somebody else")
def test_what_cannot_be_read_is_told_and_does_not_end_the_search(for_anyone: Path) -> None:
    for name in ("lost+found/a", "private/a", "x.lance/a", "locked", "open"):
        file = for_anyone / name
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(b"12345678")
    for name in ("lost+found", "private", "locked"):
        (for_anyone / name).chmod(0)
    code = f"import os; from factory.store.traces import scan; os.setuid(61042); it = scan({str(for_anyone)!r}, "
    code += "{b'12345678': 'it'}); print(it.found, sorted(it.others))"
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    cannot = "cannot be looked through (Permission denied)"
    others = [f"{for_anyone}/locked: {cannot}", f"{for_anyone}/open: it", f"{for_anyone}/private: {cannot}"]
    assert done.stdout == f"{[f'{for_anyone}/x.lance/a: it']} {others}\n", done.stderr


def _quoted(data: bytes) -> bytes:
    return quote(base64.b64encode(data), safe="").encode()


@pytest.mark.parametrize(
    "encode", [base64.b64encode, base64.urlsafe_b64encode, base64.encodebytes, _quoted], ids=lambda f: f.__name__
)
def test_base64_is_found_from_every_place_on(encode: Callable[[bytes], bytes]) -> None:
    content = RANDOM.randbytes(3000)
    search = Search(with_base64(dict.fromkeys(pieces_of(content), "photo")))
    an_id = Search(with_base64({content[:16]: "id"}))
    for before in range(7):
        assert search.found_in(b"x" * before + encode(bytes(before) + content)) == {"photo, as base64"}
        assert an_id.found_in(b"x" * before + encode(bytes(before) + content[:16] + b"...")) == {"id, as base64"}
    assert search.found_in(encode(RANDOM.randbytes(100_000))) == set()


def test_what_many_files_have_in_common_is_no_trace() -> None:
    assert tellable({bytes(32): "zeros", b"\xff\xd8" * 9: "two values", b"short": "short"}) == {}
    flat = bytes(5000)
    assert pieces_of(flat) == [] and pieces_of(b"") == []
    header = RANDOM.randbytes(600)
    photos = [header + RANDOM.randbytes(9000) for _ in range(2)]
    assert not set(pieces_of(photos[0])) & set(pieces_of(photos[1]))
    assert not any(piece in header for piece in pieces_of(photos[0]))


def test_texts_and_numbers_that_lance_packs_are_found_too(tmp_path: Path) -> None:
    names = [f"{number:064x}" for number in range(5000)]
    numbers = np.arange(5000, dtype=np.float32)
    table = pa.table({"name": names, "value": pa.FixedSizeListArray.from_arrays(pa.array(numbers), 8)[:625].take(
        pa.array(np.arange(5000) % 625))})  # fmt: skip
    lance.write_dataset(table, tmp_path / "t.lance").create_scalar_index("name", "BTREE")
    needles = {names[4321].encode(): "name", numbers[800:808].tobytes(): "value"}
    raw = [file for file in tmp_path.rglob("*.lance") if file.is_file() and names[4321].encode() in file.read_bytes()]
    assert raw == [], "packed: else this test shows nothing"
    hits = [hit.removeprefix(f"{tmp_path}/t.lance/").rpartition(": ") for hit in scan(str(tmp_path), needles).found]
    found = {(file.partition("/")[0], what) for file, _, what in hits}
    assert found == {("data", "name"), ("data", "value"), ("_indices", "name")}
    for broken in (b"", b"...", RANDOM.randbytes(500)):
        (tmp_path / "cut.lance").write_bytes(broken)
        scan(str(tmp_path), needles)
