"""The chart's values: each one does something, and what cannot be meant is refused by name."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import yaml

import gen_chart
from helm_chart import CHART, OLD_CHART, Refused, install

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from helm_chart import Release

VALUES = gen_chart.read_values((CHART / "values.yaml").read_text())
DIGEST = "sha256:" + "0a" * 32


def report(words: str) -> str:
    """Values with a report, and these words for it."""
    return (
        "report: {enabled: true, prometheus: 'http://prometheus:9090', claimName: reports,"
        f" {words}}}"
    )


def monitor(words: str) -> str:
    """A setting of a monitor, and a monitor."""
    return f"scrape: {{method: serviceMonitor, monitor: {{{words}}}}}"


CHANGES: dict[str, str] = {
    "global.imageRegistry": "global: {imageRegistry: registry.example.com}",
    "global.imagePullSecrets": "global: {imagePullSecrets: [one, {name: two}]}",
    "fullnameOverride": "fullnameOverride: ledger",
    "namespaceOverride": "namespaceOverride: elsewhere",
    "commonLabels": "commonLabels: {cost-center: ml}",
    "image.registry": "image: {registry: registry.example.com/team/}",
    "image.repository": "image: {repository: team/gpucost}",
    "image.tag": "image: {tag: nightly}",
    "image.digest": f"image: {{digest: '{DIGEST}'}}",
    "image.pullPolicy": "image: {pullPolicy: Never}",
    "imagePullSecrets": "imagePullSecrets: [one]",
    "serviceAccount.create": "serviceAccount: {create: false}",
    "serviceAccount.name": "serviceAccount: {name: teller}",
    "serviceAccount.annotations": "serviceAccount: {annotations: {example.com/role: reader}}",
    "rbac.create": "rbac: {create: false}",
    "driver.mode": "driver: {mode: none}",
    "driver.runtimeClassName": "driver: {runtimeClassName: nvidia}",
    "driver.hostPath.path": "driver: {mode: hostPath, hostPath: {path: /opt/driver}}",
    "driver.hostPath.libraries": "driver: {mode: hostPath, hostPath: {libraries: lib}}",
    "driver.hostPath.privileged": "driver: {mode: hostPath, hostPath: {privileged: false}}",
    "kubelet.podResourcesPath": "kubelet: {podResourcesPath: /data/kubelet/pod-resources}",
    "gpuNodes.labelledOnly": "gpuNodes: {labelledOnly: false}",
    "gpuNodes.labels": "gpuNodes: {labels: {pool: [gpu]}}",
    "nodeSelector": "nodeSelector: {pool: gpu}",
    "affinity": "affinity: {podAffinity: {}}",
    "tolerations": "tolerations: [{key: nvidia.com/gpu, operator: Exists}]",
    "priorityClassName": "priorityClassName: system-node-critical",
    "updateStrategy": "updateStrategy: {type: OnDelete, rollingUpdate: null}",
    "terminationGracePeriodSeconds": "terminationGracePeriodSeconds: 5",
    "resources": "resources: {limits: {memory: 1Gi}}",
    "hostPID": "hostPID: true",
    "podSecurityContext": "podSecurityContext: {fsGroup: 7}",
    "securityContext": "securityContext: {privileged: true}",
    "livenessProbe": "livenessProbe: {periodSeconds: 60}",
    "readinessProbe": "readinessProbe: {failureThreshold: 9}",
    "podLabels": "podLabels: {stage: live}",
    "podAnnotations": "podAnnotations: {example.com/seen: 'yes'}",
    "serviceAnnotations": "serviceAnnotations: {example.com/seen: 'yes'}",
    "port": "port: 9999",
    "logLevel": "logLevel: debug",
    "scrape.method": "scrape: {method: none}",
    "config": "config: {cycle_seconds: 10}",
    "extraArgs": "extraArgs: [--web-config=/web/config.yaml]",
    "extraEnv": "extraEnv: [{name: TZ, value: UTC}]",
    "extraVolumes": "extraVolumes: [{name: web, secret: {secretName: web}}]",
    "extraVolumeMounts": "extraVolumeMounts: [{name: web, mountPath: /web}]",
    "clusterName": "{clusterName: east, scrape: {method: podMonitor}}",
    "rbac.dra": "rbac: {dra: true}",
    "state.enabled": "state: {enabled: false}",
    "state.hostPath": "state: {hostPath: /mnt/ledger}",
    "scrape.monitor.namespace": monitor("namespace: watch"),
    "scrape.monitor.labels": monitor("labels: {release: stack}"),
    "scrape.monitor.annotations": monitor("annotations: {example.com/seen: 'yes'}"),
    "scrape.monitor.scrapeTimeout": monitor("scrapeTimeout: 7s"),
    "scrape.monitor.limits": monitor("limits: {sampleLimit: 50000}"),
    "scrape.monitor.endpoint": monitor("endpoint: {tlsConfig: {insecureSkipVerify: true}}"),
    "scrape.monitor.relabelings": monitor("relabelings: [{targetLabel: rack, replacement: r1}]"),
    "scrape.monitor.metricRelabelings": monitor(
        "metricRelabelings: [{action: labeldrop, regex: gone}]"
    ),
    "web.secretName": "web: {secretName: web}",
    "web.configKey": "web: {secretName: web, configKey: web.yml}",
    "web.tls": "web: {secretName: web, tls: true}",
    "networkPolicy.enabled": "networkPolicy: {enabled: true}",
    "networkPolicy.from": "networkPolicy: {enabled: true, from: [{ipBlock: {cidr: 10.0.0.0/8}}]}",
    "extraContainers": "extraContainers: [{name: beside, image: x}]",
    "extraInitContainers": "extraInitContainers: [{name: before, image: x}]",
    "extraObjects": "extraObjects: [{kind: Secret, metadata: {name: '{{ .Release.Name }}-s'}}]",
    "priceRefresh.enabled": "priceRefresh: {enabled: true, providers: [azure]}",
    "priceRefresh.providers": "priceRefresh: {enabled: true, providers: [oci]}",
    "priceRefresh.regions": "priceRefresh: {enabled: true, providers: [azure], regions: [eastus]}",
    "priceRefresh.schedule": "priceRefresh: {enabled: true, providers: [aws], schedule: 1 2 * * *}",
    "priceRefresh.extraEnv": "priceRefresh: {enabled: true, providers: [gcp], extraEnv: "
    "[{name: GPUCOST_GCP_API_KEY, value: k}]}",
    "report.enabled": report(""),
    "report.prometheus": report("prometheus: 'http://thanos:9090'"),
    "report.schedule": report("schedule: 1 2 * * 5"),
    "report.timeZone": report("timeZone: Europe/Berlin"),
    "report.from": report("from: 30d"),
    "report.by": report("by: team"),
    "report.format": report("format: markdown"),
    "report.claimName": report("claimName: others"),
    "report.webhookSecret.name": report("webhookSecret: {name: chat}"),
    "report.webhookSecret.key": report("webhookSecret: {name: chat, key: address}"),
    "report.filesSecret": report("filesSecret: token"),
    "report.extraArgs": report("extraArgs: ['--header=X-Scope-OrgID=team']"),
}
"""For each value some other setting of it."""

UNSEEN = {
    "rules.method",
    "rules.namespace",
    "rules.labels",
    "rules.annotations",
    "rules.settings",
    "scaling.prometheus.serverAddress",
    "scaling.prometheus.customHeaders",
    "scaling.prometheus.authModes",
    "scaling.prometheus.authenticationRef",
    "scaling.prometheus.secretTargetRef",
    "scaling.rulesElsewhere",
    "scaling.targets",
    "report.resources",
    "priceRefresh.resources",
    "jobs.nodeSelector",
    "jobs.tolerations",
    "dashboards.method",
    "dashboards.namespace",
    "dashboards.labels",
    "dashboards.annotations",
    "dashboards.grafanaOperator.matchLabels",
    "dashboards.grafanaOperator.folder",
    "dashboards.grafanaOperator.allowCrossNamespaceImport",
}
"""Tried in the tests of dashboards, rules and scaling."""

SHOWS: dict[str, str] = {
    "global.imageRegistry": "registry.example.com/gpucost:",
    "global.imagePullSecrets": '[{"name": "one"}, {"name": "two"}]',
    "image.registry": "registry.example.com/team/gpucost:",
    "image.digest": f"gpucost@{DIGEST}",
    "serviceAccount.create": '"serviceAccountName": "default"',
    "resources": '"resources": {"limits": {"memory": "1Gi"}, "requests": {"cpu": "20m"',
    "livenessProbe": '"periodSeconds": 60',
    "updateStrategy": '"updateStrategy": {"type": "OnDelete"}',
    "priorityClassName": '"priorityClassName": "system-node-critical"',
    "terminationGracePeriodSeconds": '"terminationGracePeriodSeconds": 5',
    "hostPID": '"hostPID": true',
    "port": "--listen=:9999",
    "clusterName": '"targetLabel": "cluster", "replacement": "east"',
    "state.hostPath": "/mnt/ledger",
    "scrape.monitor.namespace": '"namespace": "watch"',
    "scrape.monitor.labels": '"release": "stack"',
    "scrape.monitor.annotations": '"example.com/seen": "yes"',
    "scrape.monitor.scrapeTimeout": '"scrapeTimeout": "7s"',
    "scrape.monitor.limits": '"sampleLimit": 50000',
    "scrape.monitor.endpoint": '"insecureSkipVerify": true',
    "scrape.monitor.relabelings": '"targetLabel": "rack"',
    "scrape.monitor.metricRelabelings": '"regex": "gone"',
    "web.configKey": "--web-config=/etc/gpucost-web/web.yml",
    "web.tls": '"scheme": "HTTPS"',
    "networkPolicy.from": "10.0.0.0/8",
    "extraObjects": "gpucost-s",
    "priceRefresh.providers": '"--provider=oci"',
    "priceRefresh.regions": '"--region=eastus"',
    "priceRefresh.schedule": '"schedule": "1 2 * * *"',
    "priceRefresh.extraEnv": "GPUCOST_GCP_API_KEY",
    "report.prometheus": '"--prometheus=http://thanos:9090"',
    "report.schedule": '"schedule": "1 2 * * 5"',
    "report.timeZone": '"--time-zone=Europe/Berlin"',
    "report.from": '"--from=30d"',
    "report.by": '"--by=team"',
    "report.format": "gpucost-%Y-%m-%d.md",
    "report.claimName": '"claimName": "others"',
    "report.webhookSecret.name": '"--webhook=GPUCOST_WEBHOOK"',
    "report.webhookSecret.key": '"key": "address"',
    "report.filesSecret": '"secretName": "token"',
    "report.extraArgs": '"--header=X-Scope-OrgID=team"',
}
"""What of it is then to be seen, where a difference alone says little."""


def paths(values: tuple[gen_chart.Value, ...] = VALUES, before: str = "") -> Iterator[str]:
    for value in values:
        if value.inner:
            yield from paths(value.inner, f"{before}{value.name}.")
        else:
            yield before + value.name


def shown(release: Release) -> str:
    return json.dumps(release.objects)


def test_every_value_is_tried() -> None:
    assert CHANGES.keys() == set(paths()) - UNSEEN
    assert SHOWS.keys() <= CHANGES.keys()


@pytest.mark.parametrize("path", CHANGES)
def test_every_value_does_something(path: str) -> None:
    change = CHANGES[path]
    if "hostPath:" in change:
        assert shown(install(change)) != shown(install("driver: {mode: hostPath}"))
    assert shown(install(change)) != shown(install())
    assert SHOWS.get(path, "") in shown(install(change))


def test_all_at_once_is_still_one_release() -> None:
    together: dict[str, Any] = {}
    for change in CHANGES.values():
        merge(together, yaml.safe_load(change))
    kinds = sorted(each["kind"] for each in install(yaml.safe_dump(together)).objects)
    assert kinds == [
        "ConfigMap",
        "ConfigMap",
        "CronJob",
        "CronJob",
        "DaemonSet",
        "NetworkPolicy",
        "Pod",
        "Secret",
        "Service",
        "ServiceMonitor",
    ]


def merge(into: dict[str, Any], more: dict[str, Any]) -> None:
    for key, value in more.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            merge(into[key], value)
        else:
            into[key] = value


def test_an_upgrade_that_reuses_the_old_charts_values_works(tmp_path: Path) -> None:
    # `helm upgrade --reuse-values` puts the old values, defaults too, in the place of the new
    # chart's values.yaml: what is new in that is not there (Helm's pkg/action, reuseValues).
    chart = tmp_path / "gpucost"
    shutil.copytree(CHART, chart)
    shutil.copy(OLD_CHART / "values.yaml", chart)
    kinds = {each["kind"] for each in install(chart=chart).objects}
    assert kinds == {each["kind"] for each in install(chart=OLD_CHART).objects}


@pytest.mark.parametrize(
    ("values", "shows"),
    [
        ("scrape: {method: podMonitor}", '"scrapeTimeout": "10s"'),
        ("networkPolicy: {enabled: true}", '"app.kubernetes.io/name": "prometheus"'),
        ("web: {secretName: web}", "--web-config=/etc/gpucost-web/web-config.yaml"),
        ("state: {enabled: true}", '"path": "/var/lib/gpucost"'),
        ("dashboards: {method: grafanaDashboard}", ""),
        ("rules: {method: prometheusRule}", '"alert": "GPUIdle"'),
        (
            """
rules: {method: configMap}
scaling:
  prometheus: {serverAddress: x}
  targets: [{name: a, namespace: b, maxReplicas: 2, minReplicas: 1}]
""",
            '"formula": "need"',
        ),
    ],
)
def test_what_is_new_can_be_turned_on_over_an_older_charts_values(
    tmp_path: Path, values: str, shows: str
) -> None:
    chart = tmp_path / "gpucost"
    shutil.copytree(CHART, chart)
    shutil.copy(OLD_CHART / "values.yaml", chart)
    assert shows in shown(install(values, chart=chart))


@pytest.mark.parametrize(
    "values",
    [
        "priceRefresh: {enabled: true, providers: [azure]}",
        "report: {enabled: true, prometheus: 'http://p', webhookSecret: {name: hook}}",
        "scrape: {method: serviceMonitor}",
        "networkPolicy: {enabled: true}",
        "rules: {method: configMap}",
        "dashboards: {method: configMap}",
        "dashboards: {method: grafanaDashboard}",
    ],
)
def test_what_is_turned_on_over_an_older_charts_values_is_what_it_is_on_new_ones(
    tmp_path: Path, values: str
) -> None:
    chart = tmp_path / "gpucost"
    shutil.copytree(CHART, chart)
    shutil.copy(OLD_CHART / "values.yaml", chart)
    known = {(each["kind"], each["metadata"]["name"]) for each in install().objects}

    def new(release: Release) -> list[Any]:
        return [
            each
            for each in release.objects
            if (each["kind"], each["metadata"]["name"]) not in known
        ]

    assert new(install(values, chart=chart)) == new(install(values)) != []


def test_a_parent_charts_own_globals_are_let_through() -> None:
    assert install("global: {storageClass: fast}").objects == install().objects


@pytest.mark.parametrize(
    ("values", "says"),
    [
        # Keys that are none.
        ("bogus: 1", ["additional properties", "'bogus'"]),
        ("nodeselector: {}", ["'nodeselector'"]),
        ("image: {name: x}", ["/image", "'name'"]),
        ("driver: {hostPath: {folder: /x}}", ["/driver/hostPath", "'folder'"]),
        ("config: {cycel_seconds: 5}", ["/config", "'cycel_seconds'"]),
        ("config: {prices: {tabel: []}}", ["/config/prices", "'tabel'"]),
        ("config: {prices: {table: [{usd: 1}]}}", ["/config/prices/table/0", "'usd'"]),
        ("resources: {limit: {}}", ["/resources", "limit"]),
        ("affinity: {nodeAfinity: {}}", ["/affinity", "nodeAfinity"]),
        ("tolerations: [{keys: x}]", ["/tolerations/0", "keys"]),
        ("livenessProbe: {httpGet: 1}", ["/livenessProbe", "httpGet"]),
        # Other types.
        ("port: http", ["/port", "got string, want integer"]),
        ("image: gpucost:1", ["/image", "got string, want object"]),
        ("tolerations: {operator: Exists}", ["/tolerations", "want array"]),
        ("gpuNodes: {labels: {pool: gpu}}", ["/gpuNodes/labels/pool", "want array"]),
        ('gpuNodes: {labelledOnly: "no"}', ["/gpuNodes/labelledOnly", "want boolean"]),
        ("podLabels: {stage: 1}", ["/podLabels/stage", "want string"]),
        ("config: []", ["/config", "want object"]),
        ('config: {cycle_seconds: "5"}', ["/config/cycle_seconds", "want number"]),
        ("extraEnv: [{value: x}]", ["/extraEnv/0", "missing property 'name'"]),
        # Figures and words out of bounds.
        ("port: 0", ["/port", "got 0, want 1"]),
        ("port: -10190", ["/port", "want 1"]),
        ("terminationGracePeriodSeconds: -1", ["/terminationGracePeriodSeconds", "want 0"]),
        ("readinessProbe: {periodSeconds: -1}", ["/readinessProbe/periodSeconds", "want 1"]),
        ("config: {prices: {fallback: {H100: -2}}}", ["/config/prices/fallback/H100"]),
        ("config: {idle_threshold_ratio: 2}", ["/config/idle_threshold_ratio", "want 1"]),
        ("driver: {mode: gke}", ["/driver/mode", "'runtime', 'hostPath', 'none'"]),
        ("scrape: {method: both}", ["/scrape/method", "'serviceAnnotations'"]),
        ("scrape: {monitor: {enabled: true}}", ["/scrape/monitor", "'enabled'"]),
        ("networkPolicy: {enabled: true, from: []}", ["/networkPolicy/from", "minItems"]),
        ("state: {hostPath: ledger}", ["/state/hostPath", "pattern"]),
        ("dashboards: {method: sidecar}", ["/dashboards/method", "'configMap'"]),
        ("logLevel: loud", ["/logLevel", "'debug'"]),
        ("image: {digest: latest}", ["/image/digest", "does not match pattern"]),
        ("image: {pullPolicy: Sometimes}", ["/image/pullPolicy", "'Always'"]),
        ("kubelet: {podResourcesPath: var/lib}", ["/kubelet/podResourcesPath", "pattern"]),
        (f"fullnameOverride: {'x' * 60}", ["/fullnameOverride", "maxLength"]),
        ("namespaceOverride: Elsewhere", ["/namespaceOverride", "pattern"]),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(values: str, says: list[str]) -> None:
    with pytest.raises(Refused) as refused:
        install(values)
    for words in says:
        assert words in str(refused.value)


# --- what is made from values.yaml ------------------------------------------------------------


def test_a_value_without_a_description_is_not_accepted() -> None:
    with pytest.raises(ValueError, match=r"line 3: describe `b`"):
        gen_chart.read_values("# One.\na: 1\nb: 2\n")


def test_the_schema_of_a_value_is_what_its_default_and_comment_say() -> None:
    text = """
# Of some things.
outer:
  # How many,
  # at most.
  # @schema {minimum: 1}
  many: 3
  # Whatever.
  # @schema {
  #   additionalProperties: {type: integer}}
  free: {x: 1}
"""
    [outer] = gen_chart.read_values(text)
    many, free = outer.inner
    schema = gen_chart.schema_of((outer,))["properties"]["outer"]
    assert schema["additionalProperties"] is False
    assert schema["properties"]["many"] == {
        "description": "How many, at most.",
        "type": "integer",
        "minimum": 1,
    }
    assert many.default == 3
    assert free.inner == ()
    assert schema["properties"]["free"] == {
        "description": "Whatever.",
        "type": "object",
        "additionalProperties": {"type": "integer"},
    }


def test_the_schema_is_of_a_draft_that_every_helm_3_knows() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    assert schema["$schema"] == "http://json-schema.org/draft-07/schema#"
    for word in ("$defs", "unevaluatedProperties", "dependentRequired"):
        assert word not in json.dumps(schema)
