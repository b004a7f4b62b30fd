"""DRA on this node: the driver's ResourceSlices, watched, and the claims that pods hold.

The rule of this file: nothing is asked before the kubelet tells of a claim of NVIDIA's driver, so
a node without DRA needs neither the rights nor a watch. What a claim was given does not change
while a pod holds it: it is read once.
"""

from __future__ import annotations

import threading
import time
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import msgspec

from gpucost.model import Problem
from gpucost.sources.base import DraRead, SourceError
from gpucost.sources.dra_objects import (
    ClaimObject,
    SliceList,
    SliceObject,
    devices_of,
    results_of,
)
from gpucost.sources.kube_api import KubeApi
from gpucost.sources.kube_objects import decode
from gpucost.sources.kube_watch import Pace, Watch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gpucost.config import Kubernetes
    from gpucost.model import Claimable, Claimed, ClaimResult
    from gpucost.sources.kube_objects import JsonText

NAME = "dra"
GROUP = "/apis/resource.k8s.io"
VERSIONS = ("v1", "v1beta2", "v1beta1")
"""The better first (Kubernetes 1.34, 1.33, 1.32)."""

MAX_OBJECT_BYTES = 2 << 20
"""etcd takes no object over 1.5 MiB."""
MAX_CLAIMS = 1024
"""More than a node can hold: each of its GPUs in seven MIG devices, and shared."""
CLOSE_SECONDS = 2.0


class _Version(msgspec.Struct):
    version: str = ""


class _Group(msgspec.Struct):
    versions: list[_Version] = []


class SliceCollection:
    """The node's ResourceSlices; kept by a watch's thread, read by another."""

    def __init__(self, node_name: str) -> None:
        self._node_name = node_name
        self._lock = threading.Lock()
        self._slices: dict[str, SliceObject] = {}
        self._shown: Mapping[tuple[str, str], Claimable] | None = None
        self._malformed = ""

    def replace(self, listed: JsonText) -> None:
        """Take a whole ResourceSliceList. Raises SourceError (malformed)."""
        found = {it.metadata.name: it for it in decode(listed, SliceList).items or ()}
        with self._lock:
            self._slices, self._shown, self._malformed = found, None, ""

    def put(self, found: JsonText) -> None:
        """Take one ResourceSlice."""
        self._change(found, lambda it: self._slices.update({it.metadata.name: it}))

    def drop(self, found: JsonText) -> None:
        """Forget one ResourceSlice."""
        self._change(found, lambda it: self._slices.pop(it.metadata.name, None))

    def show(self) -> tuple[Mapping[tuple[str, str], Claimable], str]:
        """The devices (the same mapping until one changes), and what was skipped."""
        with self._lock:
            if self._shown is None:
                devices = devices_of(self._slices.values(), self._node_name)
                self._shown = MappingProxyType(devices)
            return self._shown, self._malformed

    def _change(self, found: JsonText, change: Callable[[SliceObject], object]) -> None:
        try:
            one = decode(found, SliceObject)
        except SourceError as error:
            with self._lock:
                self._malformed = f"a ResourceSlice's event was skipped: {error}"
            return
        with self._lock:
            change(one)
            self._shown = None


class DraSource:
    """What Kubernetes says of the claims in `wanted`. `read()` and `close()` are for one thread."""

    name = NAME

    def __init__(
        self,
        settings: Kubernetes,
        node_name: str,
        wanted: Callable[[], tuple[Claimed, ...]],
        *,
        pace: Pace = Pace(),  # noqa: B008 - frozen
        configure: Callable[[], Any] | None = None,
    ) -> None:
        self._timeout = settings.timeout_seconds
        self._node_name = node_name
        self._wanted = wanted
        self._pace = pace
        self._api = KubeApi(settings.timeout_seconds, configure)
        self._slices = SliceCollection(node_name)
        self._watch: Watch | None = None
        self.version = ""
        """Of resource.k8s.io, as the API server has it; empty before the first read."""
        self._claims: dict[tuple[str, frozenset[tuple[str, str]]], tuple[ClaimResult, ...]] = {}
        self._last: DraRead | None = None

    def read(self) -> DraRead:
        """What is known now; the same object as the last time where nothing changed.

        Raises SourceError where the slices were never listed: not_found (Kubernetes older than
        1.32), forbidden, unreachable, timeout, ... A claim that cannot be read is a Problem.
        """
        watch = self._watching()
        claims, problems = self._read_claims()
        devices, skipped = self._slices.show()
        if skipped:
            problems.append(Problem(NAME, "malformed", skipped, "Report this."))
        error = watch.error
        stale = error is not None and watch.stale_seconds >= self._pace.stale_after
        if error is not None and stale:
            problems.append(
                Problem(
                    NAME,
                    "stale",
                    f"the ResourceSlices last seen are kept, and may be old: {error}",
                    error.remedy,
                )
            )
        last = self._last
        if (
            last is None
            or last.devices is not devices
            or last.claims != claims
            or last.problems != tuple(problems)
        ):
            self._last = DraRead(devices, claims, tuple(problems), stale)
        return self._last if self._last is not None else DraRead(devices, claims)

    def close(self) -> None:
        """End the watch."""
        if self._watch is not None:
            self._watch.close()
            self._watch.join(CLOSE_SECONDS)
        self._api.close()

    def _watching(self) -> Watch:
        """The watch, once it has listed. Raises SourceError."""
        if self._watch is None:
            self.version = self._served_version()
            self._watch = Watch(
                self._api,
                f"{GROUP}/{self.version}/resourceslices",
                f"spec.nodeName={self._node_name}",
                self._slices,
                self._pace,
            )
            self._watch.start()
        self._watch.wait(self._timeout)
        if not self._watch.listed:
            error = self._watch.error
            if error is None:
                raise SourceError("timeout", "the ResourceSlices have not been listed yet")
            raise SourceError(error.kind, str(error), error.remedy)
        return self._watch

    def _served_version(self) -> str:
        """The best version that the API server has (its discovery, open to every account)."""
        served = {it.version for it in self._get(GROUP, _Group).versions}
        for version in VERSIONS:
            if version in served:
                return version
        raise SourceError(
            "unsupported",
            f"the API server has resource.k8s.io as {', '.join(sorted(served)) or 'nothing'}",
            "DRA is read from Kubernetes 1.32 on.",
        )

    def _read_claims(self) -> tuple[dict[str, tuple[ClaimResult, ...]], list[Problem]]:
        """The claims wanted, by name. One that now has other devices is another claim."""
        devices: dict[str, set[tuple[str, str]]] = {}
        for claimed in self._wanted():
            devices.setdefault(claimed.claim, set()).add((claimed.pool, claimed.device))
        wanted = {(name, frozenset(of)): name for name, of in sorted(devices.items())[:MAX_CLAIMS]}
        self._claims = {key: found for key, found in self._claims.items() if key in wanted}
        problems: list[Problem] = []
        until = time.monotonic() + self._timeout
        for key, name in wanted.items():
            if key in self._claims or time.monotonic() > until:
                continue
            namespace, _, claim = name.partition("/")
            path = f"{GROUP}/{self.version}/namespaces/{namespace}/resourceclaims/{claim}"
            try:
                self._claims[key] = results_of(self._get(path, ClaimObject))
            except SourceError as error:
                if error.kind != "not_found":
                    problems.append(Problem(NAME, error.kind, str(error), error.remedy))
                    break
                self._claims[key] = ()  # gone with its pod, just now
        return {wanted[key]: found for key, found in self._claims.items()}, problems

    def _get(self, path: str, shape: type[Any]) -> Any:  # noqa: ANN401 - of that shape
        """One object. Raises SourceError."""
        stream = self._api.get(path, {}, self._timeout)
        body = bytearray()
        try:
            for chunk in stream.chunks():
                body += chunk
                if len(body) > MAX_OBJECT_BYTES:
                    raise SourceError("too_large", f"{path}: more than {MAX_OBJECT_BYTES} bytes")
        finally:
            stream.close()
        return decode(body, shape)
