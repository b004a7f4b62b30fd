"""Which state a GPU-second is in: the order of the reasons, and that unknown is never idle."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

from gpucost.model import (
    HOLDER_STATES,
    NODE,
    NODE_STATES,
    WASTE_STATES,
    Activity,
    ContainerStatus,
    Holdings,
    Method,
    MigInstance,
    Node,
    Pod,
    Price,
    Process,
    Seat,
    Share,
    Signal,
    Snapshot,
    State,
    Tenure,
    UnitReading,
    Usage,
    unit_of,
)
from gpucost.waste import BACK_OFF, Thresholds, held_seconds, is_busy, usages
from stage import ADA, H100, NOW, gpu, pod

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gpucost.model import GpuReading

IDLE, BUSY, BLIND = 0.0, 0.75, None
PRICE = Price(3.6, "on_demand", "table", "per_gpu")

STARTED = Tenure("u", opened_at=0.0, since=NOW, held_at=0.0, started=True)
NOT_YET = replace(STARTED, started=False)

RUNNING = pod()
PROBED = pod(ready=False, ready_probe=True)
UNREADY = pod(ready=False)
DELETED = pod(deleted=True)


def with_container(it: Pod, **fields: Any) -> Pod:  # noqa: ANN401 - whatever ContainerStatus takes
    return replace(it, containers=(ContainerStatus(ADA.container, **fields),))


def beside(it: Pod, **fields: Any) -> Pod:  # noqa: ANN401 - whatever ContainerStatus takes
    """The pod with another container beside its own."""
    return replace(it, containers=(*it.containers, ContainerStatus("other", **fields)))


BACKING_OFF = with_container(UNREADY, waiting="CrashLoopBackOff", restarts=5, last_exit_code=1)
PULLING = with_container(UNREADY, waiting="ImagePullBackOff")
CREATING = with_container(UNREADY, waiting="ContainerCreating")
LOOPING = with_container(UNREADY, running=True, restarts=2, last_exit_code=1)
RESTARTED = with_container(UNREADY, running=True, restarts=1, last_exit_code=1)
COMPLETED = with_container(UNREADY, running=True, restarts=9, last_exit_code=0)
INIT_FAILS = replace(
    with_container(UNREADY, waiting="PodInitializing"),
    containers=(
        ContainerStatus(ADA.container, waiting="PodInitializing"),
        ContainerStatus("fetch-model", waiting="CrashLoopBackOff", init=True),
    ),
)


def part(*, measured: bool = True, **fields: Any) -> Share:  # noqa: ANN401 - whatever Share takes
    stated: dict[str, Any] = {
        "gpu_uuid": "GPU-0",
        "seat": Seat(ADA, H100),
        "ratio": 1.0,
        "unit": unit_of("GPU-0"),
        "instance": None,
        "slot": None,
        "holder": ADA,
        "method": Method.EXCLUSIVE,
        "measured": measured,
    }
    return Share(**{**stated, **fields})


def usage(
    reading: GpuReading,
    share: Share,
    *,
    shown: Pod | None = None,
    tenure: Tenure = STARTED,
    thresholds: Thresholds | None = None,
    clock: float = 100.0,
    price: Price = PRICE,
    assumed: bool = False,
) -> Usage:
    snapshot = Snapshot(
        wall_time=NOW,
        node=Node("node-1"),
        node_known=True,
        gpus=(reading,),
        holdings=Holdings(assumed=assumed),
        pods=None if shown is None else {(ADA.namespace, ADA.pod): shown},
    )
    [found] = usages(
        snapshot,
        (share,),
        {Seat(ADA, H100): tenure},
        {"GPU-0": price},
        thresholds or Thresholds(),
        clock,
    )
    return found


def states(found: Usage) -> Mapping[State, float]:
    return {rate.state: rate.gpus for rate in found.rates}


USED = {State.USED: 0.75, State.UNDERUSED: 0.25}
OLD = 1900.0
"""A clock past `starting_max_seconds`."""


@pytest.mark.parametrize(
    ("shown", "activity", "tenure", "clock", "expected"),
    [
        # Work decides, where nothing is wrong.
        (RUNNING, BUSY, STARTED, 100.0, USED),
        (RUNNING, IDLE, STARTED, 100.0, State.IDLE),
        (RUNNING, BLIND, STARTED, 100.0, State.UNMEASURED),
        # The API server shows no such pod, or is silent: nothing but the activity is known.
        (None, BUSY, STARTED, 100.0, USED),
        (None, IDLE, STARTED, OLD, State.IDLE),
        (None, BLIND, STARTED, 100.0, State.UNMEASURED),
        # A cold start, for as long as it may take; with work or without, seen or not.
        (PROBED, IDLE, NOT_YET, 100.0, State.STARTING),
        (PROBED, BUSY, NOT_YET, 100.0, State.STARTING),
        (PROBED, BLIND, NOT_YET, 100.0, State.STARTING),
        (RUNNING, IDLE, NOT_YET, 1799.9, State.STARTING),
        (CREATING, IDLE, NOT_YET, 100.0, State.STARTING),
        (RESTARTED, IDLE, NOT_YET, 100.0, State.STARTING),
        # Past that: Ready and doing nothing is idle, not Ready and doing nothing has failed.
        (RUNNING, IDLE, NOT_YET, 1800.0, State.IDLE),
        (PROBED, IDLE, NOT_YET, 1800.0, State.FAILING),
        (CREATING, IDLE, NOT_YET, OLD, State.FAILING),
        (PROBED, BUSY, NOT_YET, OLD, USED),
        (PROBED, BLIND, NOT_YET, OLD, State.UNMEASURED),
        # Once started, a readiness that comes and goes is not a cold start.
        (PROBED, IDLE, STARTED, 100.0, State.IDLE),
        (PROBED, BUSY, STARTED, 100.0, USED),
        (PROBED, IDLE, STARTED, OLD, State.FAILING),
        # The kubelet has given up for now: before starting, and whatever the signal says.
        (BACKING_OFF, IDLE, NOT_YET, 100.0, State.FAILING),
        (BACKING_OFF, BLIND, STARTED, 100.0, State.FAILING),
        (BACKING_OFF, BUSY, STARTED, 100.0, State.FAILING),
        (PULLING, IDLE, NOT_YET, 100.0, State.FAILING),
        (INIT_FAILS, IDLE, NOT_YET, 100.0, State.FAILING),
        # Between two back-offs the container runs.
        (LOOPING, IDLE, STARTED, 100.0, State.FAILING),
        (LOOPING, BUSY, STARTED, 100.0, USED),
        (RESTARTED, IDLE, STARTED, 100.0, State.IDLE),
        (COMPLETED, IDLE, STARTED, 100.0, State.IDLE),
        # Another container's trouble is not this one's while this one runs.
        (beside(RUNNING, waiting="CrashLoopBackOff"), BUSY, STARTED, 100.0, USED),
        # Deleted and still holding: after failing, before starting and work.
        (DELETED, BUSY, STARTED, 100.0, State.TERMINATING),
        (DELETED, BLIND, STARTED, 100.0, State.TERMINATING),
        (replace(PROBED, deleted=True), IDLE, NOT_YET, 100.0, State.TERMINATING),
        (replace(BACKING_OFF, deleted=True), IDLE, STARTED, 100.0, State.FAILING),
    ],
)
def test_a_held_part_is_in_the_first_state_that_applies(
    shown: Pod | None,
    activity: float | None,
    tenure: Tenure,
    clock: float,
    expected: State | dict[State, float],
) -> None:
    found = usage(gpu(activity=activity), part(), shown=shown, tenure=tenure, clock=clock)
    assert states(found) == (expected if isinstance(expected, dict) else {expected: 1.0})
    assert found.paid_by == Seat(ADA, H100)


@pytest.mark.parametrize("reason", sorted(BACK_OFF))
def test_every_back_off_is_failing(reason: str) -> None:
    found = usage(gpu(), part(), shown=with_container(UNREADY, waiting=reason))
    assert states(found) == {State.FAILING: 1.0}


@pytest.mark.parametrize("shown", [None, RUNNING, BACKING_OFF, DELETED, PROBED])
@pytest.mark.parametrize("tenure", [STARTED, NOT_YET])
def test_a_fault_comes_before_everything_and_the_node_pays(
    shown: Pod | None, tenure: Tenure
) -> None:
    found = usage(gpu(activity=BUSY, faults=("lost",)), part(), shown=shown, tenure=tenure)
    assert states(found) == {State.UNHEALTHY: 1.0}
    assert found.paid_by == Seat(NODE, H100)


def test_by_setting_the_holder_pays_for_a_fault() -> None:
    found = usage(gpu(faults=("lost",)), part(), thresholds=Thresholds(unhealthy_paid_by="holder"))
    assert states(found) == {State.UNHEALTHY: 1.0}
    assert found.paid_by == Seat(ADA, H100)


# --- What nobody holds --------------------------------------------------------------------------

NOBODYS = part(seat=Seat(NODE, H100), holder=None, state=State.UNALLOCATED)
SOMEONE, NO_ONE = (Process(pid=4711),), ()


@pytest.mark.parametrize(
    ("activity", "processes", "assumed", "state"),
    [
        # The kubelet says that it is free.
        (IDLE, None, False, State.UNALLOCATED),
        (IDLE, SOMEONE, False, State.UNALLOCATED),
        (BLIND, None, False, State.UNALLOCATED),
        (BLIND, NO_ONE, False, State.UNALLOCATED),
        # It is free and works all the same: a process of no pod.
        (BUSY, None, False, State.UNATTRIBUTED),
        (BUSY, NO_ONE, False, State.UNATTRIBUTED),
        # Someone is on it, and nothing says whether they work.
        (BLIND, SOMEONE, False, State.UNATTRIBUTED),
        # A machine without Kubernetes, where nobody says that it is free.
        (IDLE, None, True, State.UNALLOCATED),
        (BUSY, None, True, State.UNATTRIBUTED),
        (BLIND, NO_ONE, True, State.UNALLOCATED),
        (BLIND, SOMEONE, True, State.UNATTRIBUTED),
        (BLIND, None, True, State.UNATTRIBUTED),
    ],
)
def test_a_free_part_is_unallocated_only_where_it_is_known_to_be(
    activity: float | None,
    processes: tuple[Process, ...] | None,
    assumed: bool,  # noqa: FBT001 - a column of the table
    state: State,
) -> None:
    reading = gpu(activity=activity)
    reading = replace(reading, reading=replace(reading.reading, processes=processes))
    found = usage(reading, NOBODYS, assumed=assumed)
    assert states(found) == {state: 1.0}
    assert found.paid_by == Seat(NODE, H100)


@pytest.mark.parametrize("state", [State.STRANDED, State.UNATTRIBUTED])
@pytest.mark.parametrize("activity", [IDLE, BUSY, BLIND])
def test_what_attribution_says_of_a_free_part_stays(state: State, activity: float | None) -> None:
    found = usage(gpu(activity=activity), replace(NOBODYS, state=state))
    assert states(found) == {state: 1.0}


@pytest.mark.parametrize("state", [State.STRANDED, State.UNATTRIBUTED, State.UNALLOCATED])
def test_a_faulty_gpu_is_unhealthy_in_all_its_parts(state: State) -> None:
    found = usage(gpu(faults=("lost",)), replace(NOBODYS, state=state))
    assert states(found) == {State.UNHEALTHY: 1.0}


def test_the_free_replicas_of_a_working_gpu_are_unallocated() -> None:
    # Who works is one of those who hold the others: the free ones do not.
    found = usage(gpu(activity=BUSY), replace(NOBODYS, measured=False, ratio=0.25))
    assert states(found) == {State.UNALLOCATED: 0.25}


# --- Figures ------------------------------------------------------------------------------------


def test_dollars_follow_the_share_the_activity_and_the_price() -> None:
    found = usage(gpu(activity=(0.6, 0.9)), part(ratio=0.5))
    assert {rate.state: rate.usd_per_second for rate in found.rates} == {
        State.USED: pytest.approx(0.001 * 0.5 * 0.6),
        State.UNDERUSED: pytest.approx(0.001 * 0.5 * 0.4),
    }
    assert found.activity == 0.6


def test_without_a_price_there_are_seconds_and_no_dollars() -> None:
    found = usage(gpu(activity=BUSY), part(), price=Price(None, "", "none", "none"))
    assert states(found) == USED
    assert {rate.usd_per_second for rate in found.rates} == {None}


def test_a_price_of_0_that_somebody_stated_is_0_dollars() -> None:
    found = usage(gpu(), part(), price=replace(PRICE, usd_per_hour=0.0))
    assert [rate.usd_per_second for rate in found.rates] == [0.0]


def test_what_several_did_together_is_nobodys_measure() -> None:
    found = usage(gpu(activity=BUSY, memory_used_bytes=5), part(measured=False), shown=RUNNING)
    assert states(found) == {State.UNMEASURED: 1.0}
    assert (found.activity, found.memory_used_bytes) == (None, None)


def test_a_mig_instance_is_judged_by_its_own_reading() -> None:
    mig = tuple(MigInstance(gi, 0, "1g", 1) for gi in (1, 2))
    readings = tuple(
        UnitReading(activity=Activity(ratio, ratio, Signal.DCGM_GR_ENGINE)) for ratio in (0.0, 1.0)
    )
    reading = gpu(activity=BUSY)
    reading = replace(reading, device=replace(reading.device, mig=mig), instances=readings)
    idle = usage(reading, part(ratio=1 / 7, instance=mig[0], slot=0))
    busy = usage(reading, part(ratio=1 / 7, instance=mig[1], slot=1))
    assert states(idle) == {State.IDLE: pytest.approx(1 / 7)}
    assert states(busy)[State.USED] == pytest.approx(1 / 7)


@pytest.mark.parametrize(
    ("activity", "busy"),
    [((0.0, 0.0), False), ((0.0, 0.009), False), ((0.0, 0.01), True), ((1.0, 1.0), True)],
)
def test_the_peak_and_not_the_mean_makes_a_cycle_busy(
    activity: tuple[float, float],
    busy: bool,  # noqa: FBT001 - a column of the table
) -> None:
    assert is_busy(Activity(*activity, Signal.NVML_SAMPLES), 0.01) is busy
    found = states(usage(gpu(activity=activity), part()))
    assert (State.IDLE in found) is not busy


def test_nothing_is_idle_where_the_threshold_is_0() -> None:
    assert is_busy(Activity(0.0, 0.0, Signal.NVML_SAMPLES), 0.0)


def test_holding_counts_from_the_pods_start_by_the_ledgers_clock() -> None:
    assert held_seconds(replace(STARTED, held_at=40.0, held_before=25.0), 100.0) == 85.0
    assert held_seconds(replace(STARTED, held_at=None), 100.0) == 0.0


def test_states_are_the_nodes_or_the_holders_and_waste_is_the_holders() -> None:
    assert set(NODE_STATES) | set(HOLDER_STATES) == set(State)
    assert not set(NODE_STATES) & set(HOLDER_STATES)
    assert set(HOLDER_STATES) - set(WASTE_STATES) == {State.USED, State.UNMEASURED}
