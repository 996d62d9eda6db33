"""What lies beside photos and is none, by its name: what systems and programs leave, sidecars, and what stands for a
file that is elsewhere or not whole yet."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import PurePosixPath
from typing import Final

from factory.files import shown

HIDDEN: Final = "hidden"  # as what they are left out
SYSTEM: Final = "system"
SIDECAR: Final = "sidecar"
IN_ICLOUD: Final = "only in iCloud"
IN_A_CLOUD: Final = "only in a cloud"
UNFINISHED: Final = "unfinished download"
REMEDIES: Final = {  # of those that are photos, or will be
    IN_ICLOUD: "have them downloaded first, by Finder's Download Now or `brctl download FOLDER`",
    IN_A_CLOUD: "have them downloaded first: in the cloud's own program, set the folder to be kept on this machine",
    UNFINISHED: "finish them, or download the files again",
}
CONSENTS: Final = "consent.csv"  # who agreed to what (consents.py)
_NAMED: Final = 3  # of some that are told, the others are counted
TABLES: Final = ".lance"  # suffix of a folder that is a table
DVC: Final = ".dvc"  # suffix of what stands for a file or folder

_SYSTEM: Final = frozenset(  # what systems and NAS leave beside photos, thumbnails and bins among it
    "@eadir @recycle @tmp #recycle #snapshot __macosx $recycle.bin recycler lost+found thumbs.db ehthumbs.db "
    "ehthumbs_vista.db desktop.ini picasa.ini icon\r".split(" ")
) | {"system volume information"}
_LIBRARIES: Final = (".photoslibrary", ".photolibrary", ".aplibrary")  # of Apple's programs: folders, where
_ORIGINALS: Final = ("originals", "masters")  # photos are in these, and thumbnails and copies in others
_CATALOGS: Final = (".lrdata", ".cocatalog", ".c1catalog")  # of other programs: previews
_OF_CACHES: Final = ("datasets--", "models--")  # how Hugging Face's folders begin, whose files are links (snapshots)
_BEHIND_LINKS: Final = ("blobs", "refs")  # to these
_OF_EMR: Final = "_$folder$"  # end of the keys that stand for folders
_SIDECARS: Final = frozenset(  # what programs and people write about photos; .thm: a camera's thumbnail, .npz: a cache
    "xmp aae json jsonl ndjson txt xml csv tsv md rst html htm yaml yml toml ini log pp3 dop thm cos vrd cls npy npz "
    "url lnk webloc db md5 sha1 sha256 sfv crc caption cap tags pts idx lst safetensors ckpt pt pth "
    "gdoc gsheet gslides gform gdraw gmap gsite".split()
)
_MARK_OF_THE_WEB: Final = "zone.identifier"  # behind the name of a file that Windows downloaded, where others see it
_TEXTS: Final = frozenset("readme license licence copying notice pax_global_header".split())
_ICLOUD: Final = ".icloud"  # .ada.jpg.icloud
_CLOUDS: Final = frozenset("cloud cloudf nextcloud owncloud opencloud rslsp gshortcut".split())  # ada.jpg.cloud
_DOWNLOADS: Final = frozenset("crdownload part partial download opdownload filepart aria2 !qb !ut".split())
_PACKAGE: Final = ".download"  # of Safari: a folder ada.jpg.download


def few_of(files: Sequence[str]) -> str:
    """The first of some files and folders, by name."""
    more = f" and {len(files) - _NAMED} more" if len(files) > _NAMED else ""
    return f"{', '.join(map(shown, files[:_NAMED]))}{more}"


def left_out_as(name: str, folder: str = "") -> str | None:
    """Why an entry of this name, in a folder of that name, is no photo, by its kind; None if it may be one."""
    low, within = name.lower(), folder.lower()
    if name.startswith(".") and name not in (".", ".."):  # which may be parts of a key in S3
        placeholder = low.endswith(_ICLOUD) and low != _ICLOUD
        return IN_ICLOUD if placeholder and left_out_as(name[1 : -len(_ICLOUD)]) is None else HIDDEN
    in_library = within.endswith(_LIBRARIES) and low not in _ORIGINALS
    in_cache = within.startswith(_OF_CACHES) and low in _BEHIND_LINKS
    if low in _SYSTEM or low.endswith((*_CATALOGS, _MARK_OF_THE_WEB, _OF_EMR)) or in_library or in_cache:
        return SYSTEM
    stem, dot, suffix = low.rpartition(".")
    if not (dot and stem):
        return SIDECAR if low in _TEXTS else None
    if suffix in _SIDECARS:
        return SIDECAR
    if suffix in _CLOUDS:
        return IN_A_CLOUD
    return UNFINISHED if suffix in _DOWNLOADS and ("." in stem or suffix == "crdownload") else None


def folder_left_out_as(name: str, folder: str = "") -> str | None:
    """The same of a folder, with all that is in it."""
    why = left_out_as(name, folder)
    return why if why in (HIDDEN, SYSTEM) or (why == UNFINISHED and name.lower().endswith(_PACKAGE)) else None


def left_out_path(path: str) -> str | None:
    """As `left_out_as`, of a file by its path: also if one of its folders is left out."""
    *folders, last = pairwise(("", *PurePosixPath(path).parts) if path else ("", ""))
    kinds = (folder_left_out_as(name, within) for within, name in folders)
    return next((kind for kind in kinds if kind), None) or left_out_as(last[1], last[0])
