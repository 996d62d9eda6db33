"""The committer that ingress replicas share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import ray
from ray.exceptions import RayActorError

from factory.store.committer import HandingStore
from factory.store.tables import Store
from serve import committing
from serve.committing import NamedCommitter, shared_store


def test_one_server_alone_commits_by_itself(tmp_path: Path) -> None:
    assert type(shared_store(str(tmp_path))) is Store


def test_who_loses_the_committer_finds_another_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(committing, "_BETWEEN_S", 0.0)
    begun = list[str]()

    class Dies:
        """An actor that is gone: what is asked of it fails."""

        def __init__(self) -> None:
            self.commit = self

        def remote(self, table: str, rows: pa.Table, where: str | None) -> Callable[[], None]:
            def answer() -> None:
                if len(begun) < 3:
                    raise RayActorError
                Store(tmp_path).commit_rows(table, rows, where)  # type: ignore[arg-type]

            return answer

    def begin(_self: NamedCommitter) -> Dies:
        begun.append("one")
        return Dies()

    monkeypatch.setattr(NamedCommitter, "_begun", begin)
    monkeypatch.setattr(ray, "get", lambda answer: answer())
    store = HandingStore(str(tmp_path), NamedCommitter(str(tmp_path)))
    for number in range(2):
        store.upsert("names", [{"photo_id": str(number), "name": "x"}])
    assert begun == ["one"] * 3 and store.count("names") == 2
    monkeypatch.setattr(ray, "get", lambda _answer: (_ for _ in ()).throw(RayActorError()))
    with pytest.raises(RayActorError):
        store.upsert("names", [{"photo_id": "3", "name": "x"}])


class Ingress:
    """As far as its rows go."""

    def __init__(self, root: str) -> None:
        self.store = HandingStore(root, NamedCommitter(root))

    def write(self, first: int) -> str:
        """Returns who committed."""
        self.store.upsert("names", [{"photo_id": str(number), "name": "x"} for number in range(first, first + 4)])
        hand_over: Any = self.store._hand_over
        return str(hand_over._actor._actor_id.hex())


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.timeout(300)
def test_servers_share_a_committer_and_outlive_it(tmp_path: Path) -> None:
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        ingress: Any = ray.remote(num_cpus=0)(Ingress)
        servers: list[Any] = [ingress.remote(str(tmp_path)) for _ in range(3)]
        committers = ray.get([server.write.remote(10 * number) for number, server in enumerate(servers)])
        assert len(set(committers)) == 1
        for server in servers[:2]:  # one of them began it, perhaps
            ray.kill(server)
        later = [ray.get(servers[2].write.remote(100 + 10 * number)) for number in range(2)]
        assert later[0] == later[1] and Store(tmp_path).count("names") == 20
    finally:
        ray.shutdown()
