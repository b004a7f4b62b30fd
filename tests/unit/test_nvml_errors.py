"""Every NVML error has its reaction; through real pynvml on the fake driver."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from fake_nvml import a100, h100, t4
from gpucost.config import Nvml
from gpucost.sources.base import SourceError
from gpucost.sources.nvml import NvmlSource
from gpucost.sources.nvml_errors import REACTIONS, Reaction

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fake_nvml import World

    MakeWorld = Callable[..., World]

POWER = "nvmlDeviceGetPowerUsage"
EVERY_DEVICE_CALL = (
    "nvmlDeviceGetClockInfo",
    "nvmlDeviceGetMemoryInfo",
    "nvmlDeviceGetMemoryInfo_v2",
    "nvmlDeviceGetMigMode",
    "nvmlDeviceGetPowerUsage",
    "nvmlDeviceGetSamples",
    "nvmlDeviceGetTemperature",
    "nvmlDeviceGetTemperatureV",
    "nvmlDeviceGetTotalEnergyConsumption",
    "nvmlDeviceGetUtilizationRates",
    "nvmlGpmSampleGet",
    *(
        f"nvmlDeviceGet{kind}RunningProcesses_v{version}"
        for kind in ("Compute", "Graphics", "MPSCompute")
        for version in (2, 3)
    ),
)


class Clock:
    """A clock that only the test moves."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return 1000.0 + self.ahead


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def timed(clock: Clock) -> Iterator[NvmlSource]:
    source = NvmlSource(settings=Nvml(), clock=clock)
    yield source
    source.close()


def powers(source: NvmlSource) -> list[float | None]:
    return [gpu.power_watts for gpu in source.read().gpus]


def faults(source: NvmlSource) -> list[tuple[str, ...]]:
    return [gpu.faults for gpu in source.read().gpus]


def kinds(source: NvmlSource) -> set[str]:
    return {problem.kind for problem in source.read().problems}


# --- an error that costs one value -----------------------------------------------------------

ONE_VALUE = {
    code: reaction
    for code, reaction in (REACTIONS | {14: Reaction.LATER, 12345: Reaction.LATER}).items()
    if reaction
    in {Reaction.EMPTY, Reaction.ABSENT, Reaction.DENIED, Reaction.LATER, Reaction.STALE}
    and code != 0
}


@pytest.mark.parametrize("code", ONE_VALUE)
def test_an_error_of_one_call_costs_its_value_and_nothing_else(
    world: MakeWorld, nvml: NvmlSource, code: int
) -> None:
    machine = world(h100(), h100())
    machine.fail(POWER, code, gpu=1)
    for _ in range(2):
        first, second = nvml.read().gpus
        assert (first.power_watts, second.power_watts) == (70.0, None)
        assert second.faults == ()
        assert second.temperature_celsius == 35.0
        assert second.reading.activity is not None


@pytest.mark.parametrize("code", [3, 13, 25, 26])
def test_what_a_device_cannot_do_is_not_asked_again(
    world: MakeWorld, timed: NvmlSource, clock: Clock, code: int
) -> None:
    machine = world(h100())
    machine.fail(POWER, code, times=1)
    assert powers(timed) == [None]
    clock.ahead = 86_400
    assert powers(timed) == [None]
    assert kinds(timed) == set()


@pytest.mark.parametrize("code", [3, 13])
def test_what_a_device_cannot_do_is_asked_again_after_a_new_start(
    world: MakeWorld, nvml: NvmlSource, code: int
) -> None:
    machine = world(h100())
    machine.fail(POWER, code, times=1)
    assert powers(nvml) == [None]
    machine.fail("nvmlDeviceGetCount_v2", 1, times=1)
    assert powers(nvml) == [70.0]


@pytest.mark.parametrize("code", [6, 21])
def test_normal_emptiness_is_asked_every_cycle(
    world: MakeWorld, nvml: NvmlSource, code: int
) -> None:
    machine = world(h100())
    machine.fail(POWER, code, times=1)
    assert powers(nvml) == [None]
    assert powers(nvml) == [70.0]


@pytest.mark.parametrize("code", [4, 17])
def test_a_denied_call_is_a_problem_and_asked_again_slowly(
    world: MakeWorld, timed: NvmlSource, clock: Clock, code: int
) -> None:
    machine = world(h100())
    machine.fail(POWER, code, times=1)
    assert powers(timed) == [None]
    assert kinds(timed) == {"no_permission"}
    clock.ahead = 60
    assert powers(timed) == [None]
    clock.ahead = 301
    assert powers(timed) == [70.0]
    assert kinds(timed) == set()


@pytest.mark.parametrize("code", [10, 11, 19, 20, 23, 27, 29, 999, 12345])
def test_a_passing_error_is_asked_again_next_cycle_then_more_slowly_and_told_if_it_stays(
    world: MakeWorld, timed: NvmlSource, clock: Clock, code: int
) -> None:
    machine = world(h100())
    machine.fail(POWER, code, times=3)
    assert powers(timed) == [None]  # the first failure: asked again next cycle
    assert kinds(timed) == set()  # the second: after 5 s
    assert powers(timed) == [None]  # not asked
    clock.ahead = 6
    assert kinds(timed) == {"call_fails"}  # the third: after 15 s
    clock.ahead = 12
    assert powers(timed) == [None]  # not asked
    clock.ahead = 40
    assert powers(timed) == [70.0]
    assert kinds(timed) == set()


def test_a_list_that_grew_while_it_was_read_is_read_again_at_once(
    world: MakeWorld, nvml: NvmlSource
) -> None:
    machine = world(h100())
    machine.fail(POWER, 7, times=2)
    assert powers(nvml) == [70.0]


def test_a_call_that_always_says_insufficient_size_ends(world: MakeWorld, nvml: NvmlSource) -> None:
    machine = world(h100())
    machine.fail(POWER, 7)
    assert powers(nvml) == [None]


def test_a_problem_names_the_devices_but_not_all_of_many(
    world: MakeWorld, nvml: NvmlSource
) -> None:
    machine = world(*(h100() for _ in range(6)))
    machine.fail(POWER, 4)
    (problem,) = nvml.read().problems
    assert POWER in problem.message
    assert machine.gpus[0].uuid in problem.message
    assert "and 2 more" in problem.message


def test_a_name_that_is_no_text_leaves_the_device(world: MakeWorld, nvml: NvmlSource) -> None:
    gpu = t4()
    gpu.model = "Tesla \udcff"
    world(gpu)
    (read,) = nvml.read().gpus
    assert read.device.model == "unknown"
    assert read.power_watts == 70.0


def test_a_library_mismatch_which_is_no_nvml_error_costs_one_value(
    world: MakeWorld, nvml: NvmlSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pynvml  # noqa: PLC0415 - only this test needs its exception

    def mismatch(_handle: object) -> None:
        raise pynvml.NVMLLibraryMismatchError

    world(h100())
    monkeypatch.setattr(pynvml, POWER, mismatch)
    assert powers(nvml) == [None]


# --- a GPU is lost ---------------------------------------------------------------------------


@pytest.mark.parametrize(("code", "fault"), [(15, "lost"), (16, "reset_required")])
def test_a_lost_gpu_stays_in_view_and_does_not_take_the_others_with_it(
    world: MakeWorld, nvml: NvmlSource, code: int, fault: str
) -> None:
    machine = world(h100(), h100(mig=("3g.40gb",)), a100())
    before = nvml.read().gpus
    machine.xid(1, 79)
    machine.fail("*", code, gpu=1)
    read = nvml.read()
    lost = read.gpus[1]
    assert lost.device is before[1].device
    assert lost.faults == (fault,)
    assert lost.xid_events == {79: 1}
    assert (lost.power_watts, lost.reading.activity) == (None, None)
    assert len(lost.instances) == 1
    assert [gpu.power_watts for gpu in (read.gpus[0], read.gpus[2])] == [70.0, 70.0]
    assert [problem.kind for problem in read.problems] == [f"gpu_{fault}"]


def test_a_lost_gpu_is_looked_for_again_ever_more_rarely_and_comes_back(
    world: MakeWorld, timed: NvmlSource, clock: Clock
) -> None:
    machine = world(h100(), h100())
    timed.read()
    machine.fail("*", 15, gpu=1)
    assert faults(timed) == [(), ("lost",)]
    assert faults(timed) == [(), ("lost",)]
    clock.ahead = 31  # looked for, and still lost
    assert faults(timed) == [(), ("lost",)]
    machine.heal()
    clock.ahead = 62  # the next look is 60 s after the last
    assert faults(timed) == [(), ("lost",)]
    clock.ahead = 95
    assert faults(timed) == [(), ()]
    assert powers(timed) == [70.0, 70.0]


def test_xid_counts_survive_a_new_start_of_the_library(world: MakeWorld, nvml: NvmlSource) -> None:
    machine = world(h100())
    nvml.read()
    machine.xid(0, 31)
    nvml.read()
    machine.fail("nvmlDeviceGetCount_v2", 1, times=1)
    (read,) = nvml.read().gpus
    assert read.xid_events == {31: 1}


def test_a_gpu_that_the_driver_no_longer_lists_is_missing_and_not_forgotten(
    world: MakeWorld, nvml: NvmlSource
) -> None:
    machine = world(h100(), h100())
    gone = nvml.read().gpus[1].device
    removed = machine.gpus.pop()
    machine.write()
    read = nvml.read()
    assert [gpu.faults for gpu in read.gpus] == [(), ("missing",)]
    assert read.gpus[1].device == gone
    machine.gpus.append(removed)
    machine.write()
    assert faults(nvml) == [(), ()]


def test_the_only_gpu_when_it_fell_off_the_bus_stays_in_view(
    world: MakeWorld, timed: NvmlSource, clock: Clock
) -> None:
    machine = world(h100())
    timed.read()
    machine.fail("*", 15, gpu=0)
    assert faults(timed) == [("lost",)]
    machine.gpus.clear()
    machine.write()
    clock.ahead = 31
    assert faults(timed) == [("lost",)]


def test_a_gpu_that_is_lost_from_the_start_is_a_problem_and_the_others_are_read(
    world: MakeWorld, nvml: NvmlSource
) -> None:
    machine = world(h100(), h100())
    machine.fail("nvmlDeviceGetHandleByIndex_v2", 15, gpu=1)
    read = nvml.read()
    assert [gpu.faults for gpu in read.gpus] == [()]
    assert [problem.kind for problem in read.problems] == ["gpu_unreadable"]


def test_a_gpu_that_stays_not_found_is_lost_alone(world: MakeWorld, nvml: NvmlSource) -> None:
    machine = world(h100(), h100())
    nvml.read()
    machine.fail(POWER, 28, gpu=1)
    assert faults(nvml) == [(), ("lost",)]


# --- the library or the driver as a whole ----------------------------------------------------


@pytest.mark.parametrize("code", [1, 28])
def test_a_library_that_lost_its_state_is_started_anew_within_the_read(
    world: MakeWorld, nvml: NvmlSource, code: int
) -> None:
    machine = world(h100())
    nvml.read()
    machine.fail(POWER, code, times=1)
    assert powers(nvml) == [70.0]


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (4, "permission"),
        (9, "driver_not_loaded"),
        (12, "library_not_found"),
        (18, "driver_mismatch"),
        (999, "access_lost"),
        (20, "unreachable"),
    ],
)
def test_a_start_that_fails_says_what_to_do_and_is_tried_again(
    world: MakeWorld, nvml: NvmlSource, code: int, kind: str
) -> None:
    machine = world(h100())
    machine.init_code = code
    machine.write()
    for _ in range(2):
        with pytest.raises(SourceError) as caught:
            nvml.read()
        assert caught.value.kind == kind
        assert caught.value.remedy
    machine.init_code = 0
    machine.write()
    assert powers(nvml) == [70.0]


@pytest.mark.parametrize(("code", "kind"), [(9, "driver_not_loaded"), (18, "driver_mismatch")])
def test_a_driver_that_goes_away_fails_the_read_and_may_come_back(
    world: MakeWorld, nvml: NvmlSource, code: int, kind: str
) -> None:
    machine = world(h100())
    nvml.read()
    machine.fail(POWER, code)
    with pytest.raises(SourceError) as caught:
        nvml.read()
    assert caught.value.kind == kind
    machine.heal()
    assert powers(nvml) == [70.0]


def test_a_driver_that_answers_nothing_fails_the_read(world: MakeWorld, nvml: NvmlSource) -> None:
    machine = world(h100(), t4())
    nvml.read()
    machine.fail("*", 999)
    with pytest.raises(SourceError) as caught:
        nvml.read()
    assert caught.value.kind in {"access_lost", "no_devices"}
    machine.heal()
    assert powers(nvml) == [70.0, 70.0]


def test_a_driver_whose_devices_all_fail_has_lost_access(
    world: MakeWorld, nvml: NvmlSource
) -> None:
    machine = world(h100(), t4())
    nvml.read()
    for call in EVERY_DEVICE_CALL:
        machine.fail(call, 999)
    with pytest.raises(SourceError) as caught:
        nvml.read()
    assert caught.value.kind == "access_lost"


def test_a_machine_without_the_python_package_has_no_nvml_source(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(SourceError) as caught:
        NvmlSource(settings=Nvml()).read()
    assert caught.value.kind == "library_not_found"
