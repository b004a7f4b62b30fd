"""A rollout starts no new series: what a target is called, as promtool relabels it.

What discovery finds is given by tests/discovery.py; the scrape
config is taken whole in the real cluster's tests.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import yaml

from discovery import META, discovered, targets
from helm_chart import CHART, install

if TYPE_CHECKING:
    from pathlib import Path

SCRAPE_CONFIG = CHART / "files/scrape-config.yaml"
FOLLOWS_ANNOTATIONS = """
- job_name: kubernetes-service-endpoints
  honor_labels: true
  relabel_configs:
    - source_labels: [__meta_kubernetes_service_annotation_prometheus_io_scrape]
      action: keep
      regex: true
    - source_labels: [__meta_kubernetes_service_annotation_prometheus_io_path]
      action: replace
      target_label: __metrics_path__
      regex: (.+)
    - source_labels: [__address__, __meta_kubernetes_service_annotation_prometheus_io_port]
      action: replace
      target_label: __address__
      regex: (.+?)(?::\\d+)?;(\\d+)
      replacement: $1:$2
    - action: labelmap
      regex: __meta_kubernetes_service_label_(.+)
    - source_labels: [__meta_kubernetes_namespace]
      target_label: namespace
    - source_labels: [__meta_kubernetes_service_name]
      target_label: service
    - source_labels: [__meta_kubernetes_pod_node_name]
      target_label: node
"""
"""How the Prometheus project's example, and the charts made after it, follow a Service's."""


def test_the_scrape_config_selects_the_charts_pods() -> None:
    [job] = yaml.safe_load(SCRAPE_CONFIG.read_text())
    [[selector]] = (sd["selectors"] for sd in job["kubernetes_sd_configs"])
    label, _, value = selector["label"].partition("=")
    release = install("{fullnameOverride: ledger, commonLabels: {a: b}}", name="costs")
    assert release.one("DaemonSet")["spec"]["template"]["metadata"]["labels"][label] == value
    assert release.one("Pod")["metadata"]["labels"][label] != value  # of helm test
    assert SCRAPE_CONFIG.read_text().splitlines()[-1].strip() in install().notes


def test_with_the_scrape_config_a_target_is_its_node_before_and_after_a_rollout(
    tmp_path: Path,
) -> None:
    [job] = yaml.safe_load(SCRAPE_CONFIG.read_text())
    before, after, other = targets(
        tmp_path,
        job,
        discovered("10.0.0.5:10190", "5d5f"),
        discovered("10.0.0.9:10190", "77c4"),
        discovered("10.0.1.2:10190", "5d5f", node="gpu-2"),
    )
    assert before.pop("__address__") == "10.0.0.5:10190"
    assert after.pop("__address__") == "10.0.0.9:10190"
    assert before == after == {"job": "gpucost", "instance": "gpu-1"}
    assert other["instance"] == "gpu-2"
    assert job["honor_labels"] is True


def test_the_scrape_config_leaves_other_ports_and_ended_pods_alone(tmp_path: Path) -> None:
    [job] = yaml.safe_load(SCRAPE_CONFIG.read_text())
    pod = discovered("10.0.0.5:10190", "5d5f")
    port = {**pod, f"{META}pod_container_port_name": "web"}
    ended = {**pod, f"{META}pod_phase": "Succeeded"}
    assert len(targets(tmp_path, job, pod, port, ended)) == 1


def test_with_the_services_annotations_only_the_instance_changes(tmp_path: Path) -> None:
    [job] = yaml.safe_load(FOLLOWS_ANNOTATIONS)
    before, after = targets(
        tmp_path, job, discovered("10.0.0.5:1", "5d5f"), discovered("10.0.0.9:1", "77c4")
    )
    assert before.pop("__address__") == before.pop("instance") == "10.0.0.5:10190"
    assert after.pop("__address__") == after.pop("instance") == "10.0.0.9:10190"
    assert before == after
    # Ours are kept by honor_labels, and where a series has none, no pod of the exporter's comes in.
    assert not {"pod", "container", "endpoint", "controller_revision_hash"} & before.keys()
