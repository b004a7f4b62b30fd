"""The ledger: pure accrual of GPU-seconds and dollars, each into exactly one account.

`accrue` charges a stretch of time at constant rates, so charging 10 x 1 s equals 1 x 10 s. The
bill is integrated beside the accounts and never derived from them: `imbalance_usd` compares the
two, and is 0 within float error or the ledger is wrong.
"""

from __future__ import annotations

from functools import lru_cache
from math import fsum
from typing import TYPE_CHECKING

from msgspec.structs import replace

from gpucost.model import (
    HOUR_SECONDS,
    NODE,
    Account,
    Energy,
    GpuAccount,
    GpuLabels,
    GpuReading,
    Holder,
    Ledger,
    Payer,
    PodAccount,
    Price,
    Rate,
    Seat,
    Snapshot,
    State,
    Tenure,
    Usage,
    Worker,
    Workload,
    XidCount,
)
from gpucost.months import KEEP_SECONDS
from gpucost.tenure import UNKNOWN, Patience

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

MAX_WORKLOADS = 1000
"""Accounts of a node and month; what comes after has one account together, `OTHER`."""

MAX_PODS = 1000
"""Pods' accounts at once, with those of ended pods that still linger; what comes after has one
account together, `OTHER`. A kubelet runs 110 pods unless told otherwise."""

OTHER = "other"

EMPTY = Account(seconds={})
"""An account at its first moment."""


def credited(
    account: Account, rates: Iterable[Rate], seconds: float, shown_at: float | None
) -> Account:
    """The account after `seconds` at `rates`.

    `shown_at` stamps the first time its figures are shown; None for an account that is not
    shown yet.
    """
    gpu_seconds = {**account.seconds}
    usd = None if account.usd is None else {**account.usd}
    for rate in rates:
        state, usd_per_second = rate.state, rate.usd_per_second
        gpu_seconds[state] = gpu_seconds.get(state, 0.0) + rate.gpus * seconds
        if usd_per_second is not None:
            usd = {} if usd is None else usd
            usd[state] = usd.get(state, 0.0) + usd_per_second * seconds
    shown, priced = account.shown_at, account.priced_at
    if shown_at is not None:
        shown = shown_at if shown is None else shown
        priced = shown_at if priced is None and usd is not None else priced
    return Account(gpu_seconds, usd, shown, priced)


def merged(into: Account, other: Account, shown_at: float) -> Account:
    """Both accounts in one that is shown."""
    usd = None
    if into.usd is not None or other.usd is not None:
        usd = _sum(into.usd or {}, other.usd or {})
    seconds = _sum(into.seconds, other.seconds)
    return _stamped(Account(seconds, usd, into.shown_at, into.priced_at), shown_at)


def _sum(ours: Mapping[State, float], theirs: Mapping[State, float]) -> dict[State, float]:
    """Both by state, with the states that either has."""
    return {
        state: ours.get(state, 0.0) + theirs.get(state, 0.0)
        for state in dict.fromkeys((*ours, *theirs))
    }


def _stamped(account: Account, shown_at: float | None) -> Account:
    if shown_at is None:
        return account
    shown, priced = account.shown_at, account.priced_at
    if shown is not None and (priced is not None or account.usd is None):
        return account
    return Account(
        account.seconds,
        account.usd,
        shown_at if shown is None else shown,
        shown_at if priced is None and account.usd is not None else priced,
    )


def opened(
    ledger: Ledger,
    snapshot: Snapshot,
    tenures: Mapping[Seat, Tenure],
    *,
    priced_models: Collection[str],
    shown_at: float,
    patience: Patience,
) -> Ledger:
    """The ledger with this cycle's tenures: new accounts opened at 0, ended ones settled.

    Called before the time is charged, so that a new series starts at 0. `priced_models` are the
    GPU models that have a price; `shown_at` is the ledger's clock at the end of the cycle, when
    all this is first shown.
    """
    clock = ledger.clock_seconds
    charged_at = {m: at for m, at in ledger.charged_at.items() if clock - at < KEEP_SECONDS}
    months = {key: account for key, account in ledger.months.items() if key.month in charged_at}
    pods, energy = dict(ledger.pods), dict(ledger.energy)
    kept = {**tenures}
    for seat, tenure in tenures.items():
        payer = tenure.payer
        if payer is None:
            continue
        if not tenure.pending and tenure.gone_at is None:
            going_on = pods.get(payer)
            if going_on is not None and going_on.gone_at is None:
                continue  # as nearly all do in nearly every cycle
        if seat.holder != NODE:
            account = payer if len(pods) < MAX_PODS else account_of(pods, payer)
            before = pods.get(account)
            priced = seat.gpu_model in priced_models
            held = _held(before, tenure, priced=priced, shown_at=shown_at)
            if held is not None and held is not before:
                pods[account] = held
        if tenure.pending:
            for month, waiting in tenure.pending.items():
                key = _month_key(months, payer, month)
                months[key] = merged(months.get(key, EMPTY), waiting, shown_at)
            worker = worker_of(account_of(pods, payer))
            _add_energy(energy, worker, tenure.pending_joules, shown_at)
            kept[seat] = replace(tenure, pending={}, pending_joules=0.0)
    settled = _settle(pods, energy, kept, clock, patience, shown_at)
    if len(pods) >= MAX_PODS:
        # Of the ended that had no room nothing is shown that their return would go on with.
        kept = {
            seat: tenure
            for seat, tenure in kept.items()
            if tenure.gone_at is None or tenure.payer is None or tenure.payer in pods
        }
    gpus = _gpus_opened(ledger, snapshot, patience, shown_at)
    return replace(
        ledger,
        settled_usd=fsum((ledger.settled_usd, *settled)),
        gpus=gpus,
        tenures=kept,
        pods=pods,
        energy=energy,
        months=months,
        charged_at=charged_at,
        xids=_xids(ledger.xids, gpus, snapshot.gpus, shown_at),
    )


def _held(
    before: PodAccount | None, tenure: Tenure, *, priced: bool, shown_at: float
) -> PodAccount | None:
    """A pod's account in this cycle, with what waited for its labels.

    A new one is shown at 0 USD from the start where its GPU has a price (`priced`). None where
    its counters have ended before the tenure is forgotten: they must not come back.
    """
    if before is None:
        if tenure.gone_at is not None and not tenure.pending:
            return None
        account = _stamped(Account({}, {} if priced else None), shown_at)
    elif not tenure.pending and (before.gone_at is None or tenure.gone_at is not None):
        return before
    else:
        account = before.account
    for waiting in tenure.pending.values():
        account = merged(account, waiting, shown_at)
    return PodAccount(account, None if before is None or tenure.gone_at is None else before.gone_at)


def _settle(
    pods: dict[Payer, PodAccount],
    energy: dict[Worker, Energy],
    tenures: Mapping[Seat, Tenure],
    clock_seconds: float,
    patience: Patience,
    shown_at: float,
) -> list[float]:
    """Mark the accounts whose holder is gone, and drop those gone for long; their dollars.

    They linger from the end of this cycle, when they are first shown without their holder: so
    the last dollars are seen even where a cycle is as long as the linger.
    """
    present = {
        account_of(pods, tenure.payer)
        for tenure in tenures.values()
        if tenure.gone_at is None and tenure.payer is not None
    }
    settled: list[float] = []
    ended = False
    for payer in pods.keys() - present:
        held = pods[payer]
        if held.gone_at is None:
            pods[payer] = PodAccount(held.account, shown_at)
        elif clock_seconds - held.gone_at >= patience.linger_seconds:
            settled += _dollars(pods.pop(payer).account)
            ended = True
    if ended:
        workers = {worker_of(payer) for payer in pods}
        for worker in energy.keys() - workers:
            del energy[worker]
    return settled


def _add_energy(
    energy: dict[Worker, Energy], worker: Worker, joules: float, shown_at: float
) -> None:
    """Add to a worker's energy, shown from now on if it is the first that is known."""
    if joules > 0:
        before = energy.get(worker)
        energy[worker] = (
            Energy(joules, shown_at)
            if before is None
            else Energy(before.joules + joules, before.shown_at)
        )


def _gpus_opened(
    ledger: Ledger, snapshot: Snapshot, patience: Patience, shown_at: float
) -> Mapping[str, GpuAccount]:
    """The GPUs' accounts, with labels once the node is known or not to be had in time."""
    clock = ledger.clock_seconds
    gpus = dict(ledger.gpus)
    for gpu in snapshot.gpus:
        device = gpu.device
        if device.uuid not in gpus:
            number = "" if device.index is None else str(device.index)
            awaited = GpuLabels(gpu=number, gpu_model=device.model, capacity_type=UNKNOWN)
            gpus[device.uuid] = GpuAccount(EMPTY, opened_at=clock, awaited=awaited)
    # One that is gone already gets its labels too: its seconds are part of the bill.
    for uuid, account in gpus.items():
        waited = clock - account.opened_at >= patience.labels_wait_seconds
        if account.awaited is not None and (
            snapshot.node_known or waited or not patience.labels_expected
        ):
            capacity_type = snapshot.node.capacity_type or UNKNOWN
            labels = replace(account.awaited, capacity_type=capacity_type)
            shown = _stamped(account.account, shown_at)
            gpus[uuid] = GpuAccount(shown, account.opened_at, labels)
    return gpus


def _xids(
    before_now: Mapping[tuple[str, int], XidCount],
    accounts: Mapping[str, GpuAccount],
    gpus: Sequence[GpuReading],
    shown_at: float,
) -> Mapping[tuple[str, int], XidCount]:
    """The XID counts of the GPUs whose labels are known."""
    if not any(gpu.xid_events for gpu in gpus):
        return before_now
    counts = dict(before_now)
    for gpu in gpus:
        if accounts[gpu.device.uuid].labels is None:
            continue
        for xid, count in gpu.xid_events.items():
            before = counts.get((gpu.device.uuid, xid)) or XidCount(0, shown_at, 0)
            new = count - before.read if count >= before.read else count
            counts[gpu.device.uuid, xid] = XidCount(before.count + new, before.shown_at, count)
    return counts


def account_of(pods: Mapping[Payer, PodAccount], payer: Payer) -> Payer:
    """The account that a pod's dollars go to: its own, or `other` where there was no room."""
    if payer in pods:
        return payer
    holder = Holder(OTHER, OTHER, OTHER)
    return Payer(holder, OTHER, "", "", payer.gpu_model, payer.capacity_type)


def _month_key(months: Collection[Workload], payer: Payer, month: str) -> Workload:
    """The month's account that a payer's dollars go to: its own, or past the limit `other`."""
    key = workload_of(payer, month)
    if key in months or len(months) < MAX_WORKLOADS or payer.holder == NODE:
        return key
    if sum(known.month == month for known in months) < MAX_WORKLOADS:
        return key
    return replace(key, namespace=OTHER, workload=OTHER, workload_kind="", team="")


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
    clock = ledger.clock_seconds
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
        if seat.holder == NODE:
            node = credited(node, rates, seconds, shown_at)
        if tenure.payer is None:
            waiting = credited(tenure.pending.get(month, EMPTY), rates, seconds, None)
            tenures[seat] = replace(
                tenure,
                pending={**tenure.pending, month: waiting},
                pending_joules=tenure.pending_joules + spent,
            )
            continue
        key = _month_key(months, tenure.payer, month)
        months.setdefault(key, EMPTY)
        by_workload.setdefault(key, []).extend(rates)
        if seat.holder != NODE:
            paying = account_of(pods, tenure.payer)
            held = pods[paying]
            account = credited(held.account, rates, seconds, shown_at)
            pods[paying] = PodAccount(account, held.gone_at)
            if spent > 0:
                _add_energy(energy, worker_of(paying), spent, shown_at)
    for key, flow in by_workload.items():
        months[key] = credited(months[key], flow, seconds, shown_at)
    return replace(
        ledger,
        clock_seconds=clock + seconds,
        billed_usd=ledger.billed_usd + _bill(usages, prices) * seconds,
        gpus=gpus,
        node=node,
        tenures=tenures,
        pods=pods,
        energy=energy,
        months=months,
        charged_at={**ledger.charged_at, month: clock + seconds},
    )


def _flows(
    usages: Sequence[Usage],
) -> tuple[dict[str, list[Rate]], dict[Seat, Sequence[Rate]]]:
    """The rates by GPU, and by who pays them."""
    by_gpu: dict[str, list[Rate]] = {}
    by_seat: dict[Seat, Sequence[Rate]] = {}
    for usage in usages:
        share, rates = usage.share, usage.rates
        by_gpu.setdefault(share.gpu_uuid, []).extend(rates)
        seat = share.seat
        if rates and rates[0].holder is None:
            seat = Seat(NODE, seat.gpu_model)
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


def _bill(usages: Sequence[Usage], prices: Mapping[str, Price]) -> float:
    """USD per second of the GPUs that are there, from their prices alone."""
    return fsum(
        price.usd_per_hour / HOUR_SECONDS
        for uuid in {usage.share.gpu_uuid for usage in usages}
        if (price := prices[uuid]).usd_per_hour is not None
    )


@lru_cache(maxsize=4096)
def workload_of(payer: Payer, month: str) -> Workload:
    """The month's account that a payer's dollars go to; the node's has no name."""
    return Workload(
        month=month,
        namespace=payer.holder.namespace,
        workload=payer.workload,
        workload_kind=payer.workload_kind,
        team=payer.team,
        gpu_model=payer.gpu_model,
        capacity_type=payer.capacity_type,
    )


@lru_cache(maxsize=4096)
def worker_of(payer: Payer) -> Worker:
    """Whose energy a payer's share used."""
    return Worker(payer.holder, payer.workload, payer.gpu_model)


def imbalance_usd(ledger: Ledger) -> float:
    """The bill less what holders and node were charged; or less the GPUs' states, if worse."""
    charged = [ledger.settled_usd, *_dollars(ledger.node)]
    for held in ledger.pods.values():
        charged += _dollars(held.account)
    for seat, tenure in ledger.tenures.items():
        if seat.holder != NODE:
            for waiting in tenure.pending.values():
                charged += _dollars(waiting)
    by_state = [usd for gpu in ledger.gpus.values() for usd in _dollars(gpu.account)]
    return max(ledger.billed_usd - fsum(charged), ledger.billed_usd - fsum(by_state), key=abs)


def _dollars(account: Account) -> Iterable[float]:
    return () if account.usd is None else account.usd.values()
