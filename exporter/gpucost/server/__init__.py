"""The HTTP server: sockets, TLS and time. What is answered is decided in answers.py.

    listener.py   accepts, bounds and secures connections
    handler.py    reads requests from one connection, and sends answers
    common.py     what all connections share

Nothing here may be held up by a client: a connection has its own thread, of a bounded number;
the TLS handshake runs there; a request's head, and an answer, each have a deadline as a whole,
so that a byte a second does not renew it; a body is never read.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from gpucost.answers import Pages
from gpucost.config import ConfigError
from gpucost.server.listener import Listener

if TYPE_CHECKING:
    from gpucost.config import Http
    from gpucost.web_config import WebConfig

__all__ = ["Pages", "Server"]

_POLL_SECONDS = 0.2
"""How soon close() is noticed."""


class Server:
    """Serves the pages on one port, from its construction (which binds) until `close()`.

    `address` may be a name, an IPv4 or an IPv6 address; `""` and `::` mean every address, of
    both families where the machine has both. `port` 0 takes a free one. `settings` bounds
    connections and the time for a handshake, for a request's head and for an answer;
    `idle_seconds` is how long a connection may wait for its next request, by default longer
    than the usual scrape intervals, so that a scraper keeps its connection.

    Raises ConfigError if it cannot listen there.
    """

    def __init__(
        self,
        address: str,
        port: int,
        *,
        pages: Pages,
        settings: Http,
        web: WebConfig | None = None,
        idle_seconds: float = 65.0,
    ) -> None:
        try:
            self._http = Listener(address, port, pages, settings, web, idle_seconds)
        except OSError as error:
            raise ConfigError(
                f"cannot listen on [{address}]:{port}: {error.strerror or error}. Choose another"
                " address or port, or stop what has it."
            ) from error
        self._thread = threading.Thread(
            target=self._http.serve_forever, args=(_POLL_SECONDS,), name="http", daemon=True
        )

    @property
    def port(self) -> int:
        """The port that is listened on."""
        return int(self._http.server_address[1])

    @property
    def address(self) -> str:
        """The address that is listened on."""
        return str(self._http.server_address[0])

    @property
    def pages_compressed(self) -> int:
        """How often a page was compressed: once for each page that anyone asked for in gzip."""
        return self._http.common.compressed.runs

    def start(self) -> None:
        """Begin to answer, on threads of its own."""
        self._thread.start()

    def close(self) -> None:
        """Stop listening, end idle connections, let answers on their way finish (for 2 s)."""
        if self._thread.is_alive():
            self._http.shutdown()
            self._thread.join()
        self._http.server_close()
