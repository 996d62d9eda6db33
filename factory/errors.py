"""The errors a caller can act on, and the closed list of reasons a photo can be refused for."""

from __future__ import annotations

from typing import Literal

REASONS = (
    "unreadable",  # the bytes could not be fetched
    "not_an_image",  # the bytes are something else
    "unsupported",  # an image of a kind that is not read, such as a camera's raw file
    "damaged",  # an image that is cut short or corrupt
    "too_large",  # more bytes or pixels than the limits allow
    "too_small",  # a side shorter than the limit
    "no_face",
    "face_too_small",
    "face_cut_off",  # too much of the face lies outside the photo
    "blurred",  # out of focus or shaken
    "masks_empty",  # the parser found no face in the crop
    "out_of_memory",  # decoding it, or the models on it alone, needs more than there is
    "crashed_worker",  # the process that worked on it died or hung, also when it had nothing else to do
    "diverged",  # training gave words that are not finite
    "low_quality",  # learned, and not as good as was asked for
    "no_consent",  # the root requires one, and there is none that is good now
    "several_faces",  # of a photo that is to show one person, none is told from the others
    "other_person",  # a photo surely shows somebody else than the other photos of the person whose it is said to be
)


class PhotoRejected(Exception):
    """A photo (or a face of it) cannot be used. It is data: it becomes a row of `rejects`, never a failed job."""

    def __init__(self, reason: str, detail: str) -> None:
        assert reason in REASONS, reason
        super().__init__(reason, detail)  # both, so that it survives pickling between processes
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


class IdentityNotFound(LookupError):
    """No stored identity has this name or id."""


class IncompatibleIdentity(ValueError):
    """The identity was learned for another text encoder than the one in use."""


class ConsentExpired(ValueError):
    """Somebody agreed to be drawn, and that time is over."""


class PromptTooLong(ValueError):
    """The text encoder would not read as far as the identity's place in the prompt."""


class SceneRefused(ValueError):
    """What is asked for cannot be put into one picture."""

    def __init__(self, message: str, about: Literal["prompt", "pose", "regions"]) -> None:
        super().__init__(message, about)  # both in args, so that it survives pickling between processes
        self.message, self.about = message, about

    def __str__(self) -> str:
        return self.message


class SourceError(ValueError):
    """The photos' place is missing, unreadable, empty or of another form; the message names the remedy."""


class OutputError(OSError):
    """A file for a user cannot be written; the message names it and the cause."""


class TableDamaged(OSError):
    """A file of a table is missing, or not whole."""


class ClusterError(OSError):
    """The Ray cluster cannot be reached, or was lost; the message names the remedy."""


class PackError(ValueError):
    """A model pack is incomplete, damaged or does not fit; the message names the remedy."""
