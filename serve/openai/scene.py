"""Who is in a picture, where, in which pose, and of what size: the wire's fields -> requests to the engine."""

from __future__ import annotations

import asyncio
import binascii
from collections.abc import Sequence
from dataclasses import replace

from factory.config import GenerateConfig
from factory.draw.compose import Box, Pose, compose, drawn_size, named_pose
from factory.errors import PackError, PhotoRejected, SceneRefused
from factory.pack import Pack
from factory.prompts import people_in
from factory.records import Identity, ImageRequest
from serve.catalog import Catalog
from serve.client import QueueFull
from serve.openai.pictures import from_base64
from serve.openai.schemas import PoseField, RegionField, RequestRefused
from serve.reading import LIMIT_S, PoseReader


class Scene:
    """Composes the requests for a pack; looks people up in the catalogue."""

    def __init__(self, pack: Pack, catalog: Catalog, reader: PoseReader) -> None:
        self._pack, self._catalog, self._reader = pack, catalog, reader

    async def compose(
        self,
        prompt: str,
        seed: int,
        config: GenerateConfig,
        *,
        own: Identity | None,
        size: tuple[int, int] | None,
        poses: Sequence[PoseField],
        regions: Sequence[RegionField],
    ) -> ImageRequest:
        """One picture; `size` is what is asked for, width and height in px, None: the pack's.

        Raises RequestRefused, naming the field, UnknownIdentity, IncompatibleIdentity.
        """
        side = self._pack.resolution
        drawn = (side, side) if size is None else drawn_size(*size, side=side)
        heads = [await self._pose(pose, drawn) for pose in poses]
        return await asyncio.to_thread(self._compose, prompt, seed, config, own, size, poses, heads, regions)

    def _compose(
        self,
        prompt: str,
        seed: int,
        config: GenerateConfig,
        own: Identity | None,
        size: tuple[int, int] | None,
        poses: Sequence[PoseField],
        heads: Sequence[Pose],
        regions: Sequence[RegionField],
    ) -> ImageRequest:
        if size is not None and size[0] != size[1]:
            width, height = drawn_size(*size, side=self._pack.resolution)
            config = config.model_copy(update={"width_px": width, "height_px": height})
        counts = poses[0] if poses else PoseField(name="front")
        try:
            request = compose(
                prompt,
                seed,
                config,
                pack=self._pack,
                own=own,
                find=self._catalog.find,
                boxes=self._boxes(prompt, regions, own),
                poses=heads,
                pose_scale=counts.scale,
                pose_range=(counts.start, counts.end),
            )
        except SceneRefused as error:
            raise RequestRefused(error.message, error.about) from None
        for who in (request.identity, *(region.identity for region in request.regions)):
            self._pack.check_fit(who)
        return request

    def _boxes(self, prompt: str, regions: Sequence[RegionField], own: Identity | None) -> dict[str | None, Box]:
        """Boxes by the names that a prompt uses for these people, however the regions call them: None is the request's
        own identity. Raises RequestRefused for somebody with two boxes, UnknownIdentity."""
        called: dict[str, str | None] = {} if own is None else {own.identity_id: None}
        for name in people_in(prompt) if regions else ():
            if (who := own if name is None else self._catalog.find(name)) is not None:
                called[who.identity_id] = name
        boxes: dict[str | None, Box] = {}
        for number, region in enumerate(regions):
            column = (number / len(regions), 0.0, (number + 1) / len(regions), 1.0)
            key = called.get(self._catalog.find(region.person).identity_id, region.person)
            if key in boxes:
                raise RequestRefused(f"{region.person[:100]!r} has two boxes: a person has one", "regions")
            boxes[key] = region.box or column
        return boxes

    async def _pose(self, pose: PoseField, drawn_px: tuple[int, int]) -> Pose:
        try:
            if pose.name is not None:
                return named_pose(self._pack, pose.name)
            kind, text = ("photo", pose.photo) if pose.photo is not None else ("skeleton", pose.skeleton)
            data = from_base64(text or "")
            return await self._reader.read("photo" if kind == "photo" else "skeleton", data, drawn_px)
        except binascii.Error:
            raise RequestRefused(f"pose: {_no_picture(text or '')}", "pose") from None
        except PackError:  # the server's own, with its paths
            raise
        except TimeoutError:
            raise QueueFull(LIMIT_S) from None
        except (ValueError, PhotoRejected) as error:
            raise RequestRefused(f"pose: {error}", "pose") from None


def several(request: ImageRequest, num: int) -> list[ImageRequest]:
    """The same picture with the seeds seed .. seed + num - 1."""
    return [replace(request, seed=request.seed + number) for number in range(num)]


def _no_picture(text: str) -> str:
    """What a text is that is no base64, and what to send instead."""
    start = text.lstrip()[:8].lower()
    if start.startswith(("{", "[")):
        return "keypoints are not read: send the skeleton that is drawn from them, as a picture in base64"
    if start.startswith(("http:", "https:", "file:", "ftp:", "s3:", "blob:")):
        return "no address is fetched: send the picture itself, in base64"
    if start.startswith(("/", "~", ".")) or start[1:3] in (":\\", ":/"):
        return "no file is read here: send the picture itself, in base64"
    return "no base64: send a picture in it, or as a data: URL"
