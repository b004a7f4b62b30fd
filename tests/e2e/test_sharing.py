"""Pods that share GPUs, in every form that a real kubelet gives out: each pays what it holds.

How much that is, the kubelet says (truth.py counts it), and each step knows what part of a GPU one
such device is. The node has its eight GPUs throughout, so the price of one stays what it is.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest

from cluster.place import NODE, ROOT
from e2e.bill import COMES_AND_GOES, bill
from e2e.kube import gpu_pod, run, upgrade
from e2e.pace import EDGE_SECONDS
from gpucost.model import NODE_STATES

if TYPE_CHECKING:
    from collections.abc import ItemsView, Iterator, Mapping

    from e2e.bill import Bill
    from e2e.gpus import Gpus
    from e2e.kube import Kube
    from e2e.prom import Prometheus
    from e2e.truth import Truth

WATCHED_SECONDS = 45
"""Longer than new counters stand at nought (docs/design.md), so that every dollar is shown."""

GPU, GPUS = "nvidia.com/gpu", 8
TWICE = {"gpus": [{"count": 8, "replicas": 2}]}
SEVENTHS = {"gpus": [{"count": 8, "mig": ["1g.10gb"] * 7}], "mig_strategy": "single"}
PARTS = {
    "gpus": [{"count": 4, "mig": ["3g.40gb", "2g.20gb", "1g.10gb"]}, {"count": 4}],
    "mig_strategy": "mixed",
}
CLAIMABLE = {
    "gpus": [
        {"count": 3},
        {"count": 2, "offer": "dra"},
        {"count": 2, "offer": "dra", "mig": ["3g.40gb", "1g.10gb"]},
        {"count": 1, "offer": "dra", "shared": True},
    ],
}
PROBLEMS = 'gpucost_problems{source=~"attribution|dra|kubelet|nvml"} > 0'
BURNS = ["train", "--busy", "1", "--memory", "4GiB"]
SLEEPS = ["idle", "--memory", "2GiB"]
_SERVES = {"readinessProbe": {"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1}}


@pytest.fixture
def namespace(gpus: Gpus, namespace: str) -> str:  # noqa: ARG001 - its pods go before their GPUs do
    """The step's own, which is gone when the GPUs are put back."""
    return namespace


@pytest.fixture(scope="module")
def sees_all(release: None) -> Iterator[None]:  # noqa: ARG001 - it is changed
    """The exporter sees the node's processes and may read what claims are."""
    _roll("--set=hostPID=true", "--set=rbac.dra=true")
    yield
    _roll()


class Sharers:
    """What every step does: shows GPUs, runs pods, and compares their bill with the truth."""

    def __init__(
        self, kube: Kube, prometheus: Prometheus, truth: Truth, gpus: Gpus, namespace: str
    ) -> None:
        self.kube = kube
        self.prometheus = prometheus
        self.namespace = namespace
        self._truth = truth
        self._gpus = gpus
        self._devices: dict[str, float] = {}

    def show(self, settings: Mapping[str, Any], offered: Mapping[str, int]) -> None:
        """Have the node show these GPUs, and the kubelet offer so many by resource."""
        self._gpus.show(json.dumps(settings))
        self.kube.wait("they are offered", lambda: self._offered() >= offered.items())

    def run(self, *pods: dict[str, Any]) -> None:
        """Have these pods hold what they ask for, be Ready, and be charged."""
        self.kube.apply(*pods)
        names = {pod["metadata"]["name"] for pod in pods}
        self.kube.wait("all hold", lambda: self._held().keys() == names)
        self._devices = self._held()
        wait = ["wait", "pods", "--all", "--for=condition=Ready", "--timeout=120s"]
        self.kube("-n", self.namespace, *wait, timeout=130)
        self.kube.wait("all are charged", lambda: {pod for pod, _ in self.shares()} == names)

    def pod(
        self, name: str, work: list[str], resource: str = GPU, count: int = 1
    ) -> dict[str, Any]:
        """A pod that is Ready as soon as it works."""
        container = {"resources": {"limits": {resource: count}}, **_SERVES}
        return gpu_pod(name, self.namespace, [*work, "--port", "8080"], container=container)

    def claim(self, name: str, kind: str, of: str, memory: str = "") -> dict[str, Any]:
        """A claim of one device of that kind, for which that holds; or of so much of it."""
        exactly: dict[str, Any] = {
            "deviceClassName": f"{kind}.nvidia.com",
            "selectors": [{"cel": {"expression": of}}],
        }
        if memory:
            exactly["capacity"] = {"requests": {"memory": memory}}
        return {
            "apiVersion": "resource.k8s.io/v1",
            "kind": "ResourceClaim",
            "metadata": {"name": name, "namespace": self.namespace},
            "spec": {"devices": {"requests": [{"name": "gpu", "exactly": exactly}]}},
        }

    def claimer(self, name: str, work: list[str], claim: str) -> dict[str, Any]:
        """A pod that uses a claim."""
        container = {"resources": {"claims": [{"name": "gpu"}]}, **_SERVES}
        pod = gpu_pod(name, self.namespace, [*work, "--port", "8080"], container=container)
        pod["spec"]["resourceClaims"] = [{"name": "gpu", "resourceClaimName": claim}]
        return pod

    def watch(self) -> None:
        """Let it be for as long as the counters need to be seen; all of each GPU is somebody's."""
        time.sleep(WATCHED_SECONDS)
        shares = self.prometheus.by("uuid", "sum by (uuid) (gpucost_pod_gpu_share_ratio)")
        assert list(shares.values()) == pytest.approx([1.0] * GPUS)

    def shares(self) -> dict[tuple[str, str], float]:
        """What each pod holds of GPUs now, by the exporter's method."""
        here = f'gpucost_pod_gpu_share_ratio{{namespace="{self.namespace}"}}'
        found = self.prometheus.vector(f"sum by (pod, method) ({here})")
        return {
            (dict(labels)["pod"], dict(labels)["method"]): value for labels, value in found.items()
        }

    def waste(self) -> dict[str, float]:
        """What each pod wastes now, in the price of a GPU."""
        waste = f'gpucost_pod_waste_usd_per_hour{{namespace="{self.namespace}"}}'
        price = "scalar(max(gpucost_gpu_price_usd_per_hour))"
        return self.prometheus.by("pod", f"sum by (pod) ({waste}) / {price}")

    def memory_gib(self) -> dict[str, float]:
        """What each pod has in memory, by its processes where it shares a GPU."""
        memory = f'gpucost_pod_memory_used_bytes{{namespace="{self.namespace}"}}'
        return self.prometheus.by("pod", f"sum by (pod) ({memory}) / 2^30")

    def problems(self) -> dict[str, float]:
        """What is said of who holds what, by kind."""
        return self.prometheus.by("kind", PROBLEMS)

    def states_by_container(self, pod: str) -> dict[str, set[str]]:
        """The states that each of a pod's containers has paid for."""
        here = f'gpucost_pod_cost_usd_total{{namespace="{self.namespace}",pod="{pod}"}} > 0'
        states: dict[str, set[str]] = {}
        for labels in self.prometheus.vector(f"sum by (container, state) ({here})"):
            found = dict(labels)
            states.setdefault(found["container"], set()).add(found["state"])
        return states

    def node_seconds(self) -> dict[str, float]:
        """GPU-seconds of the whole node so far, by state."""
        return self.prometheus.by("state", "sum by (state) (gpucost_gpu_seconds_total)")

    def end(self, parts: Mapping[str, float]) -> Bill:
        """End the pods; what they were charged, which is what they held of such parts of a GPU."""
        price = self.prometheus.value("max(gpucost_gpu_price_usd_per_hour)")
        assert price is not None
        self.kube("-n", self.namespace, "delete", "pods", "--all", "--grace-period=1", timeout=120)
        self.kube.wait("all let go", lambda: not self._held())
        time.sleep(EDGE_SECONDS + 2)
        found = bill(self.prometheus, self.namespace)
        held = {
            pod: seconds
            for (namespace, pod), seconds in self._truth.seconds().items()
            if namespace == self.namespace
        }
        print({pod: (held[pod] * part, found.gpu_seconds.get(pod)) for pod, part in parts.items()})
        assert found.gpu_seconds.keys() == held.keys() == parts.keys()
        for pod, part in parts.items():
            charged, edge = found.gpu_seconds[pod], EDGE_SECONDS * self._devices[pod] * part
            assert charged == pytest.approx(held[pod] * part, abs=edge), pod
            assert found.usd[pod] == pytest.approx(charged * price / 3600, rel=1e-6), pod
        assert abs(self.prometheus.value("max(abs(gpucost_ledger_imbalance_usd))") or 0) < 1e-9
        return found

    def _held(self) -> dict[str, float]:
        return {
            pod: devices
            for (namespace, pod), devices in self._truth.held().items()
            if namespace == self.namespace
        }

    def _offered(self) -> ItemsView[str, int]:
        offered = self.kube.get("node", NODE)["status"]["allocatable"]
        return {
            name: int(count) for name, count in offered.items() if name.startswith("nvidia.com/")
        }.items()


@pytest.fixture
def sharers(
    kube: Kube, prometheus: Prometheus, truth: Truth, gpus: Gpus, namespace: str
) -> Sharers:
    """Pods on GPUs of the step's own shape."""
    return Sharers(kube, prometheus, truth, gpus, namespace)


def test_without_host_pids_time_sliced_pods_pay_alike_and_are_unmeasured(sharers: Sharers) -> None:
    sharers.show(TWICE, {GPU: 16})
    sharers.run(sharers.pod("burns", BURNS), sharers.pod("sleeps", SLEEPS))
    sharers.watch()
    assert sharers.shares() == {("burns", "replicas"): 0.5, ("sleeps", "replicas"): 0.5}
    assert sharers.problems() == {"shared_unmeasured": 1}
    assert sharers.waste() == {"burns": 0, "sleeps": 0}
    found = sharers.end({"burns": 1 / 2, "sleeps": 1 / 2})
    for pod in ("burns", "sleeps"):
        assert found.ratio(pod, "unmeasured") == 1, pod


def test_mig_instances_of_the_single_strategy_pay_their_slices(sharers: Sharers) -> None:
    sharers.show(SEVENTHS, {GPU: 56})
    sharers.run(sharers.pod("burns", BURNS), sharers.pod("sleeps", SLEEPS, count=3))
    sharers.watch()
    shares = sharers.shares()
    assert shares == pytest.approx({("burns", "mig"): 1 / 7, ("sleeps", "mig"): 3 / 7})
    assert sharers.waste() == pytest.approx({"burns": 0, "sleeps": 3 / 7}, abs=0.01)
    assert sharers.problems() == {}
    found = sharers.end({"burns": 1 / 7, "sleeps": 1 / 7})
    _burned(found, "burns")
    _slept(found, "sleeps")


def test_mig_instances_of_the_mixed_strategy_pay_their_slices_and_the_rest_is_stranded(
    sharers: Sharers,
) -> None:
    large, small = "nvidia.com/mig-3g.40gb", "nvidia.com/mig-1g.10gb"
    sharers.show(PARTS, {large: 4, small: 4, GPU: 4})
    sharers.run(
        sharers.pod("burns", BURNS, large),
        sharers.pod("half", ["train", "--busy", "0.5"], small),
        sharers.pod("sleeps", SLEEPS),
    )
    sharers.watch()
    shares = {("burns", "mig"): 3 / 7, ("half", "mig"): 1 / 7, ("sleeps", "exclusive"): 1.0}
    assert sharers.shares() == pytest.approx(shares)
    assert sharers.waste() == pytest.approx({"burns": 0, "half": 0.5 / 7, "sleeps": 1}, abs=0.03)
    assert sharers.problems() == {}
    before = sharers.node_seconds()
    sharers.kube.wait("time goes by", lambda: sharers.node_seconds() != before)
    after = sharers.node_seconds()
    stranded = after["stranded"] - before["stranded"]
    whole = sum(after.values()) - sum(before.values())
    assert stranded / whole == pytest.approx(4 * (1 / 7) / 8)
    found = sharers.end({"burns": 3 / 7, "half": 1 / 7, "sleeps": 1})
    _burned(found, "burns")
    assert found.ratio("half", "used") == pytest.approx(0.5, abs=0.15)
    _slept(found, "sleeps")


def test_an_init_containers_gpu_is_its_pods_and_a_sidecar_pays_for_its_own(
    sharers: Sharers,
) -> None:
    prepares = sharers.pod("prepares", BURNS)
    fetches = _beside(prepares, "fetches", ["train", "--busy", "0.5", "--for", "10s"])
    prepares["spec"]["initContainers"] = [fetches]
    accompanied = sharers.pod("accompanied", BURNS)
    proxy = _beside(accompanied, "proxy", SLEEPS) | {"restartPolicy": "Always"}
    accompanied["spec"]["initContainers"] = [proxy]
    sharers.run(prepares, accompanied)
    sharers.watch()
    assert sharers.shares() == {("prepares", "exclusive"): 1, ("accompanied", "exclusive"): 2}
    assert sharers.problems() == {}
    containers = sharers.states_by_container("accompanied")
    found = sharers.end({"prepares": 1, "accompanied": 1})
    assert "starting" in found.states("prepares")
    _burned(found, "prepares")
    assert "used" in containers["main"]
    assert containers["proxy"] - COMES_AND_GOES == {"idle"}


@pytest.mark.parametrize(("by_init", "by_main"), [(1, 0), (2, 1)])
def test_a_gpu_that_an_init_container_asks_for_alone_is_nobodys_to_the_kubelet_and_said(
    sharers: Sharers, by_init: int, by_main: int
) -> None:
    pod = sharers.pod("prepared", ["idle"], count=by_init)
    pod["spec"]["initContainers"] = [_beside(pod, "fetches", ["train", "--for", "5s"])]
    pod["spec"]["containers"][0]["resources"] = {"limits": {GPU: by_main}} if by_main else {}
    sharers.kube.apply(pod)
    wait = ["wait", "pods", "--all", "--for=condition=Ready", "--timeout=120s"]
    sharers.kube("-n", sharers.namespace, *wait, timeout=130)
    sharers.kube.wait("it is said", lambda: sharers.problems() == {"init_container": 1})
    before = sharers.node_seconds()
    sharers.kube.wait("time goes by", lambda: sharers.node_seconds() != before)
    after = sharers.node_seconds()
    spent = {state for state, seconds in after.items() if seconds > before.get(state, 0)}
    assert spent & {*NODE_STATES} == {"unattributed"}
    assert sharers.shares() == ({("prepared", "exclusive"): by_main} if by_main else {})
    sharers.kube.delete_pod(sharers.namespace, "prepared")
    sharers.kube.wait("it is over", lambda: sharers.problems() == {})


@pytest.mark.usefixtures("sees_all")
def test_with_host_pids_time_sliced_pods_pay_alike_and_waste_differs(sharers: Sharers) -> None:
    sharers.show(TWICE, {GPU: 16})
    sharers.run(sharers.pod("burns", BURNS), sharers.pod("sleeps", SLEEPS))
    sharers.watch()
    assert sharers.shares() == {("burns", "replicas"): 0.5, ("sleeps", "replicas"): 0.5}
    assert sharers.problems() == {}
    assert sharers.memory_gib() == {"burns": 4, "sleeps": 2}
    assert sharers.waste() == pytest.approx({"burns": 0, "sleeps": 0.5}, abs=0.01)
    found = sharers.end({"burns": 1 / 2, "sleeps": 1 / 2})
    assert found.usd["burns"] == pytest.approx(found.usd["sleeps"], rel=0.2)
    _burned(found, "burns")
    _slept(found, "sleeps")


@pytest.mark.usefixtures("sees_all")
def test_claims_of_whole_parted_and_shared_gpus_pay_what_they_were_given(sharers: Sharers) -> None:
    sharers.kube("apply", "-f", str(ROOT / "tests/played_gpus/device-classes.yaml"))
    sharers.show(CLAIMABLE, {GPU: 3})
    whole, lent = "!device.allowMultipleAllocations", "device.allowMultipleAllocations"
    sharers.kube.apply(
        sharers.claim("whole", "gpu", whole),
        sharers.claim("both", "gpu", whole),
        sharers.claim("part", "mig", "device.attributes['gpu.nvidia.com'].profile == '3g.40gb'"),
        sharers.claim("lent-1", "gpu", lent, memory="40Gi"),
        sharers.claim("lent-2", "gpu", lent),
    )
    sharers.run(
        sharers.pod("plugged", SLEEPS),
        sharers.claimer("whole", BURNS, "whole"),
        sharers.claimer("part", BURNS, "part"),
        sharers.claimer("left", BURNS, "both"),
        sharers.claimer("right", SLEEPS, "both"),
        sharers.claimer("lent-1", BURNS, "lent-1"),
        sharers.claimer("lent-2", SLEEPS, "lent-2"),
    )
    sharers.watch()
    assert sharers.shares() == pytest.approx(
        {
            ("plugged", "exclusive"): 1,
            ("whole", "exclusive"): 1,
            ("part", "mig"): 3 / 7,
            ("left", "even"): 0.5,
            ("right", "even"): 0.5,
            ("lent-1", "fraction"): 0.5,  # of the GPU's 80 GiB
            ("lent-2", "fraction"): 0.1,  # what the driver gives to a claim that asks for nothing
        }
    )
    assert sharers.problems() == {}
    found = sharers.end(
        dict.fromkeys(("plugged", "whole", "left", "right"), 1.0)
        | {"part": 3 / 7, "lent-1": 0.5, "lent-2": 0.1}
    )
    for pod in ("whole", "part", "left", "lent-1"):
        _burned(found, pod)
    for pod in ("plugged", "right", "lent-2"):
        _slept(found, pod)


def _burned(found: Bill, pod: str) -> None:
    assert found.ratio(pod, "used") > 0.8, pod


def _slept(found: Bill, pod: str) -> None:
    assert found.ratio(pod, "idle") > 0.8, pod
    assert "used" not in found.states(pod), pod


def _beside(pod: dict[str, Any], name: str, work: list[str]) -> dict[str, Any]:
    """A container like the pod's own, of another name and work, that nobody probes."""
    container: dict[str, Any] = pod["spec"]["containers"][0] | {"name": name, "args": work}
    del container["readinessProbe"]
    return container


def _roll(*values: str) -> None:
    """Have the exporter run with these values of the chart."""
    upgrade(*values)
    run("kubectl", "rollout", "status", "daemonset/gpucost", "--timeout=2m", timeout=130)
