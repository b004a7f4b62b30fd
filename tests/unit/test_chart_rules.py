"""The chart brings the rules of rules/, with the same settings to the same effect as the script."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING, Any

import pytest
import yaml

import render_rules
from helm_chart import NAMESPACE, Refused, install
from programs import ROOT, program
from wrong_settings import WRONG_SETTINGS

if TYPE_CHECKING:
    from pathlib import Path

    from helm_chart import Release

SOURCES = sorted((ROOT / "rules").glob("*.yaml"))
SETTINGS = {path.stem: path for path in (ROOT / "rules/settings").glob("*.yaml")}

Group = dict[str, Any]


def groups(release: Release) -> dict[str, list[Group]]:
    """File to groups, of whatever holds them."""
    rules = {
        each["metadata"]["name"].removeprefix("gpucost-"): each["spec"]["groups"]
        for each in release.objects
        if each["kind"] == "PrometheusRule"
    }
    return {f"{name}.yaml": found for name, found in rules.items()}


def by_script(settings: render_rules.Settings) -> dict[str, list[Group]]:
    """What the script makes; without groups that have lost all their rules."""
    return {
        name: [group for group in yaml.safe_load(text)["groups"] if group["rules"]]
        for name, text in render_rules.rendered(settings, SOURCES).items()
        if name != "scaling.yaml" or settings.scaling
    }


def unordered(files: dict[str, list[Group]]) -> dict[str, list[Group]]:
    """With the rules of settings.yaml in one order, since none of them uses another."""

    def key(rule: dict[str, Any]) -> str:
        return f"{rule['record']} {sorted(rule.get('labels', {}).items())}"

    settings = [
        {
            **group,
            "rules": sorted(
                ({**rule, "expr": rule["expr"].rstrip()} for rule in group["rules"]), key=key
            ),
        }
        for group in files["settings.yaml"]
    ]
    return {**files, "settings.yaml": settings}


@pytest.mark.parametrize("name", SETTINGS)
def test_the_charts_rules_are_those_of_the_script(name: str) -> None:
    given = yaml.safe_load(SETTINGS[name].read_text())
    values = yaml.safe_dump({"rules": {"method": "prometheusRule", "settings": given}})
    meant = by_script(render_rules.read_settings(SETTINGS[name]))
    assert unordered(groups(install(values))) == unordered(meant)


def test_settings_of_links_alerts_and_odd_names_reach_the_rules_as_by_the_script() -> None:
    text = """
runbook_url: https://r.example/x.md
grafana_url: https://g.example
interval: 30s
thresholds: {idle_after_seconds: 0.25, unallocated_min_usd_per_month: 1000000}
overrides: [{team: 'a"b\\c', underused_ratio: 0}]
alerts: {GPUIdle: {for: 7m}, GPUUnderused: {enabled: false}, GPUBudgetSpent: {severity: info}}
budgets:
  - name: a
    usd_per_month: 1234567890
    match: {team: 'x"} or vector(1) #', workload: [a.b, 'c|d-"e']}
"""
    values = yaml.safe_dump(
        {"rules": {"method": "prometheusRule", "settings": yaml.safe_load(text)}}
    )
    assert unordered(groups(install(values))) == unordered(
        by_script(render_rules.parse_settings(text))
    )


def test_promtool_takes_the_rules_as_rendered(tmp_path: Path) -> None:
    given = yaml.safe_load(SETTINGS["tests"].read_text())
    release = install(yaml.safe_dump({"rules": {"method": "configMap", "settings": given}}))
    [found] = [
        each
        for each in release.objects
        if each["kind"] == "ConfigMap" and each["metadata"]["name"] == "gpucost-rules"
    ]
    for name, text in found["data"].items():
        (tmp_path / name).write_text(text)
    ran = subprocess.run(
        [program("promtool"), "check", "rules", *tmp_path.iterdir()],
        capture_output=True,
        check=False,
        text=True,
        timeout=60,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert len(found["data"]) == len(SOURCES)


def test_rules_go_where_and_under_the_labels_that_a_prometheus_wants() -> None:
    release = install("""
rules:
  {method: prometheusRule, namespace: monitoring, labels: {release: stack}, annotations: {a: b}}
""")
    found = [each for each in release.objects if each["kind"] == "PrometheusRule"]
    assert {each["metadata"]["namespace"] for each in found} == {"monitoring"}
    assert {each["metadata"]["labels"]["release"] for each in found} == {"stack"}
    assert {each["metadata"]["annotations"]["a"] for each in found} == {"b"}


def test_without_a_method_there_are_none_and_without_targets_none_for_scaling() -> None:
    assert groups(install()) == {}
    assert "scaling.yaml" not in groups(install("rules: {method: prometheusRule}"))


def test_no_budget_makes_no_budget_series() -> None:
    assert "budget:gpucost_usd:setting" not in str(
        groups(install("rules: {method: prometheusRule}"))["settings.yaml"]
    )


@pytest.mark.parametrize("settings", [text for text, _ in WRONG_SETTINGS])
def test_settings_that_the_script_refuses_are_refused(settings: str) -> None:
    values = f"rules:\n  method: prometheusRule\n  settings:\n    {settings}\n"
    with pytest.raises(Refused, match=r"settings|NaN") as refused:
        install(values)
    assert "nil pointer" not in str(refused.value)


def test_the_config_map_is_in_the_releases_namespace() -> None:
    release = install("rules: {method: configMap}")
    assert {each["metadata"].get("namespace", NAMESPACE) for each in release.objects} == {NAMESPACE}
