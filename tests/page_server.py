"""HTTP servers for tests: real ones on loopback, each answering as its test says."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator


class Handler(BaseHTTPRequestHandler):
    """Answers by the server's `answer`, and counts the requests."""

    server: Server
    body = b""

    def do_GET(self) -> None:
        self.server.requests.append(self)
        try:
            self.server.answer(self)
        except OSError:
            self.close_connection = True  # the client went away: it had enough

    def do_POST(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self.do_GET()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name in the base
        """Quiet."""

    def send(self, body: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Server(ThreadingHTTPServer):
    """A server on a free port; `stopping` ends answers that would go on for ever."""

    daemon_threads = False

    def __init__(self, answer: Callable[[Handler], None]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer = answer
        self.requests: list[Handler] = []
        self.stopping = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/metrics"


@contextmanager
def serving(
    answer: Callable[[Handler], None], context: ssl.SSLContext | None = None
) -> Iterator[Server]:
    """Serve until the test is done; in TLS where a context is given."""
    with Server(answer) as server:
        if context is not None:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.stopping.set()
            server.shutdown()
            thread.join()
