"""The flags by which a command reaches a Prometheus and says of which time it asks."""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from gpucost.advice.prometheus import Access, Bounds, Prometheus
from gpucost.config import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

_UNITS = {"m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 7 * 86_400.0}
_LONGEST_SECONDS = 400 * 86_400.0
_TELL_SECONDS = 10.0


class Span(Struct, frozen=True):
    """A time range in Unix seconds."""

    start: float
    end: float

    @property
    def seconds(self) -> float:
        """How long it is."""
        return self.end - self.start


def add_connection(parser: argparse.ArgumentParser, *, required: bool) -> None:
    """Add --prometheus and what belongs to it; without `required` it may be left out."""
    address = os.environ.get("GPUCOST_PROMETHEUS") or None
    group = parser.add_argument_group("Prometheus")
    group.add_argument(
        "--prometheus",
        default=address,
        required=required and address is None,
        metavar="URL",
        help="what stands before /api/v1 (env GPUCOST_PROMETHEUS)",
    )
    group.add_argument("--bearer-token-file", type=Path, metavar="FILE", help="read at each query")
    group.add_argument("--username", default="", help="for basic auth, with --password-file")
    group.add_argument("--password-file", type=Path, metavar="FILE")
    group.add_argument("--ca-file", type=Path, metavar="FILE", help="that signed its certificate")
    group.add_argument(
        "--header",
        action="append",
        default=[],
        type=_header,
        metavar="NAME=VALUE",
        help="sent with every query, like X-Scope-OrgID=team; may be repeated",
    )
    group.add_argument(
        "--timeout",
        type=_positive,
        default=Bounds().answer_seconds,
        metavar="SECONDS",
        help="for one query (default %(default)g)",
    )
    group.add_argument(
        "--max-samples",
        type=_count,
        default=Bounds().max_samples,
        metavar="N",
        help="at most so many are asked for at once (default %(default)d)",
    )
    group.add_argument("--quiet", action="store_true", help="no progress on standard error")


def add_span(parser: argparse.ArgumentParser, default: str) -> None:
    """Add --from and --to: times, or how long before the end and before now."""
    parser.add_argument(
        "--from",
        dest="start",
        default=default,
        metavar="TIME",
        help="RFC 3339, or so long before --to: 12h, 7d, 4w (default %(default)s)",
    )
    parser.add_argument(
        "--to",
        dest="end",
        default="0h",
        metavar="TIME",
        help="RFC 3339, or so long before now (default: now)",
    )


def connect(given: argparse.Namespace) -> Prometheus:
    """The Prometheus of the flags. Close it. Raises SourceError, ConfigError."""
    if given.ca_file is not None and not given.ca_file.is_file():
        raise ConfigError(f"--ca-file: {given.ca_file} is not there.")
    if (given.password_file is not None) != bool(given.username):
        raise ConfigError("--username and --password-file: give both.")
    if given.bearer_token_file is not None and given.username:
        raise ConfigError("--bearer-token-file and --username: give one of them.")
    access = Access(
        url=given.prometheus,
        bearer_token_file=given.bearer_token_file,
        username=given.username,
        password_file=given.password_file,
        ca_file=given.ca_file,
        headers=tuple(given.header),
    )
    bounds = Bounds(max_samples=given.max_samples, answer_seconds=given.timeout)
    return Prometheus(access, bounds, progress(given))


def progress(given: argparse.Namespace) -> Callable[[str], None]:
    """Tells how far it is: at a terminal one line that is written over, else a line now and then.

    An empty text ends it.
    """
    if given.quiet:
        return lambda _: None
    terminal = sys.stderr.isatty()
    told = time.monotonic()

    def tell(text: str) -> None:
        nonlocal told
        if terminal:
            print(f"\r\x1b[K{text[:100]}", end="", file=sys.stderr, flush=True)
        elif text and time.monotonic() - told > _TELL_SECONDS:
            told = time.monotonic()
            print(text, file=sys.stderr, flush=True)

    return tell


def span_of(given: argparse.Namespace) -> Span:
    """The range of --from and --to. Raises ConfigError."""
    now = time.time()
    end = _moment("--to", given.end, now)
    start = _moment("--from", given.start, end)
    if end > now + 60.0:
        raise ConfigError(f"--to: {given.end} is still to come.")
    if start >= end:
        raise ConfigError(f"--from: {given.start} is not before --to.")
    if end - start > _LONGEST_SECONDS:
        raise ConfigError("--from: more than 400 days before --to.")
    return Span(start, end)


def _moment(flag: str, text: str, relative_to: float) -> float:
    if match := re.fullmatch(r"(\d{1,6})([mhdw])", text):
        return relative_to - int(match[1]) * _UNITS[match[2]]
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise ConfigError(
            f"{flag}: `{text}` is no time. Write 2026-11-01T00:00:00Z, 2026-11-01 or 30d."
        ) from error
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _header(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not re.fullmatch(r"[A-Za-z0-9-]+", name) or not value.isprintable():
        raise argparse.ArgumentTypeError(f"`{text}` is not NAME=VALUE")
    return name, value


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 86_400:  # noqa: PLR2004 - a day
        raise argparse.ArgumentTypeError("must be above 0, in seconds")
    return value


def _count(text: str) -> int:
    if not text.isdecimal() or not 1_000 <= int(text) <= 50_000_000:  # noqa: PLR2004 - said beside
        raise argparse.ArgumentTypeError("must be from 1000 to 50000000")
    return int(text)
