"""What a Node's labels say of the machine: tables of rows, asked in order.

Sources of the rows: kubernetes.io well-known labels; Karpenter's scheduling pages; cluster
autoscaler and OpenCost's provider code; the clouds' own documentation of their labels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Mapping

INSTANCE_TYPE_LABELS = (
    "node.kubernetes.io/instance-type",
    "beta.kubernetes.io/instance-type",
    "nvidia.com/gpu.machine",  # as its firmware has it: clusters without a cloud controller
)
REGION_LABELS = (
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/region",
)
ZONE_LABELS = ("topology.kubernetes.io/zone", "failure-domain.beta.kubernetes.io/zone")

NODE_POOL_LABELS = (
    "karpenter.sh/nodepool",
    "karpenter.sh/provisioner-name",
    "eks.amazonaws.com/nodegroup",
    "alpha.eksctl.io/nodegroup-name",
    "cloud.google.com/gke-nodepool",
    "kubernetes.azure.com/agentpool",
    "agentpool",
    "compute.coreweave.com/node-pool",
    "oke.oraclecloud.com/pool.name",
    "doks.digitalocean.com/node-pool",
    "kops.k8s.io/instancegroup",
)

PROVIDER_IDS = {"gce": "gcp", "ocid1": "oci"}
"""The part of spec.providerID before `://` (OCI: before the first `.`), where the provider is
called otherwise; the rest (aws, azure, kind, ...) are their own names."""

PROVIDER_LABELS = (
    ("eks.amazonaws.com/", "aws"),
    ("karpenter.k8s.aws/", "aws"),
    ("cloud.google.com/gke-", "gcp"),
    ("kubernetes.azure.com/", "azure"),
    ("oci.oraclecloud.com/", "oci"),
    ("oke.oraclecloud.com/", "oci"),
    ("compute.coreweave.com/", "coreweave"),
    ("node.coreweave.cloud/", "coreweave"),
    ("nebius.com/", "nebius"),
)
"""Prefixes of labels that only one provider writes, where there is no providerID."""


class CapacityRow(Struct, frozen=True):
    """A label that tells the capacity type. `value` is compared without case; None: any."""

    label: str
    value: str | None
    capacity_type: str


CAPACITY_ROWS = (
    # A Karpenter node of a reservation; capacity-block is one too, paid in advance.
    CapacityRow("karpenter.k8s.aws/capacity-reservation-type", None, "reserved"),
    CapacityRow("karpenter.sh/capacity-type", "spot", "spot"),
    CapacityRow("karpenter.sh/capacity-type", "reserved", "reserved"),
    CapacityRow("karpenter.sh/capacity-type", "on-demand", "on_demand"),
    CapacityRow("eks.amazonaws.com/capacityType", "SPOT", "spot"),
    CapacityRow("eks.amazonaws.com/capacityType", "CAPACITY_BLOCK", "reserved"),
    CapacityRow("eks.amazonaws.com/capacityType", "ON_DEMAND", "on_demand"),
    CapacityRow("cloud.google.com/gke-spot", "true", "spot"),
    CapacityRow("cloud.google.com/gke-preemptible", "true", "spot"),
    CapacityRow("cloud.google.com/gke-provisioning", "spot", "spot"),
    CapacityRow("cloud.google.com/gke-provisioning", "preemptible", "spot"),
    CapacityRow("cloud.google.com/gke-provisioning", "reservation", "reserved"),
    CapacityRow("cloud.google.com/reservation-name", None, "reserved"),
    CapacityRow("cloud.google.com/gke-provisioning", "standard", "on_demand"),
    # AKS writes only `spot`; without the label a node is regular.
    CapacityRow("kubernetes.azure.com/scalesetpriority", "spot", "spot"),
    CapacityRow("kubernetes.azure.com/scalesetpriority", "regular", "on_demand"),
    CapacityRow("oci.oraclecloud.com/oke-is-preemptible", "true", "spot"),
)

DEFAULT_CAPACITY_TYPE = "on_demand"
"""Of a Node that was read and says nothing: clouds mark what is cheaper, not the normal case.
A reservation that no label shows is told by the settings (prices, node.capacity_type)."""


def first_label(labels: Mapping[str, str], names: tuple[str, ...]) -> str:
    """The first label present that is not empty, else an empty text."""
    return next((value for name in names if (value := labels.get(name))), "")


def zone_of(labels: Mapping[str, str]) -> str:
    """The zone; AKS writes `0` on nodes of no zone."""
    zone = first_label(labels, ZONE_LABELS)
    return "" if zone == "0" else zone


def capacity_type_of(labels: Mapping[str, str]) -> str:
    """on_demand, spot or reserved."""
    for row in CAPACITY_ROWS:
        value = labels.get(row.label)
        if value is not None and (row.value is None or value.casefold() == row.value.casefold()):
            return row.capacity_type
    return DEFAULT_CAPACITY_TYPE


def provider_of(provider_id: str, labels: Mapping[str, str]) -> str:
    """Who runs the machine: from spec.providerID, else a label, else an empty text."""
    prefix, separator, _ = provider_id.partition("://")
    if not separator:
        prefix, separator, _ = provider_id.partition(".")
        prefix = prefix if prefix == "ocid1" else ""
    if prefix:
        return PROVIDER_IDS.get(prefix, prefix)
    return next(
        (
            provider
            for start, provider in PROVIDER_LABELS
            if any(label.startswith(start) for label in labels)
        ),
        "",
    )
