"""The ledger: pure accrual of GPU-seconds and dollars, each into exactly one account.

`accrue` charges a stretch of time at constant rates, so charging 10 x 1 s equals 1 x 10 s. The
bill is integrated beside the accounts and never derived from them: `imbalance_usd` compares the
two, and is 0 within float error or the ledger is wrong.
"""

from __future__ import annotations

from math import fsum
from typing import TYPE_CHECKING

from msgspec.structs import replace

from gpucost.account import (
    EMPTY,
    account_of,
    add_energy,
    credited,
    dollars,
    month_key,
    worker_of,
)
from gpucost.model import HOUR_SECONDS, NODE, GpuAccount, PodAccount

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from gpucost.model import Ledger, Price, Rate, Seat, Usage, Workload


def accrue(
    ledger: Ledger,
    usages: Sequence[Usage],
    prices: Mapping[str, Price],
    watts: Mapping[str, float],
    *,
    seconds: float,
    month: str,
    shown_at: float,
) -> Ledger:
    """The ledger after `seconds` of this cycle's usages, all of them in `month`.

    `shown_at` is the ledger's clock at the end of the cycle, when the result is first shown.
    `watts` is each GPU's mean power over that time, absent where it is not known. Every usage's
    GPU and holder must have been `opened`.
    """
    if seconds <= 0:
        return ledger
    by_gpu, by_seat = _flows(usages)
    gpus = dict(ledger.gpus)
    for uuid, flow in by_gpu.items():
        gpu = gpus[uuid]
        shown = None if gpu.labels is None else shown_at
        account = credited(gpu.account, flow, seconds, shown)
        gpus[uuid] = GpuAccount(account, gpu.opened_at, gpu.labels, gpu.awaited)

    node, tenures = ledger.node, dict(ledger.tenures)
    pods, months = dict(ledger.pods), dict(ledger.months)
    energy = dict(ledger.energy)
    by_workload: dict[Workload, list[Rate]] = {}
    joules = _joules(usages, watts, seconds)
    for seat, rates in by_seat.items():
        tenure, spent = tenures[seat], joules.get(seat, 0.0)
        nodes_own = seat.holder == NODE
        if nodes_own:
            node = credited(node, rates, seconds, shown_at)
        if tenure.payer is None:
            waiting = credited(tenure.pending.get(month, EMPTY), rates, seconds, None)
            tenures[seat] = replace(
                tenure,
                pending={**tenure.pending, month: waiting},
                pending_joules=tenure.pending_joules + spent,
            )
            continue
        key = month_key(months, tenure.payer, month)
        months.setdefault(key, EMPTY)
        by_workload.setdefault(key, []).extend(rates)
        if not nodes_own:
            paying = account_of(pods, tenure.payer)
            held = pods[paying]
            pods[paying] = PodAccount(
                credited(held.account, rates, seconds, shown_at), held.gone_at
            )
            if spent > 0:
                add_energy(energy, worker_of(paying), spent, shown_at)
    for key, flow in by_workload.items():
        months[key] = credited(months[key], flow, seconds, shown_at)
    clock = ledger.clock_seconds + seconds
    return replace(
        ledger,
        clock_seconds=clock,
        billed_usd=ledger.billed_usd + _bill(by_gpu, prices) * seconds,
        gpus=gpus,
        node=node,
        tenures=tenures,
        pods=pods,
        energy=energy,
        months=months,
        charged_at={**ledger.charged_at, month: clock},
    )


def _flows(
    usages: Sequence[Usage],
) -> tuple[dict[str, list[Rate]], dict[Seat, Sequence[Rate]]]:
    """The rates by GPU, and by who pays them."""
    by_gpu: dict[str, list[Rate]] = {}
    by_seat: dict[Seat, Sequence[Rate]] = {}
    for usage in usages:
        seat, rates = usage.paid_by, usage.rates
        by_gpu.setdefault(usage.share.gpu_uuid, []).extend(rates)
        # Most hold one part of one GPU, and have its rates as they are.
        by_seat[seat] = (*by_seat[seat], *rates) if seat in by_seat else rates
    return by_gpu, by_seat


def _joules(
    usages: Sequence[Usage], watts: Mapping[str, float], seconds: float
) -> dict[Seat, float]:
    """The energy of each holder's shares; a MIG instance has no meter, so its share counts."""
    joules: dict[Seat, float] = {}
    for usage in usages:
        share = usage.share
        if share.holder is not None and share.gpu_uuid in watts:
            seat = share.seat
            joules[seat] = joules.get(seat, 0.0) + watts[share.gpu_uuid] * share.ratio * seconds
    return joules


def _bill(uuids: Iterable[str], prices: Mapping[str, Price]) -> float:
    """USD per second of these GPUs, from their prices alone."""
    return fsum(
        price.usd_per_hour / HOUR_SECONDS
        for uuid in uuids
        if (price := prices[uuid]).usd_per_hour is not None
    )


def imbalance_usd(ledger: Ledger) -> float:
    """The bill less what holders and node were charged; or less the GPUs' states, if worse."""
    charged = [ledger.settled_usd, *dollars(ledger.node)]
    for held in ledger.pods.values():
        charged += dollars(held.account)
    for seat, tenure in ledger.tenures.items():
        if seat.holder != NODE:
            for waiting in tenure.pending.values():
                charged += dollars(waiting)
    by_state = [usd for gpu in ledger.gpus.values() for usd in dollars(gpu.account)]
    return max(ledger.billed_usd - fsum(charged), ledger.billed_usd - fsum(by_state), key=abs)
