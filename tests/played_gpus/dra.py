"""NVIDIA's DRA driver, played: registered with the kubelet, its ResourceSlices published.

The kubelet finds a plugin by its socket in <root>/plugins_registry and asks it there for the
socket of its service (k8s.io/kubelet pkg/apis/pluginregistration). It deletes the node's
ResourceSlices of a driver when it starts, and 30 s after it lost the driver, so they are looked
at again and again. Preparing a claim is looking up what the scheduler gave it: there is no CDI
spec, since containerd 1.6 reads none; the runtime asks the broker for a container's devices, and
the kubelet's pod-resources tells.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

import grpc

from gpucost.sources.proto import podresources_v1_pb2 as podresources
from played_gpus.api import Api, ApiError
from played_gpus.broker import Asker, Refused
from played_gpus.grpc_socket import GrpcSocket, call, unary
from played_gpus.proto import dra_v1_pb2 as api
from played_gpus.proto import pluginregistration_v1_pb2 as registration
from played_gpus.slices import DRIVER, Published, published, slices

if TYPE_CHECKING:
    import threading
    from pathlib import Path

    from played_gpus.machine import Card

SLICES: Final = "/apis/resource.k8s.io/v1/resourceslices"
PERIOD_SECONDS: Final = 1.0
KUBELET_SECONDS: Final = 4.0
_SERVICE: Final = "k8s.io.kubelet.pkg.apis.dra"
_VERSIONS: Final = ("v1", "v1beta1")

log = logging.getLogger(__name__)


class Driver:
    """The driver of one node; `run()` is its thread's, the rest may be called from any."""

    def __init__(self, kubelet_root: Path, kubernetes: Api, node: str) -> None:
        self._kubernetes = kubernetes
        self._node = node
        self._devices: tuple[Published, ...] = ()
        self._published: tuple[tuple[Published, ...], dict[str, str]] = ((), {})
        self._pod_resources = kubelet_root / "pod-resources" / "kubelet.sock"
        calls = {
            "NodePrepareResources": unary(api.NodePrepareResourcesRequest, self._prepare),
            "NodeUnprepareResources": unary(api.NodeUnprepareResourcesRequest, self._unprepare),
        }
        self._service = GrpcSocket(
            kubelet_root / "plugins" / DRIVER / "dra.sock",
            {f"{_SERVICE}.{version}.DRAPlugin": calls for version in _VERSIONS},
        )
        self._registration = GrpcSocket(
            kubelet_root / "plugins_registry" / f"{DRIVER}-reg.sock",
            {
                "pluginregistration.Registration": {
                    "GetInfo": unary(registration.InfoRequest, self._info),
                    "NotifyRegistrationStatus": unary(
                        registration.RegistrationStatus, self._notified
                    ),
                }
            },
        )

    def show(self, cards: tuple[Card, ...]) -> None:
        """Publish these GPUs, those of them that DRA offers, from the next look on."""
        self._devices = published(cards)

    def run(self, ended: threading.Event) -> None:
        """Keep the sockets and the slices there until `ended` is set."""
        failing = False
        try:
            while not ended.is_set():
                if self._devices:
                    self._serve()
                try:
                    self.publish()
                except ApiError as error:
                    if not failing:  # once, not every second that the API server is away
                        log.warning("ResourceSlices: %s", error)
                    failing = True
                else:
                    failing = False
                ended.wait(PERIOD_SECONDS)
        finally:
            self._registration.stop()
            self._service.stop()

    def publish(self) -> None:
        """Make the node's ResourceSlices what they should be. Raises ApiError.

        What the API server made of a slice is known by its resourceVersion: specs cannot be
        compared, since it writes quantities its own way.
        """
        devices = self._devices
        found = self._kubernetes.get(
            SLICES, fieldSelector=f"spec.driver={DRIVER},spec.nodeName={self._node}"
        )
        there = [(it["metadata"], it["spec"]["pool"]) for it in (found or {}).get("items") or ()]
        versions = {meta["name"]: meta["resourceVersion"] for meta, _ in there}
        if (devices, versions) == self._published or not (devices or versions):
            return
        node = self._kubernetes.get(f"/api/v1/nodes/{self._node}")
        if node is None:
            return  # not registered yet: a slice without its owner would be collected
        # A pool that changes is a new generation of it.
        generation = 1 + max((pool["generation"] for _, pool in there), default=0)
        published: dict[str, str] = {}
        for one in slices(self._node, node["metadata"]["uid"], devices, generation):
            name = one["metadata"]["name"]
            if name in versions:
                one["metadata"]["resourceVersion"] = versions.pop(name)
                made = self._kubernetes.replace(f"{SLICES}/{name}", one)
            else:
                made = self._kubernetes.create(SLICES, one)
            published[name] = made.get("metadata", {}).get("resourceVersion", "")
        for name in versions:
            self._kubernetes.delete(f"{SLICES}/{name}")
        self._published = (devices, published)
        log.info("published %d devices, generation %d", len(devices), generation)

    def claimed(self, asker: Asker) -> tuple[str, ...]:
        """UUIDs of the devices that a container has by its claims. Raises Refused."""
        try:
            answer = call(
                self._pod_resources,
                "/v1.PodResourcesLister/List",
                podresources.ListPodResourcesRequest(),
                podresources.ListPodResourcesResponse,
                KUBELET_SECONDS,
            )
        except grpc.RpcError as error:
            raise Refused(f"the kubelet does not say what {asker} holds: {error}") from error
        held = {
            claim.device_name
            for pod in answer.pod_resources
            if (pod.namespace, pod.name) == (asker.namespace, asker.pod)
            for container in pod.containers
            if container.name == asker.container
            for resource in container.dynamic_resources
            for claim in resource.claim_resources
            if claim.driver_name == DRIVER
        }
        return tuple(device.uuid for device in self._devices if device.name in held)

    def _serve(self) -> None:
        for socket in (self._service, self._registration):
            if socket.stands():
                continue
            try:
                socket.path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
                socket.stop()
                socket.start()
            except (OSError, RuntimeError) as error:
                log.warning("%s: cannot serve: %s", socket.path, error)

    def _info(
        self, _: registration.InfoRequest, __: grpc.ServicerContext
    ) -> registration.PluginInfo:
        return registration.PluginInfo(
            type="DRAPlugin",
            name=DRIVER,
            endpoint=str(self._service.path),
            supported_versions=[f"{version}.DRAPlugin" for version in _VERSIONS],
        )

    def _notified(
        self, status: registration.RegistrationStatus, _: grpc.ServicerContext
    ) -> registration.RegistrationStatusResponse:
        if status.plugin_registered:
            log.info("%s: registered", DRIVER)
        else:
            log.warning("%s: the kubelet refused: %s", DRIVER, status.error)
        return registration.RegistrationStatusResponse()

    def _prepare(
        self, request: api.NodePrepareResourcesRequest, _: grpc.ServicerContext
    ) -> api.NodePrepareResourcesResponse:
        """An answer for every claim; what is wrong with one is said in its own."""
        answer = api.NodePrepareResourcesResponse()
        for claim in request.claims:
            try:
                devices = self._allocated(claim)
            except (ApiError, Refused) as error:
                log.warning("claim %s/%s: %s", claim.namespace, claim.name, error)
                answer.claims[claim.uid].error = str(error)
            else:
                answer.claims[claim.uid].devices.extend(devices)
        return answer

    def _allocated(self, claim: api.Claim) -> list[api.Device]:
        """The devices of ours that the scheduler gave to a claim. Raises ApiError, Refused."""
        found = self._kubernetes.get(
            f"/apis/resource.k8s.io/v1/namespaces/{claim.namespace}/resourceclaims/{claim.name}"
        )
        if found is None or found["metadata"]["uid"] != claim.uid:
            raise Refused("the claim is gone")
        allocation = found.get("status", {}).get("allocation")
        if allocation is None:
            raise Refused("the claim has no allocation")
        known = {device.name for device in self._devices}
        devices = []
        for result in allocation["devices"]["results"]:
            if result["driver"] != DRIVER:
                continue
            if result["pool"] != self._node or result["device"] not in known:
                raise Refused(f"there is no device {result['device']}")
            devices.append(
                api.Device(
                    request_names=[result["request"]],
                    pool_name=result["pool"],
                    device_name=result["device"],
                    share_id=result.get("shareID"),
                )
            )
        return devices

    def _unprepare(
        self, request: api.NodeUnprepareResourcesRequest, _: grpc.ServicerContext
    ) -> api.NodeUnprepareResourcesResponse:
        answer = api.NodeUnprepareResourcesResponse()
        for claim in request.claims:
            answer.claims[claim.uid].SetInParent()
        return answer
