"""A loopback S3 that fails now and then, or is far: moto behind a proxy that answers some requests with 500 or 503, and
each after a while."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from moto.server import ThreadedMotoServer

_HOP = {"connection", "transfer-encoding", "content-length", "expect"}
_ERROR = b'<?xml version="1.0"?><Error><Code>%s</Code><Message>injected</Message></Error>'


class _Proxy(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    backend: tuple[str, int]
    rate: float
    latency_s: float
    counts: dict[str, int]
    chance: random.Random

    def _pass(self) -> None:
        body = self._body()
        self.counts["requests"] += 1
        time.sleep(self.latency_s)
        if self.chance.random() < self.rate:
            self.counts["failed"] += 1
            status, code = self.chance.choice([(500, b"InternalError"), (503, b"SlowDown")])
            self._answer(status, {"content-type": "application/xml"}, _ERROR % code)
            return
        connection = HTTPConnection(*self.backend, timeout=60)
        headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOP}
        connection.request(self.command, self.path, body=body, headers=headers)
        response = connection.getresponse()
        length = response.headers.get("content-length") if self.command == "HEAD" else None
        given = {name: value for name, value in response.getheaders() if name.lower() not in _HOP}
        self._answer(response.status, given, response.read(), length)
        connection.close()

    def _body(self) -> bytes:
        if self.headers.get("transfer-encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("content-length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _answer(self, status: int, headers: dict[str, str], body: bytes, length: str | None = None) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("content-length", length or str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _pass

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: thousands of requests."""


@contextmanager
def flaky_s3(rate: float, latency_s: float = 0.0) -> Iterator[tuple[str, dict[str, int]]]:
    """Its URL, and counts of "requests" and "failed" ones; `rate` of all requests fail, and each is answered
    `latency_s` later than it could be."""
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    counts = {"requests": 0, "failed": 0}
    how = {"rate": rate, "latency_s": latency_s, "counts": counts, "chance": random.Random(0)}
    handler = type("Proxy", (_Proxy,), {"backend": moto.get_host_and_port(), **how})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", counts
    finally:
        server.shutdown()
        moto.stop()
