"""One GPU as NVML shows it: what it is, what it did since the last reading, how it is.

The rule of this file: a value that cannot be had is None, and the others are read all the same.

Activity is the first of GPM's graphics utilisation, the driver's own buffer of utilisation
samples since the last reading (nothing between two readings is missed), and the utilisation
rate. NVML has the latter two for whole GPUs without MIG only, so a MIG instance of a GPU
without GPM (A100) has none here. Efficiency comes from GPM alone: the memory figure of the
utilisation rates is the share of *time* in which memory was touched, not of its bandwidth, so
it is not shown as that.
"""

from __future__ import annotations

import time
from collections import Counter
from itertools import chain
from typing import TYPE_CHECKING, Any

from gpucost.model import Device, GpuReading, UnitReading
from gpucost.sources.nvml_calls import Unit, field
from gpucost.sources.nvml_mig import Partition, whole_slices
from gpucost.sources.nvml_parse import (
    parse_faults,
    parse_processes,
    parse_rates,
    parse_samples,
    process_lists,
)
from gpucost.sources.nvml_processes import GpuProcesses

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from gpucost.model import Activity, Efficiency, MigInstance, Process
    from gpucost.sources.host_processes import HostProcesses
    from gpucost.sources.nvml_calls import NvmlCalls
    from gpucost.sources.nvml_gpm import Gpm, Window
    from gpucost.sources.nvml_mig import Instance

GPU_UTILIZATION_SAMPLES = 1  # nvmlSamplingType_t
TEMPERATURE_SENSOR = 0  # NVML_TEMPERATURE_GPU
SM_CLOCK = 1  # nvmlClockType_t
UNCORRECTED = 1  # nvmlMemoryErrorType_t
VOLATILE = 0  # nvmlEccCounterType_t: since the driver was loaded
RECOVERY_ACTION = 230  # NVML_FI_DEV_GET_GPU_RECOVERY_ACTION
MIG_ENABLED = 1

LOOK_BACK_US = 2_000_000
"""How far the first reading looks into the driver's sample buffer, which may hold minutes: at
least one sample is in, for they come every second to sixth of a second (nvml.h)."""

MAX_LOOK_BACK_US = 600_000_000
SLACK_US = 1_000_000

SAMPLES = "nvmlDeviceGetSamples"
TEMPERATURE = (
    ("nvmlDeviceGetTemperatureV", (TEMPERATURE_SENSOR,)),
    ("nvmlDeviceGetTemperature", (TEMPERATURE_SENSOR,)),
)


class Gpu(Unit):
    """A physical GPU while NVML stays initialised."""

    is_gpu = True

    def __init__(
        self,
        calls: NvmlCalls,
        gpm: Gpm,
        handle: Any,  # noqa: ANN401 - an untyped ctypes pointer
        *,
        device: Device,
        driver_version: str,
        xids: Mapping[int, int],
        host: HostProcesses,
    ) -> None:
        super().__init__(handle, f"GPU {device.index} ({device.uuid})")
        self.device = device
        self.fault = ""
        self.xids = xids
        """XID code to count; replaced, never changed, for readings hold it."""
        self.last: GpuReading | None = None
        self.mig_unreadable = False
        self._calls = calls
        self._gpm = gpm
        self._has_gpm: bool | None = None
        self._window: Window | None = None
        self._measured: tuple[Instance, ...] | None = None
        self._partition: Partition | None = None
        self._last_sample_us = 0
        self._newest_sample: Any = None
        self._process_lists = process_lists(driver_version)
        self._processes = GpuProcesses(calls, self, host)
        self._memory = (
            ("nvmlDeviceGetMemoryInfo_v2", (calls.library.nvmlMemory_v2,)),
            ("nvmlDeviceGetMemoryInfo", ()),
        )

    @property
    def instances(self) -> tuple[Instance, ...]:
        """Its MIG instances."""
        return self._partition.instances if self._partition is not None else ()

    def look(self) -> None:
        """Find out whether and how it is partitioned, and begin to measure what is new."""
        mode = self._calls.ask(self, "nvmlDeviceGetMigMode", self.handle)
        if mode is None and self._calls.failed(self, "nvmlDeviceGetMigMode"):
            self.mig_unreadable = True
            return
        if mode is not None and mode[0] == MIG_ENABLED:
            self._look_at_partition()
        elif self._partition is not None:
            self._forget_partition()
        if self._has_gpm is None:
            self._has_gpm = self._gpm.supported(self)
        if self._has_gpm and self._measured is not self.instances:
            self._open_windows()

    def _look_at_partition(self) -> None:
        if self._partition is None:
            self._partition = Partition(self._calls, self)
            self._calls.forget(self)  # MIG changes what a GPU can tell
        before = self._partition.instances
        now = self._partition.refresh(self.device.memory_bytes)
        self.mig_unreadable = now is None
        if now is None:
            return
        if now is not before:
            self._close_windows(set(before) - set(now))
            self._calls.forget(self)
        if now is not before or self.device.mig is None:
            slices = self.device.mig_slices or whole_slices(self._calls, self, self.device.model)
            self._describe(mig=tuple(instance.mig for instance in now), mig_slices=slices)

    def _forget_partition(self) -> None:
        self._close_windows(self.instances)
        self._partition = None
        self.mig_unreadable = False
        self._calls.forget(self)
        self._describe(mig=None, mig_slices=None)

    def _describe(
        self,
        *,
        mig: tuple[MigInstance, ...] | None,
        mig_slices: int | None,
    ) -> None:
        old = self.device
        self.device = Device(
            old.uuid, old.model, old.index, old.minor, old.memory_bytes, mig, mig_slices
        )

    def _open_windows(self) -> None:
        """Take a first sample of every unit that has none.

        Not of GPU instances with several compute instances: GPM reads the whole, which is none's.
        """
        if self._window is None and (window := self._gpm.open(self)):
            self._window = window
            self._gpm.begin(self, self, None, window)
        count = Counter(instance.mig.gi for instance in self.instances)
        self._close_windows(i for i in self.instances if count[i.mig.gi] > 1)
        for instance in self.instances:
            gi = instance.mig.gi
            if instance.window is None and count[gi] == 1 and (window := self._gpm.open(self)):
                instance.window = window
                self._gpm.begin(instance, self, gi, window)
        self._measured = self.instances

    def _close_windows(self, instances: Iterable[Instance]) -> None:
        for instance in instances:
            if instance.window is not None:
                self._gpm.close(self, instance.window)
                instance.window = None

    def close(self) -> None:
        """Give everything back."""
        self._close_windows(self.instances)
        if self._window is not None:
            self._gpm.close(self, self._window)
            self._window = None

    def read(self) -> GpuReading:
        """What it does now. Raises GpuFault, StaleHandle, Restart and SourceError."""
        ask, handle = self._calls.ask, self.handle
        memory_used = self._read_memory()
        entries = self._read_processes(self)
        power = ask(self, "nvmlDeviceGetPowerUsage", handle)
        energy = ask(self, "nvmlDeviceGetTotalEnergyConsumption", handle)
        clock = ask(self, "nvmlDeviceGetClockInfo", handle, SM_CLOCK)
        activity, efficiency = self._read_activity()
        temperature = self._calls.first(self, TEMPERATURE)
        processes: tuple[Process, ...] | None = None
        instances: tuple[UnitReading, ...] = ()
        if self.instances:
            by_instance = self._processes.of_instances(entries, self.device.memory_bytes)
            instances = tuple(
                [self._read_instance(instance, by_instance) for instance in self.instances]
            )
            if by_instance is not None:
                processes = tuple(chain.from_iterable(own or () for own in by_instance.values()))
        elif entries is not None:
            processes = self._processes.told_apart(
                parse_processes(entries, self.device.memory_bytes)
            )
        self.last = GpuReading(
            self.device,
            UnitReading(activity, efficiency, memory_used, processes),
            instances,
            None if power is None else power / 1e3,
            None if energy is None else energy / 1e3,
            None if temperature is None else float(temperature),
            None if clock is None else clock * 1e6,
            self._read_faults(),
            self.xids,
        )
        return self.last

    def _read_memory(self) -> int | None:
        memory = self._calls.first(self, self._memory)
        if memory is None:
            return None
        total = field(memory, "total")
        if total != self.device.memory_bytes:
            old = self.device
            self.device = Device(
                old.uuid, old.model, old.index, old.minor, total, old.mig, old.mig_slices
            )
        used: int = field(memory, "used")
        return used

    def _read_activity(self) -> tuple[Activity | None, Efficiency | None]:
        activity: Activity | None = None
        efficiency: Efficiency | None = None
        if self._window is not None:
            activity, efficiency = self._gpm.measure(self, self, None, self._window)
        if activity is None and self._partition is None:
            activity = self._read_samples()
            if activity is None:
                rates = self._calls.ask(self, "nvmlDeviceGetUtilizationRates", self.handle)
                activity = None if rates is None else parse_rates(rates.gpu)
        return activity, efficiency

    def _read_samples(self) -> Activity | None:
        """The samples since the last reading; the newest still stands where none came since."""
        now_us = int(time.time() * 1e6)
        since = self._last_sample_us
        if not -SLACK_US < now_us - since < MAX_LOOK_BACK_US:  # the first, or the clock was set
            since = now_us - LOOK_BACK_US
        answer = self._calls.ask(self, SAMPLES, self.handle, GPU_UTILIZATION_SAMPLES, since)
        if answer is not None and answer[1]:
            self._newest_sample = answer[1][-1]
            self._last_sample_us = max(since, field(self._newest_sample, "timeStamp"))
            samples = answer[1]
        elif SAMPLES not in self.silent and abs(now_us - self._last_sample_us) < LOOK_BACK_US:
            samples = [self._newest_sample]
        else:
            return None
        return parse_samples([field(sample, "sampleValue").uiVal for sample in samples])

    def _read_processes(self, unit: Unit) -> list[Any] | None:
        """Entries of every list that the driver gives; None where it gives none."""
        found: list[Any] | None = None
        for alternatives in self._process_lists:
            entries = self._calls.first(unit, alternatives)
            if entries is not None:
                found = entries if found is None else found + entries
        return found

    def _read_instance(
        self,
        instance: Instance,
        by_instance: Mapping[tuple[int, int], tuple[Process, ...] | None] | None,
    ) -> UnitReading:
        """What an instance does.

        The GPU's own process lists name the instance of each process, but only to those that
        may see all; else the instance is asked for its own.
        """
        activity: Activity | None = None
        efficiency: Efficiency | None = None
        if instance.window is not None:
            gi = instance.mig.gi
            activity, efficiency = self._gpm.measure(instance, self, gi, instance.window)
        name, args = self._memory[0]
        memory = self._calls.ask(instance, name, instance.handle, *args)
        if memory is None:
            memory = self._calls.first(instance, self._memory[1:])
        processes: tuple[Process, ...] | None
        if by_instance is None:
            own = self._read_processes(instance)
            processes = self._processes.whose(
                None if own is None else parse_processes(own, instance.mig.memory_bytes)
            )
        elif instance.ids in by_instance:
            processes = by_instance[instance.ids]
        else:
            processes = self._processes.whose(())
        return UnitReading(
            activity, efficiency, None if memory is None else field(memory, "used"), processes
        )

    def _read_faults(self) -> tuple[str, ...]:
        ask, handle = self._calls.ask, self.handle
        fields = ask(self, "nvmlDeviceGetFieldValues", handle, [RECOVERY_ACTION])
        told = fields[0] if fields else None
        good = told is not None and field(told, "nvmlReturn") == 0
        action = field(field(told, "value"), "uiVal") if good else None
        rows = ask(self, "nvmlDeviceGetRemappedRows", handle)
        errors = None
        # Row remapping is not told under MIG, and every GPU that has MIG has it.
        if action is None and rows is None and self._partition is None:
            errors = ask(self, "nvmlDeviceGetTotalEccErrors", handle, UNCORRECTED, VOLATILE)
        return parse_faults(
            recovery_action=action,
            remap_failed=None if rows is None else bool(rows[3]),
            uncorrected_errors=errors,
        )
