"""One cycle: what is charged before the first reading, for a GPU that is not there, and by whom."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from gpucost.config import PriceRow, Prices
from gpucost.cycle import mean_watts, missing_gpus
from gpucost.ledger import imbalance_usd
from stage import ADA, H100, NOW, Stage, by_label, gpu, pod, values

SECONDS = "gpucost_gpu_seconds_total"
RENT = "gpucost_gpu_cost_usd_total"


def test_the_first_cycle_charges_nothing() -> None:
    report = Stage().cycle()
    assert report.ledger.clock_seconds == 0
    assert by_label(report, SECONDS, "state") == {}
    assert report.ledger.started_at == NOW


def test_a_cycle_without_gpus_charges_nothing_and_the_first_gpu_starts_at_0() -> None:
    stage = Stage()
    gpus, stage.gpus = stage.gpus, ()
    report = stage.cycle(times=5)
    assert report.ledger.billed_usd == 0
    stage.gpus = gpus
    report = stage.cycle()
    assert by_label(report, SECONDS, "state") == {"unallocated": 5.0}


# --- Provisioning -------------------------------------------------------------------------------


def test_a_young_node_is_charged_from_its_boot() -> None:
    stage = Stage(gpu(0), gpu(1))
    stage.booted_at = NOW - 600.0
    report = stage.cycle()
    assert by_label(report, SECONDS, "state", uuid="GPU-0") == {"provisioning": 600.0}
    assert by_label(report, RENT, "state", uuid="GPU-1") == {"provisioning": pytest.approx(0.6)}
    assert set(values(report, RENT)) == {0.0}
    assert by_label(report, "gpucost_workload_cost_usd_total", "state") == {
        "provisioning": pytest.approx(1.2)
    }
    assert abs(imbalance_usd(report.ledger)) < 1e-12
    report = stage.cycle()
    assert by_label(report, SECONDS, "state", uuid="GPU-0") == {
        "provisioning": 600.0,
        "unallocated": 5.0,
    }


def test_until_the_driver_answers_a_young_node_provisions_and_no_second_counts_twice() -> None:
    stage = Stage()
    stage.booted_at = NOW - 600.0
    gpus, stage.gpus = stage.gpus, ()
    stage.cycle(times=21)
    stage.gpus = gpus
    report = stage.cycle()
    # 600 s before we looked and 21 cycles of 5 s; the last one is the reading's own.
    assert by_label(report, SECONDS, "state") == {"provisioning": 700.0, "unallocated": 5.0}
    assert sum(by_label(stage.cycle(), SECONDS, "state").values()) == 710.0


def test_gpus_that_go_and_come_back_do_not_provision_again() -> None:
    stage = Stage()
    stage.booted_at = NOW - 600.0
    stage.cycle(times=2)
    gpus, stage.gpus = stage.gpus, ()
    stage.cycle()
    stage.gpus = gpus
    report = stage.cycle()
    assert by_label(report, SECONDS, "state") == {"provisioning": 600.0, "unallocated": 10.0}


@pytest.mark.parametrize("age", [3600.0, 1e6, 0.0, -5.0, None])
def test_a_node_that_is_old_or_of_unknown_age_is_charged_from_the_first_reading(
    age: float | None,
) -> None:
    stage = Stage()
    stage.booted_at = None if age is None else NOW - age
    assert by_label(stage.cycle(), SECONDS, "state") == {}


def test_provisioning_is_cut_at_a_months_end() -> None:
    stage = Stage()
    stage.wall = 1_796_083_200.0 + 100.0
    stage.booted_at = stage.wall - 400.0
    report = stage.cycle()
    assert by_label(report, "gpucost_workload_gpu_seconds_total", "month") == {
        "2026-11": 300.0,
        "2026-12": 100.0,
    }


# --- GPUs that are not there --------------------------------------------------------------------


def eight_gpus(stage: Stage) -> None:
    """The instance type has eight GPUs for 28.8 USD an hour."""
    row = PriceRow(node_usd_per_hour=28.8, gpu_count=8)
    stage.config = replace(stage.config, prices=Prices(table=(row,)))


def test_a_gpu_that_the_instance_has_and_the_node_does_not_show_is_billed_as_unhealthy() -> None:
    stage = Stage(*(gpu(n) for n in range(6)))
    eight_gpus(stage)
    report = stage.cycle(times=3)
    assert by_label(report, RENT, "state") == {
        "unallocated": pytest.approx(0.06),
        "unhealthy": pytest.approx(0.02),
    }
    assert set(by_label(report, SECONDS, "uuid", state="unhealthy")) == {"missing-1", "missing-2"}
    assert values(report, "gpucost_gpu_healthy", uuid="missing-1") == [0]
    assert sum(values(report, "gpucost_gpu_price_usd_per_hour")) == pytest.approx(28.8)
    # A GPU that comes back is not billed twice.
    stage.gpus = tuple(gpu(n) for n in range(8))
    report = stage.cycle()
    assert report.ledger.billed_usd == pytest.approx(3 * 5 * 28.8 / 3600)
    assert values(report, "gpucost_gpu_info", uuid="missing-1") == []


def test_devices_that_no_source_could_read_yet_are_not_missing() -> None:
    stage = Stage()
    eight_gpus(stage)
    stage.gpus = ()
    report = stage.cycle(times=3)
    assert report.snapshot.gpus == ()
    assert report.ledger.billed_usd == 0


def test_missing_gpus_are_of_the_model_that_the_node_has_most_of() -> None:
    other = gpu(2)
    other = replace(other, device=replace(other.device, model="NVIDIA A30"))
    [missing] = missing_gpus((other, gpu(0), gpu(1)), 1)
    assert (missing.device.uuid, missing.device.model) == ("missing-1", H100)
    assert missing.faults == ("missing",)


def test_by_setting_the_holder_pays_for_the_fault_of_its_gpu() -> None:
    stage = Stage(gpu(faults=("lost",)), unhealthy_paid_by="holder")
    stage.hold(shown=pod())
    report = stage.cycle(times=3)
    assert by_label(report, "gpucost_pod_cost_usd_total", "state") == {
        "unhealthy": pytest.approx(0.01)
    }
    # What it paid stays to be seen when the setting changes back.
    stage.config = replace(stage.config, unhealthy_paid_by="node")
    report = stage.cycle(times=9)
    assert by_label(report, "gpucost_pod_cost_usd_total", "state", reveal=False) == {
        "unhealthy": pytest.approx(0.01)
    }
    assert by_label(report, RENT, "state") == {"unhealthy": pytest.approx(0.055)}


# --- Watts --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "end", "now", "watts"),
    [
        (1000.0, 2500.0, 70.0, 300.0),  # the counter knows the time between, the meter only now
        (None, 2500.0, 70.0, 70.0),
        (1000.0, None, 70.0, 70.0),
        (2500.0, 1000.0, 70.0, 70.0),  # it restarted
        (1000.0, 1000.0, 70.0, 70.0),  # it was not renewed
        (0.0, 1e9, 70.0, 70.0),  # nothing draws that
        (None, None, None, None),
        (2500.0, 1000.0, None, None),
    ],
)
def test_mean_power_is_the_energy_counters_else_the_meters(
    start: float | None, end: float | None, now: float | None, watts: float | None
) -> None:
    found = mean_watts([gpu(energy_joules=start)], [gpu(energy_joules=end, power_watts=now)], 5.0)
    assert found == ({} if watts is None else {"GPU-0": watts})


def test_no_time_has_no_mean_power_but_the_meters() -> None:
    before, after = gpu(energy_joules=1.0), gpu(energy_joules=9.0, power_watts=70.0)
    assert mean_watts([before], [after], 0.0) == {"GPU-0": 70.0}


# --- Reuse of what did not change ---------------------------------------------------------------


def test_shares_are_made_anew_when_and_only_when_devices_or_holders_change() -> None:
    stage = Stage()
    first, second = stage.cycle(), stage.cycle()
    assert second.attributed is first.attributed
    stage.hold(shown=pod())
    third = stage.cycle()
    assert third.attributed is not first.attributed
    assert [usage.share.holder for usage in third.usages] == [ADA]
    stage.kubelet_speaks = False
    assert [usage.share.holder for usage in stage.cycle().usages] == [None]


def test_a_change_of_price_is_seen_in_the_next_cycle() -> None:
    stage = Stage()
    stage.cycle(times=2)
    stage.config = replace(stage.config, prices=Prices(fallback={H100: 36.0}))
    assert stage.cycle().prices["GPU-0"].usd_per_hour == 36.0
    stage.node = replace(stage.node, annotations={"gpucost.io/gpu-usd-per-hour": "72"})
    assert stage.cycle().prices["GPU-0"].usd_per_hour == 72.0


def test_a_report_is_not_changed_by_what_is_made_of_it() -> None:
    stage = Stage()
    stage.hold(shown=pod())
    report = stage.cycle(times=10)
    charged = report.ledger.billed_usd
    page = values(report, "gpucost_pod_cost_usd_total")
    stage.cycle(times=10)
    assert report.ledger.billed_usd == charged
    assert values(report, "gpucost_pod_cost_usd_total") == page


def test_advance_is_a_function_of_its_arguments_alone() -> None:
    def history() -> object:
        stage = Stage()
        stage.hold(shown=pod())
        return stage.cycle(times=20)

    assert history() == history()
