"""One account: what is added to it, and which one dollars go to. Pure.

Accounts are few: a node whose pods come and go by the thousand would fill memory and Prometheus.
Past a limit what comes has one account together, `OTHER`, and no dollar is lost.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from msgspec.structs import replace

from gpucost.model import NODE, Account, Energy, Holder, Payer, Worker, Workload

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from gpucost.model import PodAccount, Rate, State

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
    return stamped(Account(seconds, usd, into.shown_at, into.priced_at), shown_at)


def dollars(account: Account) -> Iterable[float]:
    """What is on an account, by state; nothing without a price."""
    return () if account.usd is None else account.usd.values()


def _sum(ours: Mapping[State, float], theirs: Mapping[State, float]) -> dict[State, float]:
    """Both by state, with the states that either has."""
    return {
        state: ours.get(state, 0.0) + theirs.get(state, 0.0)
        for state in dict.fromkeys((*ours, *theirs))
    }


def stamped(account: Account, shown_at: float | None) -> Account:
    """The account, shown from now on if it was not."""
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


def account_of(pods: Mapping[Payer, PodAccount], payer: Payer) -> Payer:
    """The account that a pod's dollars go to: its own, or `other` where there was no room."""
    if payer in pods:
        return payer
    holder = Holder(OTHER, OTHER, OTHER)
    return Payer(holder, OTHER, "", "", payer.gpu_model, payer.capacity_type)


def month_key(months: Collection[Workload], payer: Payer, month: str) -> Workload:
    """The month's account that a payer's dollars go to: its own, or past the limit `other`."""
    key = workload_of(payer, month)
    if key in months or len(months) < MAX_WORKLOADS or payer.holder == NODE:
        return key
    if sum(known.month == month for known in months) < MAX_WORKLOADS:
        return key
    return replace(key, namespace=OTHER, workload=OTHER, workload_kind="", team="")


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


def add_energy(
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
