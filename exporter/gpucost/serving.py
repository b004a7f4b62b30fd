"""What pods' inference servers have done: their counters, carried over restarts. Pure.

A counter on a page begins anew with its process, goes with a worker, and was running before
anybody looked; ours does none of that. What an engine had done before this ledger knew its pod
is not counted: nobody knows what it cost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from gpucost.model import Count, Part, Service, WorkAccount

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gpucost.model import (
        EngineReading,
        Ledger,
        ModelReading,
        Pod,
        Seat,
        ServedPod,
        Snapshot,
        Tenure,
    )

MAX_SERVICES = 1000
"""Served models of a node that are counted; each is a dozen series."""

MAX_SERIES = 128
"""Of one count of one service: with more, those that went from the page are forgotten."""

SAME_START_SECONDS = 1.0
"""Two words of one process's start differ by less."""

PodKey = tuple[str, str]


class Counted(Struct, frozen=True):
    """The work so far, and what serves it now: each pod's services, as its last reading has them.

    `crowded` says that more services came than are counted.
    """

    work: Mapping[Service, WorkAccount]
    models: Mapping[PodKey, tuple[tuple[Service, ModelReading], ...]]
    crowded: bool = False


def counted(
    ledger: Ledger, snapshot: Snapshot, new: Mapping[PodKey, EngineReading], shown_at: float
) -> Counted:
    """The work after the readings in `new`, first shown at `shown_at` by the ledger's clock.

    A pod whose labels are not settled yet is left for its next reading.
    """
    work = _kept(ledger)
    models: dict[PodKey, tuple[tuple[Service, ModelReading], ...]] = {}
    tenures = _by_pod(ledger.tenures) if new else {}
    seen = {(service.namespace, service.pod) for service in work}
    crowded = False
    pods = snapshot.pods or {}
    for key, reading in new.items():
        tenure, pod = tenures.get(key), pods.get(key)
        if tenure is None or tenure.payer is None or pod is None:
            continue
        # Whether the ledger has paid for the pod since it came, or its page was read before.
        watched = tenure.opened_at > ledger.looked_from or key in seen
        named = [(_service(key, tenure.payer.workload, model), model) for model in reading.models]
        models[key] = tuple(named)
        if _part(pod) is Part.HELPER:
            continue
        for service, model in named:
            before = work.get(service)
            if before is None and len(work) >= MAX_SERVICES:
                crowded = True
                continue
            work[service] = carried(before, model, tenure.uid, shown_at, watched=watched)
    return Counted(work, models, crowded)


def carried(
    before: WorkAccount | None, model: ModelReading, uid: str, shown_at: float, *, watched: bool
) -> WorkAccount:
    """The account after a reading.

    What a series has more than at the last reading is new; all of it where it has less, or the
    process or pod is another one. `watched` says that a first reading counts from 0.
    """
    if before is None:
        read = {} if watched else model.counts
        before = WorkAccount(dict.fromkeys(model.counts, 0.0), read, {}, uid, model.started_at)
    anew = (before.uid and uid and before.uid != uid) or (
        before.started_at is not None
        and model.started_at is not None
        and abs(before.started_at - model.started_at) > SAME_START_SECONDS
    )
    counts = dict(before.counts)
    read_now: dict[Count, Mapping[int, float]] = {} if anew else dict(before.read)
    for count, series in model.counts.items():
        last = read_now.get(count, {})
        more = 0.0
        for name, value in series.items():
            earlier = last.get(name, 0.0)
            more += value - earlier if value >= earlier else value
        counts[count] = counts.get(count, 0.0) + more
        both = {**last, **series}
        read_now[count] = both if len(both) <= MAX_SERIES else series
    _derive(counts)
    return WorkAccount(
        counts=counts,
        read=read_now,
        shown_at={count: before.shown_at.get(count, shown_at) for count in counts},
        uid=uid or before.uid,
        started_at=model.started_at or before.started_at,
    )


def _derive(counts: dict[Count, float]) -> None:
    """Put in what is the rest of others.

    An engine may count the two at different moments: the rest waits then, and never falls.
    """
    if Count.PROMPT in counts:
        rest = counts[Count.PROMPT] - counts.get(Count.CACHED, 0.0)
        counts[Count.INPUT] = max(counts.get(Count.INPUT, 0.0), rest)
    if Count.FINISHED in counts:
        failed = counts.get(Count.FAILURE, 0.0) + counts.get(Count.ABORTED, 0.0)
        rest = counts[Count.FINISHED] - failed
        counts[Count.SUCCESS] = max(counts.get(Count.SUCCESS, 0.0), rest)


def _kept(ledger: Ledger) -> dict[Service, WorkAccount]:
    """The accounts of pods that are remembered; those of others have been shown long enough."""
    if not ledger.work:
        return {}
    named = {
        (seat.holder.namespace, seat.holder.pod, tenure.payer and tenure.payer.workload)
        for seat, tenure in ledger.tenures.items()
    }
    return {
        service: account
        for service, account in ledger.work.items()
        if (service.namespace, service.pod, service.workload) in named
        or (service.namespace, service.pod, None) in named
    }


def _by_pod(tenures: Mapping[Seat, Tenure]) -> dict[PodKey, Tenure]:
    """The tenure of each present pod that has settled labels, the oldest of several."""
    found: dict[PodKey, Tenure] = {}
    for seat, tenure in tenures.items():
        key = (seat.holder.namespace, seat.holder.pod)
        if tenure.payer is None or tenure.gone_at is not None:
            continue
        if key not in found or tenure.opened_at < found[key].opened_at:
            found[key] = tenure
    return found


def _service(key: PodKey, workload: str, model: ModelReading) -> Service:
    return Service(*key, workload, model.engine, model.served_model)


def _part(pod: Pod) -> Part:
    return Part.ALONE if pod.serving is None else pod.serving.part


def new_readings(
    snapshot: Snapshot, known: Mapping[PodKey, ServedPod]
) -> dict[PodKey, EngineReading]:
    """The readings that are not the known ones' last."""
    return {
        key: reading
        for key, reading in snapshot.engines.items()
        if key not in known or known[key].reading is not reading
    }
