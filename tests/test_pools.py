"""How many workers a job gets, from what a cluster says it has."""

from __future__ import annotations

from typing import Any

import pytest

import pipelines.jobs.pools
from factory.pack import Pack, load_pack
from pipelines.jobs.pools import LIGHT, Pool, Workers, cpu_and_model_pools, model_pool
from serve.settings import Settings


@pytest.fixture(scope="module")
def pack() -> Pack:
    return load_pack("studio")


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    has: dict[str, float] = {}

    class FakeRay:
        @staticmethod
        def cluster_resources() -> dict[str, float]:
            return has

        @staticmethod
        def nodes() -> list[dict[str, Any]]:
            num = int(has.get("nodes", 1))
            own = {"CPU": has["CPU"] / num, "memory": has.get("memory", 1e12)}
            return [{"Alive": True, "Resources": own}] * num

    monkeypatch.setattr(pipelines.jobs.pools, "ray", FakeRay)
    monkeypatch.setattr(pipelines.jobs.pools, "held_cpus", lambda: has.get("held", 0.0))
    return has


def pool(pack: Pack, workers: int | None = None, gpus: float | None = None, at_most: int = 10**6) -> Pool:
    return model_pool(Workers(num=workers, gpus=gpus), at_most=at_most, pack=pack)


def test_one_worker_a_gpu_unless_they_share(cluster: dict[str, float], pack: Pack) -> None:
    cluster |= {"CPU": 16, "GPU": 2}
    assert (pool(pack).size, pool(pack).num_gpus) == (2, 1)
    shared = pool(pack, None, 0.5)
    assert (shared.size, shared.num_gpus, shared.device) == (4, 0.5, "cuda")
    finders, readers = cpu_and_model_pools(Workers(gpus=0.25))
    assert (readers.size, finders.size, finders.num_gpus) == (8, 8, 0)
    on_cpu = cpu_and_model_pools(Workers(gpus=0))[1]
    assert (on_cpu.size, on_cpu.num_gpus, on_cpu.device) == (8, 0, "cpu")


def test_a_cluster_that_starts_at_zero_is_told_what_to_grow_for(
    cluster: dict[str, float], pack: Pack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    finders, readers = cpu_and_model_pools(Workers(num=4, gpus=1))
    assert (readers.size, readers.num_gpus, readers.num_cpus, readers.threads) == (4, 1, 1.0, 1)
    assert (finders.num_gpus, finders.num_cpus) == (0, 1.0)
    assert pool(pack, None, 1).size == 1, "at least one, which makes the cluster grow"
    assert pool(pack, 4).device == "cpu", "nothing says that a GPU will come"


def test_a_machine_by_itself_starts_no_more_workers_than_it_can(
    cluster: dict[str, float], pack: Pack, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster |= {"CPU": 2}
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert pool(pack, 8).size == cpu_and_model_pools(Workers(num=8))[1].size == 8
    for choose in (lambda: pool(pack, 9), lambda: cpu_and_model_pools(Workers(num=999_999))):
        with pytest.raises(ValueError, match=r"this machine has 2 CPUs, and starts at most 8 workers"):
            choose()
    for gpus in (1, 0.5):
        with pytest.raises(ValueError, match=rf"--gpus {gpus}: Ray finds no GPU on this machine; .* --gpus 0"):
            cpu_and_model_pools(Workers(gpus=gpus))
    assert cpu_and_model_pools(Workers(gpus=0))[1].num_gpus == 0
    monkeypatch.setenv("RAY_ADDRESS", "auto")  # whose cluster may get more nodes
    assert pool(pack, 9).size == 9


def test_without_a_gpu_a_worker_a_core_if_it_finds_work_and_memory(cluster: dict[str, float], pack: Pack) -> None:
    cluster["CPU"] = 8
    assert (pool(pack).size, pool(pack).threads) == (8, 1)
    assert (pool(pack, at_most=2).size, pool(pack, at_most=2).threads) == (2, 4)
    assert (pool(pack, at_most=1).size, pool(pack, at_most=1).threads) == (1, 8)
    cluster["memory"] = 2.5e9
    assert (pool(pack).size, pool(pack).threads) == (2, 4)
    cluster["memory"] = 0.1e9
    assert (pool(pack).size, pool(pack).threads) == (1, 8)


@pytest.mark.parametrize("cpus", [1, 2, 3, 8, 64])
def test_light_tasks_find_room_beside_the_workers(cluster: dict[str, float], pack: Pack, cpus: int) -> None:
    cluster["CPU"] = cpus
    pools = [*cpu_and_model_pools(Workers())]
    booked = sum(pool.size * pool.num_cpus for pool in pools)
    assert booked <= cpus - 3 * LIGHT + 1e-9
    alone = pool(pack)
    assert alone.size * alone.num_cpus <= cpus - 2 * LIGHT
    assert all(pool.threads >= 1 for pool in (*pools, alone))


@pytest.mark.parametrize(("nodes", "cpus"), [(4, 2), (12, 8), (20, 16), (3, 64)])
def test_light_tasks_find_room_on_every_node(cluster: dict[str, float], nodes: int, cpus: int) -> None:
    """Each of them on one, however little all nodes together leave."""
    cluster |= {"CPU": nodes * cpus, "nodes": nodes}
    finders, readers = cpu_and_model_pools(Workers())
    assert finders.size + readers.size == nodes * cpus
    assert cpus * readers.num_cpus <= cpus - 3 * LIGHT + 1e-9 and (cpus + 1) * readers.num_cpus > cpus


@pytest.mark.parametrize(("cpus", "held"), [(2, 0.0), (2, 0.3), (8, 3.0)])
def test_a_job_finds_room_beside_an_endpoint(cluster: dict[str, float], pack: Pack, cpus: int, held: float) -> None:
    """And leaves it to one that comes later, with its learner and its sculptor."""
    cluster |= {"CPU": cpus, "held": held}
    settings = Settings()
    endpoint = settings.num_cpus + settings.sculptor_num_cpus + settings.learner_num_cpus + 0.1  # the ingress
    for pools in (cpu_and_model_pools(Workers()), (pool(pack),)):
        booked = sum(pool.size * pool.num_cpus for pool in pools)
        assert booked <= cpus - max(held, endpoint) - 3 * LIGHT + 1e-9
        assert all(pool.num_cpus > 0 for pool in pools)


def test_pools_of_short_tasks_shrink_and_grow_back(cluster: dict[str, float]) -> None:
    cluster |= {"CPU": 16, "GPU": 4}
    strategy = cpu_and_model_pools(Workers())[1].strategy
    assert (strategy.min_size, strategy.initial_size, strategy.max_size) == (1, 4, 4)


def test_no_long_task_waits_for_one_worker_while_another_is_idle_or_gone(cluster: dict[str, float], pack: Pack) -> None:
    cluster |= {"CPU": 16, "GPU": 4}
    strategy = pool(pack).strategy
    assert (strategy.min_size, strategy.initial_size, strategy.max_size) == (4, 4, 4)
    assert strategy.max_tasks_in_flight_per_actor == 1
