"""Requests that ask for another protocol besides (`Upgrade: h2c`), as each of Java's own HTTP client does: a server may
answer them as if they had not asked (RFC 9110, 7.8). uvicorn does so, but its fast parser takes what follows the
headers for the other protocol's, so the body is lost."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

import uvicorn.config
from uvicorn.protocols.http.auto import AutoHTTPProtocol

if TYPE_CHECKING:
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
elif AutoHTTPProtocol.__name__ == "HttpToolsProtocol":
    HttpToolsProtocol = AutoHTTPProtocol
else:  # h11's, which reads bodies behind such headers
    HttpToolsProtocol = object

_ASK: Final = (b"upgrade", b"http2-settings")  # headers, and tokens of `connection`
_HOOKS: Final = ("_should_upgrade", "_unsupported_upgrade_warning", "on_headers_complete", "on_message_complete")


class WithoutUpgrades(HttpToolsProtocol):
    """Reads a request that asks for an unknown protocol anew, without what asks for it: what comes next is its body."""

    _fed = b""

    def data_received(self, data: bytes) -> None:
        self._fed = data
        super().data_received(data)

    def on_headers_complete(self) -> None:
        if not self._is_ignored():
            super().on_headers_complete()

    def on_message_complete(self) -> None:
        if not self._is_ignored():
            super().on_message_complete()

    def _is_ignored(self) -> bool:
        return self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT" and not self._should_upgrade()

    def _unsupported_upgrade_warning(self) -> None:
        """Where the parser has ended, behind the headers, is told by its exception."""
        ended, parser = sys.exception(), self.parser
        if not self._is_ignored() or ended is None:
            super()._unsupported_upgrade_warning()
            return
        lines = [b"%s %s HTTP/%s" % (parser.get_method(), self.url, parser.get_http_version().encode())]
        for name, value in self.headers:
            if name == b"connection":
                value = b",".join(token for token in value.split(b",") if token.strip().lower() not in _ASK)
            if name not in _ASK:
                lines.append(name + b": " + value)
        rest = self._fed[ended.args[0] :]
        self.parser = type(parser)(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's own
        self.data_received(b"\r\n".join(lines) + b"\r\n\r\n" + rest)


def ignore_unknown() -> None:
    """For all servers that this process starts from now on, where uvicorn is one of those that this is known of."""
    if all(hasattr(HttpToolsProtocol, name) for name in _HOOKS):
        uvicorn.config.HTTP_PROTOCOLS["auto"] = f"{__name__}:{WithoutUpgrades.__name__}"
