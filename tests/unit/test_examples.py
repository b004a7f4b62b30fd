"""Every example renders, and what it makes is what the makers of each kind take."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import yaml

import published
from helm_chart import CHART, install
from programs import ROOT

if TYPE_CHECKING:
    from pathlib import Path

    from helm_chart import Object

EXAMPLES = sorted(path.parent for path in (ROOT / "examples").glob("*/values.yaml"))


def made_by(example: Path) -> list[Object]:
    """What the chart makes of it, and the manifests beside it."""
    objects = list(install((example / "values.yaml").read_text()).objects)
    for path in example.glob("*.yaml"):
        beside = yaml.safe_load_all(path.read_text())
        objects += [each for each in beside if isinstance(each, dict) and "apiVersion" in each]
    return objects


def known(made: Object) -> published.Schema:
    schema = published.schema_of(made)
    if schema is None:
        group = made["apiVersion"].partition("/")[0]
        have = {version.partition("/")[0] for version, _ in published.crds()}
        if group in have:
            raise AssertionError(f"there is no {made['apiVersion']} {made['kind']}")
        published.missing(f"Go module that has {made['apiVersion']} {made['kind']}")
    return schema


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_an_example_renders(example: Path) -> None:
    assert {"DaemonSet", "ConfigMap"} <= {each["kind"] for each in made_by(example)}


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_what_an_example_makes_is_what_its_makers_take(example: Path) -> None:
    for made in made_by(example):
        assert published.faults(made, known(made)) == [], (made["kind"], made["metadata"]["name"])


def test_all_values_at_once_are_what_their_makers_take() -> None:
    values = """
scrape: {method: podMonitor, monitor: {limits: {sampleLimit: 5, bodySizeLimit: 5MB}}}
networkPolicy: {enabled: true}
rbac: {dra: true}
web: {secretName: web, tls: true}
priceRefresh: {enabled: true, providers: [azure]}
rules: {method: prometheusRule}
dashboards: {method: grafanaDashboard}
scaling:
  prometheus:
    serverAddress: https://p
    authModes: bearer
    secretTargetRef: [{parameter: bearerToken, name: p, key: token}]
  targets:
    - name: chat
      namespace: serving
      maxReplicas: 8
      usdPerHour: 3
      usdPerRequest: 0.1
      officeHours: {timezone: UTC, start: 0 8 * * *, end: 0 9 * * *, replicas: 2}
"""
    for made in install(values).objects:
        assert published.faults(made, known(made)) == [], (made["kind"], made["metadata"]["name"])


def test_a_fault_would_be_found() -> None:
    [monitor] = [
        each
        for each in install("scrape: {method: podMonitor}").objects
        if each["kind"] == "PodMonitor"
    ]
    schema = known(monitor)
    monitor["spec"]["podMetricsEndpoints"][0]["honourLabels"] = True
    monitor["spec"]["podMetricsEndpoints"][0]["honorLabels"] = "yes"
    del monitor["spec"]["selector"]
    assert sorted(published.faults(monitor, schema)) == [
        ".spec.podMetricsEndpoints[0].honorLabels: 'yes' is no boolean",
        ".spec.podMetricsEndpoints[0]: knows no honourLabels",
        ".spec: lacks selector",
    ]


def test_the_scrape_config_of_the_example_is_the_charts() -> None:
    beside = yaml.safe_load((ROOT / "examples/prometheus/prometheus.yaml").read_text())
    ours = yaml.safe_load((CHART / "files/scrape-config.yaml").read_text())
    assert yaml.safe_load(beside["extraScrapeConfigs"]) == ours


def test_that_prometheus_reads_the_rules_and_follows_them() -> None:
    example = ROOT / "examples/prometheus"
    beside = yaml.safe_load((example / "prometheus.yaml").read_text())
    [rules] = [made for made in made_by(example) if made["metadata"]["name"] == "gpucost-rules"]
    assert rules["metadata"]["namespace"] == "monitoring"
    reloader = beside["configmapReload"]["prometheus"]
    # The same folder for the server and for what tells it of changes, which looks there.
    assert reloader["extraConfigmapMounts"] == beside["server"]["extraConfigmapMounts"]
    [mount] = reloader["extraConfigmapMounts"]
    assert mount["configMap"] == rules["metadata"]["name"]
    assert reloader["extraVolumeDirs"] == [mount["mountPath"]]
    assert f"{mount['mountPath']}/*.yaml" in beside["serverFiles"]["prometheus.yml"]["rule_files"]


def test_every_example_is_told_of() -> None:
    told = (ROOT / "examples/README.md").read_text()
    for example in EXAMPLES:
        assert f"]({example.name})" in told
