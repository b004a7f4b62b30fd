"""Accepts connections, a bounded number at once, and secures them, each on its own thread."""

from __future__ import annotations

import logging
import socket
import ssl
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import TYPE_CHECKING, Any

from gpucost.server.common import Common
from gpucost.server.handler import MAX_HEAD_BYTES, Handler, shut
from gpucost.web_config import Guard

if TYPE_CHECKING:
    from gpucost.answers import Pages
    from gpucost.config import Http
    from gpucost.web_config import WebConfig

log = logging.getLogger(__name__)

_CLOSE_SECONDS = 2.0
"""How long closing waits for answers that are on their way."""
_REFUSED_LOG_SECONDS = 60.0
_ACCEPT_PAUSE_SECONDS = 0.1


class Listener(ThreadingHTTPServer):
    """Accepts connections, at most `settings.max_connections` at once."""

    daemon_threads = True
    block_on_close = False
    allow_reuse_port = False
    request_queue_size = 64

    def __init__(
        self,
        address: str,
        port: int,
        pages: Pages,
        settings: Http,
        web: WebConfig | None,
        idle_seconds: float,
    ) -> None:
        guard = web.current if web else Guard
        self.common = Common(pages, guard, settings.timeout_seconds, idle_seconds)
        self._max_connections = settings.max_connections
        self._open: dict[int, socket.socket] = {}
        self._changed = threading.Condition()
        self._refused_logged = 0.0
        self.address_family, self._both_families, host = _family(address, port)
        super().__init__((host, port), BaseHTTPRequestHandler)  # ours: see finish_request

    def server_bind(self) -> None:
        """Bind; without HTTPServer's look-up of the host's full name, which may take long."""
        if self.address_family == socket.AF_INET6:
            only_v6 = int(not self._both_families)
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only_v6)
        TCPServer.server_bind(self)

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept; when that fails (no more file descriptors) wait a little, not spin."""
        try:
            return super().get_request()
        except OSError:
            time.sleep(_ACCEPT_PAUSE_SECONDS)
            raise

    def process_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 - its base
        """Give a connection its thread, or turn it away."""
        with self._changed:
            full = len(self._open) >= self._max_connections
            if not full:
                self._open[id(request)] = request
        if full:
            self._refuse(request)
            return
        try:
            super().process_request(request, client_address)
        except RuntimeError:  # no more threads
            self._forget(request)
            raise

    def finish_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 - its base
        """Shake hands where TLS is on, then serve. On the connection's own thread."""
        try:
            request.settimeout(self.common.timeout_seconds)
            guard = self.common.guard()
            if guard.tls is None:
                Handler(request, client_address, self, self.common)
                return
            # Wrapping moves the connection into another object, and empties the first.
            with guard.tls.wrap_socket(
                request, server_side=True, do_handshake_on_connect=False
            ) as secured:
                with self._changed:
                    self._open[id(request)] = secured
                secured.do_handshake()  # its timeout is for all of it
                _check_names(secured, guard)
                Handler(secured, client_address, self, self.common)
        finally:
            self._forget(request)

    def _forget(self, request: socket.socket) -> None:
        with self._changed:
            self._open.pop(id(request), None)
            self._changed.notify_all()

    def _refuse(self, request: socket.socket) -> None:
        """Say that the house is full, without waiting; a TLS client just sees it closed."""
        now = time.monotonic()
        if now - self._refused_logged > _REFUSED_LOG_SECONDS:
            self._refused_logged = now
            log.warning(
                "refused a connection: %d are open, the most that http.max_connections allows",
                self._max_connections,
            )
        request.settimeout(0)
        if self.common.guard().tls is None:
            try:
                request.send(
                    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain\r\n"
                    b"Content-Length: 22\r\nConnection: close\r\n\r\nToo many connections.\n"
                )
                request.recv(MAX_HEAD_BYTES)  # unread data would turn our answer into a reset
            except OSError as error:
                log.debug("while refusing: %s", error)
        self.shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401, ARG002 - its base
        """Log what ended a connection's thread: a client's doing in brief, ours in full."""
        error = sys.exception()
        if isinstance(error, OSError):  # resets, timeouts and failed handshakes are among these
            log.debug("connection ended: %s", error)
        else:
            log.error("a connection's thread failed", exc_info=error)

    def server_close(self) -> None:
        """Close the listening socket, then every connection."""
        super().server_close()
        self.common.closing = True
        deadline = time.monotonic() + _CLOSE_SECONDS
        with self._changed:
            # Readers see the end of input; writers may finish.
            for connection in self._open.values():
                shut(connection, socket.SHUT_RD)
            self._changed.wait_for(lambda: not self._open, deadline - time.monotonic())
            for connection in self._open.values():
                shut(connection, socket.SHUT_RDWR)
            self._changed.wait_for(lambda: not self._open, _CLOSE_SECONDS)


def _family(address: str, port: int) -> tuple[socket.AddressFamily, bool, str]:
    """Return the family to listen in, whether it covers both, and the address to bind."""
    if address in ("", "::"):
        if socket.has_dualstack_ipv6():
            return socket.AF_INET6, True, "::"
        return socket.AF_INET, False, "0.0.0.0"  # noqa: S104 - every address is what was asked for
    found = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, _, _, _, where = found[0]
    return family, False, str(where[0])


def _check_names(connection: ssl.SSLSocket, guard: Guard) -> None:
    """Raise unless the client's (verified) certificate holds an allowed name."""
    if not guard.allowed_sans:
        return
    certificate = connection.getpeercert() or {}
    names: Any = certificate.get("subjectAltName", ())
    if not guard.allowed_sans.intersection(name for _, name in names):
        raise ssl.SSLError("the client's certificate holds none of client_allowed_sans")
