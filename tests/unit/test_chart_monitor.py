"""The chart's ways to be scraped and reached: monitors, TLS, network policy; and its state."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from discovery import discovered, targets
from helm_chart import NAMESPACE, Refused, install

if TYPE_CHECKING:
    from pathlib import Path

    from helm_chart import Object, Release

MONITORS = {"serviceMonitor": "ServiceMonitor", "podMonitor": "PodMonitor"}


def endpoint(release: Release, method: str) -> Object:
    spec = release.one(MONITORS[method])["spec"]
    [found] = spec["endpoints" if method == "serviceMonitor" else "podMetricsEndpoints"]
    assert isinstance(found, dict)
    return found


def operators_job(method: str, given: Object) -> dict[str, Any]:
    """The job that prometheus-operator makes of an endpoint: its own relabelings, then ours.

    After generateServiceMonitorConfig and generatePodMonitorConfig of its pkg/prometheus.
    """
    meta = "__meta_kubernetes_"
    own = [
        {"source_labels": [f"{meta}namespace"], "target_label": "namespace"},
        {"source_labels": [f"{meta}pod_name"], "target_label": "pod"},
        {"source_labels": [f"{meta}pod_container_name"], "target_label": "container"},
        {"target_label": "endpoint", "replacement": "metrics"},
        {"target_label": "job", "replacement": f"{NAMESPACE}/gpucost"},
    ]
    if method == "serviceMonitor":
        own.append({"source_labels": [f"{meta}service_name"], "target_label": "service"})
    names = {
        "sourceLabels": "source_labels",
        "targetLabel": "target_label",
        "replacement": "replacement",
        "action": "action",
        "regex": "regex",
    }
    ours = [{names[key]: value for key, value in one.items()} for one in given["relabelings"]]
    return {"job_name": "monitor", "relabel_configs": [*own, *ours]}


@pytest.mark.parametrize("method", MONITORS)
def test_a_monitor_selects_the_exporters_and_keeps_their_labels(method: str) -> None:
    release = install(f"scrape: {{method: {method}}}")
    spec = release.one(MONITORS[method])["spec"]
    found = release.one("Service" if method == "serviceMonitor" else "DaemonSet")
    labels = (
        found["metadata"]["labels"]
        if method == "serviceMonitor"
        else found["spec"]["template"]["metadata"]["labels"]
    )
    assert spec["selector"]["matchLabels"].items() <= labels.items()
    assert spec["namespaceSelector"] == {"matchNames": [NAMESPACE]}
    given = endpoint(release, method)
    assert given["honorLabels"] is True
    assert (given["port"], given["interval"], given["scheme"]) == ("metrics", "15s", "http")
    # The prometheus.io annotations would have it scraped twice.
    assert "prometheus.io/scrape" not in str(release.objects)
    assert not {kind for kind in MONITORS.values() if kind != MONITORS[method]} & {
        each["kind"] for each in release.objects
    }


@pytest.mark.parametrize("method", MONITORS)
def test_with_a_monitor_a_target_is_its_node_before_and_after_a_rollout(
    tmp_path: Path, method: str
) -> None:
    release = install(f"{{clusterName: east, scrape: {{method: {method}}}}}")
    before, after = targets(
        tmp_path,
        operators_job(method, endpoint(release, method)),
        discovered("10.0.0.5:10190", "5d5f"),
        discovered("10.0.0.9:10190", "77c4"),
    )
    assert before.pop("__address__") != after.pop("__address__")
    assert before == after == {"job": "gpucost", "instance": "gpu-1", "cluster": "east"}


def test_the_interval_is_the_one_the_exporter_counts_on() -> None:
    given = endpoint(
        install("{scrape: {method: podMonitor}, config: {scrape_interval_seconds: 5}}"),
        "podMonitor",
    )
    assert (given["interval"], given["scrapeTimeout"]) == ("5s", "5s")


@pytest.mark.parametrize("method", MONITORS)
def test_notes_of_a_monitor_say_why_it_may_not_be_found(method: str) -> None:
    notes = install(f"scrape: {{method: {method}}}").notes
    assert "scrape.monitor.labels" in notes
    assert "scrape_configs" not in notes


# --- TLS and passwords ------------------------------------------------------------------------


def test_with_tls_everything_that_asks_the_exporter_asks_by_https() -> None:
    release = install(
        "{web: {secretName: web, tls: true}, scrape: {method: serviceMonitor, monitor: "
        "{endpoint: {tlsConfig: {insecureSkipVerify: true}}}}}"
    )
    container = release.container
    assert "--web-config=/etc/gpucost-web/web-config.yaml" in container["args"]
    for probe in ("livenessProbe", "readinessProbe"):
        assert container[probe]["httpGet"]["scheme"] == "HTTPS"
    given = endpoint(release, "serviceMonitor")
    assert given["scheme"] == "https"
    assert given["tlsConfig"] == {"insecureSkipVerify": True}
    assert release.one("Pod")["spec"]["containers"][0]["args"][3] == "https"
    assert "https://127.0.0.1" in release.notes
    [volume] = [each for each in release.pod["volumes"] if each["name"] == "web"]
    assert volume["secret"]["secretName"] == "web"


def test_tls_without_a_file_that_turns_it_on_is_refused() -> None:
    with pytest.raises(Refused, match=r"web\.secretName names no Secret"):
        install("web: {tls: true}")


# --- Network policy ---------------------------------------------------------------------------


def test_the_network_policy_lets_scrapes_and_helm_test_in_and_nothing_else() -> None:
    release = install("networkPolicy: {enabled: true}")
    spec = release.one("NetworkPolicy")["spec"]
    pods = release.one("DaemonSet")["spec"]["template"]["metadata"]["labels"]
    assert spec["podSelector"]["matchLabels"].items() <= pods.items()
    assert spec["policyTypes"] == ["Ingress"]
    [rule] = spec["ingress"]
    assert rule["ports"] == [{"port": "metrics", "protocol": "TCP"}]
    prometheus, tester = rule["from"]
    assert prometheus["namespaceSelector"] == {}
    assert prometheus["podSelector"]["matchLabels"] == {"app.kubernetes.io/name": "prometheus"}
    labels = release.one("Pod")["metadata"]["labels"]
    assert tester["podSelector"]["matchLabels"].items() <= labels.items()


# --- State ------------------------------------------------------------------------------------


def state(values: str) -> Object | None:
    volumes = {each["name"]: each for each in install(values).pod["volumes"]}
    return volumes.get("state")


def test_the_ledger_is_on_the_nodes_disk() -> None:
    volume = state("")
    assert volume is not None
    assert volume["hostPath"] == {"path": "/var/lib/gpucost", "type": "DirectoryOrCreate"}
    assert "uninstalling leaves it" in install().notes


def test_an_exporter_that_is_not_root_keeps_it_in_its_pod() -> None:
    volume = state("config: {kubelet: {enabled: false}}")
    assert volume is not None
    assert volume["emptyDir"] == {}


def test_without_state_nothing_of_the_node_is_written_and_the_notes_say_so() -> None:
    release = install("state: {enabled: false}")
    assert not any(arg.startswith("--state-directory") for arg in release.container["args"])
    assert all(mount.get("readOnly") for mount in release.container["volumeMounts"])
    assert "a restart begins it at 0" in release.notes


# --- Extras -----------------------------------------------------------------------------------


def test_extra_objects_may_be_templates_as_text_or_objects() -> None:
    release = install("""
extraObjects:
  - {apiVersion: v1, kind: Secret, metadata: {name: "{{ .Release.Name }}-one"}}
  - |
    apiVersion: v1
    kind: Secret
    metadata: {name: "{{ include "gpucost.fullname" . }}-two"}
""")
    secrets = [each["metadata"]["name"] for each in release.objects if each["kind"] == "Secret"]
    assert secrets == ["gpucost-one", "gpucost-two"]
