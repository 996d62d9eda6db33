"""Streams that wait: a comment now and then, an error as an event, and nothing left when their reader goes."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from factory.pack import Pack
from serve.catalog import Catalog
from serve.client import ImageClient
from serve.openai import events
from serve.openai.generations import Generations
from serve.openai.schemas import ImagesRequest
from tests.serving import FakeGenerator, people_store


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
