"""Who holds which share of which GPU, by which method. The shares of a GPU sum to 1.

The kubelet says which device ids a container holds; ids come in the words of whoever made the
device plugin, and `DeviceIndex` knows them all. Time is never charged twice: a device that
several containers hold is split between them, and what no id covers is nobody's.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

from gpucost.model import (
    NODE,
    Device,
    Holder,
    Holdings,
    Method,
    MigInstance,
    Problem,
    Seat,
    Share,
    State,
    UnitId,
    unit_of,
)
from gpucost.pricing import mig_share

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Literal

_REPLICA = re.compile(r"(?P<base>.+?)(?:::[0-9]+|/vgpu[0-9]+)", re.DOTALL)
"""`<uuid>::<n>`: NVIDIA's device plugin (time-slicing, MPS; internal/rm/devices.go,
NewAnnotatedID). `nvidia<m>/vgpu<v>`: GKE's (pkg/gpu/nvidia/gpusharing)."""

_GKE = re.compile(r"nvidia(?P<minor>[0-9]{1,9})(?:/gi(?P<gi>[0-9]{1,9}))?")
"""GKE's device plugin names a GPU by its minor number, not by its index."""

_MIG_PATH = re.compile(
    r"MIG-(?P<gpu>GPU-[^/]+)/(?P<gi>[0-9]{1,9})/(?P<ci>[0-9]{1,9})", re.IGNORECASE
)
"""The form of MIG ids before driver R470, and what the DCGM source writes."""


class DeviceIndex:
    """Finds the unit that a device id names, on one set of devices."""

    def __init__(self, devices: Sequence[Device]) -> None:
        """Index the devices by UUID, MIG UUID, minor and (GPU, gi, ci)."""
        self._gpus = {device.uuid.casefold(): device for device in devices}
        self._minors = {d.minor: d for d in devices if d.minor is not None}
        if not self._minors:
            # DCGM does not tell minors, and takes the two for one (dcgm-exporter,
            # transformation/kubernetes.go: "nvidia" and DCGM's index).
            self._minors = {d.index: d for d in devices if d.index is not None}
        self._mig = {
            instance.uuid.casefold(): unit_of(device.uuid, instance)
            for device in devices
            for instance in device.mig or ()
            if instance.uuid is not None
        }

    def resolve(self, device_id: str) -> UnitId | None:
        """The unit that a device id names, replicas taken off; None if it names none here."""
        base = device_id
        if replica := _REPLICA.fullmatch(device_id):
            base = replica["base"]
        if unit := self._mig.get(base.casefold()):
            return unit
        if device := self._gpus.get(base.casefold()):
            return _unit_in(device, None, None)
        if path := _MIG_PATH.fullmatch(base):
            device = self._gpus.get(path["gpu"].casefold())
            return _unit_in(device, int(path["gi"]), int(path["ci"]))
        if gke := _GKE.fullmatch(base):
            device = self._minors.get(int(gke["minor"]))
            return _unit_in(device, None if gke["gi"] is None else int(gke["gi"]), None)
        return None


def _unit_in(device: Device | None, gi: int | None, ci: int | None) -> UnitId | None:
    """The GPU itself, or its MIG instance; None where the id and the MIG mode disagree."""
    if device is None or (gi is None) != (device.mig is None):
        return None
    if gi is None:
        return unit_of(device.uuid)
    alike = [instance for instance in device.mig or () if instance.gi == gi]
    # DCGM and GKE know no compute instances: theirs is the only one there is.
    exact = [instance for instance in alike if len(alike) == 1 or ci in (None, instance.ci)]
    return unit_of(device.uuid, exact[0]) if exact else None


def is_replica(device_id: str) -> bool:
    """Whether an id names one of several replicas of a device."""
    return _REPLICA.fullmatch(device_id) is not None


def attribute(
    devices: Sequence[Device],
    holdings: Holdings | None,
    mig_split: Literal["compute", "memory"] = "compute",
) -> tuple[tuple[Share, ...], tuple[Problem, ...]]:
    """The shares of every device, in the order of the devices, and what could not be placed.

    `holdings` None means that nobody knows who holds what: every part is then unattributed.
    """
    index = DeviceIndex(devices)
    held: dict[UnitId, Counter[Holder]] = {}
    replicated: set[UnitId] = set()
    strangers: list[str] = []
    for holding in holdings.holdings if holdings else ():
        unit = index.resolve(holding.device_id)
        if unit is None:
            strangers.append(holding.device_id)
            continue
        held.setdefault(unit, Counter())[holding.holder] += 1
        if is_replica(holding.device_id):
            replicated.add(unit)
    offered = Counter(
        unit
        for device_id in (holdings.offered or () if holdings else ())
        if is_replica(device_id) and (unit := index.resolve(device_id)) is not None
    )
    known = holdings is not None and not holdings.unresolved and not strangers
    free = State.UNALLOCATED if known else State.UNATTRIBUTED

    shares: list[Share] = []
    shared: list[str] = []
    for device in devices:
        covered = 0.0
        for slot, instance in ((None, None),) if device.mig is None else enumerate(device.mig):
            unit = unit_of(device.uuid, instance)
            whole = 1.0 if instance is None else mig_share(device, instance, mig_split)
            whole = min(whole, 1.0 - covered)
            covered += whole
            replicas = max(offered[unit], 1) if unit in replicated else 1
            shares += _split(device, slot, instance, whole, held.get(unit), replicas, free)
            if len(held.get(unit, ())) > 1 or unit in replicated:
                shared.append(unit)
        if device.mig is not None and (rest := _rest(covered)) > 0:
            shares.append(
                Share(
                    gpu_uuid=device.uuid,
                    seat=Seat(NODE, device.model),
                    ratio=rest,
                    unit=unit_of(device.uuid),
                    instance=None,
                    slot=None,
                    holder=None,
                    method=Method.MIG,
                    state=State.STRANDED,
                )
            )
    return tuple(shares), tuple(_problems(strangers, shared))


def _split(
    device: Device,
    slot: int | None,
    instance: MigInstance | None,
    whole: float,
    held: Counter[Holder] | None,
    replicas: int,
    free: State,
) -> list[Share]:
    """The shares of one unit that is `whole` of its GPU: its holders', then the free rest."""
    alone = Method.EXCLUSIVE if instance is None else Method.MIG
    unit = unit_of(device.uuid, instance)

    def share(ratio: float, holder: Holder | None, method: Method, *, measured: bool) -> Share:
        return Share(
            gpu_uuid=device.uuid,
            seat=Seat(holder or NODE, device.model),
            ratio=ratio,
            unit=unit,
            instance=instance,
            slot=slot,
            holder=holder,
            method=method,
            state=free if holder is None else None,
            measured=measured,
        )

    if not held:
        return [share(whole, None, alone, measured=True)]
    if len(held) == 1 and replicas == 1:
        return [share(whole, next(iter(held)), alone, measured=True)]
    # More ids held than offered (a stale list of the kubelet's): nobody is charged twice.
    parts = max(replicas, held.total())
    method = Method.REPLICAS if replicas > 1 else Method.EVEN
    shares = [
        share(whole * count / parts, holder, method, measured=count == parts)
        for holder, count in sorted(held.items())
    ]
    if (rest := _rest(held.total() / parts)) > 0:
        shares.append(share(whole * rest, None, method, measured=False))
    return shares


def _rest(covered: float) -> float:
    """What is left of 1, float dust taken for nothing."""
    rest = 1.0 - covered
    return rest if rest > 1e-9 else 0.0  # noqa: PLR2004 - far below one slice of one GPU


def _problems(strangers: list[str], shared: list[str]) -> list[Problem]:
    problems = []
    if strangers:
        problems.append(
            Problem(
                source="attribution",
                kind="unknown_device",
                message="Held device ids that name no device here: "
                + ", ".join(sorted(strangers)[:4])
                + (f" and {len(strangers) - 4} more" if len(strangers) > 4 else ""),  # noqa: PLR2004
                remedy="Free devices count as unattributed until this is mended. Check that the"
                " exporter sees every GPU (NVIDIA_VISIBLE_DEVICES=all) and that MIG was not"
                " re-partitioned under a running pod.",
            )
        )
    if shared:
        problems.append(
            Problem(
                source="attribution",
                kind="shared_device",
                message="Shared between containers: " + ", ".join(sorted(shared)[:8]),
                remedy="Each is charged its part of the replicas, once in total; what each did"
                " on the device is not measured.",
            )
        )
    return problems
