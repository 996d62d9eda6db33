"""Connections: streams that wait, websockets that are not there, methods that a path has not, copies that are kept."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from factory.pack import Pack
from factory.store.keys import create_key
from serve.catalog import Catalog
from serve.client import ImageClient
from serve.openai import events
from serve.openai.generations import Generations
from serve.openai.schemas import ImagesRequest
from tests.serving import FakeGenerator, client_of, people_store
from tests.test_access import a_gate


def test_a_stream_that_waits_says_so_and_ends_with_its_reader(
    tmp_path: Path, tiny_pack: Pack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "_QUIET_S", 0.05)
    fake, body = FakeGenerator(), ImagesRequest(prompt="<person>", model="ada", stream=True)
    fake.endless = True
    client = ImageClient(fake.submit, fake.submit_with_previews, fake.submit_clip, timeout_s=1.0)
    making = Generations(tiny_pack, Catalog(people_store(tmp_path, tiny_pack).root), client)

    async def read(enough: int) -> list[str]:
        answer = await events.stream(making.events(await making.compose(body)), {})
        told, texts = list[str](), aiter(answer.body_iterator)
        async for text in texts:
            told.append(str(text))
            if len(told) == enough:
                break
        await texts.aclose()  # type: ignore[attr-defined]
        return told

    assert asyncio.run(read(3)) == [": waiting\n\n"] * 3 and fake.pending[0].cancelled, "taken back at once"
    told = asyncio.run(read(1000))
    assert told[-1].startswith("event: error") and "not ready after 1 s" in told[-1] and set(told[:-1]) == {told[0]}
    fake.endless = False
    assert [text.split("\n")[0] for text in asyncio.run(read(1000))] == ["event: image_generation.completed"]


def test_a_websocket_is_closed_and_a_path_tells_all_its_methods(tmp_path: Path, tiny_pack: Pack) -> None:
    store = people_store(tmp_path, tiny_pack)
    key = {"authorization": f"Bearer {create_key(store, ['draw', 'erase'])[0]}"}
    with TestClient(a_gate(store.root, tiny_pack), raise_server_exceptions=False) as http:
        with pytest.raises(WebSocketDisconnect), http.websocket_connect("/ws/socket.io/"):
            pass
        assert http.patch("/v1/identities/ada", headers=key).headers["allow"] == "DELETE, GET, HEAD"
        assert http.put("/v1/images/generations", headers=key).headers["allow"] == "POST"


@pytest.mark.parametrize("asked", ["{tag}", "W/{tag}", '"another", W/{tag}', "*"])
def test_a_copy_that_is_kept_is_not_sent_again(tmp_path: Path, tiny_pack: Pack, asked: str) -> None:
    http = client_of(people_store(tmp_path, tiny_pack), tiny_pack, FakeGenerator())
    tag = http.get("/web/main.js").headers["etag"]
    assert http.get("/web/main.js", headers={"if-none-match": asked.format(tag=tag)}).status_code == 304
    assert http.get("/web/main.js", headers={"if-none-match": 'W/"another"'}).status_code == 200
