"""Makes Facts of what Prometheus answers. What is missing becomes a Note."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpucost.advice.report import dollars, machines, use
from gpucost.advice.report import questions as ask
from gpucost.advice.report.asking import Asker
from gpucost.advice.report.facts import Facts
from gpucost.advice.report.fold import HOUR
from gpucost.sources.base import SourceError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from zoneinfo import ZoneInfo

    from gpucost.advice.connection import Span
    from gpucost.advice.prometheus import Prometheus


def observe(
    prometheus: Prometheus, span: Span, zone: ZoneInfo, match: str, *, by_node: bool = False
) -> Facts:
    """All that is known of a range. Raises SourceError, also where there are no dollars at all."""
    asker = Asker(prometheus, span, zone, match)
    evaluated = dollars.evaluated(asker)
    fold = dollars.cost(asker, evaluated)
    seen_seconds = min(asker.end - asker.start, len(fold.hours) * HOUR)
    hours = whole_hours = tuple(
        asker.start + n * HOUR for n in range(round((asker.last_hour_ends - asker.start) / HOUR))
    )
    weight = 0.0
    if evaluated:
        weight, hours, whole_hours = evaluated.seconds, evaluated.hours, evaluated.whole_hours
        seen_seconds = evaluated.seen_seconds
    lines = fold.lines(hours)
    if not lines:
        raise SourceError(
            "empty",
            "This Prometheus has no dollars of gpucost in that time.",
            "Is it the one that scrapes gpucost, and --cluster right? docs/operations.md says how"
            " it is scraped (`Scraping`) and how the rules come there (`Rules and alerts`).",
        )
    seen = sum(line.total_usd for line in lines)
    charged = dollars.ledgers(asker) if evaluated else None
    ledger_usd = None
    if charged is not None:
        lines, ledger_usd = dollars.believed(asker, lines, charged, seen)
    lines = use.told(asker, lines)
    nodes = machines.nodes(asker, weight, seen_seconds)
    services = use.services(asker, lines, weight)
    pending = machines.pending(asker, use.peaks(lines))
    prices = machines.prices(asker, nodes)
    node_usd = machines.node_usd(asker) if by_node else {}
    _remark(asker)
    return Facts(
        start=asker.start,
        end=asker.end,
        seen_seconds=seen_seconds,
        lines=tuple(lines),
        sample_seconds=weight,
        ledger_usd=ledger_usd,
        nodes=nodes,
        services=services,
        pending=pending,
        prices=prices,
        floors=fold.floors(whole_hours),
        days=_scaled(fold.days, sum(line.total_usd for line in lines) / seen if seen else 1.0),
        node_usd=node_usd,
        node_types=machines.node_types(asker) if by_node else {},
        notes=tuple(asker.notes),
        zone=str(zone),
    )


def _remark(asker: Asker) -> None:
    unpriced = asker.one(ask.UNPRICED, asker.end)
    if unpriced:
        asker.note(
            "unpriced",
            f"{unpriced:g} GPUs have no price: their hours are counted and their dollars are"
            " not. `gpucost prices show` says why.",
        )
    if skewed := asker.prometheus.skew_words:
        asker.note(
            "clock_skew",
            f"The {skewed}: `now` is this machine's, so the range's end is off by that.",
        )
    for warning in asker.prometheus.warnings:
        asker.note("warning", f"Prometheus remarks: {warning}.")


def _scaled(days: Mapping[int, Mapping[str, float]], factor: float) -> dict[int, dict[str, float]]:
    return {
        day: {state: usd * factor for state, usd in states.items()} for day, states in days.items()
    }
