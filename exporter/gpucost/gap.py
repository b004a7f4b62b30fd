"""Time that nobody saw: from the last checkpoint to a restart, or while the process was stopped.

It is charged to whoever provably held each device throughout, as `unmeasured`; what nobody
provably held is `unattributed`, and a young node's first stretch `provisioning`. The ledger's
clock stands still in a gap: nobody could look, so nothing that waits to be seen (new counters at
0, ended pods' counters, labels) may end in it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from gpucost.ledger import accrue
from gpucost.model import (
    HOUR_SECONDS,
    NODE,
    Gap,
    Hold,
    Ledger,
    Rate,
    Report,
    Seat,
    Share,
    Snapshot,
    State,
    Usage,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from gpucost.model import Price, Tenure
    from gpucost.tenure import Patience


YOUNG_NODE_SECONDS = 3600.0
"""A node younger than this at its first reading is charged from its boot, as `provisioning`."""


def holds(
    snapshot: Snapshot, shares: Sequence[Share], tenures: Mapping[Seat, Tenure]
) -> tuple[Hold, ...]:
    """Who holds what now, as far as it could be told from another pod of the same name."""
    pods = snapshot.pods
    if pods is None:
        return ()
    found = []
    for share in shares:
        holder = share.holder
        pod = None if holder is None else pods.get((holder.namespace, holder.pod))
        tenure = tenures.get(share.seat)
        if pod is not None and tenure is not None and tenure.uid == pod.uid:
            mig_uuid = None if share.instance is None else share.instance.uuid
            found.append(
                Hold(share.seat, pod.uid, share.unit, mig_uuid, share.ratio, pod.started_at)
            )
    return tuple(found)


def holds_of(report: Report) -> tuple[Hold, ...]:
    """Who held what in a Report."""
    shares = () if report.attributed is None else report.attributed.shares
    return holds(report.snapshot, shares, report.ledger.tenures)


def interrupted(
    ledger: Ledger,
    stretches: Sequence[tuple[str, float]],
    *,
    gpus: tuple[str, ...] | None,
    held: tuple[Hold, ...],
    state: State = State.UNATTRIBUTED,
) -> Ledger:
    """The ledger with a gap behind it, to be charged as soon as somebody can tell to whom.

    One that still waits is joined with it: who held from its beginning until now held through
    both.
    """
    clock = ledger.clock_seconds
    gap = Gap(tuple(stretches), clock, gpus, held, state)
    if (waiting := ledger.gap) is not None:
        gap = replace(
            gap,
            stretches=_joined(waiting.stretches, stretches),
            gpus=None if gpus is None else waiting.gpus,
            holds=() if gpus is None else waiting.holds,
            state=State.UNATTRIBUTED,
        )
    return replace(ledger, gap=gap, looked_from=clock)


def _joined(*parts: Sequence[tuple[str, float]]) -> tuple[tuple[str, float], ...]:
    """The seconds of all of them by month."""
    months: dict[str, float] = {}
    for month, seconds in (stretch for part in parts for stretch in part):
        months[month] = months.get(month, 0.0) + seconds
    return tuple(sorted(months.items()))


def can_tell(ledger: Ledger, snapshot: Snapshot, patience: Patience) -> bool:
    """Whether the sources say who holds what now and what it costs, or have had their time."""
    gap = ledger.gap
    if gap is None or not snapshot.gpus:
        return False
    if snapshot.holdings is not None and (
        not patience.labels_expected or (snapshot.node_known and snapshot.pods is not None)
    ):
        return True
    return ledger.clock_seconds - gap.found_at >= patience.labels_wait_seconds


def charged(
    ledger: Ledger,
    snapshot: Snapshot,
    shares: Sequence[Share],
    prices: Mapping[str, Price],
    shown_at: float,
) -> Ledger:
    """The ledger with its gap charged at the present prices, and none left.

    `shares` are the present ones. Every share's payer must have been `opened`.
    """
    gap = ledger.gap
    if gap is None:
        return ledger
    parts = _proven(gap, snapshot, shares, ledger.tenures)
    usages = tuple(
        usage
        for share, part in zip(shares, parts, strict=True)
        if gap.gpus is None or share.gpu_uuid in gap.gpus
        for usage in _usages(share, part, prices[share.gpu_uuid].usd_per_hour, gap.state)
    )
    clock = ledger.clock_seconds
    for month, seconds in gap.stretches:
        ledger = accrue(ledger, usages, prices, {}, seconds=seconds, month=month, shown_at=shown_at)
        ledger = replace(ledger, clock_seconds=clock)
    length = sum(seconds for _, seconds in gap.stretches)
    kept = {share.seat for share, part in zip(shares, parts, strict=True) if part}
    return replace(
        ledger,
        gap=None,
        charged_at={month: min(at, clock) for month, at in ledger.charged_at.items()},
        tenures={
            seat: replace(tenure, held_before=tenure.held_before + length)
            if seat in kept and tenure.held_at is not None and tenure.held_at < gap.found_at
            else tenure
            for seat, tenure in ledger.tenures.items()
        },
    )


def _proven(
    gap: Gap, snapshot: Snapshot, shares: Sequence[Share], tenures: Mapping[Seat, Tenure]
) -> list[float]:
    """Of each share the part of its GPU that its holder held at both ends of the gap."""
    before: dict[tuple[object, ...], float] = {}
    for hold in gap.holds:
        key = _who_and_what(hold)
        before[key] = before.get(key, 0.0) + hold.ratio
    parts = []
    for share in shares:
        part = 0.0
        for hold in holds(snapshot, (share,), tenures):
            key = _who_and_what(hold)
            part = min(before.get(key, 0.0), share.ratio)
            before[key] = before.get(key, 0.0) - part
        parts.append(part)
    return parts


def _who_and_what(hold: Hold) -> tuple[object, ...]:
    """What is the same at both ends where a pod held throughout."""
    return (hold.seat, hold.uid, hold.since, hold.unit, hold.mig_uuid)


def _usages(share: Share, part: float, usd_per_hour: float | None, state: State) -> Iterator[Usage]:
    """The `part` of a share that its holder provably held and pays; the node pays the rest."""
    for seat, holder, ratio, why in (
        (share.seat, share.holder, part, State.UNMEASURED),
        (Seat(NODE, share.seat.gpu_model), None, share.ratio - part, state),
    ):
        if ratio > 0:
            usd = None if usd_per_hour is None else usd_per_hour * ratio / HOUR_SECONDS
            part_of = replace(share, seat=seat, ratio=ratio, holder=holder)
            yield Usage(part_of, seat, (Rate(why, ratio, usd),))
