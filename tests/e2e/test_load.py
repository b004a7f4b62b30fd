"""What many exporters cost the API server: fifty of them, on nodes of KWOK with 5,000 pods."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import requests

from cluster import programs
from cluster.place import API_URL, Place
from e2e.kube import run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from e2e.kube import Kube

NODES = 50
PODS_EACH = 100
STEADY_SECONDS = 120
EXTRAPOLATED = 1000


@pytest.mark.slow
@pytest.mark.usefixtures("node")
def test_fifty_exporters_ask_only_for_their_watches(kube: Kube, tmp_path: Path) -> None:
    api = _Api(Place.of_environment())
    with _fake_nodes(api, kube, tmp_path):
        quiet = _load_over(api, STEADY_SECONDS)
        began = time.time()
        with _exporters(tmp_path):
            kube.wait("all watch", lambda: _asked(began)["watch"] >= 2 * NODES, 300)
            time.sleep(20)
            start = _asked(began)
            steady = time.time()
            busy = _load_over(api, STEADY_SECONDS)
            later = _asked(steady)
    each = (busy - quiet) / NODES
    print(f"at start: {dict(start)} requests of {NODES} exporters")
    print(f"in {STEADY_SECONDS} s then: {dict(later)}")
    print(f"API server: {quiet:.3f} cores before, {busy:.3f} with them")
    print(f"{EXTRAPOLATED} exporters, extrapolated: {each * EXTRAPOLATED:.2f} cores")
    # A list and a watch for each of two kinds, some of them once more where a watch began late.
    assert start["list"] <= 2 * 2 * NODES
    assert set(later) <= {"watch"}
    assert later["watch"] <= 2 * NODES * STEADY_SECONDS / 300 + 2 * NODES * 0.1


class _Api:
    """The API server, asked as its administrator without kubectl: 5,000 times."""

    def __init__(self, place: Place) -> None:
        self._session = requests.Session()
        self._session.trust_env = False  # a proxy or authorities of the environment are not ours
        self._session.cert = (str(place.pki / "admin.pem"), str(place.pki / "admin.key"))
        self._session.verify = str(place.pki / "ca.pem")

    def post(self, path: str, body: dict[str, Any]) -> None:
        answer = self._session.post(f"{API_URL}{path}", json=body, timeout=30)
        answer.raise_for_status()

    def cpu_seconds(self) -> float:
        page = self._session.get(f"{API_URL}/metrics", timeout=30).text
        return next(
            float(line.split()[1])
            for line in page.splitlines()
            if line.startswith("process_cpu_seconds_total ")
        )


def _load_over(api: _Api, seconds: float) -> float:
    """Cores that the API server used."""
    before, began = api.cpu_seconds(), time.monotonic()
    time.sleep(seconds)
    return (api.cpu_seconds() - before) / (time.monotonic() - began)


@contextmanager
def _fake_nodes(api: _Api, kube: Kube, folder: Path) -> Iterator[None]:
    """Fifty nodes of KWOK with a hundred running pods each."""
    kubeconfig = os.environ["KUBECONFIG"]
    options = ["--manage-all-nodes=false", "--manage-nodes-with-label-selector=type=kwok"]
    options += [f"--config={stage}" for stage in _stages()]
    with (folder / "kwok.log").open("wb") as log:
        kwok = subprocess.Popen(
            ["kwok", f"--kubeconfig={kubeconfig}", *options], stdout=log, stderr=log
        )
    try:
        for index in range(NODES):
            api.post("/api/v1/nodes", _node(index))
        kube.wait("the nodes are ready", lambda: _ready(kube) >= NODES)
        kube("create", "namespace", "crowd")
        kube.wait("its account", lambda: "default" in kube("-n", "crowd", "get", "serviceaccounts"))
        pods = [_pod(index, pod) for index in range(NODES) for pod in range(PODS_EACH)]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda pod: api.post("/api/v1/namespaces/crowd/pods", pod), pods))
        kube.wait("the pods run", lambda: _running(kube) >= NODES * PODS_EACH, 600)
        yield
    finally:
        kube("delete", "nodes", "-l", "type=kwok", "--wait=false")
        kube("delete", "namespace", "crowd", "--wait=false", "--ignore-not-found")
        kube.wait("they are gone", lambda: _running(kube) == 0, 300)
        kwok.send_signal(signal.SIGTERM)
        kwok.wait(30)


def _stages() -> Iterator[Path]:
    """How KWOK's own project plays nodes and pods, from its module."""
    module = programs.KWOK.folder
    found = run("go", "-C", str(module), "list", "-m", "-f", "{{.Dir}}", "sigs.k8s.io/kwok")
    stages = Path(found.strip()) / "kustomize/stage"
    yield stages / "node/fast/node-initialize.yaml"
    yield stages / "node/heartbeat/node-heartbeat.yaml"
    yield stages / "pod/fast/pod-ready.yaml"
    yield stages / "pod/fast/pod-delete.yaml"


@contextmanager
def _exporters(folder: Path) -> Iterator[None]:
    """One exporter for each node, as processes of this machine."""
    log = (folder / "exporters.log").open("wb")
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "gpucost", "serve", "--listen", "127.0.0.1:0"],
            env=os.environ | {"NODE_NAME": f"kwok-{index}"},
            stdout=log,
            stderr=log,
        )
        for index in range(NODES)
    ]
    try:
        yield
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.wait(60)
        log.close()


def _asked(since: float) -> Counter[str]:
    """How often exporters asked for what since then, by the server's audit log."""
    begun = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(since))
    found: dict[str, str] = {}
    for line in (Place.of_environment().logs / "audit.log").read_text().splitlines():
        if '"userAgent":"gpucost' not in line:
            continue
        event = json.loads(line)
        if event["user"]["username"] == "admin" and event["requestReceivedTimestamp"] >= begun:
            found[event["auditID"]] = event["verb"]
    return Counter(found.values())


def _ready(kube: Kube) -> int:
    return kube("get", "nodes", "-l", "type=kwok", "--no-headers").count(" Ready ")


def _running(kube: Kube) -> int:
    words = ["--field-selector=status.phase=Running", "--no-headers", "--ignore-not-found"]
    return len(kube("-n", "crowd", "get", "pods", *words).splitlines())


def _node(index: int) -> dict[str, Any]:
    room = {"cpu": "32", "memory": "256Gi", "pods": "200"}
    name = f"kwok-{index}"
    labels = {"type": "kwok", "kubernetes.io/hostname": name}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": labels},
        "spec": {"taints": [{"key": "kwok", "effect": "NoSchedule"}]},
        "status": {"allocatable": room, "capacity": room},
    }


def _pod(node: int, index: int) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": f"crowd-{node}-{index}", "namespace": "crowd"},
        "spec": {
            "nodeName": f"kwok-{node}",
            "tolerations": [{"operator": "Exists"}],
            "containers": [{"name": "main", "image": "none"}],
        },
    }
