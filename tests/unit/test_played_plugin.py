"""The played device plugin, as a kubelet meets it: real gRPC on real sockets."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from hypothesis import given, strategies

from fake_nvml.world import MIB
from played_gpus.grpc_socket import GrpcSocket, call, unary
from played_gpus.machine import Offered, cards, offered
from played_gpus.plugin import Plugin, Plugins, preferred
from played_gpus.proto import deviceplugin_v1beta1_pb2 as api
from played_gpus.settings import parse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

GPU = "nvidia.com/gpu"
SECONDS = 30.0


class Kubelet:
    """The socket that a kubelet has for registrations."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.registered: list[api.RegisterRequest] = []
        self.refuses = False
        self._server = GrpcSocket(
            folder / "kubelet.sock",
            {"v1beta1.Registration": {"Register": unary(api.RegisterRequest, self._register)}},
        )

    def start(self) -> None:
        """As a kubelet does: every socket in the folder goes."""
        for socket in self.folder.iterdir():
            socket.unlink()
        self._server.start()

    def stop(self) -> None:
        self._server.stop()

    def ask(self, method: str, request: Any, answer: Any) -> Any:  # noqa: ANN401 - messages
        socket = self.folder / self.registered[-1].endpoint
        return call(socket, f"/v1beta1.DevicePlugin/{method}", request, answer, SECONDS)

    def _register(self, request: api.RegisterRequest, context: grpc.ServicerContext) -> api.Empty:
        if self.refuses:
            context.abort(grpc.StatusCode.UNKNOWN, "unsupported")
        self.registered.append(request)
        return api.Empty()


@pytest.fixture
def kubelet(tmp_path: Path) -> Iterator[Kubelet]:
    kubelet = Kubelet(tmp_path)
    kubelet.start()
    yield kubelet
    kubelet.stop()


@pytest.fixture
def started(kubelet: Kubelet) -> Iterator[Callable[[str], Plugin]]:
    """Makes a registered plugin of the first resource that settings offer."""
    made: list[Plugin] = []

    def start(settings: str) -> Plugin:
        (resource, devices), *_ = _offered(settings).items()
        plugin = Plugin(kubelet.folder, resource, devices)
        made.append(plugin)
        assert plugin.keep()
        return plugin

    yield start
    for plugin in made:
        plugin.stop()


def _offered(settings: str) -> dict[str, tuple[Offered, ...]]:
    parsed = parse(settings)
    return offered(parsed, cards(parsed, "node-1"))


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_it_registers_under_a_file_name_and_answers_the_kubelet_at_once(
    kubelet: Kubelet, started: Callable[[str], Plugin]
) -> None:
    started("gpus: [{count: 2}]")
    (request,) = kubelet.registered
    assert (request.version, request.resource_name) == ("v1beta1", GPU)
    assert (kubelet.folder / request.endpoint).is_socket()
    options = kubelet.ask("GetDevicePluginOptions", api.Empty(), api.DevicePluginOptions)
    assert options.get_preferred_allocation_available
    assert not options.pre_start_required


def test_allocate_answers_with_what_nvidia_s_plugin_gives(
    kubelet: Kubelet, started: Callable[[str], Plugin]
) -> None:
    started("gpus: [{count: 4, replicas: 2}]")
    devices = _offered("gpus: [{count: 4, replicas: 2}]")[GPU]
    request = api.AllocateRequest(
        container_requests=[
            # two replicas of one GPU are one device; what comes first is the lowest
            api.ContainerAllocateRequest(devices_ids=[devices[7].id, devices[2].id, devices[3].id]),
            api.ContainerAllocateRequest(devices_ids=[]),
        ]
    )
    first, second = kubelet.ask("Allocate", request, api.AllocateResponse).container_responses
    assert first.envs == {"NVIDIA_VISIBLE_DEVICES": f"{devices[2].uuid},{devices[7].uuid}"}
    assert [(it.container_path, it.host_path) for it in first.devices] == [
        ("/dev/nvidia1", "/dev/null"),
        ("/dev/nvidia3", "/dev/null"),
    ]
    assert not first.mounts
    assert not second.devices


def test_a_device_that_there_is_not_cannot_be_allocated(
    kubelet: Kubelet, started: Callable[[str], Plugin]
) -> None:
    started("gpus: [{}]")
    request = api.AllocateRequest(
        container_requests=[api.ContainerAllocateRequest(devices_ids=["GPU-none"])]
    )
    with pytest.raises(grpc.RpcError, match="GPU-none"):
        kubelet.ask("Allocate", request, api.AllocateResponse)


def test_the_stream_goes_on_with_every_change_and_ends_with_the_plugin(
    kubelet: Kubelet, started: Callable[[str], Plugin]
) -> None:
    plugin = started("gpus: [{count: 3, numa: [0, 1]}]")
    seen: list[api.ListAndWatchResponse] = []

    def listen() -> None:
        socket = kubelet.folder / kubelet.registered[-1].endpoint
        with grpc.insecure_channel(f"unix:{socket}") as channel:
            watch = channel.unary_stream(
                "/v1beta1.DevicePlugin/ListAndWatch",
                lambda message: message.SerializeToString(),
                api.ListAndWatchResponse.FromString,
            )
            try:
                seen.extend(watch(api.Empty(), wait_for_ready=True))
            except grpc.RpcError:
                return

    listening = threading.Thread(target=listen)
    listening.start()
    _until(lambda: len(seen) == 1)
    plugin.show(_offered("{gpus: [{count: 3}], unhealthy: [1], missing: [2]}")[GPU])
    _until(lambda: len(seen) == 2)
    assert [device.health for device in seen[1].devices] == ["Healthy", "Unhealthy"]
    assert [node.ID for node in seen[0].devices[0].topology.nodes] == [0, 1]
    assert seen[0].devices[0].ID == seen[1].devices[0].ID
    plugin.stop()
    listening.join(SECONDS)
    assert not listening.is_alive()


def test_a_kubelet_that_starts_again_finds_the_plugin_again(
    kubelet: Kubelet, started: Callable[[str], Plugin]
) -> None:
    plugin = started("gpus: [{}]")
    assert plugin.keep()
    assert len(kubelet.registered) == 1  # registered is registered
    kubelet.stop()
    assert not plugin.keep()
    kubelet.start()
    assert plugin.keep()
    assert len(kubelet.registered) == 2
    kubelet.ask("GetDevicePluginOptions", api.Empty(), api.DevicePluginOptions)


def test_a_refused_registration_is_tried_again(kubelet: Kubelet) -> None:
    plugins = Plugins(kubelet.folder)
    kubelet.refuses = True
    plugins.show(_offered("gpus: [{}]"))
    assert not plugins.keep()
    kubelet.refuses = False
    assert plugins.keep()
    plugins.stop()


def test_a_resource_that_goes_loses_its_plugin_and_the_others_stay(kubelet: Kubelet) -> None:
    plugins = Plugins(kubelet.folder)
    both = "{gpus: [{mig: [3g.40gb, 1g.10gb]}, {}], mig_strategy: mixed}"
    plugins.show(_offered(both))
    assert plugins.keep()
    assert {it.resource_name for it in kubelet.registered} == {
        GPU,
        "nvidia.com/mig-3g.40gb",
        "nvidia.com/mig-1g.10gb",
    }
    plugins.show(_offered("{gpus: [{mig: [3g.40gb]}, {}], mig_strategy: mixed}"))
    assert plugins.keep()
    assert len(kubelet.registered) == 3
    assert len(list(kubelet.folder.glob("played-*.sock"))) == 2
    plugins.stop()
    assert not list(kubelet.folder.glob("played-*.sock"))


ALL = _offered("gpus: [{count: 8, replicas: 4}]")[GPU]


@given(
    free=strategies.sets(strategies.integers(0, len(ALL) - 1), min_size=1),
    size=strategies.integers(1, len(ALL)),
)
def test_the_lowest_of_the_free_devices_are_preferred(free: set[int], size: int) -> None:
    available = [ALL[place].id for place in free]
    assert preferred(ALL, available, [], size) == [ALL[place].id for place in sorted(free)][:size]
    required = available[-1:]
    chosen = preferred(ALL, available, required, size)
    assert chosen[:1] == required
    assert len(chosen) == len(set(chosen)) == min(size, len(free))


def test_memory_is_what_the_catalogue_says() -> None:
    parsed = parse("gpus: [{model: Tesla T4}, {model: Mystery, memory_gib: 0.5}]")
    assert [card.gpu.memory_bytes for card in cards(parsed, "n")] == [16384 * MIB, 512 * MIB]
