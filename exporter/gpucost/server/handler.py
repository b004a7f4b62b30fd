"""One connection: reads the heads of requests, sends answers, each within its deadline."""

from __future__ import annotations

import io
import logging
import re
import socket
import time
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any

from gpucost.answers import (
    PROBES,
    Answer,
    Request,
    accepts_gzip,
    answer,
    credentials,
    failed,
    path_of,
    unauthorized,
)

if TYPE_CHECKING:
    from socketserver import BaseServer

    from gpucost.server.common import Common
    from gpucost.web_config import Guard

log = logging.getLogger(__name__)

MAX_HEAD_BYTES = 16 << 10
"""Request line and headers together; http.client allows a hundred headers besides."""
_HEAD_END = re.compile(rb"\r?\n\r?\n")
_CHUNK_BYTES = 64 << 10
_LINGER_SECONDS = 1.0
_MIN_GZIP_BYTES = 1024


def shut(connection: socket.socket, how: int) -> None:
    """End one or both directions. SSLSocket's own would drop the encryption under a writer."""
    try:
        socket.socket.shutdown(connection, how)
    except OSError as error:
        log.debug("already closed: %s", error)


class Handler(BaseHTTPRequestHandler):
    """One connection: reads heads of requests, sends answers."""

    protocol_version = "HTTP/1.1"
    default_request_version = "HTTP/1.0"  # the base says 0.9, whose answers have no headers

    def __init__(
        self,
        request: socket.socket,
        client_address: Any,  # noqa: ANN401 - its base's, by family
        server: BaseServer,
        common: Common,
    ) -> None:
        """Serve the connection to its end."""
        self._common = common
        super().__init__(request, client_address, server)

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
        shut(self.connection, socket.SHUT_WR)
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
        common = self._common
        data = self._pending.lstrip(b"\r\n")
        patience = common.timeout_seconds if data or self._first else common.idle_seconds
        deadline = time.monotonic() + patience
        self._first = False
        searched = 0
        while not (end := _HEAD_END.search(data, searched)):
            if len(data) > MAX_HEAD_BYTES:
                self._pending = b""
                self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
                return None
            remaining = deadline - time.monotonic()
            if remaining <= 0 or common.closing:
                return None
            self.connection.settimeout(remaining)
            chunk = self.connection.recv(4096)
            if not chunk:
                return None
            if not data:
                deadline = min(deadline, time.monotonic() + common.timeout_seconds)
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
        guard = self._common.guard()
        seen = {
            "accept": ",".join(headers.get_all("Accept", [])),
            "accept-encoding": ",".join(headers.get_all("Accept-Encoding", [])),
        }
        if not self._allowed(guard):
            reply = unauthorized()
        else:
            try:
                reply = answer(Request(self.command, self.path, seen), self._common.pages)
            except Exception:  # the border: whatever a page's making raises must not end the server
                log.exception("an answer could not be made")
                reply = failed(500, "The exporter failed to make this answer; its log says why.")
        self._put(reply, guard, gzip_welcome=accepts_gzip(seen["accept-encoding"]))

    def _allowed(self, guard: Guard) -> bool:
        """Whether the request may see the pages."""
        if not guard.users or path_of(self.path) in PROBES:
            return True
        given = credentials(self.headers.get("Authorization", ""))
        return given is not None and self._common.passwords.right(guard.users, *given)

    def _put(self, reply: Answer, guard: Guard, *, gzip_welcome: bool) -> None:
        """Write an answer into the outgoing buffer."""
        headers = {"Content-Type": reply.content_type, **reply.headers, **guard.headers}
        body = reply.body
        if gzip_welcome and "Vary" in headers and len(body) >= _MIN_GZIP_BYTES:
            body = self._common.compressed.of(body)
            headers["Content-Encoding"] = "gzip"
        if self._common.closing:
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
        deadline = time.monotonic() + self._common.timeout_seconds
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
        self._put(failed(code, HTTPStatus(code).phrase), self._common.guard(), gzip_welcome=False)

    def handle_expect_100(self) -> bool:
        """Answer at once: a client that asks whether to send a body need not."""
        return True

    def version_string(self) -> str:
        """Return the Server header: a name, no versions to pick an exploit by."""
        return "gpucost"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002, ANN401 - its base
        """Log no requests: a scrape every few seconds is not news, and a target may be secret."""
