"""A photo's bytes -> its faces, cut out and aligned. No torch and no GPU: what a cheap machine does for a dear one."""

from __future__ import annotations

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
        photo_id = photo_id or content_id(data)
        try:
            photo = decode_photo(data, name=name, config=self._config, photo_id=photo_id)
            return self._detector.find(photo)
        except PhotoRejected as error:
            refusal = error
        except MemoryError:
            refusal = PhotoRejected("out_of_memory", f"{len(data)} bytes need more memory than there is")
        return FoundFaces(photo_id=photo_id, name=name, faces=[], refused=[(0, refusal)])
