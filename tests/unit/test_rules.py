"""The rule files agree with the catalogue, with each other, with their tests and the runbook."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import pytest
import yaml

import render_rules
from gpucost.advice.report import questions
from gpucost.catalog import FAMILIES
from programs import ROOT
from promql_names import metrics_of
from wrong_settings import WRONG_SETTINGS

RULES = ROOT / "rules"
PACK = {path.name: path.read_text() for path in sorted(RULES.glob("*.yaml"))}
GROUPS = [(name, group) for name, text in PACK.items() for group in yaml.safe_load(text)["groups"]]
ALERTS = {rule["alert"]: rule for _, group in GROUPS for rule in group["rules"] if "alert" in rule}
EVERYTHING = render_rules.read_settings(RULES / "settings" / "tests.yaml")
RECORDS = [
    rule
    for text in render_rules.rendered(EVERYTHING, sorted(RULES.glob("*.yaml"))).values()
    for group in yaml.safe_load(text)["groups"]
    for rule in group["rules"]
    if "record" in rule
]
RECORDED = {rule["record"] for rule in RECORDS}

OTHERS = {"up", "kube_node_status_allocatable", "litellm_spend_metric_total"}
"""Series of Prometheus itself, of kube-state-metrics and of LiteLLM."""

NODES_OF_OTHERS = {"GpucostExporterDown", "GpucostAllExportersDown"}
"""Alerts that ask others of nodes, who may not call their cluster as the exporter does."""


def expressions() -> list[tuple[str, str]]:
    """Every expression of a rule, by the rule's name."""
    return [
        (rule.get("alert") or rule["record"], rule["expr"])
        for _, group in GROUPS
        for rule in group["rules"]
    ]


@pytest.mark.parametrize(("name", "expression"), expressions())
def test_every_metric_that_a_rule_uses_exists(name: str, expression: str) -> None:
    missing = metrics_of(expression) - set(FAMILIES) - RECORDED - OTHERS
    assert not missing, f"{name} uses {missing}"


@pytest.mark.parametrize("rule", RECORDS, ids=lambda rule: rule["record"])
def test_recorded_names_are_level_metric_operations(rule: dict[str, Any]) -> None:
    assert re.fullmatch(r"[a-z_]+:(gpucost_)?[a-z0-9_]+:[a-z0-9_]+", rule["record"])


def test_no_rule_is_recorded_twice() -> None:
    plain = Counter((rule["record"], str(rule.get("labels"))) for rule in RECORDS)
    assert [record for record, times in plain.items() if times > 1] == []


def test_an_alert_has_words_links_and_a_severity() -> None:
    for name, alert in ALERTS.items():
        notes = alert["annotations"]
        assert set(notes) == {"summary", "description", "runbook_url", "dashboard_url"}, name
        assert notes["summary"].endswith("."), name
        assert "{{" not in notes["summary"], f"{name}: a summary is a subject line, without values"
        assert notes["runbook_url"] == f"rules/RUNBOOK.md#{name.lower()}"
        assert notes["dashboard_url"].startswith("/d/gpucost-")
        # What is sent as money is printed as money, never as 12.3k or 2.1m.
        assert not re.search(r"\$value \| humanize \}\}|\{\{ \$value \}\} USD", str(notes)), name
        if "Budget" not in name and name != "GpucostAllExportersDown":  # those are of no cluster
            assert notes["description"].startswith("{{ with $labels.cluster }}{{ . }}: {{ end -}}")
            assert "var-cluster={{ . | urlquery }}{{ end }}" in notes["dashboard_url"], name
        # A label that is not there is nothing at all to vmalert: `%q` of it is no PromQL.
        assert not re.search(r"(?<!or )\$labels\.(cluster|node_pool) [^}]*query", str(notes)), name
        if name != "GPUBudgetSpent":  # its series carry the severity of their share
            assert alert["labels"]["severity"] in {"critical", "warning", "info"}


@pytest.mark.parametrize(("name", "expression"), expressions())
def test_rules_are_written_so_that_they_hold_everywhere(name: str, expression: str) -> None:
    for matching in re.findall(r"\bon \(([^)]+)\)", expression):
        labels = {label.strip() for label in matching.split(",")}
        apart = {"cluster"} & labels or labels <= {"month", "budget", "share"}
        # Targets and API prices of the settings are for a workload in whatever cluster.
        settings = name in ("GPUCostPerRequestHigh", "workload:gpucost_api_cost_usd:rate5m")
        # A ledger is told by its node and its start; kube-state-metrics may lack the label.
        told = {"node", "ledger"} <= labels or (name in NODES_OF_OTHERS and labels == {"node"})
        assert apart or settings or told, f"{name}: on ({matching}) mixes clusters"
    for selected in re.findall(r"\bby \(([^)]+)\)", expression):
        labels = {label.strip() for label in selected.split(",")}
        told = {"node", "ledger"} <= labels or (name in NODES_OF_OTHERS and labels == {"node"})
        assert "cluster" in labels or labels == {"month"} or told, (
            f"{name}: by ({selected}) drops cluster"
        )
    for counter in re.findall(r"\bgpucost_\w+_total\b", expression):
        ratable = f"rate({counter}" in expression
        # The month is the counter's own value; topk only wants an order.
        read = counter.startswith("gpucost_workload_") or "topk by" in expression
        assert ratable or read, f"{name} uses the counter {counter} as it is"
    assert "[32d]" not in expression
    assert "[30d]" not in expression


SLOW = (
    "gpucost-advice.rules",
    "gpucost-expensive",
    "gpucost-expensive.rules",
    "gpucost-month-states.rules",
    "gpucost-serving",
    "gpucost-serving-hour.rules",
    "gpucost-work-hour.rules",
)
"""Groups of what is a mean of an hour, changes slowly, or pages after many minutes."""


def test_groups_are_evaluated_within_the_lookback() -> None:
    others = {"gpucost-scaling.rules": "15s", "gpucost-month-kept.rules": "10m"}
    others |= dict.fromkeys(SLOW, "3m")
    for _, group in GROUPS:
        assert group["interval"] == others.get(group["name"], "1m"), group["name"]
    assert len({group["name"] for _, group in GROUPS}) == len(GROUPS)


def test_what_is_recorded_less_often_than_the_lookback_is_read_by_ranges_alone() -> None:
    for name, expression in expressions():
        for kept in re.findall(r"\w+:\w+:kept\b(\S*)", expression):
            assert kept.startswith("[1d]"), name
        # Shorter than raw counters are looked back for: of a ledger that was scraped again and
        # went once more, the counters are found, and not what was seen of it the first time.
        for seen in re.findall(r"\w+:\w+:seen\b(\S*)", expression):
            assert seen.startswith("[5m]"), name


def test_every_alert_is_tested_firing_silent_resolving_and_in_words() -> None:
    fires: Counter[str] = Counter()
    silent: Counter[str] = Counter()
    resolves: Counter[str] = Counter()
    words: Counter[str] = Counter()
    for path in sorted((RULES / "tests").glob("*.yaml")):
        for test in yaml.safe_load(path.read_text())["tests"]:
            cases = test.get("alert_rule_test", [])
            for alert in {case["alertname"] for case in cases}:
                fired = [bool(case["exp_alerts"]) for case in cases if case["alertname"] == alert]
                if path.name.startswith("words-"):
                    words[alert] += any(fired)
                    continue
                fires[alert] += any(fired)
                silent[alert] += not any(fired)
                resolves[alert] += any(fired) and not fired[-1]
    assert set(ALERTS) == set(+fires) == set(+silent) == set(+words)
    # Clobbered labels, old prices and the like end too; only a ledger's error may stay for good.
    assert set(ALERTS) - set(+resolves) <= {"GpucostLedgerImbalance"}


def test_the_runbook_has_a_section_for_every_alert_and_no_other() -> None:
    text = (RULES / "RUNBOOK.md").read_text()
    sections = re.split(r"(?m)^### ", text)[1:]
    assert sorted(section.split("\n", 1)[0] for section in sections) == sorted(ALERTS)
    for section in sections:
        for part in ("**Means**", "**Check**", "**Do**", "**Silence**"):
            assert section.count(part) == 1, section.split("\n", 1)[0]


# --- The settings -----------------------------------------------------------------------------


def test_the_committed_rules_are_those_of_the_default_settings() -> None:
    defaults = render_rules.read_settings(render_rules.DEFAULTS)
    assert render_rules.rendered(defaults, sorted(RULES.glob("*.yaml"))) == PACK


def test_the_default_settings_say_what_leaving_them_out_means() -> None:
    assert render_rules.read_settings(render_rules.DEFAULTS) == render_rules.Settings()


def render(text: str) -> dict[str, str]:
    settings = render_rules.parse_settings(text)
    return render_rules.rendered(settings, sorted(RULES.glob("*.yaml")))


def alerts_of(pack: dict[str, str]) -> dict[str, dict[str, Any]]:
    return {
        rule["alert"]: rule
        for text in pack.values()
        for group in yaml.safe_load(text)["groups"]
        for rule in group["rules"] or ()
        if "alert" in rule
    }


@pytest.mark.parametrize("name", sorted(ALERTS))
def test_an_alert_is_switched_off_alone(name: str) -> None:
    pack = render(f"alerts: {{{name}: {{enabled: false}}}}")
    assert alerts_of(pack) == {other: rule for other, rule in ALERTS.items() if other != name}


@pytest.mark.parametrize("name", sorted(ALERTS))
def test_for_and_severity_of_one_alert_change_alone(name: str) -> None:
    changed = alerts_of(render(f"alerts: {{{name}: {{for: 7m, severity: info}}}}"))
    assert changed.pop(name) == {
        **ALERTS[name],
        "for": "7m",
        "labels": {**ALERTS[name].get("labels", {}), "severity": "info"},
    }
    assert changed == {other: rule for other, rule in ALERTS.items() if other != name}


def test_every_alert_may_be_switched_off() -> None:
    off = "\n".join(f"  {name}: {{enabled: false}}" for name in ALERTS)
    assert alerts_of(render(f"alerts:\n{off}")) == {}


def test_links_lead_where_the_settings_say() -> None:
    pack = render("runbook_url: https://r.example/x.md\ngrafana_url: https://g.example")
    for alert in alerts_of(pack).values():
        assert alert["annotations"]["runbook_url"].startswith("https://r.example/x.md#")
        assert alert["annotations"]["dashboard_url"].startswith("https://g.example/d/")


@pytest.mark.parametrize(("text", "where"), [*WRONG_SETTINGS, ("[", "not YAML"), ("- 1", "object")])
def test_settings_that_cannot_be_used_are_refused_by_name(text: str, where: str) -> None:
    with pytest.raises(render_rules.SettingsError, match=re.escape(where)):
        render(text)


def test_hostile_names_stay_inside_their_quotes() -> None:
    pack = render(
        "budgets: [{name: a, usd_per_month: 1,"
        " match: {team: 'x\"} or vector(1) #', workload: ['a.b', 'c|d\"']}}]"
    )
    [rule] = [
        rule
        for group in yaml.safe_load(pack["settings.yaml"])["groups"]
        for rule in group["rules"]
        if rule["record"] == "budget:gpucost_cost_usd:rate5m"
    ]
    assert r'team="x\"} or vector(1) #"' in rule["expr"]
    assert r'workload=~"a\\.b|c\\|d\""' in rule["expr"]
    assert rule["labels"]["team"] == 'x"} or vector(1) #'


def test_the_command_refuses_to_write_other_settings_over_the_defaults(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert render_rules.main(["--settings", str(RULES / "settings" / "demo.yaml")]) == 2
    assert "--out" in capsys.readouterr().err


def test_what_the_report_sums_over_time_is_evaluated_as_often_as_the_settings_are() -> None:
    """It weighs every sample by how often those were: one that came less often would count less."""
    asked = [it.promql for it in vars(questions).values() if isinstance(it, questions.Question)]
    summed = {
        name
        for query in asked
        for name in re.findall(r"(?:sum|count)_over_time\(\s*(\w+:[\w:]+)", query)
    }
    assert "workload:gpucost_saving_usd:rate5m" in summed
    pace = {
        rule["record"]: group["interval"]
        for _, group in GROUPS
        for rule in group["rules"]
        if "record" in rule
    }
    assert {pace[name] for name in summed} == {pace["gpucost:stale_after_seconds:setting"]}
