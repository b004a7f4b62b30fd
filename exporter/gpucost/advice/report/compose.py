"""Facts and chosen actions put together as a document. Pure."""

from __future__ import annotations

from collections import defaultdict
from datetime import date
from typing import TYPE_CHECKING

from gpucost import __version__
from gpucost.advice.report.document import (
    VERSION,
    Advice,
    Day,
    Evidence,
    Other,
    Remark,
    Report,
    Row,
    Scope,
    Served,
    StateUsd,
    Total,
)
from gpucost.advice.report.evidence import moment
from gpucost.advice.report.facts import RUNNING, UNKNOWN_STATE
from gpucost.model import NODE_STATES
from gpucost.status.words import MEANINGS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from gpucost.advice.report.document import By, Invoice
    from gpucost.advice.report.facts import Facts, Found, Key, Line, Service

ENDED_SECONDS = 86_400.0
"""Without a dollar before the range's end: it is over."""

ORDER = (
    *("used", "underused", "idle", "starting", "failing", "terminating", "unmeasured"),
    *(state.value for state in reversed(NODE_STATES)),
    UNKNOWN_STATE,
)
"""Of states in tables and charts: what was used first."""


def compose(
    facts: Facts,
    found: Sequence[Found],
    *,
    by: By,
    now: float,
    cluster: str = "",
    invoice: Invoice | None = None,
) -> Report:
    """The document."""
    total = sum(line.total_usd for line in facts.lines)
    last = {line.key: line.last_seconds for line in facts.lines}
    return Report(
        version=VERSION,
        generated_at=moment(now),
        gpucost=__version__,
        scope=Scope(
            start=moment(facts.start),
            end=moment(facts.end),
            time_zone=facts.zone,
            seen_hours=facts.seen_seconds / 3600.0,
            cluster=cluster,
            clusters=tuple(sorted({line.key.cluster for line in facts.lines})),
        ),
        total=Total(
            usd=total,
            usd_per_month=total / facts.months,
            waste_usd=sum(line.waste_usd for line in facts.lines),
            nodes_usd=sum(line.total_usd for line in facts.lines if not line.key.namespace),
            by_ledger=facts.ledger_usd is not None,
            savings_usd_per_month=sum(it.usd_per_month for it in found),
            savings_by_confidence={
                level: sum(it.usd_per_month for it in found if it.action.confidence == level)
                for level in ("high", "medium", "low")
            },
        ),
        remarks=tuple(Remark(it.kind, it.text) for it in facts.notes),
        states=_states(facts.lines),
        days=tuple(
            Day(
                date.fromordinal(day).isoformat(),
                sum(states.values()),
                {it: states[it] for it in ORDER if it in states},
            )
            for day, states in sorted(facts.days.items())
        ),
        by=by,
        rows=_rows(facts, found, by),
        services=tuple(_served(it) for it in sorted(facts.services, key=lambda it: -it.usd)),
        actions=tuple(_advice(rank, it, facts.end, last) for rank, it in enumerate(found, start=1)),
        invoice=invoice,
    )


def _states(lines: Iterable[Line]) -> tuple[StateUsd, ...]:
    usd: defaultdict[str, float] = defaultdict(float)
    for line in lines:
        for state, spent in line.usd.items():
            usd[state] += spent
    meanings = {state.value: words for state, words in MEANINGS.items()}
    return tuple(
        StateUsd(state, usd[state], meanings.get(state, "charged by a ledger and seen by no rate"))
        for state in ORDER
        if usd.get(state)
    )


def _name(key: Key, by: By, *, clusters: bool) -> str:
    if by == "model":
        return key.gpu_model
    if not key.namespace:
        return ""
    names = {
        "namespace": key.namespace,
        "team": key.team or "(no team)",
        "workload": f"{key.namespace}/{key.workload}",
    }
    return f"{key.cluster}/{names[by]}" if clusters else names[by]


def _rows(facts: Facts, found: Sequence[Found], by: By) -> tuple[Row, ...]:
    if by == "node":
        return _node_rows(facts)
    clusters = len({line.key.cluster for line in facts.lines}) > 1
    groups: defaultdict[str, list[Line]] = defaultdict(list)
    for line in facts.lines:
        groups[_name(line.key, by, clusters=clusters)].append(line)
    saved: defaultdict[str, float] = defaultdict(float)
    for it in found:
        for key, usd in it.saved.items():
            saved[_name(key, by, clusters=clusters)] += usd / facts.months
    rows = []
    for name, lines in groups.items():
        running = sum(line.usd.get(state, 0.0) for line in lines for state in RUNNING)
        used = sum(line.usd.get("used", 0.0) for line in lines)
        rows.append(
            Row(
                name=name,
                usd=sum(line.total_usd for line in lines),
                waste_usd=sum(line.waste_usd for line in lines) if name else None,
                activity=used / running if running else None,
                savings_usd_per_month=saved[name],
            )
        )
    return tuple(sorted(rows, key=lambda it: (-it.usd, it.name)))


def _node_rows(facts: Facts) -> tuple[Row, ...]:
    clusters = len({cluster for cluster, _ in facts.node_usd}) > 1
    rows = (
        Row(f"{cluster}/{node}" if clusters else node, sum(days.values()), None, None, None)
        for (cluster, node), days in facts.node_usd.items()
    )
    return tuple(sorted(rows, key=lambda it: (-it.usd, it.name)))


def _served(it: Service) -> Served:
    return Served(
        cluster=it.cluster,
        namespace=it.namespace,
        workload=it.workload,
        served_models=it.served_models,
        engines=it.engines,
        usd=it.usd,
        requests=it.requests,
        usd_per_request=it.usd_per_request,
        tokens=it.tokens,
        usd_per_million_tokens=it.usd_per_million_tokens,
        cache_hit_ratio=it.hit_ratio,
        mean_batch=it.batch,
    )


def _advice(rank: int, found: Found, end: float, last: dict[Key, float]) -> Advice:
    it = found.action
    return Advice(
        rank=rank,
        kind=it.kind,
        title=it.title,
        do=it.do,
        why=it.why,
        cluster=it.place.cluster,
        namespace=it.place.namespace,
        workload=it.place.workload,
        node_pool=it.place.node_pool,
        usd=found.usd,
        usd_per_month=found.usd_per_month,
        confidence=it.confidence,
        risk=it.risk,
        risk_words=it.risk_words,
        expected=it.expected,
        ended=all(last.get(key, 0.0) < end - ENDED_SECONDS for key in found.saved),
        evidence=tuple(Evidence(query.says, query.promql, query.at) for query in it.evidence),
        instead=tuple(
            Other(
                other.action.kind,
                other.action.title,
                other.action.do,
                other.usd_per_month,
                other.action.confidence,
            )
            for other in found.instead
        ),
        patch=it.patch,
    )
