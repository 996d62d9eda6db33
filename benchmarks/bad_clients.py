"""Clients of a server that are slow, hostile or gone: each gives the status and the headers of its answer, None if none
came (benchmarks/overload.py)."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final, TypeAlias

from tests.test_hostile_routes import BODIES
from tests.test_hostile_routes import bodies as bodies_of
from tests.test_serve_hostile import bodies

Answer: TypeAlias = tuple[int, dict[str, str]] | None
_LIMIT_S: Final = 90.0  # of one request
_HELD_S: Final = 8.0  # by a slow client
_LEFT_OUT: Final = ("/v1/heads", "/v1/videos")  # they start other replicas


async def post(port: int, path: str, body: bytes) -> Answer:
    """Status and headers of the answer to a request on a connection of its own, None if none came."""
    try:
        async with asyncio.timeout(_LIMIT_S):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(_head(path, len(body)) + body)
                return await _answer(reader)
            finally:
                writer.close()
    except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError):
        return None


async def one_byte_after_another(port: int) -> Answer:
    """Sends a request so that it takes longer than anybody waits."""
    return await _held(port, [bytes([one]) for one in _head("/v1/images/generations", 100)], 0.1)


async def stops_in_the_middle(port: int) -> Answer:
    """Promises a body and sends the beginning of it."""
    return await _held(port, [_head("/v1/identities", 10_000_000) + b'{"model": "ada"', b" " * 100_000], _HELD_S / 2)


async def says_nothing(port: int) -> Answer:
    """Holds a connection."""
    return await _held(port, [b""], _HELD_S)


async def goes_away(port: int) -> Answer:
    """Asks for many pictures and leaves at once."""
    body = json.dumps({**picture(int(time.time() * 1000)), "n": 10}).encode()
    return await _held(port, [_head("/v1/images/generations", len(body)) + body], 0.2)


async def reads_slowly(port: int) -> Answer:
    """Asks for pictures in a stream, and reads a little of it."""
    body = json.dumps({**picture(int(time.time() * 1000)), "stream": True, "partial_images": 3}).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
    try:
        writer.write(_head("/v1/images/generations", len(body)) + body)
        for _ in range(int(_HELD_S)):
            with suppress(TimeoutError):
                await asyncio.wait_for(reader.read(64), 1.0)
            await asyncio.sleep(1.0)
    finally:
        writer.transport.abort()
    return None


async def _held(port: int, pieces: list[bytes], pause_s: float) -> Answer:
    """Sends pieces with pauses, for a while, and leaves; gives what was answered by then."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        ends = asyncio.get_running_loop().time() + _HELD_S
        for piece in pieces:
            writer.write(piece)
            await asyncio.sleep(pause_s)
            if asyncio.get_running_loop().time() > ends:
                break
        with suppress(TimeoutError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            return await asyncio.wait_for(_answer(reader), 0.1)
    finally:
        writer.transport.abort()
    return None


async def _answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    """Reads all of an answer, and keeps its head. Raises ValueError if it is none."""
    lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    while await reader.read(2**16):
        pass
    status = int(lines[0].split(" ")[1])
    pairs = (line.partition(":") for line in lines[1:] if ":" in line)
    return status, {name.lower(): value.strip() for name, _, value in pairs}


def _head(path: str, length: int) -> bytes:
    kind = "multipart/form-data; boundary=x" if path == "/v1/identities" else "application/json"
    return (
        f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n"
        f"content-type: {kind}\r\ncontent-length: {length}\r\n\r\n"
    ).encode()


def picture(seed: int) -> dict[str, Any]:
    """What is asked for."""
    return {"model": "ada", "prompt": "a photo of <person> in the snow", "seed": seed}


def hostile_bodies(known: list[tuple[str, bytes]] = []) -> list[tuple[str, bytes]]:  # noqa: B006 (made once)
    """Paths and bodies."""
    if not known:
        known += [("/v1/images/generations", body) for body in bodies()]
        for path in BODIES.keys() - set(_LEFT_OUT):
            known += [(path, body) for body in bodies_of(BODIES[path])]
    return known


SLOW: Final[list[Callable[[int], Awaitable[Answer]]]] = [
    one_byte_after_another,
    stops_in_the_middle,
    reads_slowly,
    goes_away,
    says_nothing,
]
