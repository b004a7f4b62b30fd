"""The DCGM source: scrapes a dcgm-exporter on this node.

A read is bounded in time and in bytes, after decompression too, whatever the other side sends.
A good page is kept for a while, for dcgm-exporter renews its values every 30 s only; a failed
read is never hidden behind an older page.
"""

from __future__ import annotations

import time
import zlib
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from gpucost.sources.base import DeviceRead, SourceError
from gpucost.sources.dcgm_page import parse_dcgm

if TYPE_CHECKING:
    import requests

    from gpucost.config import Dcgm

__all__ = ["DcgmSource", "parse_dcgm"]

_CHUNK_BYTES = 1 << 16


class DcgmSource:
    """Reads a dcgm-exporter page over HTTP.

    `node_name` picks this node's rows where the page shows several hosts. Not for use by two
    threads at once.
    """

    name = "dcgm"

    def __init__(self, settings: Dcgm, node_name: str = "") -> None:
        self._settings = settings
        self._node_name = node_name
        self._kept: tuple[str, float, DeviceRead] | None = None

    def read(self, url: str) -> DeviceRead:
        """What the exporter at `url` shows, at most `interval_seconds` old.

        Raises SourceError: address, unreachable, timeout, tls, http_status, too_large,
        malformed, empty, ambiguous.
        """
        if self._kept is not None:
            kept_url, read_at, kept = self._kept
            if kept_url == url and time.monotonic() - read_at < self._settings.interval_seconds:
                return kept
        read_at = time.monotonic()
        page = fetch_page(
            url,
            timeout_seconds=self._settings.timeout_seconds,
            max_bytes=self._settings.max_bytes,
        )
        read = parse_dcgm(page, node_name=self._node_name)
        self._kept = url, read_at, read
        return read


def fetch_page(url: str, *, timeout_seconds: float, max_bytes: int) -> bytes:
    """GET a page of at most `max_bytes`, decompressed; redirects and proxies are not followed.

    `timeout_seconds` bounds connecting, every wait, and the whole until the body's last byte
    (headers that drip, and slow resolvers, are cut off by whoever waits for the source). Raises
    SourceError, whose message holds neither credentials nor query of the address.
    """
    # Imported late: it costs memory, which a node without dcgm-exporter need not spend.
    import requests  # noqa: PLC0415
    import urllib3  # noqa: PLC0415

    deadline = time.monotonic() + timeout_seconds
    try:
        if urlsplit(url).scheme not in ("http", "https"):
            raise _bad_address(url)
        with requests.Session() as session:
            # Neither proxies nor netrc: the exporter is on this node.
            session.trust_env = False
            with session.get(
                url,
                headers={"Accept": "text/plain;version=0.0.4", "Accept-Encoding": "identity"},
                timeout=timeout_seconds,
                allow_redirects=False,
                stream=True,
            ) as response:
                if response.status_code != HTTPStatus.OK:
                    raise SourceError(
                        "http_status",
                        f"{_shown(url)} answered HTTP {response.status_code}.",
                        "Give the address of the page itself, usually /metrics; redirects are"
                        " not followed.",
                    )
                return _body(response, url, deadline, max_bytes)
    except (requests.Timeout, urllib3.exceptions.TimeoutError, TimeoutError) as error:
        raise _timeout(url) from error
    except requests.exceptions.SSLError as error:
        raise SourceError(
            "tls",
            f"{_shown(url)}: not TLS, or a certificate that is not trusted.",
            "Use http:// on the node, or a certificate of a public authority.",
        ) from error
    except ValueError as error:  # of requests, urllib3, urllib and the idna codec alike
        raise _bad_address(url) from error
    except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
        raise SourceError(
            "unreachable",
            f"{_shown(url)} gave no whole answer ({type(error).__name__}).",
            "Does dcgm-exporter run on this node, and may gpucost reach it (NetworkPolicy)?",
        ) from error


def _body(response: requests.Response, url: str, deadline: float, max_bytes: int) -> bytes:
    """The body, decompressed here: so that its size is known before it is in memory."""
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in ("identity", "gzip", "x-gzip", "deflate"):
        raise _not_a_page(url, f"it is encoded as {encoding[:20]!r}")
    unzip = None if encoding == "identity" else zlib.decompressobj(zlib.MAX_WBITS | 32)
    page = bytearray()
    received = 0
    while chunk := response.raw.read1(_CHUNK_BYTES, decode_content=False):
        received += len(chunk)
        if unzip is not None:
            try:
                chunk = unzip.decompress(chunk, max_bytes + 1 - len(page))
            except zlib.error as error:
                raise _not_a_page(url, f"it is not {encoding}") from error
        page += chunk
        if max(len(page), received) > max_bytes:
            raise SourceError(
                "too_large",
                f"{_shown(url)}: the page has more than {max_bytes} bytes.",
                "Is it a dcgm-exporter's page? If so, raise dcgm.max_bytes.",
            )
        if time.monotonic() > deadline:
            raise _timeout(url)
    if unzip is not None and (not unzip.eof or unzip.unused_data):
        raise _not_a_page(url, f"its {encoding} is cut off, or has more behind its end")
    return bytes(page)


def _shown(url: str) -> str:
    """An address without what may be secret: user, password, query."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _bad_address(url: str) -> SourceError:
    scheme = url.partition("://")[0][:20] if "://" in url else ""
    return SourceError(
        "address",
        f"The address of dcgm-exporter cannot be used (its scheme: {scheme!r}).",
        "Correct dcgm.url; it should be like http://127.0.0.1:9400/metrics.",
    )


def _timeout(url: str) -> SourceError:
    return SourceError(
        "timeout",
        f"{_shown(url)} did not answer in time.",
        "Is dcgm-exporter busy or hung? Restart it, or raise dcgm.timeout_seconds.",
    )


def _not_a_page(url: str, why: str) -> SourceError:
    return SourceError(
        "malformed",
        f"{_shown(url)} gave no usable page: {why}.",
        "Look at it with curl: is it the address of an exporter?",
    )
