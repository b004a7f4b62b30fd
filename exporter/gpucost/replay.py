"""Runs a recorded node through the same code as a live one, at the pace of its own clock."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from msgspec.structs import replace

from gpucost.config import Config, ConfigError
from gpucost.config import parse as parse_config
from gpucost.cycle import Terms, advance
from gpucost.model import Node, Problem
from gpucost.prices import asked_of, load_catalogue
from gpucost.reader import Direct
from gpucost.snapshot import Gatherer, Sources
from gpucost.sources.base import SourceError
from gpucost.sources.recorded import (
    CONFIG,
    DCGM,
    ENGINES,
    HOLDINGS,
    MAX_SECONDS,
    NODE,
    NVML,
    OFFERED,
    PODS,
    SLICES,
    Frame,
    RecordedNode,
    RecordingError,
    load,
    node_name,
    parse_nvml,
    recorded_at,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from gpucost.model import Report, Snapshot
    from gpucost.sources.base import RequestsRead

MAX_STEPS = 20_000
"""Past so many cycles in one stretch the steps grow. What is charged does not depend on the
step (the laws of the ledger); only thresholds in time are met as late as a step is long."""

UNNAMED = "recorded"
"""The node of a recording that does not name it."""

__all__ = ["MAX_SECONDS", "RecordingError", "replay"]


def replay(folder: Path, advance_seconds: float, name: str, at: float | None) -> Report:
    """The Report of a recording, `advance_seconds` after its last frame.

    `at` is when the recording starts (Unix time); None: when the recording itself says, else
    now. `name` may be empty: then the recording says it. Raises RecordingError and ConfigError.
    """
    frames = load(folder)
    dated = ((frame.at_seconds, recorded_at(frame)) for frame in frames)
    said = next((moment - seconds for seconds, moment in dated if moment is not None), None)
    start = said if at is None else at
    try:
        play = _Play(frames, time.time() if start is None else start, name or node_name(frames))
    except ConfigError as error:
        raise ConfigError(f"{folder}: {error}") from error
    return play.run(advance_seconds)


class _Play:
    """One run over the frames."""

    def __init__(self, frames: tuple[Frame, ...], start: float, node_name: str) -> None:
        self._frames = frames
        self._start = start
        self._node_name = node_name
        self._config = _config(frames[0], Config()) if CONFIG in frames[0].files else Config()
        self._problem: Problem | None = None
        self._recorded = RecordedNode(frames[0], self._config, node_name)
        self._now = 0.0
        self._gatherer = Gatherer(
            self._sources(), self._node(), self._config.kubelet.keep_holders_seconds
        )
        self._report: Report | None = None

    def _requests(self) -> RequestsRead:
        return self._recorded.requests(self._now)

    def run(self, advance_seconds: float) -> Report:
        """Step through all frames and on."""
        ends = [frame.at_seconds for frame in self._frames[1:]]
        ends.append(self._frames[-1].at_seconds + advance_seconds)
        now = 0.0
        for frame, end in zip(self._frames, ends, strict=True):
            self._take(frame)
            self._step(now, 0.0)
            for step in steps(end - now, self._config.cycle_seconds):
                now += step
                self._step(now, step)
        # What still waits for its labels is shown as it would be after the wait.
        self._config = replace(self._config, labels_wait_seconds=0.0)
        return self._step(now, 0.0)

    def _take(self, frame: Frame) -> None:
        """Let a frame hold from now on; a bad configuration in it leaves the last one in force."""
        self._recorded.frame = frame
        if frame is not self._frames[0] and CONFIG in frame.files:
            try:
                self._config = _config(frame, self._config)
                self._problem = None
            except ConfigError as error:
                self._problem = Problem("config", "invalid", str(error), "Mend the file.")
            self._recorded.config = self._config
        self._gatherer.reconfigure(
            self._sources(), self._node(), self._config.kubelet.keep_holders_seconds
        )

    def _step(self, now: float, seconds: float) -> Report:
        self._now = now
        snapshot = _timeless(self._gatherer.gather(self._start + now, now))
        problems = () if self._problem is None else (self._problem,)
        report = advance(self._report, snapshot, seconds, self._terms(snapshot))
        self._report = replace(report, problems=(*report.problems, *problems))
        return self._report

    def _terms(self, snapshot: Snapshot) -> Terms:
        return Terms(
            config=self._config,
            catalogue=load_catalogue(asked_of(snapshot.node)),
            labels_expected=self._has(PODS, NODE),
            booted_at=self._booted_at(),
            config_in_force=self._problem is None,
            config_read_at=self._start,
        )

    def _sources(self) -> Sources:
        recorded = self._recorded
        return Sources(
            nvml=Direct("nvml", recorded.nvml) if self._has(NVML) else None,
            dcgm=Direct("dcgm", recorded.dcgm) if self._has(DCGM) else None,
            kubelet=Direct("kubelet", recorded.kubelet) if self._has(HOLDINGS) else None,
            kubernetes=Direct("kubernetes", recorded.kubernetes) if self._has(PODS, NODE) else None,
            dra=Direct("dra", recorded.dra) if self._has(SLICES) else None,
            requests=Direct("requests", self._requests) if self._has_engines() else None,
            in_kubernetes=self._has(HOLDINGS, OFFERED, PODS, NODE),
        )

    def _has(self, *names: str) -> bool:
        return any(name in self._recorded.frame.files for name in names)

    def _has_engines(self) -> bool:
        return any(name.startswith(f"{ENGINES}/") for name in self._recorded.frame.files)

    def _node(self) -> Node:
        """The node as the settings describe it; node.json says more where it is there."""
        stated = self._config.node
        return Node(
            name=self._node_name or UNNAMED,
            instance_type=stated.instance_type,
            region=stated.region,
            capacity_type=stated.capacity_type or "",
            labels=stated.labels,
        )

    def _booted_at(self) -> float | None:
        try:
            return parse_nvml(self._frames[0].files[NVML]).booted_at
        except (KeyError, SourceError):
            return None


def _timeless(snapshot: Snapshot) -> Snapshot:
    """By the recording's clock a read takes no time; so that one replay equals the next."""
    sources = tuple(replace(status, duration_seconds=0.0) for status in snapshot.sources)
    return replace(snapshot, sources=sources)


def _config(frame: Frame, before: Config) -> Config:
    text = frame.files[CONFIG]
    try:
        return parse_config(text) if text.strip() else before
    except ConfigError as error:
        raise ConfigError(f"{CONFIG}: {error}") from error


def steps(seconds: float, cycle_seconds: float) -> Iterator[float]:
    """Cut a stretch into cycles, the last one shorter."""
    step = max(cycle_seconds, seconds / MAX_STEPS)
    whole = int(seconds // step)
    for _ in range(whole):
        yield step
    if (rest := seconds - whole * step) > 0:
        yield rest
