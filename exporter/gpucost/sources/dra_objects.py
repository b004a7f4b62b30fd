"""ResourceSlices and ResourceClaims to devices and results: pure, and only what is used.

resource.k8s.io/v1, v1beta2 and v1beta1 differ, as far as it matters here, in one thing: v1beta1
keeps what a device is one level deeper, in `basic`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec

from gpucost.model import Claimable, ClaimResult
from gpucost.sources.gpu_resources import DRA_DRIVER
from gpucost.sources.kube_objects import ListMeta, ObjectMeta, Wire
from gpucost.sources.quantity import Quantity, amount_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_MEMORY_SLICE = re.compile(r"memory-slice-([0-9]{1,3})")
"""The counters of a MIG device that is made when it is claimed: one for each memory slice that it
takes of its parent (NVIDIA/k8s-dra-driver-gpu, cmd/gpu-kubelet-plugin/partitions.go)."""

_NAMED_PLACEMENT = re.compile(r"gpu-[0-9]+-mig-.+-[0-9]+-([0-9]{1,3})")
"""The same in the device's name (mig.go: parent, profile, profile id, start)."""


class _Attribute(Wire):
    string: str | None = None


class _Consumption(Wire):
    counters: dict[str, msgspec.Raw] | None = None


class _Capacity(Wire):
    value: Quantity = 0


class _Facts(Wire):
    attributes: dict[str, _Attribute] | None = None
    capacity: dict[str, _Capacity] | None = None
    consumes_counters: list[_Consumption] | None = None


class _Device(_Facts):
    name: str = ""
    basic: _Facts | None = None


class _Pool(Wire):
    name: str = ""
    generation: int = 0


class _SliceSpec(Wire):
    pool: _Pool
    driver: str = ""
    node_name: str | None = None
    devices: list[_Device] | None = None


class SliceObject(Wire):
    """A ResourceSlice."""

    metadata: ObjectMeta
    spec: _SliceSpec


class SliceList(Wire):
    """A ResourceSliceList."""

    metadata: ListMeta | None = None
    items: list[SliceObject] | None = None


class _Result(Wire):
    request: str = ""
    driver: str = ""
    pool: str = ""
    device: str = ""
    admin_access: bool | None = None
    share_id: str | None = msgspec.field(name="shareID", default=None)
    consumed_capacity: dict[str, Quantity] | None = None


class _Devices(Wire):
    results: list[_Result] | None = None


class _Allocation(Wire):
    devices: _Devices | None = None


class _ClaimStatus(Wire):
    allocation: _Allocation | None = None


class ClaimObject(Wire):
    """A ResourceClaim."""

    metadata: ObjectMeta
    status: _ClaimStatus | None = None


class ClaimList(Wire):
    """A ResourceClaimList."""

    items: list[ClaimObject] | None = None


def devices_of(slices: Iterable[SliceObject], node_name: str) -> dict[tuple[str, str], Claimable]:
    """NVIDIA's devices on the node (an empty name: on any), by pool and name.

    Of a pool only its newest generation counts: a driver that changes a pool writes new slices
    before the old ones go.
    """
    ours = [
        it.spec
        for it in slices
        if it.spec.driver == DRA_DRIVER and (not node_name or it.spec.node_name == node_name)
    ]
    newest: dict[str, int] = {}
    for spec in ours:
        name = spec.pool.name
        newest[name] = max(newest.get(name, spec.pool.generation), spec.pool.generation)
    return {
        (spec.pool.name, device.name): _device(device)
        for spec in ours
        if spec.pool.generation == newest[spec.pool.name]
        for device in spec.devices or ()
    }


def _device(device: _Device) -> Claimable:
    facts = device.basic or device
    said = {_own(name): found.string for name, found in (facts.attributes or {}).items()}
    capacity = {name: found.value for name, found in (facts.capacity or {}).items()}
    return Claimable(
        kind=said.get("type") or "",
        uuid=said.get("uuid"),
        parent_uuid=said.get("parentUUID"),
        profile=said.get("profile"),
        placement=_placement(device.name, facts),
        capacity=_amounts(capacity),
    )


def _own(name: str) -> str:
    """The name of an attribute or a capacity: without a domain it is the driver's own."""
    return name.removeprefix(f"{DRA_DRIVER}/")


def _amounts(quantities: Mapping[str, Quantity]) -> dict[str, float]:
    """Quantities by name, those that are none left out."""
    amounts = {_own(name): amount_of(quantity) for name, quantity in quantities.items()}
    return {name: amount for name, amount in amounts.items() if amount is not None}


def _placement(name: str, facts: _Facts) -> int | None:
    taken = [
        int(found[1])
        for consumption in facts.consumes_counters or ()
        for counter in consumption.counters or ()
        if (found := _MEMORY_SLICE.fullmatch(counter))
    ]
    if taken:
        return min(taken)
    named = _NAMED_PLACEMENT.fullmatch(name)
    return int(named[1]) if named else None


def claim_name(claim: ClaimObject) -> str:
    """As the kubelet's answer names it, with its namespace."""
    return f"{claim.metadata.namespace or 'default'}/{claim.metadata.name}"


def results_of(claim: ClaimObject) -> tuple[ClaimResult, ...]:
    """What the scheduler gave to a claim of NVIDIA's devices."""
    allocation = claim.status.allocation if claim.status else None
    devices = allocation.devices if allocation else None
    return tuple(
        ClaimResult(
            result.request,
            result.pool,
            result.device,
            result.share_id or "",
            admin=bool(result.admin_access),
            consumed=_amounts(result.consumed_capacity or {}),
        )
        for result in (devices.results if devices else None) or ()
        if result.driver == DRA_DRIVER
    )


def results_by_claim(claims: Iterable[ClaimObject]) -> Mapping[str, tuple[ClaimResult, ...]]:
    """The results of several claims, by their names."""
    return {claim_name(claim): results_of(claim) for claim in claims}
