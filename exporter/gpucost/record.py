"""Writes this node's raw readings as a recording, for a bug report or a test.

What could hold a secret is left out by keeping only what gpucost itself reads: the objects of
the API server are reduced to those fields, their annotations to gpucost's own.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from gpucost.live import booted_at
from gpucost.sources.base import SourceError
from gpucost.sources.dcgm import fetch_page
from gpucost.sources.kube_api import KubeApi
from gpucost.sources.kube_objects import NodeObject, PodList, decode
from gpucost.sources.podresources import to_json
from gpucost.sources.recorded import DCGM, HOLDINGS, NODE, NVML, OFFERED, PODS, NvmlRecording

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from gpucost.config import Config
    from gpucost.live import LiveNode
    from gpucost.sources.kube_objects import ObjectMeta

KEPT_ANNOTATIONS = ("gpucost.io/", "kubernetes.io/config.hash")

_BETWEEN_READS_SECONDS = 2.0
"""Activity is what happened between two reads."""


def record(node: LiveNode, node_name: str, folder: Path) -> Iterator[str]:
    """Write what each source says into `folder`; yields a line for each file or failure.

    Raises OSError where the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    steps: tuple[tuple[str, Callable[[], bytes | None]], ...] = (
        (NVML, lambda: _nvml(node)),
        (DCGM, lambda: _dcgm(node)),
        (HOLDINGS, lambda: _holdings(node)),
        (OFFERED, lambda: _offered(node)),
        (PODS, lambda: _pods(node.config, node_name)),
        (NODE, lambda: _node(node.config, node_name)),
    )
    for name, read in steps:
        try:
            text = read()
        except SourceError as error:
            yield f"{name}: not recorded: {error}"
            continue
        if text is not None:
            (folder / name).write_bytes(text)
            yield f"{name}: {len(text)} bytes"


def _nvml(node: LiveNode) -> bytes | None:
    source = node.sources.nvml
    if source is None:
        return None
    source.read()
    time.sleep(_BETWEEN_READS_SECONDS)
    recording = NvmlRecording(
        gpus=source.read().gpus,
        recorded_at=time.time(),
        booted_at=booted_at(),
        driver_version=source.driver_version or "",
    )
    return msgspec.json.format(msgspec.json.encode(recording), indent=1)


def _dcgm(node: LiveNode) -> bytes | None:
    url = node.config.dcgm.url
    if url is None and node.sources.kubernetes is not None:
        url = node.sources.kubernetes.read().dcgm_url
    if url is None:
        return None
    settings = node.config.dcgm
    return fetch_page(url, timeout_seconds=settings.timeout_seconds, max_bytes=settings.max_bytes)


def _holdings(node: LiveNode) -> bytes | None:
    source = node.sources.kubelet
    if source is None:
        return None
    source.read()
    return to_json(source.raw()[0]).encode()


def _offered(node: LiveNode) -> bytes | None:
    source = node.sources.kubelet
    offered = None if source is None else source.raw()[1]
    return None if offered is None else to_json(offered).encode()


def _pods(config: Config, node_name: str) -> bytes | None:
    if not config.kubernetes.enabled or not node_name:
        return None
    query = {"fieldSelector": f"spec.nodeName={node_name}", "resourceVersion": "0"}
    pods = decode(_fetch(config, "/api/v1/pods", query), PodList)
    for pod in pods.items or ():
        pod.metadata = _public(pod.metadata)
    return msgspec.json.format(msgspec.json.encode(pods), indent=1)


def _node(config: Config, node_name: str) -> bytes | None:
    if not config.kubernetes.enabled or not node_name:
        return None
    node = decode(_fetch(config, f"/api/v1/nodes/{node_name}", {}), NodeObject)
    node.metadata = _public(node.metadata)
    return msgspec.json.format(msgspec.json.encode(node), indent=1)


def _fetch(config: Config, path: str, query: dict[str, str]) -> bytes:
    api = KubeApi(config.kubernetes.timeout_seconds)
    try:
        stream = api.get(path, query, config.kubernetes.timeout_seconds)
        try:
            return b"".join(stream.chunks())
        finally:
            stream.close()
    finally:
        api.close()


def _public(metadata: ObjectMeta) -> ObjectMeta:
    """Metadata whose annotations are only those that gpucost reads."""
    kept = {
        key: value
        for key, value in (metadata.annotations or {}).items()
        if key.startswith(KEPT_ANNOTATIONS)
    }
    return replace(metadata, annotations=kept)
