"""MIG through real pynvml on the fake driver: partitions, and how they change under our eyes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from fake_nvml import Gpm, Process, a100, h100
from gpucost.model import Signal
from gpucost.sources.nvml_mig import build_profile, parse_compute_slices, parse_profile

if TYPE_CHECKING:
    from collections.abc import Callable

    from fake_nvml import World
    from gpucost.model import GpuReading
    from gpucost.sources.nvml import NvmlSource

    MakeWorld = Callable[..., World]

MIB = 1 << 20
GIB = 1 << 30


def read_one(nvml: NvmlSource) -> GpuReading:
    (gpu,) = nvml.read().gpus
    assert len(gpu.instances) == len(gpu.device.mig or ())
    return gpu


def profiles(gpu: GpuReading) -> list[str] | None:
    return None if gpu.device.mig is None else [part.profile for part in gpu.device.mig]


def test_instances_have_ids_profile_slices_memory_and_uuid(
    world: MakeWorld, nvml: NvmlSource
) -> None:
    gpu = h100(mig=("3g.40gb", "1c.2g.20gb", "1c.2g.20gb"))
    assert gpu.mig is not None
    gpu.mig[0].gi, gpu.mig[0].used_bytes = 9, 5 * GIB
    world(gpu)
    read = read_one(nvml)
    assert read.device.mig is not None
    assert [(m.gi, m.ci, m.profile, m.compute_slices) for m in read.device.mig] == [
        (9, 0, "3g.40gb", 3),
        (2, 0, "1c.2g.20gb", 1),
        (2, 1, "1c.2g.20gb", 1),
    ]
    assert [m.uuid for m in read.device.mig] == [m.uuid for m in gpu.mig]
    assert [m.memory_bytes for m in read.device.mig] == [m.memory_bytes for m in gpu.mig]
    assert read.device.mig_slices == 7
    assert read.instances[0].memory_used_bytes == 5 * GIB


def test_an_instance_has_the_place_where_it_begins_if_the_driver_tells(
    world: MakeWorld, nvml: NvmlSource
) -> None:
    gpu = h100(mig=("3g.40gb", "1g.10gb"))
    assert gpu.mig is not None
    gpu.mig[0].placement = 4
    machine = world(gpu)
    assert [m.placement for m in read_one(nvml).device.mig or ()] == [4, None]
    gpu.partition(("1g.10gb",))
    gpu.mig[0].placement = 2
    machine.fail("nvmlDeviceGetGpuInstanceById", 4)
    assert [m.placement for m in read_one(nvml).device.mig or ()] == [None]
    assert nvml.read().problems == ()


def test_mig_off_is_none_and_mig_on_without_instances_is_empty(
    world: MakeWorld, nvml: NvmlSource
) -> None:
    off, empty = h100(), h100(mig=())
    world(off, empty)
    first, second = nvml.read().gpus
    assert (first.device.mig, first.device.mig_slices) == (None, None)
    assert (second.device.mig, second.device.mig_slices) == ((), 7)


def test_the_whole_gpus_slices_are_its_largest_profile(world: MakeWorld, nvml: NvmlSource) -> None:
    gpu = a100(mig=("1g.6gb", "1g.6gb"))
    gpu.model, gpu.mig_slices = "NVIDIA A30", 4
    world(gpu)
    assert read_one(nvml).device.mig_slices == 4


@pytest.mark.parametrize(("model", "slices"), [("NVIDIA A30", 4), ("NVIDIA A100-PCIE-40GB", 7)])
def test_a_driver_that_lists_no_profiles_has_its_slices_from_the_model(
    world: MakeWorld, nvml: NvmlSource, model: str, slices: int
) -> None:
    gpu = a100(mig=("1g.6gb",))
    gpu.model = model
    machine = world(gpu)
    for call in ("nvmlDeviceGetGpuInstanceProfileInfo", "nvmlDeviceGetGpuInstanceProfileInfoV"):
        machine.fail(call, 3)
    assert read_one(nvml).device.mig_slices == slices


def test_gpm_measures_each_instance(world: MakeWorld, nvml: NvmlSource) -> None:
    gpu = h100(mig=("4g.40gb", "3g.40gb"))
    assert gpu.mig is not None
    gpu.mig[0].gpm, gpu.mig[1].gpm = Gpm(graphics=0.8, sm=0.4), Gpm(graphics=0.0)
    world(gpu)
    read = read_one(nvml)
    activities = [part.activity for part in read.instances]
    assert [a and (a.ratio, a.signal) for a in activities] == [
        (0.8, Signal.GPM_GRAPHICS),
        (0.0, Signal.GPM_GRAPHICS),
    ]
    assert read.instances[0].efficiency is not None
    assert read.instances[0].efficiency.sm == 0.4


def test_compute_instances_that_share_a_gpu_instance_have_no_activity_of_their_own(
    world: MakeWorld, nvml: NvmlSource
) -> None:
    gpu = h100(mig=("1c.2g.20gb", "1c.2g.20gb", "1g.10gb"))
    world(gpu)
    activities = [part.activity for part in read_one(nvml).instances]
    assert activities[:2] == [None, None]
    assert activities[2] is not None


def test_an_instance_whose_gpu_instance_is_shared_later_loses_its_activity(
    world: MakeWorld, nvml: NvmlSource
) -> None:
    gpu = h100(mig=("1c.2g.20gb",))
    machine = world(gpu)
    assert read_one(nvml).instances[0].activity is not None
    gpu.partition(("1c.2g.20gb", "1c.2g.20gb"))
    machine.write()
    assert [part.activity for part in read_one(nvml).instances] == [None, None]


def test_a_partitioned_gpu_without_gpm_has_no_activity_at_all(
    world: MakeWorld, nvml: NvmlSource
) -> None:
    gpu = a100(mig=("3g.20gb",))
    gpu.utilization = gpu.sample_level = 0.9
    world(gpu)
    read = read_one(nvml)
    assert read.reading.activity is None
    assert read.instances[0].activity is None


def test_processes_belong_to_their_instance(world: MakeWorld, nvml: NvmlSource) -> None:
    gpu = h100(mig=("4g.40gb", "3g.40gb"))
    gpu.processes = [Process(31, GIB, gi=1, ci=0), Process(32, GIB, gi=2, ci=0)]
    world(gpu)
    read = read_one(nvml)
    assert [[p.pid for p in part.processes or ()] for part in read.instances] == [[31], [32]]
    assert {p.pid for p in read.reading.processes or ()} == {31, 32}


def test_where_the_gpus_own_list_is_denied_each_instance_is_asked(
    world: MakeWorld, nvml: NvmlSource
) -> None:
    gpu = h100(mig=("4g.40gb", "3g.40gb"))
    gpu.processes = [Process(31, GIB, gi=1, ci=0), Process(32, GIB, gi=2, ci=0)]
    machine = world(gpu)
    for kind in ("Compute", "Graphics", "MPSCompute"):
        for version in (2, 3):
            machine.fail(f"nvmlDeviceGet{kind}RunningProcesses_v{version}", 4, times=1)
    read = read_one(nvml)
    assert read.reading.processes is None
    assert [[p.pid for p in part.processes or ()] for part in read.instances] == [[31], [32]]


# --- while running ---------------------------------------------------------------------------


def test_repartitioning_is_followed(world: MakeWorld, nvml: NvmlSource) -> None:
    gpu = h100(mig=("7g.80gb",))
    machine = world(gpu)
    assert profiles(read_one(nvml)) == ["7g.80gb"]
    gpu.partition(("3g.40gb", "2g.20gb", "1g.10gb"))
    machine.write()
    read = read_one(nvml)
    assert profiles(read) == ["3g.40gb", "2g.20gb", "1g.10gb"]
    assert all(part.activity for part in read.instances), "new instances are measured at once"


def test_an_instance_with_the_old_ids_and_a_new_profile_is_a_new_one(
    world: MakeWorld, nvml: NvmlSource
) -> None:
    gpu = h100(mig=("3g.40gb", "3g.40gb"))
    machine = world(gpu)
    stayed = read_one(nvml).device.mig
    assert gpu.mig is not None
    gpu.mig[1].profile, gpu.mig[1].gi_slices, gpu.mig[1].ci_slices = "2g.20gb", 2, 2
    gpu.mig[1].uuid += "-again"
    machine.write()
    mig = read_one(nvml).device.mig
    assert stayed is not None
    assert mig is not None
    assert mig[0] is stayed[0]
    assert (mig[1].profile, mig[1].compute_slices) == ("2g.20gb", 2)


def test_mig_switched_on_and_off_again_is_followed(world: MakeWorld, nvml: NvmlSource) -> None:
    gpu = a100()
    gpu.busy(0.5)
    machine = world(gpu)
    read = read_one(nvml)
    assert read.reading.activity is not None
    gpu.partition(("3g.20gb",))
    machine.write()
    read = read_one(nvml)
    assert profiles(read) == ["3g.20gb"]
    assert read.reading.activity is None
    gpu.mig = None
    machine.write()
    read = read_one(nvml)
    assert profiles(read) is None
    assert read.reading.activity is not None, "what MIG forbade is asked again"


def test_an_instance_that_goes_away_while_it_is_read_does_not_fail_the_gpu(
    world: MakeWorld, nvml: NvmlSource
) -> None:
    machine = world(h100(mig=("3g.40gb", "2g.20gb")))
    nvml.read()
    machine.fail("nvmlDeviceGetMemoryInfo_v2", 2, gi=1, times=1)  # the handle was stale, once
    read = read_one(nvml)
    assert all(part.memory_used_bytes is not None for part in read.instances)
    assert read.power_watts is not None


def test_a_call_that_finds_every_handle_invalid_costs_only_its_value(
    world: MakeWorld, nvml: NvmlSource
) -> None:
    machine = world(h100(mig=("3g.40gb", "2g.20gb")))
    for call in ("nvmlDeviceGetMemoryInfo_v2", "nvmlDeviceGetMemoryInfo"):
        machine.fail(call, 2, gi=1)
    for _ in range(3):
        read = read_one(nvml)
        assert read.instances[0].memory_used_bytes is None
        assert read.instances[1].memory_used_bytes is not None
        assert read.instances[0].activity is not None


def test_instances_that_cannot_be_listed_stay_as_last_known_and_are_a_problem(
    world: MakeWorld, nvml: NvmlSource
) -> None:
    machine = world(h100(mig=("3g.40gb", "2g.20gb")))
    nvml.read()
    machine.fail("nvmlDeviceGetMigDeviceHandleByIndex", 999)
    read = nvml.read()
    assert profiles(read.gpus[0]) == ["3g.40gb", "2g.20gb"]
    assert "mig_unreadable" in {problem.kind for problem in read.problems}
    machine.heal()
    assert nvml.read().problems == ()


def test_instances_that_could_never_be_listed_are_not_taken_for_none(
    world: MakeWorld, nvml: NvmlSource
) -> None:
    machine = world(h100(mig=("3g.40gb",)))
    machine.fail("nvmlDeviceGetMigDeviceHandleByIndex", 4)
    read = nvml.read()
    assert read.gpus[0].device.mig is None
    assert {problem.kind for problem in read.problems} == {"mig_unreadable", "no_permission"}


# --- pure ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "profile"),
    [
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", "1g.10gb"),
        ("NVIDIA A100-SXM4-40GB MIG 1c.3g.20gb", "1c.3g.20gb"),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb+me", "1g.5gb+me"),
        ("NVIDIA H100 80GB HBM3", None),
        (None, None),
    ],
)
def test_parse_profile(name: str | None, profile: str | None) -> None:
    assert parse_profile(name) == profile


@pytest.mark.parametrize(
    ("profile", "slices"),
    [("3g.40gb", 3), ("1c.3g.20gb", 1), ("1g.5gb+me", 1), ("", None), ("odd", None)],
)
def test_parse_compute_slices(profile: str, slices: int | None) -> None:
    assert parse_compute_slices(profile) == slices


@pytest.mark.parametrize(
    ("gi_slices", "ci_slices", "memory_mib", "gpu_mib", "profile"),
    [
        # An H100 and an A100, as nvidia-smi shows them.
        (3, 3, 40448, 81559, "3g.40gb"),
        (2, 2, 20096, 81559, "2g.20gb"),
        (1, 1, 9984, 81559, "1g.10gb"),
        (3, 1, 40448, 81559, "1c.3g.40gb"),
        (1, 1, 4864, 40536, "1g.5gb"),
        (3, 3, 19968, 40536, "3g.20gb"),
        (1, 1, 9984, None, "1g.10gb"),
    ],
)
def test_a_profile_is_named_as_nvidia_names_it(
    gi_slices: int, ci_slices: int, memory_mib: int, gpu_mib: int | None, profile: str
) -> None:
    gpu_bytes = None if gpu_mib is None else gpu_mib * MIB
    assert build_profile(gi_slices, ci_slices, memory_mib, gpu_bytes) == profile


def test_a_profile_that_the_driver_does_not_name_is_built_from_its_parts(
    world: MakeWorld, nvml: NvmlSource
) -> None:
    machine = world(h100(mig=("3g.40gb",)))
    machine.fail("nvmlDeviceGetName", 3, gi=1)
    assert profiles(read_one(nvml)) == ["3g.40gb"]
