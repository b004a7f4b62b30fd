"""Hours of dollars folded into Lines as they come: what is kept does not grow with the range.

An hour's answer for a moment is of the hour before it. Pure.
"""

from __future__ import annotations

import math
from collections import defaultdict
from datetime import datetime
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from gpucost.advice.report.facts import (
    GIVEN_BACK,
    UNKNOWN_STATE,
    WEEK_HOURS,
    Key,
    Line,
    Pool,
    Week,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from zoneinfo import ZoneInfo

    from gpucost.advice.answer import Row

HOUR = 3600.0
WORKING = ("used", "underused", "unmeasured")
"""With dollars in one of these an hour is not quiet: unknown is not idle."""

_KEY_LABELS = Key.__struct_fields__


class _Account:
    """One Key so far."""

    def __init__(self) -> None:
        self.usd: defaultdict[str, float] = defaultdict(float)
        self.free: defaultdict[str, float] = defaultdict(float)
        self.by_day: defaultdict[int, float] = defaultdict(float)
        self.held_hours = 0
        self.run_hours = 0
        self.longest_hours = 0
        self.quiet_hours = 0
        self.first = 0.0
        self.last = 0.0
        self.used = [0.0] * WEEK_HOURS
        self.idle = [0.0] * WEEK_HOURS


class Moment(Struct, frozen=True):
    """An hour's place in the calendar."""

    day: int
    of_week: int


class Fold:
    """Takes pieces of answers in order of time; gives Lines. `weight` makes USD of a value."""

    def __init__(self, zone: ZoneInfo, weight: float) -> None:
        """Nothing is known yet."""
        self._zone = zone
        self._weight = weight
        self._accounts: dict[Key, _Account] = {}
        self._keys: dict[tuple[str, ...], Key] = {}
        self._pools: dict[Pool, dict[float, float]] = {}
        self._moments: dict[float, Moment] = {}
        self.free_since = math.inf
        """From when on what could be given back was recorded; before it is reckoned."""
        self.reckoned_usd = 0.0
        """What of that was reckoned."""
        self.days: dict[int, defaultdict[str, float]] = {}
        """USD by day and state."""

    def give_back(self, rows: Iterable[Row]) -> None:
        """Take a piece of what could be given back; all of these come before the dollars."""
        for row in rows:
            account = self._accounts.setdefault(self._key(row.labels), _Account())
            self.free_since = min(self.free_since, round(row.points[0][0]) - HOUR)
            usd = sum(value for _, value in row.points) * self._weight
            account.free[row.labels.get("advice", "")] += usd

    def add(self, rows: Iterable[Row]) -> None:
        """Take a piece: rows of one state of one Key each, all states of an hour in one piece."""
        hours: dict[Key, dict[float, dict[str, float]]] = {}
        for row in rows:
            key = self._key(row.labels)
            state = row.labels.get("state", UNKNOWN_STATE)
            mine = hours.setdefault(key, {})
            for at, value in row.points:
                states = mine.setdefault(round(at) - HOUR, {})
                states[state] = states.get(state, 0.0) + value * self._weight
        for key, mine in hours.items():
            account = self._accounts.setdefault(key, _Account())
            pool = self._pools.setdefault(key.pool, {})
            for at, states in mine.items():
                total = sum(states.values())
                pool[at] = pool.get(at, 0.0) + sum(states.get(it, 0.0) for it in WORKING)
                self._hour(account, at, states, total)

    def _hour(self, account: _Account, at: float, states: dict[str, float], total: float) -> None:
        moment = self.moment(at)
        for state, usd in states.items():
            account.usd[state] += usd
            self.days.setdefault(moment.day, defaultdict(float))[state] += usd
        account.by_day[moment.day] += total
        account.held_hours += 1
        account.run_hours = account.run_hours + 1 if at == account.last else 1
        account.longest_hours = max(account.longest_hours, account.run_hours)
        account.first = account.first or at
        account.last = at + HOUR
        idle = states.get("idle", 0.0)
        account.used[moment.of_week] += sum(states.get(it, 0.0) for it in WORKING)
        account.idle[moment.of_week] += idle
        quiet = bool(idle) and not any(states.get(it) for it in WORKING)
        account.quiet_hours += quiet
        if at < self.free_since:
            for advice, state in GIVEN_BACK.items():
                if (usd := states.get(state, 0.0)) and (quiet or state != "idle"):
                    account.free[advice] += usd
                    self.reckoned_usd += usd

    def _key(self, labels: Mapping[str, str]) -> Key:
        values = tuple(labels.get(name, "") for name in _KEY_LABELS)
        return self._keys.setdefault(values, Key(*values))

    def moment(self, at: float) -> Moment:
        """The day and the hour of the week in which the hour from `at` on lies."""
        found = self._moments.get(at)
        if found is None:
            local = datetime.fromtimestamp(at, self._zone)
            found = Moment(local.toordinal(), local.weekday() * 24 + local.hour)
            self._moments[at] = found
        return found

    @property
    def hours(self) -> set[float]:
        """When the hours with dollars began."""
        return {at for hours in self._pools.values() for at in hours}

    def floors(self, hours: Iterable[float]) -> dict[Pool, float]:
        """What the work in each pool cost in its cheapest of these hours."""
        seen = tuple(hours)
        return {
            pool: min((usd.get(at, 0.0) for at in seen), default=0.0)
            for pool, usd in self._pools.items()
        }

    def lines(self, hours: Iterable[float]) -> list[Line]:
        """The Keys' Lines; `hours` are those that were looked at."""
        often = [0] * WEEK_HOURS
        for at in hours:
            often[self.moment(at).of_week] += 1
        return [
            Line(
                key=key,
                usd=dict(it.usd),
                usd_by_day=dict(it.by_day),
                held_hours=it.held_hours,
                longest_hours=it.longest_hours,
                quiet_hours=it.quiet_hours,
                free_usd=dict(it.free),
                first_seconds=it.first,
                last_seconds=it.last,
                week=Week(tuple(it.used), tuple(it.idle), tuple(often)),
            )
            for key, it in sorted(self._accounts.items())
            if it.usd
        ]


# --- The ledgers' word ----------------------------------------------------------------------------

Payer = tuple[str, str, str, str, str]
"""Of a Key what no join or relabelling changes: cluster, namespace, workload, model, capacity."""


def payer(key: Key) -> Payer:
    """What two series of the same dollars are matched by."""
    return key.cluster, key.namespace, key.workload, key.gpu_model, key.capacity_type


def by_ledger(lines: Iterable[Line], charged: Mapping[Key, float]) -> list[Line]:
    """The Lines, scaled so that they add up to what the ledgers charged.

    A rate misses what it did not see: scrapes that failed, pods of seconds. What no Line has at all
    becomes one whose state is not known.
    """
    seen: defaultdict[Payer, float] = defaultdict(float)
    owed: defaultdict[Payer, float] = defaultdict(float)
    lines = list(lines)
    for line in lines:
        seen[payer(line.key)] += line.total_usd
    for key, usd in charged.items():
        owed[payer(key)] += usd
    found = [
        _scaled(line, owed[it] / seen[it]) if (it := payer(line.key)) in owed and seen[it] else line
        for line in lines
    ]
    nothing = Week((0.0,) * WEEK_HOURS, (0.0,) * WEEK_HOURS, (0,) * WEEK_HOURS)
    for key, usd in charged.items():
        if usd > 0 and not seen.get(payer(key)):
            found.append(
                Line(
                    key=key,
                    usd={UNKNOWN_STATE: usd},
                    usd_by_day={},
                    held_hours=0,
                    longest_hours=0,
                    quiet_hours=0,
                    first_seconds=0.0,
                    last_seconds=0.0,
                    week=nothing,
                )
            )
    return found


def _scaled(line: Line, factor: float) -> Line:
    return replace(
        line,
        usd={state: usd * factor for state, usd in line.usd.items()},
        usd_by_day={day: usd * factor for day, usd in line.usd_by_day.items()},
        free_usd={advice: usd * factor for advice, usd in line.free_usd.items()},
        week=Week(
            tuple(it * factor for it in line.week.used_usd),
            tuple(it * factor for it in line.week.idle_usd),
            line.week.hours,
        ),
    )
