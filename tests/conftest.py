"""Fixtures that more than one test file uses."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # before the hub's client is imported: no test may reach for a network

import pytest
import torch

from factory.pack import Pack, load_pack
from factory.store.tables import Store
from tests.make_pack import make_pack

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """How processes share the tests: those that start Ray are one's, from the beginning, as two Rays would be in each
    other's way and they take longest; of the others a file's stay together, as they share what it makes. There is one
    process more than cores, as Ray's tests mostly wait."""

    def starts_ray(item: pytest.Item) -> bool:
        return item.get_closest_marker("cluster") is not None

    items.sort(key=lambda item: not starts_ray(item))
    for item in items:
        item.add_marker(pytest.mark.xdist_group("cluster" if starts_ray(item) else item.path.stem))


@pytest.fixture(scope="session")
def tiny_pack(tmp_path_factory: pytest.TempPathFactory) -> Pack:
    """SD 2.1's structure at toy widths with random weights; predicts epsilon. 64 px, latents 4 x 8 x 8, D = 32."""
    return load_pack(make_pack(tmp_path_factory.mktemp("packs") / "tiny"))


@pytest.fixture(scope="session")
def tiny_pack_v(tmp_path_factory: pytest.TempPathFactory) -> Pack:
    """The same with another seed, a v-prediction schedule and the small autoencoder of the studio pack."""
    folder = tmp_path_factory.mktemp("packs_v") / "tiny_v"
    return load_pack(make_pack(folder, prediction_type="v_prediction", vae="tiny", seed=1))


@pytest.fixture(scope="session")
def tiny_pack_posed(tmp_path_factory: pytest.TempPathFactory) -> Pack:
    """The first one with a ControlNet of OpenPose's bodies, and an estimator that sees a person in what is blue."""
    return load_pack(make_pack(tmp_path_factory.mktemp("packs_posed") / "tiny_posed", pose=True))


@pytest.fixture(scope="session")
def tiny_pack_moving(tmp_path_factory: pytest.TempPathFactory) -> Pack:
    """The first one with motion layers and a ControlNet."""
    return load_pack(make_pack(tmp_path_factory.mktemp("packs_moving") / "tiny_moving", pose=True, clips="motion"))


@pytest.fixture(scope="session")
def tiny_pack_video(tmp_path_factory: pytest.TempPathFactory) -> Pack:
    """The first one with a whole text-to-video model of 32 px."""
    return load_pack(make_pack(tmp_path_factory.mktemp("packs_video") / "tiny_video", clips="video"))


@pytest.fixture
def for_anyone() -> Iterator[Path]:
    """A folder that any user may look into, which `tmp_path` is not."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A root that holds nothing yet."""
    return Store(tmp_path / "root")
