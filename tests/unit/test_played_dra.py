"""The played DRA driver, as a kubelet and an API server meet it: real gRPC, real HTTP."""

from __future__ import annotations

import json
import re
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import grpc
import pytest
import yaml

from gpucost.sources.proto.podresources_v1_pb2 import (
    ClaimResource,
    ContainerResources,
    DynamicResource,
    PodResources,
)
from kubelet_socket import KubeletSocket
from played_gpus.api import Api, ApiError
from played_gpus.broker import Asker, Refused
from played_gpus.dra import SLICES, Driver
from played_gpus.grpc_socket import call
from played_gpus.install import HERE
from played_gpus.machine import cards
from played_gpus.proto import dra_v1_pb2 as dra
from played_gpus.proto import pluginregistration_v1_pb2 as registration
from played_gpus.settings import parse
from played_gpus.slices import published, slices

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from played_gpus.machine import Card

SECONDS = 30.0
CLAIMS = "/apis/resource.k8s.io/v1/namespaces/ml/resourceclaims"


def _cards(text: str) -> tuple[Card, ...]:
    return cards(parse(text), "node-1")


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


class Store:
    """An API server of bare objects by path; `writes` counts what changed them."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Any]] = {}
        self.writes = 0
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        threading.Thread(target=self._server.serve_forever, args=(0.05,)).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def slices(self) -> list[dict[str, Any]]:
        return [found for path, found in self.objects.items() if path.startswith(SLICES)]

    def write(self, path: str, found: dict[str, Any]) -> dict[str, Any]:
        self.writes += 1
        found["metadata"]["resourceVersion"] = str(self.writes)
        self.objects[path] = json.loads(json.dumps(found).replace("81920Mi", "80Gi"))
        return found

    def answer(self, method: str, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if method == "GET" and path == SLICES:
            return 200, {"items": self.slices()}
        if method == "POST":
            return 201, self.write(f"{path}/{body['metadata']['name']}", body)
        if path not in self.objects:
            return 404, {}
        if method == "DELETE":
            self.writes += 1
            return 200, self.objects.pop(path)
        if method == "PUT":
            there = self.objects[path]["metadata"]["resourceVersion"]
            if body["metadata"]["resourceVersion"] != there:
                return 409, {}
            return 200, self.write(path, body)
        return 200, self.objects[path]

    def _handler(store) -> type[BaseHTTPRequestHandler]:  # noqa: N805 - the inner class has self
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = SECONDS

            def _do(self) -> None:
                length = int(self.headers.get("Content-Length", 0))
                body = json.loads(self.rfile.read(length) or b"{}")
                status, found = store.answer(self.command, urlsplit(self.path).path, body)
                data = json.dumps(found).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_PUT = do_DELETE = _do  # noqa: N815 - http.server's names

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                """Say nothing."""

        return Handler


@pytest.fixture
def store() -> Iterator[Store]:
    store = Store()
    store.objects["/api/v1/nodes/node-1"] = {"metadata": {"uid": "uid-of-node-1"}}
    yield store
    store.close()


@pytest.fixture
def kubernetes(store: Store, tmp_path: Path) -> Iterator[Api]:
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(
        yaml.safe_dump(
            {
                "clusters": [{"name": "c", "cluster": {"server": store.url}}],
                "users": [{"name": "u", "user": {"token": "secret"}}],
                "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
                "current-context": "x",
            }
        ),
        encoding="utf-8",
    )
    with Api(kubeconfig) as api:
        yield api


@pytest.fixture
def root() -> Iterator[Path]:
    """A kubelet's root, short as they are: a socket's path has 107 bytes."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@pytest.fixture
def driver(root: Path, kubernetes: Api) -> Driver:
    return Driver(root, kubernetes, "node-1")


class TestDevices:
    def test_a_gpu_is_told_as_nvidia_s_driver_tells_it(self) -> None:
        (card,) = _cards("gpus: [{offer: dra}]")
        (device,) = published([card])
        assert device.name == "gpu-0"
        attributes = device.body["attributes"]
        assert attributes["uuid"] == {"string": card.gpu.uuid}
        assert attributes["type"] == {"string": "gpu"}
        assert attributes["productName"] == {"string": "NVIDIA H100 80GB HBM3"}
        assert attributes["architecture"] == {"string": "Hopper"}
        assert device.body["capacity"] == {"memory": {"value": "81920Mi"}}

    def test_a_partitioned_gpu_is_there_by_its_parts(self) -> None:
        cards = _cards("gpus: [{offer: dra, mig: [1g.10gb, 3g.40gb, 1g.10gb]}]")
        small, large, last = published(cards)
        assert [small.name, large.name] == ["gpu-0-mig-1g10gb-19-0", "gpu-0-mig-3g40gb-9-4"]
        assert len({small.name, large.name, last.name}) == 3
        assert large.body["attributes"]["parentUUID"] == {"string": cards[0].gpu.uuid}
        assert large.body["attributes"]["profile"] == {"string": "3g.40gb"}
        assert {"memorySlice4", "memorySlice7"} <= large.body["capacity"].keys()

    def test_what_others_offer_and_what_is_broken_is_not_there(self) -> None:
        cards = _cards("{gpus: [{}, {offer: dra, count: 2}, {offer: nobody}], unhealthy: [1]}")
        assert [device.name for device in published(cards)] == ["gpu-2"]

    def test_a_shared_device_takes_several_claims(self) -> None:
        (device,) = published(_cards("gpus: [{offer: dra, shared: true}]"))
        assert device.body["allowMultipleAllocations"] is True
        policy = device.body["capacity"]["memory"]["requestPolicy"]
        assert policy["default"] == "8Gi"

    def test_names_and_sizes_keep_the_api_s_limits(self) -> None:
        devices = published(_cards(f"gpus: [{{offer: dra, count: 32, mig: {['1g.10gb'] * 7}}}]"))
        parts = slices("node-1", "uid", devices, 3)
        assert [len(part["spec"]["devices"]) for part in parts] == [64, 64, 64, 32]
        assert {part["spec"]["pool"]["resourceSliceCount"] for part in parts} == {4}
        assert all(re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", it.name) for it in devices)
        assert all(len(it.body["attributes"]) + len(it.body["capacity"]) <= 32 for it in devices)

    def test_the_classes_name_the_driver(self) -> None:
        text = (HERE / "device-classes.yaml").read_text(encoding="utf-8")
        names = [found["metadata"]["name"] for found in yaml.safe_load_all(text)]
        assert names == ["gpu.nvidia.com", "mig.nvidia.com"]


class TestSlices:
    def test_they_are_the_node_s_and_written_once(self, store: Store, driver: Driver) -> None:
        driver.show(_cards("gpus: [{offer: dra, count: 2}]"))
        for _ in range(3):
            driver.publish()
        (found,) = store.slices()
        assert store.writes == 1
        assert found["metadata"]["ownerReferences"][0]["uid"] == "uid-of-node-1"
        assert found["spec"]["pool"] == {
            "name": "node-1",
            "generation": 1,
            "resourceSliceCount": 1,
        }

    def test_they_come_again_when_the_kubelet_deleted_them(
        self, store: Store, driver: Driver
    ) -> None:
        driver.show(_cards("gpus: [{offer: dra}]"))
        driver.publish()
        for path in [path for path in store.objects if path.startswith(SLICES)]:
            del store.objects[path]
        driver.publish()
        assert len(store.slices()) == 1

    def test_other_devices_are_a_new_generation_and_none_leave_nothing(
        self, store: Store, driver: Driver
    ) -> None:
        driver.show(_cards(f"gpus: [{{offer: dra, count: 10, mig: {['1g.10gb'] * 7}}}]"))
        driver.publish()
        assert len(store.slices()) == 2
        driver.show(_cards("gpus: [{offer: dra}]"))
        driver.publish()
        (found,) = store.slices()
        assert found["spec"]["pool"]["generation"] == 2
        driver.show(())
        driver.publish()
        assert store.slices() == []

    def test_nothing_is_published_of_a_node_that_is_not_there(
        self, store: Store, driver: Driver
    ) -> None:
        store.objects.clear()
        driver.show(_cards("gpus: [{offer: dra}]"))
        driver.publish()
        assert store.slices() == []

    def test_an_api_server_that_is_gone_is_an_error_that_says_so(self, tmp_path: Path) -> None:
        text = "{clusters: [{name: c, cluster: {server: 'http://127.0.0.1:9'}}], users: [], "
        text += "contexts: [{name: x, context: {cluster: c, user: u}}], current-context: x}"
        (tmp_path / "kubeconfig").write_text(text, encoding="utf-8")
        with Api(tmp_path / "kubeconfig") as api, pytest.raises(ApiError, match=r"127\.0\.0\.1"):
            api.get(SLICES)

    def test_a_kubeconfig_that_is_not_there_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="absent"):
            Api(tmp_path / "absent")


class TestKubelet:
    @pytest.fixture
    def running(self, root: Path, driver: Driver) -> Iterator[Path]:
        """The kubelet's root, with a driver of a GPU and a MIG device in it."""
        driver.show(_cards("gpus: [{offer: dra}, {offer: dra, mig: [3g.40gb]}]"))
        ended = threading.Event()
        driving = threading.Thread(target=driver.run, args=(ended,))
        driving.start()
        _until((root / "plugins_registry/gpu.nvidia.com-reg.sock").exists)
        yield root
        ended.set()
        driving.join(SECONDS)
        assert not list(root.rglob("*.sock"))

    def prepare(self, root: Path, *uids: str, version: str = "v1") -> Any:  # noqa: ANN401 - message
        return call(
            root / "plugins/gpu.nvidia.com/dra.sock",
            f"/k8s.io.kubelet.pkg.apis.dra.{version}.DRAPlugin/NodePrepareResources",
            dra.NodePrepareResourcesRequest(
                claims=[dra.Claim(namespace="ml", uid=uid, name="claim") for uid in uids]
            ),
            dra.NodePrepareResourcesResponse,
            SECONDS,
        )

    def claim(self, store: Store, *devices: str, uid: str = "u1", **more: str) -> None:
        results = [
            {"driver": "gpu.nvidia.com", "pool": "node-1", "device": it, "request": "gpu", **more}
            for it in devices
        ]
        results.append({"driver": "nic.example", "pool": "n", "device": "nic", "request": "nic"})
        store.objects[f"{CLAIMS}/claim"] = {
            "metadata": {"uid": uid},
            "status": {"allocation": {"devices": {"results": results}}},
        }

    def test_it_says_who_it_is_and_where_its_service_is(self, running: Path) -> None:
        info = call(
            running / "plugins_registry/gpu.nvidia.com-reg.sock",
            "/pluginregistration.Registration/GetInfo",
            registration.InfoRequest(),
            registration.PluginInfo,
            SECONDS,
        )
        assert (info.type, info.name) == ("DRAPlugin", "gpu.nvidia.com")
        assert info.endpoint == str(running / "plugins/gpu.nvidia.com/dra.sock")
        assert list(info.supported_versions) == ["v1.DRAPlugin", "v1beta1.DRAPlugin"]

    @pytest.mark.parametrize("version", ["v1", "v1beta1"])
    def test_a_claim_gets_the_devices_that_the_scheduler_gave(
        self, running: Path, store: Store, version: str
    ) -> None:
        self.claim(store, "gpu-0", "gpu-1-mig-3g40gb-9-0", shareID="s1")
        answer = self.prepare(running, "u1", version=version).claims["u1"]
        assert answer.error == ""
        assert [(it.device_name, it.share_id, list(it.request_names)) for it in answer.devices] == [
            ("gpu-0", "s1", ["gpu"]),
            ("gpu-1-mig-3g40gb-9-0", "s1", ["gpu"]),
        ]

    def test_a_device_of_one_claim_has_no_share(self, running: Path, store: Store) -> None:
        self.claim(store, "gpu-0")
        assert not self.prepare(running, "u1").claims["u1"].devices[0].HasField("share_id")

    def test_what_is_wrong_with_a_claim_is_said_in_its_answer(
        self, running: Path, store: Store
    ) -> None:
        self.claim(store, "gpu-9")
        answer = self.prepare(running, "u1", "u2")
        assert "no device gpu-9" in answer.claims["u1"].error
        assert "is gone" in answer.claims["u2"].error

    def test_sockets_that_were_removed_come_again(self, running: Path) -> None:
        socket = running / "plugins/gpu.nvidia.com/dra.sock"
        socket.unlink()
        _until(socket.exists)

    def test_a_container_s_claims_are_asked_of_the_kubelet_each_device_once(
        self, running: Path, driver: Driver
    ) -> None:
        mine = ClaimResource(driver_name="gpu.nvidia.com", pool_name="node-1", device_name="gpu-0")
        other = ClaimResource(driver_name="nic.example", pool_name="n", device_name="gpu-1")
        container = ContainerResources(
            name="main", dynamic_resources=[DynamicResource(claim_resources=[mine, other, mine])]
        )
        pods = [PodResources(name="pod", namespace="ml", containers=[container])]
        (running / "pod-resources").mkdir()
        asker = Asker("ml", "pod", "main")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("played_gpus.dra.KUBELET_SECONDS", 0.2)
            with pytest.raises(Refused, match="does not say"):
                driver.claimed(asker)
        with KubeletSocket(running / "pod-resources/kubelet.sock") as kubelet:
            kubelet.pods = pods
            (uuid,) = driver.claimed(asker)
            assert uuid == _cards("gpus: [{}]")[0].gpu.uuid
            assert driver.claimed(Asker("ml", "pod", "side")) == ()

    def test_an_unprepared_claim_is_answered(self, running: Path) -> None:
        answer = call(
            running / "plugins/gpu.nvidia.com/dra.sock",
            "/k8s.io.kubelet.pkg.apis.dra.v1.DRAPlugin/NodeUnprepareResources",
            dra.NodeUnprepareResourcesRequest(claims=[dra.Claim(uid="u1")]),
            dra.NodeUnprepareResourcesResponse,
            SECONDS,
        )
        assert answer.claims["u1"].error == ""

    def test_an_unknown_call_is_refused(self, running: Path) -> None:
        with pytest.raises(grpc.RpcError):
            self.prepare(running, "u1", version="v2")
