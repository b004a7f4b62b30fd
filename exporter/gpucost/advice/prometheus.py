"""Asks a Prometheus, or what speaks its HTTP API (Thanos, Mimir, VictoriaMetrics), within bounds.

A long range is asked in pieces, each of at most a stated number of samples, and given out piece by
piece, so that neither side ever holds a month. A piece that is too much for the server is asked
again in smaller ones. Errors name the flag and the remedy.
"""

from __future__ import annotations

import base64
import time
from contextlib import closing
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import requests
import urllib3
from msgspec import Struct

from gpucost.advice.answer import AnswerError, Row, parse_answer
from gpucost.sources.base import SourceError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

__all__ = ["Access", "Bounds", "Prometheus", "Row", "TooMuchError"]

_CHUNK_BYTES = 256 << 10
_MAX_SECRET_BYTES = 64 << 10
_SKEW_SECONDS = 60.0
_MOST_STEPS = 10_000
"""A range query answers at most 11,000 points a series (prometheus web/api/v1 api.go)."""
_GROWTH = 8
"""A piece is at most so many times the one before it: later hours may have more series."""
_BUSY = (429, 502, 503)
_TRIES = 4
_NO_POST = (HTTPStatus.FORBIDDEN, HTTPStatus.METHOD_NOT_ALLOWED)
"""A proxy that lets its users read only, may mean GET by it."""


class Access(Struct, frozen=True):
    """How a Prometheus is reached. Files are read at every question: tokens are renewed."""

    url: str
    bearer_token_file: Path | None = None
    username: str = ""
    password_file: Path | None = None
    ca_file: Path | None = None
    headers: tuple[tuple[str, str], ...] = ()


class Bounds(Struct, frozen=True):
    """What is asked at once, and how long an answer is waited for."""

    max_samples: int = 200_000
    max_answer_bytes: int = 64 << 20
    connect_seconds: float = 10.0
    answer_seconds: float = 120.0
    """For one question, whole."""
    first_wait_seconds: float = 1.0
    """Before a busy server is asked again; doubles."""


class TooMuchError(SourceError):
    """The server would answer a smaller question."""


class Prometheus:
    """Questions, one after another. Close it."""

    def __init__(
        self,
        access: Access,
        bounds: Bounds = Bounds(),  # noqa: B008 - frozen
        progress: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Nothing is asked yet. Raises SourceError for an address that cannot be one."""
        _check_url(access.url)
        self._access = access
        self._bounds = bounds
        self.tell = progress
        """Says how far a long question is."""
        self._session = requests.Session()
        self._session.headers["User-Agent"] = "gpucost"
        self._session.headers.update(dict(access.headers))
        self._session.auth = self._authorize  # in place of ~/.netrc
        self._get_only = False
        self.skew_seconds: float | None = None
        """How far the server's clock is ahead of this one's; None where it does not say."""
        self.warnings: list[str] = []
        """What the server remarked on its answers, each once."""

    def close(self) -> None:
        """End the connections."""
        self._session.close()

    @property
    def skew_words(self) -> str:
        """How far the clocks are apart; empty where no figure would show it, or nobody knows."""
        skew = self.skew_seconds
        if skew is None or abs(skew) <= _SKEW_SECONDS:
            return ""
        side = "ahead of" if skew > 0 else "behind"
        return f"clock of this Prometheus is {abs(skew):.0f} s {side} this machine's"

    def at(self, query: str, when: float) -> list[Row]:
        """What a query answers at a moment, Unix seconds. Raises SourceError."""
        return self._ask("query", query, {"time": f"{when:.3f}"})

    def over(
        self, query: str, start: float, end: float, step: float, what: str = ""
    ) -> Iterator[list[Row]]:
        """A query's answers at `start` and every `step` to `end`: pieces, in order of time.

        `what` names the question in the progress. Raises SourceError.
        """
        number, last = 0, int((end - start) / step + 1e-6)
        steps = 1
        while number <= last:
            upto = min(number + steps - 1, last)
            span = {
                "start": f"{start + number * step:.3f}",
                "end": f"{start + upto * step:.3f}",
                "step": f"{step:g}",
            }
            try:
                rows = self._ask("query_range", query, span)
            except TooMuchError:
                if upto == number:
                    raise
                steps = max(1, (upto - number + 1) // 4)
                continue
            yield rows
            number = upto + 1
            fit = self._bounds.max_samples // max(1, len(rows))
            steps = max(1, min(fit, steps * _GROWTH, _MOST_STEPS))
            if what:
                self.tell(f"{what}: {100 * number / (last + 1):.0f} %")

    # --- One question ---------------------------------------------------------------------------

    def _ask(self, kind: str, query: str, more: dict[str, str]) -> list[Row]:
        bounds = self._bounds
        form = {"query": query, "timeout": f"{bounds.answer_seconds:.0f}s", **more}
        wait = bounds.first_wait_seconds
        url = f"{self._access.url.rstrip('/')}/api/v1/{kind}"
        for attempt in range(1, _TRIES + 1):
            status, body, asked = self._fetch(url, form)
            if status in _NO_POST and not self._get_only:
                self._get_only = True
                status, body, asked = self._fetch(url, form)
            if status not in _BUSY or attempt == _TRIES:
                break
            pause = max(wait, asked)
            self.tell(f"{self._shown} is busy (HTTP {status}); again in {pause:.0f} s")
            time.sleep(pause)
            wait *= 2
        return self._rows(status, body, query)

    def _fetch(self, url: str, form: dict[str, str]) -> tuple[int, bytes, float]:
        """Status, body and the wait that a busy server asks for."""
        bounds = self._bounds
        deadline = time.monotonic() + bounds.answer_seconds
        ca_file = self._access.ca_file
        body = bytearray()
        try:
            with closing(
                self._session.request(
                    "GET" if self._get_only else "POST",
                    url,
                    params=form if self._get_only else None,
                    data=None if self._get_only else form,
                    timeout=(bounds.connect_seconds, bounds.answer_seconds),
                    verify=True if ca_file is None else str(ca_file),
                    stream=True,
                    allow_redirects=False,
                )
            ) as response:
                self._see_clock(response.headers.get("Date", ""))
                # What has come, not whole chunks: one that drips would never be looked at.
                while chunk := response.raw.read1(_CHUNK_BYTES, decode_content=True):
                    body += chunk
                    if len(body) > bounds.max_answer_bytes:
                        raise TooMuchError(
                            "too_large",
                            f"{self._shown}: an answer of more than"
                            f" {bounds.max_answer_bytes >> 20} MiB.",
                            "Ask of less: --cluster, or a shorter --from and --to.",
                        )
                    if time.monotonic() > deadline:
                        raise self._late
                after = response.headers.get("Retry-After", "")
                return response.status_code, bytes(body), float(after) if after.isdecimal() else 0.0
        except requests.exceptions.ConnectTimeout as error:
            raise self._unreachable("no connection in time") from error
        except (requests.exceptions.Timeout, urllib3.exceptions.ReadTimeoutError) as error:
            raise self._late from error
        except requests.exceptions.SSLError as error:
            raise SourceError(
                "tls",
                f"--prometheus {self._shown}: its certificate was not accepted: {_reason(error)}.",
                "Give --ca-file the certificate of the authority that signed it.",
            ) from error
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            raise self._unreachable(_reason(error)) from error

    def _rows(self, status: int, body: bytes, query: str) -> list[Row]:
        try:
            answer = parse_answer(body)
        except AnswerError as error:
            raise self._refused(status, body) from error
        if answer.error:
            if answer.error_type in ("timeout", "canceled"):
                raise self._late
            if "samples" in answer.error and answer.error_type in ("execution", "bad_data"):
                raise TooMuchError(
                    "too_large",
                    f"{self._shown}: {answer.error}.",
                    "Raise its --query.max-samples, or ask of less: --cluster, or a shorter --from"
                    " and --to.",
                )
            raise SourceError("query", f"{self._shown}: {answer.error}. It was asked: {query}")
        self.warnings += [it for it in dict.fromkeys(answer.warnings) if it not in self.warnings]
        return answer.rows

    # --- How it fails -----------------------------------------------------------------------------

    @property
    def _shown(self) -> str:
        return self._access.url

    @property
    def _late(self) -> TooMuchError:
        return TooMuchError(
            "timeout",
            f"{self._shown}: no answer within {self._bounds.answer_seconds:.0f} s.",
            "Raise --timeout (and the server's --query.timeout), or ask of less: --cluster, or a"
            " shorter --from and --to.",
        )

    def _unreachable(self, reason: str) -> SourceError:
        return SourceError(
            "unreachable",
            f"--prometheus {self._shown}: cannot be reached: {reason}.",
            "Check the address; from outside the cluster, `kubectl port-forward` leads to one.",
        )

    def _refused(self, status: int, body: bytes) -> SourceError:
        head = f"--prometheus {self._shown}"
        if status == HTTPStatus.UNAUTHORIZED:
            return SourceError(
                "forbidden",
                f"{head}: it wants to know who asks (HTTP 401).",
                "Give --bearer-token-file, or --username and --password-file.",
            )
        if status == HTTPStatus.FORBIDDEN:
            return SourceError(
                "forbidden",
                f"{head}: whoever asks may not (HTTP 403).",
                "Check the token's rights; a tenant's data may need --header X-Scope-OrgID=TENANT.",
            )
        if 300 <= status < 400:  # noqa: PLR2004 - redirections
            return SourceError(
                "address",
                f"{head}: it sends elsewhere (HTTP {status}), perhaps to log in.",
                "Give the address of the API itself, with a token if it wants one.",
            )
        if status == HTTPStatus.NOT_FOUND:
            return SourceError(
                "address",
                f"{head}: no Prometheus API there (HTTP 404).",
                "Give what stands before /api/v1; Mimir's ends with /prometheus.",
            )
        said = body[:120].decode("utf-8", "replace").strip()
        return SourceError(
            "malformed",
            f"{head}: no answer of a Prometheus API (HTTP {status}): {said!r}.",
            "Check the address: what stands before /api/v1.",
        )

    # --- Who asks, and when ---------------------------------------------------------------------

    def _authorize(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        access = self._access
        if access.bearer_token_file is not None:
            token = _secret(access.bearer_token_file, "--bearer-token-file")
            request.headers["Authorization"] = f"Bearer {token}"
        elif access.username:
            secret = (
                ""
                if access.password_file is None
                else _secret(access.password_file, "--password-file")
            )
            pair = base64.b64encode(f"{access.username}:{secret}".encode()).decode()
            request.headers["Authorization"] = f"Basic {pair}"
        return request

    def _see_clock(self, date: str) -> None:
        try:
            said = parsedate_to_datetime(date).timestamp()
        except ValueError:
            return
        self.skew_seconds = said - time.time()


def _check_url(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise SourceError(
            "address",
            f"--prometheus: `{url}` is no address.",
            "Write it like http://prometheus.monitoring:9090.",
        )
    if parts.username or parts.password:
        raise SourceError(
            "address",
            f"--prometheus: the address of {parts.hostname} holds a name or password, which"
            " everybody on this machine can read.",
            "Give --username and --password-file.",
        )


def _secret(path: Path, flag: str) -> str:
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_SECRET_BYTES).decode()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise SourceError(
            "permission", f"{flag} {path}: cannot be read: {reason}.", "Check the file."
        ) from error
    words = text.split()
    if len(words) != 1:
        raise SourceError("permission", f"{flag} {path}: not one word.", "Check the file.")
    return words[0]


def _reason(error: Exception) -> str:
    """The innermost words: libraries wrap what the system said many times."""
    inner: BaseException = error
    while True:
        cause = inner.__cause__ or inner.__context__ or getattr(inner, "reason", None)
        if not isinstance(cause, BaseException):
            break
        inner = cause
    return (getattr(inner, "strerror", None) or str(inner) or type(inner).__name__).rstrip(".")
