"""This node and its pods, as the API server shows them: two watches, and no other calls.

The watches' threads reduce each object to a Pod or a Node as it comes; `read()` only hands out
what they have gathered. What was once known stays while the API server is away, and a Problem
says since when.
"""

from __future__ import annotations

import threading
import time
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from gpucost.config import Requests
from gpucost.model import Node, Pod, Problem
from gpucost.sources.base import ClusterRead, SourceError
from gpucost.sources.kube_api import KubeApi
from gpucost.sources.kube_objects import (
    JsonText,
    NodeList,
    NodeObject,
    PodList,
    PodObject,
    dcgm_url_of,
    decode,
    ended_at,
    node_of,
    on_node,
    pod_of,
)
from gpucost.sources.kube_watch import Pace, Watch

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from gpucost.config import Dcgm, Kubernetes

NAME = "kubernetes"

CLOSE_SECONDS = 2.0
"""How long `close` waits for the threads; one that waits for a dead server ends later."""

STALE = "stale"
"""The kind of the problem that what is known may be old."""

MAX_ENDED = 256
"""How many pods' ends are remembered: more than end within a cycle."""

PodKey = tuple[str, str]


class PodCollection:
    """The pods of a node, reduced; kept by a watch's thread, read by another."""

    def __init__(
        self,
        settings: Kubernetes,
        dcgm: Dcgm,
        node_name: str,
        resource_names: Collection[str],
        requests: Requests = Requests(),  # noqa: B008 - frozen
    ) -> None:
        self._settings = settings
        self._dcgm = dcgm
        self._node_name = node_name
        self._resource_names = frozenset(resource_names)
        self._requests = requests
        self._lock = threading.Lock()
        self._pods: dict[PodKey, Pod] = {}
        self._dcgm_urls: dict[PodKey, str] = {}
        self._shown: Mapping[PodKey, Pod] | None = None
        self._ended: Mapping[str, float] = {}
        self._malformed = ""

    def replace(self, listed: JsonText) -> None:
        """Take a whole PodList. Raises SourceError (malformed)."""
        found = [pod for pod in decode(listed, PodList).items or () if self._is_ours(pod)]
        pods = [self._reduce(pod) for pod in found]
        with self._lock:
            self._malformed = ""
            taken = {_key(pod): pod for pod in pods}
            self._dcgm_urls = {
                _key(pod): url
                for pod, whole in zip(pods, found, strict=True)
                if (url := dcgm_url_of(whole, self._dcgm))
            }
            for it in found:
                self._note_end(it)
            if taken != self._pods or self._shown is None:
                self._pods = taken
                self._shown = None

    def put(self, found: JsonText) -> None:
        """Take one Pod."""
        try:
            whole = decode(found, PodObject)
        except SourceError as error:
            self._skip(error)
            return
        if not self._is_ours(whole):
            return
        pod = self._reduce(whole)
        url = dcgm_url_of(whole, self._dcgm)
        with self._lock:
            self._dcgm_urls.pop(_key(pod), None)
            if url:
                self._dcgm_urls[_key(pod)] = url
            self._note_end(whole)
            if self._pods.get(_key(pod)) != pod:
                self._pods[_key(pod)] = pod
                self._shown = None

    def drop(self, found: JsonText) -> None:
        """Forget one Pod."""
        try:
            whole = decode(found, PodObject)
        except SourceError as error:
            self._skip(error)
            return
        pod = self._reduce(whole)
        with self._lock:
            self._note_end(whole)
            self._dcgm_urls.pop(_key(pod), None)
            if self._pods.pop(_key(pod), None) is not None:
                self._shown = None

    def show(self) -> tuple[Mapping[PodKey, Pod], str | None, str]:
        """The pods (the same mapping until one changes), the DCGM URL, and what was skipped."""
        with self._lock:
            if self._shown is None:
                self._shown = MappingProxyType(dict(self._pods))
            # Two exporters on a node see the same devices; which one is asked must not vary.
            url = self._dcgm_urls[min(self._dcgm_urls)] if self._dcgm_urls else None
            return self._shown, url, self._malformed

    @property
    def ended(self) -> Mapping[str, float]:
        """When the last pods that ended did, by UID; the same mapping until another does."""
        with self._lock:
            return self._ended

    def _note_end(self, pod: PodObject) -> None:
        uid, at = pod.metadata.uid or "", ended_at(pod)
        if at is not None and self._ended.get(uid) != at:
            known = {**self._ended, uid: at}
            for oldest in list(known)[:-MAX_ENDED]:
                del known[oldest]
            self._ended = MappingProxyType(known)

    def _is_ours(self, pod: PodObject) -> bool:
        return on_node(pod, self._node_name)

    def _reduce(self, pod: PodObject) -> Pod:
        return pod_of(pod, self._settings, self._resource_names, self._requests)

    def _skip(self, error: SourceError) -> None:
        with self._lock:
            self._malformed = f"a pod's event was skipped: {error}"


class NodeCollection:
    """The Node of a name. It stays when its object goes: the machine still costs."""

    def __init__(self, node_name: str) -> None:
        self._node_name = node_name
        self._lock = threading.Lock()
        self._node: Node | None = None
        self._malformed = ""

    def replace(self, listed: JsonText) -> None:
        """Take a NodeList. Raises SourceError (malformed)."""
        found = [node_of(node) for node in decode(listed, NodeList).items or ()]
        with self._lock:
            self._malformed = ""
        for node in found:
            self._set(node)

    def put(self, found: JsonText) -> None:
        """Take one Node."""
        try:
            self._set(node_of(decode(found, NodeObject)))
        except SourceError as error:
            with self._lock:
                self._malformed = f"a node's event was skipped: {error}"

    def drop(self, found: JsonText) -> None:
        """Keep it all the same."""

    def show(self) -> tuple[Node | None, str]:
        """The Node, the same object until it changes, and what was skipped."""
        with self._lock:
            return self._node, self._malformed

    def _set(self, node: Node) -> None:
        with self._lock:
            if node.name == self._node_name and node != self._node:
                self._node = node


class KubernetesSource:
    """The API server's view of one node.

    `configure` gives the kubernetes Configuration to connect with; unset, the service account
    or KUBECONFIG. `resource_names` are further extended resources that are GPUs;
    `requests` says which pods show metrics.
    """

    name = NAME

    def __init__(
        self,
        settings: Kubernetes,
        dcgm: Dcgm,
        node_name: str,
        *,
        resource_names: Collection[str] = (),
        requests: Requests = Requests(),  # noqa: B008 - frozen
        pace: Pace = Pace(),  # noqa: B008 - frozen
        configure: Callable[[], Any] | None = None,
    ) -> None:
        self._node_name = node_name
        self._pace = pace
        self._api = KubeApi(settings.timeout_seconds, configure)
        self._pods = PodCollection(settings, dcgm, node_name, resource_names, requests)
        self._node = NodeCollection(node_name)
        self._pod_watch = Watch(
            self._api, "/api/v1/pods", f"spec.nodeName={node_name}", self._pods, pace
        )
        self._node_watch = Watch(
            self._api, "/api/v1/nodes", f"metadata.name={node_name}", self._node, pace
        )
        self._watches = (self._pod_watch, self._node_watch)
        self._last = ClusterRead()

    def start(self) -> None:
        """Begin to watch, on two threads."""
        if self._node_name:
            for watch in self._watches:
                watch.start()

    def wait(self, seconds: float) -> None:
        """Wait until both watches have listed or failed, for commands that read only once."""
        deadline = time.monotonic() + seconds
        if self._node_name:
            for watch in self._watches:
                watch.wait(max(0.0, deadline - time.monotonic()))

    def read(self) -> ClusterRead:
        """What is known now; no I/O. The same object as the last time where nothing changed.

        Raises SourceError while nothing has ever been listed: why (absent, credentials,
        unreachable, timeout, unauthorized, forbidden, malformed, failed), or `starting`.
        """
        if not self._node_name:
            raise SourceError(
                "node_unknown",
                "the name of this node is not known",
                "Set NODE_NAME from the downward API (fieldRef: spec.nodeName).",
            )
        if not any(watch.listed for watch in self._watches):
            errors = [watch.error for watch in self._watches]
            raise next(
                (_again(error) for error in errors if error is not None),
                SourceError("starting", "the API server has not answered yet"),
            )
        pods, dcgm_url, skipped_pod = self._pods.show()
        node, skipped_node = self._node.show()
        problems = self._problems(node, [skipped_pod, skipped_node])
        found = ClusterRead(
            node=node,
            pods=pods if self._pod_watch.listed else None,
            dcgm_url=dcgm_url,
            ended=self._pods.ended,
            problems=problems,
            stale=any(problem.kind == STALE for problem in problems),
        )
        if not _same(found, self._last):
            self._last = found
        return self._last

    def close(self) -> None:
        """End the watches and their threads."""
        for watch in self._watches:
            watch.close()
        deadline = time.monotonic() + CLOSE_SECONDS
        for watch in self._watches:
            watch.join(max(0.0, deadline - time.monotonic()))
        self._api.close()

    def _problems(self, node: Node | None, skipped: list[str]) -> tuple[Problem, ...]:
        found = [Problem(NAME, "malformed", text, "Report this.") for text in skipped if text]
        for watch in self._watches:
            error = watch.error
            if error is None:
                continue
            if not watch.listed:
                found.append(Problem(NAME, error.kind, str(error), error.remedy))
            elif watch.stale_seconds >= self._pace.stale_after:
                found.append(
                    Problem(
                        NAME,
                        STALE,
                        f"what the API server last said is kept, and may be old: {error}",
                        error.remedy,
                    )
                )
        if node is None and self._node_watch.listed:
            found.append(
                Problem(
                    NAME,
                    "node_unknown",
                    f"the cluster has no Node called {self._node_name}",
                    "Set NODE_NAME from the downward API (fieldRef: spec.nodeName).",
                )
            )
        return tuple(sorted(found))


def _again(error: SourceError) -> SourceError:
    """The same error anew: one object raised again and again would grow its traceback."""
    return SourceError(error.kind, str(error), error.remedy)


def _key(pod: Pod) -> PodKey:
    return pod.namespace, pod.name


def _same(one: ClusterRead, other: ClusterRead) -> bool:
    """Equal, without comparing the pods one by one: they are the same mapping until changed."""
    return (
        one.pods is other.pods
        and one.node is other.node
        and one.dcgm_url == other.dcgm_url
        and one.ended is other.ended
        and one.problems == other.problems
    )
