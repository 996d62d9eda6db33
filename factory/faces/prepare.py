"""One photo -> its faces, in this process. pipelines/prepare.py does it in bulk, with finders and readers apart."""

from __future__ import annotations

from factory.config import PrepareConfig
from factory.faces.find import FaceFinder
from factory.faces.read import FaceReader, ReadFaces
from factory.pack import Pack
from factory.records import PreparedFace


class Preparer:
    """Holds a pack's detector, parser and feature encoder."""

    def __init__(self, pack: Pack, config: PrepareConfig | None = None, *, device: str = "cpu") -> None:
        """Load the models. Raises PackError where one is missing or does not fit."""
        config = config or PrepareConfig()
        self._finder = FaceFinder(pack, config)
        self._reader = FaceReader(pack, config, device=device)

    def prepare(self, data: bytes, name: str) -> list[PreparedFace]:
        """The usable faces of an image file, the largest first; faces after the first are called "<name>-<index>".

        Raises:
            PhotoRejected: the file is no usable photo, or no face in it can be used (then the largest one's reason).
        """
        return self.read(data, name).usable()

    def read(self, data: bytes, name: str) -> ReadFaces:
        """What became of each face of an image file. Nothing is raised for a photo."""
        [outcome] = self._reader.read([self._finder.find(data, name)])
        return outcome
