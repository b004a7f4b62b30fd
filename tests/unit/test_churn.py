"""Whatever comes and goes, the ledger stays bounded, and nothing of the bill is dropped."""

from __future__ import annotations

import math
import tracemalloc

import pytest

from gpucost import account as account_module
from gpucost import cycle as cycle_module
from gpucost import opening as opening_module
from gpucost.account import OTHER
from gpucost.ledger import imbalance_usd
from gpucost.model import Holder, Holding
from gpucost.pages import encode
from stage import Stage, by_label, gpu, pod, values

GPUS = 8


def churning(stage: Stage, turn: int) -> None:
    """Every cycle another pod has each GPU, and another workload."""
    stage.held, stage.pods = [], {}
    for index in range(GPUS):
        holder = Holder("batch", f"job-{turn}-{index}", "main")
        stage.held.append(Holding(holder, "nvidia.com/gpu", f"GPU-{index}"))
        stage.show(pod(holder, workload=f"job-{turn}", workload_kind="Job"))


@pytest.fixture
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (opening_module, cycle_module):
        monkeypatch.setattr(module, "MAX_PODS", 50)
    for module in (account_module, cycle_module):
        monkeypatch.setattr(module, "MAX_WORKLOADS", 40)


@pytest.mark.usefixtures("small_limits")
def test_past_the_limits_everything_is_charged_together_and_told() -> None:
    stage = Stage(*(gpu(index, activity=0.5) for index in range(GPUS)))
    lengths = []
    for turn in range(200):
        churning(stage, turn)
        report = stage.cycle()
        lengths.append(encode(report).count(b"\n"))
        ledger = report.ledger
        assert len(ledger.pods) <= 51
        assert len(ledger.tenures) <= 51 + 2 * GPUS
        assert len(ledger.months) <= 42
        assert abs(imbalance_usd(ledger)) < 1e-9
    assert max(lengths[100:]) <= max(lengths[60:100]) + 50  # series do not go on growing
    assert {p.kind for p in report.problems} >= {"pod_limit", "workload_limit"}
    assert sum(values(report, "gpucost_pod_cost_usd_total", pod=OTHER)) > 0
    months = by_label(report, "gpucost_workload_cost_usd_total", "workload")
    assert months[OTHER] > 0
    bill = 199 * 5.0 * GPUS * 0.001
    assert math.fsum(months.values()) == pytest.approx(bill)
    assert report.ledger.billed_usd == pytest.approx(bill)


@pytest.mark.usefixtures("small_limits")
def test_what_had_no_room_goes_on_when_there_is_room_again() -> None:
    stage = Stage(*(gpu(index, activity=0.5) for index in range(GPUS)))
    for turn in range(20):
        churning(stage, turn)
        stage.cycle()
    held = stage.held[-1].holder
    stage.cycle(times=61)  # the ended ones are let go
    report = stage.cycle(times=10)
    assert values(report, "gpucost_pod_cost_usd_total", pod=held.pod, state="used")[0] > 0
    assert "pod_limit" not in {p.kind for p in report.problems}
    assert abs(imbalance_usd(report.ledger)) < 1e-9


def test_a_day_of_ten_thousand_pods_takes_no_memory_or_series_that_are_not_given_back() -> None:
    """24 hours in cycles of 69 s, each with eight other pods: 10,000 in all."""
    stage = Stage(*(gpu(index, activity=0.5) for index in range(GPUS)))
    tracemalloc.start()
    try:
        taken, lines = [], []
        for turn in range(1252):
            churning(stage, turn)
            for it in tuple(stage.pods or {}):  # the workloads are few, as they are
                stage.show(pod(Holder(*it, "main"), workload=f"job-{turn % 20}"))
            report = stage.cycle(69.0)
            if turn % 250 == 249:
                taken.append(tracemalloc.get_traced_memory()[0])
                lines.append(encode(report).count(b"\n"))
    finally:
        tracemalloc.stop()
    assert len(report.ledger.pods) < 100
    assert lines == [lines[0]] * len(lines)
    # From the 6,000th pod on, when the caches of labels and months (lru_cache) are full.
    assert taken[-1] < 1.02 * taken[2]
