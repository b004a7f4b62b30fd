"""Where within a cycle a pod began or ended: it pays from its start, and until its end. Pure.

A cycle sees who holds at its end. To the second, the API server tells more: since when a pod has
its place on the node, and when its last container ended. Charged in whole cycles, a pod of two
minutes may be 4 % off, or 100 % and more where cycles are long. Where nothing is told, the cycle
is whole: the one's who holds at its end.

What was nobody's in between is the node's, `unallocated`. The shares of a GPU still sum to 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from gpucost.account import account_of
from gpucost.model import NODE, Seat, Share, State, Usage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from gpucost.model import Attributed, Ledger, Snapshot, UnitId


def cut(
    usages: Sequence[Usage],
    before: Attributed | None,
    now: Attributed,
    snapshot: Snapshot,
    ledger: Ledger,
    seconds: float,
    judge: Callable[[Sequence[Share]], Sequence[Usage]],
) -> Sequence[Usage]:
    """What is charged for a cycle of `seconds`, given its usages as if nothing moved in it.

    `before` and `now` say who held at its beginning and at its end; every payer must have been
    `opened` in the ledger; `judge` gives the usages of other shares by this cycle's readings.
    """
    if before is None or before.shares is now.shares or seconds <= 0:
        return usages
    if before.holdings is None or before.devices != now.devices:
        return usages  # nobody knew who held before
    late = _late(before, now, snapshot, seconds)
    left = _left(before, now, snapshot, ledger, seconds)
    if not late and not left:
        return usages

    spare: dict[UnitId, float] = {}
    for usage in usages:
        share = usage.share
        spare[share.unit] = spare.get(share.unit, 0.0) + _vacancy(share, late)
    claimed: dict[UnitId, float] = {}
    for share in left:
        claimed[share.unit] = claimed.get(share.unit, 0.0) + share.ratio
    # Clocks differ: what was nobody's is all that those who left can have had.
    taken = {unit: min(1.0, spare.get(unit, 0.0) / ratio) for unit, ratio in claimed.items()}
    rest = {
        unit: 1.0 - claimed[unit] * part / spare[unit] for unit, part in taken.items() if part > 0
    }
    found: list[Usage] = []
    for usage in usages:
        found += _parts(usage, _vacancy(usage.share, late), rest)
    found += judge(
        [
            replace(share, ratio=share.ratio * taken[share.unit])
            for share in left
            if taken[share.unit] > 0
        ]
    )
    return found


def _late(
    before: Attributed, now: Attributed, snapshot: Snapshot, seconds: float
) -> dict[tuple[UnitId, Seat], float]:
    """Of those who hold and did not, the part of the cycle that had passed when they began."""
    held = {(share.unit, share.seat) for share in before.shares}
    began = snapshot.wall_time - seconds
    late = {}
    for share in now.shares:
        key = (share.unit, share.seat)
        if share.holder is None or key in held:
            continue
        pod = (snapshot.pods or {}).get((share.holder.namespace, share.holder.pod))
        if pod is not None and pod.started_at is not None and pod.started_at > began:
            late[key] = min((pod.started_at - began) / seconds, 1.0)
    return late


def _left(
    before: Attributed, now: Attributed, snapshot: Snapshot, ledger: Ledger, seconds: float
) -> list[Share]:
    """The shares of those who held and do not, as large as the part of the cycle that they had."""
    holding = {(share.unit, share.seat) for share in now.shares}
    began = snapshot.wall_time - seconds
    left = []
    for share in before.shares:
        tenure = ledger.tenures.get(share.seat)
        if share.holder is None or tenure is None or (share.unit, share.seat) in holding:
            continue
        ended = snapshot.ended.get(tenure.uid, began)
        payer = tenure.payer
        shown = payer is None or account_of(ledger.pods, payer) in ledger.pods
        if ended > began and shown and share.ratio > 0:
            left.append(replace(share, ratio=share.ratio * min((ended - began) / seconds, 1.0)))
    return left


def _vacancy(share: Share, late: dict[tuple[UnitId, Seat], float]) -> float:
    """What of a share was nobody's in this cycle, or was another's."""
    if share.holder is None:
        return share.ratio if share.state is State.UNALLOCATED else 0.0
    return share.ratio * late.get((share.unit, share.seat), 0.0)


def _parts(usage: Usage, vacant: float, rest: dict[UnitId, float]) -> Iterator[Usage]:
    """A usage without its vacancy, and what is left of that when those who left had theirs."""
    share = usage.share
    if vacant == 0.0 or (share.holder is None and share.unit not in rest):
        yield usage
        return
    kept = share.ratio - vacant
    if kept > 0:
        yield _scaled(usage, share, kept)
    vacant *= rest.get(share.unit, 1.0)
    if vacant > 0:
        node = replace(share, seat=Seat(NODE, share.seat.gpu_model), holder=None)
        yield _scaled(usage, node, vacant)


def _scaled(usage: Usage, share: Share, ratio: float) -> Usage:
    """The usage of as much of a share; of the node's own, free unless it is unhealthy."""
    factor = ratio / share.ratio
    rates = tuple(
        replace(
            rate,
            gpus=rate.gpus * factor,
            usd_per_second=None if rate.usd_per_second is None else rate.usd_per_second * factor,
            state=rate.state
            if share.holder is not None or rate.state is State.UNHEALTHY
            else State.UNALLOCATED,
        )
        for rate in usage.rates
    )
    paid_by = share.seat if share.holder is None else usage.paid_by
    return replace(usage, share=replace(share, ratio=ratio), paid_by=paid_by, rates=rates)
