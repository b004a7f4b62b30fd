"""A demand out of what a workload really did. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from gpucost.advice.breakeven.demand import Demand, Replica, Tokens
from gpucost.advice.histories import both
from gpucost.sizing.offers import HOURS_PER_MONTH

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gpucost.advice.histories import History


class WeekError(ValueError):
    """Too little is known of the workload. The message says what, and the remedy."""


class Week(Struct, frozen=True):
    """A demand, what a GPU-hour really cost, and remarks on how well that is known."""

    demand: Demand
    usd_per_gpu_hour: float
    remarks: tuple[str, ...]


def week_of(history: History, hours: float, seconds: float | None = None) -> Week:
    """What a workload's history of so many hours is worth.

    `seconds` that a request takes are measured where they are not given. Raises WeekError.
    """
    rates = [rate for (rate,) in both(history.hours, "requests_per_second")]
    if not rates or not sum(rates):
        raise WeekError(
            "no request of it was counted in this time. Is its engine's page read (gpucost check),"
            " and are the rules of rules/serving.yaml loaded?"
        )
    seconds = seconds or _seconds(history)
    spread = list(both(history.hours, "gpus", "replicas"))
    if not spread or not sum(gpus for gpus, _ in spread):
        raise WeekError("which GPUs it held is not known: are the rules of rules/cost.yaml loaded?")
    gpus = sum(gpus for gpus, _ in spread) / sum(replicas for _, replicas in spread)
    paid = list(both(history.hours, "usd_per_second", "gpus"))
    if not paid or not sum(usd for usd, _ in paid):
        raise WeekError("what it cost is not known: do its GPUs have a price (gpucost check)?")
    price = sum(usd for usd, _ in paid) / sum(gpus for _, gpus in paid) * 3600
    served = both(history.hours, "requests_per_second", "replicas")
    best = max((rate / replicas for rate, replicas in served if replicas), default=0.0)
    if not best:
        raise WeekError(
            "no hour has both its requests and its replicas: widen --from and --to, or give"
            " --requests-per-second and --gpus."
        )
    replica = Replica(history.gpu_model, gpus, seconds, best)
    demand = Demand(tuple(rates), _tokens(history), replica)
    return Week(demand, price, tuple(_remarks(history, hours, demand)))


def _seconds(history: History) -> float:
    """That a request takes: those that run over those that come (Little)."""
    busy = [it for it in both(history.hours, "running", "requests_per_second") if it[1] > 0]
    running = sum(it[0] for it in busy)
    if not running:
        raise WeekError("how many of its requests run at once is not known: give --seconds.")
    return running / sum(it[1] for it in busy)


def _tokens(history: History) -> Tokens | None:
    """Of a mean request, weighed by requests; None where the engine counts none."""
    known = [
        it
        for it in both(
            history.hours, "requests_per_second", "input_per_second", "output_per_second"
        )
        if it[0] > 0
    ]
    requests = sum(it[0] for it in known)
    if not requests:
        return None
    cached = sum(it.cached_per_second or 0.0 for it in history.hours) / requests
    return Tokens(
        sum(it[1] for it in known) / requests + cached,
        sum(it[2] for it in known) / requests,
        cached,
    )


def _remarks(history: History, hours: float, demand: Demand) -> Iterator[str]:
    _, namespace, workload = history.key
    usd = [usd for (usd,) in both(history.hours, "usd_per_second")]
    hourly = sum(usd) / len(usd) * 3600
    yield (
        f"{namespace}/{workload} ({history.served_model or 'model not known'},"
        f" {history.engine or 'engine not known'}) as it ran: {hourly * HOURS_PER_MONTH:,.2f} USD a"
        f" month, {hourly / demand.mean / 3600 * 1000:,.4g} USD per 1000 requests,"
        f" {demand.mean * 3600 / hourly:,.4g} requests per USD"
    )
    missing = round(hours) - len(demand.hours)
    if missing > 0:
        yield (
            f"{missing} of {hours:.0f} hours are not known, since no replica ran or nothing was"
            " scraped: they are taken to be like the others"
        )
    if hours < 7 * 24:
        yield f"{hours / 24:.2g} days are less than a week: a busier day may be missing"
    yield "a replica's full load is what its best hour did: it may do more"
