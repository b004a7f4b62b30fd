"""prometheus-operator with the chart's monitors, rules and boards; Alertmanager pages a webhook.

Of a release of its own, beside the one that the other steps measure.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest
import requests
import yaml

from cluster import images, operators
from cluster.place import ROOT, Place
from e2e.kube import CHART, Evidence, Kube, gpu_pod, run
from e2e.pace import CYCLE_SECONDS
from e2e.pager import Pager
from e2e.prom import Prometheus

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from cluster.components import Components
    from e2e.truth import Truth

pytestmark = pytest.mark.slow

NAMESPACE = "watched"
RELEASE = "gpucost-watched"
SCRAPE_SECONDS = 5
GPUS, USD_PER_HOUR = 8, 6.88
"""Of a GPU of the node."""
BUDGET = 2.0
CENT = 0.01
"""A page tells whole ones."""
SPENDER = "spends"
"""The namespace that the budget is of."""

VALUES = f"""
clusterName: east
state: {{hostPath: /run/gpucost-watched}}
config: {{scrape_interval_seconds: {SCRAPE_SECONDS}}}
scrape: {{monitor: {{labels: {{of: watched}}}}}}
dashboards: {{method: configMap}}
rules:
  method: prometheusRule
  labels: {{of: watched}}
  settings:
    interval: 5s
    thresholds: {{idle_after_seconds: 20}}
    budgets:
      - {{name: {SPENDER}, usd_per_month: {BUDGET}, match: {{namespace: {SPENDER}}}}}
"""

MANIFESTS = f"""
apiVersion: v1
kind: ServiceAccount
metadata: {{name: prometheus, namespace: {NAMESPACE}}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {{name: prometheus, namespace: {NAMESPACE}}}
rules:
- apiGroups: [""]
  resources: [services, endpoints, pods]
  verbs: [get, list, watch]
- apiGroups: [discovery.k8s.io]
  resources: [endpointslices]
  verbs: [get, list, watch]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {{name: prometheus, namespace: {NAMESPACE}}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: Role, name: prometheus}}
subjects: [{{kind: ServiceAccount, name: prometheus, namespace: {NAMESPACE}}}]
---
apiVersion: monitoring.coreos.com/v1
kind: Prometheus
metadata: {{name: watched, namespace: {NAMESPACE}}}
spec:
  image: {operators.PROMETHEUS_IMAGE}
  imagePullPolicy: Never
  version: v3.5.0
  replicas: 1
  serviceAccountName: prometheus
  securityContext: {{runAsUser: 65534, runAsGroup: 65534, fsGroup: 65534}}
  tolerations: [{{operator: Exists}}]
  evaluationInterval: 5s
  serviceMonitorSelector: {{matchLabels: {{of: watched}}}}
  podMonitorSelector: {{matchLabels: {{of: watched}}}}
  ruleSelector: {{matchLabels: {{of: watched}}}}
  alerting:
    alertmanagers: [{{namespace: {NAMESPACE}, name: alertmanager-operated, port: web}}]
---
apiVersion: monitoring.coreos.com/v1
kind: Alertmanager
metadata: {{name: main, namespace: {NAMESPACE}}}
spec:
  image: {operators.ALERTMANAGER_IMAGE}
  imagePullPolicy: Never
  version: v0.31.1
  replicas: 1
  configSecret: alertmanager
  securityContext: {{runAsUser: 65534, runAsGroup: 65534, fsGroup: 65534}}
  tolerations: [{{operator: Exists}}]
"""


def routes(pager: Pager) -> dict[str, Any]:
    """The Secret of an Alertmanager that sends everything to a pager, at once."""
    settings = {
        "route": {
            "receiver": "pager",
            "group_by": ["..."],
            "group_wait": "0s",
            "group_interval": "1s",
        },
        "receivers": [{"name": "pager", "webhook_configs": [{"url": pager.url}]}],
    }
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "alertmanager", "namespace": NAMESPACE},
        "stringData": {"alertmanager.yaml": yaml.safe_dump(settings)},
    }


@pytest.fixture(scope="module")
def pager(inside: Components) -> Iterator[Pager]:
    """prometheus-operator, a Prometheus and an Alertmanager of its own, gpucost; who is paged."""
    place = Place.of_environment()
    archives = operators.archives(
        place.programs,
        operators.OPERATOR_IMAGE,
        operators.RELOADER_IMAGE,
        operators.PROMETHEUS_IMAGE,
        operators.ALERTMANAGER_IMAGE,
    )
    images.import_images(inside, archives, place)
    kube = Kube(Evidence())
    objects = operators.prometheus_operator(place.programs)
    kube("apply", "--server-side", "-f", "-", stdin=yaml.safe_dump_all(objects), timeout=180)
    kube("rollout", "status", "deployment/prometheus-operator", "--timeout=3m", timeout=190)
    kube("create", "namespace", NAMESPACE)
    with Pager() as pager:
        kube.apply(routes(pager))
        kube("apply", "-f", "-", stdin=MANIFESTS)
        for name in ("prometheus-watched", "alertmanager-main"):
            kube.wait(name, lambda name=name: _ready(kube, name), 240)  # type: ignore[misc]
        _install("podMonitor")
        yield pager
        run("helm", "uninstall", RELEASE, "-n", NAMESPACE, timeout=120)
    kube("delete", "namespace", NAMESPACE, timeout=180)
    kube("delete", "--wait=false", "-f", "-", stdin=yaml.safe_dump_all(objects), timeout=180)


def _ready(kube: Kube, name: str) -> bool:
    found = kube.get("-n", NAMESPACE, "statefulset", name)
    return bool(found.get("status", {}).get("readyReplicas"))


def _address(kube: Kube, pod: str, port: int) -> str:
    """The operator's own Services are headless: a pod's address."""
    found = kube.pod(NAMESPACE, pod)["status"]["podIP"]
    return f"http://{found}:{port}"


@pytest.fixture
def asked(pager: Pager, evidence: Evidence) -> tuple[Kube, Prometheus]:  # noqa: ARG001
    """Kubectl, and the operator's Prometheus."""
    kube = Kube(evidence)
    return kube, Prometheus(_address(kube, "prometheus-watched-0", 9090), evidence)


def _install(method: str) -> None:
    run(
        "helm", "upgrade", "--install", RELEASE, str(CHART), "-n", NAMESPACE, "-f", "-",
        f"--set=scrape.method={method}", "--wait", "--timeout=3m", stdin=VALUES, timeout=200,
    )  # fmt: skip


def test_the_operator_scrapes_by_either_monitor_and_a_target_stays_its_node(
    asked: tuple[Kube, Prometheus],
) -> None:
    kube, prometheus = asked
    target = {"__name__": "up", "instance": "gpu-1", "job": "gpucost", "cluster": "east"}
    for method in ("podMonitor", "serviceMonitor"):
        _install(method)
        kube.wait(
            f"the operator's configuration of the {method}",
            lambda method=method: (  # type: ignore[misc]
                method.lower() in str(prometheus.by("scrape_job", "up")).lower()
                or [dict(labels) for labels in prometheus.vector("up")] == [target]
            ),
            240,
        )
        assert [dict(labels) for labels in prometheus.vector("up")] == [target]
    kube.wait("dollars", lambda: (prometheus.value("sum(gpucost_gpu_cost_usd_total)") or 0) > 0)
    series = prometheus.vector("gpucost_gpu_cost_usd_total")
    assert {dict(labels)["instance"] for labels in series} == {"gpu-1"}
    assert {dict(labels).get("namespace") for labels in series} == {None}


def test_the_rules_load_and_none_of_them_fails(asked: tuple[Kube, Prometheus]) -> None:
    kube, _ = asked
    url = f"{_address(kube, 'prometheus-watched-0', 9090)}/api/v1/rules"
    meant = {
        group["name"]
        for each in kube.get("-n", NAMESPACE, "prometheusrules")["items"]
        for group in each["spec"]["groups"]
    }

    def groups() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = requests.get(url, timeout=20).json()["data"]["groups"]
        return found

    def well() -> bool:
        """Each rule's last evaluation; that of a group with minutes between may be to come."""
        return all(
            rule["health"] == "ok" or (rule["health"] == "unknown" and group["interval"] > 60)
            for group in groups()
            for rule in group["rules"]
        )

    kube.wait("the rules", lambda: meant <= {group["name"] for group in groups()}, 180)
    kube.wait("an evaluation of each", well, 60)
    assert meant


def test_grafanas_sidecar_finds_exactly_the_boards_of_the_repository(
    asked: tuple[Kube, Prometheus],
) -> None:
    kube, _ = asked
    found = kube.get("-n", NAMESPACE, "configmaps", "-l", "grafana_dashboard=1")["items"]
    boards = {name: text for each in found for name, text in each["data"].items()}
    ours = {path.name: path.read_text() for path in (ROOT / "dashboards").glob("*.json")}
    assert {name: json.loads(text) for name, text in boards.items()} == {
        name: json.loads(text) for name, text in ours.items()
    }
    assert len(found) == len(ours)


def test_an_idle_pod_pages_a_webhook_with_its_dollars_and_the_page_resolves(
    asked: tuple[Kube, Prometheus], pager: Pager
) -> None:
    kube, _ = asked
    idles = {"alertname": "GPUIdle", "namespace": NAMESPACE, "pod": "idles"}
    kube.apply(gpu_pod("idles", NAMESPACE, ["phases", "busy:0.9:5s,idle:1h"]))
    kube.wait("the page", lambda: bool(pager.pages("firing", **idles)), 300)
    [page] = pager.pages("firing", **idles)
    # 730 hours a month.
    assert f"${USD_PER_HOUR * 730:.2f}" in page["annotations"]["description"]
    assert not pager.pages("resolved", **idles)
    kube.delete_pod(NAMESPACE, "idles")
    kube.wait("the all-clear", lambda: bool(pager.pages("resolved", **idles)), 300)


def test_a_budget_pages_at_50_90_and_100_percent_with_what_was_spent(
    asked: tuple[Kube, Prometheus], pager: Pager, truth: Truth
) -> None:
    kube, prometheus = asked
    kube("create", "namespace", SPENDER)
    try:
        # All of the node: 55.04 USD an hour is past 2 USD in a little more than two minutes.
        kube.apply(gpu_pod("trains", SPENDER, ["train"], gpus=GPUS))
        spent = f'budget:gpucost_cost_usd:month_to_date{{budget="{SPENDER}"}}'
        crossed = {}
        for share, severity in ((50, "info"), (90, "warning"), (100, "critical")):
            labels = {
                "alertname": "GPUBudgetSpent",
                "budget": SPENDER,
                "share": str(share),
                "severity": severity,
            }
            kube.wait(f"{share} %", lambda of=labels: bool(pager.pages("firing", **of)), 300)  # type: ignore[misc]
            crossed[share] = prometheus.value(spent) or 0
            [page] = pager.pages("firing", **labels)
            [told] = re.findall(r"has spent \$([0-9.]+)", page["annotations"]["description"])
            # Paged as soon as it was so: rules and scrapes are five seconds apart, and a page is
            # a few more on its way.
            late = 20 * GPUS * USD_PER_HOUR / 3600
            assert share / 100 * BUDGET <= float(told) + CENT / 2
            assert float(told) - CENT / 2 <= crossed[share] <= share / 100 * BUDGET + late
        assert crossed[50] < crossed[90]
        # In the end, what the kubelet saw held at the node's price; to a cycle, as it is charged.
        kube.delete_pod(SPENDER, "trains")
        kube.wait("all let go", lambda: (SPENDER, "trains") not in truth.held())
        true = truth.seconds()[SPENDER, "trains"] / 3600 * USD_PER_HOUR
        edge = GPUS * CYCLE_SECONDS / 3600 * USD_PER_HOUR
        kube.wait("the whole bill", lambda: abs((prometheus.value(spent) or 0) - true) <= edge, 90)
        assert true > BUDGET
    finally:
        kube("delete", "namespace", SPENDER, timeout=120)
