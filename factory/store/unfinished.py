"""Erasures that have begun: whom, by ids and own names, until nothing of them is left. What was killed between is gone
on with by the next erasure of the root (erase.py), whoever that is about.

A file each under ROOT/erasing, which goes with the last trace. It holds no picture and no numbers of a face.
"""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import asdict, replace
from typing import Final

import pyarrow.fs as pafs
from pydantic import TypeAdapter, ValidationError

from factory.files import filesystem
from factory.store.person import Person
from factory.store.tables import Store
from factory.store.traces import ERASING

logger = logging.getLogger(__name__)
_PERSON: Final = TypeAdapter(Person)


def begun(store: Store, person: Person) -> str:
    """Writes down who is to go, and gives the uri of it. The same person's, begun again, is the same file."""
    uri = f"{store.root}/{ERASING}/{hashlib.sha256(_written(replace(person, alike=()))).hexdigest()[:16]}.json"
    files, path = filesystem(uri)
    files.create_dir(path.rpartition("/")[0], recursive=True)
    with files.open_output_stream(path) as stream:
        stream.write(_written(person))
    return uri


def ended(uri: str) -> None:
    """Nothing of them is left."""
    files, path = filesystem(uri)
    if files.get_file_info(path).type == pafs.FileType.File:  # another process may have gone on with the same
        files.delete_file(path)


def unfinished(store: Store) -> list[Person]:
    """Who was begun with and not ended. What cannot be understood stays, and is told: it was cut off while it was
    written, which another process may be about, or is something else."""
    files, folder = filesystem(f"{store.root}/{ERASING}")
    found = files.get_file_info(pafs.FileSelector(folder, allow_not_found=True))
    people = []
    for path in sorted(info.path for info in found if info.type == pafs.FileType.File and info.extension == "json"):
        with files.open_input_stream(path) as stream:
            text = stream.read()
        try:
            people.append(_PERSON.validate_json(text))
        except ValidationError:
            logger.warning(
                "%s does not say whom an erasure was about, so it was not gone on with: run one with the version that "
                "wrote it, or remove the file if it is none of ours",
                path,
            )
    return people


def _written(person: Person) -> bytes:
    """As JSON, which is the same of the same person; a photo's bytes are not kept."""
    kept = {name: sorted(value) if isinstance(value, set) else value for name, value in asdict(person).items()}
    del kept["content"]
    return json.dumps(kept, sort_keys=True).encode()
