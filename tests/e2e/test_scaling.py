"""KEDA and the HPA scale a Deployment on the cost law: real ones, with the chart's ScaledObject.

What a gateway and a service of many replicas would show is written into Prometheus by rules of the
step, under the names that gpucost and the gateway would use; everything from there on is real.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest
import requests
import yaml

from cluster import images, operators
from cluster.components import Components
from cluster.place import Place
from e2e.kube import CHART, Evidence, Kube, run
from e2e.prom import Prometheus

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.slow

NAMESPACE = "scaled"
SERVICE = "chat"
PROMETHEUS = "scaling-prometheus"

VALUES = f"""
rules: {{method: configMap, namespace: {NAMESPACE}}}
scrape: {{method: none}}
scaling:
  prometheus: {{serverAddress: "http://{PROMETHEUS}.{NAMESPACE}.svc.cluster.local:9090"}}
  targets:
    - name: {SERVICE}
      namespace: {NAMESPACE}
      minReplicas: 0
      maxReplicas: 8
      requestsPerReplica: 10
      usdPerHour: 13
      cooldownSeconds: 20
      queue: played_queue
      behavior:
        scaleUp: {{stabilizationWindowSeconds: 0}}
        scaleDown: {{stabilizationWindowSeconds: 15}}
"""

MANIFESTS = f"""
apiVersion: v1
kind: Namespace
metadata: {{name: {NAMESPACE}}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {SERVICE}, namespace: {NAMESPACE}}}
spec:
  replicas: 0
  selector: {{matchLabels: {{app: {SERVICE}}}}}
  template:
    metadata: {{labels: {{app: {SERVICE}}}}}
    spec:
      terminationGracePeriodSeconds: 1
      tolerations: [{{operator: Exists}}]
      containers: [{{name: main, image: localhost/pause:1, imagePullPolicy: Never}}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {PROMETHEUS}, namespace: {NAMESPACE}}}
spec:
  strategy: {{type: Recreate}}
  selector: {{matchLabels: {{app: {PROMETHEUS}}}}}
  template:
    metadata: {{labels: {{app: {PROMETHEUS}}}}}
    spec:
      terminationGracePeriodSeconds: 1
      tolerations: [{{operator: Exists}}]
      securityContext: {{runAsUser: 65534, runAsGroup: 65534, fsGroup: 65534}}
      containers:
      - name: prometheus
        image: localhost/prometheus:1
        imagePullPolicy: Never
        args:
        - --config.file=/etc/prometheus/prometheus.yaml
        - --storage.tsdb.path=/data
        - --web.enable-lifecycle
        readinessProbe: {{httpGet: {{path: /-/ready, port: 9090}}, periodSeconds: 1}}
        volumeMounts:
        - {{name: settings, mountPath: /etc/prometheus}}
        - {{name: rules, mountPath: /etc/rules}}
        - {{name: data, mountPath: /data}}
      volumes:
      - {{name: settings, configMap: {{name: {PROMETHEUS}}}}}
      - {{name: rules, configMap: {{name: gpucost-scaling-rules}}}}
      - {{name: data, emptyDir: {{}}}}
---
apiVersion: v1
kind: Service
metadata: {{name: {PROMETHEUS}, namespace: {NAMESPACE}}}
spec:
  selector: {{app: {PROMETHEUS}}}
  ports: [{{port: 9090}}]
"""
SETTINGS = {
    "global": {"evaluation_interval": "5s"},
    "rule_files": ["/etc/prometheus/played.yaml", "/etc/rules/*.yaml"],
}
REPLICA_USD_PER_HOUR = 4


def played(queue: int, replicas: int, running: int) -> str:
    """What exporter and gateway would show of a service with so many replicas."""
    labels = {"namespace": NAMESPACE, "workload": SERVICE, "node": "played"}
    rules: list[dict[str, Any]] = [
        {"record": "gpucost_build_info", "expr": "vector(1)", "labels": {"node": "played"}},
        {"record": "played_queue", "expr": f"vector({queue})"},
    ]
    for number in range(replicas):
        pod = {**labels, "pod": f"{SERVICE}-{number}", "container": "main"}
        share = running / replicas
        rules += [
            {
                "record": "gpucost_pod_holding_since_timestamp_seconds",
                "expr": "vector(1)",
                "labels": pod,
            },
            {
                "record": "gpucost_pod_cost_usd_per_hour",
                "expr": f"vector({REPLICA_USD_PER_HOUR})",
                "labels": pod,
            },
            {"record": "gpucost_pod_requests_running", "expr": f"vector({share})", "labels": pod},
        ]
    return yaml.safe_dump({"groups": [{"name": "played", "interval": "5s", "rules": rules}]})


class Played:
    """The service as Prometheus sees it."""

    def __init__(self, kube: Kube, evidence: Evidence) -> None:
        self._kube = kube
        self._evidence = evidence

    def show(self, queue: int, replicas: int, running: int) -> None:
        """Show another state, and wait until Prometheus has it."""
        self.write(queue, replicas, running)
        self._kube.wait("Prometheus shows it", lambda: self._shown(queue, running), 180)

    def write(self, queue: int, replicas: int, running: int) -> None:
        """Show another state, soon."""
        self._kube.apply(
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": PROMETHEUS, "namespace": NAMESPACE},
                "data": {
                    "prometheus.yaml": yaml.safe_dump(SETTINGS),
                    "played.yaml": played(queue, replicas, running),
                },
            }
        )

    def _shown(self, queue: int, running: int) -> bool:
        """Whether Prometheus has it; it is told to look, and so is the kubelet."""
        # A changed pod is looked after at once, and its files with it; else within a minute or two.
        self._kube(
            "-n", NAMESPACE, "annotate", "pod", "-l", f"app={PROMETHEUS}", "--overwrite",
            f"gpucost.io/now={time.monotonic():.0f}",
        )  # fmt: skip
        address = self._kube.get("-n", NAMESPACE, "service", PROMETHEUS)["spec"]["clusterIP"]
        requests.post(f"http://{address}:9090/-/reload", timeout=10)
        prometheus = Prometheus(f"http://{address}:9090", self._evidence)
        seen = prometheus.value("sum(gpucost_pod_requests_running) or vector(0)")
        return prometheus.value("played_queue") == queue and seen == running

    def replicas(self) -> int:
        """How many the Deployment shall have."""
        return int(self._kube.get("-n", NAMESPACE, "deployment", SERVICE)["spec"]["replicas"])


@pytest.fixture(scope="module")
def keda() -> Iterator[None]:
    """KEDA, taken away again."""
    place = Place.of_environment()
    images.import_images(Components(place), operators.archives(place.programs), place)
    kube = Kube(Evidence())
    objects = operators.keda(place.programs)
    kube("apply", "--server-side", "-f", "-", stdin=yaml.safe_dump_all(objects), timeout=120)
    for name in ("keda-operator", "keda-metrics-apiserver", "keda-admission"):
        kube("-n", "keda", "rollout", "status", f"deployment/{name}", "--timeout=4m", timeout=250)
    kube.wait("KEDA's metrics", lambda: _available(kube), 120)
    yield
    kube("delete", "--wait=false", "-f", "-", stdin=yaml.safe_dump_all(objects), timeout=120)


def _available(kube: Kube) -> bool:
    found = kube.get("apiservice", "v1beta1.external.metrics.k8s.io")
    return any(
        each["type"] == "Available" and each["status"] == "True"
        for each in found.get("status", {}).get("conditions", ())
    )


@pytest.fixture
def service(keda: None, evidence: Evidence) -> Iterator[Played]:  # noqa: ARG001 - it need be there
    """The Deployment, its Prometheus and the chart's ScaledObject."""
    kube = Kube(evidence)
    kube("apply", "-f", "-", stdin=MANIFESTS)
    service = Played(kube, evidence)
    service.write(queue=0, replicas=0, running=0)
    run(
        "helm", "upgrade", "--install", "gpucost-scaling", str(CHART), "-f", "-",
        "--set=nodeSelector.nowhere=yes", stdin=VALUES, timeout=120,
    )  # fmt: skip
    kube("-n", NAMESPACE, "rollout", "status", f"deployment/{PROMETHEUS}", timeout=130)
    yield service
    run("helm", "uninstall", "gpucost-scaling", timeout=120)
    kube("delete", "namespace", NAMESPACE, timeout=180)


def test_keda_and_the_hpa_do_as_the_law_says(service: Played, evidence: Evidence) -> None:
    kube = Kube(evidence)

    def becomes(replicas: int, seconds: float = 240) -> None:
        took = kube.wait(
            f"{replicas} replicas", lambda: service.replicas() == replicas, seconds=seconds
        )
        print(f"{replicas} replicas after {took:.0f} s")

    # Demand at zero: one is woken, to learn its price.
    service.show(queue=40, replicas=0, running=0)
    becomes(1)
    # It costs 4 USD an hour, and the load wants eight: the budget of 13 allows three.
    service.show(queue=30, replicas=1, running=10)
    becomes(3)
    # Less load: two are enough, and stay while the load is between the thresholds.
    service.show(queue=0, replicas=3, running=8)
    becomes(2)
    # Prometheus is gone: what runs goes on.
    kube("-n", NAMESPACE, "scale", f"deployment/{PROMETHEUS}", "--replicas=0")
    kube.wait("the fallback", lambda: _condition(kube, "Fallback") == "True", 240)
    time.sleep(30)  # the cooldown, if it were wrong
    assert service.replicas() == 2
    kube("-n", NAMESPACE, "scale", f"deployment/{PROMETHEUS}", "--replicas=1")
    kube.wait("no fallback", lambda: _condition(kube, "Fallback") == "False", 240)
    assert service.replicas() == 2
    # Nobody asks for five minutes, and the cooldown.
    service.show(queue=0, replicas=2, running=0)
    becomes(0, 600)
    # And back on demand, at the price it had: the load wants four, the budget allows three.
    service.show(queue=20, replicas=0, running=0)
    becomes(3)


def test_kedas_webhook_takes_what_the_chart_makes(service: Played, evidence: Evidence) -> None:
    kube = Kube(evidence)
    assert service.replicas() == 0
    kube.wait("the ScaledObject", lambda: _condition(kube, "Ready") == "True", 120)


def _condition(kube: Kube, kind: str) -> str:
    found = kube.get("-n", NAMESPACE, "scaledobject", SERVICE)
    for each in found.get("status", {}).get("conditions", ()):
        if each["type"] == kind:
            return str(each["status"])
    return ""
