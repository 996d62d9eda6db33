"""Names and folders."""

from __future__ import annotations

import hashlib
import json
import os
import unicodedata
from pathlib import Path

import pyarrow as pa

from benchmarks.cases.desk import STEPS, Desk, Got, faces_of, outcome_of, rejects_of, short
from factory.records import Reject
from factory.store.rows import reject_row
from factory.store.tables import Store

ODD_NAMES = (
    *("two\nlines", "\x1b[31mred", "😀", "it's", 'say "hi"', "<b>bold", "100%", "%20", "#1", "why?", "back\\slash"),
    *("-dash", "\u202egnp", " space ", "a;b&c", "$HOME", "`id`", "Zoë", "李雷", "x" * 200),
)
ODD_ROOTS = ("a b", "a%20b", "100%", "a#b", "a?b", "it's", 'a"b', "[ab]", "{ab}", "Zoë", "李雷", "a+b&c=d")


def n01(desk: Desk) -> Got:
    """A file name in Latin-1: the good photo beside it is prepared, it is one too or a row."""
    folder = desk.folder("n01")
    (folder / "good.jpg").write_bytes(desk.encoded())
    (folder / "other.jpg").write_bytes(desk.encoded(desk.portrait.rotate(5)))
    (folder / "other.jpg").rename(folder / os.fsdecode(b"Jos\xe9.jpg"))
    ran, store = desk.prepared(folder)
    done = store.count("faces") + store.count("rejects") == 2 and "good" in faces_of(store)
    return Got(done and not ran.crash, outcome_of(ran, store))


def n02(desk: Desk) -> Got:
    """Two links to the folder itself: one photo in seconds, and the links are told."""
    folder = desk.folder("n02")
    (folder / "ada.jpg").write_bytes(desk.encoded())
    for link in "ab":
        (folder / link).symlink_to(".")
    ran = desk.process("prepare", "--photos", folder, "--root", f"{folder}.root", limit_s=90)
    faces = [] if ran.crash else faces_of(Store(f"{folder}.root"))
    return Got(
        faces == ["ada"] and "link" in ran.output, ran.crash or f"faces {faces}, {ran.seconds:.0f} s: {ran.said}"
    )


def n04(desk: Desk) -> Got:
    """A NAS folder with thumbnails, Thumbs.db and sidecars: one identity, nothing else is taken for a photo."""
    folder = desk.folder("n04")
    thumbs = folder / "@eaDir" / "ada.jpg"
    thumbs.mkdir(parents=True)
    (folder / "ada.jpg").write_bytes(desk.encoded())
    for name, side in (("XL", 320), ("M", 160)):
        (thumbs / f"SYNOPHOTO_THUMB_{name}.jpg").write_bytes(desk.encoded(desk.portrait.resize((side, side))))
    (folder / "@eaDir" / "ada.jpg@SynoEAStream").write_bytes(bytes(40))
    (folder / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0" + bytes(600))
    (folder / "desktop.ini").write_text("[.ShellClassInfo]\n")
    (folder / "ada.jpg.supplemental-metadata.json").write_text("{}")
    (folder / "ada.txt").write_text("a photo of a person")
    ran, store = desk.prepared(folder)
    return Got(faces_of(store) == ["ada"] and not rejects_of(store), f"{faces_of(store)}; {outcome_of(ran, store)}")


def n06(desk: Desk) -> Got:
    """A folder for each person, 1.jpg in each: three names."""
    folder = desk.folder("n06")
    for number, person in enumerate(("Ada Lovelace", "Grace Hopper", "Alan Turing")):
        (folder / person).mkdir()
        (folder / person / "1.jpg").write_bytes(desk.encoded(desk.portrait.rotate(4 * number)))
    _, store = desk.prepared(folder)
    return Got(len(set(faces_of(store))) == 3, str(faces_of(store)))


def n10(desk: Desk) -> Got:
    """The root inside of the photos, three runs: one photo each time."""
    folder = desk.folder("n10")
    (folder / "ada.jpg").write_bytes(desk.encoded())
    for _ in range(3):
        desk.cli("prepare", "--photos", folder, "--root", folder / "people")
    photos = [
        json.loads(file.read_text())["photos"] for file in sorted((folder / "people" / "jobs").glob("*/summary.json"))
    ]
    return Got(photos == [1, 1, 1], f"photos {photos}")


def n11(desk: Desk) -> Got:
    """Twenty odd names: all usable, and the report escapes them."""
    folder = desk.folder("n11")
    for number, name in enumerate(ODD_NAMES):
        (folder / f"{name}.jpg").write_bytes(desk.encoded(desk.portrait.rotate(number / 4)))
    ran, store = desk.prepared(folder)
    reports = "".join(file.read_text() for file in Path(store.root).glob("jobs/*/report.html"))
    wanted = {unicodedata.normalize("NFC", name) for name in ODD_NAMES}
    lost = wanted - {unicodedata.normalize("NFC", name) for name in faces_of(store)}
    return Got(not lost and "<b>bold" not in reports, f"{store.count('faces')} faces, lost {sorted(lost)}; {ran.crash}")


def n12(desk: Desk) -> Got:
    """An escape sequence and a line break in names: `identities list` makes them visible, a line each."""
    folder = desk.folder("n12")
    (folder / "\x1b[31mred.jpg").write_bytes(desk.encoded())
    (folder / "two\nlines.jpg").write_bytes(desk.encoded(desk.portrait.rotate(4)))
    root = f"{folder}.root"
    desk.cli("run", "--photos", folder, "--root", root, *STEPS)
    listed = desk.cli("identities", "list", "--root", root)
    lines = listed.output.strip().splitlines()
    return Got("\x1b[31m" not in listed.output and len(lines) == 3, f"{len(lines)} lines, e.g. {short(lines[-1], 30)}")


def n13(desk: Desk) -> Got:
    """3,020 files, ten folders deep: quick, and no word of Ray's."""
    folder = desk.folder("n13")
    for number in range(3020):
        place = folder.joinpath(*f"{number % 10}" * 10) / str(number // 10 % 30)
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number}.jpg").write_bytes(
            desk.encoded() if number == 0 else (folder / "0/0/0/0/0/0/0/0/0/0/0/0.jpg").read_bytes()
        )
    ran = desk.process("prepare", "--photos", folder, "--root", f"{folder}.root")
    return Got(ran.code == 0 and "raylet" not in ran.output and ran.seconds < 90, f"{ran.seconds:.0f} s: {ran.said}")


def n14(desk: Desk) -> Got:
    """An unreadable file is a row; an unreadable folder is counted as left out."""
    if os.geteuid() == 0:
        return Got(None, "this user may read everything")
    folder = desk.folder("n14")
    (folder / "ada.jpg").write_bytes(desk.encoded())
    (folder / "locked.jpg").write_bytes(desk.encoded())
    (folder / "locked.jpg").chmod(0)
    _, store = desk.prepared(folder)
    locked = desk.folder("n14/locked")
    locked.chmod(0)
    again, _ = desk.prepared(folder)
    told = "folder that cannot be read" in again.output
    return Got([row["reason"] for row in rejects_of(store)] == ["unreadable"] and told, again.said)


def n15(desk: Desk) -> Got:
    """A file that is replaced between the two passes: the id is the hash of what was decoded."""
    from pipelines.photos.places import find_places
    from pipelines.photos.sources import hash_contents, read_photos

    folder = desk.folder("n15")
    (folder / "x.png").write_bytes(desk.encoded(format="PNG"))
    listed = pa.concat_tables(hash_contents(find_places(str(folder)).table))
    (folder / "x.png").write_bytes(desk.encoded(desk.portrait.rotate(9), "PNG"))
    (row,) = next(iter(read_photos(listed, max_bytes=2**26))).to_pylist()
    same = row["photo_id"] == hashlib.sha256(row["image"] or b"").hexdigest()
    return Got(same or row["image"] is None, "the same" if same else f"another id ({row['reason'] or 'accepted'})")


def n16(desk: Desk) -> Got:
    """Refused files of one stem: each can be found from its row."""
    folder = desk.folder("n16")
    names = ("2023/IMG_0001.HEIC", "2024/IMG_0001.JPG", "2024/IMG_0001.MOV")
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(name.encode())
    ran, store = desk.prepared(folder)
    told = ran.output + "".join(str(value) for row in rejects_of(store) for value in row.values())
    lost = [name for name in names if name not in told]
    return Got(not lost, f"not told: {', '.join(lost)}" if lost else "each is told by its path")


def n17(desk: Desk) -> Got:
    """Roots called a b, %20, #, ?, quotes, brackets, Zoë: work."""
    failed = []
    for name in ODD_ROOTS:
        store = Store(desk.folder("n17/" + name) / "root")
        reject = Reject(
            reject_id="r", photo_id="r", name=name, pack="studio", stage="prepare", reason="no_face", detail=""
        )
        store.upsert("rejects", [reject_row(reject)])
        jobs = desk.cli("jobs", "list", "--root", store.root)
        if store.count("rejects") != 1 or jobs.code:
            failed.append(name)
    return Got(not failed, f"fail: {failed}" if failed else f"{len(ODD_ROOTS)} roots work")


CASES = (n01, n02, n04, n06, n10, n11, n12, n13, n14, n15, n16, n17)
