"""How prices are said to a person. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import date


def number(value: float) -> str:
    """A figure without needless zeros: 55.04, 8."""
    return f"{value:.10g}"


def usd_per_hour(usd: float) -> str:
    """Like 55.04 USD/h."""
    return f"{number(usd)} USD/h"


def gpus(count: int) -> str:
    """Like 8 GPUs."""
    return f"{count} GPU" if count == 1 else f"{count} GPUs"


def dated(origin: str, day: date | str | None) -> str:
    """Where a price is from, with the day it was right if that is known."""
    return f"{origin}, {day}" if day else origin


def sortable(day: str) -> str:
    """A list's day such that the older sorts first; not known is oldest."""
    return day.removeprefix("<")
