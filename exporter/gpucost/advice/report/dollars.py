"""How many dollars, whose, and in which hours: by recorded rates and by the ledgers' own word."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING

from msgspec import Struct

from gpucost.advice.report import questions as ask
from gpucost.advice.report.asking import days
from gpucost.advice.report.fold import HOUR, Fold, by_ledger
from gpucost.advice.report.questions import OFFSET_SECONDS, asked

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gpucost.advice.report.asking import Asker
    from gpucost.advice.report.facts import Key, Line
    from gpucost.advice.report.questions import Question

WHOLE_WEEK = 7 * 24
_LEDGER_AGREES = 0.01
_NEAR_SECONDS = 900.0
"""Of MONTH_COST and MONTH_FIRST."""
_WHOLE = 0.9
"""Of an hour's evaluations."""
_FEW_HOURS = 2


class Evaluated(Struct, frozen=True):
    """When rules were evaluated: the seconds that a sample stands for, and the hours seen.

    `whole_hours` are those without a gap; `seen_seconds` leaves out what of the first and the last
    hour lies outside of the history.
    """

    seconds: float
    hours: tuple[float, ...]
    whole_hours: tuple[float, ...]
    seen_seconds: float


def evaluated(asker: Asker) -> Evaluated | None:
    """How rules were evaluated; None where nothing is recorded. What is missing is noted.

    The range is narrowed to where the history begins.
    """
    counts: dict[float, float] = {}
    for rows in asker.hourly(ask.EVALUATIONS, ""):
        for row in rows:
            counts |= {round(at) - HOUR: value for at, value in row.points}
    if not counts:
        asker.note(
            "no_rules",
            "The rules of rules/ are not recorded here. Spend and its states come from the"
            " exporters' counters, and what could be given back is reckoned from whole hours of"
            " the clock; node pools, activity over time, unit costs and the ledgers' own month"
            " are left out, and every query is heavier.",
        )
        return None
    often = max(counts.values())
    if len(counts) <= _FEW_HOURS and (apart := _seconds_apart(asker)):
        often = HOUR / apart
    seconds = HOUR / often
    # The hour in which recording began is no hour of it, unless there are hardly others.
    begun = min(counts)
    if len(counts) > _FEW_HOURS and counts[begun] < often / 2:
        del counts[begun]
        begun = min(counts)
    _narrow(asker, begun)
    hours = tuple(sorted(counts))
    outside = sum(often - counts[at] for at in {hours[0], hours[-1]}) * seconds
    missing = sum(often - counts[at] for at in hours[1:-1]) * seconds
    missing += hours[-1] - hours[0] + HOUR - len(hours) * HOUR
    if missing > _LEDGER_AGREES * (asker.end - begun):
        asker.note(
            "gaps",
            f"Rules were not evaluated for {days(missing)} of {days(asker.end - begun)}: what"
            " was spent then is known from the ledgers only, and its states are not.",
        )
    if len(hours) < WHOLE_WEEK:
        asker.note(
            "less_than_a_week",
            f"Only {days(len(hours) * HOUR - outside)} were seen: no office hours are looked for,"
            " and a month's savings are a guess from them.",
        )
    whole = tuple(at for at in hours if counts[at] >= _WHOLE * often)
    return Evaluated(seconds, hours, whole, hours[-1] - hours[0] + HOUR - outside)


def _seconds_apart(asker: Asker) -> float | None:
    """How far apart the last evaluations were; None where there were not two."""
    rows = asker.prometheus.at(asked(ask.LAST_EVALUATIONS, asker.match), asker.end)
    times = max(([at for at, _ in row.points] for row in rows), key=len, default=[])
    return median(b - a for a, b in pairwise(times)) if len(times) > 1 else None


def cost(asker: Asker, evaluated: Evaluated | None) -> Fold:
    """Every hour's dollars, by the recorded rates; where there are none, by the counters."""
    if evaluated is None:
        question, fold, start = ask.RAW_COST, Fold(asker.zone, 1.0), asker.start
    else:
        question, fold, start = ask.COST, Fold(asker.zone, evaluated.seconds), evaluated.hours[0]
    if evaluated is not None:
        for rows in asker.hourly(ask.SAVING, "savings", start):
            fold.give_back(rows)
    for rows in asker.hourly(question, "dollars", start):
        fold.add(rows)
    if evaluated is not None and fold.reckoned_usd:
        asker.note(
            "own_savings",
            "What could be given back is not recorded in all of this time (rules/advice.yaml):"
            " where it is not, it is reckoned from whole hours of the clock.",
        )
    if evaluated is None and (seen := fold.hours):
        _narrow(asker, min(seen))
        if missing := (max(seen) - min(seen)) / HOUR + 1 - len(seen):
            asker.note(
                "gaps",
                f"No counter rose in {days(missing * HOUR)} of {days(asker.end - asker.start)}:"
                " what was spent while nothing was scraped is not in these figures.",
            )
    return fold


def _narrow(asker: Asker, begun: float) -> None:
    """Begin the range where the history does."""
    if begun > asker.start:
        asker.note(
            "short_history",
            f"The history begins {days(begun - asker.start)} after --from: the figures are of"
            f" {days(asker.end - begun)}, and a month is reckoned from those.",
        )
        asker.start = begun


def ledgers(asker: Asker) -> dict[Key, float] | None:
    """What the exporters' ledgers charged in the range; None where they do not cover it."""
    watched = asker.one(ask.MONTH_WATCHED, asker.end)
    if watched is None or watched > asker.start + HOUR:
        asker.note(
            "no_ledger",
            "The months of the exporters' ledgers do not cover all of this time: spend is the"
            " sum of rates, which miss what no scrape has seen.",
        )
        return None
    charged: defaultdict[Key, float] = defaultdict(float)
    for month, begun, ended in _months(asker):
        upto = _month(asker, ask.MONTH_COST, month, ended)
        before = {}
        if begun < asker.start:
            # Where recording began with the range, the first that was recorded.
            first = _month(asker, ask.MONTH_FIRST, month, asker.start + _NEAR_SECONDS)
            before = first | _month(asker, ask.MONTH_COST, month, asker.start)
        for key, usd in upto.items():
            charged[key] += max(0.0, usd - before.get(key, 0.0))
    return dict(charged)


def _months(asker: Asker) -> list[tuple[str, float, float]]:
    """Each month's name, and where it begins and where it, or the range, ends."""
    starts: dict[str, float] = {}
    query = asked(ask.MONTH_START, asker.match)
    for rows in asker.prometheus.over(query, asker.start, asker.end, 6 * HOUR):
        starts |= {row.labels["month"]: row.value for row in rows if "month" in row.labels}
    for row in asker.prometheus.at(query, asker.end):
        starts.setdefault(row.labels.get("month", ""), row.value)
    begun = sorted((at, month) for month, at in starts.items() if at < asker.end)
    ends = [at for at, _ in begun[1:]] + [asker.end]
    return [(month, at, min(end, asker.end)) for (at, month), end in zip(begun, ends, strict=True)]


def _month(asker: Asker, question: Question, month: str, at: float) -> dict[Key, float]:
    query = asked(question, asker.match, month=month)
    fold = Fold(asker.zone, 1.0)
    fold.add(asker.prometheus.at(query, at - OFFSET_SECONDS))
    return {line.key: line.total_usd for line in fold.lines(())}


def believed(
    asker: Asker, lines: list[Line], charged: Mapping[Key, float], seen: float
) -> tuple[list[Line], float | None]:
    """The lines by the ledgers; by the rates where the ledgers cannot be whole."""
    ledger_usd = sum(charged.values())
    apart = ledger_usd / seen - 1 if seen else 0.0
    if apart < -_LEDGER_AGREES:
        asker.note(
            "ledger_behind",
            f"The ledgers' months have {-apart:.1%} less than the rates: nodes went unseen, or"
            " labels changed. The rates are believed.",
        )
        return lines, None
    if apart > _LEDGER_AGREES:
        asker.note(
            "scaled",
            f"Rates saw {1 / (1 + apart):.1%} of what the ledgers charged. Every line is scaled"
            " to its ledger; how the rest divides over states is taken from what was seen.",
        )
    return by_ledger(lines, charged), ledger_usd
