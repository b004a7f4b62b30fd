"""`helm install` without a value: dollars, found by Prometheus as the chart's notes tell."""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING

import pytest

from cluster.place import Place
from e2e.kube import CommandError, run, upgrade

if TYPE_CHECKING:
    from e2e.kube import Kube
    from e2e.prom import Prometheus


FIRST_DOLLARS = "min(min_over_time(timestamp(gpucost_gpu_cost_usd_total > 0)[1h:1s]))"


def test_install_without_values_gives_dollars(kube: Kube, prometheus: Prometheus) -> None:
    kube.wait("dollars", lambda: prometheus.value(FIRST_DOLLARS) is not None)
    release = json.loads(run("helm", "status", "gpucost", "--output=json"))
    installed = datetime.fromisoformat(release["info"]["first_deployed"]).timestamp()
    dollars = (prometheus.value(FIRST_DOLLARS) or 0) - installed
    up = Place.of_environment().up_seconds
    came = float(up.read_text()) if up.exists() else 0.0
    print(
        f"make cluster: {came:.0f} s, helm install to first dollars in Prometheus: {dollars:.0f} s,"
        f" together {came + dollars:.0f} s"
    )
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


@pytest.mark.parametrize(
    ("words", "resource"),
    [
        ("scrape.method=podMonitor", "podmonitors.monitoring.coreos.com"),
        ("rules.method=prometheusRule", "prometheusrules.monitoring.coreos.com"),
        ("dashboards.method=grafanaDashboard", "grafanadashboards.grafana.integreatly.org"),
    ],
)
def test_what_this_cluster_cannot_hold_is_refused_with_who_brings_it(
    kube: Kube, words: str, resource: str
) -> None:
    if kube("get", "crds", "--ignore-not-found", resource):
        pytest.skip(f"it can: it has {resource}")
    before = run("helm", "get", "manifest", "gpucost")
    with pytest.raises(CommandError, match=rf"{words} needs .*: install \S+ first, or set"):
        upgrade("--set", words)
    assert run("helm", "get", "manifest", "gpucost") == before


def _exporters(kube: Kube) -> list[tuple[str, int]]:
    """Each exporter's pod and how often it was restarted."""
    pods = kube.get("pods", "-l", "app.kubernetes.io/name=gpucost")["items"]
    return [
        (pod["metadata"]["uid"], pod["status"]["containerStatuses"][0]["restartCount"])
        for pod in pods
    ]
