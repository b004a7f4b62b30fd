"""The chart's NetworkPolicy, by connection attempts: the scrape comes in, and nothing else.

The bridge that the pods are on enforces no policy, so kube-router's controller does, by the node's
own iptables. Of a release of its own, beside the one that the other steps measure.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import pytest

import gpucost
from cluster import processes
from cluster.place import NODE, SERVICE_RANGE, Place
from cluster.programs import KUBE_ROUTER, program
from e2e.kube import CHART, Kube, run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cluster.components import Components

pytestmark = pytest.mark.slow

NAMESPACE, ELSEWHERE = "walled", "elsewhere"
RELEASE = "gpucost-walled"
METRICS, ANOTHER = 10190, 8080
IMAGE = f"gpucost:{gpucost.__version__}"

# Another port of the same pod, which somebody listens on.
VALUES = f"""
state: {{hostPath: /run/gpucost-walled}}
scrape: {{method: none}}
extraContainers:
  - name: beside
    image: {IMAGE}
    imagePullPolicy: Never
    command: [python3, -m, http.server, "{ANOTHER}", --directory, /etc]
"""

# Who asks: the names of the pods, and their namespaces and labels.
ASKERS = {
    "prometheus": (ELSEWHERE, {"app.kubernetes.io/name": "prometheus"}),
    "stranger": (ELSEWHERE, {"app": "stranger"}),
    "neighbour": (NAMESPACE, {"app": "neighbour"}),
}
ATTEMPT = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=3).close()
    print("open")
except OSError as error:
    print("closed:", error)
"""


@pytest.fixture(scope="module")
def enforced(inside: Components) -> Iterator[None]:  # noqa: ARG001 - kube-router is on its node
    """Policies are, from now on."""
    place = Place.of_environment()
    kube_router = program(KUBE_ROUTER, "kube-router", place.programs)
    words = [
        f"--kubeconfig={place.kubeconfig}",
        f"--hostname-override={NODE}",
        f"--service-cluster-ip-range={SERVICE_RANGE}",
        "--run-router=false",
        "--run-service-proxy=false",
        "--enable-cni=false",
        "--health-port=0",
    ]
    processes.start(place, "kube-router", [kube_router, *words])
    yield
    # Without a policy its chains hold nobody back, and go with the machine.
    processes.stop(place, "kube-router")


@pytest.fixture
def askers(kube: Kube, enforced: None) -> Iterator[Kube]:  # noqa: ARG001
    """Pods that may ask, each in its namespace."""
    for namespace in (NAMESPACE, ELSEWHERE):
        kube("create", "namespace", namespace)
    try:
        kube.apply(*(_asker(name, *where) for name, where in ASKERS.items()))
        for name, (namespace, _) in ASKERS.items():
            kube("-n", namespace, "wait", "--for=condition=Ready", f"pod/{name}", "--timeout=60s")
        yield kube
    finally:
        run("helm", "uninstall", RELEASE, "-n", NAMESPACE, "--ignore-not-found", timeout=120)
        for namespace in (NAMESPACE, ELSEWHERE):
            kube("delete", "namespace", namespace, timeout=180)


def _asker(name: str, namespace: str, labels: dict[str, str]) -> dict[str, Any]:
    container = {
        "name": "main",
        "image": IMAGE,
        "imagePullPolicy": "Never",
        "command": ["python3", "-c", "import signal; signal.pause()"],
        "env": [{"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"}],
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {"terminationGracePeriodSeconds": 0, "containers": [container]},
    }


def _install(*words: str) -> None:
    run(
        "helm", "upgrade", "--install", RELEASE, str(CHART), "-n", NAMESPACE, "-f", "-", *words,
        "--wait", "--timeout=3m", stdin=VALUES, timeout=200,
    )  # fmt: skip


def _exporter(kube: Kube) -> dict[str, Any]:
    of = f"app.kubernetes.io/instance={RELEASE},app.kubernetes.io/component=exporter"
    [pod] = kube.get("-n", NAMESPACE, "pods", "-l", of)["items"]
    assert isinstance(pod, dict)
    return pod


def _open(kube: Kube, address: str) -> set[tuple[str, int]]:
    """Who comes in at which port."""
    found = set()
    for name, (namespace, _) in ASKERS.items():
        for port in (METRICS, ANOTHER):
            attempt = ("python3", "-c", ATTEMPT, address, str(port))
            if kube("-n", namespace, "exec", name, "--", *attempt).startswith("open"):
                found.add((name, port))
    return found


def test_the_scrape_comes_in_and_nothing_else(askers: Kube) -> None:
    kube = askers
    _install()
    address = _exporter(kube)["status"]["podIP"]
    # It is the policy that closes: without one all are let in, everywhere.
    assert _open(kube, address) == {(name, port) for name in ASKERS for port in (METRICS, ANOTHER)}
    _install("--set=networkPolicy.enabled=true")
    closed = functools.partial(_open, kube, address)
    kube.wait("the policy in force", lambda: closed() == {("prometheus", METRICS)}, 60)
    assert closed() == {("prometheus", METRICS)}
    # `helm test` is let in, and so are the kubelet's probes: two of them, at least.
    assert "ready" in run("helm", "test", RELEASE, "-n", NAMESPACE, "--logs", timeout=180)
    kube.stays("the exporter is ready", lambda: _ready(kube), 40)


def _ready(kube: Kube) -> bool:
    statuses = _exporter(kube)["status"]["containerStatuses"]
    return all(each["ready"] and not each["restartCount"] for each in statuses)
