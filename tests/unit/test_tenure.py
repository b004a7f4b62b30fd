"""What is remembered of a holder: its labels for good, since when it holds, whether it started."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from gpucost.model import NODE, ContainerStatus, Holder, Payer, Pod, Report, Seat, State, Tenure
from stage import ADA, H100, NOW, Stage, by_label, gpu, pod, samples, values, without

SEAT = Seat(ADA, H100)
RENT = "gpucost_pod_cost_usd_total"


def tenure(report: Report, seat: Seat = SEAT) -> Tenure:
    return report.ledger.tenures[seat]


def payer(report: Report, seat: Seat = SEAT) -> Payer:
    found = tenure(report, seat).payer
    assert found is not None
    return found


def shown(report: Report, name: str = RENT) -> dict[str, float]:
    """USD by workload, as the page shows it."""
    found: dict[str, float] = {}
    for sample in samples(report, name, pod=ADA.pod):
        workload = sample.labels["workload"]
        found[workload] = found.get(workload, 0.0) + sample.value
    return found


# --- Labels -------------------------------------------------------------------------------------


def test_labels_are_those_of_the_pod_and_the_node() -> None:
    stage = Stage()
    stage.hold(shown=pod())
    assert payer(stage.cycle()) == Payer(
        ADA, "jupyter-ada", "StatefulSet", "research", H100, "on_demand"
    )


def test_labels_wait_a_minute_for_their_pod_and_lose_nothing_meanwhile() -> None:
    stage = Stage()
    stage.hold()
    stage.cycle(times=9)
    report = stage.cycle()
    assert tenure(report).payer is None
    assert shown(report) == {}
    assert values(report, "gpucost_pod_cost_usd_per_hour") == []
    stage.show(pod())
    report = stage.cycle()
    assert payer(report).workload == "jupyter-ada"
    assert shown(report) == {"jupyter-ada": 0.0}
    assert by_label(report, RENT, "state") == {"idle": pytest.approx(0.050)}


def test_labels_that_do_not_come_are_unknown_for_good() -> None:
    stage = Stage()
    stage.hold()
    report = stage.cycle(times=14)
    assert payer(report) == Payer(ADA, "unknown", "unknown", "unknown", H100, "on_demand")
    stage.show(pod())
    report = stage.cycle(times=3)
    assert payer(report).workload == "unknown"
    assert sum(by_label(report, RENT, "state").values()) == pytest.approx(0.080)


def test_labels_wait_for_the_node_too() -> None:
    stage = Stage()
    stage.node_known, stage.node = False, replace(stage.node, capacity_type="")
    stage.hold(shown=pod())
    assert tenure(stage.cycle(times=5)).payer is None
    stage.node_known, stage.node = True, replace(stage.node, capacity_type="spot")
    assert payer(stage.cycle()).capacity_type == "spot"


def test_where_no_api_server_is_expected_nobody_waits() -> None:
    stage = Stage()
    stage.labels_expected, stage.pods, stage.node_known = False, None, False
    stage.hold()
    assert payer(stage.cycle()).workload == "unknown"


def test_labels_are_frozen_while_the_pod_lives() -> None:
    stage = Stage()
    stage.hold(shown=pod())
    stage.cycle(times=3)
    stage.show(pod(workload="renamed", team="moved"))
    stage.node = replace(stage.node, capacity_type="spot")
    report = stage.cycle(times=3)
    assert payer(report) == Payer(ADA, "jupyter-ada", "StatefulSet", "research", H100, "on_demand")
    assert set(shown(report)) == {"jupyter-ada"}


def test_a_pod_that_ended_before_its_labels_came_gets_them_while_the_api_still_shows_it() -> None:
    stage = Stage()
    stage.node_known = False
    stage.hold(shown=pod())
    stage.cycle(times=3)
    stage.held.clear()
    stage.show(pod(phase="Succeeded"))
    stage.node_known = True
    report = stage.cycle()
    assert payer(report).workload == "jupyter-ada"
    assert sum(by_label(report, RENT, "state").values()) == pytest.approx(0.010)


def test_a_pod_that_ended_without_labels_is_not_given_another_ones() -> None:
    stage = Stage(labels_wait_seconds=20.0)
    stage.node_known = False
    stage.hold(shown=pod())
    stage.cycle(times=2)
    stage.end()
    stage.show(pod(uid="another", workload="another", gpu_containers=()))
    stage.node_known = True
    report = stage.cycle(times=5)
    assert payer(report).workload == "unknown"


@pytest.mark.parametrize("cycle_seconds", [5.0, 60.0, 300.0, 1000.0])
@pytest.mark.parametrize("labelled", [True, False])
def test_what_a_short_pod_cost_is_seen_however_long_a_cycle_is(
    cycle_seconds: float, *, labelled: bool
) -> None:
    stage = Stage()
    stage.cycle()
    stage.hold(shown=pod() if labelled else None)
    stage.cycle(cycle_seconds)
    stage.end()
    highest = 0.0
    for _ in range(100):
        highest = max(highest, *shown(stage.cycle(cycle_seconds)).values(), 0.0)
    assert highest == pytest.approx(cycle_seconds / 1000)


# --- The same name again ------------------------------------------------------------------------


def test_a_stateful_sets_pod_that_is_re_created_goes_on_where_it_was() -> None:
    stage = Stage()
    stage.hold(shown=pod())
    before = shown(stage.cycle(times=11))
    stage.show(pod(uid="second"))
    report = stage.cycle()
    assert shown(report) == {"jupyter-ada": pytest.approx(before["jupyter-ada"] + 0.005)}
    assert tenure(report).uid == "second"
    assert tenure(report).since == stage.wall


def test_a_new_pod_under_the_name_has_its_own_labels_and_the_old_ones_linger() -> None:
    stage = Stage()
    stage.hold(shown=pod())
    before = shown(stage.cycle(times=11))
    stage.show(pod(uid="second", workload="second"))
    report = stage.cycle(times=11)
    assert shown(report) == {
        "jupyter-ada": before["jupyter-ada"],
        "second": pytest.approx(0.055),
    }
    report = stage.cycle(times=51)
    assert set(shown(report)) == {"second"}


def test_a_new_pod_under_the_name_starts_anew() -> None:
    stage = Stage(gpu(activity=0.5))
    stage.hold(shown=pod(ready_probe=True))
    assert tenure(stage.cycle(times=3)).started
    stage.gpus = (gpu(activity=0.0),)
    stage.show(pod(uid="second", ready_probe=True, ready=False))
    report = stage.cycle()
    assert not tenure(report).started
    assert tenure(report).last_active is None
    assert by_label(report, RENT, "state")["starting"] == pytest.approx(0.005)


def test_what_waits_for_labels_is_not_lost_when_the_pod_is_re_created() -> None:
    stage = Stage()
    stage.node_known = False
    stage.hold(shown=pod())
    stage.cycle(times=3)
    stage.show(pod(uid="second"))
    stage.cycle(times=3)
    stage.node_known = True
    report = stage.cycle()
    assert sum(by_label(report, RENT, "state").values()) == pytest.approx(0.030)


def test_gone_and_back_within_the_linger_is_the_same_tenure() -> None:
    stage = Stage()
    stage.hold(shown=pod())
    first = stage.cycle(times=11)
    stage.kubelet_speaks = False
    stage.pods = None
    away = stage.cycle(times=10)
    assert tenure(away).gone_at is not None
    assert shown(away) == {"jupyter-ada": shown(first)["jupyter-ada"]}
    stage.kubelet_speaks = True
    stage.show(pod())
    back = stage.cycle()
    assert tenure(back).gone_at is None
    assert tenure(back).since == tenure(first).since
    assert shown(back)["jupyter-ada"] == pytest.approx(shown(first)["jupyter-ada"] + 0.005)


def test_after_the_linger_everything_of_it_is_gone() -> None:
    stage = Stage()
    stage.hold(shown=pod())
    stage.cycle(times=3)
    stage.end()
    assert shown(stage.cycle(times=60))
    report = stage.cycle(times=2)
    assert shown(report) == {}
    assert SEAT not in report.ledger.tenures


@pytest.mark.parametrize("cycles", [(100.0, 1.0), (1.0, 100.0), (60.0, 7.0), (299.0, 2.0)])
def test_counters_that_ended_do_not_come_back_at_0(cycles: tuple[float, float]) -> None:
    stage = Stage()
    stage.hold(shown=pod())
    stage.cycle(cycles[0], times=3)
    stage.end()
    stage.cycle(cycles[0])
    ended = False
    for _ in range(400):
        found = shown(stage.cycle(cycles[1]))
        assert not (ended and found)
        ended = not found
    assert ended


# --- Since when, how long, started --------------------------------------------------------------


def test_holding_began_when_the_pod_started_if_that_was_before_we_looked() -> None:
    stage = Stage()
    stage.hold(shown=pod(started_at=NOW - 600.0))
    report = stage.cycle()
    assert values(report, "gpucost_pod_holding_since_timestamp_seconds") == [NOW - 600.0]
    assert tenure(report).held_before == 600.0


def test_a_pod_that_asks_for_a_gpu_is_shown_before_it_holds_one() -> None:
    stage = Stage()
    stage.cycle()
    stage.show(pod(phase="Pending", ready=False))
    report = stage.cycle()
    assert shown(report) == {"jupyter-ada": 0.0}
    assert values(report, "gpucost_pod_gpu_seconds_total") == [0.0]
    assert tenure(report).since is None
    # It holds nothing, so there is nothing now to show of it.
    assert values(report, "gpucost_pod_cost_usd_per_hour") == []
    assert values(report, "gpucost_pod_holding_since_timestamp_seconds") == []
    stage.cycle(times=8)
    stage.hold()
    report = stage.cycle()
    assert shown(report) == {"jupyter-ada": pytest.approx(0.005)}


def test_a_pod_that_asked_and_went_before_its_labels_came_leaves_nothing() -> None:
    stage = Stage()
    stage.node_known = False
    stage.show(pod(phase="Pending", ready=False))
    stage.cycle(times=3)
    stage.end()
    stage.node_known = True
    for _ in range(15):  # past the wait for labels
        assert shown(stage.cycle()) == {}


def test_waiting_for_a_gpu_is_not_holding_it() -> None:
    stage = Stage(starting_max_seconds=60.0)
    asking = pod(phase="Pending", ready=False, ready_probe=True)
    stage.show(asking)
    stage.cycle(times=100)
    stage.hold()
    report = stage.cycle()
    assert by_label(report, RENT, "state") == {"starting": pytest.approx(0.005)}


def test_on_a_node_of_two_models_nobody_knows_which_one_a_pod_will_get() -> None:
    other = gpu(1)
    stage = Stage(gpu(), replace(other, device=replace(other.device, model="NVIDIA A30")))
    stage.show(pod(phase="Pending"))
    report = stage.cycle(times=2)
    assert {seat.holder for seat in report.ledger.tenures} == {NODE}


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
def test_a_pod_that_has_ended_asks_for_nothing(phase: str) -> None:
    stage = Stage()
    stage.show(pod(phase=phase))
    assert SEAT not in stage.cycle(times=2).ledger.tenures


UNREADY = ContainerStatus(ADA.container, running=True)


@pytest.mark.parametrize(
    ("shown_pod", "activity", "started"),
    [
        # With a readiness probe: at its first Ready, whatever it does before.
        (pod(ready_probe=True, ready=False), 0.9, False),
        (pod(ready_probe=True, ready=True), 0.0, True),
        # Without one it is Ready as soon as it runs: at its first activity.
        (pod(), 0.0, False),
        (pod(), 0.5, True),
        # Where no signal could show that, Ready has to do.
        (pod(), None, True),
        (pod(ready=False), None, False),
    ],
)
def test_a_cold_start_ends(shown_pod: Pod, activity: float | None, *, started: bool) -> None:
    stage = Stage(gpu(activity=activity))
    stage.cycle(times=2)  # it was not there when we first looked
    stage.hold(shown=shown_pod)
    report = stage.cycle()
    assert tenure(report).started is started
    assert ("starting" in by_label(report, RENT, "state")) is not started


def test_a_pod_that_nobody_shows_is_not_said_to_be_starting() -> None:
    stage = Stage()
    stage.cycle(times=2)
    stage.hold()
    stage.cycle()
    # It turns out to have been starting all the while.
    stage.show(pod(ready_probe=True, ready=False))
    report = stage.cycle()
    assert by_label(report, RENT, "state") == {
        "idle": pytest.approx(0.005),
        "starting": pytest.approx(0.005),
    }


def test_a_pod_that_was_ready_before_we_first_looked_is_not_called_a_cold_start() -> None:
    stage = Stage()
    stage.hold(shown=pod())
    report = stage.cycle(times=2)
    assert by_label(report, RENT, "state") == {"idle": pytest.approx(0.005)}


def test_once_started_it_stays_so() -> None:
    stage = Stage(gpu(activity=0.5))
    stage.hold(shown=pod(ready_probe=True))
    stage.cycle(times=2)
    stage.gpus = (gpu(activity=0.0),)
    stage.show(pod(ready_probe=True, ready=False))
    assert tenure(stage.cycle(times=5)).started


def test_last_active_is_the_last_busy_cycle_and_absent_before() -> None:
    stage = Stage()
    stage.hold(shown=pod())
    name = "gpucost_pod_last_active_timestamp_seconds"
    assert values(stage.cycle(times=2), name) == []
    stage.gpus = (gpu(activity=0.3),)
    report = stage.cycle()
    assert values(report, name) == [report.snapshot.wall_time]
    stage.gpus = (gpu(activity=0.0),)
    assert values(stage.cycle(times=3), name) == [report.snapshot.wall_time]


def test_the_memory_peak_is_that_of_the_fullest_gpu_since_it_is_held() -> None:
    stage = Stage(gpu(0, memory_used_bytes=3), gpu(1, memory_used_bytes=7))
    stage.hold(index=0, shown=pod())
    stage.hold(index=1)
    name = "gpucost_pod_memory_peak_bytes"
    assert values(stage.cycle(), name) == [7]
    stage.gpus = (gpu(0, memory_used_bytes=9), gpu(1, memory_used_bytes=1))
    assert values(stage.cycle(), name) == [9]
    stage.gpus = (gpu(0, memory_used_bytes=None), gpu(1, memory_used_bytes=1))
    report = stage.cycle()
    assert values(report, name) == [9]
    # The sum of what is in use is not known while one part of it is not.
    assert values(report, "gpucost_pod_memory_used_bytes") == []


def test_two_containers_of_a_pod_are_two_holders() -> None:
    side = Holder(ADA.namespace, ADA.pod, "side")
    stage = Stage(gpu(0), gpu(1))
    stage.hold(shown=pod(gpu_containers=("notebook", "side")))
    stage.hold(side, 1)
    report = stage.cycle(times=3)
    assert by_label(report, "gpucost_pod_gpu_seconds_total", "container") == {
        "notebook": 10.0,
        "side": 10.0,
    }


def test_a_holder_of_two_models_has_two_seats() -> None:
    other = gpu(1)
    stage = Stage(gpu(), replace(other, device=replace(other.device, model="NVIDIA A30")))
    stage.hold(shown=pod())
    stage.hold(index=1)
    report = stage.cycle(times=3)
    assert by_label(report, "gpucost_pod_gpu_seconds_total", "gpu_model") == {
        H100: 10.0,
        "NVIDIA A30": 10.0,
    }


def test_the_nodes_own_seat_ends_with_the_last_gpu_of_its_model_and_keeps_its_dollars() -> None:
    stage = Stage(gpu(0), gpu(1, activity=None))
    stage.node_known = False
    report = stage.cycle(times=3)
    bill = report.ledger.billed_usd
    assert report.ledger.tenures[Seat(NODE, H100)].payer is None
    stage.gpus = without(without(stage.gpus, 0), 0)
    report = stage.cycle(400.0, times=3)
    spent = by_label(report, "gpucost_workload_cost_usd_total", "state")
    assert spent == {State.UNALLOCATED: pytest.approx(bill)}
