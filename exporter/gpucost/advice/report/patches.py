"""Manifests for a person to review: nothing here is applied. Pure."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gpucost.advice.report.facts import Key
    from gpucost.advice.report.office import Opening

API_VERSIONS = {
    "Deployment": "apps/v1",
    "StatefulSet": "apps/v1",
    "ReplicaSet": "apps/v1",
    "Job": "batch/v1",
    "CronJob": "batch/v1",
}
"""Kinds that a patch can be written for."""

REPLICATED = ("Deployment", "StatefulSet", "ReplicaSet")


def _name(text: str) -> str:
    """A name as YAML takes it whatever is in it: as JSON writes it."""
    return json.dumps(text)


def words_of_free(key: Key) -> str:
    """What a person does to free a workload's GPUs."""
    kind = key.workload_kind.lower() or "pod"
    if key.workload_kind in REPLICATED:
        return f"kubectl -n {key.namespace} scale {kind} {key.workload} --replicas=0."
    return f"Delete it: kubectl -n {key.namespace} delete {kind} {key.workload}."


def _head(key: Key) -> str:
    return (
        f"apiVersion: {API_VERSIONS[key.workload_kind]}\n"
        f"kind: {key.workload_kind}\n"
        "metadata:\n"
        f"  name: {_name(key.workload)}\n"
        f"  namespace: {_name(key.namespace)}\n"
    )


def replicas(key: Key, count: int) -> str:
    """So many replicas."""
    if key.workload_kind not in REPLICATED:
        return ""
    return f"{_head(key)}spec:\n  replicas: {count}\n"


def resource(key: Key, name: str) -> str:
    """Another extended resource in place of nvidia.com/gpu, in the pod's first container."""
    if key.workload_kind not in API_VERSIONS or key.workload_kind == "CronJob":
        return ""
    return (
        f"{_head(key)}spec:\n  template:\n    spec:\n      containers:\n"
        "        - name: CONTAINER # the one that asks for the GPU\n"
        "          resources:\n"
        f"            limits: {{nvidia.com/gpu: null, {name}: 1}}\n"
        f"            requests: {{nvidia.com/gpu: null, {name}: 1}}\n"
    )


def spot(key: Key) -> str:
    """A pod that tolerates a tainted spot node. Its label differs by cloud: a person chooses."""
    if key.workload_kind not in API_VERSIONS or key.workload_kind == "CronJob":
        return ""
    return (
        f"{_head(key)}spec:\n  template:\n    spec:\n"
        '      # EKS with Karpenter; GKE: cloud.google.com/gke-spot: "true";\n'
        "      # AKS: kubernetes.azure.com/scalesetpriority: spot\n"
        "      nodeSelector: {karpenter.sh/capacity-type: spot}\n"
        "      tolerations:\n"
        "        - {key: karpenter.sh/capacity-type, value: spot, effect: NoSchedule}\n"
        "        - {key: cloud.google.com/gke-spot, operator: Exists, effect: NoSchedule}\n"
        "        - {key: kubernetes.azure.com/scalesetpriority, operator: Exists}\n"
    )


def scaling_target(key: Key, profile: str) -> str:
    """Values of gpucost's chart: a KEDA target that sleeps."""
    return (
        "# Values of the gpucost chart (docs/scaling.md).\n"
        "scaling:\n  targets:\n"
        f"    - name: {_name(key.workload)}\n"
        f"      namespace: {_name(key.namespace)}\n"
        f"      profile: {profile}\n"
        "      minReplicas: 0\n"
        "      maxReplicas: 1 # the most that ran\n"
        "      # At zero replicas something before it must say that somebody asks:\n"
        '      # queue: sum(gateway_waiting{service="..."}) or vector(0)\n'
    )


def cron(key: Key, hours: Opening, zone: str) -> str:
    """A KEDA ScaledObject that follows the clock."""
    if key.workload_kind not in REPLICATED:
        return ""
    days = ",".join(str((day + 1) % 7) for day in hours.days)
    end = (
        f"59 {hours.to_hour - 1} * * {days}"
        if hours.to_hour == 24  # noqa: PLR2004 - cron has no hour 24
        else f"0 {hours.to_hour} * * {days}"
    )
    return (
        "apiVersion: keda.sh/v1alpha1\n"
        "kind: ScaledObject\n"
        "metadata:\n"
        f"  name: {_name(f'{key.workload}-office-hours')}\n"
        f"  namespace: {_name(key.namespace)}\n"
        "spec:\n"
        "  scaleTargetRef:\n"
        f"    apiVersion: {API_VERSIONS[key.workload_kind]}\n"
        f"    kind: {key.workload_kind}\n"
        f"    name: {_name(key.workload)}\n"
        "  minReplicaCount: 0\n"
        "  triggers:\n"
        "    - type: cron\n"
        "      metadata:\n"
        f"        timezone: {_name(zone)}\n"
        f'        start: "0 {hours.from_hour} * * {days}"\n'
        f'        end: "{end}"\n'
        '        desiredReplicas: "1" # as many as it needs by day\n'
    )
