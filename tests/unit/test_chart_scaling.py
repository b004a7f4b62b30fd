"""`scaling.targets` make ScaledObjects that KEDA takes, and what cannot work is refused."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
import yaml

import render_rules
from helm_chart import Refused, install
from programs import ROOT

if TYPE_CHECKING:
    from helm_chart import Object, Release

RECORDED = {
    rule["record"]
    for group in yaml.safe_load((ROOT / "rules/scaling.yaml").read_text())["groups"]
    for rule in group["rules"]
}


def values(target: str, more: str = "", rules: str = "{method: prometheusRule}") -> str:
    return f"""
rules: {rules}
scaling:
  prometheus: {{serverAddress: "http://prometheus:9090"}}
  targets:
    - {{name: chat, namespace: serving, maxReplicas: 8, {target}}}
{more}
"""


ALL = "requestsPerReplica: 10, usdPerRequest: 0.001, usdPerHour: 13, queue: 'gateway{a=\"b\"}'"


def scaled(release: Release) -> Object:
    return release.one("ScaledObject")


def triggers(release: Release) -> dict[str, dict[str, Any]]:
    return {each["name"]: each for each in scaled(release)["spec"]["triggers"]}


def test_a_target_is_scaled_by_the_law() -> None:
    spec = scaled(install(values(ALL)))["spec"]
    assert spec["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": "chat"}
    assert (spec["minReplicaCount"], spec["maxReplicaCount"]) == (0, 8)
    modifiers = spec["advanced"]["scalingModifiers"]
    assert modifiers["formula"] == "min(need, max(min(affordable, budget), awake))"
    assert modifiers["metricType"] == "AverageValue"


@pytest.mark.parametrize(
    ("target", "formula"),
    [
        ("minReplicas: 1", "need"),
        ("minReplicas: 1, usdPerHour: 9", "min(need, max(budget, awake))"),
        ("minReplicas: 1, usdPerRequest: 0.1", "min(need, max(affordable, awake))"),
    ],
)
def test_what_is_not_stated_caps_nothing(target: str, formula: str) -> None:
    release = install(values(target))
    assert scaled(release)["spec"]["advanced"]["scalingModifiers"]["formula"] == formula
    assert set(triggers(release)) == set(re.findall(r"[a-z]{4,}", formula))


def test_every_query_asks_a_recorded_series_of_this_target_alone() -> None:
    for name, trigger in triggers(install("clusterName: east\n" + values(ALL))).items():
        query = trigger["metadata"]["query"]
        [series] = re.findall(r"[a-z_]+:[a-z_]+:[a-z]+", query)
        assert series in RECORDED, name
        assert '{cluster="east", namespace="serving", workload="chat"}' in query
        # Two Prometheus replicas behind one address must give one value.
        assert query.startswith("max(")


def test_what_is_missing_is_an_error_and_never_zero_but_uncounted_traffic_holds_nothing() -> None:
    for name, trigger in triggers(install(values(ALL))).items():
        assert trigger["metadata"]["ignoreNullValues"] == "false"
        assert ("or vector(1000000)" in trigger["metadata"]["query"]) == (name == "affordable")


def test_the_fallback_is_one_that_keda_does_not_ignore() -> None:
    spec = scaled(install(values(ALL + ", fallbackReplicas: 3")))["spec"]
    # pkg/fallback, HasValidFallback: with a formula the target must parse as an integer above 0.
    assert int(spec["advanced"]["scalingModifiers"]["target"]) > 0
    assert spec["fallback"] == {
        "failureThreshold": 3,
        "replicas": 3,
        "behavior": "currentReplicasIfHigher",
    }
    assert scaled(install(values(ALL)))["spec"]["fallback"]["replicas"] == 1
    with pytest.raises(Refused, match="fallbackReplicas"):
        install(values(ALL + ", fallbackReplicas: 0"))


@pytest.mark.parametrize(
    ("profile", "up", "down", "cooldown"),
    [("realtime", 0.7, 0.3, 60), ("batch", 0.85, 0.4, 300), ("interactive", 0.6, 0.25, 30)],
)
def test_a_profile_is_thresholds_and_a_cooldown(
    profile: str, up: float, down: float, cooldown: int
) -> None:
    release = install(values(f"{ALL}, profile: {profile}"))
    spec = scaled(release)["spec"]
    assert spec["cooldownPeriod"] == cooldown
    behaviour = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    assert behaviour["scaleDown"]["stabilizationWindowSeconds"] == cooldown
    assert behaviour["scaleUp"]["stabilizationWindowSeconds"] == 0
    rules = str([each for each in release.objects if each["kind"] == "PrometheusRule"])
    for name, value in (("up", up), ("down", down)):
        assert f"'vector({value})', 'labels': {{'namespace': 'serving', 'workload': 'chat'}}, " in (
            rules
        ), name
        assert f"'record': 'scaling:gpucost_{name}_ratio:setting'" in rules


def test_the_targets_settings_are_recorded_beside_the_users_own() -> None:
    release = install(values(ALL, rules="{method: prometheusRule, settings: {interval: 30s}}"))
    [settings] = [
        each
        for each in release.objects
        if each["kind"] == "PrometheusRule" and each["metadata"]["name"] == "gpucost-settings"
    ]
    meant = render_rules.parse_settings("""
interval: 30s
scaling:
  - namespace: serving
    workload: chat
    requests_per_replica: 10
    usd_per_request: 0.001
    usd_per_hour: 13
    max_replicas: 8
    queue: gateway{a="b"}
""")
    groups = yaml.safe_load(render_rules.settings_file(meant))["groups"]
    assert settings["spec"]["groups"][-1] == groups[-1]


def test_office_hours_hold_replicas_in_them_and_nothing_outside() -> None:
    hours = (
        "officeHours: {timezone: Europe/Berlin, start: 0 8 * * 1-5, end: 0 18 * * 1-5, replicas: 2}"
    )
    release = install(values(f"{ALL}, {hours}"))
    formula = scaled(release)["spec"]["advanced"]["scalingModifiers"]["formula"]
    assert formula == "max(office - 1, min(need, max(min(affordable, budget), awake)))"
    assert triggers(release)["office"]["metadata"] == {
        "timezone": "Europe/Berlin",
        "start": "0 8 * * 1-5",
        "end": "0 18 * * 1-5",
        "desiredReplicas": "3",  # of which the formula takes one off
    }


def test_credentials_come_from_secrets_beside_the_target() -> None:
    release = install("""
rules: {method: prometheusRule}
scaling:
  prometheus:
    serverAddress: https://mimir/prometheus
    customHeaders: X-Scope-OrgID=team
    authModes: bearer
    secretTargetRef: [{parameter: bearerToken, name: prometheus, key: token}]
  targets:
    - {name: chat, namespace: serving, maxReplicas: 8, minReplicas: 1}
""")
    auth = release.one("TriggerAuthentication")
    assert (auth["metadata"]["name"], auth["metadata"]["namespace"]) == ("chat", "serving")
    assert auth["spec"]["secretTargetRef"] == [
        {"parameter": "bearerToken", "name": "prometheus", "key": "token"}
    ]
    need = triggers(release)["need"]
    assert need["authenticationRef"] == {"name": "chat"}
    assert need["metadata"]["authModes"] == "bearer"
    assert need["metadata"]["customHeaders"] == "X-Scope-OrgID=team"


def test_a_triggerauthentication_of_ones_own_is_used() -> None:
    release = install("""
rules: {method: prometheusRule}
scaling:
  prometheus:
    serverAddress: https://prometheus
    authModes: basic
    authenticationRef: {name: mine, kind: ClusterTriggerAuthentication}
  targets:
    - {name: chat, namespace: serving, maxReplicas: 8, minReplicas: 1}
""")
    assert triggers(release)["need"]["authenticationRef"] == {
        "name": "mine",
        "kind": "ClusterTriggerAuthentication",
    }


def test_no_targets_make_nothing() -> None:
    assert not any("keda" in each["apiVersion"] for each in install().objects)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        # A cost per request as a raw trigger, or disguised as demand.
        (values("minReplicas: 1, triggers: [{type: prometheus}]"), "falls when the load rises"),
        (
            values("queue: avg(gpucost_pod_cost_per_request_usd)"),
            "falls when the load rises",
        ),
        (values("minReplicas: 1, formula: need + cost"), "webhook refuses"),
        (values("minReplicas: 1, scalingModifiers: {formula: x}"), "webhook refuses"),
        # Series that nobody records.
        (values("minReplicas: 1", rules="{method: none}"), "nobody records"),
        (
            values("minReplicas: 1", "config: {kubernetes: {enabled: false}}"),
            "config.kubernetes.enabled is false",
        ),
        (
            values("minReplicas: 1, requestsPerReplica: 3", "config: {requests: {enabled: false}}"),
            "requestsPerReplica needs the engines' requests",
        ),
        (
            values("minReplicas: 1, usdPerRequest: 3", "config: {requests: {enabled: false}}"),
            "usdPerRequest needs the engines' requests",
        ),
        # What would never wake.
        (values("requestsPerReplica: 3"), "nothing would ever wake it"),
        # Numbers that contradict each other.
        (values("minReplicas: 9"), "minReplicas 9 is above maxReplicas 8"),
        (values("minReplicas: 1, fallbackReplicas: 9"), "fallbackReplicas is above"),
        (values("minReplicas: 1, upRatio: 0.2"), "downRatio must be below upRatio"),
        (values("minReplicas: 1, usdPerHour: 0"), "usdPerHour"),
        (values("minReplicas: 1, profile: fast"), "profile"),
        (values("minReplicas: 1, replicas: 3"), "'replicas'"),
        (
            values("officeHours: {timezone: UTC, start: 0 8 * *, end: 0 18 * * *, replicas: 2}"),
            "five fields",
        ),
        (
            values("officeHours: {timezone: UTC, start: 0 8 * * *, end: 0 18 * * *, replicas: 9}"),
            "officeHours.replicas is above",
        ),
        (
            values("minReplicas: 1")
            + "    - {name: chat, namespace: serving, maxReplicas: 2, minReplicas: 1}\n",
            "fight over it",
        ),
        ("scaling: {targets: [{name: a, namespace: b, maxReplicas: 1}]}", "serverAddress is empty"),
        (
            f"scaling: {{targets: [{{name: {'a' * 55}, namespace: b, maxReplicas: 1}}]}}",
            "maxLength",
        ),
    ],
)
def test_what_cannot_work_is_refused_with_the_reason(given: str, says: str) -> None:
    with pytest.raises(Refused, match=re.escape(says)):
        install(given)


def test_traffic_that_a_gateway_counts_needs_no_engine_that_is_read() -> None:
    target = "minReplicas: 1, usdPerRequest: 3, arrivals: 'rate(asked_total[5m])'"
    release = install(values(target, "config: {requests: {enabled: false}}"))
    assert "affordable" in triggers(release)


def test_notes_say_where_no_series_would_have_the_targets_cluster() -> None:
    named = values("minReplicas: 1", "clusterName: east")
    assert 'ask for cluster="east"' in install(named).notes
    assert "ask for cluster" not in install(values("minReplicas: 1")).notes
    assert "ask for cluster" not in install(named + "scrape: {method: podMonitor}").notes


def test_credentials_that_keda_would_not_use_are_refused() -> None:
    given = """
rules: {method: prometheusRule}
scaling:
  prometheus: {serverAddress: "https://p", %s}
  targets: [{name: chat, namespace: serving, maxReplicas: 8, minReplicas: 1}]
"""
    with pytest.raises(Refused, match="authModes is empty"):
        install(given % "authenticationRef: {name: x}")
    with pytest.raises(Refused, match="not both"):
        install(
            given % "authModes: basic, authenticationRef: {name: x}, "
            "secretTargetRef: [{parameter: a, name: b, key: c}]"
        )
