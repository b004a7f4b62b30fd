"""What the NVML source tells of a healthy node, through real pynvml on the fake driver."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import fake_nvml
from fake_nvml import Gpm, Kind, Process, a100, h100, t4
from gpucost.config import Nvml
from gpucost.model import Device, Efficiency, GpuReading, Signal
from gpucost.model import Process as ModelProcess
from gpucost.sources.base import SourceError
from gpucost.sources.host_processes import HOST_PID_NAMESPACE, HostProcesses
from gpucost.sources.nvml import NvmlSource
from gpucost.sources.nvml_processes import Sample, parse_utilization

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gpucost.model import UnitReading

    MakeWorld = Callable[..., fake_nvml.World]

GIB = 1 << 30


def read_one(nvml: NvmlSource) -> GpuReading:
    (gpu,) = nvml.read().gpus
    return gpu


def test_a_device_is_named_as_the_driver_names_it(world: MakeWorld, nvml: NvmlSource) -> None:
    gpu = h100()
    gpu.minor = 5
    world(gpu)
    assert read_one(nvml).device == Device(
        gpu.uuid, "NVIDIA H100 80GB HBM3", index=0, minor=5, memory_bytes=80 * GIB
    )
    assert nvml.driver_version == "580.95.05"


def test_values_are_in_base_units(world: MakeWorld, nvml: NvmlSource) -> None:
    gpu = h100()
    gpu.used_bytes, gpu.power_watts, gpu.energy_joules = 3 * GIB, 412.5, 1e6
    gpu.temperature_celsius, gpu.sm_clock_hertz = 61, 1980e6
    world(gpu)
    read = read_one(nvml)
    assert read.reading.memory_used_bytes == 3 * GIB
    assert read.power_watts == 412.5
    assert read.temperature_celsius == 61.0
    assert read.sm_clock_hertz == 1980e6
    assert read.energy_joules == pytest.approx(1e6, abs=412.5 * 60)
    assert read.faults == ()


def test_energy_grows_by_the_power(world: MakeWorld, nvml: NvmlSource) -> None:
    gpu = a100()
    gpu.power_watts = 1000.0
    world(gpu)
    first, began = read_one(nvml).energy_joules, time.time()
    assert first is not None
    time.sleep(0.3)
    second, seconds = read_one(nvml).energy_joules, time.time() - began
    assert second is not None
    assert 299 <= second - first <= 1000 * seconds + 60


def test_the_same_device_is_the_same_object(world: MakeWorld, nvml: NvmlSource) -> None:
    machine = world(h100(mig=("3g.40gb", "2g.20gb")), t4())
    before = [gpu.device for gpu in nvml.read().gpus]
    machine.gpus[1].busy(0.5)
    machine.write()
    after = [gpu.device for gpu in nvml.read().gpus]
    assert all(a is b for a, b in zip(before, after, strict=True))


# --- activity --------------------------------------------------------------------------------


def test_gpm_gives_activity_and_efficiency_from_the_first_reading(
    world: MakeWorld, nvml: NvmlSource
) -> None:
    gpu = h100()
    gpu.gpm = Gpm(graphics=0.92, sm=0.55, tensor=0.31, dram=0.47)
    gpu.utilization = gpu.sample_level = 1.0
    world(gpu)
    reading = read_one(nvml).reading
    assert reading.activity is not None
    assert reading.activity.signal is Signal.GPM_GRAPHICS
    assert reading.activity.ratio == pytest.approx(0.92)
    assert reading.efficiency is not None
    assert reading.efficiency.sm == pytest.approx(0.55)
    assert reading.efficiency.tensor == pytest.approx(0.31)
    assert reading.efficiency.memory == pytest.approx(0.47)


def test_first_gpm_readings_wait_once_for_all_gpus(world: MakeWorld, nvml: NvmlSource) -> None:
    world(*(h100(mig=("1g.10gb",) * 7) for _ in range(8)))
    began = time.monotonic()
    read = nvml.read()
    assert all(part.activity for gpu in read.gpus for part in gpu.instances)
    assert time.monotonic() - began < 64 * 0.1


def test_one_gpm_metric_that_is_missing_costs_only_itself(
    world: MakeWorld, nvml: NvmlSource
) -> None:
    gpu = h100()
    gpu.gpm = Gpm(graphics=0.5, sm=None, tensor=0.25, dram=0.125)
    world(gpu)
    reading = read_one(nvml).reading
    assert reading.activity is not None
    assert reading.efficiency == Efficiency(sm=None, tensor=0.25, memory=0.125)


@pytest.mark.parametrize(("stated", "read"), [(1.04, 1.0), (30.0, None), (float("nan"), None)])
def test_gpm_rubbish_is_no_activity(
    world: MakeWorld, nvml: NvmlSource, stated: float, read: float | None
) -> None:
    gpu = h100()
    gpu.gpm = Gpm(graphics=stated)
    gpu.sample_level = gpu.utilization = None
    world(gpu)
    activity = read_one(nvml).reading.activity
    assert (activity and activity.ratio) == read


def test_without_gpm_the_drivers_samples_give_mean_and_peak(
    world: MakeWorld, nvml: NvmlSource
) -> None:
    gpu = a100()
    gpu.sample_level, gpu.sample_peak, gpu.utilization = 0.1, 0.7, 0.99
    world(gpu)
    reading = read_one(nvml).reading
    assert reading.activity is not None
    assert reading.activity.signal is Signal.NVML_SAMPLES
    assert reading.activity.peak == 0.7
    assert 0.1 < reading.activity.ratio < 0.4
    assert reading.efficiency is None


def test_no_new_sample_since_the_last_reading_does_not_change_the_signal(
    world: MakeWorld, nvml: NvmlSource
) -> None:
    gpu = a100()
    gpu.busy(0.4)
    world(gpu)
    signals = set()
    for _ in range(5):
        activity = read_one(nvml).reading.activity
        assert activity is not None
        assert activity.ratio == 0.4
        signals.add(activity.signal)
    assert signals == {Signal.NVML_SAMPLES}


def test_a_clock_that_is_set_back_does_not_freeze_the_activity(
    world: MakeWorld, nvml: NvmlSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = a100()
    gpu.busy(0.4)
    machine = world(gpu)
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + 300)
    read_one(nvml)  # asks for samples that are later than the driver's clock, and gets none
    monkeypatch.undo()
    monkeypatch.setenv("FAKE_NVML_SCENARIO", str(machine.path))
    gpu.busy(0.9)
    machine.write()
    activity = read_one(nvml).reading.activity
    assert activity is not None
    assert (activity.ratio, activity.signal) == (0.9, Signal.NVML_SAMPLES)


def test_without_samples_the_utilisation_rate_counts(world: MakeWorld, nvml: NvmlSource) -> None:
    gpu = t4()
    gpu.sample_level, gpu.utilization = None, 0.37
    world(gpu)
    activity = read_one(nvml).reading.activity
    assert activity is not None
    assert (activity.ratio, activity.peak, activity.signal) == (0.37, 0.37, Signal.NVML_RATES)


def test_a_gpu_without_any_signal_is_unknown_and_not_idle(
    world: MakeWorld, nvml: NvmlSource
) -> None:
    gpu = t4()
    gpu.sample_level = gpu.utilization = gpu.power_watts = gpu.energy_joules = None
    gpu.memory_bytes = gpu.temperature_celsius = gpu.sm_clock_hertz = None
    world(gpu)
    read = read_one(nvml)
    assert read.reading.activity is None
    assert read.reading.memory_used_bytes is None
    assert (read.power_watts, read.energy_joules, read.sm_clock_hertz) == (None, None, None)
    assert read.faults == ()


# --- processes -------------------------------------------------------------------------------


def test_a_process_in_several_lists_is_one(world: MakeWorld, nvml: NvmlSource) -> None:
    gpu = h100()
    gpu.processes = [
        Process(7, 2 * GIB),
        Process(7, 3 * GIB, kind=Kind.GRAPHICS),
        Process(8, None, kind=Kind.MPS),
    ]
    world(gpu)
    processes = read_one(nvml).reading.processes
    assert processes is not None
    assert {p.pid: p.memory_bytes for p in processes} == {7: 3 * GIB, 8: None}


def test_garbage_processes_are_dropped(world: MakeWorld, nvml: NvmlSource) -> None:
    gpu = h100()
    gpu.processes = [
        Process(0, GIB),
        Process(4_000_000_000, GIB),
        Process(9, 1 << 50),
        Process(10, GIB),
    ]
    world(gpu)
    processes = read_one(nvml).reading.processes
    assert [p.pid for p in processes or ()] == [10]


@pytest.mark.parametrize("version", ["535.43.02", "535.54.03"])
def test_drivers_that_write_long_process_entries_are_read_right(
    world: MakeWorld, nvml: NvmlSource, version: str
) -> None:
    gpu = h100()
    gpu.wide_processes = True
    gpu.processes = [Process(pid, pid * 1024) for pid in (11, 12, 13)]
    machine = world(gpu)
    machine.driver_version = version
    machine.write()
    processes = read_one(nvml).reading.processes
    assert {p.pid: p.memory_bytes for p in processes or ()} == {
        11: 11 * 1024,
        12: 12 * 1024,
        13: 13 * 1024,
    }


# --- events ----------------------------------------------------------------------------------


def test_xid_events_are_counted_by_code_and_gpu(world: MakeWorld, nvml: NvmlSource) -> None:
    machine = world(h100(), h100())
    machine.xid(0, 13)  # before anybody listened: not ours to count
    nvml.read()
    machine.xid(0, 31)
    machine.xid(1, 79)
    machine.xid(0, 31)
    first, second = nvml.read().gpus
    assert first.xid_events == {31: 2}
    assert second.xid_events == {79: 1}
    machine.xid(0, 31)
    assert nvml.read().gpus[0].xid_events == {31: 3}
    assert first.xid_events == {31: 2}, "a reading that was given out does not change"


# --- health ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("action", "faults"),
    [
        (1, ("reset_required",)),
        (2, ("reboot_required",)),
        (3, ()),
        (4, ()),
        (6, ("reset_required",)),
        (7, ("reboot_required",)),
        (99, ()),
    ],
)
def test_the_drivers_recovery_action_is_a_fault_where_the_gpu_cannot_work(
    world: MakeWorld, nvml: NvmlSource, action: int, faults: tuple[str, ...]
) -> None:
    gpu = h100()
    gpu.recovery_action = action
    world(gpu)
    read = nvml.read()
    assert read.gpus[0].faults == faults
    assert [problem.kind for problem in read.problems] == [f"gpu_{word}" for word in faults]
    assert all(problem.remedy for problem in read.problems)


def test_memory_that_ran_out_of_spare_rows_is_a_fault_and_a_pending_remap_is_none(
    world: MakeWorld, nvml: NvmlSource
) -> None:
    failed, pending = h100(), h100()
    failed.remap_failed, pending.remap_pending = True, True
    world(failed, pending)
    assert [gpu.faults for gpu in nvml.read().gpus] == [("row_remap_failure",), ()]


def test_uncorrected_errors_count_only_where_nothing_newer_judges_them(
    world: MakeWorld, nvml: NvmlSource
) -> None:
    old, new = t4(), h100()
    old.uncorrected_errors = new.uncorrected_errors = 3
    world(old, new)
    assert [gpu.faults for gpu in nvml.read().gpus] == [("ecc_uncorrectable",), ()]


# --- the driver hangs, or is old -------------------------------------------------------------


def test_a_hung_call_blocks_only_its_own_thread(world: MakeWorld, nvml: NvmlSource) -> None:
    machine = world(h100())
    nvml.read()
    machine.fail("nvmlDeviceGetPowerUsage", delay_ms=60_000)
    reads: list[float | None] = []
    thread = threading.Thread(target=lambda: reads.append(read_one(nvml).power_watts))
    thread.start()
    thread.join(0.3)
    assert thread.is_alive(), "this thread ran on while the driver hung"
    machine.heal()
    thread.join(30)
    assert reads == [70.0]


OLD_DRIVER_PROGRAM = """
import fake_nvml, sys
from gpucost.config import Nvml
from gpucost.sources.nvml import NvmlSource
source = NvmlSource(settings=Nvml())
for _ in range(2):
    read = source.read()
(gpu,) = read.gpus
print(gpu.reading.activity.signal, gpu.reading.memory_used_bytes, gpu.temperature_celsius)
print([p.pid for p in gpu.reading.processes], read.problems)
print(*(s.signal for s in source.signals() if not s.works))
source.close()
"""


def test_an_old_driver_gives_fewer_signals_and_no_crash(world: MakeWorld, tmp_path: Path) -> None:
    gpu = h100()
    gpu.busy(0.25)
    gpu.used_bytes, gpu.processes = GIB, [Process(21)]
    machine = world(gpu)
    machine.driver_version = "450.80.02"
    machine.write()
    here = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", OLD_DRIVER_PROGRAM],
        env=os.environ
        | {
            "LD_LIBRARY_PATH": str(fake_nvml.library(fake_nvml.OLD_DRIVER).parent),
            "PYTHONPATH": os.pathsep.join([str(here.parent), str(here.parent.parent / "exporter")]),
        },
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == ""
    used_in_the_old_way = GIB + gpu.reserved_bytes
    assert done.stdout.splitlines() == [
        f"nvml_utilization_samples {used_in_the_old_way} 35.0",
        "[21] ()",
        "efficiency",
    ]


# --- for people ------------------------------------------------------------------------------


def test_signals_say_what_is_absent_and_why(world: MakeWorld, nvml: NvmlSource) -> None:
    gpu = t4()
    gpu.power_watts = None
    machine = world(gpu, a100(mig=("1g.5gb",)))
    machine.fail("nvmlDeviceGetClockInfo", 4, gpu=0)
    nvml.read()
    signals = {(str(signal.unit), signal.signal): signal for signal in nvml.signals()}
    assert signals[gpu.uuid, "activity"].detail == "nvml_utilization_samples"
    power = signals[gpu.uuid, "power"]
    assert not power.works
    assert "nvmlDeviceGetPowerUsage: not supported" in power.detail
    assert "no permission" in signals[gpu.uuid, "sm_clock"].detail
    instance = signals[f"{machine.gpus[1].uuid}/1/0", "activity"]
    assert not instance.works, "an A100 has no activity per MIG instance in NVML"
    assert "DCGM" in instance.detail


def test_close_releases_the_driver_and_a_closed_source_reads_again(
    world: MakeWorld, nvml: NvmlSource
) -> None:
    world(h100())
    nvml.read()
    nvml.close()
    nvml.close()
    assert len(nvml.read().gpus) == 1


def test_no_device_is_a_failed_read_and_not_an_empty_node(
    world: MakeWorld, nvml: NvmlSource
) -> None:
    machine = world()
    with pytest.raises(SourceError) as caught:
        nvml.read()
    assert caught.value.kind == "no_devices"
    assert caught.value.remedy
    machine.gpus.append(h100())
    machine.write()
    assert len(nvml.read().gpus) == 1


# --- whose processes, and which of them worked ------------------------------------------------


def two_containers(world: MakeWorld, gpu: fake_nvml.Gpu, *more: Process) -> fake_nvml.World:
    """The GPU with processes 11 and 12, of two pods; the others are of nobody known."""
    gpu.processes = [Process(11, sm=0.6), Process(12, sm=0.2), *more]
    return world(gpu)


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[NvmlSource]:
    """The source on a machine whose processes 11 and 12 are of two pods."""
    proc = tmp_path / "proc"
    (proc / "self/ns").mkdir(parents=True)
    (proc / "self/ns/pid").symlink_to(HOST_PID_NAMESPACE)
    for pid in (11, 12):
        (proc / str(pid)).mkdir()
        (proc / str(pid) / "cgroup").write_text(f"0::/kubepods/pod{pid:032}/{pid:064}\n")
        (proc / str(pid) / "stat").write_text(f"{pid} (python) S{' 0' * 18} 7 0\n")
    source = NvmlSource(settings=Nvml(), host=HostProcesses(proc))
    yield source
    source.close()


def of_processes(reading: UnitReading) -> dict[int, tuple[float | None, float | None]]:
    return {it.pid: (it.sm_ratio, it.sm_peak) for it in reading.processes or ()}


def test_processes_of_several_containers_are_told_apart(
    world: MakeWorld, shared: NvmlSource
) -> None:
    two_containers(world, t4())
    reading = read_one(shared).reading
    assert of_processes(reading) == {11: (0.6, 0.6), 12: (0.2, 0.2)}
    assert [it.cgroup for it in reading.processes or ()] == [
        f"0::/kubepods/pod{pid:032}/{pid:064}\n" for pid in (11, 12)
    ]


def test_a_process_that_did_nothing_has_no_sample_and_did_nothing(
    world: MakeWorld, shared: NvmlSource
) -> None:
    machine = two_containers(world, t4())
    machine.gpus[0].processes[1].sm = 0.0
    machine.write()
    assert of_processes(read_one(shared).reading) == {11: (0.6, 0.6), 12: (0.0, 0.0)}
    machine.gpus[0].processes[0].sm = 0.0
    machine.write()
    assert of_processes(read_one(shared).reading) == {11: (0.0, 0.0), 12: (0.0, 0.0)}


def test_a_process_with_nothing_but_samples_over_100_is_unmeasured_and_not_idle(
    world: MakeWorld, shared: NvmlSource
) -> None:
    machine = two_containers(world, t4())
    machine.gpus[0].processes[0].sm = 42_000.0
    machine.write()
    assert of_processes(read_one(shared).reading) == {11: (None, None), 12: (0.2, 0.2)}


def test_samples_over_100_are_dropped() -> None:
    samples = [Sample(11, 5, 50), Sample(11, 6, 4_294_967), Sample(11, 7, 30)]
    (process,) = parse_utilization(samples, [ModelProcess(11)])
    assert (process.sm_ratio, process.sm_peak) == (0.4, 0.5)


def test_a_driver_that_cannot_tell_processes_apart_leaves_them_unmeasured(
    world: MakeWorld, shared: NvmlSource
) -> None:
    two_containers(world, t4()).fail("nvmlDeviceGetProcessUtilization", 3)
    for _ in range(2):
        assert of_processes(read_one(shared).reading) == {11: (None, None), 12: (None, None)}


def test_one_containers_processes_are_not_asked_for(world: MakeWorld, shared: NvmlSource) -> None:
    gpu = t4()
    gpu.processes = [Process(11, sm=0.6)]
    world(gpu).fail("nvmlDeviceGetProcessUtilization", 999)
    for _ in range(4):
        read = shared.read()
    assert read.problems == ()


def test_processes_of_a_mig_instance_are_given_to_their_pods_but_not_measured(
    world: MakeWorld, shared: NvmlSource
) -> None:
    gpu = h100(mig=("3g.40gb",))
    gpu.processes = [Process(pid, gi=1, ci=0, sm=0.5) for pid in (11, 12)]
    world(gpu)
    (part,) = read_one(shared).instances
    assert of_processes(part) == {11: (None, None), 12: (None, None)}
    assert all(it.cgroup for it in part.processes or ())


def test_old_samples_and_those_of_processes_that_are_not_there_are_dropped() -> None:
    processes = [ModelProcess(11), ModelProcess(12)]
    samples = [Sample(11, 5, 50), Sample(11, 6, 30), Sample(12, 6, 10), Sample(99, 6, 90)]
    first, second = parse_utilization(samples, processes)
    assert [first.sm_ratio, second.sm_ratio] == pytest.approx([0.4, 0.05])
    assert [first.sm_peak, second.sm_peak] == [0.5, 0.1]
