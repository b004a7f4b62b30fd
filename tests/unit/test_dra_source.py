"""DRA against a real HTTP server: nothing asked without need, slices watched, claims read once."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from kubernetes.client import Configuration

from gpucost.config import Kubernetes
from gpucost.model import Claimable, Claimed, ClaimResult, Holder
from gpucost.sources.base import SourceError
from gpucost.sources.dra import DraSource
from gpucost.sources.kube_watch import Pace
from kube_api import KubeApiServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gpucost.sources.base import DraRead

FAST = Pace(backoff_first=0.02, backoff_most=0.1, idle_most=30.0, stale_after=0.3)
ADA = Holder("ml", "ada", "main")
GPU_0 = Claimed(ADA, "ml/one", "gpu-1", "gpu-0")
Json = dict[str, Any]


def a_slice(
    name: str = "gpu-1-x",
    *,
    node: str = "gpu-1",
    generation: int = 1,
    basic: bool = False,
    **uuids: str,
) -> Json:
    devices = []
    for device, uuid in uuids.items():
        facts = {"attributes": {"type": {"string": "gpu"}, "uuid": {"string": uuid}}}
        named = {"name": device.replace("_", "-")}
        devices.append({**named, "basic": facts} if basic else {**named, **facts})
    return {
        "metadata": {"name": name},
        "spec": {
            "driver": "gpu.nvidia.com",
            "nodeName": node,
            "pool": {"name": node, "generation": generation, "resourceSliceCount": 1},
            "devices": devices,
        },
    }


def a_claim(name: str = "one", **result: Any) -> Json:  # noqa: ANN401 - JSON
    stated = {"request": "r", "driver": "gpu.nvidia.com", "pool": "gpu-1", "device": "gpu-0"}
    return {
        "metadata": {"name": name, "namespace": "ml"},
        "status": {"allocation": {"devices": {"results": [{**stated, **result}]}}},
    }


@pytest.fixture
def server() -> Iterator[KubeApiServer]:
    with KubeApiServer() as running:
        running.put("resourceslices", a_slice(gpu_0="GPU-a", gpu_1="GPU-b"))
        running.put("resourceslices", a_slice("other", node="gpu-2", gpu_0="GPU-z"))
        running.put("resourceclaims", a_claim())
        yield running


@contextmanager
def asking(server: KubeApiServer, *wanted: Claimed) -> Iterator[DraSource]:
    source = DraSource(
        Kubernetes(timeout_seconds=20.0),
        "gpu-1",
        lambda: wanted or (GPU_0,),
        pace=FAST,
        configure=lambda: Configuration(host=server.host),
    )
    try:
        yield source
    finally:
        source.close()


def until(source: DraSource, true: Callable[[DraRead], bool]) -> DraRead:
    deadline = time.monotonic() + 30
    while not true(read := source.read()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return read


def test_the_nodes_devices_and_the_wanted_claims_are_read(server: KubeApiServer) -> None:
    with asking(server) as source:
        read = source.read()
        assert read.devices == {
            ("gpu-1", "gpu-0"): Claimable("gpu", "GPU-a"),
            ("gpu-1", "gpu-1"): Claimable("gpu", "GPU-b"),
        }
        assert read.claims == {"ml/one": (ClaimResult("r", "gpu-1", "gpu-0"),)}
        assert read.problems == ()
        assert source.read() is read


def test_nothing_is_asked_before_a_claim_is(server: KubeApiServer) -> None:
    with asking(server):
        pass
    assert server.requests == []


def test_a_claim_is_read_once_and_again_only_when_its_devices_change(
    server: KubeApiServer,
) -> None:
    wanted = [GPU_0]
    source = DraSource(
        Kubernetes(timeout_seconds=20.0),
        "gpu-1",
        lambda: tuple(wanted),
        pace=FAST,
        configure=lambda: Configuration(host=server.host),
    )
    try:
        for _ in range(3):
            source.read()
        assert server.count("resourceclaims", watch=False) == 1
        server.put("resourceclaims", a_claim(device="gpu-1"))
        wanted[:] = [Claimed(ADA, "ml/one", "gpu-1", "gpu-1")]
        assert source.read().claims == {"ml/one": (ClaimResult("r", "gpu-1", "gpu-1"),)}
        assert server.count("resourceclaims", watch=False) == 2
        wanted.clear()
        assert source.read().claims == {}
    finally:
        source.close()


def test_a_changed_slice_is_seen(server: KubeApiServer) -> None:
    with asking(server) as source:
        source.read()
        server.put("resourceslices", a_slice("gpu-1-y", generation=2, gpu_0="GPU-new"))
        read = until(source, lambda it: len(it.devices) == 1)
        assert read.devices[("gpu-1", "gpu-0")].uuid == "GPU-new"
        server.delete("resourceslices", "gpu-1-y")
        until(source, lambda it: len(it.devices) == 2)


@pytest.mark.parametrize("version", ["v1beta2", "v1beta1"])
def test_older_versions_of_the_api_are_read_too(server: KubeApiServer, version: str) -> None:
    server.dra_versions = ["v1alpha3", version]
    basic = a_slice(basic=version == "v1beta1", gpu_0="GPU-a")
    server.put("resourceslices", basic)
    with asking(server) as source:
        assert source.read().devices == {("gpu-1", "gpu-0"): Claimable("gpu", "GPU-a")}
    assert f"/apis/resource.k8s.io/{version}/resourceslices" in {r.path for r in server.requests}


def test_capacity_and_what_a_claim_consumes_of_it_are_read(server: KubeApiServer) -> None:
    lent = a_slice(gpu_0="GPU-a")
    lent["spec"]["devices"][0]["capacity"] = {
        "memory": {"value": "80Gi", "requestPolicy": {"default": "8Gi"}},
        "gpu.nvidia.com/multiprocessors": {"value": "132"},
        "odd": {"value": "much"},
    }
    consumed = {"gpu.nvidia.com/memory": "20480Mi", "multiprocessors": "0"}
    server.put("resourceslices", lent)
    server.put("resourceclaims", a_claim(shareID="s", consumedCapacity=consumed))
    with asking(server) as source:
        read = source.read()
    assert read.devices["gpu-1", "gpu-0"].capacity == {"memory": 80 << 30, "multiprocessors": 132}
    (result,) = read.claims["ml/one"]
    assert result.consumed == {"memory": 20 << 30, "multiprocessors": 0}


def test_a_cluster_without_dra_says_so(server: KubeApiServer) -> None:
    server.dra_versions = []
    with asking(server) as source, pytest.raises(SourceError) as raised:
        source.read()
    assert raised.value.kind == "not_found"
    server.dra_versions = ["v1alpha3"]
    with asking(server) as source, pytest.raises(SourceError) as raised:
        source.read()
    assert (raised.value.kind, "1.32" in raised.value.remedy) == ("unsupported", True)


def test_a_missing_right_is_named_with_its_api_group(server: KubeApiServer) -> None:
    server.refusals["resourceslices"] = [403] * 100
    with asking(server) as source, pytest.raises(SourceError) as raised:
        source.read()
    assert raised.value.kind == "forbidden"
    assert 'apiGroups ["resource.k8s.io"], resources [resourceslices]' in raised.value.remedy


def test_a_claim_that_may_not_be_read_is_a_problem_and_the_devices_stay(
    server: KubeApiServer,
) -> None:
    server.refusals["resourceclaims"] = [403]
    with asking(server) as source:
        read = source.read()
        assert [problem.kind for problem in read.problems] == ["forbidden"]
        assert "resources [resourceclaims]" in read.problems[0].remedy
        assert len(read.devices) == 2
        assert source.read().problems == ()


def test_a_claim_that_is_gone_is_no_problem(server: KubeApiServer) -> None:
    with asking(server, Claimed(ADA, "ml/gone", "gpu-1", "gpu-0")) as source:
        read = source.read()
        assert (read.claims, read.problems) == ({"ml/gone": ()}, ())


def test_a_server_that_goes_leaves_the_devices_and_a_problem(server: KubeApiServer) -> None:
    with asking(server) as source:
        source.read()
        server.refusals["resourceslices"] = [500] * 1000
        server.disconnect()
        read = until(source, lambda it: bool(it.problems))
        assert [problem.kind for problem in read.problems] == ["stale"]
        assert read.stale
        assert len(read.devices) == 2


def test_a_malformed_slice_is_skipped_and_told(server: KubeApiServer) -> None:
    with asking(server) as source:
        source.read()
        server.put("resourceslices", {"metadata": {"name": "bad"}, "spec": {"nodeName": "gpu-1"}})
        read = until(source, lambda it: bool(it.problems))
        assert [problem.kind for problem in read.problems] == ["malformed"]
        assert len(read.devices) == 2
