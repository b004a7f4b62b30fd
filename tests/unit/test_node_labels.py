"""Every row of the node label tables."""

from __future__ import annotations

import pytest

from gpucost.sources.node_labels import (
    CAPACITY_ROWS,
    INSTANCE_TYPE_LABELS,
    NODE_POOL_LABELS,
    PROVIDER_LABELS,
    REGION_LABELS,
    ZONE_LABELS,
    capacity_type_of,
    first_label,
    provider_of,
    zone_of,
)

CAPACITY = [
    ({}, "on_demand"),
    ({"karpenter.sh/capacity-type": "spot"}, "spot"),
    ({"karpenter.sh/capacity-type": "on-demand"}, "on_demand"),
    ({"karpenter.sh/capacity-type": "reserved"}, "reserved"),
    ({"karpenter.sh/capacity-type": "something-new"}, "on_demand"),
    (
        {
            "karpenter.sh/capacity-type": "reserved",
            "karpenter.k8s.aws/capacity-reservation-type": "capacity-block",
        },
        "reserved",
    ),
    ({"karpenter.k8s.aws/capacity-reservation-type": "default"}, "reserved"),
    ({"eks.amazonaws.com/capacityType": "SPOT"}, "spot"),
    ({"eks.amazonaws.com/capacityType": "ON_DEMAND"}, "on_demand"),
    ({"eks.amazonaws.com/capacityType": "CAPACITY_BLOCK"}, "reserved"),
    ({"cloud.google.com/gke-spot": "true"}, "spot"),
    ({"cloud.google.com/gke-spot": "false"}, "on_demand"),
    ({"cloud.google.com/gke-preemptible": "true"}, "spot"),
    ({"cloud.google.com/gke-provisioning": "spot"}, "spot"),
    ({"cloud.google.com/gke-provisioning": "preemptible"}, "spot"),
    ({"cloud.google.com/gke-provisioning": "reservation"}, "reserved"),
    ({"cloud.google.com/gke-provisioning": "standard"}, "on_demand"),
    (
        {
            "cloud.google.com/gke-provisioning": "standard",
            "cloud.google.com/reservation-name": "h100-2026",
        },
        "reserved",
    ),
    ({"kubernetes.azure.com/scalesetpriority": "spot"}, "spot"),
    ({"kubernetes.azure.com/scalesetpriority": "regular"}, "on_demand"),
    ({"oci.oraclecloud.com/oke-is-preemptible": "true"}, "spot"),
]


@pytest.mark.parametrize(("labels", "expected"), CAPACITY)
def test_capacity_type(labels: dict[str, str], expected: str) -> None:
    assert capacity_type_of(labels) == expected


def test_every_capacity_row_is_tested() -> None:
    tested = {(label, value) for labels, _ in CAPACITY for label, value in labels.items()}
    for row in CAPACITY_ROWS:
        assert any(label == row.label and row.value in (None, value) for label, value in tested), (
            row
        )


@pytest.mark.parametrize(
    ("provider_id", "labels", "expected"),
    [
        ("aws:///us-east-1a/i-0123", {}, "aws"),
        ("gce://project/us-central1-a/gke-node", {}, "gcp"),
        ("azure:///subscriptions/x/virtualMachines/0", {}, "azure"),
        ("oci://ocid1.instance.oc1.iad.x", {}, "oci"),
        ("ocid1.instance.oc1.iad.x", {}, "oci"),
        ("kind://docker/kind/kind-worker", {}, "kind"),
        ("", {}, ""),
        ("cn-hangzhou.i-abc", {}, ""),
        ("aws:///us-east-1a/i-0123", {"nebius.com/gpu-name": "H100"}, "aws"),
    ],
)
def test_provider(provider_id: str, labels: dict[str, str], expected: str) -> None:
    assert provider_of(provider_id, labels) == expected


@pytest.mark.parametrize(("prefix", "expected"), PROVIDER_LABELS)
def test_provider_by_a_label_that_only_one_writes(prefix: str, expected: str) -> None:
    assert provider_of("", {"kubernetes.io/arch": "amd64", f"{prefix}x": "y"}) == expected


@pytest.mark.parametrize(
    "names", [INSTANCE_TYPE_LABELS, REGION_LABELS, ZONE_LABELS, NODE_POOL_LABELS]
)
def test_the_first_label_that_says_something_counts(names: tuple[str, ...]) -> None:
    everything = {name: f"value {index}" for index, name in enumerate(names)}
    for index, name in enumerate(names):
        assert first_label(everything, names) == f"value {index}"
        everything[name] = ""
    assert first_label(everything, names) == ""
    assert first_label({}, names) == ""


@pytest.mark.parametrize(
    ("label", "expected"), [("us-east-1a", "us-east-1a"), ("eastus-1", "eastus-1"), ("0", "")]
)
def test_zone_zero_of_a_regional_aks_node_is_no_zone(label: str, expected: str) -> None:
    assert zone_of({"topology.kubernetes.io/zone": label}) == expected
