"""Which accounts there are: opened at 0 before their first second, settled when long gone. Pure.

A counter must be seen at 0, and seen at its last value: so an account is there before its holder
is charged, and stays for a while after its holder went.
"""

from __future__ import annotations

from math import fsum
from typing import TYPE_CHECKING

from msgspec.structs import replace

from gpucost.account import (
    EMPTY,
    MAX_PODS,
    account_of,
    add_energy,
    dollars,
    merged,
    month_key,
    stamped,
    worker_of,
)
from gpucost.model import NODE, Account, GpuAccount, GpuLabels, PodAccount, XidCount
from gpucost.months import KEEP_SECONDS
from gpucost.tenure import UNKNOWN, Patience

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from gpucost.model import Energy, GpuReading, Ledger, Payer, Seat, Snapshot, Tenure, Worker


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
                key = month_key(months, payer, month)
                months[key] = merged(months.get(key, EMPTY), waiting, shown_at)
            worker = worker_of(account_of(pods, payer))
            add_energy(energy, worker, tenure.pending_joules, shown_at)
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
        account = stamped(Account({}, {} if priced else None), shown_at)
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
            settled += dollars(pods.pop(payer).account)
            ended = True
    if ended:
        workers = {worker_of(payer) for payer in pods}
        for worker in energy.keys() - workers:
            del energy[worker]
    return settled


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
            shown = stamped(account.account, shown_at)
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
