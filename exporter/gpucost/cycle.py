"""One cycle, from a Snapshot to a Report: attribution, pricing, states, ledger. Pure.

Snapshot -> shares -> prices -> tenures -> usages -> Ledger -> Report
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from gpucost.attribution import attribute
from gpucost.ledger import accrue, opened
from gpucost.model import (
    HOLDER_STATES,
    Device,
    GpuReading,
    Ledger,
    Report,
    Snapshot,
    State,
)
from gpucost.months import by_month, month_of, oldest_kept
from gpucost.pricing import Catalogue, price_gpus
from gpucost.tenure import Patience, observe
from gpucost.waste import Thresholds, usages

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
    config_in_force: bool = True
    config_read_at: float | None = None
    simulated: bool = False


def advance(before: Report | None, snapshot: Snapshot, seconds: float, terms: Terms) -> Report:
    """The Report after `seconds` of monotonic time that ended with this snapshot.

    The snapshot's readings speak of the time since the last one, so that is the time charged
    at them. The first call has `before` None and charges nothing.
    """
    config = terms.config
    ledger = Ledger(started_at=snapshot.wall_time) if before is None else before.ledger
    pricing = price_gpus(snapshot.gpus, snapshot.node, config.prices, terms.catalogue)
    if pricing.gpu_count is not None and snapshot.gpus:
        gpus = with_missing(snapshot.gpus, pricing.gpu_count)
        if gpus is not snapshot.gpus:
            snapshot = replace(snapshot, gpus=gpus)
            pricing = price_gpus(gpus, snapshot.node, config.prices, terms.catalogue)

    devices = tuple(gpu.device for gpu in snapshot.gpus)
    shares, attribution_problems = attribute(devices, snapshot.holdings, config.prices.mig_split)
    patience = Patience(
        labels_wait_seconds=config.labels_wait_seconds,
        linger_seconds=config.linger_seconds,
        labels_expected=terms.labels_expected,
    )
    tenures = observe(
        ledger.tenures,
        snapshot,
        shares,
        idle_ratio=config.idle_threshold_ratio,
        clock_seconds=ledger.clock_seconds,
        patience=patience,
    )
    ledger = opened(
        ledger,
        snapshot,
        tenures,
        patience=patience,
        oldest_month=oldest_kept(snapshot.wall_time, config.zone),
    )
    thresholds = Thresholds(
        idle_ratio=config.idle_threshold_ratio,
        starting_max_seconds=config.starting_max_seconds,
        unhealthy_paid_by=config.unhealthy_paid_by,
    )
    now = usages(snapshot, shares, ledger.tenures, pricing.by_gpu, thresholds, ledger.clock_seconds)
    watts = mean_watts(() if before is None else before.snapshot.gpus, snapshot.gpus, seconds)
    for month, part in by_month(snapshot.wall_time, seconds, config.zone):
        ledger = accrue(ledger, now, pricing.by_gpu, watts, seconds=part, month=month)
    return Report(
        snapshot=snapshot,
        usages=now,
        prices=pricing.by_gpu,
        ledger=ledger,
        problems=(*snapshot.problems, *attribution_problems, *pricing.problems),
        month=month_of(snapshot.wall_time, config.zone),
        price_dates=pricing.dates,
        config_in_force=terms.config_in_force,
        config_read_at=terms.config_read_at,
        hold_seconds=2 * config.scrape_interval_seconds,
        holder_states=HOLDER_STATES
        if config.unhealthy_paid_by == "node"
        else (State.UNHEALTHY, *HOLDER_STATES),
        simulated=terms.simulated,
    )


def with_missing(gpus: tuple[GpuReading, ...], expected: int) -> tuple[GpuReading, ...]:
    """The GPUs, and a lost one for each that the instance type has and the node does not show.

    It is still billed. It goes by the name of `missing-<n>`, n counting from 1.
    """
    if len(gpus) >= expected:
        return gpus
    model = Counter(gpu.device.model for gpu in gpus).most_common(1)[0][0]
    return gpus + tuple(
        GpuReading(device=Device(uuid=f"missing-{n}", model=model), faults=("missing",))
        for n in range(1, expected - len(gpus) + 1)
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
