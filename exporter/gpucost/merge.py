"""One set of GPUs from what NVML and DCGM saw; pure.

NVML's devices and identities win, for it asks the driver now; DCGM's page is up to half a minute
old. DCGM fills what NVML lacks, and each unit's activity is the better of two signals by the
order of `Signal`. Where nothing is to be filled, NVML's own values are handed on as they are.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from gpucost.model import (
    Activity,
    Device,
    Efficiency,
    GpuReading,
    MigInstance,
    Problem,
    Signal,
    UnitReading,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gpucost.sources.base import DeviceRead

_RANK = {signal: rank for rank, signal in enumerate(Signal)}

_S = TypeVar("_S", bound=Struct)
_T = TypeVar("_T")


def merge_devices(
    nvml: DeviceRead | None, dcgm: DeviceRead | None
) -> tuple[tuple[GpuReading, ...], tuple[Problem, ...]]:
    """The GPUs of both sources, NVML's first, and what is wrong between the two.

    None is a source that is off or could not be read. GPUs are joined by UUID, MIG instances by
    GPU instance. The problems of each source alone are not repeated.
    """
    if nvml is None or dcgm is None:
        only = nvml or dcgm
        return (only.gpus if only else (), ())
    theirs = {gpu.device.uuid.casefold(): gpu for gpu in dcgm.gpus}
    gpus = tuple(_merge_gpu(gpu, theirs.pop(gpu.device.uuid.casefold(), None)) for gpu in nvml.gpus)
    return (*gpus, *theirs.values()), tuple(_not_in_nvml(gpu) for gpu in theirs.values())


def _not_in_nvml(gpu: GpuReading) -> Problem:
    return Problem(
        "nvml",
        "gpu_missing",
        f"DCGM shows GPU {gpu.device.uuid}, and NVML does not.",
        "Is the GPU visible in the exporter's container (NVIDIA_VISIBLE_DEVICES=all)? If it fell"
        " off the bus, the node needs a reboot.",
    )


def _merge_gpu(ours: GpuReading, theirs: GpuReading | None) -> GpuReading:
    """One GPU, NVML's values first.

    Energy is never filled: DCGM's is NVML's own counter, read earlier, and a step back to it
    would look like a restart of the counter.
    """
    if theirs is None:
        return ours
    partners = _partners(ours.device.mig or (), theirs)
    return _changed(
        ours,
        device=_merge_device(ours.device, theirs.device, [it and it[0] for it in partners]),
        reading=_merge_reading(ours.reading, theirs.reading),
        instances=_same(
            ours.instances,
            tuple(
                _merge_reading(reading, partner[1]) if partner else reading
                for reading, partner in zip(ours.instances, partners, strict=True)
            ),
        ),
        power_watts=_first_known(ours.power_watts, theirs.power_watts),
        temperature_celsius=_first_known(ours.temperature_celsius, theirs.temperature_celsius),
        sm_clock_hertz=_first_known(ours.sm_clock_hertz, theirs.sm_clock_hertz),
        faults=_same(ours.faults, tuple(dict.fromkeys((*ours.faults, *theirs.faults)))),
        seen=ours.seen or theirs.seen,
    )


def _partners(
    mig: Sequence[MigInstance], theirs: GpuReading
) -> list[tuple[MigInstance, UnitReading] | None]:
    """DCGM's instance for each of NVML's.

    DCGM reads GPU instances: where several compute instances share one, its values are the sum
    of them all and belong to none.
    """
    by_gi = {
        instance.gi: (instance, reading)
        for instance, reading in zip(theirs.device.mig or (), theirs.instances, strict=True)
    }
    compute_instances = Counter(instance.gi for instance in mig)
    return [by_gi.get(it.gi) if compute_instances[it.gi] == 1 else None for it in mig]


def _merge_device(ours: Device, theirs: Device, instances: Sequence[MigInstance | None]) -> Device:
    mig = ours.mig
    if mig is not None:
        mig = _same(
            mig,
            tuple(
                _changed(a, memory_bytes=_first_known(a.memory_bytes, b.memory_bytes)) if b else a
                for a, b in zip(mig, instances, strict=True)
            ),
        )
    return _changed(
        ours,
        index=_first_known(ours.index, theirs.index),
        memory_bytes=_first_known(ours.memory_bytes, theirs.memory_bytes),
        mig=mig,
    )


def _merge_reading(ours: UnitReading, theirs: UnitReading) -> UnitReading:
    return _changed(
        ours,
        activity=_better(ours.activity, theirs.activity),
        efficiency=_merge_efficiency(ours.efficiency, theirs.efficiency),
        memory_used_bytes=_first_known(ours.memory_used_bytes, theirs.memory_used_bytes),
    )


def _better(ours: Activity | None, theirs: Activity | None) -> Activity | None:
    if ours is None or theirs is None:
        return ours or theirs
    return ours if _RANK[ours.signal] <= _RANK[theirs.signal] else theirs


def _merge_efficiency(ours: Efficiency | None, theirs: Efficiency | None) -> Efficiency | None:
    if ours is None or theirs is None:
        return ours or theirs
    return _changed(
        ours,
        sm=_first_known(ours.sm, theirs.sm),
        tensor=_first_known(ours.tensor, theirs.tensor),
        memory=_first_known(ours.memory, theirs.memory),
    )


def _first_known(ours: _T | None, theirs: _T | None) -> _T | None:
    return theirs if ours is None else ours


def _same(old: _T, new: _T) -> _T:
    """The old value where the new one says the same."""
    return old if old == new else new


def _changed(value: _S, **fields: object) -> _S:
    """The value itself where no field changes."""
    changes = {name: new for name, new in fields.items() if new is not getattr(value, name)}
    return replace(value, **changes) if changes else value
