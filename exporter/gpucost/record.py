"""Writes this node's raw readings as a recording, for a bug report or a test.

What could hold a secret is left out by keeping only what gpucost itself reads: the objects of
the API server are reduced to those fields, their annotations to gpucost's own, and an address
in the settings to what is no password.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

import msgspec
from msgspec.structs import replace

from gpucost.config import ConfigError, dump
from gpucost.live import booted_at
from gpucost.sources import hami
from gpucost.sources.base import SourceError
from gpucost.sources.dcgm import fetch_page
from gpucost.sources.dra import GROUP
from gpucost.sources.dra_objects import ClaimList, ClaimObject, SliceList
from gpucost.sources.engine_endpoints import (
    PART_ROWS,
    PROMETHEUS_ANNOTATIONS,
    engine_table,
)
from gpucost.sources.engine_fetch import fetch
from gpucost.sources.engine_page import EnginePage
from gpucost.sources.kube_api import KubeApi
from gpucost.sources.kube_objects import (
    CONFIG_HASH,
    MIRROR,
    NodeList,
    PodList,
    decode,
)
from gpucost.sources.podresources import to_json
from gpucost.sources.recorded import (
    CLAIMS,
    CONFIG,
    DCGM,
    ENGINES,
    FILES,
    HOLDINGS,
    MAX_FILE_BYTES,
    NODE,
    NVML,
    OFFERED,
    PODS,
    SLICES,
    NvmlRecording,
    engine_file,
)
from gpucost.sources.requests import trust_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from gpucost.config import Config, Requests
    from gpucost.live import LiveNode
    from gpucost.model import Serving
    from gpucost.reader import Asked
    from gpucost.sources.kube_objects import ObjectMeta

T = TypeVar("T")

KEPT_ANNOTATIONS = (
    "gpucost.io/",
    PROMETHEUS_ANNOTATIONS,
    *(row.size for row in PART_ROWS if row.size),
    MIRROR,
    CONFIG_HASH,
    hami.ANNOTATION,
)
"""What the annotations that are kept begin with."""

_BETWEEN_READS_SECONDS = 2.0
"""Activity is what happened between two reads."""


class Written(msgspec.Struct, frozen=True):
    """A file of the recording; `bytes` is None where it could not be made, and `message` why."""

    name: str
    bytes: int | None
    message: str


def record(node: LiveNode, node_name: str, folder: Path) -> Iterator[Written]:
    """Write what each source says into `folder`, and tell of each file; absent sources have none.

    Raises ConfigError where the folder holds a recording already (of another moment: the two
    would be taken for one), and OSError where it cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if there := [name for name in (*FILES, ENGINES) if (folder / name).exists()]:
        raise ConfigError(
            f"{folder}: holds a recording already ({', '.join(there)}). Give a folder of its own."
        )
    steps: tuple[tuple[str, Callable[[], bytes | None]], ...] = (
        (CONFIG, lambda: _config(node.config)),
        (NVML, lambda: _nvml(node)),
        (DCGM, lambda: _dcgm(node)),
        (HOLDINGS, lambda: _holdings(node)),
        (OFFERED, lambda: _offered(node)),
        (PODS, lambda: _pods(node, node_name)),
        (NODE, lambda: _node(node, node_name)),
        (SLICES, lambda: _slices(node, node_name)),
        (CLAIMS, lambda: _claims(node)),
    )
    for name, read in (*steps, *_engines(node)):
        try:
            text = read()
        except SourceError as error:
            yield Written(name, None, f"{name}: not recorded: {error}")
            continue
        if text is not None:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(text)
            yield Written(name, len(text), f"{name}: {len(text)} bytes")


def _engines(node: LiveNode) -> Iterator[tuple[str, Callable[[], bytes | None]]]:
    """The pages of the inference servers, reduced to the lines that are read."""
    if node.sources.requests is None or node.sources.kubernetes is None:
        return
    try:
        pods = node.sources.kubernetes.read().pods or {}
    except SourceError:
        return  # the pods' own step has told of it
    for (namespace, name), pod in pods.items():
        if pod.serving is not None and pod.serving.endpoints:
            file = engine_file(namespace, name)
            yield file, partial(_engine, pod.serving, node.config.requests)


def _engine(serving: Serving, settings: Requests) -> bytes:
    lines: dict[bytes, None] = {}
    for endpoint in serving.endpoints:
        page = EnginePage(engine_table(settings))
        if fetch(
            endpoint.url,
            page.feed,
            timeout_seconds=settings.timeout_seconds,
            max_bytes=settings.max_bytes,
            trust=trust_of(endpoint, settings),
        ):
            page.end()
        lines |= dict.fromkeys(page.kept().splitlines(keepends=True))
    return b"".join(lines)


def _config(config: Config) -> bytes:
    """The settings in force, so that a replay gives the same prices."""
    if config.dcgm.url is not None:
        url = urlsplit(config.dcgm.url)
        public = url._replace(netloc=url.netloc.rpartition("@")[2], query="", fragment="")
        config = replace(config, dcgm=replace(config.dcgm, url=public.geturl()))
    return dump(config).encode()


def _asked(source: Asked[T]) -> T | None:
    """A source's answer under its deadline. Raises SourceError."""
    source.ask()
    outcome = source.answer()
    if outcome.error is not None:
        raise outcome.error
    return outcome.value


def _nvml(node: LiveNode) -> bytes | None:
    source, asked = node.sources.nvml, node.sources.asked.nvml
    if source is None or asked is None:
        return None
    _asked(asked)
    time.sleep(_BETWEEN_READS_SECONDS)
    read = _asked(asked)
    if read is None:
        return None
    recording = NvmlRecording(
        gpus=read.gpus,
        recorded_at=time.time(),
        booted_at=booted_at(),
        driver_version=source.driver_version or "",
        problems=read.problems,
    )
    return msgspec.json.format(msgspec.json.encode(recording), indent=1)


def _dcgm(node: LiveNode) -> bytes | None:
    if (asked := node.sources.asked.kubernetes) is not None and node.config.dcgm.url is None:
        _asked(asked)  # among whose pods it may be found
    if (url := node.sources.dcgm_url()) is None:
        return None
    settings = node.config.dcgm
    return fetch_page(url, timeout_seconds=settings.timeout_seconds, max_bytes=settings.max_bytes)


def _holdings(node: LiveNode) -> bytes | None:
    source, asked = node.sources.kubelet, node.sources.asked.kubelet
    if source is None or asked is None:
        return None
    _asked(asked)
    return to_json(source.raw()[0]).encode()


def _offered(node: LiveNode) -> bytes | None:
    source = node.sources.kubelet
    offered = None if source is None else source.raw()[1]
    return None if offered is None else to_json(offered).encode()


def _pods(node: LiveNode, node_name: str) -> bytes | None:
    if node.sources.kubernetes is None:
        return None
    query = {"fieldSelector": f"spec.nodeName={node_name}", "resourceVersion": "0"}
    pods = decode(_fetch(node.config, "/api/v1/pods", query), PodList)
    for pod in pods.items or ():
        pod.metadata = _public(pod.metadata)
    return msgspec.json.format(msgspec.json.encode(pods), indent=1)


def _node(node: LiveNode, node_name: str) -> bytes | None:
    if node.sources.kubernetes is None:
        return None
    query = {"fieldSelector": f"metadata.name={node_name}", "resourceVersion": "0"}
    found = decode(_fetch(node.config, "/api/v1/nodes", query), NodeList).items
    if not found:
        raise SourceError("absent", f"the API server has no node {node_name}; see --node-name")
    found[0].metadata = _public(found[0].metadata)
    return msgspec.json.format(msgspec.json.encode(found[0]), indent=1)


def _slices(node: LiveNode, node_name: str) -> bytes | None:
    """The ResourceSlices of the node, where a pod of it holds something by a claim."""
    if not (version := _dra_version(node)):
        return None
    query = {"fieldSelector": f"spec.nodeName={node_name}", "resourceVersion": "0"}
    text = _fetch(node.config, f"{GROUP}/{version}/resourceslices", query)
    return msgspec.json.format(msgspec.json.encode(decode(text, SliceList)), indent=1)


def _claims(node: LiveNode) -> bytes | None:
    """The claims that the kubelet tells of."""
    if node.sources.kubelet is None or not (version := _dra_version(node)):
        return None
    claims = ClaimList(items=[])
    for name in sorted({claimed.claim for claimed in node.sources.kubelet.claimed}):
        namespace, _, claim = name.partition("/")
        path = f"{GROUP}/{version}/namespaces/{namespace}/resourceclaims/{claim}"
        found = decode(_fetch(node.config, path, {}), ClaimObject)
        found.metadata = _public(found.metadata)
        claims.items = [*(claims.items or ()), found]
    return msgspec.json.format(msgspec.json.encode(claims), indent=1)


def _dra_version(node: LiveNode) -> str:
    """The version of resource.k8s.io that the DRA source reads; empty where it reads none."""
    source, asked, kubelet = node.sources.dra, node.sources.asked.dra, node.sources.kubelet
    if source is None or asked is None or kubelet is None or not kubelet.claimed:
        return ""
    _asked(asked)
    return source.version


def _fetch(config: Config, path: str, query: dict[str, str]) -> bytes:
    api = KubeApi(config.kubernetes.timeout_seconds)
    try:
        stream = api.get(path, query, config.kubernetes.timeout_seconds)
        text = bytearray()
        try:
            for chunk in stream.chunks():
                text += chunk
                if len(text) > MAX_FILE_BYTES:
                    raise SourceError("too_large", f"{path}: more than {MAX_FILE_BYTES} bytes")
        finally:
            stream.close()
        return bytes(text)
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
