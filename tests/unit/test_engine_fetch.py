"""Getting a pod's page: bounded in time and memory, and never led anywhere else."""

from __future__ import annotations

import gzip
import socket
import ssl
import threading
import time
import tracemalloc
import zlib
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from certificates import Authority
from gpucost.sources.base import SourceError
from gpucost.sources.engine_fetch import Trust, fetch
from page_server import serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from page_server import Handler

PAGE = b"vllm:prompt_tokens_total 5\n" * 3


NOBODY = Trust()


def get(
    url: str, *, timeout: float = 20.0, max_bytes: int = 1 << 20, trust: Trust = NOBODY
) -> bytes:
    pieces: list[bytes] = []
    fetch(url, pieces.append, timeout_seconds=timeout, max_bytes=max_bytes, trust=trust)
    return b"".join(pieces)


def failure(
    url: str, *, timeout: float = 20.0, max_bytes: int = 1 << 20, trust: Trust = NOBODY
) -> SourceError:
    with pytest.raises(SourceError) as caught:
        get(url, timeout=timeout, max_bytes=max_bytes, trust=trust)
    assert caught.value.remedy
    return caught.value


@contextmanager
def raw(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server that is no HTTP server: what it sends is the test's."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def run() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65_536)
                try:
                    answer(connection)
                except OSError:
                    return  # the client had enough

        thread = threading.Thread(target=run)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/metrics"
        thread.join()


def chunked(handler: Handler, *parts: bytes, end: bool = True) -> None:
    handler.protocol_version = "HTTP/1.1"
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    for part in parts:
        handler.wfile.write(b"%x\r\n%b\r\n" % (len(part), part))
    if end:
        handler.wfile.write(b"0\r\n\r\n")


def test_a_page_is_read_and_the_request_says_little() -> None:
    with serving(lambda handler: handler.send(PAGE)) as server:
        assert get(server.url + "?a=1") == PAGE
        [request] = server.requests
        assert request.path == "/metrics?a=1"
        assert "Authorization" not in request.headers


def test_a_chunked_page_is_read() -> None:
    with serving(lambda handler: chunked(handler, PAGE[:7], PAGE[7:])) as server:
        assert get(server.url) == PAGE


@pytest.mark.parametrize(
    ("encoding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)]
)
def test_a_page_that_comes_compressed_all_the_same_is_read(
    encoding: str, pack: Callable[[bytes], bytes]
) -> None:
    long = PAGE * 20_000
    with serving(lambda handler: handler.send(pack(long), Content_Encoding=encoding)) as server:
        assert get(server.url, max_bytes=len(long)) == long


def test_a_redirect_to_a_metadata_service_is_not_followed() -> None:
    with serving(lambda handler: handler.send(b"secret")) as elsewhere:

        def answer(handler: Handler) -> None:
            handler.send(b"", 302, Location=elsewhere.url)

        with serving(answer) as server:
            assert failure(server.url).kind == "redirect"
        assert not elsewhere.requests


def test_a_proxy_of_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with serving(lambda handler: handler.send(PAGE)) as server:
        assert get(server.url) == PAGE


@pytest.mark.parametrize("status", [204, 401, 404, 500])
def test_any_other_status_is_no_page(status: int) -> None:
    with serving(lambda handler: handler.send(PAGE, status)) as server:
        assert failure(server.url).kind == "http_status"


def test_a_larger_page_is_refused_before_it_is_held() -> None:
    with serving(lambda handler: handler.send(b"x" * 5000)) as server:
        assert failure(server.url, max_bytes=4096).kind == "too_large"


def test_an_endless_page_is_refused_in_little_memory() -> None:
    def answer(handler: Handler) -> None:
        handler.send_response(200)
        handler.end_headers()
        while not handler.server.stopping.is_set():
            handler.wfile.write(b"a 1\n" * 10_000)

    with serving(answer) as server:
        tracemalloc.start()
        try:
            with pytest.raises(SourceError, match="more than"):
                fetch(server.url, lambda _: None, timeout_seconds=20, max_bytes=1 << 20)
            assert tracemalloc.get_traced_memory()[1] < 1 << 20
        finally:
            tracemalloc.stop()


def test_a_page_that_unpacks_to_gigabytes_is_refused_in_little_memory() -> None:
    bomb = zlib.compressobj(9, zlib.DEFLATED, 31)
    packed = b"".join(bomb.compress(bytes(1 << 20)) for _ in range(256)) + bomb.flush()
    with serving(lambda handler: handler.send(packed, Content_Encoding="gzip")) as server:
        tracemalloc.start()
        try:
            with pytest.raises(SourceError, match="more than"):
                fetch(server.url, lambda _: None, timeout_seconds=20, max_bytes=1 << 20)
            assert tracemalloc.get_traced_memory()[1] < 4 << 20
        finally:
            tracemalloc.stop()


def drip(connection: socket.socket, head: bytes, piece: bytes) -> None:
    connection.sendall(head)
    connection.settimeout(0.05)
    for _ in range(600):
        connection.sendall(piece)
        try:
            if not connection.recv(1):
                return  # hung up
        except TimeoutError:
            continue


@pytest.mark.parametrize(
    ("head", "piece"),
    [
        (b"", b"H"),
        (b"HTTP/1.1 200 OK\r\n", b"X-A: b\r\n"),
        (b"HTTP/1.1 200 OK\r\n\r\n", b"a 1\n"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\na\r\n"),
    ],
)
def test_a_server_that_drips_is_cut_off_at_the_deadline(head: bytes, piece: bytes) -> None:
    with raw(lambda connection: drip(connection, head, piece)) as url:
        began = time.monotonic()
        assert failure(url, timeout=0.5).kind in ("timeout", "malformed")
        assert time.monotonic() - began < 15  # the drip would go on for 30 s


def test_a_server_that_says_nothing_is_cut_off() -> None:
    with raw(lambda connection: drip(connection, b"", b"")) as url:
        assert failure(url, timeout=0.3).kind == "timeout"


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\na 1\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\na 1\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: br\r\n\r\na 1\n",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\na 1\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 200 + b"\r\n",
    ],
)
def test_what_is_cut_off_or_no_http_is_malformed(answer: bytes) -> None:
    with raw(lambda connection: connection.sendall(answer)) as url:
        assert failure(url).kind == "malformed"


@pytest.mark.parametrize(
    ("head", "whole"),
    [
        (b"Content-Length: 4\r\n\r\na 1\n", True),
        (b"Transfer-Encoding: chunked\r\n\r\n4\r\na 1\n\r\n0\r\n\r\n", True),
        (b"\r\na 1\n", False),
    ],
)
def test_an_answer_that_ends_where_the_connection_does_is_not_known_to_be_whole(
    *, head: bytes, whole: bool
) -> None:
    with raw(lambda connection: connection.sendall(b"HTTP/1.1 200 OK\r\n" + head)) as url:
        pieces: list[bytes] = []
        assert fetch(url, pieces.append, timeout_seconds=20, max_bytes=100) is whole
        assert b"".join(pieces) == b"a 1\n"


def test_a_gzip_that_is_cut_off_is_malformed() -> None:
    packed = gzip.compress(PAGE * 1000)[:-10]
    with serving(lambda handler: handler.send(packed, Content_Encoding="gzip")) as server:
        assert failure(server.url).kind == "malformed"


def test_a_port_where_nobody_listens_is_unreachable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert failure(f"http://127.0.0.1:{port}/metrics").kind == "unreachable"


def test_a_token_is_read_for_each_request_and_stands_in_no_error(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("first\n")
    trust = Trust(bearer_token_file=str(token))
    with serving(lambda handler: handler.send(b"", 401)) as server:
        assert "first" not in str(failure(server.url, trust=trust))
        token.write_text("second")
        failure(server.url, trust=trust)
        sent = [request.headers["Authorization"] for request in server.requests]
    assert sent == ["Bearer first", "Bearer second"]


@pytest.mark.parametrize("text", [b"", b"two\nlines", b"\xff", b"a\r\nHost: evil", b"x" * 20_000])
def test_a_file_that_holds_no_token_is_a_problem_of_the_rule(tmp_path: Path, text: bytes) -> None:
    token = tmp_path / "token"
    token.write_bytes(text)
    trust = Trust(bearer_token_file=str(token))
    assert failure("http://127.0.0.1:9/metrics", trust=trust).kind == "token"


@pytest.fixture
def https(tmp_path: Path) -> Iterator[tuple[str, Authority]]:
    """A server with a certificate for its address, and the authority that signed it."""
    authority = Authority(tmp_path)
    authority.issue("engine")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "engine.pem", tmp_path / "engine.key")
    with serving(lambda handler: handler.send(PAGE), context) as server:
        yield server.url.replace("http", "https"), authority


def test_tls_is_verified_by_the_stated_authority(https: tuple[str, Authority]) -> None:
    url, authority = https
    assert get(url, trust=Trust(ca_file=str(authority.path))) == PAGE
    assert failure(url).kind == "tls"


def test_any_certificate_is_taken_where_the_rule_says_so(https: tuple[str, Authority]) -> None:
    url, _ = https
    assert get(url, trust=Trust(insecure_skip_verify=True)) == PAGE


def test_a_server_without_tls_is_a_problem_of_tls() -> None:
    with serving(lambda handler: handler.send(PAGE)) as server:
        url = server.url.replace("http", "https")
        assert failure(url, trust=Trust(insecure_skip_verify=True)).kind == "tls"


def test_a_missing_ca_file_is_a_problem_of_tls(tmp_path: Path) -> None:
    with serving(lambda handler: handler.send(PAGE)) as server:
        url = server.url.replace("http", "https")
        assert failure(url, trust=Trust(ca_file=str(tmp_path / "none.pem"))).kind == "tls"
