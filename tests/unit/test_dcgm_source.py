"""Reading a dcgm-exporter over HTTP: bounded whatever the other side does.

The servers are real ones on loopback; each test says what its server does.
"""

from __future__ import annotations

import gzip
import socket
import time
import tracemalloc

import pytest

from gpucost.config import Dcgm
from gpucost.sources.base import SourceError
from gpucost.sources.dcgm import DcgmSource
from page_server import Handler, serving

PAGE = b'DCGM_FI_DEV_POWER_USAGE{gpu="0",UUID="GPU-a"} 75.5\n'


def source(
    *, timeout: float = 20.0, max_bytes: int = 1 << 20, interval: float = 10.0
) -> DcgmSource:
    return DcgmSource(Dcgm(timeout_seconds=timeout, max_bytes=max_bytes, interval_seconds=interval))


def failure(url: str, reader: DcgmSource | None = None) -> SourceError:
    with pytest.raises(SourceError) as caught:
        (reader or source()).read(url)
    assert caught.value.remedy
    return caught.value


def test_a_page_is_read() -> None:
    with serving(lambda handler: handler.send(PAGE)) as server:
        read = source().read(server.url)
        assert [gpu.power_watts for gpu in read.gpus] == [75.5]
        [request] = server.requests
        assert request.headers["Accept-Encoding"] == "identity"


def test_a_chunked_page_is_read() -> None:
    def answer(handler: Handler) -> None:
        handler.protocol_version = "HTTP/1.1"
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        for part in (PAGE[:7], PAGE[7:]):
            handler.wfile.write(b"%x\r\n%b\r\n" % (len(part), part))
        handler.wfile.write(b"0\r\n\r\n")

    with serving(answer) as server:
        assert source().read(server.url).gpus


def test_a_good_page_is_kept_for_the_interval_and_is_the_same_value() -> None:
    with serving(lambda handler: handler.send(PAGE)) as server:
        reader = source(interval=3600)
        assert reader.read(server.url) is reader.read(server.url)
        assert len(server.requests) == 1


def test_after_the_interval_the_page_is_read_anew() -> None:
    with serving(lambda handler: handler.send(PAGE)) as server:
        reader = source(interval=0.001)
        reader.read(server.url)
        time.sleep(0.01)
        reader.read(server.url)
        assert len(server.requests) == 2


def test_another_address_is_not_answered_from_what_was_kept() -> None:
    with (
        serving(lambda handler: handler.send(PAGE)) as server,
        serving(lambda handler: handler.send(PAGE.replace(b"75.5", b"80"))) as moved,
    ):
        reader = source(interval=3600)
        reader.read(server.url)
        assert reader.read(moved.url).gpus[0].power_watts == 80


def test_a_failed_read_is_not_hidden_behind_an_older_page_nor_kept() -> None:
    answers = [PAGE, b"", PAGE]
    with serving(lambda handler: handler.send(answers.pop(0))) as server:
        reader = source(interval=0.001)
        assert reader.read(server.url).gpus
        time.sleep(0.01)
        assert failure(server.url, reader).kind == "empty"
        assert reader.read(server.url).gpus


@pytest.mark.parametrize("status", [401, 404, 500, 503, 204])
def test_another_status_than_200_is_a_failed_read(status: int) -> None:
    with serving(lambda handler: handler.send(b"", status)) as server:
        error = failure(server.url)
        assert error.kind == "http_status"
        assert str(status) in str(error)


def test_a_redirect_is_not_followed() -> None:
    with serving(lambda handler: handler.send(PAGE)) as target:
        answer = {"Location": target.url}
        with serving(lambda handler: handler.send(b"", 302, **answer)) as server:
            assert failure(server.url).kind == "http_status"
        assert target.requests == []


def test_a_refused_connection_is_unreachable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert failure(f"http://127.0.0.1:{port}/metrics").kind == "unreachable"


def test_an_answer_that_breaks_off_is_unreachable_not_a_shorter_page() -> None:
    def answer(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(2 * len(PAGE)))
        handler.end_headers()
        handler.wfile.write(PAGE)

    with serving(answer) as server:
        assert failure(server.url).kind == "unreachable"


def test_a_silent_server_is_a_timeout() -> None:
    def answer(handler: Handler) -> None:
        handler.server.stopping.wait()

    with serving(answer) as server:
        assert failure(server.url, source(timeout=0.3)).kind == "timeout"


def test_a_body_that_drips_is_a_timeout_in_all_not_a_wait_for_each_drop() -> None:
    def answer(handler: Handler) -> None:
        handler.send_response(200)
        handler.end_headers()
        while not handler.server.stopping.wait(0.02):
            handler.wfile.write(b"\n")

    with serving(answer) as server:
        assert failure(server.url, source(timeout=0.5)).kind == "timeout"


def test_an_endless_body_is_cut_off_at_the_limit() -> None:
    def answer(handler: Handler) -> None:
        handler.send_response(200)
        handler.end_headers()
        while not handler.server.stopping.is_set():
            handler.wfile.write(b"#" * 65_536)

    with serving(answer) as server:
        assert failure(server.url).kind == "too_large"


def test_a_page_of_exactly_the_limit_is_read_and_one_byte_more_is_not() -> None:
    limit = 4096
    filler = b"#" * (limit - len(PAGE) - 1) + b"\n"
    pages = [filler + PAGE, b"#" + filler + PAGE]
    with serving(lambda handler: handler.send(pages.pop(0))) as server:
        reader = source(max_bytes=limit, interval=0.001)
        assert reader.read(server.url).gpus
        time.sleep(0.01)
        assert failure(server.url, reader).kind == "too_large"


@pytest.mark.parametrize("encoding", ["gzip", "x-gzip", "GZIP"])
def test_a_compressed_page_is_read_though_none_was_asked_for(encoding: str) -> None:
    body = gzip.compress(PAGE)
    with serving(lambda handler: handler.send(body, Content_Encoding=encoding)) as server:
        assert source().read(server.url).gpus


def test_a_gzip_bomb_is_cut_off_before_it_is_in_memory() -> None:
    bomb = gzip.compress(b"#" * (64 << 20))
    assert len(bomb) < 1 << 20
    with serving(lambda handler: handler.send(bomb, Content_Encoding="gzip")) as server:
        tracemalloc.start()
        try:
            assert failure(server.url).kind == "too_large"
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    # One chunk of it would be all 64 MiB.
    assert peak < 16 << 20


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", PAGE),
        ("gzip", gzip.compress(PAGE * 100)[:-12]),
        ("gzip", gzip.compress(PAGE) + gzip.compress(PAGE)),
        ("br", PAGE),
    ],
)
def test_an_encoding_that_cannot_be_undone_whole_is_malformed(encoding: str, body: bytes) -> None:
    with serving(lambda handler: handler.send(body, Content_Encoding=encoding)) as server:
        assert failure(server.url).kind == "malformed"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "file:///etc/passwd",
        "ftp://127.0.0.1/",
        "http://",
        "http://[",
        "http://127.0.0.1:99999/",
        "http://127.0.0.1:port/",
        "http://" + "a" * 70 + ".example/",
        "http://\N{FULLWIDTH LOW LINE}\u0000/",
    ],
)
def test_an_unusable_address_is_said_to_be_one(url: str) -> None:
    assert failure(url).kind == "address"


def test_tls_with_a_plain_server_is_said_to_be_no_tls() -> None:
    with serving(lambda handler: handler.send(PAGE)) as server:
        assert failure(server.url.replace("http:", "https:")).kind == "tls"


def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "")
    with serving(lambda handler: handler.send(PAGE)) as server:
        assert source().read(server.url).gpus


def test_no_error_shows_the_secrets_of_an_address() -> None:
    with serving(lambda handler: handler.send(b"", 403)) as server:
        url = server.url.replace("http://", "http://user:hunter2@") + "?token=hunter2"
        error = failure(url)
        assert "hunter2" not in str(error)
        assert "hunter2" not in error.remedy
        assert f"127.0.0.1:{server.server_port}/metrics" in str(error)
    assert "hunter2" not in str(failure("ftp://user:hunter2@host/"))
