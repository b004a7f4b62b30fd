"""The twin of rules/scaling.yaml in Python says what the rules and KEDA's formula say.

Of steady situations, and of what a simulation sees of a service over hours.
"""

from __future__ import annotations

import random
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from msgspec import structs

from helm_chart import install
from programs import ROOT, program
from render_rules import Scaling, Settings, rendered
from scaled_service import STEP, Moment, Service, chart_service, watch
from scaling_law import Law, Seen, affordable, budget, desired, formula, need

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HOUR = 3600.0


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
    inputs = [{"series": name, "values": values} for name, values in series]
    checks = [
        {"expr": f"scaling:gpucost_{name}", "eval_time": "40m", "exp_samples": samples}
        for name, samples in expected.items()
    ]
    assert {len(samples) for samples in expected.values()} != {0}
    workloads = tuple(f"w{number}" for number in range(len(cases)))
    promtool_agrees(inputs, checks, workloads, tmp_path)


def promtool_agrees(
    series: list[dict[str, str]],
    checks: list[dict[str, Any]],
    workloads: tuple[str, ...],
    folder: Path,
) -> None:
    """With these workloads as targets, the rules say of these series what the checks expect."""
    scaled = tuple(Scaling(namespace="n", workload=workload) for workload in workloads)
    rules = folder / "scaling.yaml"
    rules.write_text(rendered(Settings(scaling=scaled), [ROOT / "rules/scaling.yaml"])[rules.name])
    file = folder / "twin.yaml"
    test = {"interval": "15s", "input_series": series, "promql_expr_test": checks}
    file.write_text(
        yaml.safe_dump({"rule_files": [str(rules)], "evaluation_interval": "15s", "tests": [test]})
    )
    ran = subprocess.run(
        [program("promtool"), "test", "rules", file],
        capture_output=True,
        check=False,
        text=True,
        timeout=300,
    )
    assert ran.returncode == 0, (ran.stdout + ran.stderr)[-3000:]


def as_shown(service: Service, history: list[Moment]) -> dict[str, list[float | None]]:
    """Series and values: what its exporter and its gateway show at each step."""
    steps = len(history)
    names = 'namespace="n", workload="w"'
    shown: dict[str, list[float | None]] = {
        f"scaling:gpucost_{field}:setting{{{names}}}": [value] * steps
        for field in Law.__struct_fields__
        if (value := getattr(service.law, field)) is not None
    }
    shown[f"scaling:gpucost_queue:setting{{{names}}}"] = [1] * steps
    shown['gpucost_build_info{node="a"}'] = shown['up{job="gpucost"}'] = [1] * steps
    shown[f"scaling:gpucost_queue_requests:external{{{names}}}"] = [m.waiting for m in history]
    if service.gateway_tells_arrivals:
        arrivals = f"scaling:gpucost_arrivals_per_second:external{{{names}}}"
        shown[arrivals] = [m.arrivals for m in history]
    for pod in range(max(moment.bound for moment in history)):
        one = f'{names}, node="a", pod="{pod}"'
        payer = f'{one}, container="c", gpu_model="H100", capacity_type="spot"'
        engine = f'{one}, engine="vllm", served_model="m"'
        for name, value in (
            (f"gpucost_pod_holding_since_timestamp_seconds{{{payer}}}", lambda _: 1.0),
            (f"gpucost_pod_cost_usd_per_hour{{{payer}}}", lambda m: m.replica_usd_per_hour),
            (
                f'gpucost_pod_waste_usd_per_hour{{{payer}, reason="starting"}}',
                lambda m, pod=pod: float(pod >= m.ready),
            ),
            (
                f"gpucost_pod_requests_running{{{engine}}}",
                lambda m, pod=pod: m.running / m.ready if pod < m.ready else None,
            ),
            # The first finishes all of them: they are summed.
            (
                f'gpucost_pod_requests_total{{{engine}, outcome="success"}}',
                lambda m, pod=pod: 0.0 if pod else m.finished_in_all,
            ),
        ):
            shown[name] = [value(m) if pod < m.bound else None for m in history]
    return shown


def eventful(second: float) -> float:
    """Requests a second to a service that is woken, saturated, idle, woken in vain and again."""
    hour = second / HOUR
    if hour < 1.2:
        return 0.0 if hour < 0.2 else 8.0 if hour < 0.7 else 2.0
    return 1 / STEP if 2 * HOUR <= second < 2 * HOUR + STEP else 0.4 if hour > 2.6 else 0.0


@pytest.mark.parametrize("counted", ["by what finishes", "at the gateway"])
def test_what_a_simulation_sees_of_a_service_is_what_the_rules_see(
    counted: str, tmp_path: Path
) -> None:
    service = chart_service(
        "requestsPerReplica: 10, usdPerRequest: 0.002, usdPerHour: 26, maxReplicas: 20",
        eventful,
        gateway_tells_arrivals=counted == "at the gateway",
        patience_seconds=40,
    )
    watched = watch(service, 3.2 * HOUR)
    checks = [check for number in range(8, len(watched), 8) for check in checked(watched, number)]
    # It does what its name says, and all of it is compared.
    assert {seen.awake for _, seen in watched[8:]} == {True, False}
    assert max(moment.ready for moment, _ in watched) == 6
    for name in ("count", "load", "offered", "usd_per_hour", "awake"):
        assert sum(name in check["expr"] for check in checks) > len(watched) / 16, name
    series = [
        # What ends is marked as stale, as by a scrape that misses it.
        {"series": name, "values": " ".join("stale" if v is None else f"{v:.9g}" for v in values)}
        for name, values in as_shown(service, [moment for moment, _ in watched]).items()
    ]
    promtool_agrees(series, checks, ("w",), tmp_path)


def checked(watched: list[tuple[Moment, Seen]], number: int) -> Iterator[dict[str, Any]]:
    """What the rules must say at one moment.

    Windows end a step sooner or later there: what changes just then is left out.
    """
    second = watched[number][0].second
    around = [seen for _, seen in watched[number - 4 : number + 5]]
    for name, values, most in (
        ("replicas:count", [seen.replicas for seen in around], 0.0),
        ("ready_replicas:count", [seen.ready for seen in around], 0.0),
        ("awake:bool", [int(seen.awake) for seen in around], 0.0),
        ("replica_usd_per_hour:last", [seen.replica_usd_per_hour for seen in around], 0.0),
        ("load_replicas:avg1m", [(seen.requests or 0.0) / 10 for seen in around], 0.1),
        ("offered_per_second:max30m", [seen.offered for seen in around], 0.1),
    ):
        known = [value for value in values if value is not None]
        if len(known) < len(values) or max(known) - min(known) > most * (1 + known[4]):
            continue
        tolerance = most * (1 + known[4]) + 1e-6
        yield {
            "expr": f"abs(scaling:gpucost_{name} - {known[4]:.9g}) <= bool {tolerance:.9g}",
            "eval_time": f"{second:.0f}s",
            "exp_samples": [{"labels": '{namespace="n", workload="w"}', "value": 1}],
        }


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
