"""The kubelet source against a real gRPC server on a real unix socket."""

from __future__ import annotations

import importlib.util
import os
import random
import shutil
import subprocess
import sys
import threading
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest

from gpucost.config import Kubelet
from gpucost.model import Claimed, Holder, Holding
from gpucost.sources.base import SourceError
from gpucost.sources.gpu_resources import is_gpu_resource
from gpucost.sources.podresources import (
    PodResourcesSource,
    parse_allocatable_json,
    parse_holdings,
    parse_list_json,
    to_json,
)
from gpucost.sources.proto.podresources_v1_pb2 import (
    CDIDevice,
    ClaimResource,
    ContainerResources,
    DynamicResource,
    ListPodResourcesResponse,
    PodResources,
)
from kubelet_socket import RATE_LIMITED, KubeletSocket, holding, offering

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
A, B = "GPU-aaaaaaaa-0000-0000-0000-000000000001", "GPU-bbbbbbbb-0000-0000-0000-000000000002"


@pytest.fixture
def kubelet(tmp_path: Path) -> Iterator[KubeletSocket]:
    with KubeletSocket(tmp_path / "kubelet.sock") as server:
        yield server


def source_of(
    kubelet: KubeletSocket,
    *,
    timeout_seconds: float = 20.0,
    max_bytes: int = 64 << 20,
    allocatable_seconds: float = 60.0,
) -> PodResourcesSource:
    settings = Kubelet(
        socket=str(kubelet.path), timeout_seconds=timeout_seconds, max_bytes=max_bytes
    )
    return PodResourcesSource(settings, allocatable_seconds=allocatable_seconds)


def failure(source: PodResourcesSource) -> SourceError:
    with pytest.raises(SourceError) as raised:
        source.read()
    assert raised.value.remedy
    return raised.value


def held(source: PodResourcesSource) -> list[tuple[str, str]]:
    return [(h.holder.pod, h.device_id) for h in source.read().holdings.holdings]


def _asked_for_allocatable(kubelet: KubeletSocket) -> int:
    return sum(path.endswith("/GetAllocatableResources") for path in kubelet.calls)


def _padded(size: int) -> PodResources:
    """A pod whose entry takes about that many bytes."""
    return holding("big", *(f"id-{n:0500}" for n in range(size // 500)), resource="corp/other")


@contextmanager
def _as_nobody() -> Iterator[None]:
    """Without root's rights, which open every file."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65_534)
    try:
        yield
    finally:
        os.seteuid(0)


class TestConnection:
    def test_says_who_holds_what_and_what_can_be_held(self, kubelet: KubeletSocket) -> None:
        kubelet.pods = [holding("train-0", A), holding("no-gpu")]
        kubelet.devices = offering(B, A)
        with closing(source_of(kubelet)) as source:
            holdings = source.read().holdings
        assert holdings.holdings == (Holding(Holder("ml", "train-0", "main"), "nvidia.com/gpu", A),)
        assert holdings.offered == (A, B)

    def test_gives_the_same_object_while_only_the_order_changes(
        self, kubelet: KubeletSocket
    ) -> None:
        kubelet.pods = [holding("a", A), holding("b", B), holding("c")]
        kubelet.devices = offering(A, B)
        with closing(source_of(kubelet)) as source:
            first = source.read()
            assert all(source.read() is first for _ in range(5))
            kubelet.pods = [holding("a", A)]
            assert source.read() is not first

    def test_asks_for_allocatable_devices_rarely_but_when_holders_change(
        self, kubelet: KubeletSocket
    ) -> None:
        kubelet.pods = [holding("a", A)]
        kubelet.devices = offering(A, B)
        with closing(source_of(kubelet)) as source:
            for _ in range(3):
                source.read()
            assert _asked_for_allocatable(kubelet) == 1
            kubelet.pods = [holding("b", B)]
            source.read()
            assert _asked_for_allocatable(kubelet) == 2

    def test_asks_again_while_no_device_is_offered(self, kubelet: KubeletSocket) -> None:
        """A restarted kubelet offers none until the device plugin has registered again."""
        kubelet.devices = offering()
        with closing(source_of(kubelet)) as source:
            assert source.read().holdings.offered == ()
            kubelet.devices = offering(A)
            assert source.read().holdings.offered == (A,)

    def test_asks_again_when_the_answer_has_aged(self, kubelet: KubeletSocket) -> None:
        kubelet.devices = offering(A)
        with closing(source_of(kubelet, allocatable_seconds=0.0)) as source:
            source.read()
            kubelet.devices = offering(A, B)
            assert source.read().holdings.offered == (A, B)

    def test_follows_a_kubelet_restart_that_re_creates_the_socket(
        self, kubelet: KubeletSocket
    ) -> None:
        kubelet.pods = [holding("before", A)]
        with closing(source_of(kubelet)) as source:
            assert held(source) == [("before", A)]
            kubelet.stop()
            kubelet.pods = [holding("after", B)]
            kubelet.start()
            assert held(source) == [("after", B)]

    def test_follows_a_socket_replaced_while_the_old_server_still_answers(
        self, kubelet: KubeletSocket, tmp_path: Path
    ) -> None:
        """The old connection works on, and would tell of the past for ever."""
        kubelet.pods = [holding("before", A)]
        with closing(source_of(kubelet)) as source:
            assert held(source) == [("before", A)]
            with KubeletSocket(tmp_path / "new.sock") as successor:
                successor.pods = [holding("after", A)]
                successor.path.rename(kubelet.path)
                assert held(source) == [("after", A)]

    def test_a_kubelet_that_is_away_is_unreachable_and_comes_back(
        self, kubelet: KubeletSocket
    ) -> None:
        kubelet.pods = [holding("a", A)]
        with closing(source_of(kubelet)) as source:
            source.read()
            kubelet.stop()
            assert failure(source).kind == "unreachable"
            kubelet.start()
            assert held(source) == [("a", A)]

    def test_a_socket_that_nobody_listens_on_is_unreachable(self, tmp_path: Path) -> None:
        import socket  # noqa: PLC0415 - only here

        path = tmp_path / "kubelet.sock"
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(path))
        with closing(PodResourcesSource(Kubelet(socket=str(path)))) as source:
            assert failure(source).kind == "unreachable"

    @pytest.mark.parametrize("path", ["missing/kubelet.sock", "directory"])
    def test_a_directory_that_is_not_mounted_says_what_to_mount(
        self, tmp_path: Path, path: str
    ) -> None:
        (tmp_path / "directory").mkdir()
        with closing(PodResourcesSource(Kubelet(socket=str(tmp_path / path)))) as source:
            error = failure(source)
        assert error.kind == "absent"
        assert "directory" in error.remedy

    def test_a_socket_we_may_not_open_is_a_permission_problem(self) -> None:
        # Not under tmp_path: pytest's own directories are closed to other users.
        directory = Path(f"/tmp/gpucost-{os.getpid()}-{random.randrange(1 << 30)}")  # noqa: S108, S311
        directory.mkdir()
        try:
            with KubeletSocket(directory / "kubelet.sock") as kubelet:
                kubelet.path.chmod(0o600 if os.geteuid() == 0 else 0)
                with _as_nobody(), closing(source_of(kubelet)) as source:
                    assert failure(source).kind == "permission"
                directory.chmod(0o700 if os.geteuid() == 0 else 0)
                with _as_nobody(), closing(source_of(kubelet)) as source:
                    assert failure(source).kind == "permission"
                directory.chmod(0o700)
        finally:
            shutil.rmtree(directory)

    def test_a_hung_kubelet_is_a_timeout(self, kubelet: KubeletSocket) -> None:
        kubelet.hang = True
        with closing(source_of(kubelet, timeout_seconds=0.2)) as source:
            assert failure(source).kind == "timeout"

    def test_rate_limited_calls_are_repeated(self, kubelet: KubeletSocket) -> None:
        kubelet.pods = [holding("a", A)]
        kubelet.devices = offering(A)
        kubelet.refusals = [RATE_LIMITED] * 3
        with closing(source_of(kubelet)) as source:
            assert held(source) == [("a", A)]
        assert len(kubelet.calls) == 5

    def test_a_rate_limit_that_does_not_end_is_said(self, kubelet: KubeletSocket) -> None:
        kubelet.refusals = [RATE_LIMITED] * 1000
        with closing(source_of(kubelet, timeout_seconds=1.0)) as source:
            assert failure(source).kind == "rate_limited"

    def test_an_answer_above_grpcs_own_4_mib_is_read(self, kubelet: KubeletSocket) -> None:
        """github.com/NVIDIA/dcgm-exporter/issues/509."""
        kubelet.pods = [holding("a", A), _padded(5 << 20)]
        with closing(source_of(kubelet)) as source:
            assert held(source) == [("a", A)]

    def test_an_answer_above_the_limit_is_refused(self, kubelet: KubeletSocket) -> None:
        kubelet.pods = [_padded(1 << 20)]
        with closing(source_of(kubelet, max_bytes=100_000)) as source:
            error = failure(source)
        assert error.kind == "too_large"
        assert "max_bytes" in error.remedy

    def test_an_old_kubelet_is_asked_in_v1alpha1(self, kubelet: KubeletSocket) -> None:
        kubelet.versions = ("v1alpha1",)
        kubelet.pods = [holding("a", A)]
        kubelet.devices = offering(A)
        with closing(source_of(kubelet)) as source:
            holdings = source.read().holdings
            source.read()
        assert [h.device_id for h in holdings.holdings] == [A]
        assert holdings.offered is None
        assert kubelet.calls.count("/v1.PodResourcesLister/List") == 1, "remembered"

    def test_v1_is_tried_again_after_a_kubelet_upgrade(self, kubelet: KubeletSocket) -> None:
        kubelet.versions = ("v1alpha1",)
        with closing(source_of(kubelet)) as source:
            source.read()
            kubelet.stop()
            kubelet.versions = ("v1",)
            kubelet.pods = [holding("a", A)]
            kubelet.start()
            assert held(source) == [("a", A)]

    def test_a_kubelet_with_neither_version_is_unsupported(self, kubelet: KubeletSocket) -> None:
        kubelet.versions = ()
        with closing(source_of(kubelet)) as source:
            assert failure(source).kind == "unsupported"

    def test_what_can_be_held_is_unknown_where_the_kubelet_cannot_say(
        self, kubelet: KubeletSocket
    ) -> None:
        with closing(source_of(kubelet)) as source:
            assert source.read().holdings.offered is None

    def test_a_failing_allocatable_call_keeps_holders_and_is_a_problem(
        self, kubelet: KubeletSocket
    ) -> None:
        kubelet.pods = [holding("a", A)]
        kubelet.devices = offering(A, B)
        with closing(source_of(kubelet)) as source:
            source.read()
            kubelet.pods = [holding("b", B)]
            kubelet.device_refusals = [(grpc.StatusCode.INTERNAL, "no device manager")]
            read = source.read()
            assert [h.holder.pod for h in read.holdings.holdings] == ["b"]
            assert read.holdings.offered == (A, B)
            assert [problem.kind for problem in read.problems] == ["allocatable"]
            assert source.read().problems == (), "asked again at once, and mended"

    def test_any_other_refusal_is_said(self, kubelet: KubeletSocket) -> None:
        kubelet.refusals = [(grpc.StatusCode.INTERNAL, "checkpoint is corrupt")]
        with closing(source_of(kubelet)) as source:
            error = failure(source)
        assert error.kind == "failed"
        assert "checkpoint is corrupt" in str(error)

    def test_something_else_on_the_socket_is_malformed(self, kubelet: KubeletSocket) -> None:
        kubelet.garbage = b"\xff" * 20
        with closing(source_of(kubelet)) as source:
            assert failure(source).kind == "malformed"

    def test_closing_leaves_no_thread(self, kubelet: KubeletSocket) -> None:
        with closing(source_of(kubelet)) as source:
            source.read()
            before = {thread.name for thread in threading.enumerate()}
        source.close()
        assert {thread.name for thread in threading.enumerate()} <= before

    def test_the_last_answers_can_be_recorded_and_replayed(self, kubelet: KubeletSocket) -> None:
        kubelet.pods = [holding("a", A)]
        kubelet.devices = offering(A, B)
        with closing(source_of(kubelet)) as source:
            read = source.read()
            listed, allocatable = source.raw()
        assert allocatable is not None
        replayed = parse_holdings(
            parse_list_json(to_json(listed)), parse_allocatable_json(to_json(allocatable))
        )
        assert replayed == read


class TestParsing:
    @pytest.mark.parametrize(
        ("resource", "expected"),
        [
            ("nvidia.com/gpu", True),
            ("nvidia.com/gpu.shared", True),
            ("nvidia.com/gpu-h100", True),
            ("nvidia.com/mig-1g.10gb", True),
            ("nvidia.com/mig-1g.10gb.shared", True),
            ("example.com/fast-gpu", True),
            ("nvidia.com/gpumem", False),
            ("nvidia.com/sriov", False),
            ("rdma/hca", False),
        ],
    )
    def test_knows_the_resources_that_are_gpus(self, resource: str, *, expected: bool) -> None:
        assert is_gpu_resource(resource, ("example.com/fast-gpu",)) is expected
        listed = ListPodResourcesResponse(pod_resources=[holding("a", "id-1", resource=resource)])
        found = parse_holdings(listed, None, ("example.com/fast-gpu",)).holdings.holdings
        assert bool(found) is expected

    @pytest.mark.parametrize("device_id", [A, "MIG-11111111-2222-3333-4444-555555555555"])
    def test_an_id_in_nvidias_form_counts_whatever_its_resource(self, device_id: str) -> None:
        listed = ListPodResourcesResponse(
            pod_resources=[holding("a", device_id, resource="corp.example/accelerator")]
        )
        assert [h.device_id for h in parse_holdings(listed, None).holdings.holdings] == [device_id]

    def test_a_device_on_two_numa_nodes_is_held_once(self) -> None:
        listed = ListPodResourcesResponse(pod_resources=[holding("a", A, A)])
        found = parse_holdings(listed, offering(A, A)).holdings
        assert len(found.holdings) == 1
        assert found.offered == (A,)

    def test_replicas_of_a_shared_gpu_are_counted_one_by_one(self) -> None:
        listed = ListPodResourcesResponse(
            pod_resources=[holding("a", f"{A}::0"), holding("b", f"{A}::1")]
        )
        found = parse_holdings(listed, offering(f"{A}::0", f"{A}::1", f"{A}::2")).holdings
        assert [h.holder.pod for h in found.holdings] == ["a", "b"]
        assert found.offered is not None
        assert len(found.offered) == 3

    def test_a_dra_claim_listed_four_times_is_one_device_of_each_of_its_pods(self) -> None:
        """As seen on Kubernetes 1.36: two pods share a claim, each listed twice."""
        claim = DynamicResource(
            claim_name="one",
            claim_namespace="ml",
            claim_resources=[
                ClaimResource(
                    cdi_devices=[CDIDevice(name="k8s.gpu.nvidia.com/claim=x")],
                    driver_name="gpu.nvidia.com",
                    pool_name="node-1",
                    device_name="gpu-0",
                )
            ]
            * 2,
        )
        other = DynamicResource(
            claim_name="nic",
            claim_resources=[ClaimResource(driver_name="dra.net", pool_name="n", device_name="e")],
        )
        pods = [
            PodResources(
                name=name,
                namespace="ml",
                containers=[ContainerResources(name="main", dynamic_resources=[claim, other])],
            )
            for name in ("a", "b")
        ]
        read = parse_holdings(ListPodResourcesResponse(pod_resources=pods), None)
        assert read.holdings.claimed == tuple(
            Claimed(Holder("ml", name, "main"), "ml/one", "node-1", "gpu-0") for name in ("a", "b")
        )
        assert (read.holdings.holdings, read.problems) == ((), ())

    def test_an_answer_of_many_megabytes_of_repetition_is_still_one_device(self) -> None:
        """kubernetes/kubernetes: every failed prepare lists the claim's devices once more."""
        device = ClaimResource(
            cdi_devices=[CDIDevice(name="k8s.gpu.nvidia.com/claim=" + "x" * 60)] * 8,
            driver_name="gpu.nvidia.com",
            pool_name="node-1",
            device_name="gpu-0",
        )
        claim = DynamicResource(
            claim_name="one", claim_namespace="ml", claim_resources=[device] * 10_000
        )
        container = ContainerResources(name="main", dynamic_resources=[claim])
        pod = PodResources(name="a", namespace="ml", containers=[container])
        answer = ListPodResourcesResponse(pod_resources=[pod]).SerializeToString()
        assert len(answer) > 4 << 20
        read = parse_holdings(ListPodResourcesResponse.FromString(answer), None)
        assert len(read.holdings.claimed) == 1

    def test_any_order_gives_equal_holdings(self) -> None:
        pods = [holding(f"p{n}", f"{A}::{n}") for n in range(20)]
        shuffled = random.Random(7).sample(pods, len(pods))  # noqa: S311 - a shuffle
        assert parse_holdings(ListPodResourcesResponse(pod_resources=pods), None) == parse_holdings(
            ListPodResourcesResponse(pod_resources=shuffled), None
        )

    @pytest.mark.parametrize(
        "text",
        [
            (
                '{"pod_resources": [{"name": "a", "namespace": "ml", "containers": [{"name": "c",'
                ' "devices": [{"resource_name": "nvidia.com/gpu", "device_ids": ["GPU-1"]}],'
                ' "cpu_ids": ["1", "2"], "from_a_later_kubelet": true}]}]}'
            ),
            (
                '{"podResources": [{"name": "a", "namespace": "ml", "containers": [{"name": "c",'
                ' "devices": [{"resourceName": "nvidia.com/gpu", "deviceIds": ["GPU-1"],'
                ' "topology": {"nodes": [{"ID": "1"}]}}]}]}]}'
            ),
        ],
    )
    def test_reads_protobuf_json_of_both_spellings(self, text: str) -> None:
        found = parse_holdings(parse_list_json(text), None).holdings.holdings
        assert found == (Holding(Holder("ml", "a", "c"), "nvidia.com/gpu", "GPU-1"),)

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "{",
            "[]",
            "null",
            '{"pod_resources": 3}',
            "[" * 100_000,
            b"\xff\xfe",
            '{"items": []}',
        ],
    )
    def test_bad_json_is_malformed(self, text: str | bytes) -> None:
        for parse in (parse_list_json, parse_allocatable_json):
            with pytest.raises(SourceError) as raised:
                parse(text)
            assert raised.value.kind == "malformed"

    def test_files_that_were_swapped_are_not_taken_for_a_free_node(self) -> None:
        listed = to_json(ListPodResourcesResponse(pod_resources=[holding("a", A)]))
        with pytest.raises(SourceError):
            parse_allocatable_json(listed)
        with pytest.raises(SourceError):
            parse_list_json(to_json(offering(A)))


@pytest.mark.skipif(
    importlib.util.find_spec("grpc_tools") is None, reason="needs grpcio-tools to generate"
)
def test_the_committed_messages_are_what_the_proto_files_give(tmp_path: Path) -> None:
    subprocess.run(
        [ROOT / "scripts/gen_proto.sh", tmp_path],
        check=True,
        env={**os.environ, "PYTHON": sys.executable},
    )
    made = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*_pb2.py*"))
    protos = [*ROOT.glob("exporter/**/*.proto"), *ROOT.glob("tests/**/*.proto")]
    assert len(made) == 2 * len(protos) > 0
    for path in made:
        assert (tmp_path / path).read_text() == (ROOT / path).read_text()
