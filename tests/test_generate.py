"""What `generate` asks its workers for, and what they make of it: people, poses, and whoever was erased meanwhile."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from factory.config import GenerateConfig
from factory.draw.compose import Pose
from factory.draw.poses import read_pose
from factory.errors import IdentityNotFound, IncompatibleIdentity
from factory.faces.pose import HeadPose, draw_skeleton
from factory.pack import Pack
from factory.parts import ControlPart
from factory.provenance.xmp import without_marks
from factory.records import ImageRequest
from factory.store.erase import erase, find_person
from factory.store.rows import encode_png
from factory.store.schemas import SCHEMAS
from factory.store.tables import Store
from pipelines.generate import ImageMaker, Poses, _requests, commit, write_pngs
from tests.serving import people_store

CONFIG = GenerateConfig(num_inference_steps=2)
SIZE = (64, 64)  # px of the pictures
POSES: Poses = {"": (), "left+front": (HeadPose(yaw=-30), HeadPose())}


@pytest.fixture
def pack(tiny_pack: Pack) -> Pack:
    poses = {"left": {"yaw": -30.0}, "front": {}}
    control = ControlPart(path="control/pose", licence="none", conditioning="head_pose", poses=poses)
    return tiny_pack.model_copy(update={"control": {"pose": control}})


@pytest.fixture
def store(tmp_path: Path, tiny_pack: Pack) -> Store:
    return people_store(tmp_path, tiny_pack)


class Generator:
    """Stands for `ImageGenerator`: notes what it is asked for."""

    def __init__(self, pack: Pack) -> None:
        self.base = type("Base", (), {"pack": pack})
        self.asked: list[ImageRequest] = []

    def generate(self, requests: list[ImageRequest], **_: Any) -> list[np.ndarray]:
        self.asked += requests
        random = np.random.default_rng(0)
        return [random.integers(0, 256, (8, 8, 3), np.uint8) for _ in requests]


def maker(pack: Pack, store: Store) -> tuple[ImageMaker, Generator]:
    made = ImageMaker.__new__(ImageMaker)
    made.generator = generator = Generator(pack)  # type: ignore[assignment]
    made.config, made.poses, made.store = CONFIG, POSES, store
    made.reporter = type("Reporter", (), {"step": lambda *_: None, "finished": lambda _: None})()  # type: ignore[assignment]
    return made, generator


def rows(pack: Pack, store: Store, prompt: str, pose: str = "") -> list[dict[str, Any]]:
    return list(_requests([store.find_identity("ada")], [(prompt, 3, pose)], CONFIG, pack, store, POSES))


def test_workers_compose_what_the_driver_asked_for(pack: Pack, store: Store) -> None:
    import pyarrow as pa

    from pipelines.generate import REQUEST

    (row,) = rows(pack, store, "<person> and <person:bob> at sea", "left+front")
    ada, bob = (store.find_identity(name) for name in ("ada", "bob"))
    assert row["people"] == [ada.identity_id, bob.identity_id] and row["pose"] == "left+front"
    assert row["image_id"] != rows(pack, store, "<person> and <person:bob> at sea")[0]["image_id"]
    worker, generator = maker(pack, store)
    images = worker(pa.Table.from_pylist([row], REQUEST))
    (request,) = generator.asked
    assert [region.identity.name for region in request.regions] == ["ada", "bob"] and request.seed == 3
    assert request.pose is not None
    expected = draw_skeleton([HeadPose(yaw=-30, dx=-0.5), HeadPose(dx=0.5)], 128, 64)
    np.testing.assert_array_equal(request.pose.skeleton, expected)
    assert images["people"].to_pylist() == [row["people"]] and images["pose"].to_pylist() == ["left+front"]


def test_a_picture_goes_with_either_of_its_people(pack: Pack, store: Store) -> None:
    import pyarrow as pa

    from pipelines.generate import REQUEST

    asked = [*rows(pack, store, "<person> and <person:bob>"), *rows(pack, store, "<person>")]
    worker, _ = maker(pack, store)
    images = worker(pa.Table.from_pylist(asked, REQUEST))
    commit(images, store)
    assert store.count("images") == 2
    done = erase(store, find_person(store, name="bob"))
    assert done.found == [] and store.count("images") == 1 and store.images()[0].prompt == "<person>"
    commit(images, store)  # a worker that had drawn it before
    assert store.count("images") == 1
    assert worker(pa.Table.from_pylist(asked, REQUEST)).num_rows == 1, "nor is it drawn any more"


def test_who_cannot_be_drawn_is_told_before_anything_is(pack: Pack, store: Store) -> None:
    with pytest.raises(IncompatibleIdentity, match="cleo"):
        rows(pack, store, "<person> and <person:cleo>")
    with pytest.raises(IdentityNotFound, match="nobody"):
        rows(pack, store, "<person> and <person:nobody>")


def test_poses_as_they_are_written_on_a_command_line(pack: Pack, tmp_path: Path) -> None:
    assert read_pose(pack, "left + front", SIZE) == [HeadPose(yaw=-30), HeadPose()]
    skeleton = draw_skeleton([HeadPose()], 64, 64)
    (tmp_path / "s.png").write_bytes(encode_png(skeleton))
    (pose,) = read_pose(pack, f"skeleton:{tmp_path}/s.png", SIZE)
    np.testing.assert_array_equal(np.asarray(pose), skeleton)
    (tmp_path / "text").write_bytes(b"text")
    cases: list[tuple[str, type[Exception], str]] = [
        ("lefft", ValueError, "no pose 'lefft'; there are left"),
        (f"photo:{tmp_path}/text", ValueError, "not_an_image"),
        (f"photo:{tmp_path}/s.png", ValueError, "no_face"),
        (f"photo:{tmp_path}/nothing", OSError, "nothing"),
        ("picture:x", ValueError, "write a pose's name, photo:FILE or skeleton:FILE"),
    ]
    for text, kind, message in cases:
        with pytest.raises(kind, match=message):
            read_pose(pack, text, SIZE)


def test_a_photo_s_pose_is_taken_over() -> None:
    """Of a real face: the astronaut looks to the right of the picture, her head slightly tilted."""
    import skimage.data

    from factory.draw.poses import PhotoPoses
    from factory.pack import load_pack

    data = encode_png(np.asarray(skimage.data.astronaut())[:256, 96:352])
    pose: Pose = PhotoPoses(load_pack("studio")).read(data, (128, 128))
    assert isinstance(pose, HeadPose) and abs(pose.roll) < 18 and abs(pose.yaw) <= 32


def test_an_openpose_control_is_shown_the_bodies_of_a_photo(tiny_pack_posed: Pack) -> None:
    """In a picture of the size that is drawn; a photo with nobody in it is told."""
    blue = np.zeros((96, 96, 3), np.uint8)
    blue[:, :, 2] = 255  # where the tests' estimator sees somebody
    from factory.draw.poses import PhotoPoses

    photos = PhotoPoses(tiny_pack_posed)
    skeleton = np.asarray(photos.read(encode_png(blue), (128, 64)))
    assert skeleton.shape == (64, 128, 3) and skeleton.any()
    with pytest.raises(ValueError, match="no person is found"):
        photos.read(encode_png(np.zeros((96, 96, 3), np.uint8)), SIZE)


def test_pictures_are_written_to_files_by_one_scan_for_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, scans = Store(tmp_path / "root"), []
    names = ["ada", "bob", "ada", "gone"]
    wanted = [
        {"image_id": f"{number:016x}", "name": name, "identity_id": f"of {name}"} for number, name in enumerate(names)
    ]
    empty = dict.fromkeys(SCHEMAS["images"].names)
    pictures = {row["image_id"]: encode_png(np.full((8, 8, 3), number, np.uint8)) for number, row in enumerate(wanted)}
    store.upsert("images", [{**empty, **row, "image": pictures[row["image_id"]]} for row in wanted[:3]])
    read = Store.read
    monkeypatch.setattr(Store, "read", lambda self, table, **how: (scans.append(table), read(self, table, **how))[1])
    write_pngs(store, wanted, tmp_path / "out")
    written = {file.name: without_marks(file.read_bytes()) for file in (tmp_path / "out").iterdir()}
    assert written == dict(zip(("ada_0.png", "bob_0.png", "ada_1.png"), pictures.values(), strict=False))
    assert scans == ["images"]
    another = encode_png(np.full((8, 8, 3), 99, np.uint8))
    other = [{**empty, "image_id": "f" * 16, "name": "ada", "identity_id": "of ada", "image": another}]
    store.upsert("images", other)
    for _ in range(2):
        write_pngs(store, other, tmp_path / "out")
        write_pngs(store, wanted, tmp_path / "out")
    files = {file.name: without_marks(file.read_bytes()) for file in (tmp_path / "out").iterdir()}
    assert files == {**written, "ada_2.png": another}
    long = "李" * 83
    alike = [
        {**empty, "image_id": f"{number:x}" * 16, "name": name, "identity_id": f"{number:016x}", "image": another}
        for number, name in ((12, f"{long}a"), (13, f"{long}b"), (14, "Cleo"))
    ]
    store.upsert("images", alike)
    write_pngs(store, alike, tmp_path / "alike")
    kept = long.encode()[:200].decode(errors="ignore")
    called = {file.name for file in (tmp_path / "alike").iterdir()}
    assert called == {f"{kept}-{12:016x}_0.png", f"{kept}-{13:016x}_0.png", "Cleo_0.png"}
