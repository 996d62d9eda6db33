"""Requests as clients of other servers send them; after all jobs of this process, as the endpoint takes its CPUs."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from benchmarks.cases.desk import Desk, Got, short, surroundings
from studio.demo.port import free_port

PROMPT = "a photo of <person>"
LONG = f"<person>{' in a red coat on a long bridge,' * 12} at night"


def n08(desk: Desk) -> Got:
    """A name in decomposed letters (macOS), asked for as typed, also over HTTP: found."""
    shown = desk.cli("identities", "show", "Zoë Müller", "--root", desk.people)
    answer = httpx.get(f"{desk.url}/v1/models/{quote('Zoë Müller')}")
    return Got(shown.code == 0 and answer.status_code == 200, f"{shown.said}; HTTP {answer.status_code}")


def h01(desk: Desk) -> Got:
    """size 512x512, 1024x1024: a picture."""
    answers = {size: _draw(desk, size=size) for size in ("512x512", "1024x1024")}
    text = "; ".join(f"{size}: {_said(answer)}" for size, answer in answers.items())
    return Got(all(answer.status_code == 200 for answer in answers.values()), short(text))


def h03(desk: Desk) -> Got:
    """Half a surrogate pair in `model` and in `prompt`: 404 or 422."""
    bodies = (b'{"model":"a\\ud83d","prompt":"x","seed":1}', b'{"model":"ada","prompt":"a\\ud83d","seed":1}')
    answers = [_post(desk, body) for body in bodies]
    return Got(all(a.status_code in (404, 422) for a in answers), "; ".join(_said(a) for a in answers))


def h04(desk: Desk) -> Got:
    """JSON without the content type: a picture, or the type is named."""
    answer = _post(desk, _body(), "application/x-www-form-urlencoded")
    return Got(answer.status_code == 200 or "content" in answer.text.lower(), _said(answer))


def h06(desk: Desk) -> Got:
    """steps, cfg_scale, metadata, input_fidelity, width: dropped or told."""
    answers = {key: _draw(desk, **{key: 8}) for key in ("steps", "cfg_scale", "metadata", "input_fidelity", "width")}
    silent = [key for key, a in answers.items() if a.status_code != 200 and key not in a.text]
    return Got(not silent, "; ".join(f"{key} {a.status_code}" for key, a in answers.items()))


def h07(desk: Desk) -> Got:
    """A prompt longer than the text encoder reads: told in the answer."""
    answer = _draw(desk, prompt=LONG)
    told = [f"{k}: {v}" for k, v in answer.headers.items() if "prompt" in k or "cut" in v or "truncat" in v]
    fields = {k: v for k, v in answer.json().items() if k not in ("data", "created")}
    said = told or ([str(fields)] if "cut" in str(fields) or "warn" in str(fields) or "truncat" in str(fields) else [])
    return Got(bool(said), f"{answer.status_code}; {short('; '.join(said) or 'nothing is told', 80)}")


def h09(desk: Desk) -> Got:
    """Ctrl-C and SIGTERM while pictures are made: the request is finished, exit status 0."""
    words, right = [], True
    for number in (signal.SIGINT, signal.SIGTERM):
        with _process(desk) as (process, url), ThreadPoolExecutor(1) as thread:
            asked = thread.submit(_draw_at, url, n=4, num_inference_steps=60)
            time.sleep(2)
            process.send_signal(number)
            try:
                answer = f"{asked.result().status_code}"
            except httpx.HTTPError as error:
                answer = type(error).__name__
            status = process.wait(90)
        words.append(f"{number.name}: {answer}, exit {status}")
        right = right and answer == "200" and status == 0
    return Got(right, "; ".join(words))


def h11(desk: Desk) -> Got:
    """HEAD /healthz: 200; GET /v1/models/: the list."""
    head, models = httpx.head(f"{desk.url}/healthz"), httpx.get(f"{desk.url}/v1/models/", follow_redirects=True)
    right = head.status_code == 200 and models.status_code == 200 and "data" in models.json()
    return Got(right, f"{head.status_code}; {models.status_code}")


def h12(desk: Desk) -> Got:
    """n as text, quality, style, user, url, stream, output_format, 40 at once: work."""
    ways: list[dict[str, Any]] = [
        *(
            {"n": "1"},
            {"quality": "hd"},
            {"style": "vivid"},
            {"user": "me"},
            {"response_format": "url"},
            {"stream": True},
        ),
        {"output_format": "webp"},
    ]
    failed = [str(way) for way in ways if _draw(desk, **way).status_code != 200]
    with ThreadPoolExecutor(40) as threads:
        many = list(threads.map(lambda seed: _draw(desk, seed=seed).status_code, range(40)))
    right = not failed and set(many) <= {200, 429} and 200 in many
    return Got(right, f"failed: {failed}; 40 at once: {many.count(200)} x 200, {many.count(429)} x 429")


def h13(desk: Desk) -> Got:
    """A region for whoever `model` names, by name, beside `<person>`: drawn; two boxes of one person: told."""
    half, other = [0, 0, 0.5, 1], [0.5, 0, 1, 1]
    one = _draw(desk, regions=[{"person": "ada", "box": half}])
    two = _draw(desk, regions=[{"person": "ada", "box": half}, {"person": "ada", "box": other}])
    return Got(one.status_code == 200 and two.status_code in (400, 422), f"{_said(one)}; {_said(two)}")


def h14(desk: Desk) -> Got:
    """AUTOMATIC1111's route: "ada." is found; sampler "euler A" is taken, and told if another is nearest."""
    body = {"prompt": "a photo of ada.", "steps": 2, "seed": 1, "sampler_name": "euler A", "width": 512, "height": 512}
    answer = httpx.post(f"{desk.url}/sdapi/v1/txt2img", json=body, timeout=120)
    if answer.status_code != 200:
        return Got(False, short(f"{answer.status_code} {answer.text}"))
    info = str(json.loads(answer.json()["info"]).get("infotexts", ""))
    return Got(len(answer.json()["images"]) == 1 and "euler a" in info.lower(), short(info, 200))


def h15(desk: Desk) -> Got:
    """HEAD of a list and of a picture's address: as GET, without the body; of a route for POST alone: 405."""
    picture = _draw(desk, response_format="url").json()["data"][0]["url"]
    heads = [httpx.head(url) for url in (f"{desk.url}/v1/models", picture, f"{desk.url}/v1/images/generations")]
    length = len(httpx.get(picture).content)
    right = [head.status_code for head in heads] == [200, 200, 405] and heads[2].headers.get("allow") == "POST"
    told = heads[1].headers.get("content-length")
    return Got(right and told == str(length), f"{[head.status_code for head in heads]}; {told} of {length} bytes")


def h16(desk: Desk) -> Got:
    """HTTP/1.0 without Host, as old proxies and tools ask: a picture, also as a stream; a slash too much is no
    redirect."""
    answers = [_raw(desk, _body(**fields)) for fields in ({}, {"stream": True})] + [_raw(desk, _body(), slash="/")]
    right = all(answer.startswith(b"HTTP/1.") and b" 200 " in answer[:20] for answer in answers)
    ends = answers[0].rstrip().endswith(b"}") and b"image_generation.completed" in answers[1]
    return Got(right and ends, "; ".join(str(answer[:30]) for answer in answers))


def h17(desk: Desk) -> Got:
    """One connection: 404, 422 and a form that is refused, each with a body, and then a picture; each answer has a
    request id of its own."""
    json_type, form = {"content-type": "application/json"}, {"content-type": "multipart/form-data; boundary=b"}
    asked = [("/v1/nothing", b"x" * 10**6, json_type), ("/v1/images/generations", b"{}", json_type)]
    asked += [("/v1/files", b"--b" + b"x" * 10**6, form), ("/v1/images/generations", _body(), json_type)]
    statuses, ids = list[int](), set[str | None]()
    with closing(HTTPConnection(desk.url.removeprefix("http://"), timeout=120)) as connection:
        for path, body, headers in asked:
            connection.request("POST", path, body, headers)
            answer = connection.getresponse()
            answer.read()
            statuses.append(answer.status)
            ids.add(answer.getheader("x-request-id"))
    return Got(statuses == [404, 422, 400, 200] and len(ids - {None}) == 4, f"{statuses}; {len(ids - {None})} ids")


def h18(desk: Desk) -> Got:
    """Behind a proxy that ends TLS and takes off a path: addresses of pictures are the proxy's."""
    headers = {"x-forwarded-proto": "https", "x-forwarded-host": "people.example", "x-forwarded-prefix": "/faces"}
    answer = httpx.post(
        f"{desk.url}/v1/images/generations", content=_body(response_format="url"), headers=headers, timeout=120
    )
    url = str(answer.json().get("data", [{}])[0].get("url"))
    return Got(url.startswith("https://people.example/faces/v1/pictures/"), short(url))


def h19(desk: Desk) -> Got:
    """A websocket, as some front ends try one: refused at once, and the server goes on."""
    wanted = {"connection": "Upgrade", "upgrade": "websocket", "sec-websocket-version": "13"}
    started = time.monotonic()
    answer = httpx.get(
        f"{desk.url}/ws", headers={**wanted, "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ=="}, timeout=20
    )
    waited, then = time.monotonic() - started, httpx.get(f"{desk.url}/healthz").status_code
    right = 400 <= answer.status_code < 500 and waited < 5 and then == 200
    return Got(right, f"{answer.status_code} after {waited:.1f} s; then {then}")


def _raw(desk: Desk, body: bytes, slash: str = "") -> bytes:
    """All that a server says to an HTTP/1.0 request, until it closes the connection."""
    host, _, port = desk.url.removeprefix("http://").partition(":")
    head = f"POST /v1/images/generations{slash} HTTP/1.0\r\ncontent-length: {len(body)}\r\n\r\n".encode()
    with socket.create_connection((host, int(port)), timeout=120) as connection:
        connection.sendall(head + body)
        return b"".join(iter(lambda: connection.recv(2**16), b""))


def _body(**fields: Any) -> bytes:
    return json.dumps({"model": "ada", "prompt": PROMPT, "seed": 1, **fields}).encode()


def _post(desk: Desk, body: bytes, content_type: str = "application/json") -> httpx.Response:
    url = f"{desk.url}/v1/images/generations"
    return httpx.post(url, content=body, headers={"content-type": content_type}, timeout=120)


def _draw(desk: Desk, **fields: Any) -> httpx.Response:
    return _draw_at(desk.url, **fields)


def _draw_at(url: str, **fields: Any) -> httpx.Response:
    headers = {"content-type": "application/json"}
    return httpx.post(f"{url}/v1/images/generations", content=_body(**fields), headers=headers, timeout=120)


def _said(answer: httpx.Response) -> str:
    if answer.status_code == 200:
        return "200"
    try:
        return short(f"{answer.status_code} {answer.json()['error']['message']}", 70)
    except (ValueError, KeyError):
        return short(f"{answer.status_code} {answer.text}", 70)


@contextmanager
def _process(desk: Desk) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """The endpoint in a process of its own."""
    port = free_port()
    program = str(Path(sys.executable).with_name("identity-factory"))
    process = subprocess.Popen(
        [program, "serve", "--root", desk.people, "--port", str(port)],
        env=surroundings({}), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    url, started = f"http://127.0.0.1:{port}", time.monotonic()
    try:
        while time.monotonic() < started + 120:
            try:
                if httpx.get(f"{url}/healthz", timeout=5).status_code == 200:
                    break
            except httpx.HTTPError:
                time.sleep(0.5)
        yield process, url
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


CASES = (n08, h01, h03, h04, h06, h07, h09, h11, h12, h13, h14, h15, h16, h17, h18, h19)
