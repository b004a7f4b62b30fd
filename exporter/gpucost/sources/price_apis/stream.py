"""GET from a price API: bounded, patient, and going on where a broken stream stopped.

An answer of gigabytes is never held: it comes line by line. A connection that breaks is opened
again at the byte it stopped at (RFC 9110, Range with If-Range), so that what is read is one version
of the file. 429 and 5xx are waited out as the server asks (Retry-After), a few times.
"""

from __future__ import annotations

import time
from contextlib import closing
from http import HTTPStatus
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

import msgspec
import requests
import urllib3
from msgspec import Struct

from gpucost.sources.base import SourceError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

_T = TypeVar("_T")

_CHUNK_BYTES = 256 << 10
_MAX_LINE_BYTES = 1 << 20
_MAX_WAIT_SECONDS = 120.0
_BUSY = (429, 500, 502, 503, 504)


class Bounds(Struct, frozen=True):
    """How long to wait, how much to take, how often to try."""

    connect_seconds: float = 10.0
    silence_seconds: float = 60.0
    """Longest wait for the next bytes."""
    whole_seconds: float = 4 * 3600.0
    """Longest time for everything together."""
    max_page_bytes: int = 64 << 20
    """Of an answer that is read whole."""
    max_stream_bytes: int = 64 << 30
    """Of one that is read line by line."""
    tries: int = 6
    """In a row without a byte."""
    first_wait_seconds: float = 1.0
    """Doubles with each try."""


class Client:
    """GETs, one after another. Close it."""

    def __init__(self, bounds: Bounds, progress: Callable[[str], None]) -> None:
        """The clock for `whole_seconds` starts now."""
        self._bounds = bounds
        self._progress = progress
        self._deadline = time.monotonic() + bounds.whole_seconds
        self._session = requests.Session()
        self._session.headers["User-Agent"] = "gpucost"
        self._session.headers["Accept-Encoding"] = "identity"

    def close(self) -> None:
        """End its connections."""
        self._session.close()

    def page(self, url: str, params: dict[str, str] | None = None) -> bytes:
        """The whole body. Raises SourceError."""
        body = bytearray()
        limit = self._bounds.max_page_bytes
        with closing(self._chunks(url, params or {})) as chunks:
            for chunk in chunks:
                body += chunk
                if len(body) > limit:
                    raise _too_large(url, limit)
        return bytes(body)

    def lines(self, url: str) -> Generator[bytes, None, None]:
        """The body line by line, without line ends. Close it. Raises SourceError."""
        rest = b""
        received = 0
        told = time.monotonic()
        with closing(self._chunks(url, {})) as chunks:
            for chunk in chunks:
                received += len(chunk)
                if received > self._bounds.max_stream_bytes:
                    raise _too_large(url, self._bounds.max_stream_bytes)
                lines = (rest + chunk).split(b"\n")
                rest = lines.pop()
                if len(rest) > _MAX_LINE_BYTES:
                    raise changed(url, "a line without end")
                yield from lines
                if time.monotonic() - told > _TELL_SECONDS:
                    told = time.monotonic()
                    self._progress(f"{shown(url)}: {received / 1e6:,.0f} MB")
        if rest:
            yield rest

    def _chunks(self, url: str, params: dict[str, str]) -> Generator[bytes, None, None]:
        """The body as it comes, over as many connections as it takes."""
        offset, tag, failures = 0, "", 0
        wait = self._bounds.first_wait_seconds
        while True:
            trouble: str
            asked: float | None = None
            try:
                with self._get(url, params, offset, tag) as response:
                    if response.status_code in _BUSY:
                        trouble = f"HTTP {response.status_code}"
                        asked = _retry_after(response)
                    else:
                        tag = _continues(response, url, offset, tag)
                        # What came before a break counts, so not in chunks of one size.
                        while chunk := response.raw.read1(_CHUNK_BYTES, decode_content=False):
                            self._check_time(url)
                            offset += len(chunk)
                            failures, wait = 0, self._bounds.first_wait_seconds
                            yield chunk
                        return
            except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
                if isinstance(error, requests.exceptions.InvalidURL | ValueError):
                    raise SourceError("address", f"{shown(url)} is no address.") from error
                trouble = type(error).__name__
            failures += 1
            if failures >= self._bounds.tries:
                raise SourceError(
                    "unreachable",
                    f"{shown(url)}: {trouble}, {failures} times in a row.",
                    "Run the same command again: it goes on where it stopped.",
                )
            pause = min(max(asked or 0.0, wait), _MAX_WAIT_SECONDS)
            wait *= 2
            self._progress(f"{shown(url)}: {trouble}; again in {pause:.0f} s")
            self._check_time(url, pause)
            time.sleep(pause)

    def _get(self, url: str, params: dict[str, str], offset: int, tag: str) -> requests.Response:
        headers = {"Range": f"bytes={offset}-", "If-Range": tag} if offset else {}
        bounds = self._bounds
        return self._session.get(
            url,
            params=params,
            headers=headers,
            timeout=(bounds.connect_seconds, bounds.silence_seconds),
            stream=True,
            allow_redirects=False,
        )

    def _check_time(self, url: str, ahead: float = 0.0) -> None:
        if time.monotonic() + ahead > self._deadline:
            raise SourceError(
                "timeout",
                f"{shown(url)}: not done within {self._bounds.whole_seconds:.0f} s in all.",
                "Run the same command again: it goes on where it stopped.",
            )


_TELL_SECONDS = 5.0
_CHANGED = "The API may have changed: see whether there is a newer gpucost."


def _continues(response: requests.Response, url: str, offset: int, tag: str) -> str:
    """The validator of the answer, which must be the rest of what came before."""
    if offset == 0 and response.status_code == HTTPStatus.OK:
        return response.headers.get("ETag") or response.headers.get("Last-Modified") or ""
    if offset and response.status_code == HTTPStatus.PARTIAL_CONTENT:
        if response.headers.get("Content-Range", "").startswith(f"bytes {offset}-"):
            return tag
        raise SourceError("malformed", f"{shown(url)}: another part than was asked for.")
    if offset and response.status_code == HTTPStatus.OK:
        raise SourceError(
            "changed",
            f"{shown(url)} cannot be gone on with: it changed, or the server gives no parts.",
            "Run the same command again: it goes on with this part from its start.",
        )
    refused = response.status_code in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)
    raise SourceError(
        "forbidden" if refused else "http_status",
        f"{shown(url)} answered HTTP {response.status_code}.",
        "Check the API key." if refused else _CHANGED,
    )


def _retry_after(response: requests.Response) -> float | None:
    """The seconds that the server asks to wait; a date is not taken."""
    text = response.headers.get("Retry-After", "")
    return float(text) if text.isdecimal() else None


def _too_large(url: str, limit: int) -> SourceError:
    return SourceError("too_large", f"{shown(url)}: more than {limit} bytes.", _CHANGED)


def shown(url: str) -> str:
    """The address without its query, which may hold a key."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname}{parts.path}"


def decoded(text: bytes, shape: type[_T], url: str, what: str) -> _T:
    """An answer in JSON, which should be `what`. Raises SourceError where it is not."""
    try:
        return msgspec.json.decode(text, type=shape)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise changed(url, f"not {what}: {error}") from error


def changed(url: str, what: str) -> SourceError:
    """The answer is not what this API's answers are."""
    return SourceError("malformed", f"{shown(url)}: {what}.", _CHANGED)
