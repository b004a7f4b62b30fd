"""The queries by which a reader checks an action. Pure."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from gpucost.advice.promql import matchers, quoted
from gpucost.advice.report.facts import GIVEN_BACK, Query

if TYPE_CHECKING:
    from gpucost.advice.report.facts import Facts, Key


def of_workload(key: Key) -> str:
    """What selects a workload on its kind of GPU."""
    return matchers(
        cluster=key.cluster,
        namespace=key.namespace,
        workload=key.workload,
        gpu_model=key.gpu_model,
        capacity_type=key.capacity_type,
        node_pool=key.node_pool,
    )


def query(facts: Facts, says: str, promql: str) -> Query:
    """A query of the range's end; `$range` in it becomes the range."""
    ranged = promql.replace("$range", f"{facts.end - facts.start:.0f}s")
    return Query(says, ranged, moment(facts.end))


def moment(unix_seconds: float) -> str:
    """RFC 3339 in UTC, as Prometheus takes a query's time."""
    return datetime.fromtimestamp(unix_seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def dollars(facts: Facts, selector: str, states: str) -> Query:
    """The dollars of some states in the range: the sum of the rates, times what each stands for.

    Without recorded rates, what the exporters' counters grew by.
    """
    says = (
        "USD in the range" if states == ".+" else f"USD in the range: {states.replace('|', ', ')}"
    )
    chosen = f'{{{selector},state=~"{states}"}}[$range]'
    if not facts.sample_seconds:
        return query(facts, says, f"sum(increase(gpucost_workload_cost_usd_total{chosen}))")
    rates = f"sum(sum_over_time(workload:gpucost_cost_usd:rate5m{chosen}))"
    return query(facts, says, f"{rates} * {facts.sample_seconds:g}")


def given_back(facts: Facts, key: Key, advice: str) -> Query:
    """What the Fleet board shows that could be given back; without rules, its state's dollars."""
    if not facts.sample_seconds:
        return dollars(facts, of_workload(key), GIVEN_BACK[advice])
    chosen = f"{{{of_workload(key)},advice={quoted(advice)}}}[$range]"
    rates = f"sum(sum_over_time(workload:gpucost_saving_usd:rate5m{chosen}))"
    return query(
        facts,
        f"USD in the range that could be given back ({advice}), as on the Fleet board",
        f"{rates} * {facts.sample_seconds:g}",
    )
