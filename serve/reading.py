"""What a request's pictures say of a pose, read in a process of its own, which a picture may kill."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Literal, TypeAlias, cast

from factory.draw.compose import Pose
from factory.faces.isolated import IsolatedCalls

Kind = Literal["photo", "skeleton"]
Work: TypeAlias = tuple[Kind, bytes, tuple[int, int]]  # the picture's bytes, and the size of the one to be drawn
LIMIT_S: Final = 30.0  # of one picture


class PoseReader:
    """Reads poses with a pack's detector. The child starts with the first one."""

    def __init__(self, pack: str) -> None:
        self._pack = pack
        self._room = asyncio.Lock()  # whoever waits for another one's picture takes no thread from other routes
        self._calls: IsolatedCalls | None = None

    async def read(self, kind: Kind, data: bytes, size_px: tuple[int, int]) -> Pose:
        """A photo's pose for a picture of this width and height, or a skeleton's pixels.

        Raises PhotoRejected for a picture that cannot be used, ValueError for a pose that cannot be taken over,
        TimeoutError where others took all of the time.
        """
        async with asyncio.timeout(LIMIT_S) as waiting, self._room:
            waiting.reschedule(None)
            reading = asyncio.ensure_future(asyncio.to_thread(self._read, (kind, data, size_px)))
            try:
                return await asyncio.shield(reading)
            except asyncio.CancelledError:
                await asyncio.wait([reading])  # the thread is at it still
                raise

    def _read(self, work: Work) -> Pose:
        if self._calls is None:
            self._calls = IsolatedCalls(_reader, [self._pack])
        return cast(Pose, self._calls.call(work, limit_s=LIMIT_S))


def _reader(pack: str) -> Callable[[Work], Pose]:
    import cv2

    from factory.draw.poses import PhotoPoses, skeleton_pose
    from factory.pack import load_pack

    cv2.setNumThreads(1)
    photos = PhotoPoses(load_pack(pack))
    return lambda work: photos.read(work[1], work[2]) if work[0] == "photo" else skeleton_pose(work[1])
