"""How many workers a job gets, from what a cluster says it has."""

from __future__ import annotations

from typing import Any

import pytest

import pipelines.pools
from pipelines.job import LIGHT
from pipelines.pools import cpu_and_model_pools, model_pool


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    has: dict[str, float] = {}

    class FakeRay:
        @staticmethod
        def cluster_resources() -> dict[str, float]:
            return has

        @staticmethod
        def nodes() -> list[dict[str, Any]]:
            return [{"Alive": True, "Resources": {"CPU": has["CPU"]}}]

    monkeypatch.setattr(pipelines.pools, "ray", FakeRay)
    return has


def test_one_worker_a_gpu_unless_they_share(cluster: dict[str, float]) -> None:
    cluster |= {"CPU": 16, "GPU": 2}
    assert (model_pool(None).size, model_pool(None).num_gpus) == (2, 1)
    shared = model_pool(None, 0.5)
    assert (shared.size, shared.num_gpus, shared.device) == (4, 0.5, "cuda")
    finders, readers = cpu_and_model_pools(None, None, 0.25)
    assert (readers.size, finders.size, finders.num_gpus) == (8, 8, 0)
    on_cpu = cpu_and_model_pools(None, None, 0)[1]
    assert (on_cpu.size, on_cpu.num_gpus, on_cpu.device) == (8, 0, "cpu")


def test_a_cluster_that_starts_at_zero_is_told_what_to_grow_for(cluster: dict[str, float]) -> None:
    finders, readers = cpu_and_model_pools(None, 4, 1)
    assert (readers.size, readers.num_gpus, readers.num_cpus, readers.threads) == (4, 1, 1.0, 1)
    assert (finders.num_gpus, finders.num_cpus) == (0, 1.0)
    assert model_pool(None, 1).size == 1, "at least one, which makes the cluster grow"
    assert model_pool(4).device == "cpu", "nothing says that a GPU will come"


@pytest.mark.parametrize("cpus", [1, 2, 3, 8, 64])
def test_a_light_task_finds_room_beside_the_workers(cluster: dict[str, float], cpus: int) -> None:
    cluster["CPU"] = cpus
    pools = [*cpu_and_model_pools(None, None)]
    for booked in (sum(pool.size * pool.num_cpus for pool in pools), model_pool(None).num_cpus):
        assert booked <= cpus - 2 * LIGHT
    assert all(pool.threads >= 1 for pool in pools)


def test_a_pool_shrinks_and_grows_back(cluster: dict[str, float]) -> None:
    cluster |= {"CPU": 16, "GPU": 4}
    strategy = model_pool(None).strategy
    assert (strategy.min_size, strategy.initial_size, strategy.max_size) == (1, 4, 4)
