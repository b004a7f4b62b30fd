"""Calendar months in the billing time zone: cut to the second, whatever the clocks there do."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpucost.months import by_month, month_of, start_of

ZONES = (
    *("UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Pacific/Kiritimati"),
    *("Pacific/Pago_Pago", "Australia/Lord_Howe", "America/Havana", "America/Asuncion"),
    *("Asia/Kathmandu", "Africa/Casablanca", "America/St_Johns", "Asia/Pyongyang"),
)


def at(text: str) -> float:
    """A moment in UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("moment", "zone", "month"),
    [
        ("2026-11-30T23:59:59.999999", "UTC", "2026-11"),
        ("2026-12-01T00:00:00", "UTC", "2026-12"),
        ("2026-11-30T22:59:59", "Europe/Berlin", "2026-11"),
        ("2026-11-30T23:00:00", "Europe/Berlin", "2026-12"),
        ("2026-12-01T04:59:59", "America/New_York", "2026-11"),
        ("2026-12-01T05:00:00", "America/New_York", "2026-12"),
        ("2026-12-31T10:00:00", "Pacific/Kiritimati", "2027-01"),
        ("2028-02-29T12:00:00", "UTC", "2028-02"),
        ("1970-01-01T00:00:00", "UTC", "1970-01"),
    ],
)
def test_a_moment_is_in_the_month_of_its_place(moment: str, zone: str, month: str) -> None:
    assert month_of(at(moment), ZoneInfo(zone)) == month
    began = start_of(at(moment), ZoneInfo(zone))
    assert datetime.fromtimestamp(began, ZoneInfo(zone)) == datetime(
        int(month[:4]), int(month[5:]), 1, tzinfo=ZoneInfo(zone)
    )


@pytest.mark.parametrize(
    ("until", "seconds", "zone", "parts"),
    [
        # Within one month
        ("2026-11-22T12:00:00", 5.0, "UTC", [("2026-11", 5.0)]),
        # Over a month's end, and up to it, and from it on
        ("2026-12-01T00:00:02", 5.0, "UTC", [("2026-11", 3.0), ("2026-12", 2.0)]),
        ("2026-12-01T00:00:00", 5.0, "UTC", [("2026-11", 5.0)]),
        ("2026-12-01T00:00:05", 5.0, "UTC", [("2026-12", 5.0)]),
        # Leap years
        ("2028-03-01T00:00:01", 86_402.0, "UTC", [("2028-02", 86_401.0), ("2028-03", 1.0)]),
        ("2028-02-29T00:00:01", 2.0, "UTC", [("2028-02", 2.0)]),
        ("2027-03-01T00:00:01", 2.0, "UTC", [("2027-02", 1.0), ("2027-03", 1.0)]),
        # A year's end
        ("2027-01-01T00:00:30", 60.0, "UTC", [("2026-12", 30.0), ("2027-01", 30.0)]),
        # Two ends
        (
            "2026-03-01T12:00:00",
            29 * 86_400.0,
            "UTC",
            [("2026-01", 43_200.0), ("2026-02", 28 * 86_400.0), ("2026-03", 43_200.0)],
        ),
        # Summer time began on 29 March: the month is an hour short, and ends at 22:00 UTC
        (
            "2026-03-31T22:00:01",
            31 * 86_400.0 - 3600.0 + 2.0,
            "Europe/Berlin",
            [("2026-02", 1.0), ("2026-03", 31 * 86_400.0 - 3600.0), ("2026-04", 1.0)],
        ),
        # It ended on 25 October: an hour more
        (
            "2026-10-31T23:00:01",
            31 * 86_400.0 + 3600.0 + 2.0,
            "Europe/Berlin",
            [("2026-09", 1.0), ("2026-10", 31 * 86_400.0 + 3600.0), ("2026-11", 1.0)],
        ),
        # Havana's 1 November 2026 has its first hour twice
        ("2026-11-01T04:00:01", 2.0, "America/Havana", [("2026-10", 1.0), ("2026-11", 1.0)]),
        ("2026-11-01T05:30:00", 5401.0, "America/Havana", [("2026-10", 1.0), ("2026-11", 5400.0)]),
        # Asunción's 1 October 2017 began at one o'clock
        ("2017-10-01T04:00:01", 2.0, "America/Asuncion", [("2017-09", 1.0), ("2017-10", 1.0)]),
        # Half an hour and three quarters off
        ("2026-11-30T18:30:01", 2.0, "Asia/Kolkata", [("2026-11", 1.0), ("2026-12", 1.0)]),
        ("2026-11-30T18:15:01", 2.0, "Asia/Kathmandu", [("2026-11", 1.0), ("2026-12", 1.0)]),
        # Nothing
        ("2026-12-01T00:00:02", 0.0, "UTC", []),
        ("2026-12-01T00:00:02", -5.0, "UTC", []),
    ],
)
def test_a_stretch_is_cut_at_the_months_ends(
    until: str, seconds: float, zone: str, parts: list[tuple[str, float]]
) -> None:
    found: dict[str, float] = {}
    for month, part in by_month(at(until), seconds, ZoneInfo(zone)):
        found[month] = found.get(month, 0.0) + part
    assert list(found.items()) == parts


def check(until: float, seconds: float, zone: ZoneInfo) -> None:
    """No second is lost, and each lies in its month."""
    parts = by_month(until, seconds, zone)
    assert math.isclose(math.fsum(part for _, part in parts), seconds, rel_tol=1e-12)
    assert all(part > 0 for _, part in parts)
    assert [month for month, _ in parts] == sorted(month for month, _ in parts)
    start = until - seconds
    for month, part in parts:
        # A date cannot tell the middle of less than some microseconds.
        if part > 1e-5:
            assert month_of(start + part / 2, zone) == month
        start += part


@given(
    st.floats(0, 4e9),
    st.sampled_from((0.001, 1.0, 5.0, 300.0, 7200.0, 40 * 86_400.0)),
    st.sampled_from(ZONES),
)
def test_no_second_is_lost_at_any_time(until: float, seconds: float, zone: str) -> None:
    check(until, seconds, ZoneInfo(zone))


@given(st.integers(0, 600), st.integers(-7200, 7200), st.sampled_from(ZONES))
def test_no_second_is_lost_around_a_months_end(months: int, offset: int, name: str) -> None:
    zone = ZoneInfo(name)
    turn = datetime(1990 + months // 12, months % 12 + 1, 1, tzinfo=zone).timestamp()
    check(turn + offset, 3600.0, zone)


@pytest.mark.parametrize("dust", [-1e-7, -4e-7, 0.0, 1e-7, 4e-7, 6e-7])
def test_dust_around_a_months_end_ends(dust: float) -> None:
    parts = by_month(at("2026-12-01T00:00:00") + dust, 5.0, ZoneInfo("UTC"))
    assert math.fsum(part for _, part in parts) == pytest.approx(5.0)
    assert parts[0][0] == "2026-11"
