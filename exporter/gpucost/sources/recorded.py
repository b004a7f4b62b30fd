"""Replays a recorded node: the files that `gpucost record` writes, through the same parsers.

A recording is a folder of any of FILES; what is absent is a source that is not there. A
scenario over time has folders `t0`, `t30`, `t600`... (seconds since its start), each with the
files that changed then; files beside them hold from the start.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import replace

from gpucost.model import EngineReading, GpuReading, Problem, Process, Serving, UnitReading
from gpucost.sources.base import (
    ClusterRead,
    DeviceRead,
    DraRead,
    HoldingsRead,
    RequestsRead,
    SourceError,
)
from gpucost.sources.dcgm import parse_dcgm
from gpucost.sources.dra_objects import ClaimList, SliceList, devices_of, results_by_claim
from gpucost.sources.engine_endpoints import engine_table
from gpucost.sources.engine_page import parse_engine_page
from gpucost.sources.kube_objects import (
    PodList,
    decode,
    parse_ends,
    parse_node,
    parse_pod_list,
)
from gpucost.sources.podresources import (
    parse_allocatable_json,
    parse_holdings,
    parse_list_json,
)
from gpucost.sources.requests import named

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from gpucost.config import Config

CONFIG = "config.yaml"
NVML = "nvml.json"
DCGM = "dcgm.prom"
HOLDINGS = "podresources.json"
OFFERED = "allocatable.json"
PODS = "pods.json"
NODE = "node.json"
SLICES = "resourceslices.json"
CLAIMS = "resourceclaims.json"
FILES = (CONFIG, NVML, DCGM, HOLDINGS, OFFERED, PODS, NODE, SLICES, CLAIMS)
ENGINES = "engines"
"""A folder of pages: `<namespace>_<pod>.prom` is what that pod's inference server answered."""

MAX_FILE_BYTES = 64 << 20
MAX_SECONDS = 366 * 86_400.0
"""The longest scenario: a year."""

T = TypeVar("T")

UnixTime = Annotated[float, Meta(ge=0, le=1e11)]

_FRAME = re.compile(r"t([0-9]+(?:\.[0-9]+)?)")
_ENGINE = re.compile(r"([a-z0-9-]{1,63})_([a-z0-9.-]{1,253})\.prom")
_MOMENT = re.compile(
    rb'"(?:creationTimestamp|startTime|startedAt|finishedAt|lastTransitionTime|lastHeartbeatTime'
    rb'|time)"\s*:\s*"([0-9]{4}-[^"]{1,40})"'
)
"""Fields that tell of the past. Not deletionTimestamp, which is when the grace period ends, nor
what an annotation may hold."""


class NvmlRecording(Struct, frozen=True, forbid_unknown_fields=True):
    """nvml.json: what NVML said at one moment (docs/operations.md has its schema)."""

    gpus: tuple[GpuReading, ...]
    recorded_at: UnixTime | None = None
    """When it was recorded, Unix time."""
    booted_at: UnixTime | None = None
    """When the node started, Unix time."""
    driver_version: str = ""
    """As `nvidia-smi` shows it; for the reader only."""
    problems: tuple[Problem, ...] = ()
    """What the driver refused or found faulty."""


class Frame(Struct, frozen=True):
    """A node from `at_seconds` on: the text of each file that is there."""

    at_seconds: float
    files: Mapping[str, bytes]


class RecordingError(Exception):
    """The folder is not a recording. The message says what is wrong with it."""


def load(folder: Path) -> tuple[Frame, ...]:
    """Read a recording: its frames in order, the first at 0. Raises RecordingError."""
    try:
        return _load(folder)
    except OSError as error:
        raise RecordingError(
            f"{error.filename or folder}: cannot be read: {error.strerror}"
        ) from error


def _load(folder: Path) -> tuple[Frame, ...]:
    if not folder.is_dir():
        raise RecordingError(f"{folder}: no such folder")
    inner = (path for path in folder.iterdir() if path.is_dir() and path.name != ENGINES)
    steps = sorted((_at_seconds(path), path) for path in inner)
    files = _files(folder)
    if not files and not steps:
        raise RecordingError(f"{folder}: holds none of {', '.join(FILES)}, nor folders t0, t30...")
    if not files and steps[0][0] > 0:
        raise RecordingError(f"{folder}: a scenario starts with a folder t0")
    frames = [Frame(0.0, dict(files))]
    for at_seconds, path in steps:
        files = {**files, **_files(path)}
        if at_seconds == frames[-1].at_seconds:
            frames.pop()
        frames.append(Frame(at_seconds, files))
    return tuple(frames)


def _at_seconds(path: Path) -> float:
    """When a frame begins. Raises RecordingError for a folder that is not called like one."""
    match = _FRAME.fullmatch(path.name)
    if match is None or float(match[1]) > MAX_SECONDS:
        raise RecordingError(
            f"{path}: not a frame. They are called t0, t30, t600...: seconds since the scenario's"
            " start, a year at most."
        )
    return float(match[1])


def _files(folder: Path) -> dict[str, bytes]:
    """The files of one folder. A misspelt name must not pass for a source that is absent."""
    found = {}
    engines = folder / ENGINES
    for path in sorted(engines.iterdir()) if engines.is_dir() else ():
        if not _ENGINE.fullmatch(path.name):
            raise RecordingError(f"{path}: not called <namespace>_<pod>.prom")
        found[f"{ENGINES}/{path.name}"] = _text(path)
    for path in sorted(folder.iterdir()):
        if path.name in FILES:
            found[path.name] = _text(path)
        elif path.suffix in (".json", ".yaml", ".yml"):
            raise RecordingError(f"{path}: not a file of a recording; those are {', '.join(FILES)}")
    return found


def _text(path: Path) -> bytes:
    with path.open("rb") as file:
        text = file.read(MAX_FILE_BYTES + 1)
    if len(text) > MAX_FILE_BYTES:
        raise RecordingError(f"{path}: larger than {MAX_FILE_BYTES} bytes")
    return text


def engine_file(namespace: str, pod: str) -> str:
    """The file of a pod's page."""
    return f"{ENGINES}/{namespace}_{pod}.prom"


def recorded_at(frame: Frame) -> float | None:
    """When a frame was recorded: as nvml.json says, else its latest timestamp; None if none.

    The latest moment that the Kubernetes objects tell of is the earliest at which they can
    have been recorded, so what they show as running then is not taken for hours old.
    """
    try:
        nvml = parse_nvml(frame.files[NVML])
    except (KeyError, SourceError):
        nvml = None
    if nvml is not None and nvml.recorded_at is not None:
        return nvml.recorded_at
    moments = (
        _unix_time(found)
        for name in (PODS, NODE)
        for found in _MOMENT.findall(frame.files.get(name, b""))
    )
    return max((moment for moment in moments if moment is not None), default=None)


def _unix_time(text: bytes) -> float | None:
    """A timestamp of Kubernetes (RFC 3339); None where it is none."""
    try:
        moment = datetime.fromisoformat(text.decode())
        return None if moment.tzinfo is None else max(moment.timestamp(), 0.0)
    except (ValueError, OverflowError):
        return None


def parse_nvml(text: bytes) -> NvmlRecording:
    """Parse nvml.json. Raises SourceError."""
    try:
        recording = msgspec.json.decode(text, type=NvmlRecording)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _malformed(str(error)) from error
    uuids = set()
    for position, gpu in enumerate(recording.gpus):
        if problem := _nonsense(gpu):
            raise _malformed(f"{problem} - at `$.gpus[{position}]`")
        if gpu.device.uuid.casefold() in uuids:
            raise _malformed(f"the same uuid as of a GPU before it - at `$.gpus[{position}]`")
        uuids.add(gpu.device.uuid.casefold())
    return replace(recording, gpus=tuple(_without_garbage(gpu) for gpu in recording.gpus))


def _without_garbage(gpu: GpuReading) -> GpuReading:
    """Without figures of processes that no process can have, as a live driver's are dropped."""

    def plain(reading: UnitReading) -> UnitReading:
        if all(_possible(process) for process in reading.processes or ()):
            return reading
        processes = tuple(
            process if _possible(process) else replace(process, sm_ratio=None, sm_peak=None)
            for process in reading.processes or ()
        )
        return replace(reading, processes=processes)

    instances = tuple(plain(reading) for reading in gpu.instances)
    return replace(gpu, reading=plain(gpu.reading), instances=instances)


def _possible(process: Process) -> bool:
    return all(0 <= figure <= 1 for figure in (process.sm_ratio or 0.0, process.sm_peak or 0.0))


def _malformed(what: str) -> SourceError:
    return SourceError(
        "malformed", f"{NVML}: {what}", "Record it anew with `gpucost record`, or mend the field."
    )


def _nonsense(gpu: GpuReading) -> str | None:
    """What no driver says, and types do not forbid."""
    if not gpu.device.uuid:
        return "device.uuid is empty"
    mig = gpu.device.mig or ()
    if len(gpu.instances) != len(mig):
        return f"instances has {len(gpu.instances)} readings for the {len(mig)} of device.mig"
    if len({(instance.gi, instance.ci) for instance in mig}) < len(mig):
        return "two of device.mig have the same gi and ci"
    if any(instance.compute_slices < 1 for instance in mig):
        return "device.mig has an instance without compute slices"
    for reading in (gpu.reading, *gpu.instances):
        activity = reading.activity
        if activity is not None and not 0 <= activity.ratio <= activity.peak <= 1:
            return "an activity must have 0 <= ratio <= peak <= 1"
    return None


def node_name(frames: Sequence[Frame]) -> str:
    """What the recording calls its node: node.json's name, else the node of all its pods.

    Empty where it does not say.
    """
    for frame in frames:
        try:
            return parse_node(frame.files[NODE]).name
        except (KeyError, SourceError):
            continue
    named: set[str] = set()
    for frame in frames:
        try:
            pods = decode(frame.files[PODS], PodList).items or ()
        except (KeyError, SourceError):
            continue
        named |= {pod.spec.node_name for pod in pods if pod.spec and pod.spec.node_name}
    return named.pop() if len(named) == 1 else ""


class RecordedNode:
    """The sources of a recorded node. `frame` is the one in force."""

    def __init__(self, frame: Frame, config: Config, node_name: str) -> None:
        """Stand at a frame of this node; pods of other nodes are not its own."""
        self.frame = frame
        self.config = config
        self._node_name = node_name
        self._parsed: dict[str, tuple[tuple[Config | bytes | float | None, ...], Any]] = {}

    def nvml(self) -> DeviceRead:
        """Read nvml.json. Raises SourceError."""

        def parse() -> DeviceRead:
            recording = parse_nvml(self.frame.files[NVML])
            return DeviceRead(gpus=recording.gpus, problems=recording.problems)

        return self._once("nvml", (NVML,), parse)

    def dcgm(self) -> DeviceRead:
        """Read dcgm.prom. Raises SourceError."""
        return self._once(
            "dcgm", (DCGM,), lambda: parse_dcgm(self.frame.files[DCGM], node_name=self._node_name)
        )

    def kubelet(self) -> HoldingsRead:
        """Read podresources.json and allocatable.json. Raises SourceError for the former.

        Of a live kubelet too, what it offers is missed without losing who holds what.
        """

        def parse() -> HoldingsRead:
            listed = parse_list_json(self.frame.files[HOLDINGS])
            offered = None
            problems: tuple[Problem, ...] = ()
            if OFFERED in self.frame.files:
                try:
                    offered = parse_allocatable_json(self.frame.files[OFFERED])
                except SourceError as error:
                    problems = (Problem("kubelet", error.kind, str(error), error.remedy),)
            read = parse_holdings(listed, offered, self.config.kubelet.resource_names)
            return HoldingsRead(read.holdings, problems)

        return self._once("kubelet", (HOLDINGS, OFFERED), parse)

    def kubernetes(self) -> ClusterRead:
        """Read pods.json and node.json. Raises SourceError."""
        return self._once("kubernetes", (PODS, NODE), self._cluster)

    def dra(self) -> DraRead:
        """Read resourceslices.json and resourceclaims.json. Raises SourceError."""

        def parse() -> DraRead:
            files = self.frame.files
            slices = decode(files[SLICES], SliceList).items or ()
            claims = decode(files[CLAIMS], ClaimList).items or () if CLAIMS in files else ()
            return DraRead(devices_of(slices, self._node_name), results_by_claim(claims))

        return self._once("dra", (SLICES, CLAIMS), parse)

    def requests(self, now: float) -> RequestsRead:
        """Read the pages in engines/, at `now` on the recording's clock.

        As a live server is: every `interval_seconds`, and where it says something else.
        """
        settings = self.config.requests
        table = self._once("engines", (), lambda: engine_table(settings))
        pods = self.kubernetes().pods or {}
        readings: dict[tuple[str, str], EngineReading] = {}
        problems: list[Problem] = []
        for key, pod in pods.items():
            name = engine_file(*key)
            if name not in self.frame.files or pod.finished:
                continue
            serving = pod.serving or Serving()

            def parse(name: str = name, serving: Serving = serving) -> EngineReading:
                engine = next((it.engine for it in serving.endpoints), "")
                found = parse_engine_page(self.frame.files[name], table, engine, serving.models)
                return EngineReading(now, tuple(named(model, serving) for model in found))

            try:
                beat = now // settings.interval_seconds
                readings[key] = self._once(name, (name, PODS), parse, beat)
            except SourceError as error:
                said = f"{'/'.join(key)}: {error}"
                problems.append(Problem("requests", error.kind, said, error.remedy))
        return RequestsRead(readings, tuple(problems))

    def _cluster(self) -> ClusterRead:
        """The Node and its pods: as the watches of a live node, one may fail without the other."""
        files, errors = self.frame.files, []
        node, pods, ended = None, None, {}
        if NODE in files:
            try:
                node = parse_node(files[NODE])
            except SourceError as error:
                errors.append(error)
        if PODS in files:
            try:
                pods = parse_pod_list(
                    files[PODS],
                    self.config.kubernetes,
                    self._node_name,
                    self.config.kubelet.resource_names,
                    self.config.requests,
                )
                ended = parse_ends(files[PODS])
            except SourceError as error:
                errors.append(error)
        if errors and node is None and pods is None:
            raise errors[0]
        problems = tuple(
            Problem("kubernetes", error.kind, str(error), error.remedy) for error in errors
        )
        return ClusterRead(node=node, pods=pods, ended=ended, problems=problems)

    def _once(
        self, source: str, files: tuple[str, ...], parse: Callable[[], T], moment: float = 0.0
    ) -> T:
        """Parse a source's files, or answer as before while they and the settings are the same.

        And the `moment` that they are read for.
        """
        made_of = (self.config, moment, *(self.frame.files.get(name) for name in files))
        before = self._parsed.get(source)
        if before is None or before[0] != made_of:
            before = self._parsed[source] = (made_of, parse())
        answer: T = before[1]
        return answer
