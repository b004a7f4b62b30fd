"""Who holds which device id, as the kubelet says over its pod-resources socket.

v1 is asked, v1alpha1 where the kubelet has no other (its messages are a subset with the same
numbers). Device ids are passed on in the device plugin's own words; attribution.py knows them.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

import msgspec
from google.protobuf.message import DecodeError, Message

from gpucost.model import Claimed, Holder, Holding, Holdings, Problem
from gpucost.sources.base import HoldingsRead, SourceError
from gpucost.sources.gpu_resources import DRA_DRIVER, is_gpu_resource
from gpucost.sources.kubelet_channel import KubeletChannel, UnimplementedError
from gpucost.sources.proto.podresources_v1_pb2 import (
    AllocatableResourcesResponse,
    ListPodResourcesResponse,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from gpucost.config import Kubelet
    from gpucost.sources.proto.podresources_v1_pb2 import ContainerDevices

NAME = "kubelet"

ALLOCATABLE_SECONDS = 60.0
"""How old the list of allocatable devices may be while the holders stay the same."""

_VERSIONS = ("v1", "v1alpha1")

_JSON_REMEDY = 'Write it as `gpucost record` does: {"pod_resources": [...]} or {"devices": [...]}.'

_M = TypeVar("_M", bound=Message)


class PodResourcesSource:
    """The kubelet's answer on this node. `read()` and `close()` are for one thread."""

    name = NAME

    def __init__(
        self, settings: Kubelet, *, allocatable_seconds: float = ALLOCATABLE_SECONDS
    ) -> None:
        self._resource_names = frozenset(settings.resource_names)
        self._allocatable_seconds = allocatable_seconds
        self._channel = KubeletChannel(settings)
        self._kubelet = 0
        self._version = _VERSIONS[0]
        self._list = b""
        self._pods: frozenset[bytes] = frozenset()
        self._allocatable: bytes | None = None
        self._allocatable_due = 0.0
        self._problem: Problem | None = None
        self._last: HoldingsRead | None = None

    def read(self) -> HoldingsRead:
        """Ask who holds what. The same object as the last time where nothing changed.

        Raises SourceError: absent, unreachable, permission, timeout, too_large, rate_limited,
        malformed, unsupported or failed. A failing GetAllocatableResources is only a Problem,
        and the devices known from before stay.
        """
        deadline = self._channel.deadline()
        self._list = self._call_list(deadline)
        pods, before = _pods_in(self._list), self._pods
        self._pods = pods
        if self._last is not None and pods and pods == before and not self._is_due():
            return self._last
        return self._remember(deadline)

    @property
    def claimed(self) -> tuple[Claimed, ...]:
        """What is held through DRA claims by the last answer; the same object while it is."""
        last = self._last
        return () if last is None else last.holdings.claimed

    def raw(self) -> tuple[ListPodResourcesResponse, AllocatableResourcesResponse | None]:
        """The last answers as messages, for `record`. Raises SourceError (malformed)."""
        return (
            _decode(ListPodResourcesResponse, self._list),
            None
            if self._allocatable is None
            else _decode(AllocatableResourcesResponse, self._allocatable),
        )

    def close(self) -> None:
        """Hang up."""
        self._channel.close()

    def _remember(self, deadline: float) -> HoldingsRead:
        """Parse the answers, asking for the allocatable devices when they may have changed."""
        listed = _decode(ListPodResourcesResponse, self._list)
        holdings = _holdings_of(listed, self._resource_names)
        if self._is_due() or self._last is None or holdings != self._last.holdings.holdings:
            self._refresh_allocatable(deadline)
        allocatable = (
            None
            if self._allocatable is None
            else _decode(AllocatableResourcesResponse, self._allocatable)
        )
        found = parse_holdings(listed, allocatable, self._resource_names)
        if self._problem is not None:
            found = HoldingsRead(found.holdings, (*found.problems, self._problem))
        if found != self._last:
            self._last = found
        return self._last

    def _is_due(self) -> bool:
        """Whether the allocatable devices are to be asked for again.

        No device at all is what a kubelet says until its device plugin has registered again,
        so that answer is never kept.
        """
        nothing_offered = self._last is not None and self._last.holdings.offered == ()
        return nothing_offered or time.monotonic() >= self._allocatable_due

    def _call_list(self, deadline: float) -> bytes:
        self._channel.connect()
        if self._channel.renewed != self._kubelet:
            self._version = _VERSIONS[0]
        for version in _VERSIONS[_VERSIONS.index(self._version) :]:
            try:
                answer = self._channel.call(f"/{version}.PodResourcesLister/List", deadline)
            except UnimplementedError:
                continue
            if self._channel.renewed != self._kubelet:
                self._kubelet = self._channel.renewed
                self._allocatable_due = 0.0
            self._version = version
            return answer
        raise SourceError(
            "unsupported",
            "the kubelet offers neither the v1 nor the v1alpha1 pod-resources API",
            "Upgrade the kubelet to 1.20 or later.",
        )

    def _refresh_allocatable(self, deadline: float) -> None:
        """Ask for the devices that can be held; None where this kubelet cannot say."""
        try:
            self._allocatable = self._channel.call(
                f"/{self._version}.PodResourcesLister/GetAllocatableResources", deadline
            )
        except UnimplementedError:
            self._allocatable = None
        except SourceError as error:
            self._problem = Problem(
                NAME,
                "allocatable",
                f"GetAllocatableResources failed, the devices known from before stay: {error}",
                error.remedy,
            )
            self._allocatable_due = 0.0
            return
        self._problem = None
        self._allocatable_due = time.monotonic() + self._allocatable_seconds


def _pods_in(answer: bytes) -> frozenset[bytes]:
    """The pods of a ListPodResourcesResponse, each still encoded; empty if it has anything else.

    The kubelet lists them in random order at every call. Told apart like this (field 1, length
    delimited: https://protobuf.dev/programming-guides/encoding/), an answer that says nothing
    new need not be parsed.
    """
    pods = []
    at = 0
    while at < len(answer):
        tag, at = answer[at], at + 1
        size = shift = 0
        while at < len(answer):
            byte, at = answer[at], at + 1
            size |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:  # noqa: PLR2004 - the varint's last byte
                break
        if tag != 0x0A or at + size > len(answer):  # noqa: PLR2004 - not field 1
            return frozenset()
        pods.append(answer[at : at + size])
        at += size
    return frozenset(pods)


def parse_holdings(
    listed: ListPodResourcesResponse,
    allocatable: AllocatableResourcesResponse | None,
    resource_names: Collection[str] = (),
) -> HoldingsRead:
    """Who holds what, and what can be held (None without `allocatable`).

    Sorted and without repetition: the kubelet lists in random order, a device on two NUMA nodes
    twice, and a claim's device once for each time it was prepared.
    """
    return HoldingsRead(
        Holdings(
            holdings=_holdings_of(listed, resource_names),
            offered=None
            if allocatable is None
            else tuple(sorted({i for _, i in _gpu_ids(allocatable.devices, resource_names)})),
            claimed=_claimed_in(listed),
        )
    )


def _holdings_of(
    listed: ListPodResourcesResponse, resource_names: Collection[str]
) -> tuple[Holding, ...]:
    held = {
        (pod.namespace, pod.name, container.name, *found)
        for pod in listed.pod_resources
        for container in pod.containers
        for found in _gpu_ids(container.devices, resource_names)
    }
    return tuple(
        Holding(Holder(namespace, pod, container), resource, device_id)
        for namespace, pod, container, resource, device_id in sorted(held)
    )


def _gpu_ids(
    devices: Iterable[ContainerDevices], resource_names: Collection[str]
) -> Iterable[tuple[str, str]]:
    """(resource, device id) of the GPUs among devices.

    An id in NVIDIA's form counts whatever its resource is called: device plugins may rename.
    """
    for device in devices:
        resource = device.resource_name
        known = is_gpu_resource(resource, resource_names)
        for device_id in device.device_ids:
            if known or device_id.startswith(("GPU-", "MIG-")):
                yield resource, device_id


def _claimed_in(listed: ListPodResourcesResponse) -> tuple[Claimed, ...]:
    """What containers hold through claims of NVIDIA's driver, each device once a container."""
    found = {
        (
            (pod.namespace, pod.name, container.name),
            f"{claim.claim_namespace}/{claim.claim_name}",
            claimed.pool_name,
            claimed.device_name,
            claimed.share_id,
        )
        for pod in listed.pod_resources
        for container in pod.containers
        for claim in container.dynamic_resources
        for claimed in claim.claim_resources
        if claimed.driver_name == DRA_DRIVER
    }
    return tuple(
        Claimed(Holder(*holder), claim, pool, device, share_id)
        for holder, claim, pool, device, share_id in sorted(found)
    )


def _decode(message_type: type[_M], answer: bytes) -> _M:
    message = message_type()
    try:
        message.ParseFromString(answer)
    except DecodeError as error:
        raise SourceError(
            "malformed",
            f"the kubelet's answer is not a {message_type.__name__}: {error}",
            "Is kubelet.socket the kubelet's pod-resources socket?",
        ) from error
    return message


def parse_list_json(text: str | bytes) -> ListPodResourcesResponse:
    """A recorded List answer (protobuf JSON of v1). Raises SourceError (malformed)."""
    return _parse_json(ListPodResourcesResponse, text)


def parse_allocatable_json(text: str | bytes) -> AllocatableResourcesResponse:
    """A recorded GetAllocatableResources answer. Raises SourceError (malformed)."""
    return _parse_json(AllocatableResourcesResponse, text)


def _parse_json(message_type: type[_M], text: str | bytes) -> _M:
    from google.protobuf import json_format  # noqa: PLC0415 - only replay needs it

    message = message_type()
    try:
        # A later kubelet's fields are passed over, but another message is not this one emptied.
        document = msgspec.json.decode(text, type=dict[str, object])
        names = {name for f in message.DESCRIPTOR.fields for name in (f.name, f.json_name)}
        if document and not document.keys() & names:
            raise SourceError(
                "malformed",
                f"not a {message_type.__name__}: it has none of {', '.join(sorted(names))}",
                _JSON_REMEDY,
            )
        return json_format.ParseDict(document, message, ignore_unknown_fields=True)
    except (msgspec.DecodeError, json_format.Error, ValueError, RecursionError) as error:
        raise SourceError(
            "malformed",
            f"not the protobuf JSON of a {message_type.__name__}: {error}",
            _JSON_REMEDY,
        ) from error


def to_json(message: Message) -> str:
    """A message as protobuf JSON with the kubelet's field names, for `record`."""
    from google.protobuf import json_format  # noqa: PLC0415 - only record needs it

    return json_format.MessageToJson(message, preserving_proto_field_name=True)
