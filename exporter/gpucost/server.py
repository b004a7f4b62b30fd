"""The HTTP server: sockets, TLS and time. What is answered is decided in answers.py.

Nothing here may be held up by a client: a connection has its own thread, of a bounded number;
the TLS handshake runs there; a request's head, and an answer, each have a deadline as a whole,
so that a byte a second does not renew it; a body is never read.
"""

from __future__ import annotations

import gzip
import io
import logging
import re
import socket
import ssl
import sys
import threading
import time
from collections import OrderedDict
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import TYPE_CHECKING, Any

from gpucost.answers import (
    PROBES,
    Answer,
    Pages,
    Request,
    accepts_gzip,
    answer,
    credentials,
    failed,
    path_of,
    unauthorized,
)
from gpucost.config import ConfigError
from gpucost.web_config import Guard, Passwords, WebConfig

if TYPE_CHECKING:
    from collections.abc import Callable

    from gpucost.config import Http

__all__ = ["Pages", "Server"]

log = logging.getLogger(__name__)

MAX_HEAD_BYTES = 16 << 10
"""Request line and headers together; http.client allows a hundred headers besides."""
_HEAD_END = re.compile(rb"\r?\n\r?\n")
_CHUNK_BYTES = 64 << 10
_CLOSE_SECONDS = 2.0
"""How long close() waits for answers that are on their way."""
_REFUSED_LOG_SECONDS = 60.0
_ACCEPT_PAUSE_SECONDS = 0.1
_LINGER_SECONDS = 1.0
_MIN_GZIP_BYTES = 1024
_GZIP_LEVEL = 1
"""A page is compressed once and sent to one or two scrapers: time weighs more than size."""


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
            self._http = _Listener(address, port, pages, settings, web, idle_seconds)
        except OSError as error:
            raise ConfigError(
                f"cannot listen on [{address}]:{port}: {error.strerror or error}. Choose another"
                " address or port, or stop what has it."
            ) from error
        self._thread = threading.Thread(target=self._http.serve_forever, name="http", daemon=True)

    @property
    def port(self) -> int:
        """The port that is listened on."""
        return int(self._http.server_address[1])

    @property
    def address(self) -> str:
        """The address that is listened on."""
        return str(self._http.server_address[0])

    def start(self) -> None:
        """Begin to answer, on threads of its own."""
        self._thread.start()

    def close(self) -> None:
        """Stop listening, end idle connections, let answers on their way finish (for 2 s)."""
        if self._thread.is_alive():
            self._http.shutdown()
            self._thread.join()
        self._http.server_close()


class _Listener(ThreadingHTTPServer):
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
        self.pages = pages
        self.timeout_seconds = settings.timeout_seconds
        self.idle_seconds = idle_seconds
        self.passwords = Passwords()
        self.compressed = _Compressed()
        self.closing = False
        self.guard: Callable[[], Guard] = web.current if web else Guard
        self._max_connections = settings.max_connections
        self._open: dict[int, socket.socket] = {}
        self._changed = threading.Condition()
        self._refused_logged = 0.0
        self.address_family, self._both_families, host = _family(address, port)
        super().__init__((host, port), _Handler)

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
            request.settimeout(self.timeout_seconds)
            guard = self.guard()
            if guard.tls is None:
                _Handler(request, client_address, self)
                return
            # Wrapping moves the connection into another object, and empties the first.
            with guard.tls.wrap_socket(
                request, server_side=True, do_handshake_on_connect=False
            ) as secured:
                with self._changed:
                    self._open[id(request)] = secured
                secured.do_handshake()  # its timeout is for all of it
                _check_names(secured, guard)
                _Handler(secured, client_address, self)
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
        if self.guard().tls is None:
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
        self.closing = True
        deadline = time.monotonic() + _CLOSE_SECONDS
        with self._changed:
            # Readers see the end of input; writers may finish.
            for connection in self._open.values():
                _shut(connection, socket.SHUT_RD)
            self._changed.wait_for(lambda: not self._open, deadline - time.monotonic())
            for connection in self._open.values():
                _shut(connection, socket.SHUT_RDWR)
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


def _shut(connection: socket.socket, how: int) -> None:
    """End one or both directions. SSLSocket's own would drop the encryption under a writer."""
    try:
        socket.socket.shutdown(connection, how)
    except OSError as error:
        log.debug("already closed: %s", error)


def _check_names(connection: ssl.SSLSocket, guard: Guard) -> None:
    """Raise unless the client's (verified) certificate holds an allowed name."""
    if not guard.allowed_sans:
        return
    certificate = connection.getpeercert() or {}
    names: Any = certificate.get("subjectAltName", ())
    if not guard.allowed_sans.intersection(name for _, name in names):
        raise ssl.SSLError("the client's certificate holds none of client_allowed_sans")


class _Handler(BaseHTTPRequestHandler):
    """One connection: reads heads of requests, sends answers."""

    protocol_version = "HTTP/1.1"
    server: _Listener

    def setup(self) -> None:
        """Prepare; the base's buffered files are not used, for they know no deadline."""
        self.connection: socket.socket = self.request
        self._pending = b""
        self._first = True
        self._unread = False
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)  # noqa: FBT003

    def finish(self) -> None:
        """Leave the closing to the listener, but take in what was sent and never read.

        Closing over unread data resets the connection, and the client may lose our answer
        (RFC 9112, 9.6).
        """
        if not self._unread:
            return
        deadline = time.monotonic() + _LINGER_SECONDS
        _shut(self.connection, socket.SHUT_WR)
        try:
            while (remaining := deadline - time.monotonic()) > 0:
                self.connection.settimeout(remaining)
                if not self.connection.recv(_CHUNK_BYTES):
                    return
        except OSError as error:
            log.debug("while lingering: %s", error)

    def handle_one_request(self) -> None:
        """Read one request's head, answer it."""
        self.close_connection = True
        self.requestline = self.request_version = self.command = ""
        self.wfile = self._out = io.BytesIO()
        try:
            head = self._read_head()
            if head is None:
                return
            line, _, rest = head.partition(b"\n")
            self.raw_requestline = line + b"\n"
            self.rfile = io.BytesIO(rest)
            if self.parse_request():
                self._answer()
            self._send(self._out.getvalue())
        except OSError as error:
            self.close_connection = True
            log.debug("connection ended: %s", type(error).__name__)

    def _read_head(self) -> bytes | None:
        """Read up to the blank line. None at the end of the connection, or of our patience."""
        server = self.server
        data = self._pending.lstrip(b"\r\n")
        patience = server.timeout_seconds if data or self._first else server.idle_seconds
        deadline = time.monotonic() + patience
        self._first = False
        searched = 0
        while not (end := _HEAD_END.search(data, searched)):
            if len(data) > MAX_HEAD_BYTES:
                self._pending = b""
                self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
                return None
            remaining = deadline - time.monotonic()
            if remaining <= 0 or server.closing:
                return None
            self.connection.settimeout(remaining)
            chunk = self.connection.recv(4096)
            if not chunk:
                return None
            if not data:
                deadline = min(deadline, time.monotonic() + server.timeout_seconds)
            searched = max(0, len(data) - 3)
            data = data + chunk if data else chunk.lstrip(b"\r\n")
        self._pending = data[end.end() :]
        return data[: end.end()]

    def _refuse(self, status: HTTPStatus) -> None:
        self._unread = True
        self.send_error(status)
        self._send(self._out.getvalue())

    def _answer(self) -> None:
        """Answer the parsed request; a bug of ours is logged, and answered with 500."""
        headers = self.headers
        if headers.get("Content-Length", "0").strip() != "0" or "Transfer-Encoding" in headers:
            # Its body is never read, so no request can follow.
            self.close_connection = self._unread = True
        guard = self.server.guard()
        seen = {
            "accept": ",".join(headers.get_all("Accept", [])),
            "accept-encoding": ",".join(headers.get_all("Accept-Encoding", [])),
        }
        if not self._allowed(guard):
            reply = unauthorized()
        else:
            try:
                reply = answer(Request(self.command, self.path, seen), self.server.pages)
            except Exception:  # the border: whatever a page's making raises must not end the server
                log.exception("an answer could not be made")
                reply = failed(500, "The exporter failed to make this answer; its log says why.")
        self._put(reply, guard, gzip_welcome=accepts_gzip(seen["accept-encoding"]))

    def _allowed(self, guard: Guard) -> bool:
        """Whether the request may see the pages."""
        if not guard.users or path_of(self.path) in PROBES:
            return True
        given = credentials(self.headers.get("Authorization", ""))
        return given is not None and self.server.passwords.right(guard.users, *given)

    def _put(self, reply: Answer, guard: Guard, *, gzip_welcome: bool) -> None:
        """Write an answer into the outgoing buffer."""
        headers = {"Content-Type": reply.content_type, **reply.headers, **guard.headers}
        body = reply.body
        if gzip_welcome and "Vary" in headers and len(body) >= _MIN_GZIP_BYTES:
            body = self.server.compressed.of(body)
            headers["Content-Encoding"] = "gzip"
        if self.server.closing:
            self.close_connection = True
        if self.close_connection:
            headers["Connection"] = "close"
        self.send_response(reply.status)
        for name, value in headers.items():
            if value:  # the web config may blank one
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _send(self, data: bytes) -> None:
        """Send everything within the timeout as a whole, however slowly the client reads."""
        deadline = time.monotonic() + self.server.timeout_seconds
        rest = memoryview(data)
        while rest:
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise TimeoutError
            self.connection.settimeout(remaining)
            rest = rest[self.connection.send(rest[:_CHUNK_BYTES]) :]

    def send_error(
        self,
        code: int,
        message: str | None = None,  # noqa: ARG002 - the base's holds the client's own words
        explain: str | None = None,  # noqa: ARG002
    ) -> None:
        """Answer a malformed request in plain words, none of them the client's."""
        self.close_connection = True
        self._put(failed(code, HTTPStatus(code).phrase), self.server.guard(), gzip_welcome=False)

    def handle_expect_100(self) -> bool:
        """Answer at once: a client that asks whether to send a body need not."""
        return True

    def version_string(self) -> str:
        """Return the Server header: a name, no versions to pick an exploit by."""
        return "gpucost"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002, ANN401 - its base
        """Log no requests: a scrape every few seconds is not news, and a target may be secret."""


class _Compressed:
    """The latest pages, compressed at most once each: known by identity, not by content."""

    KEPT = 4
    """Both formats of /metrics, the status page, and one to spare while a Report is replaced."""

    def __init__(self) -> None:
        self._pages: OrderedDict[int, tuple[bytes, bytes]] = OrderedDict()
        self._lock = threading.Lock()
        self.runs = 0

    def of(self, page: bytes) -> bytes:
        """Return `page` in gzip."""
        with self._lock:
            # The page itself is kept beside its id: an id is only unique among the living.
            found = self._pages.get(id(page))
            if found is None:
                self.runs += 1
                found = (page, gzip.compress(page, _GZIP_LEVEL, mtime=0))
                self._pages[id(page)] = found
                if len(self._pages) > self.KEPT:
                    self._pages.popitem(last=False)
            return found[1]
