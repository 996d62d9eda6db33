"""Names of machines and origins of pages, as a request's headers give them."""

from __future__ import annotations

from contextlib import suppress
from ipaddress import ip_address
from urllib.parse import urlsplit


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
