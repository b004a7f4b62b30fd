"""The NVML source: this node's GPUs, read through the driver's own library.

The rule of this file: the library's life. It is initialised when first needed and anew when it
lost its state, a GPU that is lost stays in view (it is still billed) while the others are read,
and what was counted (XID events) outlives all of that. What a GPU tells is nvml_gpu.py; how
errors are met is the table in nvml_calls.py.

A driver may hang for good: `read` may block, and is called from one thread of its own.
"""

from __future__ import annotations

import contextlib
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from gpucost.model import Device, GpuReading, Problem, UnitReading
from gpucost.sources.base import DeviceRead, SourceError
from gpucost.sources.host_processes import HostProcesses
from gpucost.sources.nvml_calls import NvmlCalls, Unit
from gpucost.sources.nvml_errors import (
    GpuFault,
    Reaction,
    Restart,
    StaleHandle,
    init_error,
)
from gpucost.sources.nvml_events import XidEvents
from gpucost.sources.nvml_gpm import Gpm
from gpucost.sources.nvml_gpu import Gpu
from gpucost.sources.nvml_problems import (
    gpu_fault,
    gpu_unreadable,
    mig_unreadable,
    problems_of,
)
from gpucost.sources.nvml_signals import GpuSignal, signals_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gpucost.config import Nvml

FIRST_REINIT_SECONDS = 30.0
MAX_REINIT_SECONDS = 960.0
UNKNOWN_MODEL = "unknown"


class _Missing(Struct, frozen=True):
    """A GPU that was there before the library was initialised anew."""

    device: Device
    fault: str
    xids: Mapping[int, int]


class NvmlSource:
    """Reads the GPUs through pynvml, which is imported at the first read.

    `library` stands in for the pynvml module (a benchmark records its calls), `clock` for the
    monotonic clock, `host` for this machine's processes.
    """

    name = "nvml"

    def __init__(
        self,
        *,
        settings: Nvml,
        library: Any = None,  # noqa: ANN401 - pynvml is untyped
        clock: Callable[[], float] = time.monotonic,
        host: HostProcesses | None = None,
    ) -> None:
        self.settings = settings
        self.driver_version = ""
        """Empty until the first read that worked."""
        self._library = library
        self._clock = clock
        self._host = host or HostProcesses()
        self._calls: NvmlCalls | None = None
        self._system = Unit(None, "the driver")
        self._gpus: list[Gpu] = []
        self._missing: dict[str, _Missing] = {}
        self._unreadable: list[Problem] = []
        self._count = 0
        self._events: XidEvents | None = None
        self._reinit_seconds = FIRST_REINIT_SECONDS
        self._reinit_at = 0.0
        self._problems: tuple[Problem, ...] = ()
        self._problems_version = -1

    def read(self) -> DeviceRead:
        """Every GPU now.

        Raises SourceError where there is no driver, no library or no GPU. A read that finds
        the library without its state initialises it anew and is made once more.
        """
        try:
            return self._attempt(restarted=False)
        except Restart:
            self._stop()
        try:
            return self._attempt(restarted=True)
        except Restart as restart:
            self._stop()
            raise init_error(restart.code) from restart

    def _attempt(self, *, restarted: bool) -> DeviceRead:
        try:
            calls = self._start()
            calls.restarted = restarted
            return self._gather(calls)
        except SourceError:
            self._stop()
            raise

    def signals(self) -> tuple[GpuSignal, ...]:
        """For `check`: which signals the last read gave on each GPU, and why others are absent."""
        return tuple(signal for gpu in self._gpus for signal in signals_of(gpu))

    def close(self) -> None:
        """Release the driver: open handles would keep it from being unloaded."""
        self._stop()

    # --- the library's life -------------------------------------------------------------------

    def _start(self) -> NvmlCalls:
        """Initialise NVML and list the GPUs, if that is not done."""
        if self._calls is not None:
            if not self._reinit_is_due():
                return self._calls
            self._stop()
        library = self._library or _import_pynvml()
        try:
            library.nvmlInit()
        except library.NVMLError as error:
            raise init_error(int(error.value)) from error
        self._calls = calls = NvmlCalls(library, self._clock)
        self._system = Unit(None, "the driver")
        self.driver_version = calls.ask(self._system, "nvmlSystemGetDriverVersion") or ""
        self._list_gpus(calls)
        self._events = XidEvents(calls, self._system)
        for gpu in self._gpus:
            self._guard(gpu, partial(self._events.register, gpu))
        return calls

    def _reinit_is_due(self) -> bool:
        """Whether to look again for GPUs that were lost: at first soon, then ever more rarely."""
        healthy = not self._missing and not any(gpu.fault for gpu in self._gpus)
        if healthy and not self._unreadable:
            self._reinit_seconds = FIRST_REINIT_SECONDS
            self._reinit_at = 0.0
            return False
        now = self._clock()
        if not self._reinit_at:
            self._reinit_at = now + self._reinit_seconds
        if now < self._reinit_at:
            return False
        self._reinit_seconds = min(2 * self._reinit_seconds, MAX_REINIT_SECONDS)
        self._reinit_at = now + self._reinit_seconds
        return True

    def _stop(self) -> None:
        """Release everything; what is known of the GPUs is kept for when they come back."""
        calls, self._calls = self._calls, None
        if calls is None:
            return
        for gpu in self._gpus:
            self._missing[gpu.device.uuid] = _Missing(gpu.device, gpu.fault, gpu.xids)
        steps = [gpu.close for gpu in self._gpus]
        if self._events is not None:
            steps.append(self._events.close)
        steps.append(lambda: calls.ask(self._system, "nvmlShutdown"))
        for step in steps:
            # A library that lost its state has nothing left to release.
            with contextlib.suppress(Restart, GpuFault, StaleHandle, SourceError):
                step()
        self._gpus = []
        self._events = None

    def _list_gpus(self, calls: NvmlCalls) -> None:
        """Find the GPUs. One that was known and is not there any more is missing, not forgotten."""
        count = calls.ask(self._system, "nvmlDeviceGetCount")
        self._count = int(count or 0)
        if not self._count and not any(gone.fault for gone in self._missing.values()):
            raise SourceError(
                "no_devices",
                "The NVIDIA driver is there and shows no GPU.",
                "Give the container NVIDIA_VISIBLE_DEVICES=all; on the node, see nvidia-smi -L.",
            )
        self._unreadable = []
        gpm = Gpm(calls, self._clock)
        for index in range(self._count):
            try:
                gpu = self._open_gpu(calls, gpm, index)
            except GpuFault as fault:
                gpu, reason = None, fault.word
            else:
                reason = "no UUID"
            if gpu is not None:
                self._missing.pop(gpu.device.uuid, None)
                self._gpus.append(gpu)
            elif not any(gone.device.index == index for gone in self._missing.values()):
                self._unreadable.append(gpu_unreadable(index, reason))

    def _open_gpu(self, calls: NvmlCalls, gpm: Gpm, index: int) -> Gpu | None:
        """The GPU at the driver's index; None where it does not even say who it is."""
        unit = _Opening(None, f"GPU {index}")
        unit.handle = calls.ask(unit, "nvmlDeviceGetHandleByIndex", index)
        if unit.handle is None:
            return None
        uuid = calls.ask(unit, "nvmlDeviceGetUUID", unit.handle)
        if uuid is None:
            return None
        known = self._missing.get(uuid)
        device = Device(
            uuid,
            calls.ask(unit, "nvmlDeviceGetName", unit.handle) or UNKNOWN_MODEL,
            index,
            calls.ask(unit, "nvmlDeviceGetMinorNumber", unit.handle),
        )
        return Gpu(
            calls,
            gpm,
            unit.handle,
            device=device,
            driver_version=self.driver_version,
            xids=known.xids if known else {},
            host=self._host,
        )

    # --- one reading --------------------------------------------------------------------------

    def _gather(self, calls: NvmlCalls) -> DeviceRead:
        count = calls.ask(self._system, "nvmlDeviceGetCount")
        if count is not None and count != self._count:
            raise Restart(1)  # devices were bound or unbound: the list is made at init
        if self._events is not None:
            self._events.count()
        for gpu in self._gpus:
            if not gpu.fault:
                self._guard(gpu, gpu.look)
        readings = [self._read_gpu(calls, gpu) for gpu in self._gpus]
        self._host.end_reading()
        if all(_says_nothing(reading) for reading in readings):
            self._fail_if_silent(calls)
        readings += [
            _unread(gone.device, (gone.fault or "missing",), gone.xids)
            for gone in self._missing.values()
        ]
        return DeviceRead(tuple(readings), problems=self._all_problems(calls, readings))

    def _guard(self, gpu: Gpu, step: Callable[[], object]) -> bool:
        """Do a step on a GPU; False where a MIG instance went away meanwhile."""
        try:
            step()
        except GpuFault as fault:
            gpu.fault = fault.word
        except StaleHandle:
            return False
        return True

    def _read_gpu(self, calls: NvmlCalls, gpu: Gpu) -> GpuReading:
        if not gpu.fault and not self._guard(gpu, gpu.read):
            # A MIG instance went away meanwhile: look what there is now.
            gpu.last = None
            calls.enumerated = True
            self._guard(gpu, gpu.look)
            if not gpu.fault:
                self._guard(gpu, gpu.read)
            calls.enumerated = False
        if gpu.fault:
            return _unread(gpu.device, (gpu.fault,), gpu.xids)
        return gpu.last or _unread(gpu.device, (), gpu.xids)

    def _fail_if_silent(self, calls: NvmlCalls) -> None:
        """A driver that answers nothing on any GPU is no node of unmeasured GPUs."""
        codes = [
            silence.code
            for gpu in self._gpus
            for silence in gpu.silent.values()
            if silence.reaction is Reaction.LATER
        ]
        if codes:
            if calls.restarted:
                raise init_error(codes[0])
            raise Restart(codes[0])

    # --- problems -----------------------------------------------------------------------------

    def _all_problems(self, calls: NvmlCalls, readings: list[GpuReading]) -> tuple[Problem, ...]:
        if calls.version != self._problems_version:
            units: list[Unit] = [self._system]
            for gpu in self._gpus:
                units += (gpu, *gpu.instances)
            self._problems = problems_of(units)
            self._problems_version = calls.version
        return (
            *self._problems,
            *self._unreadable,
            *(mig_unreadable(gpu) for gpu in self._gpus if gpu.mig_unreadable),
            *(gpu_fault(reading.device, word) for reading in readings for word in reading.faults),
        )


class _Opening(Unit):
    """A GPU that has not said yet who it is."""

    __slots__ = ()

    is_gpu = True


def _import_pynvml() -> Any:  # noqa: ANN401 - untyped
    try:
        import pynvml  # noqa: PLC0415 - a machine without it has no NVML source, and runs
    except ImportError as error:
        raise SourceError(
            "library_not_found",
            "The Python package nvidia-ml-py is not installed.",
            "Install it, or set nvml.enabled: false.",
        ) from error
    return pynvml


def _unread(device: Device, faults: tuple[str, ...], xids: Mapping[int, int]) -> GpuReading:
    """A reading that knows no more than that the GPU is there."""
    nothing = (UnitReading(),) * len(device.mig or ())
    return GpuReading(device, instances=nothing, faults=faults, xid_events=xids)


def _says_nothing(reading: GpuReading) -> bool:
    return reading == _unread(reading.device, (), reading.xid_events)
