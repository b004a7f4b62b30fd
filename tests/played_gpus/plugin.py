"""NVIDIA's device plugin, played: one gRPC server a resource, registered with the kubelet.

The API is v1beta1 (k8s.io/kubelet pkg/apis/deviceplugin). A plugin serves before it registers,
because the kubelet dials back at once; a kubelet that starts deletes every socket in its folder
(pkg/kubelet/cm/devicemanager/plugin/v1beta1/server.go), so a plugin whose socket is gone, or that
sees another kubelet.sock, begins again. Its devices' ids stay, or the pods that hold them fail.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Final

import grpc

from played_gpus.grpc_socket import GrpcSocket, call, stream, unary
from played_gpus.machine import HEALTHY, UNHEALTHY, Offered
from played_gpus.proto import deviceplugin_v1beta1_pb2 as api

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

VERSION: Final = "v1beta1"
KUBELET_SOCKET: Final = "kubelet.sock"
REGISTER_SECONDS: Final = 5.0
STREAMS: Final = 4
"""Kubelets that may listen at once: one, and those that restarted before their streams ended."""

log = logging.getLogger(__name__)


class Plugin:
    """One resource. `keep()` is to be called a few times a second; it does what has to be done."""

    def __init__(self, folder: Path, resource: str, devices: tuple[Offered, ...]) -> None:
        self.resource = resource
        self._kubelet = folder / KUBELET_SOCKET
        self._devices = devices
        self._changed = threading.Condition()
        self._edition = 0
        self._closing = False
        self._registered_at: int | None = None
        name = f"played-{resource.replace('/', '-')}.sock"
        self._socket = GrpcSocket(
            folder / name,
            {
                f"{VERSION}.DevicePlugin": {
                    "GetDevicePluginOptions": unary(api.Empty, self._options),
                    "ListAndWatch": stream(api.Empty, self._list_and_watch),
                    "GetPreferredAllocation": unary(
                        api.PreferredAllocationRequest, self._preferred
                    ),
                    "Allocate": unary(api.AllocateRequest, self._allocate),
                }
            },
            workers=STREAMS + 4,
        )

    def show(self, devices: tuple[Offered, ...]) -> None:
        """Let the kubelet know these devices instead of the ones before."""
        with self._changed:
            if devices != self._devices:
                self._devices = devices
                self._edition += 1
                self._changed.notify_all()

    def keep(self) -> bool:
        """Serve and register, if that is not so already; whether it is so now."""
        try:
            kubelet = self._kubelet.stat().st_ino
        except OSError:
            return False  # no kubelet yet
        if self._registered_at == kubelet and self._socket.stands():
            return True
        self._registered_at = None
        try:
            if not self._socket.stands():
                self._socket.stop()
                self._socket.start()
            call(
                self._kubelet,
                f"/{VERSION}.Registration/Register",
                api.RegisterRequest(
                    version=VERSION,
                    endpoint=self._socket.path.name,
                    resource_name=self.resource,
                    options=_OPTIONS,
                ),
                api.Empty,
                REGISTER_SECONDS,
            )
        except grpc.RpcError as error:
            log.warning("%s: the kubelet refused the registration: %s", self.resource, error)
            return False
        except (OSError, RuntimeError) as error:
            log.warning("%s: cannot serve: %s", self.resource, error)
            return False
        self._registered_at = kubelet
        log.info("%s: registered, %d devices", self.resource, len(self._devices))
        return True

    def stop(self) -> None:
        """End the streams and the server."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._socket.stop()

    def _options(self, _: api.Empty, __: grpc.ServicerContext) -> api.DevicePluginOptions:
        return _OPTIONS

    def _list_and_watch(
        self, _: api.Empty, context: grpc.ServicerContext
    ) -> Iterator[api.ListAndWatchResponse]:
        """The devices at once, and again when they change, while the kubelet listens."""
        context.add_callback(self._wake)
        seen = -1
        while True:
            with self._changed:
                while not (self._closing or self._edition != seen) and context.is_active():
                    self._changed.wait()
                if self._closing or not context.is_active():
                    return
                seen, devices = self._edition, self._devices
            yield api.ListAndWatchResponse(devices=[_message(device) for device in devices])

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _preferred(
        self, request: api.PreferredAllocationRequest, _: grpc.ServicerContext
    ) -> api.PreferredAllocationResponse:
        return api.PreferredAllocationResponse(
            container_responses=[
                api.ContainerPreferredAllocationResponse(
                    deviceIDs=preferred(
                        self._devices,
                        one.available_deviceIDs,
                        one.must_include_deviceIDs,
                        one.allocation_size,
                    )
                )
                for one in request.container_requests
            ]
        )

    def _allocate(
        self, request: api.AllocateRequest, context: grpc.ServicerContext
    ) -> api.AllocateResponse:
        """Raises INVALID_ARGUMENT for a device that there is not, as NVIDIA's does."""
        by_id = {device.id: device for device in self._devices}
        answer = api.AllocateResponse()
        for one in request.container_requests:
            unknown = [name for name in one.devices_ids if name not in by_id]
            if unknown:
                context.abort(
                    grpc.StatusCode.INVALID_ARGUMENT,
                    f"unknown device of {self.resource}: {', '.join(unknown)}",
                )
            chosen = [device for device in self._devices if device.id in set(one.devices_ids)]
            answer.container_responses.append(handed_out(chosen))
        return answer


_OPTIONS: Final = api.DevicePluginOptions(get_preferred_allocation_available=True)


def preferred(
    devices: Sequence[Offered], available: Sequence[str], required: Sequence[str], size: int
) -> list[str]:
    """The lowest devices: what is required, then the lowest available.

    Replicas of one device stand side by side, so they are packed. NVIDIA's plugin would spread
    them; a test wants to know who shares with whom.
    """
    free = set(available) - set(required)
    lowest = [device.id for device in devices if device.id in free]
    return [*required, *lowest][:size]


def handed_out(chosen: Sequence[Offered]) -> api.ContainerAllocateResponse:
    """What a container gets with these devices.

    The environment names them to nvidia-container-runtime. The node's /dev/nvidia<minor> is
    /dev/null: there is no driver to have made one.
    """
    return api.ContainerAllocateResponse(
        envs={"NVIDIA_VISIBLE_DEVICES": ",".join(dict.fromkeys(it.uuid for it in chosen))},
        devices=[
            api.DeviceSpec(
                container_path=f"/dev/nvidia{minor}", host_path="/dev/null", permissions="rw"
            )
            for minor in sorted({it.minor for it in chosen})
        ],
    )


def _message(device: Offered) -> api.Device:
    return api.Device(
        ID=device.id,
        health=HEALTHY if device.healthy else UNHEALTHY,
        topology=api.TopologyInfo(nodes=[api.NUMANode(ID=node) for node in device.numa])
        if device.numa
        else None,
    )


class Plugins:
    """The plugins of all resources: those come and go with the settings."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._plugins: dict[str, Plugin] = {}

    def show(self, offered: dict[str, tuple[Offered, ...]]) -> None:
        """Offer these devices, by resource. A resource that is offered no longer loses its plugin.

        The kubelet then reports its devices unhealthy, and drops the resource 5 minutes later.
        """
        for resource in self._plugins.keys() - offered.keys():
            self._plugins.pop(resource).stop()
        for resource, devices in offered.items():
            if resource in self._plugins:
                self._plugins[resource].show(devices)
            else:
                self._plugins[resource] = Plugin(self._folder, resource, devices)

    def keep(self) -> bool:
        """Whether all are registered."""
        kept = [
            plugin.keep() for plugin in self._plugins.values()
        ]  # each of them, whatever others do
        return all(kept)

    def stop(self) -> None:
        """End them all."""
        for plugin in self._plugins.values():
            plugin.stop()
        self._plugins.clear()
