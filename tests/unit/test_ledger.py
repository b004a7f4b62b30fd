"""Accounts: opened at 0, credited once, shown in time, settled without a loss."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from gpucost.account import EMPTY, credited, merged, workload_of
from gpucost.config import Prices
from gpucost.ledger import accrue, imbalance_usd
from gpucost.model import (
    Account,
    Holder,
    Ledger,
    Payer,
    Rate,
    Report,
    Seat,
    State,
    Workload,
)
from stage import ADA, H100, NOW, Stage, by_label, gpu, pod, values, without

COST = "gpucost_pod_cost_usd_total"
ENERGY = "gpucost_pod_energy_joules_total"
MONTHLY = "gpucost_workload_cost_usd_total"
BOB = Holder("research", "train-bob", "main")
DAY = 86_400.0


def rate(state: State, gpus: float = 1.0, usd: float | None = 0.5) -> Rate:
    return Rate(state, gpus, usd)


# --- One account --------------------------------------------------------------------------------


def test_an_account_takes_each_rate_into_its_state() -> None:
    rates = [rate(State.USED, 0.75, 0.3), rate(State.UNDERUSED, 0.25, 0.1)]
    account = credited(EMPTY, rates, 10.0, None)
    assert account.seconds == {State.USED: 7.5, State.UNDERUSED: 2.5}
    assert account.usd == {State.USED: 3.0, State.UNDERUSED: 1.0}
    again = credited(account, rates[:1], 2.0, None)
    assert again.seconds == {State.USED: 9.0, State.UNDERUSED: 2.5}


def test_seconds_without_a_price_are_no_dollars_and_leave_those_before_as_they_are() -> None:
    unpriced = credited(EMPTY, [rate(State.USED, usd=None)], 10.0, 7.0)
    assert (unpriced.usd, unpriced.shown_at, unpriced.priced_at) == (None, 7.0, None)
    priced = credited(unpriced, [rate(State.USED)], 10.0, 9.0)
    assert (priced.usd, priced.shown_at, priced.priced_at) == ({State.USED: 5.0}, 7.0, 9.0)
    after = credited(priced, [rate(State.USED, usd=None)], 10.0, 11.0)
    assert (after.usd, after.priced_at) == ({State.USED: 5.0}, 9.0)
    assert after.seconds == {State.USED: 30.0}


def test_accounts_merge_state_by_state_and_keep_their_first_showing() -> None:
    ours = Account({State.USED: 1.0}, None, shown_at=3.0)
    theirs = Account({State.USED: 2.0, State.IDLE: 5.0}, {State.IDLE: 0.5})
    both = merged(ours, theirs, 8.0)
    assert both == Account(
        {State.USED: 3.0, State.IDLE: 5.0}, {State.IDLE: 0.5}, shown_at=3.0, priced_at=8.0
    )
    assert merged(EMPTY, EMPTY, 8.0) == Account({}, None, shown_at=8.0)


def test_no_time_and_time_that_runs_backwards_charge_nothing() -> None:
    ledger = Ledger(started_at=NOW)
    for seconds in (0.0, -5.0):
        after = accrue(ledger, (), {}, {}, seconds=seconds, month="2026-11", shown_at=0.0)
        assert after is ledger


def test_the_nodes_month_has_no_name() -> None:
    payer = Payer(ADA, "w", "k", "t", H100, "spot")
    assert workload_of(payer, "2026-11") == Workload(
        "2026-11", ADA.namespace, "w", "k", "t", H100, "spot"
    )


# --- A GPU's labels -----------------------------------------------------------------------------


def test_a_gpus_counters_wait_for_the_node_and_lose_nothing_meanwhile() -> None:
    stage = Stage()
    stage.node_known = False
    report = stage.cycle(times=5)
    assert values(report, "gpucost_gpu_cost_usd_total") == []
    stage.node_known = True
    report = stage.cycle()
    assert set(values(report, "gpucost_gpu_cost_usd_total")) == {0.0}
    report = stage.cycle(times=6)
    assert by_label(report, "gpucost_gpu_cost_usd_total", "state", reveal=False) == {
        "unallocated": pytest.approx(0.055)
    }


def test_a_gpu_that_goes_before_its_labels_come_is_shown_with_what_it_cost() -> None:
    stage = Stage(gpu(0), gpu(1))
    stage.node_known = False
    stage.cycle(times=3)
    stage.gpus = without(stage.gpus, 1)
    assert values(stage.cycle(), "gpucost_gpu_seconds_total") == []
    stage.node_known = True
    report = stage.cycle()
    assert by_label(report, "gpucost_gpu_seconds_total", "uuid") == {"GPU-0": 20.0, "GPU-1": 10.0}
    assert by_label(report, "gpucost_gpu_cost_usd_total", "gpu_model", gpu="1") == {
        H100: pytest.approx(0.01)
    }


def test_a_gpus_labels_are_frozen() -> None:
    stage = Stage(gpu(0), gpu(1, 0.5))
    stage.cycle(times=2)
    # GPU 0 falls off the bus, and the driver numbers anew.
    renumbered = replace(stage.gpus[1], device=replace(stage.gpus[1].device, index=0))
    stage.gpus = (renumbered,)
    stage.node = replace(stage.node, capacity_type="spot")
    report = stage.cycle()
    seconds = by_label(report, "gpucost_gpu_seconds_total", "gpu", uuid="GPU-1")
    assert list(seconds) == ["1"]
    for name in ("gpucost_gpu_info", "gpucost_gpu_activity_ratio", "gpucost_pod_gpu_share_ratio"):
        assert list(by_label(report, name, "gpu", uuid="GPU-1")) == ["1"]
    assert values(report, "gpucost_gpu_seconds_total", uuid="GPU-1", capacity_type="spot") == []


def test_xid_events_are_shown_at_0_first_and_only_under_their_final_labels() -> None:
    stage = Stage(gpu(xid_events={79: 2}))
    stage.node_known = False
    name = "gpucost_gpu_xid_events_total"
    assert values(stage.cycle(times=5), name) == []
    stage.node_known = True
    assert values(stage.cycle(times=6), name, gpu="0", xid="79") == [0]
    assert values(stage.cycle(), name, gpu="0", xid="79") == [2]
    stage.gpus = (gpu(),)
    assert values(stage.cycle(), name, gpu="0", xid="79") == [2]


# --- First shown at 0 ---------------------------------------------------------------------------


@pytest.mark.parametrize("cycle_seconds", [1.0, 5.0, 7.0, 29.0, 30.0, 31.0, 300.0])
def test_a_new_counter_is_0_on_all_pages_of_two_scrape_intervals(cycle_seconds: float) -> None:
    stage = Stage()
    stage.cycle(times=3)
    stage.hold(shown=pod())
    report = stage.cycle(cycle_seconds)
    first = report.ledger.clock_seconds
    for _ in range(40):
        held = report.ledger.clock_seconds - first < 30.0 - 1e-9
        assert (sum(values(report, COST)) == 0) is held
        assert (sum(values(report, "gpucost_pod_gpu_seconds_total")) == 0) is held
        assert (sum(values(report, MONTHLY, workload="jupyter-ada")) == 0) is held
        report = stage.cycle(cycle_seconds)
    assert sum(by_label(report, COST, "state").values()) == pytest.approx(
        41 * cycle_seconds / 1000, rel=1e-9
    )


def test_revealed_counters_are_shown_at_once() -> None:
    stage = Stage()
    stage.hold(shown=pod())
    report = stage.cycle(times=2)
    assert sum(values(report, COST)) == 0
    assert sum(values(report, COST, reveal=True)) == pytest.approx(0.005)


def test_dollars_of_an_account_that_gets_its_price_later_are_shown_at_0_first() -> None:
    stage = Stage()
    priced = stage.config.prices
    stage.config = replace(stage.config, prices=Prices())
    stage.hold(shown=pod())
    report = stage.cycle(times=20)
    assert values(report, COST) == []
    assert values(report, "gpucost_pod_gpu_seconds_total") == [95.0]
    assert values(report, "gpucost_unpriced_gpus") == [1]
    stage.config = replace(stage.config, prices=priced)
    assert set(values(stage.cycle(times=6), COST)) == {0.0}
    assert sum(values(stage.cycle(), COST)) == pytest.approx(0.035)
    # And where the price goes again, the dollars stand still.
    stage.config = replace(stage.config, prices=Prices())
    report = stage.cycle(times=3)
    assert sum(values(report, COST)) == pytest.approx(0.035)
    assert values(report, "gpucost_pod_cost_usd_per_hour") == []


# --- Energy -------------------------------------------------------------------------------------


def test_energy_follows_the_share_and_is_absent_while_no_power_is_known() -> None:
    stage = Stage(gpu(activity=0.5))
    stage.hold(shown=pod())
    assert values(stage.cycle(times=10), ENERGY) == []
    stage.gpus = (gpu(activity=0.5, power_watts=300.0),)
    assert values(stage.cycle(), ENERGY) == [0.0]
    assert values(stage.cycle(times=6), ENERGY) == [pytest.approx(7 * 5 * 300.0)]


def test_energy_is_that_of_the_gpus_counter_where_it_has_one() -> None:
    stage = Stage(gpu(power_watts=999.0, energy_joules=1000.0))
    stage.hold(shown=pod())
    stage.cycle()
    stage.gpus = (gpu(power_watts=999.0, energy_joules=1600.0),)
    assert values(stage.cycle(), ENERGY, reveal=True) == [pytest.approx(600.0)]
    # A counter that restarted says nothing of the time between.
    stage.gpus = (gpu(power_watts=100.0, energy_joules=7.0),)
    assert values(stage.cycle(), ENERGY, reveal=True) == [pytest.approx(1100.0)]


def test_energy_waits_for_labels_as_dollars_do() -> None:
    stage = Stage(gpu(power_watts=100.0))
    stage.hold()
    stage.cycle(times=5)
    stage.show(pod())
    assert values(stage.cycle(), ENERGY, reveal=True) == [pytest.approx(2500.0)]


def test_energy_never_falls_when_one_of_two_teams_of_a_pod_is_forgotten() -> None:
    stage = Stage(gpu(power_watts=100.0))
    stage.hold(shown=pod())
    stage.cycle(times=20)
    stage.show(pod(uid="second", team="another"))
    last = 0.0
    for _ in range(80):
        [energy] = values(stage.cycle(), ENERGY)
        assert energy >= last
        last = energy
    assert last == pytest.approx(99 * 5 * 100.0)
    assert set(by_label(stage.cycle(), COST, "team")) == {"another"}


def test_energy_goes_with_the_last_counters_of_its_pod() -> None:
    stage = Stage(gpu(power_watts=100.0))
    stage.hold(shown=pod())
    stage.cycle(times=20)
    stage.end()
    assert values(stage.cycle(times=60), ENERGY) == [pytest.approx(19 * 5 * 100.0)]
    report = stage.cycle(times=2)
    assert values(report, ENERGY) == []
    assert report.ledger.energy == {}


# --- Settling -----------------------------------------------------------------------------------


def test_the_dollars_of_forgotten_pods_stay_in_the_balance_and_in_their_month() -> None:
    stage = Stage()
    stage.hold(shown=pod())
    stage.cycle(times=3)
    stage.end()
    report = stage.cycle(times=70)
    assert report.ledger.pods == {}
    assert report.ledger.settled_usd == pytest.approx(0.010)
    assert values(report, "gpucost_ledger_imbalance_usd") == [pytest.approx(0.0, abs=1e-12)]
    assert by_label(report, MONTHLY, "workload")["jupyter-ada"] == pytest.approx(0.010)


@pytest.mark.parametrize("where", ["node", "pods", "gpus", "settled_usd", "billed_usd"])
def test_dollars_that_are_lost_anywhere_are_an_imbalance(where: str) -> None:
    stage = Stage(gpu(0), gpu(1))
    stage.hold(shown=pod())
    stage.hold(BOB, 1, shown=pod(BOB))
    stage.cycle(times=5)
    stage.end(BOB)
    ledger = stage.cycle(times=70).ledger
    assert abs(imbalance_usd(ledger)) < 1e-12
    nothing = {"node": EMPTY, "pods": {}, "gpus": {}, "settled_usd": 0.0, "billed_usd": 0.0}
    assert abs(imbalance_usd(replace(ledger, **{where: nothing[where]}))) > 0.009


def test_dollars_that_wait_for_labels_are_in_the_balance() -> None:
    stage = Stage()
    stage.hold()
    report = stage.cycle(times=5)
    assert report.ledger.tenures[Seat(ADA, H100)].pending
    assert abs(imbalance_usd(report.ledger)) < 1e-12


def test_a_gpu_that_is_gone_keeps_its_counters() -> None:
    stage = Stage(gpu(0), gpu(1))
    stage.cycle(times=10)
    stage.gpus = without(stage.gpus, 1)
    report = stage.cycle(times=3)
    seconds = by_label(report, "gpucost_gpu_seconds_total", "uuid")
    assert seconds == {"GPU-0": 60.0, "GPU-1": 45.0}
    assert values(report, "gpucost_gpu_info", uuid="GPU-1") == []


# --- Months -------------------------------------------------------------------------------------


def at_months_end(stage: Stage, seconds: float) -> None:
    """Set the clock so long before the end of November."""
    stage.wall = 1_796_083_200.0 - seconds


def months(report: Report) -> dict[str, float]:
    found: dict[str, float] = {}
    for workload, account in report.ledger.months.items():
        found[workload.month] = found.get(workload.month, 0.0) + sum((account.usd or {}).values())
    return found


def test_a_month_ends_to_the_second() -> None:
    stage = Stage()
    at_months_end(stage, 8.0)
    stage.hold(shown=pod())
    report = stage.cycle(times=3)
    assert months(report) == {"2026-11": pytest.approx(0.008), "2026-12": pytest.approx(0.002)}
    assert values(report, "gpucost_billing_month_info", month="2026-12") == [1]


def test_a_month_ends_where_the_bill_is_written() -> None:
    stage = Stage(billing_time_zone="Europe/Berlin")
    at_months_end(stage, 3600.0 + 2.0)
    report = stage.cycle(times=2)
    assert months(report) == {"2026-11": pytest.approx(0.002), "2026-12": pytest.approx(0.003)}


def test_a_months_counters_stay_two_days_past_its_end_and_outlive_their_pods() -> None:
    stage = Stage()
    at_months_end(stage, 100.0)
    stage.hold(shown=pod())
    stage.cycle(100.0, times=2)
    stage.end()
    report = stage.cycle(1800.0, times=96)
    assert months(report)["2026-11"] == pytest.approx(0.1)
    assert by_label(report, MONTHLY, "workload", month="2026-11") == {
        "jupyter-ada": pytest.approx(0.1)
    }
    assert set(months(stage.cycle(1800.0, times=2))) == {"2026-12"}


def test_a_wall_clock_that_is_set_forward_and_back_loses_no_month() -> None:
    stage = Stage()
    stage.hold(shown=pod())
    stage.cycle(times=101)
    stage.wall += 400 * DAY
    stage.cycle(times=10)
    stage.wall -= 400 * DAY
    report = stage.cycle(times=10)
    assert months(report) == {"2026-11": pytest.approx(0.55), "2027-12": pytest.approx(0.05)}
    assert abs(imbalance_usd(report.ledger)) < 1e-12


def test_a_new_month_starts_at_0_for_every_payer() -> None:
    stage = Stage(gpu(0), gpu(1))
    at_months_end(stage, 60.0)
    stage.hold(shown=pod())
    report = stage.cycle(times=15)
    assert set(values(report, MONTHLY, month="2026-12")) == {0.0}
    assert sum(values(report, MONTHLY, month="2026-11")) == pytest.approx(0.12)
    report = stage.cycle(times=6)
    assert sum(values(report, MONTHLY, month="2026-12")) == pytest.approx(0.08)


def test_pods_of_one_workload_share_its_months_account() -> None:
    stage = Stage(gpu(0), gpu(1))
    stage.hold(shown=pod())
    stage.hold(BOB, 1, shown=pod(BOB))
    report = stage.cycle(times=3)
    assert by_label(report, MONTHLY, "workload") == {"jupyter-ada": pytest.approx(0.02)}
