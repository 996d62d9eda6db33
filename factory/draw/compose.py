"""What somebody asks for -> an ImageRequest: who is in the picture, where, in which pose, and of what size; or a
ClipRequest: who moves, and along which poses.

Light: no network is loaded here, so the endpoint's ingress and a job's driver can use it.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Final, TypeAlias

import numpy as np

from factory.config import AnimateConfig, GenerateConfig, SculptConfig
from factory.errors import SceneRefused
from factory.faces.pose import LIMITS, SHIFT_LIMITS, HeadPose, draw_skeleton
from factory.pack import Pack
from factory.prompts import PERSON, people_in, texts_by_person
from factory.records import ClipRequest, Identity, ImageRequest, PoseControl, Region

Box: TypeAlias = tuple[float, float, float, float]  # x0 y0 x1 y1, shares of the picture
Pose: TypeAlias = HeadPose | np.ndarray  # of a head, or a whole picture's skeleton: uint8 [H, W, 3], RGB
MAX_PEOPLE: Final = 4  # of one picture
_LEAST_BOX: Final = 0.0625  # share of a side: less holds no cell of the studio's latents, and nobody is drawn there


def compose(
    prompt: str,
    seed: int,
    config: GenerateConfig,
    *,
    pack: Pack,
    own: Identity | None,
    find: Callable[[str], Identity],
    boxes: Mapping[str | None, Box] | None = None,
    poses: Sequence[Pose] = (),
    pose_scale: float = 1.0,
    pose_range: tuple[float, float] = (0.0, 1.0),
) -> ImageRequest:
    """A request of one picture. `own` is who `<person>` stands for, `find` looks others up by name or id.

    `boxes` are places of people by name (None: `own`); those who have none stand side by side. `poses` are one for all,
    or one a person in the prompt's order. Where nobody asks for a pose, a picture that is not square gets a skeleton of
    a head for each person, if the pack's pose control takes one: a base model that knows squares draws ghosts there.

    Raises:
        SceneRefused: nobody is asked for, too many are, a box or pose does not fit, or the pack has no such control.
        IdentityNotFound: whatever `find` raises.
    """
    wanted = list(dict.fromkeys([*people_in(prompt), *(boxes or {})]))
    if None in wanted and own is None:
        raise SceneRefused(f"{PERSON} stands for nobody here: name an identity, or write <person:NAME>", "prompt")
    if len(wanted) > MAX_PEOPLE:
        raise SceneRefused(f"{len(wanted)} people in one picture; {MAX_PEOPLE} are the most", "prompt")
    people = {name: own if name is None else find(name) for name in wanted}
    named = {name: who for name, who in people.items() if who is not None}
    first = next(iter(named.values()))
    texts = texts_by_person(prompt)
    everybodys = next(iter(texts.values()))  # of somebody with a box whom the prompt does not name
    config = _sized(config, pack, len(named))
    size = _size(config, pack)
    places = _places(list(named), boxes or {})
    regions = tuple(
        Region(identity=who, prompt=texts.get(name, everybodys), box=places[name]) for name, who in named.items()
    )
    request = ImageRequest(identity=first, prompt=prompt, seed=seed, config=config, regions=regions)
    if len(named) == 1:
        request = replace(request, prompt=everybodys, regions=())
    heads = list(poses) or ([HeadPose()] if takes_heads(pack) and size[0] != size[1] else [])
    if not heads:
        return request
    control = _control(pack, heads, list(places.values()), size)
    start, end = pose_range
    return replace(request, pose=PoseControl(skeleton=control, scale=pose_scale, start=start, end=end))


def compose_clip(
    prompt: str,
    seed: int,
    config: AnimateConfig,
    *,
    pack: Pack,
    own: Identity | None,
    find: Callable[[str], Identity],
    poses: Sequence[Pose] = (),
    pose_scale: float = 1.0,
) -> ClipRequest:
    """A request of one clip, of one person. `poses` are one for all frames, or one a frame (`pose_path`).

    Raises as `compose`, and where the pack's clips come from a whole text-to-video model, which follows no poses.
    """
    if pack.video is not None:
        if poses:
            message = f"the text-to-video model of pack {pack.name!r} follows no poses, only motion layers do"
            raise SceneRefused(message, "pose")
        # as that model draws: its own size, and no skeletons for pictures that are not square
        pack = pack.model_copy(update={"resolution": pack.video.resolution, "control": {}})
    if len(poses) not in (0, 1, config.num_frames):
        message = f"{len(poses)} poses for {config.num_frames} frames: give one for all, or one each"
        raise SceneRefused(message, "pose")
    if len(people_in(prompt)) > 1:
        raise SceneRefused("a clip shows one person, and this prompt names several", "prompt")
    frames = [
        compose(prompt, seed, config.generate, pack=pack, own=own, find=find, poses=some, pose_scale=pose_scale)
        for some in ([[pose] for pose in poses] or [[]])
    ]
    controls = [frame.pose for frame in frames if frame.pose is not None]
    first, every = frames[0], controls * (config.num_frames if len(controls) == 1 else 1)
    return ClipRequest(identity=first.identity, prompt=first.prompt, seed=seed, config=config, poses=tuple(every))


def pose_path(stops: Sequence[HeadPose], num_frames: int) -> list[HeadPose]:
    """Poses of a clip's frames, from the first stop to the last at one pace from stop to stop; one stop: a still."""
    at = np.linspace(0, len(stops) - 1, num_frames)
    names = [field.name for field in fields(HeadPose)]
    along = {name: np.interp(at, range(len(stops)), [getattr(stop, name) for stop in stops]) for name in names}
    return [HeadPose(**{name: float(along[name][frame]) for name in names}) for frame in range(num_frames)]


def drawn_size(width_px: int, height_px: int, *, side: int) -> tuple[int, int]:
    """Width and height, px, of the nearest shape that a model of squares of this side does well: the shorter side is
    its own, the longer one at most twice that, in multiples of 8. The picture is resampled to what was asked for."""
    longer = min(2.0, max(width_px, height_px) / min(width_px, height_px))
    extent = 8 * round(longer * side / 8)
    return (extent, side) if width_px >= height_px else (side, extent)


def named_pose(pack: Pack, name: str) -> HeadPose:
    """A pose that the pack has a name for. SceneRefused names near ones."""
    poses = pack.control["pose"].poses if "pose" in pack.control else {}
    if name not in poses:
        near = difflib.get_close_matches(name, poses, n=3) or list(poses)
        raise SceneRefused(f"pack {pack.name!r} has no pose {name!r}; there are {', '.join(near) or 'none'}", "pose")
    return HeadPose(**poses[name])


def check_box(box: Sequence[float]) -> Box:
    """A place in a picture. SceneRefused if it does not lie within it, or is too small to show somebody."""
    if len(box) != 4 or not (0 <= box[0] < box[2] <= 1 and 0 <= box[1] < box[3] <= 1):
        message = f"a box is x0, y0, x1, y1 in shares of the picture with x0 < x1 and y0 < y1, not {list(box)}"
        raise SceneRefused(message, "regions")
    if min(box[2] - box[0], box[3] - box[1]) < _LEAST_BOX:
        raise SceneRefused(f"a box is at least {_LEAST_BOX:g} of the picture wide and high, not {list(box)}", "regions")
    return box[0], box[1], box[2], box[3]


def _places(names: Sequence[str | None], boxes: Mapping[str | None, Box]) -> dict[str | None, Box]:
    """Everybody's box: the given ones, and equal columns from left to right."""
    columns = {name: (k / len(names), 0.0, (k + 1) / len(names), 1.0) for k, name in enumerate(names)}
    return {name: check_box(boxes.get(name, columns[name])) for name in names}


def check_views(pack: Pack, config: SculptConfig) -> None:
    """ValueError with the remedy if a head is to be seen from where the pack's pose control has never looked."""
    for name, limit in (("yaw", config.yaw_limit), ("pitch", config.pitch_limit)):
        if config.control and takes_heads(pack) and limit > LIMITS[name][1]:
            raise ValueError(
                f"{name}_limit {limit:g} is beyond the {LIMITS[name][1]:g} degrees that the pose control of pack "
                f"{pack.name!r} knows; --set control=false goes without it"
            )


def takes_heads(pack: Pack) -> bool:
    """Whether the pack's pose control is shown the skeleton of a head."""
    return "pose" in pack.control and pack.control["pose"].conditioning == "head_pose"


def _control(pack: Pack, poses: list[Pose], boxes: Sequence[Box], size: tuple[int, int]) -> np.ndarray:
    """The skeleton of a picture of this width and height: a given one, or a head for each box."""
    if "pose" not in pack.control:
        raise SceneRefused(f"pack {pack.name!r} has no pose control", "pose")
    if any(isinstance(pose, np.ndarray) for pose in poses) and len(poses) > 1:
        raise SceneRefused("a skeleton shows everybody in the picture: give it alone, without other poses", "pose")
    if isinstance(poses[0], np.ndarray):
        skeleton = poses[0]
        if skeleton.shape[:2] != size[::-1]:
            height, width = skeleton.shape[:2]
            raise SceneRefused(f"the skeleton has {width}x{height} px, the picture {size[0]}x{size[1]}", "pose")
        return skeleton
    if not takes_heads(pack):
        raise SceneRefused(f"the pose control of pack {pack.name!r} takes a skeleton or a photo, no named pose", "pose")
    if len(poses) not in (1, len(boxes)):
        raise SceneRefused(f"{len(poses)} poses for {len(boxes)} people: give one for all, or one each", "pose")
    heads = [pose for pose in poses if isinstance(pose, HeadPose)] * (len(boxes) if len(poses) == 1 else 1)
    return draw_skeleton([_into(head, box, size) for head, box in zip(heads, boxes, strict=True)], *size)


def _into(head: HeadPose, box: Box, size: tuple[int, int]) -> HeadPose:
    """A head of a picture of its own, moved into its box; a small box has a small head, as far as there are such."""
    side = min(size)
    width, height = (box[2] - box[0]) * size[0] / side, (box[3] - box[1]) * size[1] / side
    share = min(1.0, width, height)
    scale = max(LIMITS["scale"][0], head.scale * share)
    shifts = {
        "dx": ((box[0] + box[2]) / 2 - 0.5) * size[0] / side + head.dx * share,
        "dy": ((box[1] + box[3]) / 2 - 0.5) * size[1] / side + head.dy * share,
    }
    for name, extent in zip(shifts, size, strict=True):
        limit = SHIFT_LIMITS[name] + (extent / side - 1) / 2
        shifts[name] = min(max(shifts[name], -limit), limit)
    return replace(head, scale=scale, **shifts)


def _sized(config: GenerateConfig, pack: Pack, num_people: int) -> GenerateConfig:
    """Several people get the pack's wide picture unless a size is asked for."""
    if num_people == 1 or config.width_px or config.height_px:
        return config
    width, height = pack.several_px or (2 * pack.resolution, pack.resolution)
    return config.model_copy(update={"width_px": width, "height_px": height})


def _size(config: GenerateConfig, pack: Pack) -> tuple[int, int]:
    return config.width_px or pack.resolution, config.height_px or pack.resolution
