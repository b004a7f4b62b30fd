"""What many exporters cost the API server: fifty of them, on nodes of KWOK with 5,000 pods.

Its own figures are what counts (its CPU time, memory and audit log), so a busy machine makes the
step slow and not wrong. Nothing in it lists the crowd: a list of 5,000 pods costs the server more
than the exporters do in a minute.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import requests
import yaml
from requests.adapters import HTTPAdapter

from cluster import programs
from cluster.place import API_URL, Place
from e2e.kube import run
from gpucost.sources.kube_watch import Pace

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from e2e.kube import Kube

NODES = 50
PODS_EACH = 100
STEADY_SECONDS = 120
EXTRAPOLATED = 1000
AT_ONCE = 8
_CROWD = "/api/v1/namespaces/crowd/pods"


@pytest.mark.slow
@pytest.mark.usefixtures("node")
def test_fifty_exporters_ask_only_for_their_watches(kube: Kube, tmp_path: Path) -> None:
    api, audit = _Api(Place.of_environment()), _Audit(Place.of_environment())
    with _crowd(api, kube, tmp_path):
        alone = api.used()
        time.sleep(STEADY_SECONDS)
        before = api.used()
        with _exporters(tmp_path):
            kube.wait("all watch", lambda: audit.since(before.at)["watch"] >= 2 * NODES, 300)
            time.sleep(10)
            started, first = api.used(), audit.since(before.at)
            time.sleep(STEADY_SECONDS)
            after, later = api.used(), audit.since(started.at)
    quiet, busy = before.cores_since(alone), after.cores_since(started)
    start = (started.cpu - before.cpu - quiet * (started.at - before.at)) / NODES
    renewed = 2 * EXTRAPOLATED / Pace().watch_length
    print(f"start: {dict(first)} requests of {NODES} exporters, {1000 * start:.0f} ms of CPU each")
    print(f"then: {dict(later)} in {STEADY_SECONDS} s; API server {quiet:.3f} cores without them,")
    print(f"{busy:.3f} with them; {alone.memory >> 20}, {after.memory >> 20} MiB")
    print(f"{EXTRAPOLATED} exporters: {start * EXTRAPOLATED:.0f} s of CPU when all start at once,")
    print(
        f"then {(busy - quiet) / NODES * EXTRAPOLATED:+.2f} cores, {renewed:.1f} requests a second"
    )
    # A list and a watch for each of two kinds; some once more, where a list was turned away.
    assert first["list"] <= 2 * 2 * NODES
    assert set(later) <= {"watch"}
    # A watch lasts its length, give or take a quarter: those that end in the time watched.
    assert later["watch"] <= 2 * NODES * STEADY_SECONDS / (0.75 * Pace().watch_length)


class _Used(NamedTuple):
    """What the API server had used by a time."""

    at: float
    """Unix time."""
    cpu: float
    """Seconds."""
    memory: int
    """Resident, bytes."""

    def cores_since(self, before: _Used) -> float:
        return (self.cpu - before.cpu) / (self.at - before.at)


class _Api:
    """The API server, asked as its administrator without kubectl: 5,000 times."""

    def __init__(self, place: Place) -> None:
        self._session = requests.Session()
        self._session.trust_env = False  # a proxy or authorities of the environment are not ours
        self._session.cert = (str(place.pki / "admin.pem"), str(place.pki / "admin.key"))
        self._session.verify = str(place.pki / "ca.pem")
        self._session.mount("https://", HTTPAdapter(pool_maxsize=AT_ONCE))

    def ask(self, method: str, path: str, body: object = None) -> Any:  # noqa: ANN401 - JSON
        """An answer. Raises requests.HTTPError."""
        answer = self._session.request(method, f"{API_URL}{path}", json=body, timeout=120)
        answer.raise_for_status()
        return answer.json()

    def ask_all(self, asked: Iterable[tuple[str, str, object]]) -> None:
        """Ask several things, some at once."""
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(lambda words: self.ask(*words), asked))

    def used(self) -> _Used:
        page = self._session.get(f"{API_URL}/metrics", timeout=60).text
        figures = dict(
            line.split(" ", 1) for line in page.splitlines() if line.startswith("process_")
        )
        return _Used(
            time.time(),
            float(figures["process_cpu_seconds_total"]),
            int(float(figures["process_resident_memory_bytes"])),
        )

    def nodes_are_ready(self) -> bool:
        nodes = self.ask("GET", "/api/v1/nodes?labelSelector=type=kwok")["items"]
        conditions = [one for node in nodes for one in node["status"].get("conditions", ())]
        return sum((one["type"], one["status"]) == ("Ready", "True") for one in conditions) == NODES

    def runs(self) -> bool:
        """Whether the whole crowd runs: none of it is to be found that waits."""
        return not self.ask("GET", f"{_CROWD}?fieldSelector=status.phase=Pending&limit=1")["items"]


class _Audit:
    """The requests of exporters that run as the administrator, by the server's audit log.

    The chart's own exporter, on the node that is real, has an account.
    """

    def __init__(self, place: Place) -> None:
        self._path = place.logs / "audit.log"
        self._read = self._path.stat().st_size
        self._found: dict[str, tuple[str, float]] = {}

    def since(self, moment: float) -> Counter[str]:
        """How many there were since then, by verb."""
        with self._path.open("rb") as log:
            log.seek(self._read)
            new = log.read()
        whole = new[: new.rfind(b"\n") + 1]
        self._read += len(whole)
        for line in whole.splitlines():
            if b'"userAgent":"gpucost' not in line:
                continue
            event = json.loads(line)
            if event["user"]["username"] == "admin":
                at = datetime.fromisoformat(event["requestReceivedTimestamp"]).timestamp()
                self._found[event["auditID"]] = (event["verb"], at)
        return Counter(verb for verb, at in self._found.values() if at >= moment)


@contextmanager
def _crowd(api: _Api, kube: Kube, folder: Path) -> Iterator[None]:
    """Fifty nodes of KWOK with a hundred running pods each."""
    with _started([["kwok", *_kwok(folder)]], folder / "kwok.log", [{}]):
        try:
            api.ask_all(("POST", "/api/v1/nodes", _node(index)) for index in range(NODES))
            kube.wait("the nodes are ready", api.nodes_are_ready)
            kube("create", "namespace", "crowd")
            accounts = "/api/v1/namespaces/crowd/serviceaccounts"
            kube.wait("its account", lambda: api.ask("GET", accounts)["items"])
            pods = ((node, pod) for node in range(NODES) for pod in range(PODS_EACH))
            api.ask_all(("POST", _CROWD, _pod(node, pod)) for node, pod in pods)
            kube.wait("the pods run", api.runs, 300)
            yield
        finally:
            # At once and not one by one: the namespace's end would take minutes.
            gone = f"{_CROWD}?gracePeriodSeconds=0&fieldSelector=spec.nodeName=kwok-"
            api.ask_all(("DELETE", f"{gone}{index}", None) for index in range(NODES))
            kube("delete", "nodes", "-l", "type=kwok", timeout=120)
            kube("delete", "namespace", "crowd", "--ignore-not-found", timeout=120)


def _kwok(folder: Path) -> Iterator[str]:
    """KWOK's words: nodes that renew a lease, as kubelets do, and pods that run at once."""
    options = folder / "kwok.yaml"
    options.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "config.kwok.x-k8s.io/v1alpha1",
                "kind": "KwokConfiguration",
                "options": {  # none has a default in a file
                    "nodeLeaseDurationSeconds": 40,
                    "nodeLeaseParallelism": AT_ONCE,
                    "nodePlayStageParallelism": AT_ONCE,
                    "podPlayStageParallelism": AT_ONCE,
                    "podsOnNodeSyncParallelism": AT_ONCE,
                },
            }
        )
    )
    yield f"--kubeconfig={os.environ['KUBECONFIG']}"
    yield "--manage-all-nodes=false"
    yield "--manage-nodes-with-label-selector=type=kwok"
    yield f"--config={options}"
    # How KWOK's own project plays nodes and pods, from its module.
    module = str(programs.KWOK.folder)
    found = run("go", "-C", module, "list", "-m", "-f", "{{.Dir}}", "sigs.k8s.io/kwok")
    for stage in (
        "node/fast/node-initialize",
        "node/heartbeat-with-lease/node-heartbeat-with-lease",
        "pod/fast/pod-ready",
        "pod/fast/pod-delete",
    ):
        yield f"--config={found.strip()}/kustomize/stage/{stage}.yaml"


@contextmanager
def _exporters(folder: Path) -> Iterator[None]:
    """One exporter for each node, as processes of this machine, whose kubelet is another node's."""
    settings = folder / "exporters.yaml"
    settings.write_text("kubelet: {enabled: false}\n")
    command = [sys.executable, "-m", "gpucost", "serve", "--listen", "127.0.0.1:0"]
    command += ["--config", str(settings)]
    nodes = [{"NODE_NAME": f"kwok-{index}"} for index in range(NODES)]
    with _started([command] * NODES, folder / "exporters.log", nodes):
        yield


@contextmanager
def _started(
    commands: Sequence[Sequence[str]], log: Path, envs: Sequence[dict[str, str]]
) -> Iterator[None]:
    """These programs, until they are no more needed."""
    with log.open("wb") as words:
        processes = [
            subprocess.Popen(command, env=os.environ | env, stdout=words, stderr=words)
            for command, env in zip(commands, envs, strict=True)
        ]
        try:
            yield
        finally:
            for process in processes:
                process.terminate()
            for process in processes:
                process.wait(60)


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
