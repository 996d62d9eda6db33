"""Requests that ask for HTTP/2 besides, over a raw socket: nothing of them is lost, whatever pieces they come in."""

from __future__ import annotations

import asyncio
import hashlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from serve.proxy import middlewares
from serve.upgrades import WithoutUpgrades

ASKS = (
    b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
    b"HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA\r\n"
)
BODY = b'{"model": "ada", "prompt": "a photo of <person>"}'


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Method, path, names of the headers, and the body."""
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    names = ",".join(sorted(name.decode() for name, _ in scope["headers"]))
    told = f"{scope['method']} {scope['path']} [{names}] {len(body)} {hashlib.sha256(body).hexdigest()}".encode()
    headers = [(b"content-length", str(len(told)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": told})


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """Of a server as Ray Serve's proxy makes it: the middlewares are asked for, then uvicorn is set up."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(uvicorn.config.HTTP_PROTOCOLS, "auto", "uvicorn.protocols.http.auto:AutoHTTPProtocol")
        middlewares()
        config = uvicorn.Config(lambda: echo, factory=True, lifespan="off", log_config=None, access_log=False)
        config.load()
    assert issubclass(config.http_protocol_class, WithoutUpgrades)
    server, listening = uvicorn.Server(config), socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=asyncio.run, args=(server.serve(sockets=[listening]),))
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield listening.getsockname()[1]
    server.should_exit = True
    thread.join()


def answers(port: int, data: bytes, num: int, piece: int) -> list[str]:
    """The bodies of so many answers on one connection, to bytes that are sent in pieces."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection, connection.makefile("rb") as answer:
        for start in range(0, len(data), piece):
            connection.sendall(data[start : start + piece])
            if piece < len(data):
                time.sleep(0.002)
        told = []
        for _ in range(num):
            assert answer.readline().startswith(b"HTTP/1.1 200"), told
            headers = dict(line.strip().lower().split(b": ", 1) for line in iter(answer.readline, b"\r\n"))
            told.append(answer.read(int(headers[b"content-length"])).decode())
        return told


def request(path: str, body: bytes | None, how: bytes = ASKS, *, chunked: bool = False) -> bytes:
    head = f"{'GET' if body is None else 'POST'} {path} HTTP/1.1\r\nHost: x\r\n".encode() + how
    if body is None:
        return head + b"\r\n"
    if not chunked:
        return head + b"Content-Length: %d\r\n\r\n" % len(body) + body
    pieces = [body[start : start + 1000] for start in range(0, len(body), 1000)]
    return (
        head + b"Transfer-Encoding: chunked\r\n\r\n" + b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in [*pieces, b""])
    )


def told(path: str, body: bytes, *, chunked: bool = False) -> str:
    length = "transfer-encoding" if chunked else "content-length"
    names = ",".join(sorted(["connection", length, "host"]))
    return f"POST {path} [{names}] {len(body)} {hashlib.sha256(body).hexdigest()}"


@pytest.mark.parametrize("piece", [1, 7, 100, 10**9])
@pytest.mark.parametrize("chunked", [False, True])
def test_the_body_behind_the_headers_is_read(port: int, piece: int, chunked: bool) -> None:
    body = BODY if piece < 100 else BODY * 5000
    piece = 4000 if piece == 100 else piece
    assert answers(port, request("/a", body, chunked=chunked), 1, piece) == [told("/a", body, chunked=chunked)]


@pytest.mark.parametrize("piece", [11, 10**9])
def test_one_connection_is_kept_for_many_requests(port: int, piece: int) -> None:
    """Also where several are sent before the first is answered, and some ask for nothing."""
    data = b"".join([
        request("/1", BODY), request("/2", None), request("/3", BODY, chunked=True),
        request("/4", BODY, b"Connection: x\r\n"),
        request("/5", BODY, b"Upgrade: TLS/1.0\r\nConnection: keep-alive\r\nConnection: upgrade\r\n"),
    ])  # fmt: skip
    first, second, *others = answers(port, data, 5, piece)
    assert first == told("/1", BODY) and second.startswith("GET /2 [connection,host] 0 ")
    assert others[0] == told("/3", BODY, chunked=True) and others[1] == told("/4", BODY)
    assert others[2].startswith("POST /5 ") and others[2].endswith(told("/5", BODY).split("] ")[1])


def test_a_connection_that_is_to_be_closed_is_closed(port: int) -> None:
    how = b"Connection: close, Upgrade\r\nUpgrade: h2c\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(request("/", BODY, how))
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert b"connection: close" in answer and told("/", BODY).encode() in answer


def test_what_is_no_request_is_still_refused(port: int) -> None:
    for data in (request("/", None) + b"\x00\x01 no request\r\n\r\n", b"POST / HTTP/1.1\r\nContent-Length: x\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
            connection.sendall(data)
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        assert b"400 Bad Request" in answer
