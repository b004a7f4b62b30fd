"""Kubernetes' JSON to Pod and Node: pure, and only the fields that are used.

The structs below declare those fields; everything else of an object (managedFields, images,
environment) is skipped while it is decoded and never held. Every field may be missing or
null. A field of another type than Kubernetes documents makes the object malformed: better
said than guessed.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Annotated, TypeVar

import msgspec
from msgspec import Meta, Struct

from gpucost.config import Requests
from gpucost.model import ContainerClaim, ContainerStatus, Node, Pod
from gpucost.sources import hami
from gpucost.sources.base import SourceError
from gpucost.sources.engine_endpoints import PodFacts, serving_of
from gpucost.sources.gpu_resources import is_gpu_resource
from gpucost.sources.node_labels import (
    INSTANCE_TYPE_LABELS,
    NODE_POOL_LABELS,
    REGION_LABELS,
    capacity_type_of,
    first_label,
    provider_of,
    zone_of,
)
from gpucost.sources.quantity import Quantity, amount_of
from gpucost.sources.workloads import Owner, PodIdentity, workload_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from gpucost.config import Dcgm, Kubernetes
    from gpucost.model import Serving

MAX_PUBLISHED_CHARS = 1024
"""Of a published label or annotation; the rest of a longer one is cut off."""

MIRROR = "kubernetes.io/config.mirror"
CONFIG_HASH = "kubernetes.io/config.hash"
"""A static pod runs under the hash of its manifest; its UID in the API is its mirror's
(kubernetes pkg/kubelet/types/pod_update.go)."""

DCGM_LABELS = (
    ("app", "nvidia-dcgm-exporter"),
    ("app.kubernetes.io/name", "dcgm-exporter"),
    ("app.kubernetes.io/name", "gke-managed-dcgm-exporter"),
)
"""A pod with any of these is a dcgm-exporter: the GPU operator's, the Helm chart's, GKE's."""

EXEMPT_ANNOTATION = "gpucost.io/exempt"
"""Names what a pod shall not be alerted for (`idle`, `expensive`): always published, for the rules
read it."""

_Strings = dict[str, str] | None
_Moment = Annotated[datetime, Meta(tz=True)]


class Wire(Struct, rename="camel"):
    """An object of the API, as far as it is used."""


class _Present(Wire):
    """An object of which only its being there counts."""


class _OwnerReference(Wire):
    kind: str = ""
    name: str = ""
    controller: bool | None = None


class ObjectMeta(Wire):
    """metadata."""

    name: str = ""
    namespace: str | None = None
    uid: str | None = None
    resource_version: str | None = None
    labels: _Strings = None
    annotations: _Strings = None
    creation_timestamp: _Moment | None = None
    deletion_timestamp: _Moment | None = None
    owner_references: list[_OwnerReference] | None = None


class _ClaimUse(Wire):
    name: str = ""
    request: str | None = None


class _Resources(Wire):
    limits: dict[str, Quantity | None] | None = None
    requests: dict[str, Quantity | None] | None = None
    claims: list[_ClaimUse] | None = None


class _Port(Wire):
    name: str | None = None
    container_port: int = 0


class _Container(Wire):
    name: str = ""
    ports: list[_Port] | None = None
    resources: _Resources | None = None
    readiness_probe: _Present | None = None
    restart_policy: str | None = None

    @property
    def restartable(self) -> bool:
        """Whether an init container is a native sidecar."""
        return self.restart_policy == "Always"


class _PodClaim(Wire):
    """In a pod's spec, and in its status where the claim was made for it."""

    name: str = ""
    resource_claim_name: str | None = None


class _RequestMapping(Wire):
    container_name: str = ""
    request_name: str = ""


class _ExtendedClaim(Wire):
    """The claim that the scheduler makes for a pod that asks for nvidia.com/gpu.

    Where a DRA driver serves that resource (DRAExtendedResource, KEP-5004).
    """

    resource_claim_name: str = ""
    request_mappings: list[_RequestMapping] | None = None


class _PodSpec(Wire):
    resource_claims: list[_PodClaim] | None = None
    node_name: str | None = None
    containers: list[_Container] | None = None
    init_containers: list[_Container] | None = None
    readiness_gates: list[_Present] | None = None


class _Waiting(Wire):
    reason: str | None = None


class _Terminated(Wire):
    exit_code: int | None = None
    finished_at: _Moment | None = None


class _ContainerState(Wire):
    running: _Present | None = None
    waiting: _Waiting | None = None
    terminated: _Terminated | None = None


class _ContainerStatus(Wire):
    name: str = ""
    restart_count: int | None = None
    state: _ContainerState | None = None
    last_state: _ContainerState | None = None
    container_id: str | None = msgspec.field(name="containerID", default=None)


class _Condition(Wire):
    type: str = ""
    status: str = ""
    last_transition_time: _Moment | None = None


class _PodStatus(Wire):
    resource_claim_statuses: list[_PodClaim] | None = None
    extended_resource_claim_status: _ExtendedClaim | None = None
    phase: str | None = None
    conditions: list[_Condition] | None = None
    start_time: _Moment | None = None
    container_statuses: list[_ContainerStatus] | None = None
    init_container_statuses: list[_ContainerStatus] | None = None
    pod_ip: str | None = msgspec.field(name="podIP", default=None)


class PodObject(Wire):
    """A v1 Pod."""

    metadata: ObjectMeta
    spec: _PodSpec | None = None
    status: _PodStatus | None = None


class _NodeSpec(Wire):
    provider_id: str | None = msgspec.field(name="providerID", default=None)


class NodeObject(Wire):
    """A v1 Node."""

    metadata: ObjectMeta
    spec: _NodeSpec | None = None


class ListMeta(Wire):
    """metadata of a list."""

    resource_version: str | None = None


class PodList(Wire):
    """A v1 PodList, or kubectl's List."""

    items: list[PodObject] | None
    metadata: ListMeta | None = None


class NodeList(Wire):
    """A v1 NodeList, or kubectl's List."""

    items: list[NodeObject] | None
    metadata: ListMeta | None = None


_T = TypeVar("_T", bound=Wire)

JsonText = str | bytes | bytearray | msgspec.Raw
Document = JsonText | Mapping[str, object]
"""JSON text, or what it decodes to."""


def decode(document: Document, shape: type[_T]) -> _T:
    """A document as one of the shapes above.

    Raises SourceError (malformed), which names the field.
    """
    try:
        if isinstance(document, str | bytes | bytearray | msgspec.Raw):
            return msgspec.json.decode(document, type=shape)
        return msgspec.convert(document, shape)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SourceError(
            "malformed",
            f"not a Kubernetes {shape.__name__}: {error}",
            "Send it as the API server gives it (kubectl get ... -o json).",
        ) from error


_NO_RULES = Requests()


def parse_pod(
    document: Document,
    settings: Kubernetes,
    resource_names: Collection[str] = (),
    requests: Requests = _NO_RULES,
) -> Pod:
    """A v1 Pod. Raises SourceError (malformed)."""
    return pod_of(decode(document, PodObject), settings, resource_names, requests)


def parse_pod_list(
    document: Document,
    settings: Kubernetes,
    node_name: str = "",
    resource_names: Collection[str] = (),
    requests: Requests = _NO_RULES,
) -> dict[tuple[str, str], Pod]:
    """A v1 PodList by (namespace, name); given a node's name, only that node's pods.

    Raises SourceError (malformed).
    """
    return {
        (pod.namespace, pod.name): pod
        for found in decode(document, PodList).items or ()
        if on_node(found, node_name)
        for pod in [pod_of(found, settings, resource_names, requests)]
    }


def parse_ends(document: Document) -> dict[str, float]:
    """When the pods of a v1 PodList that ended did, by UID. Raises SourceError (malformed)."""
    return {
        found.metadata.uid or "": end
        for found in decode(document, PodList).items or ()
        if (end := ended_at(found)) is not None
    }


def parse_node(document: Document) -> Node:
    """A v1 Node. Raises SourceError (malformed)."""
    return node_of(decode(document, NodeObject))


def on_node(pod: PodObject, node_name: str) -> bool:
    """Whether a pod is on the node (an empty name: on any).

    A pod that runs and names no node is on the one whose list it stands in.
    """
    stated = "" if pod.spec is None else pod.spec.node_name or ""
    if stated or not node_name:
        return not node_name or stated == node_name
    return pod.status is not None and pod.status.phase not in ("", None, "Pending")


def pod_of(
    found: PodObject,
    settings: Kubernetes,
    resource_names: Collection[str] = (),
    requests: Requests = _NO_RULES,
) -> Pod:
    """The domain's Pod of an API object."""
    meta, spec, status = found.metadata, found.spec or _PodSpec(), found.status or _PodStatus()
    labels, annotations = meta.labels or {}, meta.annotations or {}
    init = spec.init_containers or []
    containers = [*(spec.containers or []), *(c for c in init if c.restartable)]
    conditions = {condition.type: condition for condition in status.conditions or ()}
    workload = workload_of(
        PodIdentity(
            meta.name, labels, annotations, _owner_of(meta), _seconds(meta.creation_timestamp)
        )
    )
    asking = tuple(
        c.name for c in [*init, *(spec.containers or [])] if _asks_for_gpu(c, resource_names)
    )
    return Pod(
        namespace=meta.namespace or "default",
        name=meta.name,
        uid=meta.uid or "",
        phase=status.phase or "Pending",
        workload=workload.name,
        workload_kind=workload.kind,
        team=first_label(labels, settings.team_labels),
        started_at=_started_at(meta, status, conditions),
        ready="Ready" in conditions and conditions["Ready"].status == "True",
        ready_probe=bool(spec.readiness_gates)
        or any(c.readiness_probe is not None for c in containers),
        deleted=meta.deletion_timestamp is not None,
        containers=_statuses(status, {c.name for c in init if not c.restartable}),
        gpu_containers=asking,
        init_gpus=_most_asked((c for c in init if not c.restartable), resource_names),
        labels=_published(labels, settings.published_labels),
        annotations=_published(annotations, (EXEMPT_ANNOTATION, *settings.published_annotations)),
        reserved=hami.parse_reserved(
            annotations[hami.ANNOTATION], asking, {c.name for c in init if not c.restartable}
        )
        if hami.ANNOTATION in annotations
        else (),
        claims=_claims(meta.namespace or "default", spec, status),
        cgroup_uid=annotations.get(CONFIG_HASH, "") if MIRROR in annotations else "",
        serving=_serving(found, requests)
        if any(_asks_for_gpu(c, resource_names) for c in containers)
        else None,
    )


def node_of(found: NodeObject) -> Node:
    """The domain's Node of an API object."""
    labels = found.metadata.labels or {}
    provider_id = found.spec.provider_id if found.spec else None
    return Node(
        name=found.metadata.name,
        instance_type=first_label(labels, INSTANCE_TYPE_LABELS),
        region=first_label(labels, REGION_LABELS),
        zone=zone_of(labels),
        node_pool=first_label(labels, NODE_POOL_LABELS),
        capacity_type=capacity_type_of(labels),
        provider=provider_of(provider_id or "", labels),
        labels=labels,
        annotations=found.metadata.annotations or {},
    )


def dcgm_url_of(found: PodObject, settings: Dcgm) -> str | None:
    """The /metrics URL of a pod that is a running dcgm-exporter, else None."""
    labels = found.metadata.labels or {}
    wanted = settings.pod_selector
    if wanted:
        chosen = all(labels.get(name) == value for name, value in wanted.items())
    else:
        chosen = any(labels.get(name) == value for name, value in DCGM_LABELS)
    status = found.status
    if (
        not chosen
        or (settings.namespaces and found.metadata.namespace not in settings.namespaces)
        or status is None
        or not status.pod_ip
        or status.phase != "Running"
        or found.metadata.deletion_timestamp is not None
    ):
        return None
    host = f"[{status.pod_ip}]" if ":" in status.pod_ip else status.pod_ip
    return f"http://{host}:{settings.port}/metrics"


def _owner_of(meta: ObjectMeta) -> Owner | None:
    """The controller; else the only owner, for some operators do not mark it."""
    owners = meta.owner_references or []
    controllers = [owner for owner in owners if owner.controller] or owners
    return Owner(controllers[0].kind, controllers[0].name) if len(controllers) == 1 else None


def _started_at(
    meta: ObjectMeta, status: _PodStatus, conditions: Mapping[str, _Condition]
) -> float | None:
    """Since when the pod has its place on the node: GPUs are taken when it is scheduled."""
    scheduled = conditions.get("PodScheduled")
    moments = (
        scheduled.last_transition_time if scheduled and scheduled.status == "True" else None,
        status.start_time,
        meta.creation_timestamp,
    )
    return next((_seconds(moment) for moment in moments if moment is not None), None)


def ended_at(found: PodObject) -> float | None:
    """When the last of a pod's containers ended; None while one has not, or it is not told."""
    status = found.status or _PodStatus()
    ends = [
        _seconds(it.state.terminated.finished_at) if it.state and it.state.terminated else None
        for it in (*(status.container_statuses or ()), *(status.init_container_statuses or ()))
    ]
    known = [end for end in ends if end is not None]
    return max(known) if known and len(known) == len(ends) else None


def _seconds(moment: datetime | None) -> float | None:
    return None if moment is None else moment.timestamp()


def _statuses(status: _PodStatus, init_names: Collection[str]) -> tuple[ContainerStatus, ...]:
    """Init containers first. A native sidecar is none of them: it works beside the others."""
    found = [*(status.init_container_statuses or []), *(status.container_statuses or [])]
    return tuple(
        ContainerStatus(
            name=container.name,
            running=state.running is not None,
            waiting=(state.waiting.reason or "") if state.waiting else "",
            restarts=container.restart_count or 0,
            last_exit_code=_exit_code(state, container.last_state or _ContainerState()),
            init=container.name in init_names,
            id=(container.container_id or "").rpartition("://")[2],
        )
        for container in found
        for state in [container.state or _ContainerState()]
    )


def _exit_code(state: _ContainerState, last_state: _ContainerState) -> int | None:
    """Of the last end: the present one where the container has ended, else the one before."""
    ended = state.terminated or last_state.terminated
    return ended.exit_code if ended else None


def _asks_for_gpu(container: _Container, resource_names: Collection[str]) -> bool:
    """By an extended resource, or by a claim (which device it is, only DRA's objects say)."""
    resources = container.resources
    if resources is None:
        return False
    return bool(resources.claims or _gpus_asked(resources, resource_names))


def _gpus_asked(resources: _Resources, resource_names: Collection[str]) -> dict[str, int]:
    """How many of each GPU resource."""
    asked = {**(resources.requests or {}), **(resources.limits or {})}
    return {
        name: round(amount_of(quantity) or 1)
        for name, quantity in asked.items()
        if is_gpu_resource(name, resource_names) and quantity not in (None, 0, "0")
    }


def _most_asked(
    containers: Iterable[_Container], resource_names: Collection[str]
) -> dict[str, int]:
    """Of each GPU resource, the most that one of these containers asks for."""
    most: dict[str, int] = {}
    for container in containers:
        if container.resources is not None:
            for name, count in _gpus_asked(container.resources, resource_names).items():
                most[name] = max(most.get(name, 0), count)
    return most


def _claims(namespace: str, spec: _PodSpec, status: _PodStatus) -> tuple[ContainerClaim, ...]:
    """What each container takes of which claim; a claim's name in the pod is not its own."""
    names = {
        claim.name: f"{namespace}/{claim.resource_claim_name}"
        for claim in (*(spec.resource_claims or ()), *(status.resource_claim_statuses or ()))
        if claim.resource_claim_name
    }
    stated = [
        ContainerClaim(container.name, names[use.name], use.request or "")
        for container in (*(spec.init_containers or ()), *(spec.containers or ()))
        if container.resources is not None
        for use in container.resources.claims or ()
        if use.name in names
    ]
    if (extended := status.extended_resource_claim_status) is not None:
        claim = f"{namespace}/{extended.resource_claim_name}"
        stated += [
            ContainerClaim(mapping.container_name, claim, mapping.request_name)
            for mapping in extended.request_mappings or ()
        ]
    return tuple(stated)


def _serving(found: PodObject, requests: Requests) -> Serving | None:
    """Where a GPU pod shows its metrics while it runs."""
    status, spec = found.status or _PodStatus(), found.spec or _PodSpec()
    if not requests.enabled or status.phase != "Running":
        return None
    containers = [*(spec.init_containers or []), *(spec.containers or [])]
    ports = [(it.name or "", it.container_port) for c in containers for it in c.ports or ()]
    return serving_of(
        PodFacts(
            namespace=found.metadata.namespace or "default",
            ip=status.pod_ip or "",
            labels=found.metadata.labels or {},
            annotations=found.metadata.annotations or {},
            ports=ports,
        ),
        requests,
    )


def _published(values: Mapping[str, str], patterns: Iterable[str]) -> dict[str, str]:
    patterns = tuple(patterns)
    return {
        name: value[:MAX_PUBLISHED_CHARS]
        for name, value in values.items()
        if any(fnmatchcase(name, pattern) for pattern in patterns)
    }
