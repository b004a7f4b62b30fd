"""Requests to inference servers: by the clock, or through a gateway that holds those that wait.

The replicas run the worker's `serve`, which answers as many at once as it has slots.
"""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import requests

from cluster.place import NODE_ADDRESS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PORT = 8080
"""Of the worker's engine, its metrics too."""
ANSWER_SECONDS = 30.0


def ask(address: str) -> None:
    """One request, answered. Raises requests.RequestException."""
    url = f"http://{address}:{PORT}/v1/completions"
    requests.post(url, timeout=ANSWER_SECONDS).raise_for_status()


@contextmanager
def asking(address: str, per_second: float) -> Iterator[None]:
    """So many requests a second, each at its time whatever became of the one before."""
    over = threading.Event()
    begin = time.monotonic()
    askers = 4

    def asker(first: int) -> None:
        number = first
        while not over.wait(max(0.0, begin + number / per_second - time.monotonic())):
            ask(address)
            number += askers

    threads = [threading.Thread(target=asker, args=(first,)) for first in range(askers)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


class Gateway:
    """Stands before a service: a request waits here until a replica has a slot free for it.

    Its clients ask again as soon as they are answered. Pods reach its /metrics at NODE_ADDRESS.
    """

    METRIC = "gateway_waiting_requests"

    def __init__(self, replicas: Callable[[], list[str]], slots: int) -> None:
        self._replicas = replicas
        self._slots = slots
        self._clients = 0
        self._waiting = 0
        self._busy: dict[str, int] = {}
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []
        self._server = ThreadingHTTPServer((NODE_ADDRESS, 0), self._page())
        self._start(self._server.serve_forever)
        self._start(self._follow)

    @property
    def address(self) -> str:
        """Host and port of its metrics."""
        return f"{NODE_ADDRESS}:{self._server.server_port}"

    def clients(self, number: int) -> None:
        """So many from now on."""
        with self._lock:
            new = range(self._clients, number)
            self._clients = number
        for place in new:
            self._start(self._client, place)

    def close(self) -> None:
        """End it, and wait for what is asked."""
        self._over.set()
        self._server.shutdown()
        self._server.server_close()
        for thread in self._threads:
            thread.join()

    def _start(self, work: Callable[..., None], *words: int) -> None:
        thread = threading.Thread(target=work, args=words)
        self._threads.append(thread)
        thread.start()

    def _follow(self) -> None:
        while not self._over.wait(2):
            found = self._replicas()
            with self._lock:
                self._busy = {address: self._busy.get(address, 0) for address in found}

    def _client(self, place: int) -> None:
        while (address := self._slot(place)) is not None:
            try:
                ask(address)
            except requests.RequestException:
                self._over.wait(1)  # that replica ended; its requests are asked again
            finally:
                with self._lock:
                    if address in self._busy:
                        self._busy[address] -= 1

    def _slot(self, place: int, every: float = 0.1) -> str | None:
        """The replica that has most slots free, once one has; None when this client is to go."""
        with self._lock:
            self._waiting += 1
        try:
            while not self._over.wait(every) and place < self._clients:
                with self._lock:
                    address = min(self._busy, key=self._busy.__getitem__, default=None)
                    if address is not None and self._busy[address] < self._slots:
                        self._busy[address] += 1
                        return address
        finally:
            with self._lock:
                self._waiting -= 1
        return None

    def _page(self) -> type[BaseHTTPRequestHandler]:
        gateway = self

        class Page(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                page = f"{gateway.METRIC} {gateway._waiting}\n".encode()
                self.send_response(200)
                self.send_header("Content-Type", "text/plain; version=0.0.4")
                self.send_header("Content-Length", str(len(page)))
                self.end_headers()
                self.wfile.write(page)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name
                """Say nothing."""

        return Page
