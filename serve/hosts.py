"""Names of machines and origins of pages, as a request's headers give them."""

from __future__ import annotations

import re
from contextlib import suppress
from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import Request

_HOST: Final = re.compile(r"[A-Za-z0-9._-]{1,253}(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](:[0-9]{1,5})?")
_PROTO: Final = re.compile("https?")
_PORT: Final = re.compile(r"[0-9]{1,5}")
_PORTS: Final = {"http": 80, "https": 443}
_PREFIX: Final = re.compile(r"(/[A-Za-z0-9._~-]+){1,20}")


def origin_of(url: str) -> str:
    """Of the page whose address a `referer` is; it names no more than that where it is another site's."""
    with suppress(ValueError):
        return "{0.scheme}://{0.netloc}".format(urlsplit(url))
    return ""


def hostname_of(host: str) -> str:
    """Without the port; empty if it is none."""
    with suppress(ValueError):
        return urlsplit(f"//{host}").hostname or ""
    return ""


def is_loopback(name: str) -> bool:
    """Whether an address is this machine's own, for itself; a name is not looked up."""
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False


def page_origin(text: str) -> str:
    """An origin as browsers send it, of one as people write it: in small letters, without the "/" at its end and a
    port that is its scheme's own. Raises ValueError for what no browser would ever send."""
    told = text.strip()
    if told in ("*", "null"):
        return told
    try:
        parts = urlsplit(told)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    more = parts.path.strip("/") or parts.query or parts.username is not None
    if more or not parts.scheme or not parts.hostname or "*" in parts.hostname:
        raise ValueError(f"{text!r} is no origin of a page: write its scheme and name, as https://front.example")
    name = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{name}" + ("" if port in (None, _PORTS.get(parts.scheme)) else f":{port}")


def hosts_of(headers: Headers) -> list[str]:
    """What this server was called by whoever asks, and by the proxy in front of it, with ports. No page of another site
    can have a browser send the latter without asking."""
    told = _forwarded(headers)
    hosts = [host for host in (headers.get("host"), told.get("host")) if host]
    return hosts + [with_port for host in hosts if (with_port := _with_port(host, told)) != host]


def address_of(request: Request) -> str:
    """This server's address as whoever asks sees it, with a "/" at its end: a proxy in front says how it was reached
    (`X-Forwarded-Proto`, `-Host`, `-Port` and `-Prefix`, or `Forwarded`). It is for an answer to the same request
    alone: whoever invents these headers misleads nobody else."""
    base, told = request.base_url, _forwarded(request.headers)
    if "proto" in told:
        base = base.replace(scheme=told["proto"])
    if "host" in told or "port" in told:
        base = base.replace(netloc=_with_port(told.get("host", base.netloc), told))
    return f"{str(base).rstrip('/')}{told.get('prefix', '')}/"


def _forwarded(headers: Headers) -> dict[str, str]:
    """What the nearest to the client of all proxies says of the request: proto, host, port, prefix."""

    def first(name: str) -> str:
        return headers.get(name, "").split(",")[0].strip()

    pairs = (pair.partition("=") for pair in first("forwarded").split(";"))
    told = {name.strip().lower(): value.strip().strip('"') for name, _, value in pairs}
    for name in ("proto", "host", "port", "prefix"):
        told[name] = first(f"x-forwarded-{name}") or told.get(name, "")
    told["proto"], told["prefix"] = told["proto"].lower(), told["prefix"].rstrip("/")
    fits = {"proto": _PROTO, "host": _HOST, "port": _PORT, "prefix": _PREFIX}
    return {name: told[name] for name, right in fits.items() if right.fullmatch(told[name])}


def _with_port(host: str, told: dict[str, str]) -> str:
    """A host with the port that a proxy tells apart from it, as nginx's `$host` has none. 80 and 443 are left out: they
    may be those of a proxy behind the one that ends TLS."""
    port = told.get("port")
    return host if port in (None, "80", "443") or re.search(r":\d+$", host) else f"{host}:{port}"
