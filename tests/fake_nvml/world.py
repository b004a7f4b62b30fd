"""The machine that the fake library plays, and its scenario file.

Values are in gpucost's units (ratios of 0 to 1, watts, joules, hertz, bytes); None is what the
device does not support. Energy runs on between writes, at the power last written.
"""

from __future__ import annotations

import itertools
import os
import time
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

MIB = 1 << 20
GIB = 1 << 30
KEPT_EVENTS = 400

_failures = itertools.count(1)


class Kind(IntEnum):
    """Which of the driver's process lists a process is in."""

    COMPUTE = 0
    GRAPHICS = 1
    MPS = 2


@dataclass
class Gpm:
    """Profiling metrics, as ratios; None for one that the driver does not give."""

    graphics: float | None = 0.0
    sm: float | None = 0.0
    occupancy: float | None = 0.0
    tensor: float | None = 0.0
    dram: float | None = 0.0


@dataclass
class Process:
    """`gi` and `ci` name the MIG instance it runs on; `sm` its utilisation."""

    pid: int
    memory_bytes: int | None = GIB
    gi: int | None = None
    ci: int | None = None
    kind: Kind = Kind.COMPUTE
    sm: float = 0.0


@dataclass
class Instance:
    """A MIG device; an empty `profile` is one whose name the driver does not give.

    `placement` is the memory slice at which its GPU instance begins.
    """

    gi: int
    ci: int
    profile: str
    gi_slices: int
    ci_slices: int
    memory_bytes: int
    uuid: str
    used_bytes: int = 0
    gpm: Gpm | None = None
    placement: int | None = None


@dataclass
class Gpu:
    """A device. `mig` is None where MIG is off and `mig_capable` says whether it could be on.

    `sample_peak` shows in every sixth of the driver's utilisation samples, `sample_level` in
    the others. `wide_processes` plays the drivers that write too long process entries.
    """

    uuid: str
    model: str
    minor: int = 0
    memory_bytes: int | None = 80 * GIB
    reserved_bytes: int = 512 * MIB
    used_bytes: int = 0
    mig_capable: bool = False
    mig: list[Instance] | None = None
    mig_slices: int = 7
    utilization: float | None = 0.0
    memory_utilization: float = 0.0
    sample_level: float | None = 0.0
    sample_peak: float | None = None
    gpm: Gpm | None = None
    power_watts: float | None = 70.0
    energy_joules: float | None = 0.0
    temperature_celsius: float | None = 35.0
    sm_clock_hertz: float | None = 345e6
    memory_clock_hertz: float = 2619e6
    remap_failed: bool | None = False
    remap_pending: bool = False
    uncorrected_errors: int | None = 0
    recovery_action: int | None = 0
    processes: list[Process] = field(default_factory=list)
    wide_processes: bool = False

    def busy(self, ratio: float, peak: float | None = None) -> None:
        """Set every activity signal that the GPU has, and the power that goes with it."""
        if self.utilization is not None:
            self.utilization = ratio
        if self.sample_level is not None:
            self.sample_level, self.sample_peak = ratio, peak
        if self.gpm is not None:
            self.gpm.graphics = self.gpm.sm = ratio
        if self.power_watts is not None:
            self.power_watts = 70.0 + 630.0 * ratio

    def partition(self, profiles: Sequence[str]) -> None:
        """Make MIG instances of these profiles (`3g.40gb`, `1c.3g.40gb`), ids as a driver does.

        A profile with a compute part shares the GPU instance of those alike before it.
        """
        self.mig_capable = True
        self.mig = []
        gi, ci, left = 0, 0, 0
        for slot, profile in enumerate(profiles):
            compute, _, rest = profile.rpartition("c.")
            gi_slices = int(rest.split("g.")[0])
            ci_slices = int(compute) if compute else gi_slices
            if compute and left >= ci_slices:
                ci += 1
            else:
                gi, ci, left = gi + 1, 0, gi_slices
            left -= ci_slices
            memory = int(rest.split("g.")[1].split("gb")[0]) * GIB - 256 * MIB
            uuid = f"MIG-{self.uuid[4:24]}-{slot:02d}-{gi:02d}-{profile.replace('.', '')}"
            gpm = Gpm() if self.gpm is not None else None
            self.mig.append(Instance(gi, ci, profile, gi_slices, ci_slices, memory, uuid, gpm=gpm))

    def lines(self, index: int) -> list[str]:
        """The device's facts, one a line; what it does not support has none."""
        peak = self.sample_level if self.sample_peak is None else self.sample_peak
        facts = [
            f"name {self.model}",
            _fact(
                "id",
                uuid=self.uuid,
                minor=self.minor,
                bus=index + 1,
                mig_mode=int(self.mig is not None) if self.mig_capable else -1,
                mig_slices=self.mig_slices,
                max_mig=self.mig_slices,
                wide_procs=int(self.wide_processes),
            ),
            _fact(
                "memory",
                total=self.memory_bytes,
                reserved=self.reserved_bytes,
                used=self.used_bytes,
            ),
            _fact(
                "util",
                gpu=_scaled(self.utilization, 100),
                memory=_scaled(self.memory_utilization, 100),
            ),
            _fact("samples", level=_scaled(self.sample_level, 100), peak=_scaled(peak, 100)),
            _gpm(self.gpm),
            *(line for slot, part in enumerate(self.mig or ()) for line in _mig(slot, part)),
            _fact("power", mw=_scaled(self.power_watts, 1e3)),
            _fact("temperature", celsius=_scaled(self.temperature_celsius, 1)),
            _fact(
                "clock",
                sm=_scaled(self.sm_clock_hertz, 1e-6),
                mem=_scaled(self.memory_clock_hertz, 1e-6),
            ),
            _fact("rows", failure=_scaled(self.remap_failed, 1), pending=int(self.remap_pending)),
            _fact("ecc", uncorrected=self.uncorrected_errors),
            _fact("recovery", action=self.recovery_action),
            *map(_process, self.processes),
        ]
        return [f"gpu {index} {fact}" for fact in facts if fact]


def _fact(what: str, **values: object) -> str:
    """One line; none where the device does not have the first of the values."""
    if next(iter(values.values())) is None:
        return ""
    stated = (f"{name}={value}" for name, value in values.items() if value is not None)
    return f"{what} {' '.join(stated)}"


def _scaled(value: float | None, factor: float) -> int | None:
    return None if value is None else round(value * factor)


def _mig(slot: int, part: Instance) -> tuple[str, str]:
    line = _fact(
        "mig",
        slot=slot,
        gi=part.gi,
        ci=part.ci,
        gi_slices=part.gi_slices,
        ci_slices=part.ci_slices,
        total=part.memory_bytes,
        used=part.used_bytes,
        placement=part.placement,
        uuid=part.uuid,
        profile=part.profile,
    )
    return line, _gpm(part.gpm, part.gi)


def _gpm(gpm: Gpm | None, gi: int | None = None) -> str:
    """The library reads a negative metric as one that the driver does not give."""
    if gpm is None:
        return ""
    values = {name: -1 if v is None else v * 100 for name, v in vars(gpm).items()}
    return _fact("gpm", **values, gi=gi)


def _process(process: Process) -> str:
    return _fact(
        "proc",
        pid=process.pid,
        bytes=process.memory_bytes,
        gi=process.gi,
        ci=process.ci,
        kind=int(process.kind),
        sm=_scaled(process.sm, 100),
    )


class World:
    """A machine in a scenario file. Nothing is seen before it is written."""

    def __init__(self, path: Path, gpus: Iterable[Gpu] = ()) -> None:
        self.path = path
        self.gpus = list(gpus)
        for index, gpu in enumerate(self.gpus):
            gpu.minor = gpu.minor or index
        self.driver_version = "580.95.05"
        self.init_code = 0
        self.pid_namespace: int | None = None
        """The inode of the PID namespace that processes are of: callers in others see none."""
        self._failures: dict[int, str] = {}
        self._events: list[str] = []
        self._energy: dict[str, tuple[float, float, float]] = {}
        self._seq = itertools.count(1)
        self.write()

    def write(self) -> None:
        """Let it be seen. The file is replaced whole, so no reader sees half of it."""
        now = time.time()
        node = _fact("node", init=self.init_code, cuda=13000, pidns=self.pid_namespace)
        lines = [f"driver {self.driver_version}", node]
        for index, gpu in enumerate(self.gpus):
            lines += gpu.lines(index)
            lines += self._energy_line(index, gpu, now)
        lines += self._events + list(self._failures.values())
        draft = self.path.with_name(f"{self.path.name}.{os.getpid()}.new")
        draft.write_bytes("\n".join([*lines, ""]).encode(errors="surrogateescape"))
        draft.replace(self.path)

    def _energy_line(self, index: int, gpu: Gpu, now: float) -> list[str]:
        """The energy so far, from which the library goes on at the power of this writing.

        A test that sets `energy_joules` sets the counter, as a reload of the driver would.
        """
        if gpu.energy_joules is None:
            return []
        stated, power, at = self._energy.get(gpu.uuid, (gpu.energy_joules, 0.0, now))
        if stated == gpu.energy_joules:
            gpu.energy_joules += power * (now - at)
        self._energy[gpu.uuid] = (gpu.energy_joules, gpu.power_watts or 0.0, now)
        millijoules = round(gpu.energy_joules * 1e3)
        return [f"gpu {index} energy mj={millijoules} at_us={round(now * 1e6)}"]

    def fail(
        self,
        call: str,
        code: int = 0,
        *,
        gpu: int | None = None,
        gi: int | None = None,
        after: int = 0,
        times: int | None = None,
        delay_ms: int = 0,
    ) -> int:
        """Make a call fail (code 0: only be slow), and write. Gives an id for `heal`.

        `call` is the exported name, with its version, or `*`. The failure is met after `after`
        calls, `times` times, counted in each process. A delay ends early when it is healed.
        """
        number = next(_failures)
        self._failures[number] = _fact(
            "fail",
            id=number,
            call=call,
            code=code,
            gpu=gpu,
            gi=gi,
            after=after,
            times=times,
            delay_ms=delay_ms,
        )
        self.write()
        return number

    def heal(self, number: int | None = None) -> None:
        """Take back one failure, or all."""
        if number is None:
            self._failures.clear()
        else:
            del self._failures[number]
        self.write()

    def xid(self, gpu: int, code: int) -> None:
        """Let an XID event happen now."""
        self._events.append(f"xid seq={next(self._seq)} gpu={gpu} code={code}")
        del self._events[:-KEPT_EVENTS]
        self.write()


_uuids = itertools.count(1)


def _uuid() -> str:
    return f"GPU-{next(_uuids):08x}-6b75-6765-6c64-000000000000"


def h100(mig: Sequence[str] | None = None) -> Gpu:
    """Hopper: GPM, MIG."""
    gpu = Gpu(_uuid(), "NVIDIA H100 80GB HBM3", mig_capable=True, gpm=Gpm())
    if mig is not None:
        gpu.partition(mig)
    return gpu


def a100(mig: Sequence[str] | None = None) -> Gpu:
    """Ampere: MIG, and no activity signal under it."""
    gpu = Gpu(_uuid(), "NVIDIA A100-SXM4-40GB", memory_bytes=40 * GIB, mig_capable=True)
    if mig is not None:
        gpu.partition(mig)
    return gpu


def t4() -> Gpu:
    """Turing: neither GPM, nor MIG, nor row remapping, nor a recovery action."""
    return Gpu(
        _uuid(),
        "Tesla T4",
        memory_bytes=15 * GIB,
        remap_failed=None,
        recovery_action=None,
    )
