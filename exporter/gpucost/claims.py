"""What is held otherwise than by a device plugin's id, in device ids: pure.

DRA: the kubelet names a claim's devices by pool and name. The driver's ResourceSlices say which GPU
or MIG device that is, the claim what of it a container asked for, whether it holds it at all, and
how much of it where several claims share it.
HAMi: the pod's annotation names GPU and part, and the kubelet's ids say nothing.
And what an ordinary init container asked for beyond the containers after it is held until the pod
ends, and the kubelet lists it for nobody.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from gpucost.model import Holder, Holding, Problem

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gpucost.model import (
        Claimable,
        Claimed,
        ClaimResult,
        Device,
        Holdings,
        MigInstance,
        Pod,
    )
    from gpucost.sources.base import DraRead

_SHOWN = 4

_REMEDY = (
    "Free devices count as unattributed until this is mended. Let the service account list and"
    " watch resourceslices and get resourceclaims (resource.k8s.io), and see that the driver's pod"
    " on this node runs."
)


def resolved(
    holdings: Holdings,
    dra: DraRead | None,
    devices: Sequence[Device],
    pods: Mapping[tuple[str, str], Pod] | None,
) -> tuple[Holdings, tuple[Problem, ...]]:
    """The holdings with what is held through claims among them, and what could not be placed.

    `dra` is None where Kubernetes cannot be asked.
    """
    found: dict[Holding, None] = {}
    strangers: list[Claimed] = []
    for claimed in holdings.claimed:
        granted = None if dra is None else _granted(claimed, dra, pods)
        if granted == ():
            continue
        offered = None if dra is None else dra.devices.get((claimed.pool, claimed.device))
        device_id = None if offered is None else _device_id(offered, devices)
        if offered is None or device_id is None:
            strangers.append(claimed)
            continue
        grant = f"{claimed.claim}#{claimed.share_id}" if claimed.share_id else claimed.claim
        part = _part(offered, granted or ())
        shareable = bool(claimed.share_id)
        found[Holding(claimed.holder, "", device_id, grant, shareable, part)] = None
    unresolved = len({(claimed.pool, claimed.device) for claimed in strangers})
    return (
        replace(
            holdings,
            holdings=(*holdings.holdings, *found),
            unresolved=holdings.unresolved + unresolved,
            claimed=(),
        ),
        (_problem(strangers),) if strangers else (),
    )


def with_reserved(
    holdings: Holdings,
    devices: Sequence[Device],
    pods: Mapping[tuple[str, str], Pod] | None,
) -> Holdings:
    """The holdings with the parts that HAMi reserved in the place of what its pods are listed for.

    A part is the greater of its memory and its cores, of the GPU's: neither can be given to
    another. Where neither is limited or known, the GPU is shared evenly.
    """
    reserving = {key for key, pod in (pods or {}).items() if pod.reserved}
    listed = {(it.holder.namespace, it.holder.pod) for it in holdings.holdings}
    memory = {device.uuid.casefold(): device.memory_bytes for device in devices}
    kept = [it for it in holdings.holdings if (it.holder.namespace, it.holder.pod) not in reserving]
    for key in sorted(reserving & listed):
        for n, it in enumerate((pods or {})[key].reserved):
            whole = memory.get(it.uuid.casefold())
            part = max(it.cores_ratio, it.memory_bytes / whole if whole else 0.0)
            holder = Holder(*key, it.container)
            if part > 0:
                grant = f"hami:{'/'.join(key)}#{n}"
                kept.append(Holding(holder, "", it.uuid, grant, fraction=min(part, 1.0)))
            else:
                kept.append(Holding(holder, "", it.uuid, claim="hami"))
    return replace(holdings, holdings=tuple(kept))


def may_hold_unlisted(pod: Pod) -> bool:
    """Whether ordinary init containers of a pod ask for GPUs.

    The kubelet keeps their devices for the pod (its containers after them may use them again), and
    its pod-resources API leaves them out (kubernetes pkg/kubelet/apis/podresources).
    """
    return not pod.finished and (bool(pod.init_gpus) or _asks_by_init_alone(pod))


def _asks_by_init_alone(pod: Pod) -> bool:
    ordinary = {status.name for status in pod.containers if status.init}
    return bool(pod.gpu_containers) and ordinary.issuperset(pod.gpu_containers)


def with_unlisted(
    holdings: Holdings, pods: Mapping[tuple[str, str], Pod] | None
) -> tuple[Holdings, tuple[Problem, ...]]:
    """The holdings, where what is held and listed for nobody counts as unresolved."""
    listed: dict[tuple[str, str], dict[str, set[str]]] = {}
    for it in holdings.holdings:
        of_pod = listed.setdefault((it.holder.namespace, it.holder.pod), {})
        of_pod.setdefault(it.resource, set()).add(it.device_id)
    unlisted: dict[str, int] = {}
    for key, pod in (pods or {}).items():
        if may_hold_unlisted(pod) and (count := _unlisted(pod, listed.get(key))):
            unlisted[f"{pod.namespace}/{pod.name}"] = count
    if not unlisted:
        return holdings, ()
    names = sorted(unlisted)
    return replace(holdings, unresolved=holdings.unresolved + sum(unlisted.values())), (
        Problem(
            source="kubelet",
            kind="init_container",
            message="Init containers asked for more GPUs than the containers after them, which the"
            f" kubelet keeps for the pod and lists for nobody: {', '.join(names[:_SHOWN])}"
            + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""),
            remedy="Free GPUs count as unattributed until the pod ends. Let the container that"
            " goes on ask for the GPUs.",
        ),
    )


def _unlisted(pod: Pod, listed: Mapping[str, set[str]] | None) -> int:
    """How many devices a pod holds beyond those it is listed for, by resource."""
    if listed is None:
        # One that asks otherwise too has not been given any yet.
        return max(sum(pod.init_gpus.values()), 1) if _asks_by_init_alone(pod) else 0
    if pod.claims or pod.reserved:
        return 0  # listed by other names than it asked by
    return sum(max(0, count - len(listed.get(name, ()))) for name, count in pod.init_gpus.items())


def _granted(
    claimed: Claimed, dra: DraRead, pods: Mapping[tuple[str, str], Pod] | None
) -> tuple[ClaimResult, ...] | None:
    """By which results of its claim a container holds a device: by none, if it does not.

    The kubelet lists every device of the claim for every container that uses it, though one may
    have asked for one request alone, and also those of an admin's claim, which looks after
    devices that others hold. What is not known of a claim (None) does not take the device away.
    """
    results = [
        result
        for result in dra.claims.get(claimed.claim, ())
        if (result.pool, result.device) == (claimed.pool, claimed.device)
        and claimed.share_id in ("", result.share_id)
    ]
    if not results:
        return None
    wanted = _requests(claimed, pods)
    return tuple(
        result
        for result in results
        if not result.admin
        and (not wanted or result.request in wanted or result.request.split("/")[0] in wanted)
    )


def _part(offered: Claimable, granted: Sequence[ClaimResult]) -> float | None:
    """The part of a device that is consumed of it: of its capacities, the one consumed most.

    As with HAMi: what is left of the others can be given to nobody without that one. None where
    nothing is (only a device that allows several allocations has consumable capacity).
    """
    parts = [
        sum(result.consumed.get(name, 0.0) for result in granted) / whole
        for name, whole in offered.capacity.items()
        if whole > 0
    ]
    part = min(max(parts, default=0.0), 1.0)
    return part if part > 0 else None


def _requests(claimed: Claimed, pods: Mapping[tuple[str, str], Pod] | None) -> set[str]:
    """The requests that a container names; empty where it takes them all."""
    holder = claimed.holder
    pod = (pods or {}).get((holder.namespace, holder.pod))
    uses = [
        use.request
        for use in (pod.claims if pod is not None else ())
        if (use.container, use.claim) == (holder.container, claimed.claim)
    ]
    return set() if "" in uses else set(uses)


def _device_id(offered: Claimable, devices: Sequence[Device]) -> str | None:
    """The device as attribution names it; None where it is not (yet) to be seen.

    A MIG device that has a UUID is looked for like one that has none where only DCGM shows the
    GPU, which knows no UUIDs of instances.
    """
    parent = (offered.parent_uuid or "").casefold()
    parents = [device for device in devices if device.uuid.casefold() == parent]
    told = any(instance.uuid for device in parents for instance in device.mig or ())
    if offered.uuid and (told or not parents):
        return offered.uuid
    for device in parents:
        alike = [it for it in device.mig or () if _is(it, offered)]
        if len(alike) == 1:
            return f"MIG-{device.uuid}/{alike[0].gi}/{alike[0].ci}"
    return None


def _is(instance: MigInstance, offered: Claimable) -> bool:
    """Whether a MIG instance is the one that the driver made for a claim.

    Where a driver does not tell placements, the only one of its profile is.
    """
    if instance.profile != offered.profile:
        return False
    return None in (instance.placement, offered.placement) or (
        instance.placement == offered.placement
    )


def _problem(strangers: Sequence[Claimed]) -> Problem:
    said = sorted(
        {
            f"{it.pool}/{it.device} by {it.holder.namespace}/{it.holder.pod} (claim {it.claim})"
            for it in strangers
        }
    )
    more = len(said) - _SHOWN
    return Problem(
        source="dra",
        kind="unknown_device",
        message="Held through DRA claims, and not known is which GPU that is: "
        + ", ".join(said[:_SHOWN])
        + (f" and {more} more" if more > 0 else ""),
        remedy=_REMEDY,
    )
