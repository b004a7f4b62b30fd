"""Replays a recorded node: the files that `gpucost record` writes, through the same parsers.

A recording is a folder of any of FILES; what is absent is a source that is not there. A
scenario over time has folders `t0`, `t30`, `t600`... (seconds since its start), each with the
files that changed then; files beside them hold from the start.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from msgspec import Struct

from gpucost.model import GpuReading  # noqa: TC001 - msgspec decodes it
from gpucost.sources.base import ClusterRead, DeviceRead, HoldingsRead, SourceError
from gpucost.sources.dcgm import parse_dcgm
from gpucost.sources.kube_objects import parse_node, parse_pod_list
from gpucost.sources.podresources import (
    parse_allocatable_json,
    parse_holdings,
    parse_list_json,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from gpucost.config import Config

CONFIG = "config.yaml"
NVML = "nvml.json"
DCGM = "dcgm.prom"
HOLDINGS = "podresources.json"
OFFERED = "allocatable.json"
PODS = "pods.json"
NODE = "node.json"
FILES = (CONFIG, NVML, DCGM, HOLDINGS, OFFERED, PODS, NODE)

MAX_FILE_BYTES = 64 << 20

T = TypeVar("T")

_FRAME = re.compile(r"^t(\d+(?:\.\d+)?)$")
_TIMESTAMP = re.compile(rb'"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z)"')


class NvmlRecording(Struct, frozen=True, forbid_unknown_fields=True):
    """nvml.json: what NVML said at one moment (docs/operations.md has its schema)."""

    gpus: tuple[GpuReading, ...]
    recorded_at: float | None = None
    """Unix time."""
    booted_at: float | None = None
    """When the node started, Unix time."""
    driver_version: str = ""


class Frame(Struct, frozen=True):
    """A node from `at_seconds` on: the text of each file that is there."""

    at_seconds: float
    files: Mapping[str, bytes]


class RecordingError(Exception):
    """The folder is not a recording. The message says what is wrong with it."""


def load(folder: Path) -> tuple[Frame, ...]:
    """Read a recording: its frames in order, the first at 0. Raises RecordingError."""
    if not folder.is_dir():
        raise RecordingError(f"{folder}: no such folder")
    steps = sorted(
        (float(match[1]), path)
        for path in folder.iterdir()
        if path.is_dir() and (match := _FRAME.match(path.name))
    )
    files = _files(folder)
    if not files and not steps:
        raise RecordingError(f"{folder}: holds none of {', '.join(FILES)}, nor folders t0, t30...")
    frames = [Frame(0.0, dict(files))]
    for at_seconds, path in steps:
        files = {**files, **_files(path)}
        if at_seconds == frames[-1].at_seconds:
            frames.pop()
        frames.append(Frame(at_seconds, files))
    if steps and steps[0][0] > 0 and not _files(folder):
        raise RecordingError(f"{folder}: a scenario starts with a folder t0")
    return tuple(frames)


def _files(folder: Path) -> dict[str, bytes]:
    found = {}
    for name in FILES:
        path = folder / name
        if path.is_file():
            with path.open("rb") as file:
                text = file.read(MAX_FILE_BYTES + 1)
            if len(text) > MAX_FILE_BYTES:
                raise RecordingError(f"{path}: larger than {MAX_FILE_BYTES} bytes")
            found[name] = text
    return found


def recorded_at(frame: Frame) -> float | None:
    """When a frame was recorded: as nvml.json says, else its latest timestamp; None if none.

    The latest moment that the Kubernetes objects speak of is the earliest at which they can
    have been recorded, so what they show as running then is not taken for hours old.
    """
    try:
        nvml = parse_nvml(frame.files[NVML])
    except (KeyError, SourceError):
        nvml = None
    if nvml is not None and nvml.recorded_at is not None:
        return nvml.recorded_at
    moments = [
        datetime.fromisoformat(found.decode()).timestamp()
        for name in (PODS, NODE)
        for found in _TIMESTAMP.findall(frame.files.get(name, b""))
    ]
    return max(moments, default=None)


def parse_nvml(text: bytes) -> NvmlRecording:
    """Parse nvml.json. Raises SourceError."""
    try:
        return msgspec.json.decode(text, type=NvmlRecording)
    except msgspec.DecodeError as error:
        raise SourceError(
            "malformed",
            f"nvml.json: {error}",
            "Record it anew with `gpucost record`, or mend the field.",
        ) from error


class RecordedNode:
    """The sources of a recorded node. `frame` is the one in force."""

    def __init__(self, frame: Frame, config: Config, node_name: str) -> None:
        """Stand at a frame; `node_name` may be empty: then node.json says it."""
        self.frame = frame
        self.config = config
        self._node_name = node_name
        self._parsed: dict[str, tuple[tuple[bytes | None, ...], Any]] = {}

    def nvml(self) -> DeviceRead:
        """Read nvml.json. Raises SourceError."""
        return self._once(
            "nvml", (NVML,), lambda: DeviceRead(gpus=parse_nvml(self.frame.files[NVML]).gpus)
        )

    def dcgm(self) -> DeviceRead:
        """Read dcgm.prom. Raises SourceError."""
        return self._once("dcgm", (DCGM,), lambda: parse_dcgm(self.frame.files[DCGM]))

    def kubelet(self) -> HoldingsRead:
        """Read podresources.json and allocatable.json. Raises SourceError."""

        def parse() -> HoldingsRead:
            offered = self.frame.files.get(OFFERED)
            return parse_holdings(
                parse_list_json(self.frame.files[HOLDINGS]),
                None if offered is None else parse_allocatable_json(offered),
                self.config.kubelet.resource_names,
            )

        return self._once("kubelet", (HOLDINGS, OFFERED), parse)

    def kubernetes(self) -> ClusterRead:
        """Read pods.json and node.json. Raises SourceError."""
        return self._once("kubernetes", (PODS, NODE), self._cluster)

    def _cluster(self) -> ClusterRead:
        files = self.frame.files
        node = parse_node(files[NODE]) if NODE in files else None
        pods = files.get(PODS)
        return ClusterRead(
            node=node,
            pods=None
            if pods is None
            else parse_pod_list(
                pods,
                self.config.kubernetes,
                self._node_name or (node.name if node else ""),
                self.config.kubelet.resource_names,
            ),
        )

    def _once(self, source: str, files: tuple[str, ...], parse: Callable[[], T]) -> T:
        """Parse a source's files, or answer as before while they are the same."""
        texts = tuple(self.frame.files.get(name) for name in files)
        before = self._parsed.get(source)
        if before is None or before[0] != texts:
            before = self._parsed[source] = (texts, parse())
        answer: T = before[1]
        return answer
