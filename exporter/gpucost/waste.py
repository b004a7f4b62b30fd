"""The one state each GPU-second is in: which part of a share worked, and why the rest did not.

A state depends on this cycle's reading and on what a tenure remembers (has the holder ever
started?), never on a trailing window: windows belong to the alerts. Unknown is never idle: no
signal is `unmeasured`, no known holder is `unattributed`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from msgspec import Struct

from gpucost.model import (
    HOUR_SECONDS,
    NODE,
    Activity,
    GpuReading,
    Pod,
    Price,
    Rate,
    Seat,
    Share,
    Snapshot,
    State,
    Tenure,
    UnitReading,
    Usage,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gpucost.model import UnitId

BACK_OFF = frozenset(
    {
        "CrashLoopBackOff",
        "CreateContainerConfigError",
        "CreateContainerError",
        "ErrImageNeverPull",
        "ErrImagePull",
        "ImageInspectError",
        "ImagePullBackOff",
        "InvalidImageName",
        "RunContainerError",
    }
)
"""Waiting reasons that do not pass by themselves (kubernetes pkg/kubelet/images/types.go and
pkg/kubelet/kuberuntime)."""

NO_WORK: Mapping[tuple[Seat, UnitId], UnitReading] = {}

NO_READING = UnitReading()
"""Of the part of a GPU that no MIG instance covers."""

_LOOPING_RESTARTS = 2
"""A container that runs again after this many restarts, the last one an error, is looping
between two back-offs."""


_USED, _UNDERUSED = State.USED, State.UNDERUSED  # Python 3.11 takes long to look one up


class Thresholds(Struct, frozen=True):
    """The settings that decide states."""

    idle_ratio: float = 0.01
    starting_max_seconds: float = 1800.0
    unhealthy_paid_by: Literal["node", "holder"] = "node"


def readings_by_unit(gpu: GpuReading) -> tuple[UnitReading, ...]:
    """A reading for each unit of a GPU: its instances', or its own."""
    return (gpu.reading,) if gpu.device.mig is None else gpu.instances


def reading_of(
    gpu: GpuReading, share: Share, work: Mapping[tuple[Seat, UnitId], UnitReading]
) -> UnitReading:
    """What was done on a share: by its unit, or where that is shared by its holder (work.py)."""
    if not share.measured:
        return work.get((share.seat, share.unit), NO_READING)
    if share.slot is not None:
        return gpu.instances[share.slot]
    return gpu.reading if gpu.device.mig is None else NO_READING


def is_busy(activity: Activity | None, idle_ratio: float) -> bool:
    """Whether a unit did work; a reading of a unit whose signal is unknown did not show any."""
    return activity is not None and activity.peak >= idle_ratio


def is_backing_off(pod: Pod, container: str) -> bool:
    """Whether the kubelet has given up on a container for now, or on one it waits for."""
    for status in pod.containers:
        if status.name == container and not status.init and status.running:
            return False
    # A failing init container keeps all the others waiting in PodInitializing.
    return any(status.waiting in BACK_OFF for status in pod.containers)


def _is_looping(pod: Pod, container: str) -> bool:
    return not pod.ready and any(
        c.name == container
        and c.restarts >= _LOOPING_RESTARTS
        and c.last_exit_code not in (0, None)
        for c in pod.containers
    )


def usages(
    snapshot: Snapshot,
    shares: Sequence[Share],
    tenures: Mapping[Seat, Tenure],
    prices: Mapping[str, Price],
    thresholds: Thresholds,
    clock_seconds: float,
    work: Mapping[tuple[Seat, UnitId], UnitReading] = NO_WORK,
) -> tuple[Usage, ...]:
    """What every share does now and what flows from it, in the order of the shares.

    Every held share has its seat in `tenures`; `clock_seconds` is the ledger's. `work` is what
    each did on shared units.
    """
    gpus = {gpu.device.uuid: gpu for gpu in snapshot.gpus}
    pods = snapshot.pods or {}
    assumed = snapshot.holdings is not None and snapshot.holdings.assumed
    found = []
    for share in shares:
        gpu = gpus[share.gpu_uuid]
        reading = reading_of(gpu, share, work)
        parts: tuple[tuple[State, float], ...]
        if share.holder is None:
            parts = ((_free_state(gpu, share, reading, thresholds, assumed=assumed), 1.0),)
        else:
            pod = pods.get((share.holder.namespace, share.holder.pod))
            parts = _held_states(
                gpu,
                share,
                pod,
                tenures[share.seat],
                reading.activity,
                thresholds,
                clock_seconds,
            )
        paid_by = share.seat
        if gpu.faults and thresholds.unhealthy_paid_by == "node":
            paid_by = Seat(NODE, paid_by.gpu_model)
        usd = prices[share.gpu_uuid].usd_per_hour
        rates = [
            Rate(
                state,
                share.ratio * part,
                None if usd is None else usd * share.ratio * part / HOUR_SECONDS,
            )
            for state, part in parts
        ]
        found.append(
            Usage(
                share,
                paid_by,
                tuple(rates),
                None if reading.activity is None else reading.activity.ratio,
                reading.memory_used_bytes,
            )
        )
    return tuple(found)


def _free_state(
    gpu: GpuReading, share: Share, reading: UnitReading, thresholds: Thresholds, *, assumed: bool
) -> State:
    """The state of a part that nobody holds."""
    if gpu.faults:
        return State.UNHEALTHY
    if share.state is not State.UNALLOCATED:
        return share.state or State.UNATTRIBUTED
    if is_busy(reading.activity, thresholds.idle_ratio):
        return State.UNATTRIBUTED
    if reading.activity is None and (reading.processes or (assumed and reading.processes is None)):
        # Someone is on it and nothing can say whether they work; or, where no kubelet says that
        # it is free, nobody can tell either.
        return State.UNATTRIBUTED
    return State.UNALLOCATED


def _held_states(
    gpu: GpuReading,
    share: Share,
    pod: Pod | None,
    tenure: Tenure,
    activity: Activity | None,
    thresholds: Thresholds,
    clock_seconds: float,
) -> tuple[tuple[State, float], ...]:
    """The states of a held part, each with its fraction of the part."""
    if gpu.faults:
        return ((State.UNHEALTHY, 1.0),)
    age = held_seconds(tenure, clock_seconds)
    young = age < thresholds.starting_max_seconds
    busy = is_busy(activity, thresholds.idle_ratio)
    if pod is not None:
        # The kubelet's word comes before `starting`: a pod that it has given up on, or that is
        # on its way out, is not on its way up (docs/design.md, "Decisions").
        container = share.seat.holder.container
        # A Ready pod has all of its containers ready, so none that waits.
        if not pod.ready and is_backing_off(pod, container):
            return ((State.FAILING, 1.0),)
        if pod.deleted:
            return ((State.TERMINATING, 1.0),)
        if not tenure.started and young:
            return ((State.STARTING, 1.0),)
        if (
            not pod.ready
            and activity is not None
            and not busy
            and (not young or _is_looping(pod, container))
        ):
            return ((State.FAILING, 1.0),)
    if activity is None:
        return ((State.UNMEASURED, 1.0),)
    if not busy:
        return ((State.IDLE, 1.0),)
    # Beyond its own part of a shared unit a holder uses what others, or nobody, pay for.
    used = activity.ratio if share.of_unit >= 1.0 else min(activity.ratio / share.of_unit, 1.0)
    return ((_USED, used), (_UNDERUSED, 1.0 - used))


def held_seconds(tenure: Tenure, clock_seconds: float) -> float:
    """How long a holder has held, by the ledger's clock."""
    if tenure.held_at is None:
        return 0.0
    return tenure.held_before + clock_seconds - tenure.held_at
