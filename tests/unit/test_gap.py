"""Time that nobody saw goes to whoever provably held throughout, and else to `unattributed`."""

from __future__ import annotations

import math

import pytest
from msgspec.structs import replace

from gpucost.ledger import imbalance_usd
from gpucost.model import Activity, Holder, Holding, MigInstance, Signal, UnitReading
from stage import ADA, Stage, by_label, gpu, pod, samples, values

BEN = Holder("research", "jupyter-ben-0", "notebook")


def held() -> Stage:
    """A node with one GPU, used by Ada for ten minutes."""
    stage = Stage(gpu(activity=0.5))
    stage.hold(shown=pod(started_at=stage.wall - 600.0))
    stage.cycle(times=121)
    return stage


def node_seconds(stage: Stage) -> dict[str, float]:
    assert stage.report is not None
    return by_label(stage.report, "gpucost_gpu_seconds_total", "state")


def pod_usd(stage: Stage, holder: Holder = ADA) -> dict[str, float]:
    assert stage.report is not None
    return by_label(stage.report, "gpucost_pod_cost_usd_total", "state", pod=holder.pod)


def test_a_restart_charges_its_downtime_to_the_pod_that_held_throughout() -> None:
    stage = held()
    before = pod_usd(stage)
    stage.restart(40.0)
    stage.cycle()
    assert pod_usd(stage) == pytest.approx({**before, "unmeasured": 0.040})
    assert node_seconds(stage)["unmeasured"] == pytest.approx(40.0)
    stage.cycle()
    assert sum(node_seconds(stage).values()) == pytest.approx(645.0)
    assert stage.report is not None
    assert abs(imbalance_usd(stage.report.ledger)) < 1e-12


@pytest.mark.parametrize(
    "change",
    [
        {"uid": "another"},  # re-created under its name
        {"started_at": 1_795_377_363.0 + 600.0},  # the same object, given its place anew
    ],
)
def test_another_pod_of_the_same_name_is_not_charged_for_the_time_before_it(
    change: dict[str, object],
) -> None:
    stage = held()
    stage.restart(40.0)
    stage.show(replace(pod(started_at=stage.wall - 1240.0), **change))
    stage.cycle()
    assert "unmeasured" not in node_seconds(stage)
    assert node_seconds(stage)["unattributed"] == pytest.approx(40.0)


def test_a_pod_that_came_or_went_in_the_gap_is_not_charged_for_it() -> None:
    stage = held()
    stage.restart(40.0)
    stage.end()
    stage.hold(BEN, shown=pod(BEN))
    stage.cycle()
    assert node_seconds(stage)["unattributed"] == pytest.approx(40.0)
    assert "unmeasured" not in pod_usd(stage)
    assert not pod_usd(stage, BEN)


def test_what_nobody_held_before_is_unattributed_though_it_is_free_now() -> None:
    stage = Stage()
    stage.cycle(times=3)
    stage.restart(40.0)
    stage.cycle(times=2)
    assert node_seconds(stage) == pytest.approx({"unallocated": 15.0, "unattributed": 40.0})


def test_a_gap_waits_until_the_api_server_says_whose_pod_it_is() -> None:
    stage = held()
    pods = stage.pods
    stage.restart(40.0)
    stage.pods, stage.node_known = None, False
    stage.cycle(times=3)
    assert sum(node_seconds(stage).values()) == pytest.approx(610.0)
    stage.pods, stage.node_known = pods, True
    stage.cycle()
    assert node_seconds(stage)["unmeasured"] == pytest.approx(40.0)
    assert sum(node_seconds(stage).values()) == pytest.approx(655.0)


def test_a_gap_waits_for_a_minute_at_most() -> None:
    stage = held()
    stage.restart(40.0)
    stage.pods = None
    stage.cycle(times=14)
    assert node_seconds(stage)["unattributed"] == pytest.approx(40.0)


def test_a_gap_that_waits_survives_the_next_restart() -> None:
    stage = held()
    pods, stage.pods = stage.pods, stage.pods
    stage.restart(40.0)
    stage.pods = None
    stage.cycle(times=2)
    stage.restart(7.0)
    stage.cycle()
    stage.pods = pods
    stage.cycle()
    assert node_seconds(stage)["unmeasured"] == pytest.approx(47.0)
    assert sum(node_seconds(stage).values()) == pytest.approx(600.0 + 5.0 + 5.0 + 47.0)


def test_after_a_reboot_only_the_time_since_it_is_charged_and_to_nobody() -> None:
    stage = held()
    stage.restart(10_000.0, uptime_seconds=5000.0)
    stage.cycle()
    assert node_seconds(stage)["unattributed"] == pytest.approx(5000.0)
    assert sum(node_seconds(stage).values()) == pytest.approx(5600.0)


def test_after_a_reboot_within_the_hour_the_node_was_provisioning() -> None:
    stage = held()
    stage.restart(500.0, uptime_seconds=120.0)
    stage.cycle()
    assert node_seconds(stage)["provisioning"] == pytest.approx(120.0)
    stage.restart(5.0)
    stage.cycle()
    assert node_seconds(stage)["provisioning"] == pytest.approx(120.0)


def test_a_young_nodes_first_minutes_are_charged_once_though_the_exporter_restarts() -> None:
    stage = Stage()
    stage.booted_at = stage.wall - 300.0
    stage.steady = 300.0
    stage.cycle(times=2)
    stage.restart(20.0)
    stage.cycle()
    assert node_seconds(stage) == pytest.approx(
        {"provisioning": 300.0, "unallocated": 5.0, "unattributed": 20.0}
    )


def test_a_gpu_that_came_in_the_gap_is_charged_from_its_first_reading() -> None:
    stage = Stage(gpu(0))
    stage.cycle(times=2)
    stage.restart(100.0)
    stage.gpus = (gpu(0), gpu(1))
    report = stage.cycle(times=2)
    assert sum(
        values(report, "gpucost_gpu_seconds_total", reveal=True, uuid="GPU-0")
    ) == pytest.approx(110.0)
    assert sum(
        values(report, "gpucost_gpu_seconds_total", reveal=True, uuid="GPU-1")
    ) == pytest.approx(5.0)


def test_only_the_part_that_was_held_at_both_ends_is_proven() -> None:
    def mig(*slices: int) -> Stage:
        instances = tuple(
            MigInstance(n, 0, f"{size}g", size, uuid=f"MIG-{n}-{size}")
            for n, size in enumerate(slices, start=1)
        )
        idle = UnitReading(Activity(0.0, 0.0, Signal.GPM_GRAPHICS))
        whole = gpu()
        return Stage(
            replace(
                whole,
                device=replace(whole.device, mig=instances, mig_slices=7),
                instances=(idle,) * len(instances),
            )
        )

    stage = mig(3, 4)
    stage.held = [Holding(ADA, "nvidia.com/mig-3g", "MIG-1-3")]
    stage.show(pod())
    stage.cycle(times=3)
    stage.restart(70.0)
    stage.cycle()
    assert node_seconds(stage)["unmeasured"] == pytest.approx(30.0)
    assert node_seconds(stage)["unattributed"] == pytest.approx(40.0)
    stage.restart(70.0)
    stage.gpus = mig(4, 3).gpus  # partitioned anew: the first instance is another one
    stage.held = [Holding(ADA, "nvidia.com/mig-4g", "MIG-1-4")]
    stage.cycle()
    assert node_seconds(stage)["unmeasured"] == pytest.approx(30.0)
    assert node_seconds(stage)["unattributed"] == pytest.approx(110.0)


def test_a_gap_over_a_months_end_is_cut_there() -> None:
    stage = held()
    stage.wall = 1_796_083_190.0  # 2026-11-30 23:59:50 UTC
    stage.restart(30.0)
    report = stage.cycle()
    usd = by_label(report, "gpucost_workload_cost_usd_total", "month", state="unmeasured")
    assert usd == pytest.approx({"2026-11": 0.010, "2026-12": 0.020})


def test_what_waits_to_be_seen_waits_on_after_the_gap() -> None:
    stage = held()
    stage.hold(BEN, 0, shown=pod(BEN))
    stage.gpus = (gpu(activity=0.5), gpu(1, activity=0.5))
    stage.held[1] = replace(stage.held[1], device_id="GPU-1")
    stage.cycle(times=2)
    stage.end()
    stage.cycle()
    stage.restart(86_400.0)
    report = stage.cycle()
    # Ben's counters were shown at 0 for a moment, Ada's last dollars for another.
    assert set(values(report, "gpucost_pod_cost_usd_total", pod=BEN.pod)) == {0.0}
    assert samples(report, "gpucost_pod_cost_usd_total", pod=ADA.pod)
    report = stage.cycle(times=8)
    assert math.fsum(values(report, "gpucost_pod_cost_usd_total", pod=BEN.pod)) > 86.4
    report = stage.cycle(times=60)
    assert not samples(report, "gpucost_pod_cost_usd_total", pod=ADA.pod)


def test_the_time_in_the_gap_counts_towards_the_end_of_a_cold_start() -> None:
    stage = Stage(gpu(activity=0.0), starting_max_seconds=100.0)
    stage.cycle()
    stage.hold(shown=pod(ready=False, ready_probe=True, started_at=stage.wall))
    stage.cycle(times=3)
    assert stage.report is not None
    assert pod_usd(stage) == pytest.approx({"starting": 0.015})
    stage.restart(90.0)
    stage.cycle()
    stage.cycle(times=2)
    assert pod_usd(stage) == pytest.approx(
        {"starting": 0.015, "unmeasured": 0.090, "failing": 0.010}
    )
