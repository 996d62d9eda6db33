"""RAY_ADDRESS: whatever it says, a job has a cluster or one line within 20 s."""

from __future__ import annotations

import re
import resource
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

import pipelines.jobs.joining
import pipelines.jobs.memory
from factory.errors import ClusterError
from factory.store.tables import Store
from pipelines.jobs.cluster import connect
from pipelines.jobs.joining import _start, join_or_start
from pipelines.jobs.journal import Journal, explained
from pipelines.jobs.memory import short_of_memory
from pipelines.jobs.watch import Watch


@pytest.fixture
def deaf() -> Iterator[int]:
    """A port that takes connections, and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture(autouse=True)
def nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **_: pytest.fail("Ray was asked for what is not there"))


@pytest.mark.parametrize(
    "address", ["127.0.0.1:9", "[::1]:9", "host.invalid:6379", "nonsense", "h:x", "ray://127.0.0.1:9"]
)
def test_an_address_without_anybody_is_told_at_once(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    started = time.monotonic()
    with pytest.raises(
        ClusterError, match=r"RAY_ADDRESS=.*: .*; start that cluster, correct RAY_ADDRESS, or unset it"
    ) as told:
        connect()
    assert time.monotonic() - started < 7 and address in str(told.value)
    assert explained(told.value, "root") is None, "it is not the root that is at fault"


def test_the_address_of_a_dashboard_is_told_from_a_clusters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:8265")
    with pytest.raises(ClusterError, match=r"dashboard's.*HOST:PORT"):
        connect()


def test_a_port_of_ray_client_is_told_what_to_give_instead(monkeypatch: pytest.MonkeyPatch, deaf: int) -> None:
    monkeypatch.setenv("RAY_ADDRESS", f"ray://127.0.0.1:{deaf}")
    with pytest.raises(ClusterError, match=r"through Ray Client neither jobs nor endpoints run; .*auto.*`submit`"):
        connect()


def test_where_ray_would_end_each_worker_nothing_is_started(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], store: Store
) -> None:
    """Its memory monitor tries again for ever."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_memory_usage_threshold", "0.001")
    with pytest.raises(ClusterError, match=r"% of this machine's memory is in use, and above 0% Ray ends every worker"):
        connect()
    with Watch("run", dict, Journal(store.root, "1")) as watch:
        watch.look()
        watch.look()
    assert capsys.readouterr().err.count("memory is in use") == 1
    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "0")  # off
    assert short_of_memory() == ""


def test_memory_of_a_container_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(pipelines.jobs.memory, "_CGROUP", tmp_path)
    for name, text in (("max", "1000"), ("current", "990"), ("stat", "anon 1\ninactive_file 10\n")):
        (tmp_path / f"memory.{name}").write_text(text)
    assert "98% of this machine's memory" in short_of_memory()
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 900\n")
    assert short_of_memory() == "", "files that are only kept in mind are given up first"


def test_a_port_behind_which_there_is_no_ray_is_told_in_20_s(monkeypatch: pytest.MonkeyPatch, deaf: int) -> None:
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{deaf}")
    assert pipelines.jobs.joining._CONNECT_S + pipelines.jobs.joining._LIMIT_S <= 20
    monkeypatch.setattr(pipelines.jobs.joining, "_LIMIT_S", 2.0)
    with pytest.raises(ClusterError, match="no Ray cluster answers there"):
        connect()


def test_auto_without_a_cluster_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_found(**_: object) -> None:
        raise ConnectionError("Could not find any running Ray instance. Please specify ... `--address` flag")

    monkeypatch.setenv("RAY_ADDRESS", "auto")
    monkeypatch.setattr(ray, "init", none_found)
    with pytest.raises(ClusterError, match=r"no Ray cluster runs on this machine; `ray start --head`") as told:
        connect()
    assert "--address" not in str(told.value)


def test_a_machine_that_is_too_busy_to_start_ray_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def late(**_: object) -> None:
        raise Exception("The current node timed out during startup. This could happen because")

    monkeypatch.setattr(ray, "init", late)
    with pytest.raises(ClusterError, match=r"^Ray did not start in time: this machine is too busy"):
        _start()
    files = {resource.RLIMIT_FSIZE: 2**20}
    monkeypatch.setattr(resource, "getrlimit", lambda limit: (files.get(limit, -1), -1))
    with pytest.raises(ClusterError, match=r"in time: raise the limits of this shell \(ulimit -f\)"):
        _start()
    monkeypatch.setattr(resource, "getrlimit", lambda _: (2**32, -1))
    with pytest.raises(ClusterError, match="ulimit -v unlimited"):
        _start()


@pytest.mark.parametrize("address", ["127.0.0.1:6379", "auto", ""])
def test_a_cluster_of_another_version_is_told_with_both(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    def another(**_: object) -> None:
        raise RuntimeError(
            "Version mismatch: The cluster was started with:\n    Ray: 2.44.1\n    Python: 3.10.2\n"
            "This process on node 10.0.0.1 was started with:\n    Ray: 2.60.0\n    Python: 3.11.7\n"
        )

    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setattr(pipelines.jobs.joining, "_no_cluster", lambda _: "")
    monkeypatch.setattr(ray, "init", another)
    with pytest.raises(ClusterError, match=r"Ray 2\.44\.1 and Python 3\.10\.2, this program Ray 2\.60\.0") as told:
        join_or_start()
    remedy = f"RAY_ADDRESS={address}: .* or unset RAY_ADDRESS$" if address else "set RAY_ADDRESS=local$"
    assert re.search(remedy, str(told.value))


@pytest.mark.parametrize("address", [None, "", "local"])
def test_a_job_starts_its_own_cluster_beside_one_that_runs(
    monkeypatch: pytest.MonkeyPatch, address: str | None
) -> None:
    given: dict[str, object] = {}
    monkeypatch.setattr(ray, "init", lambda **options: given.update(options))
    if address is None:
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
    else:
        monkeypatch.setenv("RAY_ADDRESS", address)
    connect()
    assert given["address"] == "local" and given["num_cpus"]
