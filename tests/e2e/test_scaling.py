"""KEDA and the HPA scale a service on the cost law, with the chart's ScaledObject; all of it real.

The replicas hold GPUs of the kubelet's, and the exporter counts their dollars and requests. Clients
ask a gateway, which holds what no replica has a slot for. A Prometheus scrapes both and evaluates
the chart's rules; KEDA asks that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import yaml

from cluster import images, operators
from cluster.place import Place
from e2e.kube import CHART, CommandError, Evidence, Kube, run
from e2e.load import PORT, Gateway
from e2e.prom import Prometheus

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cluster.components import Components

pytestmark = pytest.mark.slow

NAMESPACE = "scaled"
SERVICE = "chat"
PROMETHEUS = "scaling-prometheus"
RELEASE = "gpucost-scaling"
SLOTS = 10

# A GPU costs 6.88 USD an hour: the budget is three replicas.
VALUES = f"""
rules: {{method: configMap, namespace: {NAMESPACE}}}
scrape: {{method: none}}
nodeSelector: {{gpucost.io/only: rules-and-target}}
scaling:
  prometheus: {{serverAddress: "http://{PROMETHEUS}.{NAMESPACE}.svc.cluster.local:9090"}}
  targets:
    - name: {SERVICE}
      namespace: {NAMESPACE}
      minReplicas: 0
      maxReplicas: 8
      requestsPerReplica: {SLOTS}
      usdPerRequest: 0.01
      usdPerHour: 21
      cooldownSeconds: 20
      queue: {Gateway.METRIC}
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
    metadata:
      labels: {{app: {SERVICE}}}
      annotations: {{gpucost.io/metrics: "{PORT}"}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: main
        image: localhost/worker:1
        imagePullPolicy: Never
        args: [serve, --slots={SLOTS}, --takes=1s, --after=2s]
        readinessProbe: {{httpGet: {{path: /, port: {PORT}}}, periodSeconds: 1}}
        resources: {{limits: {{nvidia.com/gpu: 1}}}}
---
apiVersion: v1
kind: ServiceAccount
metadata: {{name: prometheus, namespace: {NAMESPACE}}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {{name: {PROMETHEUS}, namespace: default}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: prometheus}}
subjects: [{{kind: ServiceAccount, name: prometheus, namespace: {NAMESPACE}}}]
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
      serviceAccountName: prometheus
      terminationGracePeriodSeconds: 1
      tolerations: [{{operator: Exists}}]
      securityContext: {{runAsUser: 65534, runAsGroup: 65534, fsGroup: 65534}}
      containers:
      - name: prometheus
        image: localhost/prometheus:1
        imagePullPolicy: Never
        args: [--config.file=/etc/prometheus/prometheus.yaml, --storage.tsdb.path=/data]
        readinessProbe: {{httpGet: {{path: /-/ready, port: 9090}}, periodSeconds: 1}}
        volumeMounts:
        - {{name: settings, mountPath: /etc/prometheus}}
        - {{name: rules, mountPath: /etc/rules}}
        - {{name: data, mountPath: /data}}
      volumes:
      - {{name: settings, configMap: {{name: {PROMETHEUS}}}}}
      - {{name: rules, configMap: {{name: {RELEASE}-rules}}}}
      - {{name: data, emptyDir: {{}}}}
---
apiVersion: v1
kind: Service
metadata: {{name: {PROMETHEUS}, namespace: {NAMESPACE}}}
spec:
  selector: {{app: {PROMETHEUS}}}
  ports: [{{port: 9090}}]
"""


def settings(gateway: Gateway) -> str:
    """Of that Prometheus: the chart's own scrape config, and the gateway."""
    [exporters] = yaml.safe_load((CHART / "files/scrape-config.yaml").read_text())
    for discovery in exporters["kubernetes_sd_configs"]:
        discovery["namespaces"] = {"names": ["default"]}
    return yaml.safe_dump(
        {
            "global": {"scrape_interval": "5s", "scrape_timeout": "5s"},
            "rule_files": ["/etc/rules/*.yaml"],
            "scrape_configs": [
                exporters | {"scrape_interval": "5s"},
                {"job_name": "gateway", "static_configs": [{"targets": [gateway.address]}]},
            ],
        }
    )


@pytest.fixture(scope="module")
def keda(inside: Components) -> Iterator[None]:
    """KEDA, taken away again."""
    place = Place.of_environment()
    archives = operators.archives(place.programs, operators.KEDA_IMAGE)
    images.import_images(inside, archives, place)
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


HOURS = "officeHours: {timezone: Europe/Berlin, start: 0 8 * * 1-5, end: 0 18 * * 1-5, replicas: 1}"


def made(words: str) -> list[dict[str, Any]]:
    """What the chart makes for KEDA of a target with these words, and credentials."""
    values = f"""
rules: {{method: configMap}}
scaling:
  prometheus:
    serverAddress: https://prometheus
    authModes: bearer
    secretTargetRef: [{{parameter: bearerToken, name: prometheus, key: token}}]
  targets: [{{name: tried, namespace: default, maxReplicas: 8, {words}}}]
"""
    text = run("helm", "template", RELEASE, str(CHART), "-f", "-", stdin=values)
    objects = [each for each in yaml.safe_load_all(text) if each]
    return [each for each in objects if each["apiVersion"].startswith("keda.sh/")]


@pytest.mark.parametrize(
    "words",
    [
        "minReplicas: 1",
        "minReplicas: 1, usdPerHour: 9",
        "minReplicas: 1, usdPerRequest: 0.01, profile: batch",
        f"usdPerRequest: 0.01, usdPerHour: 9, profile: interactive, {HOURS}",
    ],
)
def test_kedas_webhook_takes_what_the_chart_makes(
    words: str,
    keda: None,  # noqa: ARG001
    kube: Kube,
) -> None:
    objects = made(words)
    assert {each["kind"] for each in objects} == {"ScaledObject", "TriggerAuthentication"}
    kube("apply", "--dry-run=server", "-f", "-", stdin=yaml.safe_dump_all(objects))


def test_kedas_webhook_would_refuse_a_formula_of_what_is_not_there(
    keda: None,  # noqa: ARG001
    kube: Kube,
) -> None:
    [scaled] = [each for each in made("minReplicas: 1") if each["kind"] == "ScaledObject"]
    scaled["spec"]["advanced"]["scalingModifiers"]["formula"] = "min(need, affordable)"
    with pytest.raises(CommandError, match="affordable"):
        kube("apply", "--dry-run=server", "-f", "-", stdin=yaml.safe_dump(scaled))


class Service:
    """The service that is scaled, and those who ask it."""

    def __init__(self, kube: Kube, gateway: Gateway, prometheus: Prometheus) -> None:
        self._kube = kube
        self._gateway = gateway
        self.prometheus = prometheus

    def clients(self, number: int) -> None:
        """So many ask at a time, again and again."""
        self._gateway.clients(number)

    def replicas(self) -> int:
        """How many the Deployment shall have."""
        return int(self._kube.get("-n", NAMESPACE, "deployment", SERVICE)["spec"]["replicas"])

    def becomes(self, replicas: int, seconds: float = 240, most: int = 8) -> None:
        """Wait for so many, without ever more than `most`."""

        def reached() -> bool:
            now = self.replicas()
            assert now <= most, f"{now} replicas, where {most} are allowed"
            return now == replicas

        took = self._kube.wait(f"{replicas} replicas", reached, seconds)
        print(f"{replicas} replicas after {took:.0f} s")

    def stays(self, replicas: int, seconds: float) -> None:
        """See that it has so many for as long."""
        self._kube.stays(f"{replicas} replicas", lambda: self.replicas() == replicas, seconds)

    def condition(self, kind: str) -> str:
        """A condition of the ScaledObject: True, False, or nothing yet."""
        found = self._kube.get("-n", NAMESPACE, "scaledobject", SERVICE)
        for each in found.get("status", {}).get("conditions", ()):
            if each["type"] == kind:
                return str(each["status"])
        return ""


@pytest.fixture
def service(keda: None, kube: Kube, evidence: Evidence) -> Iterator[Service]:  # noqa: ARG001
    """The Deployment at zero, its gateway and Prometheus, and the chart's ScaledObject."""

    def ready() -> list[str]:
        pods = run(
            "kubectl", "-n", NAMESPACE, "get", "pods", "-l", f"app={SERVICE}", "-o",
            'jsonpath={range .items[?(@.status.containerStatuses[0].ready)]}'
            '{.status.podIP}{"\\n"}{end}',
        )  # fmt: skip
        return pods.split()

    kube("apply", "-f", "-", stdin=MANIFESTS)
    gateway = Gateway(ready, SLOTS)
    try:
        kube.apply(
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": PROMETHEUS, "namespace": NAMESPACE},
                "data": {"prometheus.yaml": settings(gateway)},
            }
        )
        chart = ("helm", "upgrade", "--install", RELEASE, str(CHART), "-f", "-")
        run(*chart, stdin=VALUES, timeout=120)
        kube("-n", NAMESPACE, "rollout", "status", f"deployment/{PROMETHEUS}", timeout=130)
        address = kube.get("-n", NAMESPACE, "service", PROMETHEUS)["spec"]["clusterIP"]
        yield Service(kube, gateway, Prometheus(f"http://{address}:9090", evidence))
    finally:
        gateway.close()
        run("helm", "uninstall", RELEASE, timeout=120)
        kube("delete", "rolebinding", PROMETHEUS)
        kube("delete", "namespace", NAMESPACE, timeout=180)


def test_a_service_is_woken_scaled_up_held_by_its_budget_and_goes_on_without_prometheus(
    service: Service, kube: Kube
) -> None:
    kube.wait("KEDA takes the ScaledObject", lambda: service.condition("Ready") == "True", 120)
    # Requests wait at zero. One is woken, whose price is seen: the load wants six, the budget of
    # 21 USD an hour allows three, and the traffic would pay for more.
    service.clients(30)
    service.becomes(1, most=3)
    service.becomes(3, most=3)
    rules = 'scaling:gpucost_rule:info{rule="budget"}'
    kube.wait("the budget rules", lambda: service.prometheus.value(rules) is not None)
    # Less load: two are enough, and stay while the load is between the thresholds.
    service.clients(8)
    service.becomes(2, most=3)
    # Prometheus is gone for longer than the cooldown: what runs goes on.
    kube("-n", NAMESPACE, "scale", f"deployment/{PROMETHEUS}", "--replicas=0")
    kube.wait("the fallback", lambda: service.condition("Fallback") == "True", 240)
    service.stays(2, 30)
    kube("-n", NAMESPACE, "scale", f"deployment/{PROMETHEUS}", "--replicas=1")
    kube.wait("no fallback", lambda: service.condition("Fallback") == "False", 240)
    service.stays(2, 15)


def test_a_service_that_nobody_asks_sleeps_and_is_back_on_demand(service: Service) -> None:
    service.clients(8)
    service.becomes(2, most=3)
    # Nobody asks for five minutes, and the cooldown.
    service.clients(0)
    service.becomes(0, 600, most=2)
    # It is woken at the price that it had: the load wants four, the budget allows three.
    service.clients(20)
    service.becomes(3, most=3)
