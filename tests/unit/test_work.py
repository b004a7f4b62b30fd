"""Whose work it was on a shared GPU, told by its processes; and never idle where nobody knows."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from gpucost.attribution import attribute, shared_units
from gpucost.model import (
    NODE,
    Activity,
    ContainerStatus,
    Holder,
    Holding,
    Holdings,
    Process,
    Seat,
    Signal,
    State,
    UnitReading,
)
from gpucost.work import divide
from stage import H100, USD_PER_HOUR, Stage, gpu, pod

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gpucost.model import Pod, Problem

ADA = Holder("research", "ada", "main")
BOB = Holder("research", "bob", "main")
PROXY = replace(ADA, container="proxy")
UID = "{:08d}-4e5f-4a6b-8c7d-9e0f1a2b3c4d"
UIDS = {ADA.pod: UID.format(1), BOB.pod: UID.format(2)}
CIDS = {ADA: "a1" * 32, PROXY: "a2" * 32, BOB: "b1" * 32}


def cgroup(holder: Holder, container_id: str | None = None) -> str:
    cid = CIDS[holder] if container_id is None else container_id
    return f"0::/kubepods/burstable/pod{UIDS[holder.pod]}/{cid}\n"


def process(
    holder: Holder | None, sm: float | None = None, *, memory_bytes: int | None = None
) -> Process:
    text = "0::/init.scope\n" if holder is None else cgroup(holder)
    return Process(1, memory_bytes, text, sm, sm)


def pods(*holders: Holder) -> dict[tuple[str, str], Pod]:
    found: dict[tuple[str, str], Pod] = {}
    for holder in holders:
        key = (holder.namespace, holder.pod)
        status = ContainerStatus(holder.container, running=True, id=CIDS[holder])
        before = found.get(key, pod(holder, uid=UIDS[holder.pod], containers=()))
        found[key] = replace(before, containers=(*before.containers, status))
    return found


def shared(
    *processes: Process,
    activity: tuple[float, float] | None = (0.8, 0.9),
    holders: tuple[Holder, ...] = (ADA, BOB),
    shown: Mapping[tuple[str, str], Pod] | None = None,
    seen: bool = True,
) -> tuple[dict[str, UnitReading], list[Problem]]:
    """What is known of each holder of a replica of one GPU; of the rest as `rest`."""
    reading = UnitReading(
        activity=None if activity is None else Activity(*activity, Signal.GPM_GRAPHICS),
        processes=processes if seen else None,
    )
    card = replace(gpu(), reading=reading)
    name = card.device.uuid
    held = tuple(Holding(it, "nvidia.com/gpu", f"{name}::{n}") for n, it in enumerate(holders))
    offered = tuple(f"{name}::{n}" for n in range(4))
    shares, _ = attribute((card.device,), Holdings(held, offered))
    work, problems = divide(
        {name: card}, shared_units(shares), pods(*holders) if shown is None else shown, 0.01
    )
    labels = {Seat(it, H100): f"{it.pod}/{it.container}" for it in holders}
    labels[Seat(NODE, H100)] = "rest"
    return {labels[seat]: found for (seat, _), found in work.items()}, list(problems)


def activities(found: Mapping[str, UnitReading]) -> dict[str, float]:
    """The ratio of each whose activity is known."""
    return {who: it.activity.ratio for who, it in found.items() if it.activity is not None}


def test_busy_time_is_divided_as_the_processes_worked() -> None:
    found, problems = shared(process(ADA, 0.3), process(ADA, 0.3), process(BOB, 0.2))
    assert activities(found) == {
        "ada/main": pytest.approx(0.6),
        "bob/main": pytest.approx(0.2),
        "rest": 0.0,
    }
    assert problems == []


def test_a_holder_without_a_process_did_nothing_and_the_only_one_with_did_it_all() -> None:
    found, problems = shared(process(ADA, memory_bytes=7))
    assert activities(found) == {"ada/main": 0.8, "bob/main": 0.0, "rest": 0.0}
    assert [found[who].memory_used_bytes for who in ("ada/main", "bob/main")] == [7, 0]
    assert problems == []


def test_work_by_no_holder_is_the_rests() -> None:
    found, _ = shared(process(ADA, 0.4), process(None, 0.4))
    assert activities(found) == {
        "ada/main": pytest.approx(0.4),
        "bob/main": 0.0,
        "rest": pytest.approx(0.4),
    }


def test_without_the_hosts_pids_nobody_is_idle_and_one_problem_says_what_to_enable() -> None:
    for processes, seen in (
        ((), False),
        ((Process(1), Process(2)), True),
        ((process(ADA, 0.5), Process(2)), True),
    ):
        found, problems = shared(*processes, seen=seen)
        assert activities(found) == {}
        assert [problem.kind for problem in problems] == ["shared_unmeasured"]
        assert "hostPID" in problems[0].remedy


def test_under_mps_nobody_is_idle_and_the_problem_says_why() -> None:
    found, problems = shared(process(ADA, 0.5), Process(9, cgroup="0::/", mps=True))
    assert activities(found) == {}
    assert "MPS" in problems[0].message


def test_without_samples_only_those_without_a_process_are_known() -> None:
    holders = (ADA, BOB, PROXY)
    found, problems = shared(process(ADA), process(BOB), holders=holders)
    assert activities(found) == {"ada/proxy": 0.0, "rest": 0.0}
    assert "does not say which of them works" in problems[0].message


def test_a_busy_gpu_whose_processes_show_no_work_is_not_idle_time_of_theirs() -> None:
    found, _ = shared(process(ADA, 0.0), process(BOB, 0.0))
    assert activities(found) == {"rest": 0.0}
    found, _ = shared(process(ADA, 0.0), process(BOB, 0.0), activity=(0.0, 0.004))
    assert activities(found) == {"ada/main": 0.0, "bob/main": 0.0, "rest": 0.0}


def test_a_busy_gpu_without_any_process_is_nobodys_known_work() -> None:
    assert activities(shared()[0]) == {}
    assert activities(shared(Process(3, cgroup=""))[0]) == {}
    assert activities(shared(activity=(0.0, 0.0))[0]) == {
        "ada/main": 0.0,
        "bob/main": 0.0,
        "rest": 0.0,
    }


def test_the_processes_alone_tell_where_the_gpu_has_no_signal() -> None:
    found, _ = shared(process(ADA, 0.5), process(BOB, 0.25), activity=None)
    assert activities(found) == {"ada/main": 0.5, "bob/main": 0.25, "rest": 0.0}
    assert {it.activity.signal for it in found.values() if it.activity} == {Signal.PROCESSES}
    # One alone is not measured by the process: that needs the GPU's own signal.
    assert activities(shared(process(ADA), activity=None)[0]) == {"bob/main": 0.0, "rest": 0.0}


def test_containers_of_a_pod_are_told_apart_by_their_ids() -> None:
    holders = (ADA, PROXY, BOB)
    found, _ = shared(process(ADA, 0.3), process(PROXY, 0.1), holders=holders)
    assert activities(found)["ada/main"] == pytest.approx(0.6)
    assert activities(found)["ada/proxy"] == pytest.approx(0.2)


def test_a_process_of_an_unknown_container_makes_only_its_pods_holders_unknown() -> None:
    new = Process(1, None, cgroup(ADA, "e5" * 32), 0.4, 0.4)
    found, problems = shared(new, process(BOB, 0.4), holders=(ADA, PROXY, BOB))
    assert activities(found) == {"rest": 0.0}
    assert "several containers of one pod" in problems[0].message
    # With one holder in the pod there is no doubt: a helper's container works for its pod.
    found, problems = shared(new, process(BOB, 0.4))
    assert activities(found)["ada/main"] == pytest.approx(0.4)
    assert problems == []


def test_a_pod_that_the_api_server_has_not_shown_is_not_idle() -> None:
    for shown in ({}, pods(BOB)):
        found, problems = shared(process(ADA, 0.4), shown=shown)
        assert activities(found) == {}
        assert "API server" in problems[0].message


def test_a_memory_that_is_not_told_is_not_a_zero() -> None:
    found, _ = shared(process(ADA, 0.1, memory_bytes=5), process(ADA, 0.1), process(BOB, 0.1))
    assert found["ada/main"].memory_used_bytes is None


SOME = st.sampled_from((ADA, BOB, PROXY, Holder("research", "ada", "third")))


@given(
    st.lists(st.tuples(SOME, st.integers(0, 9)), max_size=8),
    st.none() | st.integers(0, 10),
    st.none()
    | st.lists(
        st.tuples(
            st.none() | st.sampled_from((ADA, BOB, PROXY)),
            st.none() | st.floats(0, 1),
            st.sampled_from(("seen", "hidden", "gone", "mps", "new")),
        ),
        max_size=6,
    ),
    st.none() | st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted),
    st.booleans(),
)
def test_shares_sum_to_1_and_no_pod_is_charged_more_than_it_reserved(
    held: list[tuple[Holder, int]],
    offered: int | None,
    processes: list[tuple[Holder | None, float | None, str]] | None,
    activity: list[float] | None,
    shown: bool,  # noqa: FBT001 - hypothesis gives it by place
) -> None:
    made = None
    if processes is not None:
        made = tuple(
            Process(
                pid,
                None,
                {"hidden": None, "gone": "", "new": cgroup(who or ADA, "e5" * 32)}.get(
                    how, "0::/" if who is None else cgroup(who)
                ),
                sm,
                sm,
                mps=how == "mps",
            )
            for pid, (who, sm, how) in enumerate(processes)
        )
    card = replace(
        gpu(),
        reading=UnitReading(
            None if activity is None else Activity(activity[0], activity[1], Signal.NVML_SAMPLES),
            processes=made,
        ),
    )
    name = card.device.uuid
    stage = Stage(card)
    stage.held = [Holding(it, "x", f"{name}::{n}") for it, n in held]
    stage.offered = None if offered is None else tuple(f"{name}::{n}" for n in range(offered))
    stage.pods = pods(ADA, PROXY, BOB) if shown else None
    report = stage.cycle(100.0, times=2)

    parts = {usage.share.seat: usage.share.ratio for usage in report.usages}
    assert math.isclose(math.fsum(parts.values()), 1.0)
    reserved: dict[Holder, set[int]] = {}
    for holder, replica in held:
        reserved.setdefault(holder, set()).add(replica)
    count = max(offered or 0, len({replica for _, replica in held}), 1)
    for usage in report.usages:
        usd = 100.0 * math.fsum(rate.usd_per_second or 0.0 for rate in usage.rates)
        states = {rate.state for rate in usage.rates}
        if usage.share.holder is None:
            assert states <= {State.UNALLOCATED, State.UNATTRIBUTED}
            continue
        most = len(reserved[usage.share.holder]) / count
        assert usd <= USD_PER_HOUR / 3600 * 100.0 * most * (1 + 1e-9)
        if made is None and len(reserved) > 1:
            assert states <= {State.UNMEASURED, State.STARTING}
    assert abs(report.ledger.billed_usd - 100.0 * USD_PER_HOUR / 3600) < 1e-9


def test_two_pods_with_hidden_processes_cost_the_same_and_are_both_unmeasured() -> None:
    card = replace(gpu(), reading=UnitReading(Activity(0.8, 0.9, Signal.NVML_SAMPLES)))
    name = card.device.uuid
    stage = Stage(card)
    stage.held = [Holding(ADA, "x", f"{name}::0"), Holding(BOB, "x", f"{name}::1")]
    stage.offered = (f"{name}::0", f"{name}::1")
    stage.pods = pods(ADA, BOB)
    report = stage.cycle(100.0, times=2)
    rates = [rate for usage in report.usages for rate in usage.rates]
    assert [(rate.state, rate.gpus) for rate in rates] == [(State.UNMEASURED, 0.5)] * 2
    assert [problem.kind for problem in report.problems] == ["shared_unmeasured"]
