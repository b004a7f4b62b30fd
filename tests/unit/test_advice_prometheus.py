"""The client of a Prometheus: what it asks, in which pieces, and in which words it fails."""

from __future__ import annotations

import argparse
import json
import os
import socket
import ssl
import subprocess
import sys
import time
from email.utils import formatdate
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pytest
import requests

from certificates import Authority
from gpucost.advice.connection import add_connection, add_span, connect, span_of
from gpucost.advice.prometheus import Access, Bounds, Prometheus
from gpucost.config import ConfigError
from gpucost.sources.base import SourceError
from page_server import Handler, serving
from real_prometheus import prometheus

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from real_prometheus import Prometheus as Real

START = 1_767_225_600.0
"""2026-01-01 00:00:00 UTC."""

HOUR = 3600.0


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Real]:
    """One that holds ten series for two days: series n is n, and so says every minute."""
    with prometheus(tmp_path_factory.mktemp("prometheus")) as it:
        it.write(
            {
                (("__name__", "things"), ("n", str(n))): [
                    (round((START + minute * 60) * 1000), float(n)) for minute in range(2 * 1440)
                ]
                for n in range(10)
            }
        )
        yield it


def test_a_real_prometheus_answers_for_a_moment_and_for_a_range(real: Real) -> None:
    client = Prometheus(Access(f"http://127.0.0.1:{real.port}"))
    rows = client.at("things", START + HOUR)
    assert {row.labels["n"]: row.value for row in rows} == {str(n): float(n) for n in range(10)}
    assert [it.value for it in client.at("scalar(vector(7))", START)] == [7.0]
    pieces = list(client.over("sum(things)", START, START + 24 * HOUR, HOUR))
    points = [point for piece in pieces for row in piece for point in row.points]
    assert points == [(START + hour * HOUR, 45.0) for hour in range(25)]
    assert client.skew_seconds == pytest.approx(0.0, abs=3.0)
    client.close()


def test_no_piece_has_more_samples_than_stated_and_none_is_missed(real: Real) -> None:
    client = Prometheus(Access(f"http://127.0.0.1:{real.port}"), Bounds(max_samples=100))
    pieces = list(client.over("things", START, START + 40 * HOUR, 300.0))
    assert max(sum(len(row.points) for row in piece) for piece in pieces) <= 100
    seen = [at for piece in pieces for at, _ in piece[0].points]
    assert seen == [START + n * 300.0 for n in range(481)]


def test_what_prometheus_does_not_understand_is_told_with_the_query(real: Real) -> None:
    client = Prometheus(Access(f"http://127.0.0.1:{real.port}"))
    with pytest.raises(SourceError, match=r"parse error.*sum\(") as caught:
        client.at("sum(", START)
    assert caught.value.kind == "query"


# --- A server that fails as the test says ---------------------------------------------------------


def answer(result: list[Any], kind: str = "vector") -> bytes:
    return json.dumps(
        {"status": "success", "data": {"resultType": kind, "result": result}}
    ).encode()


ONE = answer([{"metric": {}, "value": [START, "1"]}])
QUICK = Bounds(connect_seconds=2.0, answer_seconds=2.0, first_wait_seconds=0.01)


def asked(handler: Handler) -> dict[str, str]:
    """The form of a question."""
    text = handler.body.decode() or urlsplit(handler.path).query
    return {name: values[0] for name, values in parse_qs(text).items()}


def client_of(
    url: str,
    bounds: Bounds = QUICK,
    **access: Any,  # noqa: ANN401 - Access says the types
) -> Prometheus:
    return Prometheus(Access(url.removesuffix("/metrics"), **access), bounds)


REFUSALS = {
    "401": (401, b"Unauthorized", "--bearer-token-file"),
    "403": (403, b"Forbidden", "X-Scope-OrgID"),
    "login page": (302, b"", "the API itself"),
    "another server": (200, b"<html>Grafana</html>", "what stands before /api/v1"),
    "no API": (404, b"404 page not found", "/prometheus"),
    "JSON of something else": (200, b'{"status": "success"}', "what stands before /api/v1"),
    "a list": (200, b"[]", "what stands before /api/v1"),
    "a result of another shape": (200, answer([{"metric": 3}]), "what stands before /api/v1"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_refusal_names_the_flag_and_the_remedy(case: str) -> None:
    status, body, remedy = REFUSALS[case]
    with serving(lambda handler: handler.send(body, status, Location="/login")) as server:
        with pytest.raises(SourceError, match="--prometheus") as caught:
            client_of(server.url).at("up", START)
        assert remedy in caught.value.remedy


def test_nobody_there_is_told_in_a_few_words() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(SourceError) as caught:
        client_of(f"http://127.0.0.1:{port}").at("up", START)
    assert str(caught.value) == (
        f"--prometheus http://127.0.0.1:{port}: cannot be reached: Connection refused."
    )


@pytest.mark.parametrize("url", ["prometheus:9090", "ftp://prometheus", "http://", ""])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(SourceError, match="is no address"):
        Prometheus(Access(url))


def test_a_password_in_the_address_is_refused_and_not_repeated() -> None:
    with pytest.raises(SourceError) as caught:
        Prometheus(Access("http://ada:secret@prometheus:9090"))
    assert "secret" not in str(caught.value)


def test_a_busy_server_is_waited_for() -> None:
    def busy(handler: Handler) -> None:
        turn = len(handler.server.requests)
        handler.send(ONE if turn > 2 else b"", 200 if turn > 2 else 503)

    with serving(busy) as server:
        assert client_of(server.url).at("up", START)[0].value == 1.0
        assert len(server.requests) == 3


def test_a_proxy_that_takes_no_post_is_asked_by_get() -> None:
    with serving(
        lambda handler: handler.send(ONE, 200 if handler.command == "GET" else 405)
    ) as server:
        client = client_of(server.url)
        client.at("up", START)
        client.at("up", START)
        assert [it.command for it in server.requests] == ["POST", "GET", "GET"]


def test_a_piece_that_is_too_much_is_asked_again_in_smaller_ones() -> None:
    spans = []

    def choosy(handler: Handler) -> None:
        form = asked(handler)
        start, end, step = (float(form[name]) for name in ("start", "end", "step"))
        steps = round((end - start) / step) + 1
        if steps > 5:
            error = "query processing would load too many samples into memory"
            body = {"status": "error", "errorType": "execution", "error": error}
            handler.send(json.dumps(body).encode(), 422)
            return
        spans.append(steps)
        values = [[start + n * step, "1"] for n in range(steps)]
        handler.send(answer([{"metric": {}, "values": values}], "matrix"))

    with serving(choosy) as server:
        pieces = list(client_of(server.url).over("up", START, START + 30 * HOUR, HOUR))
    seen = [at for piece in pieces for row in piece for at, _ in row.points]
    assert seen == [START + n * HOUR for n in range(31)]
    assert max(spans) <= 5


def test_an_answer_without_end_is_cut_off() -> None:
    def endless(handler: Handler) -> None:
        handler.send_response(200)
        handler.end_headers()
        while not handler.server.stopping.is_set():
            handler.wfile.write(b" " * 65_536)

    with serving(endless) as server:
        bounds = Bounds(max_answer_bytes=4 << 20, answer_seconds=30.0)
        with pytest.raises(SourceError, match="more than 4 MiB"):
            client_of(server.url, bounds).at("up", START)


def test_a_server_that_drips_is_given_up_in_time() -> None:
    def drips(handler: Handler) -> None:
        handler.send_response(200)
        handler.end_headers()
        while not handler.server.stopping.wait(0.2):
            handler.wfile.write(b" ")
            handler.wfile.flush()

    began = time.monotonic()
    with serving(drips) as server, pytest.raises(SourceError, match="within 2 s"):
        client_of(server.url).at("up", START)
    assert time.monotonic() - began < 20.0


def test_a_clock_that_is_off_is_seen() -> None:
    def late(handler: Handler) -> None:
        handler.send_response_only(HTTPStatus.OK)
        handler.send_header("Date", formatdate(time.time() - 600.0, usegmt=True))
        handler.send_header("Content-Length", str(len(ONE)))
        handler.end_headers()
        handler.wfile.write(ONE)

    with serving(late) as server:
        client = client_of(server.url)
        client.at("up", START)
        assert client.skew_seconds == pytest.approx(-600.0, abs=5.0)


def test_who_asks_is_said_in_every_question_and_read_anew(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("first\n")
    password = tmp_path / "password"
    password.write_text("hunter2\n")
    with serving(lambda handler: handler.send(ONE)) as server:
        client = client_of(
            server.url, bearer_token_file=token, headers=(("X-Scope-OrgID", "team-a"),)
        )
        client.at("up", START)
        token.write_text("second\n")
        client.at("up", START)
        client_of(server.url, username="ada", password_file=password).at("up", START)
        said = [it.headers["Authorization"] for it in server.requests]
        assert said == ["Bearer first", "Bearer second", "Basic YWRhOmh1bnRlcjI="]
        assert server.requests[0].headers["X-Scope-OrgID"] == "team-a"


def test_a_netrc_file_does_not_speak_for_the_flags(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login eve password other\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    assert requests.utils.get_netrc_auth("http://127.0.0.1/") == ("eve", "other")
    with serving(lambda handler: handler.send(ONE)) as server:
        client_of(server.url).at("up", START)
        assert "Authorization" not in server.requests[0].headers


@pytest.mark.parametrize("content", [None, b"", b"two words", b"\xff"])
def test_a_token_that_cannot_be_read_names_its_flag(tmp_path: Path, content: bytes | None) -> None:
    token = tmp_path / "token"
    if content is not None:
        token.write_bytes(content)
    with (
        serving(lambda handler: handler.send(ONE)) as server,
        pytest.raises(SourceError, match="--bearer-token-file"),
    ):
        client_of(server.url, bearer_token_file=token).at("up", START)


def test_a_certificate_must_be_of_the_authority_that_was_given(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    authority.issue("server")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.pem", tmp_path / "server.key")
    with serving(lambda handler: handler.send(ONE), context) as server:
        url = f"https://127.0.0.1:{server.server_port}"
        with pytest.raises(SourceError) as caught:
            client_of(url).at("up", START)
        assert "--ca-file" in caught.value.remedy
        assert client_of(url, ca_file=authority.path).at("up", START)[0].value == 1.0


# --- The flags ----------------------------------------------------------------------------------


def flags(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_connection(parser, required=True)
    add_span(parser, "30d")
    return parser.parse_args(["--prometheus", "http://p:9090", *words])


def test_times_may_be_absolute_days_or_relative() -> None:
    span = span_of(flags("--from", "2026-01-01", "--to", "2026-01-31T00:00:00+01:00"))
    assert (span.start, span.end) == (START, START + 30 * 86_400 - HOUR)
    span = span_of(flags("--to", "2h"))
    assert span.seconds == pytest.approx(30 * 86_400)
    assert span.end == pytest.approx(time.time() - 2 * HOUR, abs=60.0)


@pytest.mark.parametrize(
    ("words", "field"),
    [
        (("--from", "yesterday"), "--from: `yesterday` is no time"),
        (("--from", "2026-02-01", "--to", "2026-01-01"), "--from: 2026-02-01 is not before"),
        (("--to", "2999-01-01"), "--to: 2999-01-01 is still to come"),
        (("--from", "500d"), "more than 400 days"),
    ],
)
def test_a_time_that_cannot_be_names_its_flag(words: tuple[str, ...], field: str) -> None:
    with pytest.raises(ConfigError, match=field):
        span_of(flags(*words))


@pytest.mark.parametrize(
    ("words", "field"),
    [
        (("--ca-file", "/nowhere"), "--ca-file"),
        (("--username", "ada"), "--password-file"),
        (("--username", "a", "--password-file", "f", "--bearer-token-file", "t"), "one of them"),
    ],
)
def test_flags_that_do_not_go_together_are_named(words: tuple[str, ...], field: str) -> None:
    with pytest.raises(ConfigError, match=field):
        connect(flags(*words))


@pytest.mark.parametrize(
    "words", [("--header", "X"), ("--header", "a b=c"), ("--timeout", "0"), ("--max-samples", "1")]
)
def test_a_flag_of_a_wrong_form_is_refused(words: tuple[str, ...]) -> None:
    with pytest.raises(argparse.ArgumentError):
        flags(*words)


def test_what_serves_imports_nothing_of_this() -> None:
    code = "import sys, gpucost.cli; print([m for m in sys.modules if 'gpucost.advice' in m])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ
    )
    assert done.stdout.strip() == "[]"
