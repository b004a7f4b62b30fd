"""The CronJob that makes the report: off by default, and then it asks Prometheus alone."""

from __future__ import annotations

import pytest

from gpucost import cli
from helm_chart import Refused, install

ON = """
report:
  enabled: true
  prometheus: http://prometheus-operated.monitoring.svc:9090
  claimName: reports
  webhookSecret: {name: chat}
  filesSecret: prometheus-token
  extraArgs: [--bearer-token-file=/etc/gpucost-report/token]
"""


def test_without_values_no_report_is_made() -> None:
    assert all(it["kind"] != "CronJob" for it in install().objects)


def test_the_command_takes_what_the_job_gives_it(monkeypatch: pytest.MonkeyPatch) -> None:
    job = install(ON).one("CronJob")
    pod = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    [container] = pod["containers"]
    [variable] = [it["name"] for it in container["env"] if "valueFrom" in it]
    monkeypatch.setenv(variable, "https://chat.example.com/hook")
    given = cli._parser(container["args"]).parse_args(container["args"])  # noqa: SLF001 - taken
    assert given.prometheus == "http://prometheus-operated.monitoring.svc:9090"
    assert (given.start, given.by, given.webhook) == ("7d", "namespace", variable)
    assert str(given.output) == "/reports/gpucost-%Y-%m-%d.html"
    mounts = {it["name"]: it["mountPath"] for it in container["volumeMounts"]}
    assert str(given.output).startswith(mounts["reports"])
    assert str(given.bearer_token_file).startswith(mounts["files"])
    volumes = {it["name"]: it for it in pod["volumes"]}
    assert volumes["reports"]["persistentVolumeClaim"] == {"claimName": "reports"}


def test_the_job_may_nothing_that_it_does_not_need() -> None:
    release = install(ON)
    pod = release.one("CronJob")["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    [container] = pod["containers"]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert container["securityContext"]["readOnlyRootFilesystem"] is True


def test_the_address_of_the_scalers_prometheus_is_taken_where_no_other_is_given() -> None:
    release = install(
        "report: {enabled: true, webhookSecret: {name: chat}}\n"
        "scaling: {prometheus: {serverAddress: 'http://thanos:9090'}}"
    )
    [container] = release.one("CronJob")["spec"]["jobTemplate"]["spec"]["template"]["spec"][
        "containers"
    ]
    assert "--prometheus=http://thanos:9090" in container["args"]


@pytest.mark.parametrize(
    ("values", "remedy"),
    [
        ("report: {enabled: true, claimName: reports}", "report.prometheus"),
        ("report: {enabled: true, prometheus: 'http://p'}", "report.claimName"),
        ("report: {enabled: true, by: pod}", "by"),
        ("report: {enabled: true, from: yesterday}", "from"),
        ("report: {enabled: true, format: pdf}", "format"),
        ("report: {on: true}", "report"),
    ],
)
def test_values_that_cannot_be_meant_are_refused(values: str, remedy: str) -> None:
    with pytest.raises(Refused, match=remedy):
        install(values)


def test_the_jobs_run_where_they_are_allowed_with_what_they_are_given() -> None:
    release = install(
        ON
        + "  resources: {limits: {memory: 2Gi}}\n"
        + """
priceRefresh: {enabled: true, providers: [azure], resources: {limits: {memory: 1Gi}}}
jobs:
  nodeSelector: {kubernetes.io/arch: amd64}
  tolerations: [{key: batch, operator: Exists}]
"""
    )
    jobs = [it for it in release.objects if it["kind"] == "CronJob"]
    pods = [it["spec"]["jobTemplate"]["spec"]["template"]["spec"] for it in jobs]
    assert [pod["nodeSelector"] for pod in pods] == [{"kubernetes.io/arch": "amd64"}] * 2
    assert [pod["tolerations"] for pod in pods] == [[{"key": "batch", "operator": "Exists"}]] * 2
    memory = {pod["containers"][0]["resources"]["limits"]["memory"] for pod in pods}
    assert memory == {"1Gi", "2Gi"}
