"""What Prometheus discovers of the chart's pods, and what it makes of that, by real promtool.

Debian's Prometheus has no Kubernetes discovery, so what that finds is given here.
"""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any

import yaml

from helm_chart import NAMESPACE, install
from programs import program

if TYPE_CHECKING:
    from pathlib import Path

META = "__meta_kubernetes_"


def named(text: str) -> str:
    """A name as Prometheus writes it into that of a label."""
    return "".join(letter if letter.isalnum() else "_" for letter in text)


def discovered(address: str, revision: str, node: str = "gpu-1") -> dict[str, str]:
    """What Prometheus discovers of one exporter's pod behind the chart's Service.

    After the reference of kubernetes_sd_config. `revision` is what a rollout changes.
    """
    release = install()
    service = release.one("Service")["metadata"]
    pod = release.one("DaemonSet")["spec"]["template"]["metadata"]
    labels = {
        **pod["labels"],
        "controller-revision-hash": revision,
        "pod-template-generation": revision,
    }
    return {
        "__address__": address,
        f"{META}namespace": NAMESPACE,
        f"{META}pod_name": f"gpucost-{revision}",
        f"{META}pod_uid": revision,
        f"{META}pod_ip": address.partition(":")[0],
        f"{META}pod_phase": "Running",
        f"{META}pod_ready": "true",
        f"{META}pod_node_name": node,
        f"{META}pod_container_name": "gpucost",
        f"{META}pod_container_port_name": "metrics",
        f"{META}pod_container_image": f"gpucost:{revision}",
        f"{META}service_name": service["name"],
        **{f"{META}pod_label_{named(key)}": value for key, value in labels.items()},
        **{f"{META}service_label_{named(key)}": value for key, value in service["labels"].items()},
        **{
            f"{META}service_annotation_{named(key)}": value
            for key, value in service["annotations"].items()
        },
    }


def targets(directory: Path, job: dict[str, Any], *found: dict[str, str]) -> list[dict[str, str]]:
    """The labels that each target found would put on its series, and `__address__`."""
    static = [
        {
            "targets": [each["__address__"]],
            "labels": {key: value for key, value in each.items() if key != "__address__"},
        }
        for each in found
    ]
    sd = {key: value for key, value in job.items() if key != "kubernetes_sd_configs"}
    path = directory / "prometheus.yml"
    path.write_text(yaml.safe_dump({"scrape_configs": [{**sd, "static_configs": static}]}))
    # It waits for what more may be discovered until the time is up; what is static is there.
    ran = subprocess.run(
        [program("promtool"), "check", "service-discovery", "--timeout=3s", path, job["job_name"]],
        capture_output=True,
        check=True,
        text=True,
        timeout=60,
    )
    kept = [each["labels"] for each in json.loads(ran.stdout) if each["labels"]]
    hosts = [each["__address__"].partition(":")[0] for each in found]  # promtool's order is any
    kept.sort(key=lambda labels: hosts.index(labels["__address__"].partition(":")[0]))
    return [
        {
            label: value
            for label, value in each.items()
            if not label.startswith("__") or label == "__address__"
        }
        for each in kept
    ]
