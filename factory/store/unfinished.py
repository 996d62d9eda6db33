"""Erasures that have begun: whom, by ids and own names, until nothing of them is left. What was killed between is gone
on with by the next erasure of the root (erase.py), whoever that is about.

A file each under ROOT/erasing, which goes with the last trace. It holds no picture and no numbers of a face.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import fields
from typing import Any, Final

import pyarrow.fs as pafs

from factory.files import filesystem
from factory.store.person import Person
from factory.store.tables import Store
from factory.store.traces import ERASING

_TEXTS: Final = ("content", "asked")  # all other fields are sets of ids or names; a photo's bytes are not kept


def begun(store: Store, person: Person) -> str:
    """Writes down who is to go, and gives the uri of it. The same person's, begun again, is the same file."""
    kept = {one.name: sorted(getattr(person, one.name)) for one in fields(person) if one.name not in _TEXTS}
    text = json.dumps({**kept, "asked": person.asked}, sort_keys=True)
    uri = f"{store.root}/{ERASING}/{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"
    files, path = filesystem(uri)
    files.create_dir(path.rpartition("/")[0], recursive=True)
    with files.open_output_stream(path) as stream:
        stream.write(text.encode())
    return uri


def ended(uri: str) -> None:
    """Nothing of them is left."""
    files, path = filesystem(uri)
    if files.get_file_info(path).type == pafs.FileType.File:  # another process may have gone on with the same
        files.delete_file(path)


def unfinished(store: Store) -> list[Person]:
    """Who was begun with and not ended; what was cut off while it was written is nobody, as nothing had gone yet."""
    files, folder = filesystem(f"{store.root}/{ERASING}")
    found = files.get_file_info(pafs.FileSelector(folder, allow_not_found=True))
    people = []
    for path in sorted(info.path for info in found):
        with files.open_input_stream(path) as stream:
            text = stream.read()
        try:
            kept: dict[str, Any] = json.loads(text)
        except ValueError:
            files.delete_file(path)
            continue
        sets: dict[str, Any] = {name: set(value) for name, value in kept.items() if name not in _TEXTS}
        people.append(Person(**sets, asked=kept["asked"]))
    return people
