"""Who holds which share of which GPU, by which method. The shares of a GPU sum to 1.

The kubelet says which device ids a container holds; ids come in the words of whoever made the
device plugin, and `DeviceIndex` knows them all. Time is never charged twice: a device that
several containers hold is split between them, and what no id covers is nobody's.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

from gpucost.model import (
    NODE,
    Device,
    Holder,
    Holding,
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
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
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


class _Unit:
    """What is held of one unit, and in how many ways."""

    __slots__ = ("fractions", "offered", "replicas", "whole")

    def __init__(self) -> None:
        self.offered: set[str] = set()
        self.replicas: dict[str, list[Holding]] = {}
        self.whole: dict[str, list[Holding]] = {}
        self.fractions: dict[tuple[str, float], list[Holding]] = {}

    def add(self, holding: Holding) -> None:
        """Take a holding of this unit, by what grants it: an id, a claim or a part stated."""
        if holding.fraction is not None:
            self.fractions.setdefault((holding.claim, holding.fraction), []).append(holding)
        elif is_replica(holding.device_id):
            self.replicas.setdefault(holding.device_id, []).append(holding)
        else:
            self.whole.setdefault(holding.claim, []).append(holding)

    def weights(self) -> tuple[dict[Holder, float], Method | None]:
        """Each holder's part of the unit, 1 at most in total, and how it was found.

        None for a unit that is one holder's in whole, by no more than its id.
        """
        kinds: list[tuple[Method | None, dict[Holder, float]]] = []
        if self.whole:
            parts = _evenly(self.whole.values())
            kinds.append((Method.EVEN if len(parts) > 1 else None, parts))
        if self.replicas:
            # More held than offered (a stale list of the kubelet's, or none): all of them count.
            count = max(len(self.offered), len(self.replicas))
            each = _evenly(self.replicas.values(), len(self.replicas) / count)
            kinds.append((Method.REPLICAS if self.offered or count == 1 else Method.EVEN, each))
        if self.fractions:
            stated = [_evenly([held], part) for (_, part), held in self.fractions.items()]
            kinds.append((Method.FRACTION, _added(stated)))
        method = kinds[0][0] if len(kinds) == 1 else Method.EVEN
        parts = _added(some for _, some in kinds)
        total = math.fsum(parts.values())
        if total > 1:
            parts = {holder: part / total for holder, part in parts.items()}
        return parts, method

    def conflict(self) -> bool:
        """Whether the unit is given out in ways that exclude each other.

        Containers of one pod may share what is the pod's, and pods a claim.
        """
        exclusive = [
            held
            for held in (*self.whole.values(), *self.replicas.values())
            if not held[0].claim and len({(h.holder.namespace, h.holder.pod) for h in held}) > 1
        ]
        apart = [held for held in self.whole.values() if not held[0].shareable]
        grants = len(self.whole) + len(self.fractions)
        mixed = bool(self.replicas) and grants > 0
        return mixed or bool(exclusive) or (grants > 1 and bool(apart))

    def holdings(self) -> list[Holding]:
        """All of them."""
        groups = (*self.whole.values(), *self.replicas.values(), *self.fractions.values())
        return [holding for held in groups for holding in held]


def _added(some: Iterable[Mapping[Holder, float]]) -> dict[Holder, float]:
    """Each holder's parts together."""
    parts: dict[Holder, float] = {}
    for one in some:
        for holder, part in one.items():
            parts[holder] = parts.get(holder, 0.0) + part
    return parts


def _evenly(groups: Collection[Sequence[Holding]], whole: float = 1.0) -> dict[Holder, float]:
    """`whole` split evenly between the groups, in each between its pods, then its containers."""
    parts: dict[Holder, float] = {}
    for held in groups:
        pods: dict[tuple[str, str], set[Holder]] = {}
        for holding in held:
            holder = holding.holder
            pods.setdefault((holder.namespace, holder.pod), set()).add(holder)
        for containers in pods.values():
            part = whole / len(groups) / len(pods) / len(containers)
            for holder in containers:
                parts[holder] = parts.get(holder, 0.0) + part
    return parts


def attribute(
    devices: Sequence[Device],
    holdings: Holdings | None,
    mig_split: Literal["compute", "memory"] = "compute",
) -> tuple[tuple[Share, ...], tuple[Problem, ...]]:
    """The shares of every device, in the order of the devices, and what could not be placed.

    `holdings` None means that nobody knows who holds what: every part is then unattributed.
    """
    index = DeviceIndex(devices)
    units: dict[UnitId, _Unit] = {}
    strangers: list[Holding] = []
    for holding in holdings.holdings if holdings else ():
        unit = index.resolve(holding.device_id)
        if unit is None:
            strangers.append(holding)
        else:
            units.setdefault(unit, _Unit()).add(holding)
    for device_id in (holdings.offered or ()) if holdings else ():
        if is_replica(device_id) and (unit := index.resolve(device_id)) in units:
            units[unit].offered.add(device_id)
    known = holdings is not None and not holdings.unresolved and not strangers
    free = State.UNALLOCATED if known else State.UNATTRIBUTED

    shares: list[Share] = []
    for device in devices:
        covered = 0.0
        for slot, instance in ((None, None),) if device.mig is None else enumerate(device.mig):
            unit = unit_of(device.uuid, instance)
            whole = 1.0 if instance is None else mig_share(device, instance, mig_split)
            whole = min(whole, 1.0 - covered)
            covered += whole
            shares += _split(device, slot, instance, whole, units.get(unit), free)
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
    conflicts = {unit: held.holdings() for unit, held in units.items() if held.conflict()}
    return tuple(shares), tuple(_problems(strangers, conflicts))


def shared_units(shares: Sequence[Share]) -> tuple[tuple[Share, ...], ...]:
    """The shares of each unit whose activity is not one holder's alone."""
    units: dict[UnitId, list[Share]] = {}
    for share in shares:
        if not share.measured:
            units.setdefault(share.unit, []).append(share)
    return tuple(
        tuple(some) for some in units.values() if any(share.holder is not None for share in some)
    )


def _split(
    device: Device,
    slot: int | None,
    instance: MigInstance | None,
    whole: float,
    held: _Unit | None,
    free: State,
) -> list[Share]:
    """The shares of one unit that is `whole` of its GPU: its holders', then the free rest."""
    alone = Method.EXCLUSIVE if instance is None else Method.MIG
    unit = unit_of(device.uuid, instance)

    def share(part: float, holder: Holder | None, method: Method, *, measured: bool) -> Share:
        return Share(
            gpu_uuid=device.uuid,
            seat=Seat(holder or NODE, device.model),
            ratio=whole * part,
            unit=unit,
            instance=instance,
            slot=slot,
            holder=holder,
            method=method,
            state=free if holder is None else None,
            measured=measured,
            of_unit=part,
        )

    if held is None:
        return [share(1.0, None, alone, measured=True)]
    parts, method = held.weights()
    # While it may be that somebody unknown holds the rest, what works there is not known to be
    # the one holder that is.
    rest = _rest(math.fsum(parts.values()))
    measured = len(parts) == 1 and (rest == 0 or free is State.UNALLOCATED)
    shares = [
        share(part, holder, method or alone, measured=measured)
        for holder, part in sorted(parts.items())
    ]
    if rest > 0:
        shares.append(share(rest, None, method or alone, measured=False))
    return shares


def _rest(covered: float) -> float:
    """What is left of 1, float dust taken for nothing."""
    rest = 1.0 - covered
    return rest if rest > 1e-9 else 0.0  # noqa: PLR2004 - far below one slice of one GPU


def _problems(
    strangers: list[Holding], conflicts: Mapping[UnitId, list[Holding]]
) -> Iterator[Problem]:
    if strangers:
        yield Problem(
            source="attribution",
            kind="unknown_device",
            message=f"Held device ids that name no device here: {_named(strangers)}",
            remedy="Free devices count as unattributed until this is mended. Check that the"
            " exporter sees every GPU (NVIDIA_VISIBLE_DEVICES=all) and that MIG was not"
            " re-partitioned under a running pod.",
        )
    for unit, held in sorted(conflicts.items()):
        yield Problem(
            source="attribution",
            kind="conflict",
            message=f"{unit} is given out in ways that exclude each other: {_named(held)}",
            remedy="It is charged once in total, in equal parts where nothing better is known."
            " Look for a stale entry of the kubelet's (it goes with a restart of the kubelet) or"
            " two device plugins or drivers that give out the same GPU.",
        )


def _named(holdings: Collection[Holding]) -> str:
    """Ids and who holds them, a few in full."""
    said = sorted({f"{h.device_id} by {h.holder.namespace}/{h.holder.pod}" for h in holdings})
    shown = 4
    more = len(said) - shown
    return ", ".join(said[:shown]) + (f" and {more} more" if more > 0 else "")
