"""Hostile conversations with the real server: whatever is sent, it answers the next one.

Each is a mangled, oversized, half-open or slow request, or a path that tries to leave the few
there are. Some are left open, so that many hang at once, as many as the server lets in.
"""

from __future__ import annotations

import contextlib
import http.client
import random
import resource
import socket
import threading
import time
from typing import TYPE_CHECKING

from gpucost.config import Http
from gpucost.server import Server

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = b"gpucost_gpu_seconds_total 1.0\n" * 1000
PATIENCE = 30.0
TIMEOUT = 2.0
OPEN_AT_ONCE = 8
MAX_GROWTH_KIB = 64 << 10

PATHS = (
    *("/", "/metrics", "/-/healthy", "/-/ready", "/metrics?name=a", "/nothing", "*", "", "//"),
    *("/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/metrics/..", "/metrics%00", "/%ff"),
    *("http://other/metrics", "/metrics#a", "/" + "a" * 9000, "/\x7f", "/metrics\\..", "/%"),
)
METHODS = ("GET", "HEAD", "POST", "PUT", "OPTIONS", "TRACE", "CONNECT", "get", "", "G" * 9000)
VERSIONS = ("HTTP/1.1", "HTTP/1.0", "HTTP/0.9", "HTTP/2.0", "HTTP/9.9", "HTTP/1.1.1", "", "JUNK")
HEADERS = (
    *("Host: a", "Connection: close", "Connection: keep-alive", "Accept-Encoding: gzip"),
    *("Accept: application/openmetrics-text", "Accept: " + "a;q=0.1," * 500, "Accept: q=;;,"),
    *("Content-Length: 5", "Content-Length: -1", "Content-Length: 9" * 9, "Content-Length: x"),
    *("Transfer-Encoding: chunked", "Authorization: Basic !!!", "Authorization: Basic YTpi"),
    *("Expect: 100-continue", "X: " + "y" * 70_000, " folded", "nocolon", ": empty", "\x00: a"),
    *("Accept-Encoding: gzip;q=nan", "Upgrade: h2c", "Range: bytes=0-", "Cookie: " + "c" * 4000),
)


class _Pages:
    """What the server shows."""

    def metrics(self, openmetrics: bool) -> bytes:  # noqa: FBT001 - the Protocol's
        return PAGE + b"# EOF\n" if openmetrics else PAGE

    def status(self) -> bytes:
        return b"<!doctype html><title>gpucost</title>"

    def healthy(self) -> bool:
        return True

    def ready(self) -> bool:
        return True


def hold(conversations: int, seed: int) -> bool:
    """So many; whether the server served on throughout, with bounded threads and memory."""
    chance = random.Random(seed)  # noqa: S311 - inputs
    threads = threading.active_count()
    server = Server(
        "127.0.0.1",
        0,
        pages=_Pages(),
        settings=Http(max_connections=4 * OPEN_AT_ONCE, timeout_seconds=TIMEOUT),
    )
    server.start()
    start = time.monotonic()
    try:
        serves(server.port)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with contextlib.ExitStack() as left_open:
            for number in range(conversations):
                converse(server.port, chance, left_open)
                if number % OPEN_AT_ONCE == OPEN_AT_ONCE - 1:
                    left_open.pop_all().close()
                if number % 100 == 0:
                    serves(server.port)
        serves(server.port)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory
    finally:
        server.close()
    deadline = time.monotonic() + PATIENCE
    while threading.active_count() > threads and time.monotonic() < deadline:
        time.sleep(0.05)
    well = threading.active_count() <= threads and grown < MAX_GROWTH_KIB
    print(
        f"{'ok  ' if well else 'FAIL'} http               {conversations} conversations in"
        f" {time.monotonic() - start:.0f} s, memory grew by {grown} KiB (seed {seed})"
    )
    return well


def serves(port: int) -> None:
    """Ask as a scraper does, until it is answered: connections may be taken for a moment."""
    deadline = time.monotonic() + PATIENCE
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        try:
            connection.request("GET", "/metrics")
            answer = connection.getresponse()
            if answer.status == http.HTTPStatus.OK and answer.read() == PAGE:
                return
        except (OSError, http.client.HTTPException):
            pass
        finally:
            connection.close()
        if time.monotonic() > deadline:
            raise AssertionError("the server no longer answers")
        time.sleep(0.05)


def converse(port: int, chance: random.Random, left_open: contextlib.ExitStack) -> None:
    """One conversation."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
    stays = chance.random() < 0.3
    if stays:
        left_open.callback(connection.close)
    try:
        for piece in pieces(request(chance), chance):
            connection.sendall(piece)
        if stays:
            return
        if chance.random() < 0.5:
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(1 << 16):
                pass
    except OSError:
        pass  # it hung up, as it may
    finally:
        if not stays:
            connection.close()


def request(chance: random.Random) -> bytes:
    """A request, perhaps mangled."""
    line = " ".join((chance.choice(METHODS), chance.choice(PATHS), chance.choice(VERSIONS)))
    headers = chance.choices(HEADERS, k=chance.choice((0, 1, 2, 5, 150)))
    end = chance.choice(("\r\n", "\r\n", "\n", "\r"))
    data = bytearray(end.join((line, *headers, "", "")).encode("latin-1"))
    for _ in range(chance.choice((0, 0, 1, 8))):
        data[chance.randrange(len(data))] = chance.randrange(256)
    if chance.random() < 0.2:
        del data[chance.randrange(len(data)) :]
    return bytes(data) * chance.choice((1, 1, 1, 3))


def pieces(data: bytes, chance: random.Random) -> Iterator[bytes]:
    """The request at once, or a little at a time."""
    size = chance.choice((len(data), len(data), 1 + len(data) // 3))
    for at in range(0, len(data), max(size, 1)):
        yield data[at : at + size]
