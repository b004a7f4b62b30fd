"""Gets a page from a pod: in bounded time and memory, whatever the other side does.

The pod is not trusted. It is spoken to at its own address and nowhere else (no redirect, no
proxy, no name to resolve); its answer must end within the deadline, headers and all, however
slowly it drips; and what comes in is handed on piece by piece, so that a page is never held
whole. `requests` is not used: its own deadline is one of each wait.
"""

from __future__ import annotations

import http.client
import io
import socket
import ssl
import time
import zlib
from functools import lru_cache
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from msgspec import Struct

from gpucost.sources.base import SourceError

if TYPE_CHECKING:
    from collections.abc import Callable

    from _typeshed import WriteableBuffer

_CHUNK_BYTES = 1 << 16
_MAX_TOKEN_BYTES = 16 << 10
_ENCODINGS = ("", "identity", "gzip", "x-gzip", "deflate")


class Trust(Struct, frozen=True):
    """How a server is known, and what is shown to it: files are read for each request."""

    ca_file: str | None = None
    insecure_skip_verify: bool = False
    bearer_token_file: str | None = None


def fetch(
    url: str,
    sink: Callable[[bytes], None],
    *,
    timeout_seconds: float,
    max_bytes: int,
    trust: Trust = Trust(),  # noqa: B008 - frozen
) -> bool:
    """GET a page of at most `max_bytes`, decompressed, and give it to `sink` in pieces.

    Returns whether it is known to be whole: an answer may end where the connection does, and then
    nothing tells that from one that broke. `url` names its host by an IP address. Raises
    SourceError: unreachable, timeout, tls, token, http_status, redirect, too_large, malformed;
    and whatever `sink` raises.
    """
    deadline = time.monotonic() + timeout_seconds
    parts = urlsplit(url)
    headers = {
        "Accept": "text/plain;version=0.0.4",
        "Accept-Encoding": "identity",
        "Connection": "close",
        "User-Agent": "gpucost",
        **_credentials(trust),
    }
    host, port = parts.hostname or "", parts.port or 80
    wire = _Wire(deadline)
    try:
        wire.connect(host, port)
        if parts.scheme == "https":
            wire.encrypt(host, trust)
        connection = http.client.HTTPConnection(host, port)
        connection.sock = wire
        query = f"?{parts.query}" if parts.query else ""
        connection.request("GET", f"{parts.path or '/'}{query}", headers=headers)
        with connection.getresponse() as response:
            _check_status(url, response)
            told = response.chunked or response.length is not None
            _pass_on(url, response, sink, max_bytes)
            return told
    except TimeoutError as error:
        raise SourceError(
            "timeout",
            f"{url} did not answer within {timeout_seconds:g} s.",
            "Is the server busy or hung? Its page may take long; see requests.timeout_seconds.",
        ) from error
    except ssl.SSLError as error:
        raise SourceError(
            "tls",
            f"{url}: not TLS, or a certificate that is not trusted.",
            "State ca_file or insecure_skip_verify in a rule of requests.rules, or use http.",
        ) from error
    except http.client.IncompleteRead as error:
        raise _malformed(url, "it is cut off") from error
    except (http.client.HTTPException, ValueError) as error:
        raise _malformed(url, f"it does not speak HTTP ({type(error).__name__})") from error
    except OSError as error:
        raise SourceError(
            "unreachable",
            f"{url} gave no whole answer ({type(error).__name__}).",
            "Does the server listen there, and may gpucost reach it (NetworkPolicy)?",
        ) from error
    finally:
        wire.hang_up()


class _Wire:
    """A connection whose every wait ends at one deadline; what http.client needs of a socket."""

    def __init__(self, deadline: float) -> None:
        self._deadline = deadline
        self._socket: socket.socket | None = None

    def connect(self, host: str, port: int) -> None:
        """Reach the other side."""
        self._socket = socket.create_connection((host, port), self._left())

    def encrypt(self, host: str, trust: Trust) -> None:
        """Go on in TLS."""
        self._socket = _context(trust).wrap_socket(self._ready(), server_hostname=host)

    def sendall(self, data: bytes) -> None:
        """Send it all."""
        self._ready().sendall(data)

    def receive(self, buffer: WriteableBuffer) -> int:
        """Receive what is there, or wait for it."""
        return self._ready().recv_into(buffer)

    def makefile(self, _mode: str) -> io.BufferedReader:
        """What comes in."""
        return io.BufferedReader(_Incoming(self), _CHUNK_BYTES)

    def close(self) -> None:
        """Not yet: http.client closes when it has the headers, and the body is still to come."""

    def hang_up(self) -> None:
        """Close it."""
        if self._socket is not None:
            self._socket.close()

    def _left(self) -> float:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left

    def _ready(self) -> socket.socket:
        """The socket, to wait until the deadline at most."""
        if self._socket is None:
            raise ConnectionError
        self._socket.settimeout(self._left())
        return self._socket


def _context(trust: Trust) -> ssl.SSLContext:
    """What the server's certificate must satisfy; made anew when the file changes."""
    if trust.insecure_skip_verify:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    try:
        changed = None if trust.ca_file is None else Path(trust.ca_file).stat().st_mtime_ns
        return _verifying(trust.ca_file, changed)
    except OSError as error:  # ssl.SSLError, of a file that holds no certificates, is one too
        raise SourceError(
            "tls",
            f"The ca_file of a rule cannot be read ({type(error).__name__}).",
            "Correct ca_file in requests.rules, or mount the ConfigMap.",
        ) from error


@lru_cache(maxsize=4)
def _verifying(ca_file: str | None, _changed: int | None) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=ca_file)


class _Incoming(io.RawIOBase):
    def __init__(self, wire: _Wire) -> None:
        self._wire = wire

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        return self._wire.receive(buffer)


def _credentials(trust: Trust) -> dict[str, str]:
    if trust.bearer_token_file is None:
        return {}
    try:
        with Path(trust.bearer_token_file).open("rb") as file:
            token = file.read(_MAX_TOKEN_BYTES + 1).strip().decode("ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise _bad_token(type(error).__name__) from error
    if not token or len(token) > _MAX_TOKEN_BYTES or not token.isprintable():
        raise _bad_token("no token of one line")
    return {"Authorization": f"Bearer {token}"}


def _bad_token(why: str) -> SourceError:
    return SourceError(
        "token",
        f"The bearer token of a rule cannot be read ({why}).",
        "Correct bearer_token_file in requests.rules, or mount the Secret.",
    )


def _check_status(url: str, response: http.client.HTTPResponse) -> None:
    status = response.status
    if status == HTTPStatus.OK:
        return
    if status in range(300, 400):
        raise SourceError(
            "redirect",
            f"{url} sends elsewhere (HTTP {status}); that is not followed.",
            "Give the address of the page itself.",
        )
    raise SourceError(
        "http_status",
        f"{url} answered HTTP {status}.",
        "Give the path of the metrics page; where it asks for a token, state one in a rule of"
        " requests.rules.",
    )


def _pass_on(
    url: str, response: http.client.HTTPResponse, sink: Callable[[bytes], None], max_bytes: int
) -> None:
    """Hand on the body, decompressed here: so that its size is known before it is in memory."""
    encoding = response.headers.get("Content-Encoding", "").strip().lower()
    if encoding not in _ENCODINGS:
        raise _malformed(url, f"it is encoded as {encoding[:20]!r}")
    plain = encoding in ("", "identity")
    unzip = None if plain else zlib.decompressobj(zlib.MAX_WBITS | 32)
    received = passed = 0
    while chunk := response.read1(_CHUNK_BYTES):
        received += len(chunk)
        while chunk:
            piece, chunk = _unzipped(url, unzip, chunk) if unzip else (chunk, b"")
            passed += len(piece)
            if max(passed, received) > max_bytes:
                raise SourceError(
                    "too_large",
                    f"{url}: the page has more than {max_bytes} bytes.",
                    "Is it an engine's page? If so, raise requests.max_bytes.",
                )
            sink(piece)
    if response.length:
        raise _malformed(url, "it is cut off")
    if unzip is not None and (not unzip.eof or unzip.unused_data):
        raise _malformed(url, f"its {encoding} is cut off, or has more behind its end")


def _unzipped(url: str, unzip: zlib._Decompress, chunk: bytes) -> tuple[bytes, bytes]:
    """A piece, and what is still to be unzipped of the chunk."""
    try:
        return unzip.decompress(chunk, _CHUNK_BYTES), unzip.unconsumed_tail
    except zlib.error as error:
        raise _malformed(url, "it is not encoded as it says") from error


def _malformed(url: str, why: str) -> SourceError:
    return SourceError(
        "malformed",
        f"{url} gave no usable page: {why}.",
        "Look at it with curl: is the address that of the engine's metrics?",
    )
