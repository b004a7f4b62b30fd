"""Scaling on cost, over simulated days: it wakes, never locks itself in, keeps to the budget.

The law is rules/scaling.yaml, by its twin in Python; the first test holds the two together.
"""

from __future__ import annotations

import itertools
import math
import random
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from helm_chart import install
from programs import ROOT, program
from render_rules import Scaling, Settings, rendered
from scaled_service import STEP, Moment, Service, run
from scaling_law import Law, Seen, affordable, budget, desired, formula, need

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

DAY = 86_400.0
HOUR = 3600.0
WAKE_SECONDS = 150
"""From the first request at a sleeping service to a replica asked for."""


# --- The twin is the rules --------------------------------------------------------------------


def situations(count: int) -> list[tuple[Law, Seen]]:
    """All sorts of steady ones, the same in every run."""
    dice = random.Random(11)  # noqa: S311 - no secret
    made = []
    for _ in range(count):
        by_requests = dice.random() < 0.7
        replicas = dice.choice([0, 0, 1, 1, 2, 3, 5, 9])
        ready = dice.randint(0, replicas)
        requests = float(dice.choice([0, 0, 1, 2, 5, 9, 17, 40, 88])) if ready else 0.0
        law = Law(
            up_ratio=dice.choice([0.7, 0.85, 0.6]),
            down_ratio=dice.choice([0.3, 0.4, 0.25]),
            requests_per_replica=dice.choice([1.0, 4.0, 10.0]) if by_requests else None,
            usd_per_request=dice.choice([None, 0.0001, 0.001]),
            usd_per_hour=dice.choice([None, 3.0, 13.0, 40.0]),
            min_replicas=dice.choice([0, 1, 2]),
            max_replicas=dice.choice([2, 8, 10]),
        )
        activity = dice.choice([0.0, 0.05, 0.2, 0.35, 0.8, 1.0]) if ready else None
        finished = dice.choice([0.0, 1.0, 3.0, 30.0]) if ready else None
        busy = activity is not None and activity * ready > 0.01 and not by_requests
        awake = bool(requests or busy or finished or replicas > ready)
        made.append(
            (
                law,
                Seen(
                    replicas=replicas,
                    ready=ready,
                    awake=awake,
                    requests=requests,
                    activity=activity,
                    offered=finished,
                    replica_usd_per_hour=4.0 if replicas else None,
                ),
            )
        )
    return made


def series_of(number: int, law: Law, seen: Seen) -> list[tuple[str, str]]:
    """What settings and exporter show for as long as the test takes: name and values."""
    names = f'namespace="n", workload="w{number}"'
    steady = "x200"
    shown = [
        (f"scaling:gpucost_{field}:setting{{{names}}}", f"{value}{steady}")
        for field in law.__struct_fields__
        if (value := getattr(law, field)) is not None
    ]
    for pod in range(seen.replicas):
        of = f'{names}, node="a", pod="w{number}-{pod}"'
        payer = f'{of}, container="c", gpu_model="H100", capacity_type="spot"'
        shown.append((f"gpucost_pod_holding_since_timestamp_seconds{{{payer}}}", f"1{steady}"))
        shown.append((f"gpucost_pod_cost_usd_per_hour{{{payer}}}", f"4{steady}"))
        starts = int(pod >= seen.ready)
        shown.append(
            (f'gpucost_pod_waste_usd_per_hour{{{payer}, reason="starting"}}', f"{starts}{steady}")
        )
        if starts:
            continue
        if seen.activity is not None:
            shown.append((f"gpucost_pod_activity_ratio{{{payer}}}", f"{seen.activity}{steady}"))
        engine = f'{of}, engine="vllm", served_model="m"'
        part = (seen.requests or 0) / seen.ready
        shown.append((f"gpucost_pod_requests_running{{{engine}}}", f"{part / 2}{steady}"))
        shown.append((f"gpucost_pod_requests_waiting{{{engine}}}", f"{part / 2}{steady}"))
        rate = (seen.offered or 0) / seen.ready * 15
        shown.append(
            (f'gpucost_pod_requests_total{{{engine}, outcome="success"}}', f"0+{rate}{steady}")
        )
    return shown


def test_the_twin_says_what_the_rules_say(tmp_path: Path) -> None:
    cases = situations(40)
    expected: dict[str, list[dict[str, Any]]] = {
        "need_replicas:value": [],
        "affordable_replicas:value": [],
        "budget_replicas:value": [],
        "replicas:desired": [],
    }
    series = [('gpucost_build_info{node="a"}', "1x200"), ('up{job="gpucost"}', "1x200")]
    for number, (law, seen) in enumerate(cases):
        series += series_of(number, law, seen)
        said = (need(law, seen), affordable(law, seen), budget(law, seen), desired(law, seen))
        for name, value in zip(expected, said, strict=True):
            if value is not None:
                labels = f'scaling:gpucost_{name}{{namespace="n", workload="w{number}"}}'
                expected[name].append({"labels": labels, "value": value})
    scaled = tuple(Scaling(namespace="n", workload=f"w{number}") for number in range(len(cases)))
    rules = tmp_path / "scaling.yaml"
    rules.write_text(rendered(Settings(scaling=scaled), [ROOT / "rules/scaling.yaml"])[rules.name])
    tests = {
        "rule_files": [str(rules)],
        "evaluation_interval": "15s",
        "tests": [
            {
                "interval": "15s",
                "input_series": [{"series": name, "values": values} for name, values in series],
                "promql_expr_test": [
                    {"expr": f"scaling:gpucost_{name}", "eval_time": "40m", "exp_samples": samples}
                    for name, samples in expected.items()
                ],
            }
        ],
    }
    file = tmp_path / "twin.yaml"
    file.write_text(yaml.safe_dump(tests))
    ran = subprocess.run(
        [program("promtool"), "test", "rules", file],
        capture_output=True,
        check=False,
        text=True,
        timeout=300,
    )
    assert ran.returncode == 0, (ran.stdout + ran.stderr)[-3000:]
    assert {len(samples) for samples in expected.values()} != {0}


def test_the_formula_that_keda_gets_is_the_twins() -> None:
    release = install("""
rules: {method: configMap}
scaling:
  prometheus: {serverAddress: "http://prometheus:9090"}
  targets:
    - name: chat
      namespace: serving
      minReplicas: 1
      maxReplicas: 9
      usdPerHour: 13
      usdPerRequest: 0.001
""")
    given = release.one("ScaledObject")["spec"]["advanced"]["scalingModifiers"]["formula"]
    for law, seen in situations(300):
        both = structs.replace(law, usd_per_hour=13.0, usd_per_request=0.001)
        paid = affordable(both, seen)
        triggers = {
            "need": need(both, seen),
            "affordable": 1_000_000 if paid is None else paid,  # as its query says
            "budget": budget(both, seen),
            "awake": int(seen.awake),
        }
        if triggers["need"] is not None:  # else KEDA's fallback
            said = eval(given, {"min": min, "max": max}, triggers)  # noqa: S307 - the chart's own
            assert said == formula(both, seen)


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

LAW = Law(requests_per_replica=10, usd_per_request=0.002, usd_per_hour=26, max_replicas=20)


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
    "saturation": steady(40.0),
    "a queue at zero": lambda second: 20.0 if HOUR <= second < HOUR + 60 else 0.0,
    "nothing": steady(0.0),
}
HISTORIES: dict[tuple[str, bool], list[Moment]] = {}


@pytest.fixture(params=itertools.product(TRAFFIC, (False, True)), ids=lambda param: f"{param}")
def history(request: pytest.FixtureRequest) -> list[Moment]:
    """Two days of it; with and without a gateway that counts arrivals."""
    name, tells = request.param
    if request.param not in HISTORIES:
        service = Service(law=LAW, arrivals=TRAFFIC[name], gateway_tells_arrivals=tells)
        HISTORIES[request.param] = run(service, 2 * DAY)
    return HISTORIES[request.param]


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
    """What is taken away is not wanted again within a quarter of an hour, but for noise."""
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
    assert len(flaps) <= 4, flaps  # of one replica, in two days


def settled(service: Service, hours: float = 6) -> Moment:
    return run(service, hours * HOUR)[-1]


def test_a_saturated_service_does_not_lock_itself_in() -> None:
    # Ten a second take eight seconds each: 80 at once, so 16 replicas at half load. Each replica
    # finishes 1.25 a second for 9 USD an hour at 4: the traffic pays for all of them.
    law = Law(requests_per_replica=10, usd_per_request=0.002, max_replicas=30)
    for gateway in (5.0, 500.0):  # nearly all is turned away, or waits
        moment = settled(Service(law=law, arrivals=steady(10.0), gateway=gateway))
        assert moment.wanted >= 12
        assert moment.refused < 0.01


def test_traffic_that_does_not_pay_gets_one_replica_and_no_more() -> None:
    law = Law(requests_per_replica=10, usd_per_request=0.0002, max_replicas=30)
    moment = settled(Service(law=law, arrivals=steady(10.0)))
    assert moment.wanted <= 2


def test_the_budget_holds_the_service_where_its_traffic_wants_more() -> None:
    moment = settled(Service(law=LAW, arrivals=steady(40.0)))
    assert moment.wanted == 6  # 26 USD an hour at 4


def test_a_large_budget_is_kept_within_the_hpas_tolerance() -> None:
    law = Law(requests_per_replica=10, usd_per_hour=80, max_replicas=100)
    wave = Service(law=law, arrivals=lambda second: 30 + 25 * math.sin(second / 5000))
    dear = max(each.usd_per_hour for each in run(wave, DAY))
    assert 76 <= dear <= 88


def test_a_price_that_rises_takes_replicas_away_until_the_budget_holds() -> None:
    rise = 3 * HOUR
    service = Service(
        law=LAW,
        arrivals=steady(40.0),
        usd_per_hour=lambda second: 8.0 if second >= rise else 4.0,
    )
    moments = run(service, 6 * HOUR)
    assert moments[int(rise / STEP) - 1].wanted == 6
    late = (
        service.scale_down_seconds + 5 * STEP
    )  # the HPA's window, and what is so until it is read
    assert {each.wanted for each in moments if each.second > rise + late} == {3}


def test_without_metrics_what_runs_goes_on() -> None:
    law = Law(requests_per_replica=10, max_replicas=20)
    service = Service(law=law, arrivals=steady(5.0), lost=lambda second: second > 2 * HOUR)
    moments = run(service, 6 * HOUR)
    before = moments[int(2 * HOUR / STEP)].wanted
    assert before >= 6
    assert {each.wanted for each in moments[int(2.1 * HOUR / STEP) :]} == {before}


def test_without_metrics_a_sleeping_service_is_woken_to_its_fallback() -> None:
    law = Law(requests_per_replica=10, max_replicas=20)
    service = Service(law=law, arrivals=steady(0.0), lost=lambda second: second > HOUR)
    moments = run(service, 2 * HOUR)
    assert moments[int(HOUR / STEP) - 1].wanted == 0
    assert moments[-1].wanted == 1


def test_a_replica_that_loads_is_not_ended_before_it_has_served() -> None:
    # One request, gone when its client gives up after a minute; loading takes an hour.
    def once(second: float) -> float:
        return 1 / STEP if HOUR <= second < HOUR + STEP else 0.0

    service = Service(law=LAW, arrivals=once, loading_seconds=HOUR, cooldown_seconds=60)
    moments = run(service, 4 * HOUR)
    made = [
        after.second
        for before, after in itertools.pairwise(moments)
        if after.wanted > before.wanted
    ]
    assert len(made) == 1
    assert any(each.ready for each in moments)
    assert moments[-1].wanted == 0
