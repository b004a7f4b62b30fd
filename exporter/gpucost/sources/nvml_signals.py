"""What `gpucost check` says of a GPU: which signals it gives, and why the others are absent."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from gpucost.model import GpuReading, UnitId, UnitReading, unit_of
from gpucost.sources.nvml_errors import Reaction

if TYPE_CHECKING:
    from collections.abc import Callable

    from gpucost.sources.nvml_calls import Unit
    from gpucost.sources.nvml_gpu import Gpu


class GpuSignal(Struct, frozen=True):
    """One signal of one unit. `detail` names its source, or why it is absent."""

    unit: UnitId
    model: str
    signal: str
    works: bool
    detail: str


_REASONS = {
    Reaction.ABSENT: "not supported by this device or driver",
    Reaction.DENIED: "no permission",
    Reaction.LATER: "fails for now",
}

_UNIT_SIGNALS: tuple[tuple[str, str, Callable[[UnitReading], object]], ...] = (
    ("activity", "nvmlGpm", lambda reading: reading.activity),
    ("efficiency", "nvmlGpm", lambda reading: reading.efficiency),
    ("memory", "nvmlDeviceGetMemoryInfo", lambda reading: reading.memory_used_bytes),
    ("processes", "RunningProcesses", lambda reading: reading.processes),
)
_GPU_SIGNALS: tuple[tuple[str, str, Callable[[GpuReading], object]], ...] = (
    ("power", "nvmlDeviceGetPowerUsage", lambda reading: reading.power_watts),
    ("energy", "nvmlDeviceGetTotalEnergy", lambda reading: reading.energy_joules),
    ("temperature", "nvmlDeviceGetTemperature", lambda reading: reading.temperature_celsius),
    ("sm_clock", "nvmlDeviceGetClockInfo", lambda reading: reading.sm_clock_hertz),
)
"""Name, the part that its NVML calls' names have in common, and where the value is."""

_WITHOUT = {
    "activity": "NVML has none for MIG instances before Hopper; DCGM has (dcgm-exporter)",
    "efficiency": "NVML has none before Hopper (GPM); DCGM has (dcgm-exporter)",
    "processes": "the driver shows those of others only with the host's PIDs (hostPID: true)",
}


def signals_of(gpu: Gpu) -> tuple[GpuSignal, ...]:
    """The signals that the GPU's last reading had; all absent where it had none."""
    reading = (None if gpu.fault else gpu.last) or GpuReading(gpu.device)
    model = gpu.device.model
    uuid = gpu.device.uuid
    found = [
        _signal(unit_of(uuid), model, name, value(reading.reading), gpu, calls)
        for name, calls, value in _UNIT_SIGNALS
        # Of a partitioned GPU the instances are held and measured.
        if not gpu.device.mig or name == "memory"
    ]
    found += [
        _signal(unit_of(uuid), model, name, value(reading), gpu, calls)
        for name, calls, value in _GPU_SIGNALS
    ]
    for instance, part in zip(gpu.instances, reading.instances, strict=False):
        unit = unit_of(uuid, instance.mig)
        found += [
            _signal(unit, f"{model} MIG {instance.mig.profile}", name, value(part), instance, calls)
            for name, calls, value in _UNIT_SIGNALS
        ]
    return tuple(found)


def _signal(
    unit_id: UnitId, model: str, name: str, value: object, unit: Unit, calls: str
) -> GpuSignal:
    if value is not None:
        source = getattr(value, "signal", None)
        return GpuSignal(unit_id, model, name, works=True, detail=str(source or "NVML"))
    reasons = [
        f"{call}: {_REASONS.get(silence.reaction, 'fails')} (NVML error {silence.code})"
        for call, silence in unit.silent.items()
        if calls in call
    ]
    detail = "; ".join(reasons) or _WITHOUT.get(name, "absent")
    return GpuSignal(unit_id, model, name, works=False, detail=detail)
