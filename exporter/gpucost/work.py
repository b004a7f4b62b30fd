"""Whose work it was on a unit that is not one holder's alone, told by its processes. Pure.

The rule of this file: unknown is not idle. Where a process cannot be given to a pod, or the
driver does not say which of several processes worked, their holders' activity is not known, and
a Problem says what to enable. A holder without any process on the unit did nothing.

Busy time is the unit's own, divided as the processes' SM utilisation is: the driver samples the
two apart, so that their sum would not be the whole.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from gpucost.cgroups import owner_of, plain_uid
from gpucost.model import NODE, Activity, Problem, Seat, Signal, UnitReading

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from gpucost.model import GpuReading, Holder, Pod, Process, Share, UnitId

Work = dict[tuple["Seat", "UnitId"], UnitReading]
"""What each holder did on its part of a unit; the node's seat stands for what nobody holds."""

HIDDEN = "hidden"
NO_PODS = "no_pods"
CONTAINER = "container"
MPS = "mps"
NO_SAMPLES = "no_samples"

_WHY = {
    HIDDEN: (
        "the processes on it cannot be seen, or not whose they are",
        "Run the exporter with hostPID: true, to measure each pod on a shared GPU.",
    ),
    NO_PODS: (
        "the API server has not shown the pods that hold it",
        "Let the exporter get, list and watch pods.",
    ),
    CONTAINER: (
        "several containers of one pod hold it, and not known is whose a process on it is",
        "It passes when the API server shows the containers' ids.",
    ),
    MPS: (
        "an MPS server works for its clients, and the driver does not say for which",
        "Share by time-slicing or MIG where each pod's activity is to be known.",
    ),
    NO_SAMPLES: (
        "several containers have processes on it, and the driver does not say which of them works",
        "It has no such figure under MIG: give each pod an instance of its own to measure it.",
    ),
}
"""Why the work on a shared unit cannot be divided, and what to do about it."""


def divide(
    gpus: Mapping[str, GpuReading],
    shared: Sequence[Sequence[Share]],
    pods: Mapping[tuple[str, str], Pod] | None,
    idle_ratio: float,
) -> tuple[Work, tuple[Problem, ...]]:
    """What each holder of the shared units did, and why that is not known of others.

    `shared` are the shares of each unit; a seat and unit that is missing in the result, or has
    no activity there, is unmeasured.
    """
    work: Work = {}
    reasons: dict[str, list[str]] = {}
    for shares in shared:
        first = shares[0]
        gpu = gpus[first.gpu_uuid]
        reading = gpu.reading if first.slot is None else gpu.instances[first.slot]
        seats = {s.holder: s.seat for s in shares if s.holder is not None and not s.measured}
        found, reason = _on_unit(reading, list(seats), pods, idle_ratio)
        for holder, own in found.items():
            seat = Seat(NODE, gpu.device.model) if holder is None else seats[holder]
            work[seat, first.unit] = own
        if reason and not gpu.faults and gpu.seen:
            reasons.setdefault(reason, []).append(first.unit)
    return work, tuple(_problem(reason, units) for reason, units in sorted(reasons.items()))


def _on_unit(
    reading: UnitReading,
    holders: Sequence[Holder],
    pods: Mapping[tuple[str, str], Pod] | None,
    idle_ratio: float,
) -> tuple[dict[Holder | None, UnitReading], str]:
    """What each holder did on one unit, and all others together (None); and why not, if so."""
    if reading.processes is None:
        return {}, HIDDEN
    living = [process for process in reading.processes if process.cgroup != ""]
    if any(process.mps for process in living):
        return {}, MPS
    if any(process.cgroup is None for process in living):
        return {}, HIDDEN
    places = _Places.of(holders, pods)
    if places is None:
        return {}, NO_PODS
    owned: dict[Holder | None, list[Process]] = {holder: [] for holder in holders}
    owned[None] = []
    unclear: set[Holder] = set()
    for process in living:
        candidates = places.find(process.cgroup or "")
        if len(candidates) > 1:
            unclear.update(candidates)
        else:
            owned[candidates[0] if candidates else None].append(process)
    activities, why = _activities(reading.activity, owned, unclear, idle_ratio)
    return {
        holder: UnitReading(
            activity=activities.get(holder),
            memory_used_bytes=None if holder in unclear else _memory(own),
            processes=tuple(own),
        )
        for holder, own in owned.items()
    }, why


class _Places:
    """Which holder a process belongs to, by its container's id, else by its pod's UID."""

    def __init__(self) -> None:
        self.by_container: dict[str, Holder] = {}
        self.by_pod: dict[str, list[Holder]] = {}

    @classmethod
    def of(
        cls, holders: Iterable[Holder], pods: Mapping[tuple[str, str], Pod] | None
    ) -> _Places | None:
        """The places of these holders; None where the pod of one of them is not known."""
        places = cls()
        for holder in holders:
            pod = None if pods is None else pods.get((holder.namespace, holder.pod))
            if pod is None or not pod.uid:
                return None
            places.by_pod.setdefault(plain_uid(pod.cgroup_uid or pod.uid), []).append(holder)
            for status in pod.containers:
                if status.id and status.name == holder.container:
                    places.by_container[status.id] = holder
        return places

    def find(self, cgroup: str) -> Sequence[Holder]:
        """The holder of a process: none of them, one, or one of several."""
        owner = owner_of(cgroup)
        if holder := self.by_container.get(owner.container_id):
            return (holder,)
        # A container that holds nothing itself works for its pod; one that is new has no id yet.
        return self.by_pod.get(owner.pod_uid, ()) if owner.pod_uid else ()


def _activities(
    unit: Activity | None,
    owned: Mapping[Holder | None, Sequence[Process]],
    unclear: set[Holder],
    idle_ratio: float,
) -> tuple[dict[Holder | None, Activity], str]:
    """The activity of each whose work is known, and why that of others is not."""
    signal = Signal.PROCESSES if unit is None else unit.signal
    nothing = Activity(0.0, 0.0, signal)
    idle = {owner: nothing for owner, own in owned.items() if not own and owner not in unclear}
    if unclear:
        return idle, CONTAINER
    workers = [owner for owner, own in owned.items() if own]
    if not workers:
        # Busy, and nobody there: what ran is gone already, and whose it was is not known.
        quiet = unit is None or unit.peak < idle_ratio
        return (idle, "") if quiet else ({}, "")
    if len(workers) == 1:
        return (idle, "") if unit is None else ({**idle, workers[0]: unit}, "")
    if any(process.sm_ratio is None for worker in workers for process in owned[worker]):
        return idle, NO_SAMPLES
    ratios = {it: math.fsum(p.sm_ratio or 0.0 for p in owned[it]) for it in workers}
    total = math.fsum(ratios.values())
    if total <= 0:
        if unit is not None and unit.peak >= idle_ratio:
            return idle, ""
        return dict.fromkeys(owned, nothing), ""
    busy = min(total, 1.0) if unit is None else unit.ratio
    for worker in workers:
        ratio = min(busy * (ratios[worker] / total), 1.0)
        peak = math.fsum(process.sm_peak or 0.0 for process in owned[worker])
        idle[worker] = Activity(ratio, max(ratio, min(peak, 1.0)), signal)
    return idle, ""


def _memory(own: Iterable[Process]) -> int | None:
    """The memory of a holder's processes; None where one of them does not tell."""
    sizes = [process.memory_bytes for process in own]
    return None if None in sizes else sum(size for size in sizes if size is not None)


def _problem(reason: str, units: Sequence[str]) -> Problem:
    what, remedy = _WHY[reason]
    shown = ", ".join(units[:4]) + (f" and {len(units) - 4} more" if len(units) > 4 else "")  # noqa: PLR2004
    return Problem(
        source="attribution",
        kind="shared_unmeasured",
        message=f"What each holder did on a shared GPU is not known ({shown}): {what}.",
        remedy=remedy,
    )
