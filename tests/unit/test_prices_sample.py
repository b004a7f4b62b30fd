"""Prices picked by hand out of their sources, and nodes as their labels tell of them."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from gpucost.config import Prices
from gpucost.model import Device, GpuReading, Node
from gpucost.prices import asked_of, load_catalogue
from gpucost.pricing import price_gpus
from gpucost.sources.node_labels import (
    INSTANCE_TYPE_LABELS,
    REGION_LABELS,
    capacity_type_of,
    first_label,
    provider_of,
    zone_of,
)

SAMPLE = [
    line
    for line in (Path(__file__).parents[1] / "samples/prices.txt").read_text().splitlines()
    if line and not line.startswith("#")
]


def paid(node: Node) -> float | None:
    """What all the GPUs of the node cost together, those it does not show included."""
    catalogue = load_catalogue(asked_of(node))
    labelled = node.labels.get("cloud.google.com/gke-accelerator-count", "1")
    count = math.ceil(catalogue.gpu_count or int(labelled))
    model = catalogue.gpu_model or "NVIDIA L4"
    gpus = [GpuReading(Device(f"GPU-{n}", model)) for n in range(count)]
    pricing = price_gpus(gpus, node, Prices(), catalogue)
    assert pricing.missing == 0
    figures = [price.usd_per_hour for price in pricing.by_gpu.values()]
    return None if None in figures else math.fsum(it for it in figures if it is not None)


def test_the_sample_is_large_and_covers_every_provider_and_capacity_type() -> None:
    rows = [line.split() for line in SAMPLE]
    assert len(SAMPLE) == len(set(SAMPLE)) >= 100
    providers = "aws azure coreweave gcp hyperstack jarvislabs lambda nebius oci runpod verda"
    assert {row[0] for row in rows} == set(providers.split())
    assert {row[3] for row in rows} == {"on_demand", "spot", "reserved"}


@pytest.mark.parametrize("line", SAMPLE)
def test_a_node_pays_what_the_source_says(line: str) -> None:
    provider, name, place, capacity, usd, _ = line.split()
    name, _, card = name.partition("+")
    labels = {}
    if card:
        count, accelerator = card.split("x", 1)
        labels = {
            "cloud.google.com/gke-accelerator": accelerator,
            "cloud.google.com/gke-accelerator-count": count,
        }
    # A Local or Wavelength Zone is given as its zone.
    zone = re.fullmatch(r"([a-z]{2}-[a-z]+-\d)-(?:[a-z]{3}-\d[a-z]|wl\d-[a-z]{3}-wlz-\d)", place)
    region, where = (zone[1], place) if zone else (place, "")
    node = Node("n", name, region, where, "", capacity, provider, labels)
    found = paid(node)
    if usd == "none":
        assert found is None
    else:
        assert found == pytest.approx(sum(float(it) for it in usd.split("+")), rel=2e-6)


def labelled(instance_type: str, region: str, zone: str) -> dict[str, str]:
    return {
        "node.kubernetes.io/instance-type": instance_type,
        "topology.kubernetes.io/region": region,
        "topology.kubernetes.io/zone": zone,
    }


GKE = "cloud.google.com"

NODES = {
    "EKS managed node group": (
        "aws:///us-east-1a/i-0a1b2c3d4e5f60718",
        labelled("g4dn.12xlarge", "us-east-1", "us-east-1a")
        | {"eks.amazonaws.com/capacityType": "ON_DEMAND"},
        3.912,
    ),
    "Karpenter on AWS": (
        "aws:///us-east-1b/i-0a1b2c3d4e5f60719",
        labelled("p5.48xlarge", "us-east-1", "us-east-1b")
        | {
            "karpenter.sh/capacity-type": "on-demand",
            "karpenter.k8s.aws/instance-gpu-count": "8",
            "karpenter.k8s.aws/instance-gpu-name": "h100",
        },
        55.04,
    ),
    "Karpenter on AWS, spot": (
        "aws:///eu-central-1b/i-0a1b2c3d4e5f60720",
        labelled("g4dn.xlarge", "eu-central-1", "eu-central-1b")
        | {"karpenter.sh/capacity-type": "spot"},
        0.2347,
    ),
    "EKS in a Local Zone": (
        "aws:///us-west-2-lax-1a/i-0a1b2c3d4e5f60721",
        labelled("g4dn.2xlarge", "us-west-2", "us-west-2-lax-1a"),
        0.902,
    ),
    "a part of an L4 on AWS": (
        "aws:///us-east-1c/i-0a1b2c3d4e5f60722",
        labelled("g6f.xlarge", "us-east-1", "us-east-1c")
        | {"karpenter.sh/capacity-type": "on-demand"},
        0.2375,
    ),
    "GKE": (
        "gce://project/us-central1-a/gke-l4-1",
        labelled("g2-standard-24", "us-central1", "us-central1-a")
        | {f"{GKE}/gke-accelerator": "nvidia-l4", f"{GKE}/gke-accelerator-count": "2"},
        2.000833,
    ),
    "GKE, T4s attached to N1": (
        "gce://project/us-central1-b/gke-t4-1",
        labelled("n1-standard-8", "us-central1", "us-central1-b")
        | {f"{GKE}/gke-accelerator": "nvidia-tesla-t4", f"{GKE}/gke-accelerator-count": "2"},
        1.079998,
    ),
    "AKS": (
        "azure:///subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/vm/0",
        labelled("Standard_NC24ads_A100_v4", "eastus", "eastus-1")
        | {"kubernetes.azure.com/accelerator": "nvidia"},
        3.673,
    ),
    "AKS, a part of an A10": (
        "azure:///subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/vm/1",
        labelled("Standard_NV6ads_A10_v5", "westus2", "0"),
        0.454,
    ),
    "AKS, spot": (
        "azure:///subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/vm/2",
        labelled("Standard_NC24ads_A100_v4", "eastus", "eastus-1")
        | {"kubernetes.azure.com/scalesetpriority": "spot"},
        0.4 * 3.673,
    ),
    "OKE": (
        "ocid1.instance.oc1.uk-london-1.aaaa",
        labelled("BM.GPU.H100.8", "uk-london-1", "UK-LONDON-1-AD-1"),
        80.0,
    ),
    "Nebius": (
        "nebius://computeinstance-e00",
        labelled("gpu-h100-sxm_8gpu-128vcpu-1600gb", "eu-north1", "eu-north1-a"),
        23.6,
    ),
}


@pytest.mark.parametrize("name", NODES)
def test_a_labelled_node_gives_its_dollars_with_no_values_set(name: str) -> None:
    provider_id, labels, usd = NODES[name]
    node = Node(
        name="n",
        instance_type=first_label(labels, INSTANCE_TYPE_LABELS),
        region=first_label(labels, REGION_LABELS),
        zone=zone_of(labels),
        capacity_type=capacity_type_of(labels),
        provider=provider_of(provider_id, labels),
        labels=labels,
    )
    assert paid(node) == pytest.approx(usd, rel=1e-5)
