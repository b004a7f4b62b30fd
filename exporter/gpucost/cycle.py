"""One cycle, from a Snapshot to a Report: attribution, pricing, states, ledger. Pure.

Snapshot -> shares -> prices -> work -> tenures -> usages -> edges -> Ledger -> Report
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Literal

from msgspec import Struct
from msgspec.structs import replace

from gpucost.account import MAX_PODS, MAX_WORKLOADS, OTHER
from gpucost.attribution import attribute, shared_units
from gpucost.edges import cut
from gpucost.gap import YOUNG_NODE_SECONDS, can_tell, charged
from gpucost.ledger import accrue
from gpucost.model import (
    HOLDER_STATES,
    Attributed,
    Device,
    Gap,
    GpuReading,
    Ledger,
    Priced,
    Problem,
    Report,
    Share,
    Snapshot,
    State,
)
from gpucost.months import by_month, month_of, start_of
from gpucost.opening import opened
from gpucost.pricing import Catalogue, price_gpus
from gpucost.serving import MAX_SERVICES, counted, new_readings
from gpucost.tenure import Patience, observe, seats_of
from gpucost.unit_cost import served
from gpucost.waste import NO_WORK, Thresholds, usages
from gpucost.work import divide

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gpucost.config import Config

_MAX_WATTS = 20_000.0
"""No GPU draws more: an energy counter that says so has restarted or jumped."""


class Terms(Struct, frozen=True):
    """What a cycle is run on besides its snapshot; changes only with the configuration."""

    config: Config
    catalogue: Catalogue
    labels_expected: bool = True
    """Whether an API server is there to name pods and node."""
    booted_at: float | None = None
    """When the node started, Unix time."""
    config_in_force: bool = True
    config_read_at: float | None = None
    simulated: bool = False


def advance(
    before: Report | None,
    snapshot: Snapshot,
    seconds: float,
    terms: Terms,
    *,
    ledger: Ledger | None = None,
) -> Report:
    """The Report after `seconds` of monotonic time that ended with this snapshot.

    The snapshot's readings speak of the time since the last one, so that is the time charged
    at them. The first call has `before` None and charges nothing. `ledger` is to be gone on
    with instead of `before`'s: one that was restored, or that has a gap.
    """
    config = terms.config
    if ledger is None:
        ledger = Ledger(started_at=snapshot.wall_time) if before is None else before.ledger
    priced = _priced(before, snapshot, terms)
    pricing = priced.pricing
    prices = pricing.by_gpu
    # Devices that no source could read yet are not known to be missing.
    if pricing.missing and pricing.missing_price and snapshot.gpus:
        lost = missing_gpus(snapshot.gpus, pricing.missing)
        snapshot = replace(snapshot, gpus=(*snapshot.gpus, *lost))
        prices = {**prices, **{gpu.device.uuid: pricing.missing_price for gpu in lost}}

    attributed = _attributed(before, snapshot, config.prices.mig_split)
    shares = attributed.shares
    patience = Patience(
        labels_wait_seconds=config.labels_wait_seconds,
        linger_seconds=config.linger_seconds,
        labels_expected=terms.labels_expected,
    )
    work, hidden = (
        divide(
            {gpu.device.uuid: gpu for gpu in snapshot.gpus},
            attributed.shared,
            snapshot.pods,
            config.idle_threshold_ratio,
        )
        if attributed.shared
        else (NO_WORK, ())
    )
    shown_at = ledger.clock_seconds + max(seconds, 0.0)
    tenures = observe(
        ledger.tenures,
        snapshot,
        attributed.seats,
        idle_ratio=config.idle_threshold_ratio,
        clock_seconds=ledger.clock_seconds,
        looked_from=ledger.looked_from,
        patience=patience,
        work=work,
    )
    first_reading = bool(snapshot.gpus) and not ledger.gpus
    ledger = opened(
        ledger,
        snapshot,
        tenures,
        priced_models={
            gpu.device.model
            for gpu in snapshot.gpus
            if prices[gpu.device.uuid].usd_per_hour is not None
        },
        shown_at=shown_at,
        patience=patience,
    )
    thresholds = Thresholds(
        idle_ratio=config.idle_threshold_ratio,
        starting_max_seconds=config.starting_max_seconds,
        unhealthy_paid_by=config.unhealthy_paid_by,
    )
    judge = partial(
        usages,
        snapshot,
        tenures=ledger.tenures,
        prices=prices,
        thresholds=thresholds,
        clock_seconds=ledger.clock_seconds,
        work=work,
    )
    now = judge(shares)
    if first_reading:
        ledger = with_provisioning(ledger, snapshot, shares, seconds, terms)
    if ledger.gap is not None and can_tell(ledger, snapshot, patience):
        ledger = charged(ledger, snapshot, shares, prices, shown_at)
    watts = mean_watts(() if before is None else before.snapshot.gpus, snapshot.gpus, seconds)
    last = None if before is None else before.attributed
    paid = cut(now, last, attributed, snapshot, ledger, seconds, judge)
    for month, part in by_month(snapshot.wall_time, seconds, config.zone):
        ledger = accrue(ledger, paid, prices, watts, seconds=part, month=month, shown_at=shown_at)
    known = {} if before is None else before.served
    answers = counted(ledger, snapshot, new_readings(snapshot, known), shown_at)
    if ledger.work or answers.work:
        ledger = replace(ledger, work=answers.work)
    return Report(
        snapshot=snapshot,
        usages=now,
        prices=prices,
        ledger=ledger,
        problems=(
            *snapshot.problems,
            *attributed.problems,
            *hidden,
            *pricing.problems,
            *_crowded(ledger),
            *((_TOO_MANY_SERVICES,) if answers.crowded else ()),
        ),
        served=served(known, ledger, snapshot, now, answers, config.requests.window_seconds),
        priced=priced,
        attributed=attributed,
        month=month_of(snapshot.wall_time, config.zone),
        month_start=start_of(snapshot.wall_time, config.zone),
        price_dates=pricing.dates,
        config_in_force=terms.config_in_force,
        config_read_at=terms.config_read_at,
        hold_seconds=2 * config.scrape_interval_seconds,
        holder_states=HOLDER_STATES
        if config.unhealthy_paid_by == "node"
        else (State.UNHEALTHY, *HOLDER_STATES),
        simulated=terms.simulated,
    )


def _priced(before: Report | None, snapshot: Snapshot, terms: Terms) -> Priced:
    """The prices; those of the last cycle while nothing they are made of has changed."""
    devices = tuple(gpu.device for gpu in snapshot.gpus)
    last = None if before is None else before.priced
    made_of = (devices, snapshot.node, terms.config.prices, terms.catalogue)
    if last is not None and last.made_of == made_of and not last.metered:
        return last
    pricing = price_gpus(snapshot.gpus, snapshot.node, terms.config.prices, terms.catalogue)
    metered = any(price.source == "on_premises" for price in pricing.by_gpu.values())
    return Priced(made_of, metered, pricing)


def _attributed(
    before: Report | None, snapshot: Snapshot, mig_split: Literal["compute", "memory"]
) -> Attributed:
    """The shares and seats; those of the last cycle while what they are made of is the same."""
    devices = tuple(gpu.device for gpu in snapshot.gpus)
    holdings, pods = snapshot.holdings, snapshot.pods
    last = None if before is None else before.attributed
    made_of = (devices, holdings, mig_split)
    if last is not None and (last.devices, last.holdings, last.mig_split) == made_of:
        if last.pods is pods:
            return last
        shares, problems, shared = last.shares, last.problems, last.shared
    else:
        shares, problems = attribute(devices, holdings, mig_split)
        shared = shared_units(shares)
    seats = seats_of(devices, shares, pods)
    return Attributed(devices, holdings, mig_split, pods, shares, problems, seats, shared)


_TOO_MANY_SERVICES = Problem(
    "requests",
    "service_limit",
    f"More than {MAX_SERVICES} served models on this node; the work of the rest is not counted.",
    "Name the models that count with the annotation gpucost.io/served-models.",
)


def _crowded(ledger: Ledger) -> tuple[Problem, ...]:
    """What to say where the ledger's limits are reached."""
    found = []
    if len(ledger.months) >= MAX_WORKLOADS and any(w.workload == OTHER for w in ledger.months):
        found.append(
            Problem(
                "ledger",
                "workload_limit",
                f"More than {MAX_WORKLOADS} workloads in a month on this node; the rest is"
                f' charged together as workload="{OTHER}".',
                "Name what belongs together with the annotation gpucost.io/workload on its pods.",
            )
        )
    if len(ledger.pods) >= MAX_PODS:
        found.append(
            Problem(
                "ledger",
                "pod_limit",
                f"More than {MAX_PODS} pods came and went on this node within the time that"
                f' their counters stay; the rest is charged together as pod="{OTHER}".',
                "Lower linger_seconds. The workloads' counters are whole.",
            )
        )
    return tuple(found)


def with_provisioning(
    ledger: Ledger,
    snapshot: Snapshot,
    shares: Sequence[Share],
    seconds: float,
    terms: Terms,
) -> Ledger:
    """The ledger with a young node's time from its boot to its first reading, to be charged.

    Without the `seconds` that the reading itself speaks of.
    """
    # Where a pod holds already, the node was usable already: this is a restart, or close to one.
    held = any(share.holder is not None for share in shares)
    told = ledger.gap is not None and ledger.gap.gpus != ()
    if held or told or terms.booted_at is None:
        return ledger
    age = snapshot.wall_time - terms.booted_at
    if not seconds < age < YOUNG_NODE_SECONDS:
        return ledger
    until = snapshot.wall_time - seconds
    gap = Gap(
        stretches=tuple(by_month(until, age - seconds, terms.config.zone)),
        found_at=ledger.clock_seconds,
        state=State.PROVISIONING,
    )
    return replace(ledger, gap=gap)


def missing_gpus(gpus: Sequence[GpuReading], count: int) -> tuple[GpuReading, ...]:
    """A lost GPU for each that the instance type has and the node does not show.

    It is still billed. It goes by the name of `missing-<n>`, n counting from 1.
    """
    model = Counter(gpu.device.model for gpu in gpus).most_common(1)[0][0]
    return tuple(
        GpuReading(device=Device(uuid=f"missing-{n}", model=model), faults=("missing",))
        for n in range(1, count + 1)
    )


def mean_watts(
    before: Sequence[GpuReading], after: Sequence[GpuReading], seconds: float
) -> Mapping[str, float]:
    """Each GPU's mean power over a stretch: by its energy counter, else by its power now."""
    earlier = {gpu.device.uuid: gpu.energy_joules for gpu in before}
    watts: dict[str, float] = {}
    for gpu in after:
        start, end = earlier.get(gpu.device.uuid), gpu.energy_joules
        if seconds > 0 and start is not None and end is not None:
            mean = (end - start) / seconds
            if 0 < mean < _MAX_WATTS:
                watts[gpu.device.uuid] = mean
                continue
        if gpu.power_watts is not None:
            watts[gpu.device.uuid] = gpu.power_watts
    return watts
