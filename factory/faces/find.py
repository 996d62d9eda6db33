"""A photo's bytes -> its faces, cut out and aligned. No torch and no GPU: what a cheap machine does for a dear one."""

from __future__ import annotations

from dataclasses import replace

from factory.config import PrepareConfig
from factory.errors import PhotoRejected
from factory.faces.detect import FaceDetector
from factory.faces.photos import decode_photo
from factory.ids import content_id
from factory.pack import Pack
from factory.records import FoundFaces


class FaceFinder:
    """Decodes photos and cuts out their faces. One thread per finder unless told otherwise."""

    def __init__(self, pack: Pack, config: PrepareConfig, *, num_threads: int = 1) -> None:
        """Load the detector; raises PackError if it is missing or does not fit."""
        self._config = config
        self._detector = FaceDetector(pack, config, num_threads=num_threads)

    def find(self, data: bytes, name: str, photo_id: str | None = None) -> FoundFaces:
        """The faces of an image file. What is wrong with it is part of the answer: nothing is raised for a photo.

        `photo_id` is its `content_id`, where it is known.
        """
        photo_id, photo = photo_id or content_id(data), None
        try:
            photo = decode_photo(data, name=name, config=self._config, photo_id=photo_id)
            found = self._detector.find(photo)
        except PhotoRejected as error:
            found = FoundFaces(photo_id=photo_id, name=name, faces=[], refused=[(0, error)])
        except MemoryError:
            refusal = PhotoRejected("out_of_memory", f"{len(data)} bytes need more memory than there is")
            found = FoundFaces(photo_id=photo_id, name=name, faces=[], refused=[(0, refusal)])
        if photo is None or not photo.unread:
            return found
        pages = f"{photo.unread} more page{'s' if photo.unread > 1 else ''} of this TIFF"
        told = PhotoRejected("unsupported", f"{pages}: one is read of a file; save each page as a file of its own")
        return replace(found, refused=[*found.refused, (len(found.faces) + len(found.refused), told)])
