"""Scaling on cost, over simulated days: it wakes, never locks itself in, keeps to the budget.

The law is rules/scaling.yaml, by its twin in Python (test_scaling_twin.py holds the two together),
and KEDA and the HPA are told what the chart's ScaledObject says.
"""

from __future__ import annotations

import functools
import itertools
import math
import random
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaled_service import DELAY_STEPS, STEP, Moment, Service, chart_service, chart_target, run
from scaling_law import Law, Seen, need

if TYPE_CHECKING:
    from collections.abc import Callable

DAY = 86_400.0
HOUR = 3600.0
WAKE_SECONDS = 150
"""From the first request at a sleeping service to a replica asked for."""

# --- Laws of the law --------------------------------------------------------------------------

LAWS = st.sampled_from([(0.7, 0.3), (0.85, 0.4), (0.6, 0.25), (0.9, 0.89), (1.0, 0.01)])


@given(LAWS, st.floats(0, 1000), st.integers(0, 100))
def test_what_is_needed_once_is_needed_still_when_it_is_there(
    ratios: tuple[float, float], requests: float, replicas: int
) -> None:
    law = Law(up_ratio=ratios[0], down_ratio=ratios[1], requests_per_replica=1)

    def needed(now: int) -> int:
        found = need(law, Seen(replicas=now, ready=now, awake=requests > 0, requests=requests))
        assert found is not None
        return found

    assert needed(needed(replicas)) == needed(replicas)
    assert needed(replicas) <= max(replicas, math.ceil(requests / ratios[1]), 1)


@given(LAWS, st.floats(0, 0.29), st.integers(1, 100))
def test_replicas_that_idle_are_never_added_to(
    ratios: tuple[float, float], load: float, replicas: int
) -> None:
    law = Law(up_ratio=ratios[0], down_ratio=ratios[1], requests_per_replica=1)
    seen = Seen(replicas=replicas, ready=replicas, awake=True, requests=load * replicas)
    assert (need(law, seen) or 0) <= replicas


# --- Days -------------------------------------------------------------------------------------

PROFILES = ("realtime", "interactive", "batch")


WORDS = "requestsPerReplica: 10, usdPerRequest: 0.002, usdPerHour: 26, maxReplicas: 20"
LAW, _ = chart_target(WORDS)


def diurnal(second: float) -> float:
    """Requests a second: none at night, six at noon."""
    return max(0.0, 6 * math.sin(2 * math.pi * (second / DAY - 0.25)))


def bursty(second: float) -> float:
    """Ten a second for ten minutes of every two hours, else one in ten seconds."""
    return 10.0 if second % (2 * HOUR) < 600 else 0.1


def near_zero(second: float) -> float:
    """One request in twenty minutes."""
    return 1 / STEP if second % 1200 < STEP else 0.0


def steady(rate: float) -> Callable[[float], float]:
    return lambda _: rate


def noisy(rate: float) -> Callable[[float], float]:
    """Poisson by steps, the same in every run."""
    dice = random.Random(7)  # noqa: S311 - no secret
    steps = [
        sum(1 for _ in range(400) if dice.random() < rate * STEP / 400) / STEP for _ in range(6000)
    ]
    return lambda second: steps[int(second / STEP) % len(steps)]


TRAFFIC: dict[str, Callable[[float], float]] = {
    "diurnal": diurnal,
    "bursty": bursty,
    "near zero": near_zero,
    "steady": steady(3.0),
    "noisy": noisy(3.0),
    "few and noisy": noisy(1.0),
    "saturation": steady(40.0),
    "a queue at zero": lambda second: 20.0 if HOUR <= second < HOUR + 60 else 0.0,
    "nothing": steady(0.0),
}


@functools.cache
def days(name: str, profile: str, *, tells: bool) -> list[Moment]:
    law, keda = chart_target(WORDS, profile)
    service = Service(law=law, keda=keda, arrivals=TRAFFIC[name], gateway_tells_arrivals=tells)
    return run(service, 2 * DAY)


@pytest.fixture(
    params=[
        *itertools.product(TRAFFIC, PROFILES, [False]),
        *itertools.product(TRAFFIC, ["realtime"], [True]),
    ],
    ids=lambda param: f"{param}",
)
def history(request: pytest.FixtureRequest) -> list[Moment]:
    """Two days of it; with and without a gateway that counts arrivals."""
    name, profile, tells = request.param
    return days(name, profile, tells=tells)


def test_it_always_wakes(history: list[Moment]) -> None:
    since: float | None = None
    for moment in history:
        if moment.waiting < 1e-3 or moment.wanted:
            since = None
        else:
            since = moment.second if since is None else since
            assert moment.second - since <= WAKE_SECONDS


def test_it_sleeps_when_nobody_asks(history: list[Moment]) -> None:
    quiet = 0.0
    for moment in history:
        quiet = 0.0 if moment.arrivals or moment.waiting > 1e-3 else quiet + STEP
        if quiet > HOUR / 2:
            assert moment.wanted == 0


def test_it_never_adds_replicas_to_ones_that_idle(history: list[Moment]) -> None:
    add_to_none_that_idle(history)


@pytest.mark.parametrize("traffic", ["bursty", "near zero", "few and noisy"])
def test_nor_where_no_cap_would_hold_it_back(traffic: str) -> None:
    words = "requestsPerReplica: 10, maxReplicas: 20"
    add_to_none_that_idle(run(chart_service(words, TRAFFIC[traffic]), DAY))


def add_to_none_that_idle(history: list[Moment]) -> None:
    for before, after in itertools.pairwise(history[8:]):
        if after.wanted > before.wanted >= 1:
            around = history[int(after.second / STEP) - 8 : int(after.second / STEP) + 1]
            busiest = max(each.need_load / max(each.ready, 1) for each in around)
            assert busiest > LAW.down_ratio, after


def test_it_costs_a_replica_or_a_tenth_more_than_the_budget_at_most(history: list[Moment]) -> None:
    assert LAW.usd_per_hour is not None
    allowed = LAW.usd_per_hour + max(4.0, 0.1 * LAW.usd_per_hour)
    assert max(each.usd_per_hour for each in history) <= allowed


def test_it_does_not_flap(history: list[Moment]) -> None:
    """What is taken away is not wanted again within a quarter of an hour."""
    changes = [
        (after.second, after.wanted - before.wanted)
        for before, after in itertools.pairwise(history)
        if after.wanted != before.wanted and after.wanted
    ]
    flaps = [
        (one, other)
        for one, other in itertools.pairwise(changes)
        if one[1] < 0 < other[1] and other[0] - one[0] < 900
    ]
    assert len(flaps) <= 2, flaps  # of one replica, in two days


def settled(service: Service, hours: float = 6) -> Moment:
    return run(service, hours * HOUR)[-1]


def wishes(moments: list[Moment]) -> list[int]:
    """The numbers of replicas, one after another."""
    return [wanted for wanted, _ in itertools.groupby(each.wanted for each in moments)]


# Ten a second take eight seconds each: 80 at once, so 16 replicas at half load. A full replica
# finishes 1.25 a second, for 9 USD an hour at 0.002; it costs 4.
TEN_A_SECOND = "requestsPerReplica: 10, usdPerRequest: 0.002, maxReplicas: 30"


@pytest.mark.parametrize("gateway", [5.0, 500.0])
def test_a_saturated_service_does_not_lock_itself_in(gateway: float) -> None:
    # Nearly all is turned away, or waits. The traffic pays for all of the replicas.
    moment = settled(chart_service(TEN_A_SECOND, steady(10.0), gateway=gateway))
    assert moment.wanted >= 12
    assert moment.refused < 0.01


def test_nor_one_whose_replicas_pay_for_one_and_a_half_each_while_the_rest_is_turned_away() -> None:
    words = "requestsPerReplica: 10, usdPerRequest: 0.00134, maxReplicas: 30"
    moment = settled(chart_service(words, steady(10.0), gateway=5))
    assert moment.wanted >= 12
    assert moment.refused < 0.01


def test_a_burst_gets_the_replicas_that_it_pays_for_at_once() -> None:
    """Not one at a time, each of which would have to load before it shows what it earns."""
    words = "requestsPerReplica: 10, usdPerRequest: 0.0018, maxReplicas: 30"
    begin = 3 * HOUR
    # The price is known by a first request.
    service = chart_service(
        words, lambda second: once(second) if second < begin else 10.0, gateway=1e6
    )
    moments = run(service, 4 * HOUR)
    assert moments[int(begin / STEP)].wanted == 0
    late = begin + service.node_seconds + service.loading_seconds + 300
    assert moments[int(late / STEP)].wanted >= 12


def test_traffic_that_does_not_pay_gets_one_replica_and_no_more() -> None:
    words = "requestsPerReplica: 10, usdPerRequest: 0.0002, maxReplicas: 30"
    moment = settled(chart_service(words, steady(10.0)))
    assert moment.wanted <= 2


def test_the_budget_holds_the_service_where_its_traffic_wants_more() -> None:
    moment = settled(chart_service(WORDS, steady(40.0)))
    assert moment.wanted == 6  # 26 USD an hour at 4


@pytest.mark.parametrize("cap", ["usdPerHour: 3", "usdPerRequest: 0.0001"])
def test_what_not_one_replica_is_allowed_for_is_woken_all_the_same(cap: str) -> None:
    """Or nobody would ever learn that its price fell; but only while it is asked for."""
    words = f"requestsPerReplica: 10, maxReplicas: 20, {cap}"
    moments = run(
        chart_service(words, lambda second: 0.5 if second % (4 * HOUR) < HOUR else 0.0), DAY
    )
    # From its second time on: until a first replica has a node, no price was ever known.
    assert wishes(moments[int(4 * HOUR / STEP) :]) == [0, *[1, 0] * 5]
    assert moments[int(4.9 * HOUR / STEP)].waiting == 0


def test_a_large_budget_is_kept_within_the_hpas_tolerance() -> None:
    words = "requestsPerReplica: 10, usdPerHour: 80, maxReplicas: 100"
    wave = chart_service(words, lambda second: 30 + 25 * math.sin(second / 5000))
    dear = max(each.usd_per_hour for each in run(wave, DAY))
    assert 76 <= dear <= 88


def test_a_price_that_rises_takes_replicas_away_until_the_budget_holds() -> None:
    rise = 3 * HOUR
    service = chart_service(
        WORDS, steady(40.0), usd_per_hour=lambda second: 8.0 if second >= rise else 4.0
    )
    moments = run(service, 6 * HOUR)
    assert moments[int(rise / STEP) - 1].wanted == 6
    # The HPA's window and its policy, and what is so until it is read.
    late = service.keda.scale_down_seconds + 60 + (DELAY_STEPS + 1) * STEP
    assert {each.wanted for each in moments if each.second > rise + late} == {3}


def test_what_lies_between_the_thresholds_changes_nothing() -> None:
    # Six a second, give or take 1.5: 48 at once. Eight replicas are from 45 to 75 % full.
    words = "requestsPerReplica: 10, maxReplicas: 20"
    wave = chart_service(words, lambda second: 6 + 1.5 * math.sin(second / 600))
    assert len(wishes(run(wave, DAY)[int(2 * HOUR / STEP) :])) == 1


@pytest.mark.parametrize("lost", ["lost", "silent"])
def test_without_metrics_what_runs_goes_on(lost: str) -> None:
    """Without Prometheus, and without the engines' pages."""
    words = "requestsPerReplica: 10, maxReplicas: 20"
    begin, end = 2 * HOUR, 4 * HOUR
    service = chart_service(words, steady(5.0), **{lost: lambda second: begin < second < end})
    moments = run(service, 6 * HOUR)
    before = moments[int(begin / STEP)].wanted
    assert before >= 6
    assert {each.wanted for each in moments[int(1.1 * begin / STEP) :]} == {before}


def test_without_metrics_a_sleeping_service_is_woken_to_its_fallback() -> None:
    words = "requestsPerReplica: 10, maxReplicas: 20"
    service = chart_service(words, steady(0.0), lost=lambda second: second > HOUR)
    moments = run(service, 2 * HOUR)
    assert moments[int(HOUR / STEP) - 1].wanted == 0
    assert moments[-1].wanted == 1


# --- Cold starts ------------------------------------------------------------------------------


def once(second: float) -> float:
    """One request."""
    return 1 / STEP if HOUR <= second < HOUR + STEP else 0.0


@pytest.mark.parametrize(
    ("node", "loading"), [(120.0, HOUR), (800.0, 180.0)], ids=["loading", "waiting for a node"]
)
def test_a_replica_is_not_ended_before_it_has_served(node: float, loading: float) -> None:
    """Its one request is long gone by then: its client gave up within minutes."""
    service = chart_service(
        WORDS, once, node_seconds=node, loading_seconds=loading, patience_seconds=10
    )
    moments = run(service, 4 * HOUR)
    assert wishes(moments) == [0, 1, 0]
    assert any(each.ready for each in moments)
    assert not any(each.waiting for each in moments if each.ready)


def test_a_node_that_never_comes_is_not_waited_for_for_good() -> None:
    service = chart_service(WORDS, once, node_seconds=DAY, patience_seconds=10)
    assert wishes(run(service, 4 * HOUR)) == [0, 1, 0]


def test_one_who_asks_every_four_minutes_is_never_let_wait_for_a_cold_start_again() -> None:
    service = chart_service(WORDS, lambda second: 1 / STEP if second % 240 < STEP else 0.0)
    assert wishes(run(service, DAY)) == [0, 1]
