"""What `animate` asks its workers for, what it keeps, and the files it writes. Clips are made by a fake here."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pytest
from typer.testing import CliRunner

import pipelines.animate
import pipelines.jobs.stage
from cli.__main__ import app
from factory.config import AnimateConfig
from factory.draw.clips import decode_mp4
from factory.draw.compose import compose_clip, pose_path
from factory.draw.poses import read_path
from factory.errors import IncompatibleIdentity, PackError, SceneRefused
from factory.faces.pose import HeadPose, draw_skeleton
from factory.pack import Pack
from factory.parts import ControlPart, Source
from factory.records import ClipRequest
from factory.store.erase import erase, find_person
from factory.store.rows import encode_png, video_from_row
from factory.store.tables import Store
from pipelines.animate import animate, write_clips
from pipelines.jobs.pools import Pool
from pipelines.jobs.stage import Stage
from tests.serving import people_store

CONFIG = AnimateConfig(num_frames=4, fps=8)
PROMPTS = ["<person> nods", "<person> at sea"]


class ClipGenerator:
    """Stands for the one of factory/draw/video.py: notes what it is asked for, dies when it is told to."""

    asked: ClassVar[list[ClipRequest]] = []
    dies_at = -1

    def __init__(self, pack: Pack, *, device: str = "cpu") -> None:
        self.asked.clear()

    def generate(self, requests: Sequence[ClipRequest], *, on_step: Any = None) -> list[np.ndarray]:
        if len(self.asked) == self.dies_at:
            raise MemoryError("killed")
        self.asked += requests
        return [drawn(one.identity.identity_id, one.seed) for one in requests]


def drawn(identity_id: str, seed: int) -> np.ndarray:
    """What the fake draws: nobody's clip is like another's."""
    random = np.random.default_rng([seed, *identity_id.encode()])
    return random.integers(0, 256, (CONFIG.num_frames, 64, 64, 3), np.uint8)


def _block_by_block(blocks: Sequence[pa.Table], *stages: Stage) -> Iterator[pa.Table]:
    """As Ray Data: a block may have passed all stages when a later one has not begun."""
    workers = [stage.work if stage.pool is None else stage.work(*stage.arguments) for stage in stages]
    for block in blocks:
        for work in workers:
            block = work(block)
        yield block


@pytest.fixture
def pack(tiny_pack: Pack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pack:
    """With named poses and a part that makes clips; jobs run in this process."""
    poses = {"left": {"yaw": -30.0}, "front": {}, "right": {"yaw": 30.0}}
    control = ControlPart(path="control/pose", licence="none", conditioning="head_pose", poses=poses)
    weights = tmp_path / "motion"
    weights.mkdir()
    (weights / "model.safetensors").write_bytes(b"weights")
    moving = tiny_pack.model_copy(update={"control": {"pose": control}})
    parts = {**tiny_pack.parts(), "motion": Source(path=str(weights), licence="none")}
    monkeypatch.setattr(Pack, "parts", lambda self: parts)
    fake = ModuleType("factory.draw.video")
    fake.ClipGenerator = ClipGenerator  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "factory.draw.video", fake)
    monkeypatch.setattr(ClipGenerator, "dies_at", -1)
    reporter = type("Reporter", (), {"__init__": lambda *_: None, "step": lambda *_: None, "finished": lambda _: None})
    here = Pool(size=1, num_cpus=1, num_gpus=0, threads=1)
    for name, value in {
        "connect": lambda: None, "open_board": lambda: None, "read_board": lambda _: 0.0, "StepReporter": reporter,
        "model_pool": lambda *_, **__: here, "load_pack": lambda _: moving,
    }.items():  # fmt: skip
        monkeypatch.setattr(pipelines.animate, name, value)
    monkeypatch.setattr(pipelines.jobs.stage, "stream", _block_by_block)
    return moving


@pytest.fixture
def store(tmp_path: Path, tiny_pack: Pack) -> Store:
    return people_store(tmp_path / "root", tiny_pack)


def run(store: Store, **changes: Any) -> Any:
    asked = {"prompts": PROMPTS, "seeds": [0, 1], "identities": ["ada", "bob"], "config": CONFIG}
    return animate(store.root, "x", **(asked | changes))


def test_every_clip_is_made_once_and_kept_as_an_mp4(pack: Pack, store: Store, tmp_path: Path) -> None:
    for made, skipped in ((8, 0), (0, 8)):
        summary = run(store, out=tmp_path / "out")
        assert (summary.videos, summary.skipped_existing, summary.identities) == (made, skipped, 2)
    rows = [video_from_row(row) for row in store.read("videos").to_pylist()]
    assert len({row.video_id for row in rows}) == 8 and {row.name for row in rows} == {"ada", "bob"}
    for row in rows:
        assert (row.num_frames, row.fps, row.width, row.height, row.people) == (4, 8, 64, 64, [row.identity_id])
        assert decode_mp4(row.video).shape == (4, 64, 64, 3)
        np.testing.assert_array_equal(row.poster, drawn(row.identity_id, row.seed)[0])
        assert AnimateConfig.model_validate_json(row.config) == CONFIG
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == sorted(
        f"{row.name}-{row.video_id}.mp4" for row in rows
    )


def test_other_frames_rates_and_poses_are_other_clips(pack: Pack, store: Store) -> None:
    paths = {"left..right": pose_path([HeadPose(yaw=-30), HeadPose(yaw=30)], 4)}
    for changes in ({}, {"config": AnimateConfig(num_frames=4, fps=9)}, {"pose_paths": paths}):
        assert run(store, prompts=["nods"], seeds=[0], identities=["ada"], **changes).videos == 1
    (posed,) = ClipGenerator.asked
    expected = [draw_skeleton([HeadPose(yaw=yaw)], 64, 64) for yaw in (-30, -10, 10, 30)]
    np.testing.assert_array_equal([pose.skeleton for pose in posed.poses], expected)
    assert sorted(store.read("videos")["poses"].to_pylist()) == ["", "", "left..right"]


def test_a_job_that_died_goes_on_where_it_was(pack: Pack, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ClipGenerator, "dies_at", 3)
    with pytest.raises(MemoryError):
        run(store)
    kept = store.existing_ids("videos")
    assert len(kept) == 3, "each clip was committed by itself"
    monkeypatch.setattr(ClipGenerator, "dies_at", -1)
    assert run(store).videos == 5 == len(ClipGenerator.asked)
    assert store.count("videos") == 8 and kept < store.existing_ids("videos")


def test_who_is_erased_leaves_with_their_clips(pack: Pack, store: Store, tmp_path: Path) -> None:
    run(store)
    ids = sorted(store.existing_ids("videos"))
    done = erase(store, find_person(store, name="ada"))
    assert done.found == [] and done.rows["videos"] == 4
    assert set(store.read("videos")["name"].to_pylist()) == {"bob"}
    assert len(write_clips(store, ids, tmp_path / "out", "gif")) == 4, "who is gone is left out"


def test_what_cannot_be_made_is_told_before_anything_is(pack: Pack, store: Store, tiny_pack: Pack) -> None:
    with pytest.raises(IncompatibleIdentity, match="cleo"):
        run(store, identities=["cleo"])
    with pytest.raises(SceneRefused, match="one person"):
        run(store, prompts=["<person> and <person:bob>"])
    assert store.count("videos") == 0


def test_a_pack_without_motion_says_so(tiny_pack: Pack) -> None:
    with pytest.raises(PackError, match=r"makes no clips: .* neither \[motion\] nor \[video\]"):
        tiny_pack.clip_fingerprint()


def test_a_clip_hangs_on_the_weights_of_its_motion(pack: Pack) -> None:
    before = pack.clip_fingerprint()
    (Path(pack.parts()["motion"].path) / "model.safetensors").write_bytes(b"other weights")
    assert pack.clip_fingerprint() != before


def test_poses_lie_between_the_stops() -> None:
    path = pose_path([HeadPose(yaw=-30), HeadPose(pitch=8), HeadPose(yaw=30)], 5)
    assert [pose.yaw for pose in path] == [-30, -15, 0, 15, 30] and [pose.pitch for pose in path] == [0, 4, 8, 4, 0]
    assert pose_path([HeadPose(roll=5)], 3) == [HeadPose(roll=5)] * 3
    assert pose_path([HeadPose(), HeadPose(yaw=9)], 1) == [HeadPose()]


def test_paths_of_poses_as_they_are_written_on_a_command_line(pack: Pack, tmp_path: Path) -> None:
    def read(text: str) -> list[Any]:
        return read_path(pack, text, (64, 64), 3)

    assert [pose.yaw for pose in read("left..right")] == [-30, 0, 30]
    assert [pose.yaw for pose in read("left .. front .. left")] == [-30, 0, -30]
    folder = tmp_path / "skeletons"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.png").write_bytes(encode_png(draw_skeleton([HeadPose(yaw=number)], 64, 64)))
    np.testing.assert_array_equal(read(f"skeletons:{folder}")[2], draw_skeleton([HeadPose(yaw=2)], 64, 64))
    (folder / "3.png").write_bytes(b"")
    for text, message in [
        ("lefft..right", "no pose 'lefft'"),
        ("left+right..front", "not the pose of one head"),
        (f"skeleton:{folder}/0.png..left", "skeletons:DIR"),
        (f"skeletons:{folder}", "4 files for 3 frames"),
    ]:
        with pytest.raises(ValueError, match=message):
            read(text)


def test_one_pose_is_every_frame_s_and_two_are_none_s(pack: Pack, store: Store) -> None:
    ada = store.find_identity("ada")

    def clip(poses: list[HeadPose]) -> ClipRequest:
        return compose_clip("x", 0, CONFIG, pack=pack, own=ada, find=store.find_identity, poses=poses)

    assert clip([]).poses == () and len(clip([HeadPose(yaw=9)]).poses) == 4
    with pytest.raises(SceneRefused, match="2 poses for 4 frames"):
        clip([HeadPose()] * 2)


def test_clips_are_listed_and_exported(pack: Pack, store: Store, tmp_path: Path) -> None:
    run(store)
    shown = CliRunner().invoke(app, ["videos", "list", "ada", "--root", store.root])
    assert shown.exit_code == 0 and shown.stdout.count("\n") == 5 and "bob" not in shown.stdout
    export = ["videos", "export", "--root", store.root, "--out", str(tmp_path / "out"), "--format"]
    for kind, num in (("webp", 8), ("frames", 16)):
        assert CliRunner().invoke(app, [*export, kind]).exit_code == 0
        assert len(list((tmp_path / "out").iterdir())) == num
    unknown = CliRunner().invoke(app, ["videos", "list", "nobody", "--root", store.root])
    assert unknown.exit_code == 1 and "no clip of 'nobody'" in unknown.stderr
