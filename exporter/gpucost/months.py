"""Calendar months in the billing time zone."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

KEEP_SECONDS = 2 * 86_400.0
"""How long a month's counters stay after it was last charged, by the ledger's clock: a scrape gap
must not lose its last dollars, nor a wall clock that is set forward and back the whole month."""


def month_of(unix_seconds: float, zone: ZoneInfo) -> str:
    """The month, like 2026-11, of a moment."""
    return datetime.fromtimestamp(unix_seconds, zone).strftime("%Y-%m")


def by_month(until: float, seconds: float, zone: ZoneInfo) -> list[tuple[str, float]]:
    """A stretch of `seconds` that ends at `until` (Unix time), cut at the months' ends."""
    stretches: list[tuple[str, float]] = []
    left = seconds
    while left > 0:
        moment = datetime.fromtimestamp(until, zone)
        start = moment.replace(day=1, hour=0, minute=0, second=0, microsecond=0).timestamp()
        # At the very first moment of a month, the stretch before it lies in the last one.
        if until <= start:
            moment = datetime.fromtimestamp(start - 1.0, zone)
            start = moment.replace(day=1, hour=0, minute=0, second=0, microsecond=0).timestamp()
        part = min(left, until - start)
        stretches.append((moment.strftime("%Y-%m"), part))
        left -= part
        until -= part
    return stretches[::-1]
