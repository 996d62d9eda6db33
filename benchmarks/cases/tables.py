"""Parquet, archives and pointers instead of photos."""

from __future__ import annotations

import base64
import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.cases.desk import Desk, Got, Ran, faces_of, outcome_of, rejects_of, short
from factory.store.tables import Store

POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 123456\n"


def p01(desk: Desk) -> Got:
    """A cloned data set, README.md beside data/*.parquet: three photos."""
    folder, portrait = desk.folder("p01"), desk.encoded()
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    rows = pa.array([{"bytes": portrait + bytes([i]), "path": f"{i:06d}.jpg"} for i in range(3)], struct)
    (folder / "data").mkdir()
    pq.write_table(pa.table({"image": rows, "label": [0, 1, 2]}), folder / "data" / "train-00000-of-00001.parquet")
    (folder / "README.md").write_text("---\ndataset_info: {}\n---\n")
    (folder / ".gitattributes").write_text("*.parquet filter=lfs\n")
    ran, store = desk.prepared(folder)
    return Got(store.count("faces") == 3 and not rejects_of(store), outcome_of(ran, store))


def p03(desk: Desk) -> Got:
    """Null pictures in three of five rows: three rejects, as missing, each under its name."""
    portrait = desk.encoded()
    images = pa.array([portrait, None, None, portrait + b"\0", None], pa.binary())
    ran, store = _prepared(desk, "p03", pa.table({"image": images, "name": ["a", "b", "c", "d", "e"]}))
    names = sorted(row["name"] for row in rejects_of(store))
    return Got(names == ["b", "c", "e"] and faces_of(store) == ["a", "d"], f"rejects {names}; {outcome_of(ran, store)}")


def p04(desk: Desk) -> Got:
    """A picture as data: URI: read, or one short line; no byte of it in any reject."""
    code = base64.b64encode(desk.encoded()).decode()
    ran, store = _prepared(desk, "p04", pa.table({"uri": [f"data:image/jpeg;base64,{code}"], "name": ["ada"]}))
    text = str(rejects_of(store))
    files = [file for file in Path(store.root).rglob("*") if file.is_file()]
    held = [file.name for file in files if code[1000:1100].encode() in file.read_bytes()]
    kept = code[100:140] in text or bool(held)
    return Got(
        not kept and len(text) < 1000 and not ran.crash, ("base64 is kept; " if kept else "") + outcome_of(ran, store)
    )


def p06(desk: Desk) -> Got:
    """list<struct>, dictionary<binary>, list<uint8>, base64, columns `images`, `Image`: read or told."""
    portrait = desk.encoded()
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    tables = {
        "list<struct>": {"image": pa.array([[{"bytes": portrait, "path": "a.jpg"}]], pa.list_(struct))},
        "dictionary": {"image": pa.array([portrait], pa.binary()).dictionary_encode()},
        "list<uint8>": {"image": pa.array([np.frombuffer(portrait, np.uint8)], pa.list_(pa.uint8()))},
        "base64": {"image": pa.array([base64.b64encode(portrait).decode()])},
        "images": {"images": pa.array([portrait], pa.binary())},
        "Image": {"Image": pa.array([portrait], pa.binary())},
    }
    words, wrong = [], 0
    for number, (name, columns) in enumerate(tables.items()):
        ran, store = _prepared(desk, f"p06/{number}", pa.table(columns))
        read = store.count("faces") == 1
        wrong += not read and not ran.clear
        words.append(f"{name}: {'read' if read else 'told' if ran.clear else ran.said}")
    return Got(not wrong, short("; ".join(words), 160))


def p08(desk: Desk) -> Got:
    """file:///.../a%20b.jpg: reads "a b.jpg"."""
    photo = desk.folder("p08photos") / "a b.jpg"
    photo.write_bytes(desk.encoded())
    ran, store = _prepared(desk, "p08", pa.table({"uri": [photo.as_uri()]}))
    return Got(store.count("faces") == 1, outcome_of(ran, store))


def p10(desk: Desk) -> Got:
    """.tar shards and a .zip: read, or told to unpack."""
    folder, photo = desk.folder("p10"), desk.folder("p10photo") / "ada.jpg"
    photo.write_bytes(desk.encoded())
    with tarfile.open(folder / "00000.tar", "w") as shard:
        shard.add(photo, "000000000.jpg")
    photo.write_bytes(desk.encoded(desk.portrait.rotate(4)))
    with zipfile.ZipFile(folder / "photos.zip", "w") as archive:
        archive.write(photo, "ada.jpg")
    ran, store = desk.prepared(folder)
    said = (ran.output + str(rejects_of(store))).lower()
    return Got(store.count("faces") == 2 or "archive" in said or "unpack" in said, outcome_of(ran, store))


def p11(desk: Desk) -> Got:
    """Git LFS pointers instead of Parquet, or photos: told to `git lfs pull`."""
    table, photos = desk.folder("p11table"), desk.folder("p11photos")
    (table / "train-00000-of-00001.parquet").write_text(POINTER)
    (photos / "a.jpg").write_text(POINTER)
    said = []
    for folder in (table, photos):
        ran, store = desk.prepared(folder)
        said.append(ran.output + str(rejects_of(store)))
    right = ["git lfs pull" in text for text in said]
    return Got(all(right), f"table: {right[0]}, photos: {right[1]}")


def p12(desk: Desk) -> Got:
    """Struct of a path alone, large_binary, int names, Windows paths, https, gs, one damaged file: read or told."""
    folder, portrait = desk.folder("p12"), desk.encoded()
    (folder / "near.jpg").write_bytes(portrait)
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    tables = {
        "struct": pa.table(
            {"image": pa.array([{"bytes": None, "path": str(folder / "near.jpg")}], struct), "name": [1]}
        ),
        "large": pa.table({"image": pa.array([portrait + b"\0"], pa.large_binary()), "name": [2]}),
        "uris": pa.table({"uri": ["https://x/a.jpg", "gs://x/a.jpg", "C:\\photos\\a.jpg"], "name": [3, 4, 5]}),
    }
    data = desk.folder("p12data")
    for name, table in tables.items():
        pq.write_table(table, data / f"{name}.parquet")
    ran, store = desk.prepared(data)
    reasons = [row["reason"] for row in rejects_of(store)]
    (data / "damaged.parquet").write_bytes(b"PAR1 and nothing more PAR1")
    again, store = desk.prepared(data)
    damaged = [row["detail"] for row in rejects_of(store) if row["uri"].endswith("damaged.parquet")]
    right = store.count("faces") == 2 and reasons == ["unreadable"] * 3 and len(damaged) == 1 and not again.crash
    return Got(right, short(f"{outcome_of(ran, store)}; {damaged}", 200))


def p13(desk: Desk) -> Got:
    """A folder of photos and, named beside it, a Parquet file: both are read."""
    folder, rows = desk.folder("p13"), desk.folder("p13rows") / "rows.parquet"
    (folder / "ada.jpg").write_bytes(desk.encoded())
    pq.write_table(pa.table({"image": [desk.encoded(desk.portrait.rotate(4))], "name": ["bob"]}), rows)
    ran, store = desk.prepared(folder, "--photos", rows)
    return Got(faces_of(store) == ["ada", "bob"], f"{faces_of(store)}; {outcome_of(ran, store)}")


def p14(desk: Desk) -> Got:
    """person=__HIVE_DEFAULT_PARTITION__ (null), and null as pandas writes it: nobody, each photo its own."""
    null = desk.folder("p14/person=__HIVE_DEFAULT_PARTITION__") / "part-0.parquet"
    pq.write_table(pa.table({"image": [desk.encoded(), desk.encoded(desk.portrait.rotate(4))]}), null)
    texts = {"image": [desk.encoded(desk.portrait.rotate(angle)) for angle in (6, 8)], "person": ["nan", "None"]}
    found = [desk.prepared(null.parents[1]), _prepared(desk, "p14texts", pa.table(texts))]
    persons = [store.read("faces", columns=["person"])["person"].to_pylist() for _, store in found]
    return Got(persons == [[None] * 2] * 2, f"{persons}; {outcome_of(*found[0])}")


def p15(desk: Desk) -> Got:
    """A tar that is cut short, and two that were joined by cat: what is whole is read, and the cut is told."""
    shards = []
    for number in range(3):
        shards.append(io.BytesIO())
        with tarfile.open(fileobj=shards[-1], mode="w", format=tarfile.USTAR_FORMAT) as shard:
            photo = desk.encoded(desk.portrait.rotate(number * 4))
            member = tarfile.TarInfo(f"{number}.jpg")
            member.size = len(photo)
            shard.addfile(member, io.BytesIO(photo))
    joined, cut = desk.folder("p15joined"), desk.folder("p15cut")
    (joined / "all.tar").write_bytes(shards[0].getvalue() + shards[1].getvalue())
    whole = shards[1].getvalue()
    (cut / "00000.tar").write_bytes(whole[: 512 + -(-_size(whole) // 512) * 512] + shards[2].getvalue()[:9000])
    both, part = desk.prepared(joined), desk.prepared(cut)
    told = part[0].output + str(rejects_of(part[1]))
    right = faces_of(both[1]) == ["0", "1"] and faces_of(part[1]) == ["1"] and ("cut" in told or "damaged" in told)
    return Got(right, short(f"joined: {outcome_of(*both)}; cut: {outcome_of(*part)}", 200))


def _size(shard: bytes) -> int:
    return int(shard[124:135], 8)


def _prepared(desk: Desk, name: str, table: pa.Table) -> tuple[Ran, Store]:
    folder = desk.folder(name)
    pq.write_table(table, folder / "x.parquet")
    return desk.prepared(folder)


CASES = (p01, p03, p04, p06, p08, p10, p11, p12, p13, p14, p15)
