"""One set of GPUs from NVML and DCGM: NVML says what is there, DCGM fills what it lacks."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from msgspec.structs import replace

from gpucost.merge import merge_devices
from gpucost.model import (
    Activity,
    Device,
    Efficiency,
    GpuReading,
    MigInstance,
    Problem,
    Process,
    Signal,
    UnitReading,
)
from gpucost.sources.base import DeviceRead

NVML = GpuReading(device=Device("GPU-aB", "NVIDIA H100", index=0, minor=3, memory_bytes=80))
DCGM = GpuReading(device=Device("gpu-ab", "unknown", index=0))


def merged(nvml: GpuReading, dcgm: GpuReading) -> GpuReading:
    """The one GPU that both saw."""
    gpus, problems = merge_devices(DeviceRead((nvml,)), DeviceRead((dcgm,)))
    [gpu] = gpus
    assert problems == ()
    return gpu


def busy(signal: Signal, ratio: float = 0.5) -> Activity:
    return Activity(ratio, ratio, signal)


def mig(gi: int, ci: int = 0, memory: int | None = None, uuid: str | None = None) -> MigInstance:
    return MigInstance(gi, ci, "1g.5gb", 1, memory, uuid)


def partitioned(gpu: GpuReading, *instances: tuple[MigInstance, UnitReading]) -> GpuReading:
    return replace(
        gpu,
        device=replace(gpu.device, mig=tuple(instance for instance, _ in instances)),
        instances=tuple(reading for _, reading in instances),
    )


# --- One source alone -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("nvml", "dcgm", "gpus"),
    [
        (None, None, ()),
        (DeviceRead((NVML,)), None, (NVML,)),
        (None, DeviceRead((DCGM,)), (DCGM,)),
        (DeviceRead(()), DeviceRead((DCGM,)), (DCGM,)),
        (DeviceRead((NVML,)), DeviceRead(()), (NVML,)),
    ],
)
def test_what_one_source_alone_saw_is_handed_on_as_it_is(
    nvml: DeviceRead | None, dcgm: DeviceRead | None, gpus: tuple[GpuReading, ...]
) -> None:
    found, _ = merge_devices(nvml, dcgm)
    assert len(found) == len(gpus)
    assert all(one is other for one, other in zip(found, gpus, strict=True))


def test_problems_of_one_source_are_not_repeated() -> None:
    own = (Problem("nvml", "no_permission", "x"),)
    assert merge_devices(DeviceRead((NVML,), None, own), DeviceRead((DCGM,), None, own))[1] == ()


def test_a_gpu_that_only_dcgm_shows_is_kept_and_is_a_problem() -> None:
    lost = replace(DCGM, device=replace(DCGM.device, uuid="GPU-lost"))
    gpus, problems = merge_devices(DeviceRead((NVML,)), DeviceRead((DCGM, lost)))
    assert gpus[1] is lost
    assert [(it.source, it.kind) for it in problems] == [("nvml", "gpu_missing")]
    assert "GPU-lost" in problems[0].message


def test_where_dcgm_adds_nothing_the_reading_is_the_same_value() -> None:
    whole = UnitReading(busy(Signal.GPM_GRAPHICS), Efficiency(0.1, 0.2, 0.3), 7)
    for gpu in (
        NVML,
        replace(NVML, reading=whole, power_watts=1, temperature_celsius=2, sm_clock_hertz=3),
        partitioned(NVML, (mig(1, memory=5), whole)),
    ):
        assert merged(gpu, DCGM) is gpu
        old = replace(DCGM, reading=UnitReading(busy(Signal.DCGM_GPU_UTIL)))
        assert merged(replace(gpu, reading=whole), old).reading is whole


# --- Filling ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fill:
    """A value each side has or lacks, and the one that counts."""

    nvml: float | None
    dcgm: float | None
    expected: float | None


FILLS = [Fill(1, 2, 1), Fill(0, 2, 0), Fill(None, 2, 2), Fill(None, None, None)]


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("name", ["power_watts", "temperature_celsius", "sm_clock_hertz"])
def test_nvmls_value_wins_and_dcgms_fills(name: str, fill: Fill) -> None:
    gpu = merged(replace(NVML, **{name: fill.nvml}), replace(DCGM, **{name: fill.dcgm}))
    assert getattr(gpu, name) == fill.expected


@pytest.mark.parametrize("fill", FILLS)
def test_memory_and_efficiency_are_filled_one_by_one(fill: Fill) -> None:
    nvml = UnitReading(None, Efficiency(sm=fill.nvml, tensor=0.5), 1)
    dcgm = UnitReading(None, Efficiency(sm=fill.dcgm, tensor=0.9, memory=0.7), 2)
    gpu = merged(replace(NVML, reading=nvml), replace(DCGM, reading=dcgm))
    assert gpu.reading.efficiency == Efficiency(fill.expected, 0.5, 0.7)
    assert gpu.reading.memory_used_bytes == 1


def test_energy_is_never_filled_for_an_older_counter_looks_like_a_restart() -> None:
    assert merged(NVML, replace(DCGM, energy_joules=5)).energy_joules is None


def test_identity_is_nvmls_and_its_gaps_are_filled() -> None:
    bare = replace(NVML, device=Device("GPU-aB", "NVIDIA H100", minor=3))
    known = replace(DCGM, device=Device("gpu-ab", "other", index=4, memory_bytes=96))
    assert merged(bare, known).device == Device(
        "GPU-aB", "NVIDIA H100", index=4, minor=3, memory_bytes=96
    )


def test_faults_of_both_count_once_each() -> None:
    gpu = merged(
        replace(NVML, faults=("ecc", "row_remap_failure")),
        replace(DCGM, faults=("row_remap_failure",)),
    )
    assert gpu.faults == ("ecc", "row_remap_failure")
    assert merged(NVML, replace(DCGM, faults=("row_remap_failure",))).faults == (
        "row_remap_failure",
    )


def test_a_gpu_that_dcgm_sees_now_is_seen() -> None:
    assert merged(replace(NVML, seen=False), DCGM).seen
    assert not merged(replace(NVML, seen=False), replace(DCGM, seen=False)).seen


def test_processes_stay() -> None:
    reading = UnitReading(processes=(Process(7),))
    filled = merged(
        replace(NVML, reading=reading), replace(DCGM, reading=UnitReading(memory_used_bytes=1))
    )
    assert filled.reading == UnitReading(memory_used_bytes=1, processes=(Process(7),))


@pytest.mark.parametrize(
    ("nvml", "dcgm", "expected"),
    [
        (None, None, None),
        (None, Signal.DCGM_GPU_UTIL, Signal.DCGM_GPU_UTIL),
        (Signal.NVML_RATES, None, Signal.NVML_RATES),
        (Signal.GPM_GRAPHICS, Signal.DCGM_GR_ENGINE, Signal.DCGM_GR_ENGINE),
        (Signal.NVML_SAMPLES, Signal.DCGM_GR_ENGINE, Signal.DCGM_GR_ENGINE),
        (Signal.NVML_RATES, Signal.DCGM_GR_ENGINE, Signal.DCGM_GR_ENGINE),
        (Signal.GPM_GRAPHICS, Signal.DCGM_GPU_UTIL, Signal.GPM_GRAPHICS),
        (Signal.NVML_SAMPLES, Signal.DCGM_GPU_UTIL, Signal.NVML_SAMPLES),
        (Signal.NVML_RATES, Signal.DCGM_GPU_UTIL, Signal.NVML_RATES),
    ],
)
def test_the_better_signal_wins_whatever_it_says(
    nvml: Signal | None, dcgm: Signal | None, expected: Signal | None
) -> None:
    gpu = merged(
        replace(NVML, reading=UnitReading(busy(nvml, 0.1) if nvml else None)),
        replace(DCGM, reading=UnitReading(busy(dcgm, 0.9) if dcgm else None)),
    )
    assert (gpu.reading.activity and gpu.reading.activity.signal) == expected


# --- MIG --------------------------------------------------------------------------------------


def test_dcgm_gives_an_a100s_mig_instances_the_activity_that_nvml_lacks() -> None:
    nvml = partitioned(
        NVML,
        (mig(9, memory=5, uuid="MIG-9"), UnitReading(memory_used_bytes=1)),
        (mig(7, uuid="MIG-7"), UnitReading()),
    )
    dcgm = partitioned(
        DCGM,
        (mig(7, memory=6), UnitReading(busy(Signal.DCGM_GR_ENGINE, 0.7))),
        (mig(9, memory=8), UnitReading(busy(Signal.DCGM_GR_ENGINE, 0.9), None, 2)),
    )
    gpu = merged(nvml, dcgm)
    assert gpu.device.mig == (mig(9, memory=5, uuid="MIG-9"), mig(7, memory=6, uuid="MIG-7"))
    assert gpu.instances == (
        UnitReading(busy(Signal.DCGM_GR_ENGINE, 0.9), None, 1),
        UnitReading(busy(Signal.DCGM_GR_ENGINE, 0.7)),
    )


def test_a_gpu_instance_with_one_compute_instance_joins_whatever_its_number() -> None:
    nvml = partitioned(NVML, (mig(1, ci=2), UnitReading()))
    dcgm = partitioned(DCGM, (mig(1), UnitReading(busy(Signal.DCGM_GR_ENGINE))))
    assert merged(nvml, dcgm).instances == (UnitReading(busy(Signal.DCGM_GR_ENGINE)),)


def test_compute_instances_that_share_a_gpu_instance_stay_unknown() -> None:
    nvml = partitioned(NVML, (mig(1, ci=0), UnitReading()), (mig(1, ci=1), UnitReading()))
    dcgm = partitioned(DCGM, (mig(1, memory=5), UnitReading(busy(Signal.DCGM_GR_ENGINE))))
    assert merged(nvml, dcgm) is nvml


@pytest.mark.parametrize(
    "nvml", [NVML, partitioned(NVML), partitioned(NVML, (mig(2), UnitReading()))]
)
def test_instances_that_nvml_no_longer_has_are_dcgms_past(nvml: GpuReading) -> None:
    dcgm = partitioned(DCGM, (mig(1), UnitReading(busy(Signal.DCGM_GR_ENGINE))))
    assert merged(nvml, dcgm) is nvml
