"""A pod pays from its start and until its end, wherever in a cycle they lie."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpucost.ledger import imbalance_usd
from gpucost.model import Holder, Holding, Report
from stage import ADA, NOW, Stage, by_label, gpu, pod

BEN = Holder("research", "jupyter-ben-0", "notebook")


def seconds(report: Report) -> dict[str, float]:
    """The GPU-seconds by pod."""
    found = by_label(report, "gpucost_pod_gpu_seconds_total", "pod")
    return {name: round(value, 9) for name, value in found.items()}


def states(report: Report) -> dict[str, float]:
    """The GPU's seconds by state."""
    found = by_label(report, "gpucost_gpu_seconds_total", "state")
    return {state: round(value, 9) for state, value in found.items()}


def test_a_pod_pays_from_its_place_on_the_node_and_what_was_before_is_free() -> None:
    stage = Stage(gpu(0, activity=0.0))
    stage.cycle(times=3)
    stage.hold(shown=pod(ready_probe=True, started_at=stage.wall + 3.0))
    report = stage.cycle(5.0)
    assert seconds(report) == {ADA.pod: 2.0}
    assert states(report) == {"unallocated": 13.0, "idle": 2.0}
    assert seconds(stage.cycle(5.0)) == {ADA.pod: 7.0}


def test_a_pod_pays_until_its_last_container_ended() -> None:
    stage = Stage(gpu(0, activity=0.5))
    stage.hold(shown=pod())
    stage.cycle(times=3)
    stage.end(at=stage.wall + 3.5)
    report = stage.cycle(5.0)
    assert seconds(report) == {ADA.pod: 13.5}
    # The work was its own: what nobody held after it did nothing.
    assert states(report) == {"used": 6.75, "underused": 6.75, "unallocated": 1.5}


def test_one_after_the_other_on_one_gpu_both_pay_what_they_had() -> None:
    stage = Stage(gpu(0, activity=0.0))
    stage.hold(shown=pod())
    stage.cycle(times=3)
    stage.end(at=stage.wall + 1.0)
    stage.hold(BEN, shown=pod(BEN, ready_probe=True, started_at=stage.wall + 4.0))
    report = stage.cycle(5.0)
    assert seconds(report) == {ADA.pod: 11.0, BEN.pod: 1.0}
    assert states(report) == {"idle": 12.0, "unallocated": 3.0}
    # Who holds now, and what it costs an hour, is not what was paid for in this cycle.
    assert by_label(report, "gpucost_pod_gpu_share_ratio", "pod") == {BEN.pod: 1.0}
    assert by_label(report, "gpucost_pod_cost_usd_per_hour", "pod") == {BEN.pod: 3.6}


def test_clocks_that_differ_give_no_second_to_two() -> None:
    stage = Stage(gpu(0, activity=0.0))
    stage.hold(shown=pod())
    stage.cycle(times=3)
    stage.end(at=stage.wall + 4.0)
    stage.hold(BEN, shown=pod(BEN, ready_probe=True, started_at=stage.wall + 2.0))
    report = stage.cycle(5.0)
    assert seconds(report) == {ADA.pod: 12.0, BEN.pod: 3.0}
    assert states(report) == {"idle": 15.0}


@pytest.mark.parametrize("started_at", [None, NOW - 3600.0])
def test_where_no_moment_in_the_cycle_is_told_it_is_whole(started_at: float | None) -> None:
    stage = Stage(gpu(0, activity=0.0))
    stage.cycle(times=3)
    stage.hold(shown=pod(started_at=started_at))
    assert seconds(stage.cycle(5.0)) == {ADA.pod: 5.0}
    stage.end()
    assert seconds(stage.cycle(5.0)) == {ADA.pod: 5.0}


def test_after_a_silence_of_the_kubelet_nobody_knows_who_held_before() -> None:
    stage = Stage(gpu(0, activity=0.0))
    stage.kubelet_speaks = False
    stage.cycle(times=3)
    stage.kubelet_speaks = True
    stage.hold(shown=pod(started_at=stage.wall + 3.0))
    assert seconds(stage.cycle(5.0)) == {ADA.pod: 5.0}


def test_a_lost_gpu_is_unhealthy_before_and_after_all_of_them() -> None:
    stage = Stage(gpu(0, faults=("lost",)))
    stage.hold(shown=pod())
    stage.cycle(times=3)
    stage.end(at=stage.wall + 1.0)
    stage.hold(BEN, shown=pod(BEN, ready_probe=True, started_at=stage.wall + 4.0))
    assert states(stage.cycle(5.0)) == {"unhealthy": 15.0}


def test_of_a_replica_only_its_own_part_of_the_gpu_changes_hands() -> None:
    stage = Stage(gpu(0, activity=0.0))
    stage.offered = ("GPU-0::0", "GPU-0::1")
    stage.held = [Holding(ADA, "nvidia.com/gpu", "GPU-0::0")]
    stage.show(pod())
    stage.cycle(times=3)
    stage.held.append(Holding(BEN, "nvidia.com/gpu", "GPU-0::1"))
    stage.show(pod(BEN, ready_probe=True, started_at=stage.wall + 1.0))
    report = stage.cycle(5.0)
    assert seconds(report) == {ADA.pod: 7.5, BEN.pod: 2.0}
    assert sum(states(report).values()) == pytest.approx(15.0)


def test_a_pod_that_ended_after_its_counters_have_ended_is_not_charged() -> None:
    stage = Stage(gpu(0, activity=0.0), linger_seconds=0.0)
    stage.hold(shown=pod())
    stage.cycle(times=3)
    stage.end(at=stage.wall + 3.0)
    report = stage.cycle(5.0)
    assert sum(states(report).values()) == pytest.approx(15.0)
    assert abs(imbalance_usd(report.ledger)) < 1e-9


@given(
    began=st.integers(1, 200), lasted=st.integers(1, 300), cycle=st.sampled_from((1, 3, 5, 60, 300))
)
def test_however_the_cycles_fall_a_pod_pays_for_its_life(
    began: int, lasted: int, cycle: int
) -> None:
    """Unless it lives between two looks: then nobody knows what it held."""
    stage = Stage(gpu(0, activity=0.0))
    stage.cycle()
    start, end = NOW + began, NOW + began + lasted
    seen = False
    report = stage.cycle(0.0)
    while stage.wall < end + cycle:
        if not seen and start <= stage.wall + cycle < end:
            stage.hold(shown=pod(started_at=start))
            seen = True
        elif seen and stage.held and stage.wall + cycle >= end:
            stage.end(at=end)
        report = stage.cycle(cycle)
    assert sum(seconds(report).values()) == pytest.approx(lasted if seen else 0)
    assert sum(states(report).values()) == pytest.approx(stage.wall - NOW)
    assert abs(imbalance_usd(report.ledger)) < 1e-9
