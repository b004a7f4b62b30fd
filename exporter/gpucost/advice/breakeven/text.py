"""What was found as plain text and as JSON. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpucost.advice.terminal import columns, plot, usd

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from gpucost.advice.breakeven.cross import Cost, Curve, Outcome
    from gpucost.advice.breakeven.demand import Demand, Tokens

DRAWN = 6
"""Curves of a picture: more cannot be told apart."""


def page(outcome: Outcome, remarks: Sequence[str] = ()) -> str:
    """What the command prints."""
    demand = outcome.demand
    lines = [*(f"{remark[0].upper()}{remark[1:]}." for remark in remarks), *subject(demand), ""]
    head, rows = table(outcome)
    lines.append(columns(head, rows))
    lines += [*verdict(outcome), ""]
    shown = drawn(outcome)
    curves = [(curve.way.name, curve.usd_per_month) for curve in shown]
    lines.append(plot(outcome.rates, curves, at=demand.mean or outcome.rates[0]))
    lines += notes(outcome)
    return "\n".join(lines) + "\n"


def subject(demand: Demand) -> Iterator[str]:
    """What is asked for, and on what."""
    hours = "" if len(demand.hours) == 1 else f", {rate(demand.peak)} in the busiest hour"
    yield f"{rate(demand.mean)} in the mean{hours}{_tokens(demand.tokens)}"
    replica = demand.replica
    yield (
        f"A replica is {replica.gpus:g} x {replica.gpu_model}: {replica.seconds:.3g} s for a lone"
        f" request, at most {rate(replica.requests_per_second)}"
    )


def table(outcome: Outcome) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """What each way costs at the demand: head and rows; all but the first column are figures."""
    head = ("", "USD/month", "USD/1000 requests", "requests/USD", "dedicated is cheaper from")
    return head, [_row(outcome, it) for it in outcome.costs]


def verdict(outcome: Outcome) -> Iterator[str]:
    """Which way is the cheapest at which rate."""
    if not outcome.crossings:
        yield f"{outcome.costs[0].way.name} is the cheapest at any rate that was looked at."
        return
    yield f"Below {rate(outcome.crossings[0].requests_per_second)}: {outcome.crossings[0].before}"
    for crossing in outcome.crossings:
        yield f"from  {rate(crossing.requests_per_second)}: {crossing.after}"


def notes(outcome: Outcome) -> Iterator[str]:
    """What to know of each way."""
    for it in outcome.costs:
        if it.way.notes:
            yield f"{it.way.name}: {'; '.join(it.way.notes)}."


def drawn(outcome: Outcome) -> list[Curve]:
    """The curves of a picture: the cheapest way of each kind, then the cheapest of the others."""
    order = [it.way.name for it in outcome.costs]
    kinds: dict[str, str] = {}
    for it in outcome.costs:
        kinds.setdefault(it.way.kind, it.way.name)
    winners = {it.before for it in outcome.crossings} | {it.after for it in outcome.crossings}
    first = set(kinds.values()) | winners
    names = [name for name in order if name in first] + [it for it in order if it not in first]
    by_name = {curve.way.name: curve for curve in outcome.curves}
    return [by_name[name] for name in names[:DRAWN]]


def rate(per_second: float) -> str:
    """Requests by a time that leaves a number to read."""
    for seconds, unit in ((1, "s"), (60, "min"), (3600, "hour"), (86_400, "day")):
        if per_second * seconds >= 1 or unit == "day":
            return f"{per_second * seconds:.3g} requests/{unit}"
    raise AssertionError


def _row(outcome: Outcome, it: Cost) -> tuple[str, ...]:
    each = it.usd_per_request
    if it.way.name not in outcome.dedicated_from:
        cheaper = ""
    else:
        crossing = outcome.dedicated_from[it.way.name]
        cheaper = "never" if crossing is None else rate(crossing)
    return (
        it.way.name,
        usd(it.usd_per_month),
        "" if each is None else usd(each * 1000),
        "" if it.requests_per_usd is None else f"{it.requests_per_usd:,.4g}",
        cheaper,
    )


def _tokens(tokens: Tokens | None) -> str:
    if tokens is None:
        return ""
    cached = f" ({tokens.cached:.4g} of them cached)" if tokens.cached else ""
    return f"; {tokens.input:.4g} tokens in{cached}, {tokens.output:.4g} out"


def document(outcome: Outcome, remarks: Sequence[str] = ()) -> dict[str, object]:
    """As JSON; docs/advice.md describes it."""
    demand, tokens = outcome.demand, outcome.demand.tokens
    return {
        "remarks": list(remarks),
        "demand": {
            "requests_per_second": demand.mean,
            "peak_requests_per_second": demand.peak,
            "hours": len(demand.hours),
            "input_tokens": None if tokens is None else tokens.input,
            "cached_tokens": None if tokens is None else tokens.cached,
            "output_tokens": None if tokens is None else tokens.output,
        },
        "replica": {
            "gpu_model": demand.replica.gpu_model,
            "gpus": demand.replica.gpus,
            "seconds": demand.replica.seconds,
            "requests_per_second_at_full_load": demand.replica.requests_per_second,
        },
        "ways": [
            {
                "name": it.way.name,
                "kind": it.way.kind,
                "usd_per_month": it.usd_per_month,
                "usd_per_request": it.usd_per_request,
                "requests_per_usd": it.requests_per_usd,
                "dedicated_is_cheaper_from_requests_per_second": outcome.dedicated_from.get(
                    it.way.name
                ),
                "notes": list(it.way.notes),
            }
            for it in outcome.costs
        ],
        "crossings": [
            {
                "requests_per_second": it.requests_per_second,
                "before": it.before,
                "after": it.after,
            }
            for it in outcome.crossings
        ],
    }
