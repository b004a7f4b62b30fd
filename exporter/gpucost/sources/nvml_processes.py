"""The processes of one GPU: whose they are, and which of them worked.

The rule of this file: the driver is asked which process worked only where several containers
have one on the GPU. Where there is one, all of the GPU's work is its.

nvmlDeviceGetProcessUtilization gives a sample for each process that did something in a stretch
of its buffer, and nothing for the others; its figures may be garbage (Syllo/nvtop issue 110),
and a process that ended long ago stays in the buffer.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

from msgspec import Struct

from gpucost.model import Process
from gpucost.sources.nvml_calls import field
from gpucost.sources.nvml_parse import parse_instances

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from gpucost.sources.host_processes import HostProcesses
    from gpucost.sources.nvml_calls import NvmlCalls, Unit

UTILIZATION = "nvmlDeviceGetProcessUtilization"

FULL_PERCENT = 100
LOOK_BACK_US = 2_000_000
"""How far back the first reading asks: the whole buffer (0) may tell of minutes ago."""
MAX_LOOK_BACK_US = 600_000_000
SLACK_US = 1_000_000


class Sample(Struct, frozen=True):
    """What the driver says of a process, as far as it is used."""

    pid: int
    at_us: int
    percent: int


class _Instances(NamedTuple):
    """What the driver last told of a partitioned GPU's processes, and what was made of it."""

    told: list[dict[str, Any]]
    version: int
    processes: Mapping[tuple[int, int], tuple[Process, ...] | None]
    pids: frozenset[int]


class GpuProcesses:
    """Follows the processes of one GPU."""

    def __init__(self, calls: NvmlCalls, gpu: Unit, host: HostProcesses) -> None:
        self._calls = calls
        self._gpu = gpu
        self._host = host
        self._last_us = 0
        self._instances: _Instances | None = None

    def of_instances(
        self, entries: Sequence[Any] | None, memory_bytes: int | None
    ) -> Mapping[tuple[int, int], tuple[Process, ...] | None] | None:
        """The processes of each MIG instance, by its ids, with whose they are.

        None where the driver does not say of all which instance they are on. The same objects
        while it says the same: processes come and go seldom, and a node may have hundreds.
        """
        if entries is None:
            return None
        told, last = [vars(entry) for entry in entries], self._instances
        if last is not None and last.version == self._host.version and last.told == told:
            self._host.meet(last.pids)
            return last.processes
        found = parse_instances(entries, memory_bytes)
        if found is None:
            return None
        processes = {ids: self.whose(own) for ids, own in found.items()}
        pids = frozenset(process.pid for own in found.values() for process in own)
        self._instances = _Instances(told, self._host.version, processes, pids)
        return processes

    def told_apart(self, processes: tuple[Process, ...] | None) -> tuple[Process, ...] | None:
        """The whole GPU's processes with whose they are, and what each did since the last time."""
        known = self._host.describe(processes)
        if known is None or len(known) < 2 or not _is_mixed(known):  # noqa: PLR2004 - one alone
            self._last_us = 0
            return known
        samples = self._samples()
        return known if samples is None else parse_utilization(samples, known)

    def whose(self, processes: tuple[Process, ...] | None) -> tuple[Process, ...] | None:
        """The processes of a MIG instance, where the driver has no more to say of each."""
        return self._host.describe(processes)

    def _samples(self) -> list[Sample] | None:
        """What the driver gathered since the last time; None where it does not tell."""
        now_us = int(time.time() * 1e6)
        since = self._last_us
        if not -SLACK_US < now_us - since < MAX_LOOK_BACK_US:  # the first, or the clock was set
            since = now_us - LOOK_BACK_US
        answer: list[Any] | None = self._calls.ask(self._gpu, UTILIZATION, self._gpu.handle, since)
        if answer is None:
            if UTILIZATION in self._gpu.silent:
                return None
            answer = []
        found = [
            Sample(field(it, "pid"), field(it, "timeStamp"), field(it, "smUtil")) for it in answer
        ]
        fresh = [sample for sample in found if sample.at_us > since]
        self._last_us = max((sample.at_us for sample in fresh), default=since)
        return fresh


def _is_mixed(processes: Collection[Process]) -> bool:
    """Whether they are of several containers."""
    return len({process.cgroup for process in processes if process.cgroup}) > 1


def parse_utilization(
    samples: Iterable[Sample], processes: Iterable[Process]
) -> tuple[Process, ...]:
    """The processes, each with its mean and highest SM utilisation.

    The driver leaves out what was 0, so a process with fewer samples than another did nothing
    in between. Samples of processes that are not there, and those over 100, are dropped; a process
    that has no others did something, and how much is not known.
    """
    by_pid: dict[int, list[int]] = {}
    garbled: set[int] = set()
    for sample in samples:
        if sample.percent <= FULL_PERCENT:
            by_pid.setdefault(sample.pid, []).append(sample.percent)
        else:
            garbled.add(sample.pid)
    unknown = garbled - by_pid.keys()
    processes = tuple(processes)
    count = max((len(by_pid.get(process.pid, ())) for process in processes), default=0) or 1
    return tuple(
        [
            Process(
                process.pid,
                process.memory_bytes,
                process.cgroup,
                None if process.pid in unknown else sum(own) / (count * FULL_PERCENT),
                None if process.pid in unknown else max(own, default=0) / FULL_PERCENT,
                process.mps,
            )
            for process in processes
            for own in (by_pid.get(process.pid, []),)
        ]
    )
