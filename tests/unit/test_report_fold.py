"""Hours folded into lines: what is kept of them, and how they agree with the ledgers."""

from __future__ import annotations

from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpucost.advice.answer import Row
from gpucost.advice.report.facts import UNKNOWN_STATE, Key
from gpucost.advice.report.fold import HOUR, Fold, by_ledger

START = 1_768_176_000.0
"""2026-01-12 00:00:00 UTC, a Monday."""
LABELS = {"namespace": "web", "workload": "chat", "gpu_model": "L4", "node_pool": "l4"}


def row(state: str, *usd: float | None, **labels: str) -> Row:
    """An hour each from START on; None is an hour without."""
    points = [(START + (n + 1) * HOUR, it) for n, it in enumerate(usd) if it is not None]
    return Row({**LABELS, **labels, "state": state}, points)


def fold(*rows: Row, zone: str = "UTC") -> Fold:
    it = Fold(ZoneInfo(zone), 1.0)
    it.add(rows)
    return it


def test_an_hour_is_quiet_only_where_nothing_worked_and_all_was_known() -> None:
    [line] = fold(
        row("idle", 1.0, 1.0, 1.0, 1.0),
        row("used", None, 0.5, None, None),
        row("unmeasured", None, None, 0.5, None),
    ).lines(())
    assert (line.quiet_hours, line.held_hours) == (2, 4)
    assert line.free_usd == {"free_idle": 2.0}


def test_what_could_be_given_back_is_what_was_recorded_and_reckoned_only_before() -> None:
    it = Fold(ZoneInfo("UTC"), 1.0)
    recorded = Row({**LABELS, "advice": "free_idle"}, [(START + 3 * HOUR, 0.25)])
    elsewhere = Row({**LABELS, "workload": "other", "advice": "drain"}, [(START + 3 * HOUR, 1.0)])
    it.give_back([recorded, elsewhere])
    it.add([row("idle", 1.0, 1.0, 1.0, 1.0), row("failing", None, None, 1.0)])
    [line] = it.lines(())
    assert line.free_usd == {"free_idle": 2.25}, "two hours before it was recorded, and a quarter"
    assert it.reckoned_usd == 2.0


def test_the_longest_hold_ends_with_a_pause() -> None:
    [line] = fold(row("used", 1.0, 1.0, None, 1.0, 1.0, 1.0, None, 1.0)).lines(())
    assert (line.longest_hours, line.held_hours) == (3, 6)
    assert (line.first_seconds, line.last_seconds) == (START, START + 8 * HOUR)


def test_hours_and_days_are_those_of_the_time_zone() -> None:
    berlin = fold(row("used", 1.0), zone="Europe/Berlin")
    [line] = berlin.lines([START])
    assert line.week.used_usd[1] == 1.0, "midnight of UTC is one o'clock there"
    assert line.week.hours[1] == 1
    new_york = fold(row("used", 1.0), zone="America/New_York")
    assert berlin.moment(START).day == new_york.moment(START).day + 1


def test_a_floor_is_what_worked_in_the_cheapest_hour() -> None:
    it = fold(row("used", 3.0, 1.0, 2.0), row("idle", 5.0, 5.0, 5.0))
    hours = [START + n * HOUR for n in range(3)]
    assert list(it.floors(hours).values()) == [1.0]
    assert list(it.floors([*hours, START + 9 * HOUR]).values()) == [0.0]


usd = st.lists(st.floats(0.01, 1e4), min_size=1, max_size=5)


@given(
    st.dictionaries(st.sampled_from("abcd"), usd), st.dictionaries(st.sampled_from("abcde"), usd)
)
def test_lines_add_up_to_what_the_ledgers_charged(
    seen: dict[str, list[float]], owed: dict[str, list[float]]
) -> None:
    lines = fold(*(row("used", *it, workload=name) for name, it in seen.items())).lines(())
    charged = {
        Key("", "web", f"team-{n}", name, "", "L4", "", "l4"): value
        for name, values in owed.items()
        for n, value in enumerate(values)
    }
    found = by_ledger(lines, charged)
    for name, values in owed.items():
        mine = [it for it in found if it.key.workload == name]
        assert sum(it.total_usd for it in mine) == pytest.approx(sum(values))
        assert all((UNKNOWN_STATE in it.usd) == (name not in seen) for it in mine)
    for name in seen.keys() - owed.keys():
        [line] = [it for it in found if it.key.workload == name]
        assert line.total_usd == pytest.approx(sum(seen[name])), "what no ledger speaks of stays"
