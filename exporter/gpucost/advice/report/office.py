"""Whether a workload's use follows the clock: a week by its hours. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from gpucost.advice.report.facts import WEEK_HOURS

if TYPE_CHECKING:
    from gpucost.advice.report.facts import Week

NOTHING = 0.02
"""Of the busiest hour's use: below it an hour is quiet."""

SHORTEST = 6
"""Hours in a row that are worth closing for: a shorter pause is a lunch."""

LEAST_CLOSED = 40
"""Hours of a week."""

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


class Opening(Struct, frozen=True):
    """One time of day on some days: `from_hour` 8, `to_hour` 18, `days` 0 (Monday) to 6."""

    days: tuple[int, ...]
    from_hour: int
    to_hour: int

    @property
    def words(self) -> str:
        """For a person: `Mon to Fri, 8:00 to 18:00`."""
        whole = self.days == tuple(range(self.days[0], self.days[-1] + 1))
        names = [DAYS[day] for day in self.days]
        spelled = f"{names[0]} to {names[-1]}" if whole and len(names) > 1 else ", ".join(names)
        return f"{spelled}, {self.from_hour}:00 to {self.to_hour}:00"


def closed_hours(week: Week) -> tuple[bool, ...] | None:
    """The hours of the week in which it could be closed; None where its use has no such clock.

    Every hour of the week must have been seen, and work must lie within one time of day, on its
    days: what is open is said in one line of a cron.
    """
    if min(week.hours) < 1:
        return None
    use = [usd / seen for usd, seen in zip(week.used_usd, week.hours, strict=True)]
    top = max(use)
    if not top:
        return None
    busy = [it > NOTHING * top for it in use]
    hours = opening(tuple(not it for it in busy))
    closed = tuple(not _is_open(hours, at) for at in range(WEEK_HOURS))
    idle_closed = sum(usd for usd, shut in zip(week.idle_usd, closed, strict=True) if shut)
    longest_day = hours.to_hour - hours.from_hour
    if sum(closed) < LEAST_CLOSED or not idle_closed:
        return None
    if len(hours.days) == len(DAYS) and 24 - longest_day < SHORTEST:
        return None
    return closed


def opening(closed: tuple[bool, ...]) -> Opening:
    """The days, and the time of day, that hold every hour which is not closed."""
    hours = [at for at in range(WEEK_HOURS) if not closed[at]]
    return Opening(
        days=tuple(sorted({at // 24 for at in hours})),
        from_hour=min(at % 24 for at in hours),
        to_hour=max(at % 24 for at in hours) + 1,
    )


def _is_open(hours: Opening, at: int) -> bool:
    return at // 24 in hours.days and hours.from_hour <= at % 24 < hours.to_hour
