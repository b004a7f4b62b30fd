"""A job of the chart's CronJob writes the report to its volume and posts it to its webhook."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgspec
import pytest

from e2e.kube import gpu_pod, upgrade
from e2e.pager import Webhook
from gpucost.advice.report.document import Report

if TYPE_CHECKING:
    from pathlib import Path

    from cluster.components import Components
    from e2e.kube import Kube
    from e2e.prom import Prometheus

REPORTER = 65532
"""Whom the chart runs it as."""
NAME = "gpucost-report"


def test_a_job_of_its_cronjob_writes_the_report_and_posts_it(
    kube: Kube,
    prometheus: Prometheus,
    namespace: str,
    inside: Components,  # noqa: ARG001 - pods reach this machine
    tmp_path: Path,
) -> None:
    kube.apply(gpu_pod("trains", namespace, ["train"], gpus=2))
    spent = f'sum(gpucost_workload_cost_usd_total{{namespace="{namespace}"}})'
    kube.wait("its first cent", lambda: (prometheus.value(spent) or 0) > 0.01)
    os.chown(tmp_path, REPORTER, REPORTER)
    with Webhook() as webhook:
        kube.apply(*_volume(tmp_path), _address(webhook.url))
        try:
            upgrade(
                "--set=report.enabled=true",
                "--set=report.prometheus=http://prometheus.monitoring.svc:9090",
                f"--set=report.claimName={NAME},report.webhookSecret.name={NAME}",
                "--set=report.from=1h,report.format=json",
            )
            before = prometheus.value(spent) or 0.0
            kube("create", "job", "now", f"--from=cronjob/{NAME}")
            try:
                kube("wait", "job/now", "--for=condition=complete", "--timeout=60s", timeout=70)
            finally:
                kube("logs", "job/now")
                kube("delete", "job", "now", timeout=60)
            after = prometheus.value(spent) or 0.0
        finally:
            upgrade()
            kube("delete", "pvc,secret", NAME, timeout=60)
            kube("delete", "pv", NAME, timeout=60)
    [file] = tmp_path.iterdir()
    assert file.name.startswith("gpucost-20")
    report = msgspec.json.decode(file.read_bytes(), type=Report)
    [row] = [it for it in report.rows if it.name == namespace]
    # increase() guesses what came before the first scrape and after the last.
    assert 0.9 * before < row.usd < 1.1 * after
    assert "no_rules" in {it.kind for it in report.remarks}, (
        "this Prometheus has none, and it says so"
    )
    [message] = webhook.posted
    assert "could be saved" in message["text"]
    assert message["report"]["total"]["usd"] == pytest.approx(report.total.usd)


def _volume(folder: Path) -> tuple[dict[str, object], dict[str, object]]:
    """A folder of this machine as a volume, and a claim of it."""
    size = {"storage": "1Mi"}
    spec = {"accessModes": ["ReadWriteOnce"], "storageClassName": ""}
    return (
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": NAME},
            "spec": {**spec, "capacity": size, "hostPath": {"path": str(folder)}},
        },
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": NAME},
            "spec": {**spec, "volumeName": NAME, "resources": {"requests": size}},
        },
    )


def _address(url: str) -> dict[str, object]:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": NAME},
        "stringData": {"url": url},
    }
