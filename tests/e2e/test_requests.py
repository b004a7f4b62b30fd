"""What a request costs: an inference server on a GPU of the kubelet's, asked by the step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from e2e.kube import gpu_pod, upgrade
from e2e.load import PORT, asking

if TYPE_CHECKING:
    from typing import Any

    from e2e.kube import Kube
    from e2e.prom import Prometheus

PER_SECOND = 10
WINDOW_SECONDS = 60


def server(name: str, namespace: str) -> dict[str, Any]:
    """A pod that serves like vLLM, of no Service: its metrics are found by its annotation."""
    probe = {"httpGet": {"path": "/", "port": PORT}, "periodSeconds": 1}
    words = ["serve", "--slots=8", "--takes=200ms"]
    made = gpu_pod(name, namespace, words, container={"readinessProbe": probe})
    made["metadata"]["annotations"] = {"gpucost.io/metrics": str(PORT)}
    return made


@pytest.mark.usefixtures("inside")
def test_a_request_costs_the_price_over_the_throughput_and_is_absent_where_none_was(
    kube: Kube, prometheus: Prometheus, namespace: str
) -> None:
    here = f'{{namespace="{namespace}"}}'
    cost = f"gpucost_pod_cost_per_request_usd{here}"
    tokens = f"sum by (direction) (gpucost_pod_cost_per_million_tokens_usd{here})"
    price = prometheus.value("max(gpucost_gpu_price_usd_per_hour)")
    assert price is not None
    expected = pytest.approx({"asked": price / 3600 / PER_SECOND}, rel=0.01)
    read = "max(gpucost_config_last_reload_success_timestamp_seconds)"
    before = prometheus.value(read)
    upgrade(
        f"--set=config.requests.window_seconds={WINDOW_SECONDS}",
        "--set=config.requests.interval_seconds=5",
    )
    try:
        kube.hasten("app.kubernetes.io/name=gpucost")
        kube.wait("the new settings", lambda: prometheus.value(read) != before, 180)
        kube.apply(server("asked", namespace), server("quiet", namespace))
        ready = ("--for=condition=Ready", "pod", "--all", "--timeout=60s")
        kube("-n", namespace, "wait", *ready, timeout=70)
        with asking(kube.pod(namespace, "asked")["status"]["podIP"], PER_SECOND):
            took = kube.wait(
                "the price over the throughput",
                lambda: prometheus.by("pod", cost) == expected,
                WINDOW_SECONDS + 120,
            )
            print(f"within 1 % after {took:.0f} s: {prometheus.by('pod', cost)}")
            # It is no moment's luck, and both were read all the while.
            kube.stays("within 1 %", lambda: prometheus.by("pod", cost) == expected, 20)
            served = prometheus.by("pod", f"sum by (pod) (gpucost_pod_requests_total{here})")
            assert served["asked"] > PER_SECOND * WINDOW_SECONDS
            assert served["quiet"] == 0
            assert prometheus.by("direction", tokens).keys() >= {"input", "output"}
        # A window later nothing was asked of either.
        kube.wait("no cost of a request", lambda: not prometheus.vector(cost), WINDOW_SECONDS + 60)
    finally:
        upgrade()
