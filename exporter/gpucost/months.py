"""Calendar months in the billing time zone."""

from __future__ import annotations

from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

KEEP_SECONDS = 2 * 86_400.0
"""How long a month's counters stay after it was last charged, by the ledger's clock: a scrape gap
must not lose its last dollars, nor a wall clock that is set forward and back the whole month."""


_QUARTER_SECONDS = 900
"""Every zone's months begin on one of these: offsets are whole quarters of an hour (since 1972)."""


def month_of(unix_seconds: float, zone: ZoneInfo) -> str:
    """The month, like 2026-11, of a moment."""
    return _month(unix_seconds // _QUARTER_SECONDS, zone)[0]


def start_of(unix_seconds: float, zone: ZoneInfo) -> float:
    """When the month of a moment began, Unix time."""
    return _month(unix_seconds // _QUARTER_SECONDS, zone)[1]


def by_month(until: float, seconds: float, zone: ZoneInfo) -> list[tuple[str, float]]:
    """A stretch of `seconds` that ends at `until` (Unix time), cut at the months' ends."""
    stretches: list[tuple[str, float]] = []
    left = seconds
    while left > 0:
        month, start = _month(until // _QUARTER_SECONDS, zone)
        # At the very first moment of a month, the stretch before it lies in the last one.
        if until <= start:
            month, start = _month((start - 1.0) // _QUARTER_SECONDS, zone)
        part = min(left, until - start)
        stretches.append((month, part))
        left -= part
        until -= part
    return stretches[::-1]


@lru_cache(maxsize=64)
def _month(quarter: float, zone: ZoneInfo) -> tuple[str, float]:
    """The month of a quarter of an hour since 1970, and when it began (Unix time)."""
    moment = datetime.fromtimestamp(quarter * _QUARTER_SECONDS, zone)
    start = moment.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return moment.strftime("%Y-%m"), start.timestamp()
