"""prometheus-operator with the chart's monitor and rules; upgrades from an older chart; admission.

Of releases of its own, beside the one that the other steps measure.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import requests
import yaml

from cluster import images, operators
from cluster.components import Components
from cluster.place import ROOT, Place
from e2e.kube import CHART, CommandError, Evidence, Kube, gpu_pod, run
from e2e.prom import Prometheus

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.slow

NAMESPACE = "watched"
RELEASE = "gpucost-watched"
OLD_CHART = ROOT / "tests/helm/old"

VALUES = """
clusterName: east
state: {hostPath: /var/lib/gpucost-watched}
config: {scrape_interval_seconds: 5}
scrape: {monitor: {labels: {of: watched}}}
rules:
  method: prometheusRule
  labels: {of: watched}
  settings:
    interval: 5s
    thresholds: {idle_after_seconds: 20}
"""

MANIFESTS = f"""
apiVersion: v1
kind: Namespace
metadata:
  name: {NAMESPACE}
  labels: {{pod-security.kubernetes.io/enforce: privileged}}
---
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
  securityContext: {{runAsUser: 65534, runAsGroup: 65534, fsGroup: 65534}}
  tolerations: [{{operator: Exists}}]
"""


@pytest.fixture(scope="module")
def operator() -> Iterator[None]:
    """prometheus-operator, with a Prometheus and an Alertmanager of its own."""
    place = Place.of_environment()
    images.import_images(Components(place), operators.archives(place.programs), place)
    kube = Kube(Evidence())
    objects = operators.prometheus_operator(place.programs)
    kube("apply", "--server-side", "-f", "-", stdin=yaml.safe_dump_all(objects), timeout=180)
    kube("rollout", "status", "deployment/prometheus-operator", "--timeout=3m", timeout=190)
    kube("apply", "-f", "-", stdin=MANIFESTS)
    for name in ("prometheus-watched", "alertmanager-main"):
        kube.wait(name, lambda name=name: _ready(kube, name), 240)  # type: ignore[misc]
    yield
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
def asked(operator: None, evidence: Evidence) -> tuple[Kube, Prometheus]:  # noqa: ARG001
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

    def groups() -> dict[str, list[dict[str, str]]]:
        found = requests.get(url, timeout=20).json()["data"]["groups"]
        return {each["name"]: each["rules"] for each in found}

    kube.wait("the rules", lambda: meant and meant <= groups().keys(), 180)  # type: ignore[arg-type, return-value]
    kube.wait(
        "an evaluation of each",
        lambda: all(rule["health"] == "ok" for rules in groups().values() for rule in rules),
        60,
    )


def test_an_idle_pod_pages_through_a_real_alertmanager(asked: tuple[Kube, Prometheus]) -> None:
    kube, _ = asked
    kube.apply(gpu_pod("idles", NAMESPACE, ["phases", "busy:0.9:5s,idle:1h"]))
    url = f"{_address(kube, 'alertmanager-main-0', 9093)}/api/v2/alerts"

    def paged() -> list[dict[str, dict[str, str]]]:
        alerts = requests.get(url, timeout=20).json()
        return [
            each
            for each in alerts
            if each["labels"]["alertname"] == "GPUIdle" and each["labels"].get("pod") == "idles"
        ]

    kube.wait("the page", lambda: bool(paged()), 300)
    [page] = paged()
    # 6.88 USD an hour, 730 hours a month.
    assert "$5022.40" in page["annotations"]["description"]
    kube.delete_pod(NAMESPACE, "idles")


def test_an_upgrade_loses_no_dollar(asked: tuple[Kube, Prometheus]) -> None:
    kube, prometheus = asked
    bill = "sum(gpucost_gpu_cost_usd_total)"
    before = prometheus.value(bill) or 0
    assert before > 0
    run(
        "helm", "upgrade", RELEASE, str(CHART), "-n", NAMESPACE, "--reuse-values",
        "--set=podLabels.rollout=again", "--wait", "--timeout=3m", timeout=200,
    )  # fmt: skip
    kube.wait("the new pod's page", lambda: (prometheus.value(bill) or 0) > before, 120)
    assert prometheus.value(f"sum(resets({bill.removeprefix('sum(')[:-1]}[15m]))") == 0


# --- Older charts, rollback, uninstall --------------------------------------------------------


def test_from_the_first_chart_and_back_and_away(evidence: Evidence) -> None:
    kube = Kube(evidence)
    name, namespace = "gpucost-older", "older"
    kube("create", "namespace", namespace)
    try:
        where = ("-n", namespace, "--wait", "--timeout=3m")
        run("helm", "install", name, str(OLD_CHART), *where, timeout=200)
        upgrade = ("helm", "upgrade", name, str(CHART), *where, "--reuse-values")
        run(*upgrade, "--set=state.hostPath=/var/lib/gpucost-older", timeout=200)
        run("helm", "rollback", name, "1", *where, timeout=200)
        run(*upgrade, "--set=state.enabled=false", timeout=200)
        assert "ready" in run("helm", "test", name, "-n", namespace, "--logs", timeout=180)
        run("helm", "uninstall", *where, name, timeout=200)
        kinds = (
            "daemonsets,pods,services,configmaps,secrets,serviceaccounts,networkpolicies,cronjobs"
        )
        ours = ("-l", f"app.kubernetes.io/instance={name}")
        assert kube("get", "clusterroles,clusterrolebindings", *ours) == ""
        # Pods of a DaemonSet go after it.
        kube.wait("nothing left", lambda: kube("get", kinds, "-n", namespace, *ours) == "")
    finally:
        kube("delete", "namespace", namespace, timeout=180)


# --- Pod Security and the network -------------------------------------------------------------


@pytest.mark.parametrize(("level", "refusal"), [("baseline", "hostPath"), ("privileged", "")])
def test_pod_security_admits_it_at_the_level_that_is_stated(
    evidence: Evidence, level: str, refusal: str
) -> None:
    kube = Kube(evidence)
    namespace = f"psa-{level}"
    kube("create", "namespace", namespace)
    try:
        kube("label", "namespace", namespace, f"pod-security.kubernetes.io/enforce={level}")
        made = yaml.safe_load_all(run("helm", "template", "gpucost", str(CHART), "-n", namespace))
        [daemonset] = [each for each in made if each and each["kind"] == "DaemonSet"]
        template = daemonset["spec"]["template"]
        template["spec"]["serviceAccountName"] = "default"
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {**template["metadata"], "name": "gpucost", "namespace": namespace},
            "spec": template["spec"],
        }
        kube.wait(
            "its account", lambda: bool(kube.get("-n", namespace, "serviceaccount", "default"))
        )
        dry = ("apply", "--dry-run=server", "-f", "-")
        if refusal:
            with pytest.raises(CommandError, match=refusal):
                kube(*dry, stdin=json.dumps(pod))
        else:
            kube(*dry, stdin=json.dumps(pod))
    finally:
        kube("delete", "namespace", namespace, timeout=120)
