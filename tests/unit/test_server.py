"""The HTTP server over real sockets: nobody can hold it up, fill it or walk past its guard."""

from __future__ import annotations

import base64
import contextlib
import gzip
import http.client
import logging
import socket
import ssl
import threading
import time
from typing import TYPE_CHECKING

import bcrypt
import pytest

from certificates import Authority
from gpucost.answers import OPENMETRICS, TEXT
from gpucost.config import ConfigError, Http
from gpucost.server import Server
from gpucost.web_config import WebConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PATIENCE = 30.0
"""Seconds after which a slow machine has had its chance."""

PAGE = b"".join(b'gpucost_gpu_seconds_total{gpu="%d"} 1.0\n' % n for n in range(500))
HASH = bcrypt.hashpw(b"open sesame", bcrypt.gensalt(4)).decode()


class Shown:
    """Pages that are ready, and can be made to fail."""

    def __init__(self, page: bytes = PAGE) -> None:
        self.page: bytes | None = page
        self.error: Exception | None = None

    def metrics(self, openmetrics: bool) -> bytes | None:  # noqa: FBT001 - the Protocol's
        if self.error is not None:
            raise self.error
        if self.page is None:
            return None
        return self.page + b"# EOF\n" if openmetrics else self.page

    def status(self) -> bytes | None:
        return b"<!doctype html><title>gpucost</title>"

    def healthy(self) -> bool:
        return True

    def ready(self) -> bool:
        return self.page is not None


@contextlib.contextmanager
def serving(
    pages: Shown | None = None,
    *,
    address: str = "127.0.0.1",
    max_connections: int = 32,
    timeout_seconds: float = 10.0,
    idle_seconds: float = 60.0,
    web: WebConfig | None = None,
) -> Iterator[Server]:
    """A server on a free port, closed at the end with nothing left behind."""
    before = set(threading.enumerate())
    server = Server(
        address,
        0,
        pages=pages or Shown(),
        settings=Http(max_connections=max_connections, timeout_seconds=timeout_seconds),
        web=web,
        idle_seconds=idle_seconds,
    )
    server.start()
    try:
        yield server
    finally:
        server.close()
    assert eventually(lambda: not set(threading.enumerate()) - before), "threads were left behind"


def eventually(promise: Callable[[], bool]) -> bool:
    """Whether a promise comes true in time."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        if promise():
            return True
        time.sleep(0.02)
    return promise()


@contextlib.contextmanager
def client(
    server: Server, tls: ssl.SSLContext | None = None
) -> Iterator[http.client.HTTPConnection]:
    """A connection that is closed at the end."""
    if tls is None:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
    else:
        connection = http.client.HTTPSConnection(
            "127.0.0.1", server.port, timeout=PATIENCE, context=tls
        )
    with contextlib.closing(connection):
        yield connection


def get(
    server: Server,
    path: str = "/metrics",
    *,
    method: str = "GET",
    tls: ssl.SSLContext | None = None,
    **headers: str,
) -> tuple[http.client.HTTPResponse, bytes]:
    """One request on a connection of its own."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    with client(server, tls) as connection:
        connection.request(method, path, headers=named)
        response = connection.getresponse()
        return response, response.read()


def raw(server: Server) -> socket.socket:
    """A bare connection."""
    return socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE)


def read_all(connection: socket.socket) -> bytes:
    """Everything up to the end; a reset is an end too."""
    found = bytearray()
    with contextlib.suppress(ConnectionError):
        while chunk := connection.recv(65536):
            found += chunk
    return bytes(found)


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


# --- Pages ------------------------------------------------------------------------------------


def test_metrics_come_as_text_by_default() -> None:
    with serving() as server:
        response, body = get(server)
    assert (response.status, body) == (200, PAGE)
    assert response.headers["Content-Type"] == TEXT
    assert response.headers["Content-Length"] == str(len(PAGE))
    assert response.headers["Server"] == "gpucost"


def test_openmetrics_comes_to_those_who_ask() -> None:
    with serving() as server:
        response, body = get(server, Accept="application/openmetrics-text;version=1.0.0")
    assert body.endswith(b"# EOF\n")
    assert response.headers["Content-Type"] == OPENMETRICS


def test_accept_headers_on_several_lines_count_together() -> None:
    with serving() as server, client(server) as connection:
        connection.putrequest("GET", "/metrics")
        connection.putheader("Accept", "text/plain;q=0.1")
        connection.putheader("Accept", "application/openmetrics-text;q=0.9")
        connection.endheaders()
        response = connection.getresponse()
        response.read()
        assert response.headers["Content-Type"] == OPENMETRICS


def test_head_promises_the_same_and_sends_no_body() -> None:
    with serving() as server:
        response, body = get(server, method="HEAD")
    assert (response.status, body) == (200, b"")
    assert response.headers["Content-Length"] == str(len(PAGE))


def test_gzip_holds_the_same_page_and_is_made_once() -> None:
    with serving() as server:
        for _ in range(3):
            response, body = get(server, Accept_Encoding="gzip")
            assert response.headers["Content-Encoding"] == "gzip"
            assert gzip.decompress(body) == PAGE
        assert server.pages_compressed == 1
        assert len(body) < len(PAGE) / 5


def test_a_new_page_is_compressed_anew() -> None:
    pages = Shown()
    with serving(pages) as server:
        get(server, Accept_Encoding="gzip")
        for n in range(20):
            pages.page = PAGE + b"extra %d\n" % n
            _, body = get(server, Accept_Encoding="gzip")
            assert gzip.decompress(body) == pages.page


def test_before_the_first_report_metrics_and_readiness_are_503() -> None:
    pages = Shown()
    pages.page = None
    with serving(pages) as server:
        assert get(server)[0].status == 503
        assert get(server, "/-/ready")[0].status == 503
        assert get(server, "/-/healthy")[0].status == 200


def test_the_status_page_is_html_under_a_strict_policy() -> None:
    with serving() as server:
        response, body = get(server, "/")
    assert b"<title>gpucost</title>" in body
    assert "default-src 'none'" in response.headers["Content-Security-Policy"]
    assert response.headers["Referrer-Policy"] == "no-referrer"
    assert response.headers["X-Frame-Options"] == "deny"


def test_other_paths_are_404_and_other_methods_405() -> None:
    with serving() as server:
        response, body = get(server, "/secret")
        assert response.status == 404
        assert b"/metrics" in body
        response, _ = get(server, method="POST")
        assert response.status == 405
        assert response.headers["Allow"] == "GET, HEAD"


def test_a_connection_is_kept_for_the_next_request() -> None:
    with serving() as server, client(server) as connection:
        sockets = set()
        for path in ("/metrics", "/nothing", "/", "/metrics"):
            connection.request("GET", path)
            connection.getresponse().read()
            assert connection.sock is not None
            sockets.add(connection.sock.getsockname())
        assert len(sockets) == 1


def test_requests_sent_at_once_are_answered_in_order() -> None:
    with serving() as server, raw(server) as connection:
        connection.sendall(
            b"GET /-/healthy HTTP/1.1\r\nHost: a\r\n\r\n"
            b"GET /-/ready HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        )
        page = read_all(connection)
    assert page.index(b"\r\n\r\nhealthy\n") < page.index(b"\r\n\r\nready\n")


def test_bare_newlines_and_http_1_0_are_understood() -> None:
    with serving() as server, raw(server) as connection:
        connection.sendall(b"GET /-/healthy HTTP/1.0\n\n")
        page = read_all(connection)
    assert page.startswith(b"HTTP/1.1 200 OK\r\n")
    assert page.endswith(b"\r\n\r\nhealthy\n")


def test_a_body_is_refused_to_be_read_and_ends_the_connection() -> None:
    """Else its bytes could pass for a second request."""
    smuggled = b"GET /-/ready HTTP/1.1\r\nHost: a\r\n\r\n"
    with serving() as server, raw(server) as connection:
        connection.sendall(
            b"GET /-/healthy HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(smuggled)
            + smuggled
        )
        page = read_all(connection)
    assert page.count(b"HTTP/1.1 ") == 1
    assert page.endswith(b"\r\n\r\nhealthy\n")


def test_a_bug_in_a_page_is_500_logged_once_and_the_server_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    pages = Shown()
    pages.error = ZeroDivisionError("a bug")
    with serving(pages) as server:
        response, body = get(
            server, "/metrics?token=hunter2", Authorization=basic("ada", "hunter2")
        )
        assert response.status == 500
        assert b"a bug" not in body
        pages.error = None
        assert get(server)[0].status == 200
    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(errors) == 1
    assert "hunter2" not in caplog.text


# --- Bounds -----------------------------------------------------------------------------------


def test_a_head_sent_byte_by_byte_does_not_renew_its_deadline() -> None:
    with serving(timeout_seconds=0.5) as server, raw(server) as connection:
        connection.settimeout(0.05)
        ended = False
        until = time.monotonic() + PATIENCE
        while not ended and time.monotonic() < until:
            try:
                connection.sendall(b"X")
                ended = not connection.recv(1)
            except TimeoutError:
                continue
            except ConnectionError:
                ended = True
        assert ended


def test_a_client_that_says_nothing_is_let_go() -> None:
    with serving(timeout_seconds=0.3) as server, raw(server) as connection:
        assert read_all(connection) == b""


def test_an_idle_connection_is_let_go() -> None:
    with serving(idle_seconds=0.3) as server, raw(server) as connection:
        connection.sendall(b"GET /-/healthy HTTP/1.1\r\nHost: a\r\n\r\n")
        assert read_all(connection).endswith(b"healthy\n")


def test_a_client_that_does_not_read_is_let_go() -> None:
    pages = Shown(b"x" * (64 << 20))
    with serving(pages, timeout_seconds=0.5, max_connections=1) as server, raw(server) as slow:
        slow.sendall(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n")
        assert slow.recv(1) == b"H"
        pages.page = PAGE
        assert eventually(lambda: answered(server))


def answered(server: Server) -> bool:
    """Whether a request gets through now."""
    try:
        return get(server)[0].status == 200
    except (http.client.HTTPException, OSError):
        return False


def test_over_the_bound_connections_are_turned_away_until_there_is_room() -> None:
    with serving(max_connections=2) as server:
        with raw(server) as one, raw(server) as two:
            for connection in (one, two):
                connection.sendall(b"GET /-/healthy HTTP/1.1\r\nHost: a\r\n\r\n")
                assert connection.recv(4096).startswith(b"HTTP/1.1 200")
            with raw(server) as three:
                page = read_all(three)
            assert page.startswith(b"HTTP/1.1 503 ")
            assert page.endswith(b"\r\n\r\nToo many connections.\n")
        assert eventually(lambda: answered(server))


@pytest.mark.parametrize(
    "head",
    [
        b"GET /metrics HTTP/1.1\r\nX: " + b"a" * 40_000 + b"\r\n\r\n",
        b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"".join(b"X-%d: a\r\n" % n for n in range(200)) + b"\r\n",
    ],
)
def test_a_head_without_measure_is_431(head: bytes) -> None:
    with serving() as server, raw(server) as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall(head)
        page = read_all(connection)
    assert page.startswith(b"HTTP/1.1 431 ")
    assert b"aaaa" not in page


@pytest.mark.parametrize(
    "request_line",
    [
        b"hunter2",
        b"GET / HTTP/hunter2",
        b"GET / hunter2 HTTP/1.1",
        b"PRI * HTTP/2.0",
        b"\x16\x03\x01\x02\x00\x01",
    ],
)
def test_what_is_not_http_is_refused_in_words_of_our_own(
    request_line: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with serving() as server, raw(server) as connection:
        connection.sendall(request_line + b"\r\n\r\n")
        connection.shutdown(socket.SHUT_WR)
        page = read_all(connection)
        assert answered(server)
    assert b" 400 " in page or b" 505 " in page
    assert b"hunter2" not in page
    assert "hunter2" not in caplog.text


def test_closing_ends_idle_connections_at_once() -> None:
    with serving(idle_seconds=3600) as server:
        connection = raw(server)
        connection.sendall(b"GET /-/healthy HTTP/1.1\r\nHost: a\r\n\r\n")
        connection.recv(4096)
    with connection:
        assert connection.recv(1) == b""


def test_closing_lets_an_answer_finish() -> None:
    size = 64 << 20  # more than sockets buffer, so that the answer is on its way for sure
    with serving(Shown(b"x" * size)) as server:
        connection = raw(server)
        connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n")
        found = connection.recv(65536)
        closing = threading.Thread(target=server.close)
        closing.start()
        assert eventually(lambda: not answered(server)), "it no longer listens"
        found += read_all(connection)
        closing.join()
        connection.close()
    _, _, body = found.partition(b"\r\n\r\n")
    assert len(body) == size


def test_a_server_that_never_started_can_be_closed() -> None:
    Server("127.0.0.1", 0, pages=Shown(), settings=Http()).close()


# --- Addresses --------------------------------------------------------------------------------


def test_a_taken_port_is_named_with_a_remedy() -> None:
    with serving() as server, pytest.raises(ConfigError, match=r"Address already in use.*Choose"):
        Server("127.0.0.1", server.port, pages=Shown(), settings=Http())


def test_an_unknown_address_is_named_with_a_remedy() -> None:
    with pytest.raises(ConfigError, match=r"cannot listen on \[999\.0\.0\.1\]:0"):
        Server("999.0.0.1", 0, pages=Shown(), settings=Http())


@pytest.mark.parametrize("address", ["", "::"])
@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
def test_every_address_means_both_families(address: str) -> None:
    with serving(address=address) as server:
        assert get(server)[0].status == 200
        with socket.create_connection(("::1", server.port), timeout=PATIENCE) as connection:
            connection.sendall(b"GET /-/healthy HTTP/1.0\r\n\r\n")
            assert read_all(connection).endswith(b"healthy\n")


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
def test_one_ipv6_address_can_be_listened_on() -> None:
    with (
        serving(address="::1") as server,
        socket.create_connection(("::1", server.port), timeout=PATIENCE) as connection,
    ):
        connection.sendall(b"GET /-/healthy HTTP/1.0\r\n\r\n")
        assert read_all(connection).endswith(b"healthy\n")


# --- The guard --------------------------------------------------------------------------------


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    authority = Authority(tmp_path)
    authority.issue("server")
    return authority


def web_of(folder: Path, text: str) -> WebConfig:
    (folder / "web.yaml").write_text(text)
    return WebConfig(folder / "web.yaml", check_seconds=0)


def trusting(authority: Authority, certificate: Path | None = None) -> ssl.SSLContext:
    """What a client brings: trust in the authority, perhaps a certificate of its own."""
    context = ssl.create_default_context(cafile=authority.path)
    if certificate is not None:
        context.load_cert_chain(certificate, certificate.with_suffix(".key"))
    return context


TLS = "tls_server_config: {cert_file: server.pem, key_file: server.key}\n"


def test_pages_come_over_tls(authority: Authority, tmp_path: Path) -> None:
    with serving(web=web_of(tmp_path, TLS)) as server:
        response, body = get(server, tls=trusting(authority))
    assert (response.status, body) == (200, PAGE)


def test_plain_http_gets_nothing_from_a_tls_port(tmp_path: Path, authority: Authority) -> None:
    with serving(web=web_of(tmp_path, TLS)) as server:
        with raw(server) as connection:
            connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n")
            assert b"HTTP/1.1 200" not in read_all(connection)
        assert get(server, tls=trusting(authority))[0].status == 200


def test_tls_1_1_is_refused(tmp_path: Path, authority: Authority) -> None:
    context = trusting(authority)
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        context.minimum_version = ssl.TLSVersion.TLSv1
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("DEFAULT@SECLEVEL=0")
    with serving(web=web_of(tmp_path, TLS)) as server, pytest.raises(ssl.SSLError):
        get(server, tls=context)


def test_a_client_that_does_not_shake_hands_holds_up_nobody(
    tmp_path: Path, authority: Authority
) -> None:
    web = web_of(tmp_path, TLS)
    with serving(web=web, timeout_seconds=0.5) as server, raw(server) as silent:
        assert get(server, tls=trusting(authority))[0].status == 200
        assert read_all(silent) == b""


def test_a_renewed_certificate_is_shown_without_a_restart(
    tmp_path: Path, authority: Authority
) -> None:
    with serving(web=web_of(tmp_path, TLS)) as server:
        assert get(server, tls=trusting(authority))[0].status == 200
        renewed = Authority(tmp_path, "renewed")
        renewed.issue("server")
        assert get(server, tls=trusting(renewed))[0].status == 200
        with pytest.raises(ssl.SSLCertVerificationError):
            get(server, tls=trusting(authority))


MUTUAL = (
    "tls_server_config: {cert_file: server.pem, key_file: server.key,"
    " client_ca_file: authority.pem, client_auth_type: RequireAndVerifyClientCert%s}\n"
)


def is_let_in(server: Server, tls: ssl.SSLContext) -> bool:
    """Whether a client gets an answer; a refusal is seen at the first read in TLS 1.3."""
    try:
        return get(server, tls=tls)[0].status == 200
    except (ssl.SSLError, ConnectionError, http.client.RemoteDisconnected):
        return False


def test_only_clients_with_a_certificate_of_the_authority_are_let_in(
    tmp_path: Path, authority: Authority
) -> None:
    authority.issue("prometheus")
    impostor = Authority(tmp_path, "impostor")
    impostor.issue("stranger")
    with serving(web=web_of(tmp_path, MUTUAL % "")) as server:
        assert is_let_in(server, trusting(authority, tmp_path / "prometheus.pem"))
        assert not is_let_in(server, trusting(authority))
        assert not is_let_in(server, trusting(authority, tmp_path / "stranger.pem"))


def test_only_clients_with_an_allowed_name_are_let_in(tmp_path: Path, authority: Authority) -> None:
    authority.issue("prometheus", "prometheus.monitoring.svc")
    authority.issue("other", "other.svc")
    allowed = ", client_allowed_sans: [prometheus.monitoring.svc]"
    with serving(web=web_of(tmp_path, MUTUAL % allowed)) as server:
        assert is_let_in(server, trusting(authority, tmp_path / "prometheus.pem"))
        assert not is_let_in(server, trusting(authority, tmp_path / "other.pem"))


USERS = f"basic_auth_users: {{ada: '{HASH}'}}\n"


def test_only_a_user_with_the_right_password_sees_the_pages(tmp_path: Path) -> None:
    with serving(web=web_of(tmp_path, USERS)) as server:
        for path in ("/metrics", "/", "/nothing"):
            response, body = get(server, path)
            assert response.status == 401
            assert response.headers["WWW-Authenticate"].startswith("Basic ")
            assert PAGE not in body
        for user, password in (("ada", "wrong"), ("mallory", "open sesame"), ("", "")):
            assert get(server, Authorization=basic(user, password))[0].status == 401
        assert get(server, Authorization="Bearer x")[0].status == 401
        response, body = get(server, Authorization=basic("ada", "open sesame"))
        assert (response.status, body) == (200, PAGE)


def test_probes_need_no_password(tmp_path: Path) -> None:
    with serving(web=web_of(tmp_path, USERS)) as server:
        assert get(server, "/-/healthy")[0].status == 200
        assert get(server, "/-/ready")[0].status == 200
        assert get(server, "/-/ready/../../metrics")[0].status == 401


def test_a_password_that_changed_on_disk_counts_at_once(tmp_path: Path) -> None:
    changed = bcrypt.hashpw(b"changed", bcrypt.gensalt(4)).decode()
    with serving(web=web_of(tmp_path, USERS)) as server, client(server) as connection:

        def status(password: str) -> int:
            connection.request("GET", "/", headers={"Authorization": basic("ada", password)})
            response = connection.getresponse()
            response.read()
            return response.status

        assert status("open sesame") == 200
        (tmp_path / "web.yaml").write_text(f"basic_auth_users: {{ada: '{changed}'}}\n")
        assert status("open sesame") == 401
        assert status("changed") == 200


def test_passwords_are_never_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    secret = basic("ada", "hunter2")
    with serving(web=web_of(tmp_path, USERS)) as server:
        get(server, Authorization=secret)
        get(server, Authorization="Basic " + "?" * 8 + "hunter2")
    assert "hunter2" not in caplog.text
    assert secret.split()[1] not in caplog.text


def test_the_files_headers_are_sent_and_a_blank_one_takes_ours_away(tmp_path: Path) -> None:
    text = (
        "http_server_config: {headers: {Strict-Transport-Security: max-age=60,"
        " X-Frame-Options: sameorigin, X-Content-Type-Options: ''}}\n"
    )
    with serving(web=web_of(tmp_path, text)) as server:
        headers = get(server, "/")[0].headers
    assert headers["Strict-Transport-Security"] == "max-age=60"
    assert headers.get_all("X-Frame-Options") == ["sameorigin"]
    assert "X-Content-Type-Options" not in headers
