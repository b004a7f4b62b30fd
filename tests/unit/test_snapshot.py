"""What a Snapshot says when sources fail, hang, fall silent or contradict each other."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from msgspec.structs import replace

from gpucost.model import (
    GpuReading,
    Holder,
    Holding,
    Holdings,
    MigInstance,
    Node,
    Pod,
    Problem,
    Signal,
    Snapshot,
    UnitReading,
)
from gpucost.reader import Direct, Reader
from gpucost.snapshot import SIGNAL_CHANGE_SHOWN_SECONDS, Gatherer, Sources
from gpucost.sources.base import ClusterRead, DeviceRead, HoldingsRead, SourceError
from stage import ADA, NOW, gpu, pod

BOB = Holder("research", "train-bob", "main")
GONE = SourceError("unreachable", "nobody answers", "Look there.")
STATED = Node("node-1", instance_type="stated", region="here", labels={"pool": "a", "own": "x"})
SHOWN = Node("node-1", instance_type="p5.48xlarge", zone="b", labels={"pool": "b"})


def held(*holders: Holder) -> HoldingsRead:
    """Each holds a GPU, by its place."""
    return HoldingsRead(
        Holdings(tuple(Holding(it, "nvidia.com/gpu", f"GPU-{n}") for n, it in enumerate(holders)))
    )


def shown(*pods: Pod, node: Node | None = SHOWN) -> ClusterRead:
    return ClusterRead(node=node, pods={(it.namespace, it.name): it for it in pods})


class Answers:
    """What the sources answer next: a value, or the error that they raise."""

    nvml: DeviceRead | SourceError | Exception = DeviceRead((gpu(0), gpu(1)))
    dcgm: DeviceRead | SourceError | None = None
    kubelet: HoldingsRead | SourceError = held(ADA)
    kubernetes: ClusterRead | SourceError = shown(pod())

    def __init__(self, *, without: tuple[str, ...] = (), in_kubernetes: bool = True) -> None:
        def source(name: str) -> Direct[Any] | None:
            return None if name in without else Direct(name, lambda: self._say(name))

        self.sources = Sources(
            nvml=source("nvml"),
            dcgm=source("dcgm"),
            kubelet=source("kubelet"),
            kubernetes=source("kubernetes"),
            in_kubernetes=in_kubernetes,
        )
        self.gatherer = Gatherer(self.sources, STATED, keep_holders_seconds=60.0)

    def _say(self, name: str) -> object:
        answer = getattr(self, name)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def gather(self, clock: float = 0.0) -> Snapshot:
        return self.gatherer.gather(NOW + clock, clock)


def uuids(snapshot: Snapshot) -> list[str]:
    return [it.device.uuid for it in snapshot.gpus]


def problems(snapshot: Snapshot) -> set[tuple[str, str]]:
    return {(it.source, it.kind) for it in snapshot.problems}


def holders(snapshot: Snapshot) -> list[Holder] | None:
    return None if snapshot.holdings is None else [it.holder for it in snapshot.holdings.holdings]


# --- Sources that fail --------------------------------------------------------------------------


def test_a_snapshot_holds_what_every_source_said() -> None:
    snapshot = Answers().gather()
    assert snapshot.gpus == (gpu(0), gpu(1))
    assert holders(snapshot) == [ADA]
    assert snapshot.pods == {(ADA.namespace, ADA.pod): pod()}
    assert snapshot.node_known
    assert [(it.source, it.up, it.last_success) for it in snapshot.sources] == [
        ("kubernetes", True, NOW),
        ("nvml", True, NOW),
        ("kubelet", True, NOW),
    ]
    assert snapshot.problems == ()


@pytest.mark.parametrize("name", ["nvml", "dcgm", "kubelet", "kubernetes"])
def test_a_source_that_fails_is_a_problem_and_the_others_are_read(name: str) -> None:
    answers = Answers()
    answers.gather()
    setattr(answers, name, GONE)
    snapshot = answers.gather(5.0)
    assert Problem(name, "unreachable", "nobody answers", "Look there.") in snapshot.problems
    [status] = [it for it in snapshot.sources if it.source == name]
    assert not status.up
    assert status.last_success == (None if name == "dcgm" else NOW)
    assert {it.source for it in snapshot.sources if it.up} == (
        {"nvml", "kubelet", "kubernetes"} - {name}
    )


def test_every_source_may_fail_from_the_start() -> None:
    answers = Answers()
    answers.nvml = answers.dcgm = answers.kubelet = answers.kubernetes = GONE
    snapshot = answers.gather()
    assert (snapshot.gpus, snapshot.holdings, snapshot.pods) == ((), None, None)
    assert snapshot.node == STATED
    assert not snapshot.node_known
    assert len(snapshot.problems) == 4


def test_a_bug_in_a_source_is_a_problem_too() -> None:
    answers = Answers()
    answers.nvml = ZeroDivisionError("oh")
    assert ("nvml", "internal") in problems(answers.gather())


def test_a_source_that_hangs_is_a_problem_and_is_read_again_when_it_wakes() -> None:
    wake, reads = threading.Event(), []

    def read() -> DeviceRead:
        reads.append(1)
        if len(reads) == 2:
            wake.wait(60)
        return DeviceRead((gpu(len(reads)),))

    reader = Reader("nvml", read, 0.2)
    gatherer = Gatherer(Sources(nvml=reader, in_kubernetes=False), STATED)

    def gather_until(uuid: str) -> Snapshot:
        for clock in range(300):  # at most a minute, on the slowest machine
            snapshot = gatherer.gather(NOW + clock, float(clock))
            if not snapshot.problems and uuid in uuids(snapshot):
                return snapshot
        pytest.fail(f"no answer with {uuid}")

    try:
        gather_until("GPU-1")
        for clock in (300.0, 305.0):
            snapshot = gatherer.gather(NOW + clock, clock)
            assert problems(snapshot) == {("nvml", "timeout")}
            [known] = snapshot.gpus
            assert known == GpuReading(gpu(1).device, seen=False)
        assert len(reads) == 2  # a call that hangs is not called again
        wake.set()
        gather_until("GPU-2")
    finally:
        wake.set()
        assert reader.close(60)


def test_problems_of_a_source_that_works_are_handed_on() -> None:
    trouble = Problem("nvml", "old_driver", "no symbol", "upgrade")
    answers = Answers()
    answers.nvml = DeviceRead((gpu(),), problems=(trouble,))
    assert answers.gather().problems == (trouble,)


# --- Devices ------------------------------------------------------------------------------------


def test_when_no_source_can_look_the_last_devices_stay_with_nothing_measured() -> None:
    answers = Answers()
    lost = gpu(1, 0.5, faults=("lost",), xid_events={79: 1}, power_watts=9.0, energy_joules=3.0)
    mig = (MigInstance(1, 0, "1g", 1),)
    sliced = gpu(2, 0.5)
    sliced = replace(sliced, device=replace(sliced.device, mig=mig), instances=(sliced.reading,))
    answers.nvml = DeviceRead((gpu(0, 0.5, power_watts=9.0), lost, sliced))
    answers.gather()
    answers.nvml = GONE
    for clock in (5.0, 10.0):
        snapshot = answers.gather(clock)
        assert snapshot.gpus == (
            GpuReading(gpu(0).device, seen=False),
            GpuReading(lost.device, faults=("lost",), xid_events={79: 1}, seen=False),
            GpuReading(sliced.device, instances=(UnitReading(),), seen=False),
        )
    answers.nvml = DeviceRead((gpu(0), gpu(1), sliced))
    assert all(it.seen for it in answers.gather(15.0).gpus)


def test_a_gpu_that_the_driver_no_longer_lists_is_missing_and_still_billed() -> None:
    answers = Answers()
    answers.gather()
    answers.nvml = DeviceRead((gpu(0),))
    for clock in (5.0, 10.0):
        present, missing = answers.gather(clock).gpus
        assert present == gpu(0)
        assert (missing.device.uuid, missing.faults, missing.seen) == ("GPU-1", ("missing",), True)
        assert missing.reading == UnitReading()
    # It stays so while the driver is silent, and ends when it is back.
    answers.nvml = GONE
    assert [it.faults for it in answers.gather(15.0).gpus] == [(), ("missing",)]
    answers.nvml = DeviceRead((gpu(0), gpu(1)))
    assert [it.faults for it in answers.gather(20.0).gpus] == [(), ()]


def test_a_gpu_that_only_dcgm_shows_is_not_missing_when_dcgm_fails_once() -> None:
    answers = Answers()
    answers.nvml = DeviceRead((gpu(0),))
    answers.dcgm = DeviceRead((gpu(1),))
    answers.gather()
    answers.dcgm = GONE
    assert [(it.faults, it.seen) for it in answers.gather(5.0).gpus] == [((), True), ((), False)]
    answers.dcgm = DeviceRead((gpu(0),))
    assert [it.faults for it in answers.gather(10.0).gpus] == [(), ("missing",)]


def test_dcgm_alone_gives_devices_and_their_holders() -> None:
    answers = Answers(without=("nvml", "kubelet"))
    answers.dcgm = DeviceRead((gpu(0, 0.5),), holdings=held(BOB).holdings)
    snapshot = answers.gather()
    assert snapshot.gpus == (gpu(0, 0.5),)
    assert holders(snapshot) == [BOB]


def test_while_nvml_fails_dcgm_fills_in_under_what_nvml_knew() -> None:
    answers = Answers()
    named = replace(gpu(0), device=replace(gpu(0).device, minor=7))
    answers.nvml = DeviceRead((named,))
    answers.gather()
    answers.nvml = GONE
    answers.dcgm = DeviceRead((gpu(0, 0.5, signal=Signal.DCGM_GR_ENGINE),))
    [found] = answers.gather(5.0).gpus
    assert found.device.minor == 7
    assert found.reading.activity == gpu(0, 0.5, signal=Signal.DCGM_GR_ENGINE).reading.activity
    assert found.seen


def test_a_dcgm_that_is_not_there_is_no_problem_and_has_no_status() -> None:
    snapshot = Answers().gather()
    assert "dcgm" not in {it.source for it in snapshot.sources}


# --- Holders ------------------------------------------------------------------------------------


def test_holders_of_a_silent_kubelet_stay_for_a_while_and_then_nobody_knows() -> None:
    answers = Answers()
    answers.gather(100.0)
    answers.kubelet = GONE
    assert holders(answers.gather(105.0)) == [ADA]
    assert holders(answers.gather(160.0)) == [ADA]
    assert answers.gather(160.1).holdings is None
    answers.kubelet = held(BOB)
    assert holders(answers.gather(165.0)) == [BOB]


def test_holders_of_a_silent_kubelet_stay_only_while_the_api_shows_their_pods() -> None:
    answers = Answers()
    answers.kubelet = held(ADA, BOB)
    answers.kubernetes = shown(pod(), pod(BOB))
    answers.gather()
    answers.kubelet = GONE
    answers.kubernetes = shown(pod(BOB))
    snapshot = answers.gather(5.0)
    assert holders(snapshot) == [BOB]
    # Without the API server nobody says that a pod is gone.
    answers.kubernetes = GONE
    assert holders(answers.gather(10.0)) == [ADA, BOB]


def test_after_that_dcgms_labels_are_believed() -> None:
    answers = Answers()
    answers.dcgm = DeviceRead((gpu(0),), holdings=held(BOB).holdings)
    assert holders(answers.gather()) == [ADA]
    answers.kubelet = GONE
    assert holders(answers.gather(60.0)) == [ADA]
    assert holders(answers.gather(61.0)) == [BOB]
    answers.dcgm = DeviceRead((gpu(0),))
    assert answers.gather(65.0).holdings is None


def test_a_kubelet_that_never_answered_leaves_holders_unknown() -> None:
    answers = Answers()
    answers.kubelet = GONE
    assert answers.gather().holdings is None


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
def test_a_finished_pod_holds_nothing_though_the_kubelet_lists_it(phase: str) -> None:
    answers = Answers()
    answers.kubelet = held(ADA, BOB)
    answers.kubernetes = shown(pod(phase=phase), pod(BOB))
    assert holders(answers.gather()) == [BOB]
    answers.kubernetes = shown(pod(), pod(BOB))
    assert holders(answers.gather(5.0)) == [ADA, BOB]


def test_what_else_the_kubelet_said_survives_a_finished_pod() -> None:
    answers = Answers()
    answers.kubelet = HoldingsRead(
        replace(held(ADA).holdings, offered=("GPU-0", "GPU-1"), unresolved=2)
    )
    answers.kubernetes = shown(pod(phase="Succeeded"))
    found = answers.gather().holdings
    assert found == Holdings((), ("GPU-0", "GPU-1"), 2)


def test_on_a_machine_without_kubernetes_nobody_holds_anything() -> None:
    answers = Answers(without=("kubelet", "kubernetes"), in_kubernetes=False)
    snapshot = answers.gather()
    assert snapshot.holdings == Holdings(assumed=True)
    assert snapshot.pods is None
    assert snapshot.node == STATED
    assert snapshot.problems == ()


# --- The node -----------------------------------------------------------------------------------


def test_settings_fill_what_the_node_does_not_say() -> None:
    node = Answers().gather().node
    assert node == Node(
        "node-1",
        instance_type="p5.48xlarge",
        region="here",
        zone="b",
        labels={"pool": "b", "own": "x"},
    )


def test_a_stated_capacity_type_is_believed_before_the_nodes() -> None:
    answers = Answers()
    answers.kubernetes = shown(node=replace(SHOWN, capacity_type="spot"))
    assert answers.gather().node.capacity_type == "spot"
    answers.gatherer.reconfigure(answers.sources, replace(STATED, capacity_type="reserved"), 60.0)
    assert answers.gather(5.0).node.capacity_type == "reserved"


def test_a_node_that_has_not_changed_is_the_same_object_so_its_prices_stand() -> None:
    answers = Answers()
    before = answers.gather().node
    assert answers.gather(5.0).node is before
    answers.kubernetes = shown(node=replace(SHOWN, region="there"))
    assert answers.gather(10.0).node.region == "there"


def test_the_node_stays_known_while_the_api_server_is_silent() -> None:
    answers = Answers()
    answers.kubernetes = shown(node=None)
    assert not answers.gather().node_known
    answers.kubernetes = shown()
    answers.gather(5.0)
    answers.kubernetes = GONE
    snapshot = answers.gather(10.0)
    assert snapshot.node_known
    assert snapshot.node.instance_type == "p5.48xlarge"
    assert snapshot.pods is None


def test_other_sources_and_settings_forget_nothing_that_was_known() -> None:
    answers = Answers()
    answers.gather()
    silent = Answers()
    silent.nvml = silent.kubelet = silent.kubernetes = GONE
    answers.gatherer.reconfigure(silent.sources, STATED, 10.0)
    snapshot = answers.gather(9.0)
    assert uuids(snapshot) == ["GPU-0", "GPU-1"]
    assert holders(snapshot) == [ADA]
    assert snapshot.node.instance_type == "p5.48xlarge"
    assert answers.gather(10.1).holdings is None


# --- Signals ------------------------------------------------------------------------------------


def test_another_signal_is_a_problem_for_a_quarter_of_an_hour() -> None:
    answers = Answers()
    answers.nvml = DeviceRead((gpu(0, 0.5), gpu(1, 0.5)))
    assert answers.gather().problems == ()
    answers.nvml = DeviceRead((gpu(0, 0.5, signal=Signal.NVML_SAMPLES), gpu(1, None)))
    first = answers.gather(5.0)
    assert problems(first) == {("attribution", "signal_changed")}
    [problem] = first.problems
    assert "GPU-0" in problem.message
    assert "nvml_utilization_samples" in problem.message
    assert "gpm_graphics_util" in problem.message
    # A signal that is away for a while has not changed.
    answers.nvml = DeviceRead((gpu(0, 0.5, signal=Signal.NVML_SAMPLES), gpu(1, 0.5)))
    assert len(answers.gather(10.0).problems) == 1
    assert len(answers.gather(4.9 + SIGNAL_CHANGE_SHOWN_SECONDS).problems) == 1
    assert answers.gather(5.0 + SIGNAL_CHANGE_SHOWN_SECONDS).problems == ()


def test_the_signal_of_each_mig_instance_is_watched() -> None:
    mig = (MigInstance(1, 0, "1g", 1), MigInstance(2, 0, "1g", 1))

    def sliced(second: Signal) -> DeviceRead:
        readings = (gpu(0, 0.5).reading, gpu(0, 0.5, signal=second).reading)
        return DeviceRead(
            (replace(gpu(0), device=replace(gpu(0).device, mig=mig), instances=readings),)
        )

    answers = Answers()
    answers.nvml = sliced(Signal.GPM_GRAPHICS)
    answers.gather()
    answers.nvml = sliced(Signal.DCGM_GR_ENGINE)
    [problem] = answers.gather(5.0).problems
    assert problem.message.startswith("GPU-0/2/0: ")
