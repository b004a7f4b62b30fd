"""Who really held which device, and for how long: asked from the kubelet itself.

Looks more often than the exporter does and keeps nothing but time: what is compared with it has
gone through the exporter, its exposition and a Prometheus. While the kubelet does not answer,
what it said last holds, as containers do.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from typing import TYPE_CHECKING, Self

import grpc

from gpucost.sources.proto import podresources_v1_pb2 as wire

if TYPE_CHECKING:
    from types import TracebackType

SOCKET = "unix:///var/lib/kubelet/pod-resources/kubelet.sock"
PERIOD_SECONDS = 0.25

Holder = tuple[str, str]
"""Namespace and pod."""


class Truth:
    """Counts the GPU-seconds of every pod, from `with` on."""

    def __init__(self) -> None:
        self._seconds: dict[Holder, float] = defaultdict(float)
        self._held: dict[Holder, float] = {}
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="truth")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join()

    def seconds(self) -> dict[Holder, float]:
        """Device-seconds so far: of GPUs, or of their parts or replicas where those are held."""
        with self._lock:
            return dict(self._seconds)

    def held(self) -> dict[Holder, float]:
        """How many devices each holds now; of one that n pods hold, 1/n."""
        with self._lock:
            return dict(self._held)

    def _run(self) -> None:
        before = time.monotonic()
        with grpc.insecure_channel(SOCKET) as channel:
            ask = channel.unary_unary(
                "/v1.PodResourcesLister/List",
                request_serializer=wire.ListPodResourcesRequest.SerializeToString,
                response_deserializer=wire.ListPodResourcesResponse.FromString,
            )
            while not self._ended.wait(PERIOD_SECONDS):
                try:
                    answer = ask(wire.ListPodResourcesRequest(), timeout=2, wait_for_ready=False)
                except grpc.RpcError:
                    held = None
                else:
                    held = _held(answer)
                now = time.monotonic()
                with self._lock:
                    for holder, count in self._held.items():
                        self._seconds[holder] += count * (now - before)
                    if held is not None:
                        self._held = held
                before = now


def _held(answer: wire.ListPodResourcesResponse) -> dict[Holder, float]:
    """The kubelet names one device once for every container, and a claim's more often.

    A share of a device is a device of its own.
    """
    holders: dict[tuple[str, str], set[Holder]] = defaultdict(set)
    for pod in answer.pod_resources:
        for container in pod.containers:
            devices = [
                (entry.resource_name, device)
                for entry in container.devices
                if entry.resource_name.startswith("nvidia.com/")
                for device in entry.device_ids
            ]
            claimed = [
                (one.pool_name, f"{one.device_name}#{one.share_id}")
                for claim in container.dynamic_resources
                for one in claim.claim_resources
            ]
            for device in devices + claimed:
                holders[device].add((pod.namespace, pod.name))
    held: dict[Holder, float] = defaultdict(float)
    for several in holders.values():
        for holder in several:
            held[holder] += 1 / len(several)
    return dict(held)
