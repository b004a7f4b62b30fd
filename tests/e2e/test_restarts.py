"""Parts of the node end and come back: nobody is charged twice, and nothing is lost."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from cluster.place import NODE
from e2e.kube import gpu_pod
from e2e.memory import crowd_out, exporter_process
from e2e.pace import EDGE_SECONDS

if TYPE_CHECKING:
    from cluster.components import Components
    from e2e.kube import Kube
    from e2e.prom import Prometheus
    from e2e.truth import Truth

GPUS = 8
BEFORE_SECONDS = 15
AFTER_SECONDS = 30
AWAY_SECONDS = 150

NODE_SECONDS = "sum(gpucost_gpu_seconds_total)"


def _held(namespace: str) -> str:
    return f'sum(gpucost_pod_gpu_seconds_total{{namespace="{namespace}",pod="steady"}})'


@pytest.fixture
def steady(kube: Kube, prometheus: Prometheus, namespace: str, truth: Truth) -> str:
    """A pod that trains on two GPUs, seen by Prometheus; its namespace."""
    kube.apply(gpu_pod("steady", namespace, ["train", "--busy", "0.9"], gpus=2))
    kube.wait("it holds", lambda: (namespace, "steady") in truth.held())
    kube.wait("it is charged", lambda: (prometheus.value(_held(namespace)) or 0) > BEFORE_SECONDS)
    return namespace


@pytest.mark.parametrize("name", ["kubelet", "containerd", "kube-apiserver"])
def test_a_restart_beside_the_exporter_neither_doubles_nor_loses_anything(
    node: Components, kube: Kube, prometheus: Prometheus, truth: Truth, steady: str, name: str
) -> None:
    exporters = _exporters(kube)
    before, began = _figures(prometheus, truth, steady), time.monotonic()
    node.restart(name)
    time.sleep(AFTER_SECONDS)
    after, lasted = _figures(prometheus, truth, steady), time.monotonic() - began
    assert _exporters(kube) == exporters
    assert after.node - before.node == pytest.approx(GPUS * lasted, abs=GPUS * EDGE_SECONDS)
    assert after.held - before.held == pytest.approx(after.true - before.true, abs=2 * EDGE_SECONDS)
    assert abs(prometheus.value("max(abs(gpucost_ledger_imbalance_usd))") or 0) < 1e-9
    kube.wait("every source answers", lambda: prometheus.value("min(gpucost_source_up)") == 1)


def test_containerd_away_for_a_while_leaves_the_holders_as_they_are(
    node: Components, kube: Kube, prometheus: Prometheus, truth: Truth, steady: str
) -> None:
    before = _figures(prometheus, truth, steady)
    node.stop("containerd")
    time.sleep(20)
    node.start("containerd")
    time.sleep(EDGE_SECONDS)
    after = _figures(prometheus, truth, steady)
    assert after.held - before.held == pytest.approx(after.true - before.true, abs=2 * EDGE_SECONDS)
    kube.wait("every source answers", lambda: prometheus.value("min(gpucost_source_up)") == 1)


def test_the_api_server_away_for_minutes_shows_and_changes_no_dollar(
    node: Components, kube: Kube, prometheus: Prometheus, truth: Truth, steady: str
) -> None:
    price = prometheus.value("max(gpucost_gpu_price_usd_per_hour)")
    before, began = _figures(prometheus, truth, steady), time.monotonic()
    node.stop("kube-apiserver")
    try:
        kube.wait("it shows", lambda: prometheus.value(_up("kubernetes")) == 0)
        stale = 'gpucost_problems{source="kubernetes",kind="stale"}'
        assert (prometheus.value(stale) or 0) > 0
        time.sleep(max(0.0, began + AWAY_SECONDS - time.monotonic()))
    finally:
        node.start("kube-apiserver")
    kube.wait("every source answers", lambda: prometheus.value("min(gpucost_source_up)") == 1)
    after, lasted = _figures(prometheus, truth, steady), time.monotonic() - began
    assert after.node - before.node == pytest.approx(GPUS * lasted, abs=GPUS * EDGE_SECONDS)
    assert after.held - before.held == pytest.approx(after.true - before.true, abs=2 * EDGE_SECONDS)
    assert prometheus.value("max(gpucost_gpu_price_usd_per_hour)") == price
    assert prometheus.value("sum(gpucost_unpriced_gpus)") == 0


def test_a_kubelet_that_hangs_shows_and_leaves_the_holders_as_they_are(
    node: Components, kube: Kube, prometheus: Prometheus, truth: Truth, steady: str
) -> None:
    before, began = _figures(prometheus, truth, steady), time.monotonic()
    node.freeze("kubelet")
    try:
        kube.wait("it shows", lambda: prometheus.value(_up("kubelet")) == 0)
        assert (prometheus.value('gpucost_problems{source="kubelet"}') or 0) > 0
        time.sleep(AFTER_SECONDS)
    finally:
        node.thaw("kubelet")
    kube.wait("every source answers", lambda: prometheus.value("min(gpucost_source_up)") == 1)
    after, lasted = _figures(prometheus, truth, steady), time.monotonic() - began
    assert after.node - before.node == pytest.approx(GPUS * lasted, abs=GPUS * EDGE_SECONDS)
    assert after.held - before.held == pytest.approx(after.true - before.true, abs=2 * EDGE_SECONDS)


@pytest.mark.usefixtures("node")
def test_an_exporter_that_the_kernel_kills_for_its_memory_goes_on_where_it_was(
    kube: Kube, prometheus: Prometheus, truth: Truth, steady: str
) -> None:
    [(uid, restarts)] = _exporters(kube)
    falls = f"resets({_held(steady)}[10m:2s])"
    before, began = _figures(prometheus, truth, steady), time.monotonic()
    crowd_out(exporter_process())
    kube.wait("it is started again", lambda: _exporters(kube) == [(uid, restarts + 1)])
    assert _last_end(kube) == "OOMKilled"
    time.sleep(AFTER_SECONDS)
    after, lasted = _figures(prometheus, truth, steady), time.monotonic() - began
    assert after.node - before.node == pytest.approx(GPUS * lasted, abs=GPUS * EDGE_SECONDS)
    assert after.held - before.held == pytest.approx(after.true - before.true, abs=2 * EDGE_SECONDS)
    assert prometheus.value(falls) == 0


@pytest.mark.parametrize("how", ["deleted", "rolled out"])
def test_an_exporter_that_is_replaced_loses_nothing_and_starts_no_new_series(
    kube: Kube, prometheus: Prometheus, truth: Truth, steady: str, how: str
) -> None:
    series = "count(count by (instance, job, node) (last_over_time(gpucost_node_info[15m])))"
    falls = f"resets({_held(steady)}[10m:2s])"
    before, began = _figures(prometheus, truth, steady), time.monotonic()
    exporters = _exporters(kube)
    if how == "deleted":
        kube("delete", "pod", "-l", "app.kubernetes.io/name=gpucost", timeout=120)
    else:
        kube("rollout", "restart", "daemonset/gpucost")
    kube("rollout", "status", "daemonset/gpucost", timeout=120)
    kube.wait("a new exporter", lambda: not set(_exporters(kube)) & set(exporters))
    time.sleep(AFTER_SECONDS)
    after, lasted = _figures(prometheus, truth, steady), time.monotonic() - began
    assert after.node - before.node == pytest.approx(GPUS * lasted, abs=GPUS * EDGE_SECONDS)
    assert after.held - before.held == pytest.approx(after.true - before.true, abs=2 * EDGE_SECONDS)
    assert prometheus.value(falls) == 0
    assert prometheus.value(series) == 1


def test_a_node_that_is_drained_and_made_again_charges_on(
    node: Components, kube: Kube, prometheus: Prometheus, truth: Truth, steady: str
) -> None:
    labels = kube.get("node", NODE)["metadata"]["labels"]
    before, began = _figures(prometheus, truth, steady), time.monotonic()
    selector = "--pod-selector=app=steady"
    kube("drain", NODE, "--ignore-daemonsets", "--force", selector, timeout=120)
    kube.wait("the GPUs are let go", lambda: (steady, "steady") not in truth.held())
    true = truth.seconds()[steady, "steady"]
    kube("delete", "node", NODE)
    node.restart("kubelet")
    kube("label", "--overwrite", "node", NODE, *(f"{key}={value}" for key, value in labels.items()))
    kube.wait("it is priced", lambda: prometheus.value("sum(gpucost_unpriced_gpus)") == 0)
    time.sleep(AFTER_SECONDS)
    lasted = time.monotonic() - began
    held = prometheus.value(f"max_over_time({_held(steady)}[10m:2s])") or 0
    assert held - before.held == pytest.approx(true - before.true, abs=2 * EDGE_SECONDS)
    spent = (prometheus.value(NODE_SECONDS) or 0) - before.node
    assert spent == pytest.approx(GPUS * lasted, abs=GPUS * EDGE_SECONDS)
    kube.wait("its GPUs are offered again", lambda: _offered(kube) == GPUS)


class _Figures:
    def __init__(self, node: float, held: float, true: float) -> None:
        self.node = node
        self.held = held
        self.true = true


def _figures(prometheus: Prometheus, truth: Truth, namespace: str) -> _Figures:
    """GPU-seconds that Prometheus has of the node and of the pod, and the pod's true ones."""
    node, held = prometheus.value(NODE_SECONDS), prometheus.value(_held(namespace))
    assert node is not None
    assert held is not None
    return _Figures(node, held, truth.seconds().get((namespace, "steady"), 0.0))


def _exporters(kube: Kube) -> list[tuple[str, int]]:
    """Each exporter's pod, and how often its container was started again."""
    pods = kube.get("pods", "-l", "app.kubernetes.io/name=gpucost")["items"]
    return [
        (pod["metadata"]["uid"], pod["status"]["containerStatuses"][0]["restartCount"])
        for pod in pods
    ]


def _last_end(kube: Kube) -> str:
    """Why the exporter's container ended the last time."""
    [pod] = kube.get("pods", "-l", "app.kubernetes.io/name=gpucost")["items"]
    return str(pod["status"]["containerStatuses"][0]["lastState"]["terminated"]["reason"])


def _up(source: str) -> str:
    return f'gpucost_source_up{{source="{source}"}}'


def _offered(kube: Kube) -> int:
    return int(kube.get("node", NODE)["status"]["allocatable"].get("nvidia.com/gpu", 0))
