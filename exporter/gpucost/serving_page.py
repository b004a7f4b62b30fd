"""The series of pods that serve, for the page: counters from the ledger, gauges of what is now."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpucost.model import OUTCOMES, Count, Part

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gpucost.model import Report, Service, UnitCost, WorkAccount

TOKENS = {Count.INPUT: "input", Count.CACHED: "cached_input", Count.OUTPUT: "output"}
"""Directions, disjoint: engines count cached tokens within their input, these do not."""

Series = tuple[str, float | None, tuple[str, ...]]
"""A family, its value (None adds nothing), and its labels."""


def serving_series(report: Report, now: float | None) -> Iterator[Series]:
    """All of them. `now` is the ledger's clock less the hold: newer counters are shown at 0."""
    for service, account in report.ledger.work.items():
        yield from _counters(_labels(service), account, now)
    for pod in report.served.values():
        for service, model in pod.models:
            labels = _labels(service)
            yield "gpucost_pod_requests_running", model.running, labels
            yield "gpucost_pod_requests_waiting", model.waiting, labels
        for cost in pod.costs:
            yield from _costs(cost, helper=pod.part is Part.HELPER)


def _labels(service: Service) -> tuple[str, ...]:
    return (
        service.namespace,
        service.pod,
        service.workload,
        service.engine,
        service.served_model,
    )


def _counters(labels: tuple[str, ...], account: WorkAccount, now: float | None) -> Iterator[Series]:
    for count, value in account.counts.items():
        shown = value if now is None or account.shown_at[count] <= now else 0.0
        if count in OUTCOMES:
            yield "gpucost_pod_requests_total", shown, (*labels, count.value)
        elif count in TOKENS:
            yield "gpucost_pod_tokens_total", shown, (*labels, TOKENS[count])


def _costs(cost: UnitCost, *, helper: bool) -> Iterator[Series]:
    labels = _labels(cost.service)
    yield "gpucost_pod_batch_size", cost.batch, labels
    if helper:
        return
    split = (*labels, cost.split)
    yield "gpucost_pod_served_model_share_ratio", cost.share, split
    yield "gpucost_pod_cost_per_request_usd", cost.usd_per_request, split
    for direction, usd in (
        ("input", cost.usd_per_million_input),
        ("output", cost.usd_per_million_output),
    ):
        by = (*split, cost.method, direction)
        yield "gpucost_pod_cost_per_million_tokens_usd", usd, by
    yield "gpucost_pod_cache_savings_usd_per_hour", cost.cache_savings_usd_per_hour, labels
