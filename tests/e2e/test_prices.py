"""A node of each provider gives its list price, with no value of the chart set.

Its labels are those that the cloud or tool writes, and its GPUs those of the type. The figures are
the sources' own, of prices/facts or tests/samples/prices.txt; none is asked from the shipped list.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from cluster.node import LABELS
from cluster.place import NODE
from e2e.kube import Evidence, Kube
from e2e.prom import reach

if TYPE_CHECKING:
    from collections.abc import Iterator

    from e2e.gpus import Gpus
    from e2e.prom import Prometheus

H100 = "NVIDIA H100 80GB HBM3"
GKE, AKS = "cloud.google.com", "kubernetes.azure.com"
EXPORTER = "app.kubernetes.io/name=gpucost"
LEDGER = Path("/var/lib/gpucost")
"""Where the chart keeps it on the node, which the steps run on."""
SPOT = {"karpenter.sh/capacity-type": "spot"}


class Type(NamedTuple):
    """An instance type in a region: the whole node's USD an hour, and the GPUs that NVML shows."""

    name: str
    region: str
    usd_per_hour: float
    labels: dict[str, str]
    gpus: int = 8
    model: str = H100


EIGHT_H100 = (
    Type("p5.48xlarge", "us-east-2", 13.4628, SPOT),
    Type("a3-highgpu-8g", "us-central1", 88.49, {f"{GKE}/gke-accelerator": "nvidia-h100-80gb"}),
    Type("Standard_ND96isr_H100_v5", "uksouth", 122.9, {f"{AKS}/accelerator": "nvidia"}),
    # Oracle has one price everywhere.
    Type("BM.GPU.H100.8", "us-ashburn-1", 80.0, {"oci.oraclecloud.com/fault-domain": "1"}),
    Type("gpu_8x_h100_sxm5", "us-west-1", 31.92, {}),
    Type("gpu-h100-sxm_8gpu-128vcpu-1600gb", "eu-north1", 23.60, {}),
    Type("n3-H100-SXM5x8", "US-1", 19.2, {}),
    Type("8x_H100_192V_1600G", "IN2", 27.92, {}),
)
OTHERS = (
    # An eighth of a card.
    Type(
        "g6f.large",
        "us-east-1",
        0.202,
        {"karpenter.sh/capacity-type": "on-demand"},
        1,
        "NVIDIA L4",
    ),
    # A host, and the GPU that is attached to it.
    Type(
        "n1-standard-16",
        "us-central1",
        0.45106 + 0.43,
        {f"{GKE}/gke-accelerator": "nvidia-tesla-p100", f"{GKE}/gke-spot": "true"},
        1,
        "Tesla P100-PCIE-16GB",
    ),
    Type("4A100.88V", "FIN-03", 5.16, {}, 4, "NVIDIA A100-SXM4-80GB"),
    Type("2x_A100-80GB_SECURE", "IN", 2.78, {}, 2, "NVIDIA A100 80GB PCIe"),
)
ANY = {*LABELS, *(label for kind in EIGHT_H100 + OTHERS for label in kind.labels)}


@pytest.fixture(scope="module", autouse=True)
def _own_machine_back(release: None) -> Iterator[None]:  # noqa: ARG001 - there to be asked
    if not os.environ.get("GPUCOST_CLUSTER_INSIDE"):
        pytest.skip("needs the cluster of make cluster: makes the node another")
    yield
    kube = Kube(Evidence())
    _leave(kube)
    _join(kube, LABELS)
    prometheus = reach(kube, Evidence())
    price = "max(gpucost_gpu_price_usd_per_hour)"
    kube.wait("its price", lambda: prometheus.value(price) == pytest.approx(6.88))


@pytest.mark.parametrize("kind", EIGHT_H100, ids=lambda kind: kind.name)
def test_a_node_that_turns_another_type_gives_the_dollars_of_that(
    kube: Kube, prometheus: Prometheus, kind: Type
) -> None:
    _label(kube, _labels(kind))
    _check(kube, prometheus, kind)


@pytest.mark.parametrize("kind", OTHERS, ids=lambda kind: kind.name)
def test_a_node_that_joins_gives_its_dollars(
    kube: Kube, prometheus: Prometheus, gpus: Gpus, kind: Type
) -> None:
    _leave(kube)
    gpus.show(json.dumps({"gpus": [{"model": kind.model, "count": kind.gpus}]}))
    _join(kube, _labels(kind))
    _check(kube, prometheus, kind)


def _labels(kind: Type) -> dict[str, str]:
    return {
        "node.kubernetes.io/instance-type": kind.name,
        "topology.kubernetes.io/region": kind.region,
        "nvidia.com/gpu.present": "true",
        "nvidia.com/gpu.count": str(kind.gpus),
        "nvidia.com/gpu.product": kind.model.replace(" ", "-"),
        **kind.labels,
    }


def _label(kube: Kube, labels: dict[str, str]) -> None:
    """Give the node these labels, and none of the others that a step may have given."""
    patch = {"metadata": {"labels": {name: labels.get(name) for name in ANY}}}
    kube("patch", "node", NODE, "--type=merge", "-p", json.dumps(patch))


def _leave(kube: Kube) -> None:
    """Have the node's machine go: one without a GPU label has no exporter, a new one no ledger."""
    _label(kube, {})
    kube.wait("no exporter", lambda: not kube.get("pods", "-l", EXPORTER)["items"])
    for file in LEDGER.iterdir():
        file.unlink()


def _join(kube: Kube, labels: dict[str, str]) -> None:
    """Have the machine that is there now come as the node."""
    _label(kube, labels)
    kube.wait("an exporter", lambda: bool(kube.get("pods", "-l", EXPORTER)["items"]))
    kube("rollout", "status", "daemonset/gpucost", "--timeout=2m", timeout=130)


def _check(kube: Kube, prometheus: Prometheus, kind: Type) -> None:
    """The price is that, nothing is doubted, and the ledger charges it."""
    price = f'gpucost_gpu_price_usd_per_hour{{gpu_model="{kind.model}"}}'
    here = f'gpucost_node_info{{instance_type="{kind.name}",region="{kind.region}"}}'
    expected = pytest.approx(kind.usd_per_hour, rel=1e-5)
    kube.wait("its price", lambda: prometheus.value(f"sum({price}) and on () {here}") == expected)
    assert prometheus.value(f"count({price})") == kind.gpus
    assert prometheus.value("sum(gpucost_unpriced_gpus)") == 0
    assert not prometheus.vector('gpucost_problems{source="pricing"} > 0')

    kube.wait("dollars", lambda: _spent(prometheus, kind)[0] > 0)
    before = _spent(prometheus, kind)
    kube.wait("more of them", lambda: _spent(prometheus, kind)[0] > before[0])
    after = _spent(prometheus, kind)
    usd, gpu_seconds = after[0] - before[0], after[1] - before[1]
    assert usd / gpu_seconds * 3600 * kind.gpus == expected


def _spent(prometheus: Prometheus, kind: Type) -> tuple[float, float]:
    """USD and GPU-seconds of these GPUs so far, of one scrape."""
    usd, gpu_seconds = "gpucost_gpu_cost_usd_total", "gpucost_gpu_seconds_total"
    both = f'{{__name__=~"{usd}|{gpu_seconds}",gpu_model="{kind.model}"}}'
    found = prometheus.by("__name__", f"sum by (__name__) ({both})")
    return found.get(usd, 0.0), found.get(gpu_seconds, 0.0)
