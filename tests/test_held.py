"""What requests bring is held in memory only so far: of all together, and of one tenant."""

from typing import Any

from starlette.testclient import TestClient

from factory.pack import Pack
from factory.records import ImageRequest
from factory.store.tables import Store
from serve.held import FREE, Held
from serve.openai.body import MAX_BODY
from serve.stopping import Door
from tests import serving
from tests.serving import FakeGenerator, client_of, error_of

store, fake = serving.store, serving.fake  # fixtures
BODY = 2**20  # bytes


def ask(http: TestClient, num_bytes: int) -> Any:
    body = b'{"model": "ada", "prompt": "<person>", "user": "' + b"x" * num_bytes + b'"}'
    return http.post("/v1/images/generations", content=body)


def test_a_body_is_held_until_its_request_is_answered(store: Store, tiny_pack: Pack) -> None:
    held: list[int] = []

    class Looking(FakeGenerator):
        async def work(self, job: ImageRequest) -> Any:
            held.append(door.held.num)
            return await super().work(job)

    door = Door()
    http = client_of(store, tiny_pack, Looking(), door)
    assert ask(http, BODY).status_code == ask(http, 0).status_code == 200 and door.held.num == 0
    assert held[0] - BODY in range(-FREE, 100 - FREE) and held[1] == 0, "a small one is not counted"
    assert ask(http, MAX_BODY).status_code == 413 and door.held.num == 0


def test_without_room_a_large_body_comes_later_and_small_ones_get_in(
    store: Store, tiny_pack: Pack, fake: FakeGenerator
) -> None:
    door = Door(held=Held(4 * BODY))
    http, neighbour = client_of(store, tiny_pack, fake, door), client_of(store, tiny_pack, fake, door)
    assert ask(http, BODY).status_code == 200
    of_one = ask(http, 3 * BODY)  # half is a tenant's
    assert of_one.status_code == 429 and int(of_one.headers["retry-after"]) > 0
    assert error_of(of_one)["code"] == "queue_full" and of_one.headers["x-should-retry"] == "true"
    door.held.take(4 * BODY - BODY // 2)  # of a third one
    for client in (http, neighbour):
        assert ask(client, BODY).status_code == 429 and ask(client, FREE // 2).status_code == 200
    door.held.give(BODY)
    assert ask(neighbour, BODY).status_code == 200 and len(fake.jobs) == 4
    assert door.held.num == 3 * BODY - BODY // 2, "what was refused is not held either"
