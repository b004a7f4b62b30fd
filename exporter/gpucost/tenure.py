"""What is remembered of a holder from one cycle to the next: since when, started, last active.

Labels are settled here once and for all: a counter's labels never change, so they wait until
the pod and the node are known, a minute at most, and are `unknown` for good after that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from gpucost.model import NODE, Device, Holder, Payer, Pod, Seat, Share, Snapshot, Tenure
from gpucost.waste import NO_WORK, is_busy, reading_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gpucost.model import UnitId, UnitReading

UNKNOWN = "unknown"


class Patience(Struct, frozen=True):
    """How long labels are waited for, and how long the ended are remembered, in seconds.

    `labels_expected` is False where no API server is there to name them.
    """

    labels_wait_seconds: float = 60.0
    linger_seconds: float = 300.0
    labels_expected: bool = True


def observe(
    tenures: Mapping[Seat, Tenure],
    snapshot: Snapshot,
    seats: Mapping[Seat, Sequence[Share]],
    *,
    idle_ratio: float,
    clock_seconds: float,
    looked_from: float,
    patience: Patience,
    work: Mapping[tuple[Seat, UnitId], UnitReading] = NO_WORK,
) -> dict[Seat, Tenure]:
    """The tenures after this cycle: new ones opened, the present updated, the old let go.

    `seats` are the present ones, each with its shares (`seats_of`); `looked_from` is the
    ledger's clock when this look at the node began; `work` is what each did on shared units.
    """
    gpus = {gpu.device.uuid: gpu for gpu in snapshot.gpus}
    pods = snapshot.pods or {}
    after: dict[Seat, Tenure] = {}
    for seat, shares in seats.items():
        pod = pods.get((seat.holder.namespace, seat.holder.pod))
        before = tenures.get(seat)
        if before is None or (pod is not None and before.uid and before.uid != pod.uid):
            before = Tenure(
                uid="" if pod is None else pod.uid,
                opened_at=clock_seconds,
                # What waited for labels under this name is charged under this name.
                pending={} if before is None else before.pending,
                pending_joules=0.0 if before is None else before.pending_joules,
            )
        tenure = before
        if before.payer is None or not before.uid:
            tenure = _labelled(seat, before, pod, snapshot, clock_seconds, patience)
        if shares:
            measured = [reading_of(gpus[share.gpu_uuid], share, work) for share in shares]
            # The first look at the pod: when looking began, or the API server answers after it.
            first = clock_seconds == looked_from or (
                before.opened_at == looked_from and not before.uid
            )
            tenure = _seen_again(
                before, tenure, pod, measured, snapshot, idle_ratio, clock_seconds, first=first
            )
        elif tenure.gone_at is not None:
            tenure = replace(tenure, gone_at=None)
        after[seat] = tenure
    for seat, tenure in tenures.items():
        if seat not in after:
            gone_at = clock_seconds if tenure.gone_at is None else tenure.gone_at
            gone = _labelled(
                seat,
                tenure if tenure.gone_at is not None else replace(tenure, gone_at=gone_at),
                _same_pod(snapshot, seat, tenure),
                snapshot,
                clock_seconds,
                patience,
            )
            # What waits for labels is charged before it is forgotten, however long a cycle was.
            if clock_seconds - gone_at < patience.linger_seconds or gone.pending:
                after[seat] = gone
    return after


def _same_pod(snapshot: Snapshot, seat: Seat, tenure: Tenure) -> Pod | None:
    """The pod that held and holds no more, if the API still shows that very one."""
    pod = (snapshot.pods or {}).get((seat.holder.namespace, seat.holder.pod))
    return pod if pod is not None and tenure.uid in ("", pod.uid) else None


def seats_of(
    devices: Sequence[Device], shares: Sequence[Share], pods: Mapping[tuple[str, str], Pod] | None
) -> dict[Seat, tuple[Share, ...]]:
    """The seats to be remembered, each with its shares: the taken ones, the node's, the asking.

    A pod that is bound here and asks for a GPU is shown before its first dollar, where the node
    has one model: else nobody knows yet which one it will be.
    """
    models = {device.model for device in devices}
    taken: dict[Seat, list[Share]] = {}
    for share in shares:
        if share.holder is not None:
            taken.setdefault(share.seat, []).append(share)
    for model in models:
        taken.setdefault(Seat(NODE, model), [])
        for pod in (pods or {}).values() if len(models) == 1 else ():
            if not pod.finished:
                for container in pod.gpu_containers:
                    holder = Holder(namespace=pod.namespace, pod=pod.name, container=container)
                    taken.setdefault(Seat(holder, model), [])
    return {seat: tuple(own) for seat, own in taken.items()}


def _seen_again(
    before: Tenure,
    tenure: Tenure,
    pod: Pod | None,
    measured: Sequence[UnitReading],
    snapshot: Snapshot,
    idle_ratio: float,
    clock_seconds: float,
    *,
    first: bool,
) -> Tenure:
    """The tenure of a holder that holds, `before` its labels perhaps settled in this cycle."""
    busy, peak = False, tenure.memory_peak_bytes
    for reading in measured:
        busy = busy or is_busy(reading.activity, idle_ratio)
        used = reading.memory_used_bytes
        if used is not None and (peak is None or used > peak):
            peak = used
    if not tenure.started and _has_started(pod, measured, busy=busy, first=first):
        tenure = replace(tenure, started=True)
    if tenure.held_at is None or before.payer is None:
        tenure = _held_since(tenure, pod, snapshot.wall_time, clock_seconds)
    return replace(
        tenure,
        last_active=snapshot.wall_time if busy else tenure.last_active,
        memory_peak_bytes=peak,
        gone_at=None,
    )


def _held_since(tenure: Tenure, pod: Pod | None, wall_time: float, clock_seconds: float) -> Tenure:
    """The tenure with the start of its holding.

    Until the labels settle, the API server may still tell of an earlier one.
    """
    since = wall_time if tenure.since is None else tenure.since
    held_before = tenure.held_before
    if pod is not None and pod.started_at is not None and pod.started_at < since:
        held_before += since - pod.started_at
        since = pod.started_at
    held_at = clock_seconds if tenure.held_at is None else tenure.held_at
    return replace(tenure, since=since, held_at=held_at, held_before=held_before)


def _has_started(
    pod: Pod | None, readings: Sequence[UnitReading], *, busy: bool, first: bool
) -> bool:
    """Whether a holder's cold start is over.

    With a readiness probe: at its first Ready. Without one a pod is Ready as soon as it runs,
    so its first activity counts instead, where there is a signal to see it by. A pod that was
    Ready before we first looked may have worked before: it is not called a cold start. Of a pod
    that the API server does not show (yet), nothing is known.
    """
    if pod is None:
        return False
    if pod.ready_probe:
        return pod.ready
    blind = all(reading.activity is None for reading in readings)
    return busy or (pod.ready and (blind or first))


def _labelled(
    seat: Seat,
    tenure: Tenure,
    pod: Pod | None,
    snapshot: Snapshot,
    clock_seconds: float,
    patience: Patience,
) -> Tenure:
    """The tenure with its payer's labels, once they are known or not to be had in time."""
    if tenure.payer is not None:
        if pod is not None and not tenure.uid:
            return replace(tenure, uid=pod.uid)
        return tenure
    nodes_own = seat.holder == NODE
    complete = snapshot.node_known and (nodes_own or pod is not None)
    waited = clock_seconds - tenure.opened_at >= patience.labels_wait_seconds
    if not (complete or waited or not patience.labels_expected):
        return tenure
    blank = "" if nodes_own else UNKNOWN
    payer = Payer(
        holder=seat.holder,
        workload=blank if pod is None else pod.workload,
        workload_kind=blank if pod is None else pod.workload_kind,
        team=blank if pod is None else pod.team,
        gpu_model=seat.gpu_model,
        capacity_type=snapshot.node.capacity_type or UNKNOWN,
    )
    return replace(tenure, payer=payer, uid=tenure.uid if pod is None else pod.uid)
