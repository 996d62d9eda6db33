"""Files that are asked for in parts."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from starlette.testclient import TestClient

from factory.store.erase import erase, find_person
from factory.store.tables import Store
from serve.openai.ranges import Lately, answer
from tests import test_serve_videos as clips

store, fake, http = clips.store, clips.fake, clips.http  # fixtures
DATA = bytes(range(10))


@pytest.mark.parametrize(
    ("asked", "status", "body", "told"),
    [
        (None, 200, DATA, None),
        ("bytes=0-1", 206, DATA[:2], "bytes 0-1/10"),
        ("bytes=5-", 206, DATA[5:], "bytes 5-9/10"),
        ("bytes=-3", 206, DATA[7:], "bytes 7-9/10"),
        ("bytes=-99", 206, DATA, "bytes 0-9/10"),
        ("bytes=8-99", 206, DATA[8:], "bytes 8-9/10"),
        ("bytes=10-", 416, b"", "bytes */10"),
        ("bytes=-0", 416, b"", "bytes */10"),
        ("bytes=5-2", 200, DATA, None),
        ("bytes=0-1,4-5", 200, DATA, None),
        ("bytes=-", 200, DATA, None),
        ("lines=1-2", 200, DATA, None),
        ("bytes=0-" + 99 * "9", 200, DATA, None),
    ],
)
def test_a_part_is_given_as_it_is_asked_for(asked: str | None, status: int, body: bytes, told: str | None) -> None:
    got = answer(DATA, "video/mp4", {} if asked is None else {"range": asked}, {})
    assert (got.status_code, got.body, got.headers.get("content-range")) == (status, body, told)
    assert got.headers["accept-ranges"] == "bytes" and got.headers["cache-control"] == "private, no-cache"


def test_a_part_of_another_file_is_the_whole() -> None:
    tag = answer(DATA, "video/mp4", {}, {}).headers["etag"]
    asked = {"range": "bytes=0-1", "if-range": tag}
    assert answer(DATA, "video/mp4", asked, {}).status_code == 206
    assert answer(b"other" + DATA, "video/mp4", asked, {}).status_code == 200


def test_a_file_that_is_there_already_is_not_sent_again() -> None:
    tag = answer(DATA, "image/png", {}, {}).headers["etag"]
    again = answer(DATA, "image/png", {"if-none-match": f"W/{tag}"}, {})
    assert again.status_code == 304 and again.body == b"" and again.headers["etag"] == tag
    assert answer(b"other", "image/png", {"if-none-match": tag}, {}).status_code == 200


def test_what_left_lately_is_not_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    now, made = 0.0, list[str]()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    lately = Lately()

    def ask(name: str) -> bytes:
        def make() -> bytes:
            made.append(name)
            return name.encode()

        return asyncio.run(lately.file((name, "video"), make))

    assert [ask("a"), ask("a"), ask("b")] == [b"a", b"a", b"b"] and made == ["a", "b"]
    lately.forget("a")
    now = 100.0
    assert ask("b") == b"b" and ask("a") == b"a" and made == ["a", "b", "a"]
    now = 221.0
    assert ask("b") == b"b" and made[3:] == ["b"], "after two minutes it is made anew"
    for number in range(9):
        ask(f"{number}")
    ask("0")
    assert made[-1] == "0", "eight are kept"


def test_a_player_gets_parts_of_one_clip_and_none_of_who_is_erased(http: TestClient, store: Store) -> None:
    clip = http.post("/v1/videos", json={"model": "ada", "prompt": "<person>", "num_frames": 4}).json()
    while http.get(f"/v1/videos/{clip['id']}").json()["status"] != "completed":
        time.sleep(0.02)
    address = f"/v1/videos/{clip['id']}/content"
    whole = http.get(address)

    def part(text: str) -> Any:
        return http.get(address, headers={"range": text, "if-range": whole.headers["etag"]})

    halves = part("bytes=0-999"), part("bytes=1000-")
    assert [half.status_code for half in halves] == [206, 206] and halves[0].content + halves[
        1
    ].content == whole.content
    erase(store, find_person(store, name="ada"))
    assert part("bytes=0-1").status_code == 404
