"""Which bytes a request is answered with, under which headers."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpucost.answers import (
    HTML,
    OPENMETRICS,
    TEXT,
    Request,
    accepts_gzip,
    answer,
    credentials,
    prefers_openmetrics,
)

PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,"
    "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)
"""What Prometheus 3 asks for (scrape/scrape.go, acceptHeader)."""


class Shown:
    """Pages of a Report, or of none yet."""

    def __init__(self, *, ready: bool = True) -> None:
        self._ready = ready

    def metrics(self, openmetrics: bool) -> bytes | None:  # noqa: FBT001 - the Protocol's
        if not self._ready:
            return None
        return b"up 1\n# EOF\n" if openmetrics else b"up 1\n"

    def status(self) -> bytes | None:
        return b"<!doctype html>" if self._ready else None

    def healthy(self) -> bool:
        return self._ready

    def ready(self) -> bool:
        return self._ready


@pytest.mark.parametrize(
    ("accept", "openmetrics"),
    [
        ("", False),
        ("*/*", False),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", False),
        (PROMETHEUS, True),
        ("text/plain;version=0.0.4;q=1,*/*;q=0.1", False),
        ("application/openmetrics-text", True),
        ("application/openmetrics-text; version=1.0.0; charset=utf-8", True),
        ('application/openmetrics-text; version="1.0.0"', True),
        ("Application/OpenMetrics-Text", True),
        ("application/openmetrics-text;version=0.0.1", False),
        ("application/openmetrics-text;q=0", False),
        ("application/openmetrics-text;q=0.5,text/plain;q=0.6", False),
        ("text/plain;q=0.5,application/openmetrics-text;q=0.6", True),
        ("text/plain,application/openmetrics-text", False),
        ("application/openmetrics-text,text/plain", True),
        ("application/openmetrics-text;q=2", False),
        ("application/openmetrics-text;q=nan", False),
        ("application/openmetrics-text;q=x,,;;", False),
    ],
)
def test_openmetrics_is_sent_to_those_who_prefer_it(accept: str, openmetrics: bool) -> None:  # noqa: FBT001 - a table
    assert prefers_openmetrics(accept) is openmetrics


@given(st.text())
def test_no_header_is_an_error(text: str) -> None:
    prefers_openmetrics(text)
    accepts_gzip(text)
    credentials(text)
    answer(Request("GET", text, {"accept": text}), Shown())


@pytest.mark.parametrize(
    ("accepted", "gzip"),
    [
        ("", False),
        ("gzip", True),
        ("deflate, gzip;q=0.5", True),
        ("GZIP", True),
        ("gzip;q=0", False),
        ("gzip;q=0.0", False),
        ("identity", False),
        ("br", False),
    ],
)
def test_gzip_is_sent_to_those_who_accept_it(accepted: str, gzip: bool) -> None:  # noqa: FBT001 - a table
    assert accepts_gzip(accepted) is gzip


@pytest.mark.parametrize(
    ("target", "ready", "status", "content_type"),
    [
        ("/metrics", True, 200, TEXT),
        ("/metrics?name[]=up", True, 200, TEXT),
        ("http://node:9101/metrics", True, 200, TEXT),
        ("/", True, 200, HTML),
        ("http://node:9101", True, 200, HTML),
        ("/-/healthy", True, 200, None),
        ("/-/ready", True, 200, None),
        ("/metrics", False, 503, None),
        ("/", False, 503, None),
        ("/-/healthy", False, 503, None),
        ("/-/ready", False, 503, None),
        ("/metrics/", True, 404, None),
        ("/../etc/passwd", True, 404, None),
        ("*", True, 404, None),
        ("http://[", True, 400, None),
    ],
)
def test_each_path_has_its_answer(
    target: str,
    ready: bool,  # noqa: FBT001 - a table
    status: int,
    content_type: str | None,
) -> None:
    reply = answer(Request("GET", target), Shown(ready=ready))
    assert reply.status == status
    assert reply.content_type == (content_type or "text/plain; charset=utf-8")
    assert reply.headers["X-Content-Type-Options"] == "nosniff"
    assert reply.headers["Cache-Control"] == "no-store"


def test_openmetrics_has_its_own_body_and_type() -> None:
    reply = answer(Request("GET", "/metrics", {"accept": PROMETHEUS}), Shown())
    assert (reply.body, reply.content_type) == (b"up 1\n# EOF\n", OPENMETRICS)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "BREW"])
def test_nothing_can_be_changed_through_it(method: str) -> None:
    reply = answer(Request(method, "/metrics"), Shown())
    assert reply.status == 405
    assert reply.headers["Allow"] == "GET, HEAD"


def test_what_was_asked_for_is_never_repeated() -> None:
    reply = answer(Request("GET", "/<script>"), Shown())
    assert b"script" not in reply.body


def test_the_status_page_may_load_nothing() -> None:
    policy = answer(Request("GET", "/"), Shown()).headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy


def test_credentials_are_read_and_malformed_ones_are_none() -> None:
    token = base64.b64encode("ada:pässword:1".encode()).decode()
    assert credentials(f"Basic {token}") == ("ada", "pässword:1")
    assert credentials(f"basic  {token}") == ("ada", "pässword:1")
    for bad in ("", "Basic", "Bearer abc", "Basic ???", "Basic YQ==", "Basic /w=="):
        assert credentials(bad) is None
