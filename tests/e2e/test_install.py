"""`helm install` without a value: dollars, found by Prometheus as the chart's notes tell."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from e2e.kube import run, upgrade

if TYPE_CHECKING:
    from e2e.kube import Kube
    from e2e.prom import Prometheus


def test_install_without_values_gives_dollars(kube: Kube, prometheus: Prometheus) -> None:
    took = kube.wait(
        "dollars", lambda: (prometheus.value("sum(gpucost_gpu_cost_usd_total)") or 0) > 0
    )
    print(f"first dollars {took:.0f} s after Prometheus could be asked")
    assert prometheus.value("count(gpucost_gpu_price_usd_per_hour)") == 8
    assert prometheus.value("sum(gpucost_unpriced_gpus)") == 0
    assert prometheus.value("min(gpucost_source_up)") == 1
    assert prometheus.value("sum(gpucost_ledger_imbalance_usd)") == pytest.approx(0, abs=1e-9)


def test_the_target_is_known_by_its_node_alone(prometheus: Prometheus) -> None:
    labels = [dict(found) for found in prometheus.vector('up{job="gpucost"}')]
    assert labels == [{"__name__": "up", "instance": "gpu-1", "job": "gpucost"}]


def test_helm_test_passes(kube: Kube) -> None:  # noqa: ARG001 - once it is installed
    said = run("helm", "test", "gpucost", "--logs", timeout=180)
    assert "ready" in said


def test_a_new_price_is_in_force_without_a_restart(kube: Kube, prometheus: Prometheus) -> None:
    before = _exporters(kube)
    price = json.dumps([{"instance_type": "p5.48xlarge", "node_usd_per_hour": 80.0}])
    try:
        upgrade("--set-json", f"config.prices.table={price}")
        kube.hasten("app.kubernetes.io/name=gpucost")
        kube.wait(
            "the new price",
            lambda: prometheus.value("max(gpucost_gpu_price_usd_per_hour)") == pytest.approx(10.0),
            180,
        )
    finally:
        upgrade()
        kube.hasten("app.kubernetes.io/name=gpucost")
    kube.wait(
        "the old price",
        lambda: prometheus.value("max(gpucost_gpu_price_usd_per_hour)") == pytest.approx(6.88),
        180,
    )
    assert _exporters(kube) == before


def test_settings_that_are_wrong_are_refused_before_anything_changes(kube: Kube) -> None:
    before = kube.get("configmap", "gpucost")["data"]
    with pytest.raises(Exception, match="pricess"):
        upgrade("--set-json", 'config.pricess={"a": 1}')
    assert kube.get("configmap", "gpucost")["data"] == before


def _exporters(kube: Kube) -> list[tuple[str, int]]:
    """Each exporter's pod and how often it was restarted."""
    pods = kube.get("pods", "-l", "app.kubernetes.io/name=gpucost")["items"]
    return [
        (pod["metadata"]["uid"], pod["status"]["containerStatuses"][0]["restartCount"])
        for pod in pods
    ]
