"""From a Report to the figures on the status page. Pure: no HTML, no clock.

What is unknown stays None through every sum, and lists are bounded here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpucost.ledger import imbalance_usd
from gpucost.model import HOUR_SECONDS, NODE_STATES, WASTE_STATES, State
from gpucost.status.view import Amount, GpuCard, Headline, Part, PodRow, Slice, StateLine, View

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from gpucost.model import Account, GpuReading, Holder, Report, Usage

MAX_GPUS = 64
MAX_PARTS = 64
MAX_PODS = 500
MAX_PROBLEMS = 100
MAX_SOURCES = 50

BAR_ORDER = (
    State.USED,
    State.UNDERUSED,
    State.IDLE,
    State.STARTING,
    State.FAILING,
    State.TERMINATING,
    State.UNMEASURED,
    State.UNALLOCATED,
    State.STRANDED,
    State.UNATTRIBUTED,
    State.UNHEALTHY,
    State.PROVISIONING,
)
"""Work first, then its waste, then what nobody holds."""


def of(report: Report, now: float) -> View:
    """Make the view of a Report; `now` is Unix time."""
    snapshot = report.snapshot
    slices = slices_of(report.usages)
    pods = pod_rows(report)
    unpriced = sum(
        (price := report.prices.get(gpu.device.uuid)) is None or price.usd_per_hour is None
        for gpu in snapshot.gpus
    )
    return View(
        node=snapshot.node,
        now=now,
        read_at=snapshot.wall_time,
        simulated=report.simulated,
        config_in_force=report.config_in_force,
        headline=headline(report),
        slices=slices,
        gpus=tuple(gpu_card(report, gpu) for gpu in snapshot.gpus[:MAX_GPUS]),
        gpus_left_out=max(0, len(snapshot.gpus) - MAX_GPUS),
        unpriced=unpriced,
        pods=pods[:MAX_PODS],
        pods_left_out=pods[MAX_PODS:],
        lines=state_lines(report, slices),
        started_at=report.ledger.started_at,
        month=report.month,
        imbalance_usd=imbalance_usd(report.ledger),
        sources=snapshot.sources[:MAX_SOURCES],
        sources_left_out=max(0, len(snapshot.sources) - MAX_SOURCES),
        problems=report.problems[:MAX_PROBLEMS],
        problems_left_out=max(0, len(report.problems) - MAX_PROBLEMS),
    )


def total(amounts: Iterable[Amount]) -> Amount:
    """Add amounts; what has no price makes the sum incomplete, and nothing priced makes it None."""
    known: list[float] = []
    complete = True
    for amount in amounts:
        complete = complete and amount.complete and amount.usd is not None
        if amount.usd is not None:
            known.append(amount.usd)
    return Amount(sum(known), complete) if known else Amount(None if not complete else 0.0)


def slices_of(usages: Iterable[Usage]) -> tuple[Slice, ...]:
    """Sum the rates of some usages by state, in the order of a bar."""
    gpus: dict[State, float] = {}
    hourly: dict[State, list[Amount]] = {}
    for usage in usages:
        for rate in usage.rates:
            if rate.gpus <= 0:
                continue
            usd = None if rate.usd_per_second is None else rate.usd_per_second * HOUR_SECONDS
            gpus[rate.state] = gpus.get(rate.state, 0.0) + rate.gpus
            hourly.setdefault(rate.state, []).append(Amount(usd))
    return tuple(
        Slice(state, gpus[state], total(hourly[state])) for state in BAR_ORDER if state in gpus
    )


def _cost(slices: Iterable[Slice]) -> Amount:
    return total(s.usd_per_hour for s in slices)


def waste_of(slices: Sequence[Slice]) -> Amount:
    """Add what does no work. Of an unmeasured part nobody knows, so the sum is incomplete."""
    wasted = [s.usd_per_hour for s in slices if s.state in WASTE_STATES]
    unknown = [Amount() for s in slices if s.state is State.UNMEASURED]
    return total((*wasted, *unknown))


def headline(report: Report) -> Headline:
    """Make the figures at the top."""
    held = slices_of(u for u in report.usages if u.share.holder is not None)
    every = slices_of(report.usages)
    unheld = slices_of(u for u in report.usages if u.share.holder is None)
    spend, waste = _cost(every), waste_of(held)
    ratio = None
    if spend.usd and waste.usd is not None:
        ratio = waste.usd / spend.usd
    ledger = report.ledger
    priced = any(gpu.account.usd is not None for gpu in ledger.gpus.values())
    month = [
        *(account for key, account in ledger.months.items() if key.month == report.month),
        *(
            tenure.pending[report.month]
            for tenure in ledger.tenures.values()
            if report.month in tenure.pending
        ),
    ]
    known = spend if report.usages else Amount()
    return Headline(
        spend=known,
        waste=waste if report.usages else Amount(),
        waste_ratio=ratio,
        unheld=_cost(unheld) if report.usages else Amount(),
        since_start=Amount(ledger.billed_usd if priced else None, spend.complete),
        month_to_date=Amount(_spent(month), spend.complete),
    )


def _spent(accounts: Iterable[Account]) -> float | None:
    """Add the dollars of some accounts; None where none ever had a price."""
    priced = [sum(account.usd.values()) for account in accounts if account.usd is not None]
    return sum(priced) if priced else None


def gpu_name(gpu: GpuReading) -> str:
    """Name a GPU as its driver numbers it, else by its UUID."""
    index = gpu.device.index
    return gpu.device.uuid if index is None else f"GPU {index}"


def gpu_card(report: Report, gpu: GpuReading) -> GpuCard:
    """Make the card of one GPU, alike parts in one."""
    alike: dict[object, Part] = {}
    for usage in report.usages:
        if usage.share.gpu_uuid != gpu.device.uuid:
            continue
        part = part_of(usage)
        states = tuple((s.state, round(s.gpus / part.gpus, 3)) for s in part.slices)
        key = (part.profile, part.holder, states, part.activity)
        same = alike.get(key)
        alike[key] = part if same is None else _both(same, part)
    parts = tuple(alike.values())
    return GpuCard(
        name=gpu_name(gpu),
        reading=gpu,
        price=report.prices.get(gpu.device.uuid),
        parts=parts[:MAX_PARTS],
        parts_left_out=max(0, len(parts) - MAX_PARTS),
    )


def part_of(usage: Usage) -> Part:
    """Make the part that one usage is."""
    share = usage.share
    return Part(
        profile=share.instance.profile if share.instance is not None else "",
        holder=share.holder,
        gpus=share.ratio,
        slices=slices_of((usage,)),
        activity=usage.activity,
    )


def _both(one: Part, other: Part) -> Part:
    slices = tuple(
        Slice(a.state, a.gpus + b.gpus, total((a.usd_per_hour, b.usd_per_hour)))
        for a, b in zip(one.slices, other.slices, strict=True)
    )
    return Part(
        profile=one.profile,
        holder=one.holder,
        gpus=one.gpus + other.gpus,
        slices=slices,
        activity=one.activity,
        count=one.count + other.count,
    )


def pod_rows(report: Report) -> tuple[PodRow, ...]:
    """Make the rows of the pods, the most wasteful first, then the dearest."""
    by_holder: dict[Holder, list[Usage]] = {}
    for usage in report.usages:
        if usage.share.holder is not None:
            by_holder.setdefault(usage.share.holder, []).append(usage)
    names = {gpu.device.uuid: gpu_name(gpu) for gpu in report.snapshot.gpus}
    spent = _spent_by_holder(report)
    labels = _labels_by_holder(report)
    rows = [
        pod_row(holder, usages, names, labels.get(holder, ("", "", "")), spent.get(holder))
        for holder, usages in by_holder.items()
    ]
    rows.sort(key=lambda row: (-(row.waste.usd or 0), -(row.usd_per_hour.usd or 0), row.holder))
    return tuple(rows)


def pod_row(
    holder: Holder,
    usages: Sequence[Usage],
    names: Mapping[str, str],
    labels: tuple[str, str, str],
    spent: float | None,
) -> PodRow:
    """Make one holder's row; `labels` are workload, kind and team."""
    slices = slices_of(usages)
    memory = [u.memory_used_bytes for u in usages if u.memory_used_bytes is not None]
    devices: dict[str, None] = {}
    for usage in usages:
        share = usage.share
        profile = f" {share.instance.profile}" if share.instance is not None else ""
        devices[names.get(share.gpu_uuid, share.gpu_uuid) + profile] = None
    return PodRow(
        holder=holder,
        workload=labels[0],
        workload_kind=labels[1],
        team=labels[2],
        gpus=sum(usage.share.ratio for usage in usages),
        devices=tuple(devices),
        methods=tuple(dict.fromkeys(usage.share.method for usage in usages)),
        activity=mean_activity(usages),
        memory_used_bytes=sum(memory) if len(memory) == len(usages) else None,
        slices=slices,
        usd_per_hour=_cost(slices),
        waste=waste_of(slices),
        total=Amount(spent),
    )


def mean_activity(usages: Sequence[Usage]) -> float | None:
    """Weigh activities by share; None where that of any part is not known."""
    weight = sum(usage.share.ratio for usage in usages)
    busy = 0.0
    for usage in usages:
        if usage.activity is None:
            return None
        busy += usage.activity * usage.share.ratio
    return busy / weight if weight > 0 else None


def _spent_by_holder(report: Report) -> dict[Holder, float]:
    """Find what each holder spent so far, what still waits for labels included."""
    accounts: dict[Holder, list[Account]] = {}
    for payer, held in report.ledger.pods.items():
        accounts.setdefault(payer.holder, []).append(held.account)
    for seat, tenure in report.ledger.tenures.items():
        accounts.setdefault(seat.holder, []).extend(tenure.pending.values())
    sums = {holder: _spent(several) for holder, several in accounts.items()}
    return {holder: usd for holder, usd in sums.items() if usd is not None}


def _labels_by_holder(report: Report) -> dict[Holder, tuple[str, str, str]]:
    """Find workload, kind and team: as the counters carry them, else as the pod does now."""
    labels: dict[Holder, tuple[str, str, str]] = {}
    pods = report.snapshot.pods or {}
    for seat, tenure in report.ledger.tenures.items():
        known = tenure.payer or pods.get((seat.holder.namespace, seat.holder.pod))
        if known is not None:
            labels[seat.holder] = (known.workload, known.workload_kind, known.team)
    return labels


def state_lines(report: Report, slices: Sequence[Slice]) -> tuple[StateLine, ...]:
    """Make the ledger's lines, those that hold anything, in the order of a bar."""
    now = {s.state: s for s in slices}
    accounts = [gpu.account for gpu in report.ledger.gpus.values()]
    nothing = Amount(0.0)
    lines = []
    for state in BAR_ORDER:
        seconds = sum(account.seconds.get(state, 0.0) for account in accounts)
        spent = [
            Amount(None if account.usd is None else account.usd.get(state, 0.0))
            for account in accounts
            if account.seconds.get(state)
        ]
        present = now.get(state)
        if present is None and not seconds:
            continue
        node = state in NODE_STATES and state not in report.holder_states
        lines.append(
            StateLine(
                state=state,
                paid_by="node" if node else "pod",
                gpus=present.gpus if present else 0.0,
                usd_per_hour=present.usd_per_hour if present else nothing,
                gpu_hours=seconds / HOUR_SECONDS,
                usd=total(spent),
            )
        )
    return tuple(lines)
