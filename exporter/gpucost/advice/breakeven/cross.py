"""What each way costs at any rate, and where the cheapest changes. Pure."""

from __future__ import annotations

from functools import partial
from itertools import groupby, pairwise
from math import ceil, log10
from typing import TYPE_CHECKING

from msgspec import Struct

from gpucost.sizing.offers import HOURS_PER_MONTH

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from gpucost.advice.breakeven.demand import Demand
    from gpucost.advice.breakeven.ways import Way

SPAN = 1e4
"""How many times fewer and more requests than there are, are looked at."""

_PER_DECADE = 40

_BRIEF = round(_PER_DECADE * log10(2))
"""Of those rates, a doubling: what is cheapest for less is a step."""


class Cost(Struct, frozen=True):
    """What a way costs for a demand. Requests without end cost nothing to divide by: None."""

    way: Way
    usd_per_month: float
    usd_per_request: float | None
    requests_per_usd: float | None


class Crossing(Struct, frozen=True):
    """From this rate on, in requests a second, the cheapest way is another."""

    requests_per_second: float
    before: str
    after: str


class Curve(Struct, frozen=True):
    """A way's USD a month over the rates of `Outcome.rates`."""

    way: Way
    usd_per_month: tuple[float, ...]


class Outcome(Struct, frozen=True):
    """What was found.

    `costs` are cheapest first; `crossings` say where the cheapest way changes, in order of rate;
    `dedicated_from` has for each other way the first rate at which dedicated replicas cost less.
    """

    demand: Demand
    costs: tuple[Cost, ...]
    crossings: tuple[Crossing, ...]
    dedicated_from: dict[str, float | None]
    rates: tuple[float, ...]
    curves: tuple[Curve, ...]


def compared(ways: Sequence[Way], demand: Demand) -> Outcome:
    """Compare them at the demand, and at everything around it."""
    costs = sorted((cost(way, demand) for way in ways), key=lambda it: it.usd_per_month)
    middle = demand.mean or 1.0
    rates = _rates(middle / SPAN, middle * SPAN)
    at = [demand.at(rate) for rate in rates]
    curves = tuple(Curve(way, tuple(_monthly(way, it) for it in at)) for way in ways)
    crossings = []
    cheapest = _without_steps(
        min(range(len(ways)), key=lambda n, k=k: curves[n].usd_per_month[k])  # type: ignore[misc]
        for k in range(len(rates))
    )
    for number in range(1, len(rates)):
        before, after = ways[cheapest[number - 1]], ways[cheapest[number]]
        if before is not after:
            dearer = partial(_dearer, before, after, demand)
            rate = _root(dearer, rates[number - 1], rates[number])
            crossings.append(Crossing(rate, before.name, after.name))
    dedicated = next((way for way in ways if way.kind == "dedicated"), None)
    return Outcome(
        demand,
        tuple(costs),
        tuple(crossings),
        {}
        if dedicated is None
        else {
            way.name: _first_dearer(way, dedicated, demand, rates)
            for way in ways
            if way is not dedicated
        },
        rates,
        curves,
    )


def _without_steps(cheapest: Iterable[int]) -> list[int]:
    """The cheapest way at each rate, but for those that are it only briefly.

    Whole replicas come in steps: where one more has just come, another way may be the cheapest
    until it is used.
    """
    runs = [[it, len(list(run))] for it, run in groupby(cheapest)]
    kept: list[list[int]] = []
    for number, (it, length) in enumerate(runs):
        within = 0 < number < len(runs) - 1 and length < _BRIEF
        if kept and (it == kept[-1][0] or within):
            kept[-1][1] += length
        else:
            kept.append([it, length])
    return [it for it, length in kept for _ in range(length)]


def cost(way: Way, demand: Demand) -> Cost:
    """What a way costs for this demand."""
    hourly = way.hourly(demand)
    requests = demand.mean * 3600
    return Cost(
        way,
        hourly * HOURS_PER_MONTH,
        hourly / requests if requests else None,
        requests / hourly if hourly else None,
    )


def _monthly(way: Way, demand: Demand) -> float:
    return way.hourly(demand) * HOURS_PER_MONTH


def _dearer(way: Way, than: Way, demand: Demand, rate: float) -> bool:
    """Whether a way costs more than the other at this rate."""
    at = demand.at(rate)
    return way.hourly(at) > than.hourly(at)


def _first_dearer(way: Way, than: Way, demand: Demand, rates: Sequence[float]) -> float | None:
    """The first rate from which a way is dearer; None where it never is."""
    for before, after in pairwise(rates):
        if _dearer(way, than, demand, after):
            if _dearer(way, than, demand, before):
                return before  # from the start
            return _root(partial(_dearer, way, than, demand), before, after)
    return None


def _root(changed: Callable[[float], bool], low: float, high: float) -> float:
    """Where it changes from no to yes, to a thousandth."""
    while high / low > 1.001:  # noqa: PLR2004 - said above
        middle = (low * high) ** 0.5
        if changed(middle):
            high = middle
        else:
            low = middle
    return high


def _rates(low: float, high: float) -> tuple[float, ...]:
    """Rates evenly apart on a logarithmic scale."""
    steps = ceil(log10(high / low) * _PER_DECADE)
    return tuple(low * (high / low) ** (n / steps) for n in range(steps + 1))
