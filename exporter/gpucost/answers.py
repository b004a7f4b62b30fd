"""From a request to an answer: pure, so that server.py is left with sockets, TLS and time.

An answer is a value. What the page says comes from `Pages`, already encoded; what is decided
here is which bytes, under which headers.
"""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

from msgspec import Struct

from gpucost.status import CONTENT_SECURITY_POLICY

if TYPE_CHECKING:
    from collections.abc import Mapping

TEXT = "text/plain; version=0.0.4; charset=utf-8"
"""https://prometheus.io/docs/instrumenting/exposition_formats/"""
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
PLAIN = "text/plain; charset=utf-8"
HTML = "text/html; charset=utf-8"

PROBES = frozenset({"/-/healthy", "/-/ready"})
"""Served without a password: the kubelet's probes have none, and they tell one bit."""

_HTML_HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Frame-Options": "deny",
}
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class Pages(Protocol):
    """The latest Report, encoded. Called from many threads; must not wait or raise."""

    def metrics(self, openmetrics: bool) -> bytes | None:  # noqa: FBT001 - one of two formats
        """Return the exposition in OpenMetrics or Prometheus text; None before a Report."""

    def status(self) -> bytes | None:
        """Return the status page in HTML; None before the first Report."""

    def healthy(self) -> bool:
        """Whether the loop still turns."""

    def ready(self) -> bool:
        """Whether a first Report exists."""


class Request(Struct, frozen=True):
    """What of a request decides its answer. `headers` has lower-case names."""

    method: str
    target: str
    headers: Mapping[str, str] = {}


class Answer(Struct, frozen=True):
    """A whole response but for its transfer: `body` may still be compressed."""

    status: int
    body: bytes
    content_type: str = PLAIN
    headers: Mapping[str, str] = {}


def path_of(target: str) -> str | None:
    """Return the path of a request target in either form of RFC 9112, 3.2; None if malformed."""
    try:
        return urlsplit(target).path or "/"
    except ValueError:
        return None


def answer(request: Request, pages: Pages) -> Answer:
    """Answer a request that may be answered (its sender proved who they are, if they must)."""
    if request.method not in ("GET", "HEAD"):
        return _plain(405, "Only GET and HEAD are served here.", {"Allow": "GET, HEAD"})
    match path_of(request.target):
        case "/metrics":
            return _metrics(pages, request.headers.get("accept", ""))
        case "/":
            return _status(pages)
        case "/-/healthy":
            return _probe(pages.healthy(), "healthy", "the accounting loop has stopped turning")
        case "/-/ready":
            return _probe(pages.ready(), "ready", "the first reading is not done yet")
        case None:
            return _plain(400, "The request target is malformed.")
        case _:
            return _plain(404, "Nothing here. Try /metrics, /, /-/healthy or /-/ready.")


def unauthorized() -> Answer:
    """Ask for a user and password."""
    challenge = {"WWW-Authenticate": 'Basic realm="gpucost", charset="UTF-8"'}
    return _plain(401, "This exporter asks for a user and password.", challenge)


def failed(status: int, message: str) -> Answer:
    """Refuse a request; `message` must hold nothing that the client sent."""
    return _plain(status, message)


def _plain(status: int, line: str, headers: Mapping[str, str] | None = None) -> Answer:
    return Answer(status, f"{line}\n".encode(), headers={**_HEADERS, **(headers or {})})


def _probe(good: bool, yes: str, no: str) -> Answer:  # noqa: FBT001 - the probe's one bit
    return _plain(200 if good else 503, yes if good else no)


def _metrics(pages: Pages, accept: str) -> Answer:
    openmetrics = prefers_openmetrics(accept)
    body = pages.metrics(openmetrics)
    if body is None:
        return _no_report()
    content_type = OPENMETRICS if openmetrics else TEXT
    return Answer(200, body, content_type, {**_HEADERS, "Vary": "Accept, Accept-Encoding"})


def _status(pages: Pages) -> Answer:
    body = pages.status()
    if body is None:
        return _no_report()
    return Answer(200, body, HTML, {**_HEADERS, **_HTML_HEADERS, "Vary": "Accept-Encoding"})


def _no_report() -> Answer:
    return _plain(503, "The first reading is not done yet; try again in a few seconds.")


def prefers_openmetrics(accept: str) -> bool:
    """Whether an Accept header prefers OpenMetrics 1.0.0 to the text format 0.0.4.

    Where both are welcome alike, the first named; where neither is, text, as every Prometheus
    client library does. Wildcards mean text, so that a browser shows the page.
    """
    offers = []
    for position, (media_type, parameters, quality) in enumerate(_weighted(accept)):
        version = parameters.get("version", "").strip('"')
        if media_type == "application/openmetrics-text" and version in ("", "1.0.0"):
            offers.append((quality, -position, quality > 0))
        elif media_type in ("text/plain", "text/*", "*/*"):
            offers.append((quality, -position, False))
    return max(offers)[2] if offers else False


def accepts_gzip(accept_encoding: str) -> bool:
    """Whether an Accept-Encoding header names gzip, with a weight above 0."""
    return any(
        coding in ("gzip", "x-gzip") and quality > 0
        for coding, _, quality in _weighted(accept_encoding)
    )


def _weighted(header: str) -> list[tuple[str, dict[str, str], float]]:
    """Split a list of weighted values (RFC 9110, 12.4.2); what is malformed is left out."""
    found = []
    for item in header.split(","):
        name, *rest = (part.strip().lower() for part in item.split(";"))
        pairs = (part.partition("=") for part in rest)
        parameters = {key.strip(): value.strip() for key, _, value in pairs}
        try:
            quality = float(parameters.pop("q", "1"))
        except ValueError:
            continue
        if name and 0 <= quality <= 1:
            found.append((name, parameters, quality))
    return found


def credentials(authorization: str) -> tuple[str, str] | None:
    """Read user and password from an Authorization header (RFC 7617); None if it has none."""
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        pair = base64.b64decode(token.strip(), validate=True).decode()
    except (binascii.Error, ValueError):
        return None
    user, colon, password = pair.partition(":")
    return (user, password) if colon else None
