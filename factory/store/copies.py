"""Photos that are called as copies or edited versions of others, as phones, clouds and programs call them, and whose
faces are alike enough for it to be so. It is told, and nothing else: a name proves nothing."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterator, Sequence
from itertools import product
from pathlib import PurePosixPath
from typing import Any, Final, TypeAlias

from factory.faces.people import embeddings
from factory.pack import Pack
from factory.store.people import Again, matrix
from factory.store.queries import faces_by_id, faces_of_pack
from factory.store.tables import Store
from factory.store.told import UPLOADED

_EDITED: Final = (  # as Google Photos writes it in the languages of its users, macOS, and who edits by hand
    "edited|edit|bearbeitet|bewerkt|modificato|modificata|modifié|retouché|editado|ha editado|editat|edytowane|"
    "redigerad|redigert|redigeret|muokattu|upravené|upraveno|отредактировано|изменено|編集済み|已修改|已编辑|수정됨|"
    "effects|smile|mix|retouched|enhanced|cropped|crop|resized|scaled|original|cover|hdr|portrait|thumbnail|thumb|"
    "small|medium|large|high|low|web|print"
)
_COPY: Final = "copy|kopie|copie|copia|cópia|kopia|kopi|kopio|копия|コピー|副本|复制|사본"
_BEFORE: Final = "copy of|kopie von|kopie van|copie de|copia di|copia de|cópia de|kopia|kopi av|копия"
_MADE_OF: Final = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"(?P<head>IMG_)E(?P<rest>\d{4,})",  # an iPhone's edited version of IMG_0001
        r"(?P<head>PXL_\d{8}_\d{9})[.~].+",  # a Pixel's PORTRAIT-01.COVER and the like
        r"(?P<head>.+?)~\d{1,2}",  # Android's editors
        r"(?P<head>.+?)@[23]x",
        r"(?P<head>.+?)[-_]\d{2,4}x\d{2,4}",  # sizes, as WordPress makes them
        rf"(?P<head>.+?)\s*[-_ .(\[]\s*(?:{_EDITED})[-_ ]?\d{{0,2}}[)\]]?(?:\s?\(\d{{1,2}}\))?",
        rf"(?P<head>.+?)\s*[-_ (]\s*(?:{_COPY})(?:[-_ ]?\(?\d{{1,2}}\)?)?\)?",
        rf"(?:{_BEFORE})\s+(?P<head>.+)",
    )
)
_OF_A_ROW: Final = re.compile(r"#\d+$")  # end of a uri
_AT_ONCE: Final = 1024  # pairs whose features are in memory
_COLUMNS: Final = ["face_id", "photo_id", "name", "face_index", "uri", "person"]
_NAMED: Final = ("face_id", "photo_id", "name")

_Face: TypeAlias = dict[str, Any]  # of _COLUMNS


def made_of(stem: str) -> str:
    """What the file is called, without suffix, of which one of this name is a copy or version by its name; the name
    itself if it is none."""
    stem = unicodedata.normalize("NFC", stem)
    for _ in range(3):  # "ada-edited (copy 2)"
        found = next((match for pattern in _MADE_OF if (match := pattern.fullmatch(stem))), None)
        if found is None:
            break
        stem = found["head"] + (found.groupdict().get("rest") or "")
    return stem


def called_copies(store: Store, pack: Pack, found: Sequence[Again], of: Collection[str] | None = None) -> list[Again]:
    """Faces of photos that are called as copies of another one in the same folder, archive or table, each with the
    nearest face of that one, where the two are rather one person's than two's and are not among those `found`; of
    photos in `of` (photo_ids; None: all), and of those that are copies of these.

    Photos that their source tells to be of one person are not compared. Nothing is found for a pack that does not know
    both `same_person` and `other_person`.
    """
    same, other = pack.fr_vit.same_person, pack.fr_vit.other_person
    if same is None or other is None:
        return []
    known = {(one.face_id, one.of_face_id) for one in found} | {(one.of_face_id, one.face_id) for one in found}
    pairs = [
        (copy, original)
        for copy, original in _pairs(store, pack.name)
        if (of is None or copy["photo_id"] in of or original["photo_id"] in of)
        and (copy["face_id"], original["face_id"]) not in known
        and (copy["person"] is None or copy["person"] != original["person"])
    ]
    best: dict[str, Again] = {}
    for start in range(0, len(pairs), _AT_ONCE):
        for again in _compared(store, pack.name, pairs[start : start + _AT_ONCE]):
            before = best.get(again.face_id)
            if again.similarity >= (same + other) / 2 and (before is None or before.similarity < again.similarity):
                best[again.face_id] = again
    return list(best.values())


def _pairs(store: Store, pack: str) -> Iterator[tuple[_Face, _Face]]:
    """Each face of a photo that is called as another's copy, with each face of that one."""
    groups: dict[tuple[str, str], dict[tuple[int, str, str], list[_Face]]] = {}
    for face in faces_of_pack(store, pack, _COLUMNS).to_pylist():
        if face["uri"] and face["uri"] != UPLOADED:
            place, stem = _file_of(**face)
            photo = (len(stem), stem, face["photo_id"])
            groups.setdefault((place, made_of(stem)), {}).setdefault(photo, []).append(face)
    for photos in groups.values():
        original, *copies = sorted(photos)  # that of the shortest name
        for copy in copies:
            yield from product(photos[copy], photos[original])


def _file_of(*, uri: str, name: str, face_index: int, **_: Any) -> tuple[str, str]:
    """Where a face's photo lies, and what it is called there, without suffix."""
    if _OF_A_ROW.search(uri):
        return uri.rpartition("#")[0], name.removesuffix(f"-{face_index}") if face_index else name
    last = re.split("[/#]", uri)[-1]
    return uri.removesuffix(last), PurePosixPath(last).stem


def _compared(store: Store, pack: str, pairs: Sequence[tuple[_Face, _Face]]) -> Iterator[Again]:
    wanted = sorted({face["face_id"] for pair in pairs for face in pair})
    found = faces_by_id(store, pack, wanted, ["face_id", "features", "features_mirror"])
    if not found.num_rows:  # all of them were erased meanwhile
        return
    faces_NF = embeddings(matrix(found["features"]), matrix(found["features_mirror"]))
    row_of = {face_id: row for row, face_id in enumerate(found["face_id"].to_pylist())}
    for copy, original in pairs:
        if copy["face_id"] in row_of and original["face_id"] in row_of:
            cosine = float(faces_NF[row_of[copy["face_id"]]] @ faces_NF[row_of[original["face_id"]]])
            face = {column: copy[column] for column in _NAMED}
            named = {f"of_{column}": original[column] for column in _NAMED}
            yield Again(**face, **named, similarity=cosine, near_duplicate=False, by_name=True)
