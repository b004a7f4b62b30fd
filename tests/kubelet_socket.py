"""A kubelet's pod-resources socket: a real gRPC server that answers as it is told."""

from __future__ import annotations

import threading
from concurrent import futures
from typing import TYPE_CHECKING, Any

import grpc

from gpucost.sources.proto.podresources_v1_pb2 import (
    AllocatableResourcesResponse,
    ContainerDevices,
    ContainerResources,
    ListPodResourcesResponse,
    PodResources,
)

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType
    from typing import Self

RATE_LIMITED = (grpc.StatusCode.RESOURCE_EXHAUSTED, "rejected by rate limit")
UNIMPLEMENTED = (grpc.StatusCode.UNIMPLEMENTED, "unknown method")


def holding(
    pod: str, *device_ids: str, resource: str = "nvidia.com/gpu", container: str = "main"
) -> PodResources:
    """A pod of namespace `ml` whose container holds devices, one entry each as kubelets do."""
    return PodResources(
        name=pod,
        namespace="ml",
        containers=[
            ContainerResources(
                name=container,
                devices=[
                    ContainerDevices(resource_name=resource, device_ids=[device_id])
                    for device_id in device_ids
                ],
            )
        ],
    )


def offering(*device_ids: str, resource: str = "nvidia.com/gpu") -> AllocatableResourcesResponse:
    """Devices that can be held."""
    return AllocatableResourcesResponse(
        devices=[
            ContainerDevices(resource_name=resource, device_ids=[device_id])
            for device_id in device_ids
        ]
    )


class KubeletSocket:
    """The server. `pods` and `devices` are what it answers, `garbage` wins over both.

    `refusals` come first, in order (`device_refusals`: of GetAllocatableResources). `versions`
    are the APIs it offers; `hang` holds every answer back until it is closed. `calls` are the
    paths asked for.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.pods: list[PodResources] = []
        self.devices: AllocatableResourcesResponse | None = None
        self.garbage: bytes | None = None
        self.refusals: list[tuple[grpc.StatusCode, str]] = []
        self.device_refusals: list[tuple[grpc.StatusCode, str]] = []
        self.versions: tuple[str, ...] = ("v1", "v1alpha1")
        self.hang = False
        self.calls: list[str] = []
        self._closing = threading.Event()
        self._server: grpc.Server | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Unlink and create the socket, as a kubelet does when it starts."""
        self.path.unlink(missing_ok=True)
        self._closing.clear()
        self._server = grpc.server(
            futures.ThreadPoolExecutor(max_workers=2),
            options=(("grpc.max_send_message_length", -1),),
        )
        self._server.add_generic_rpc_handlers((_Handler(self),))
        self._server.add_insecure_port(f"unix:{self.path}")
        self._server.start()

    def stop(self) -> None:
        """Stop, and wait for the end."""
        self._closing.set()
        if self._server is not None:
            self._server.stop(grace=None).wait()
            self._server = None

    def answer(self, path: str, context: grpc.ServicerContext) -> bytes:
        """What a call gets."""
        self.calls.append(path)
        if self.hang:
            self._closing.wait(60)
        version, _, call = path.strip("/").partition(".PodResourcesLister/")
        if version not in self.versions:
            context.abort(*UNIMPLEMENTED)
        if self.refusals:
            context.abort(*self.refusals.pop(0))
        if self.garbage is not None:
            return self.garbage
        if call == "GetAllocatableResources":
            if self.device_refusals:
                context.abort(*self.device_refusals.pop(0))
            if self.devices is None or version != "v1":
                context.abort(*UNIMPLEMENTED)
            else:
                return self.devices.SerializeToString()
        # The kubelet's order is random; ours turns at every call.
        self.pods = self.pods[1:] + self.pods[:1]
        return ListPodResourcesResponse(pod_resources=self.pods).SerializeToString()


class _Handler(grpc.GenericRpcHandler):  # type: ignore[misc]
    def __init__(self, socket: KubeletSocket) -> None:
        self._socket = socket

    def service(self, details: Any) -> Any:  # noqa: ANN401 - grpc has no types
        return grpc.unary_unary_rpc_method_handler(
            lambda _, context: self._socket.answer(details.method, context)
        )
