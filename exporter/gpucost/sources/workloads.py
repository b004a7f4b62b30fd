"""What a pod belongs to, told from the pod alone: a table of rows, and no further reads.

The rows are asked in order and the first that applies names the workload, so what a person
created comes before what its operator made of it (a RayJob before its RayCluster, a
LeaderWorkerSet before its StatefulSets, a Deployment before its ReplicaSet).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

WORKLOAD_ANNOTATION = "gpucost.io/workload"
"""`name` (its kind is then Workload) or `kind/name`; it wins over every row."""

MAX_NAME_CHARS = 253
"""Kubernetes' own bound of a name; an annotation may be 256 KiB."""

_CRON_WINDOW_SECONDS = (-60, 366 * 86_400)
"""From a Job's scheduled time to its pod: a year, and a minute for clocks that differ."""


class Owner(Struct, frozen=True):
    """The owner of a pod: its controller, or its only owner."""

    kind: str
    name: str


class PodIdentity(Struct, frozen=True):
    """What the rows look at. `created_at` is Unix time, None where unknown."""

    name: str
    labels: Mapping[str, str] = {}
    annotations: Mapping[str, str] = {}
    owner: Owner | None = None
    created_at: float | None = None


class Workload(Struct, frozen=True):
    """A workload by kind (CamelCase, as its resource is called) and name."""

    kind: str
    name: str


class LabelRow(Struct, frozen=True):
    """A workload that writes its name into a label of its pods.

    Its kind is `kind`, or what `kinds` makes of the value of the label `kind_label`; a value
    that `kinds` lacks leaves `kind`. With `also`, the pod must have that label too.
    """

    label: str
    kind: str
    kind_label: str = ""
    kinds: Mapping[str, str] = {}
    also: str = ""


class OwnerRow(Struct, frozen=True):
    """A workload that a pod's owner stands for. `name_of` gives its name, None if not it."""

    owner_kind: str
    kind: str
    name_of: Callable[[PodIdentity, Owner], str | None]


LABEL_ROWS = (
    # KubeRay: utils/constant.go. Kinds as its CRDs are called.
    LabelRow(
        "ray.io/originated-from-cr-name",
        "RayCluster",
        kind_label="ray.io/originated-from-crd",
        kinds={"RayJob": "RayJob", "RayService": "RayService"},
    ),
    # Kubeflow Trainer v2 makes a JobSet of the TrainJob's own name.
    LabelRow(
        "jobset.sigs.k8s.io/jobset-name",
        "TrainJob",
        also="trainer.kubeflow.org/trainjob-ancestor-step",
    ),
    LabelRow("leaderworkerset.sigs.k8s.io/name", "LeaderWorkerSet"),
    LabelRow("jobset.sigs.k8s.io/jobset-name", "JobSet"),
    # Kubeflow's training operator: pkg/apis/kubeflow.org/v1/common_types.go.
    LabelRow(
        "training.kubeflow.org/job-name",
        "TrainingJob",
        kind_label="training.kubeflow.org/operator-name",
        kinds={
            "jaxjob-controller": "JAXJob",
            "mpi-operator": "MPIJob",
            "mpijob-controller": "MPIJob",
            "mxjob-controller": "MXJob",
            "paddlejob-controller": "PaddleJob",
            "pytorchjob-controller": "PyTorchJob",
            "tfjob-controller": "TFJob",
            "xgboostjob-controller": "XGBoostJob",
        },
    ),
    LabelRow("serving.kserve.io/inferenceservice", "InferenceService"),
    LabelRow("serving.knative.dev/service", "KnativeService"),
    LabelRow("nvidia.com/dynamo-graph-deployment-name", "DynamoGraphDeployment"),
    LabelRow("notebook-name", "Notebook"),
    LabelRow("workflows.argoproj.io/workflow", "Workflow"),
    LabelRow("sparkoperator.k8s.io/app-name", "SparkApplication"),
    LabelRow("spark-app-name", "SparkApplication"),
    LabelRow("spark-app-selector", "SparkApplication"),
    LabelRow("volcano.sh/job-name", "VolcanoJob"),
    LabelRow("vm.kubevirt.io/name", "VirtualMachine"),
    LabelRow("actions.github.com/scale-set-name", "AutoscalingRunnerSet"),
    # Airflow's executor and KubernetesPodOperator make pods without an owner, one a task.
    LabelRow("dag_id", "AirflowDag", also="airflow_version"),
)


def _without_hash(label: str) -> Callable[[PodIdentity, Owner], str | None]:
    """The owner's name less the template hash that the pod's label repeats."""

    def name_of(pod: PodIdentity, owner: Owner) -> str | None:
        value = pod.labels.get(label)
        if not value or not owner.name.endswith(f"-{value}"):
            return None
        return owner.name[: -len(value) - 1] or None

    return name_of


_CRON_JOB = re.compile(r"^(?P<cron>.+)-(?P<time>\d{8}|\d{10})$")


def _cron(pod: PodIdentity, owner: Owner) -> str | None:
    """The CronJob behind a Job called `<cron>-<scheduled time>`.

    The time is in minutes of Unix time (8 digits; in seconds, 10, before Kubernetes 1.21). It
    must lie in the year before the pod was made: `train-20260131` is a Job with a date.
    """
    match = _CRON_JOB.match(owner.name)
    if match is None or pod.created_at is None:
        return None
    digits = match["time"]
    scheduled = int(digits) * (60 if len(digits) == len("29412345") else 1)
    earliest, latest = _CRON_WINDOW_SECONDS
    return match["cron"] if earliest <= pod.created_at - scheduled <= latest else None


_RAY_CLUSTER = re.compile(r"^(?P<base>.+)-raycluster-[a-z0-9]{5}$")


def _ray(_: PodIdentity, owner: Owner) -> str:
    """A RayJob or RayService makes clusters `<name>-raycluster-<random>`, one after another."""
    match = _RAY_CLUSTER.match(owner.name)
    return match["base"] if match else owner.name


def _pod_itself(pod: PodIdentity, _: Owner) -> str:
    return pod.name


OWNER_ROWS = (
    OwnerRow("ReplicaSet", "Rollout", _without_hash("rollouts-pod-template-hash")),
    OwnerRow("ReplicaSet", "Deployment", _without_hash("pod-template-hash")),
    OwnerRow("Job", "CronJob", _cron),
    OwnerRow("RayCluster", "RayCluster", _ray),
    # The mirror of a static pod, or a pod of the node's own.
    OwnerRow("Node", "Pod", _pod_itself),
)
"""Owners that are not the workload itself. Every other owner is (StatefulSet, DaemonSet, Job,
PyTorchJob, ...), under its own kind and name."""


def workload_of(pod: PodIdentity) -> Workload:
    """What a pod belongs to: its annotation, else a label row, else its owner, else itself."""
    if named := _annotated(pod.annotations.get(WORKLOAD_ANNOTATION, "")):
        return named
    for row in LABEL_ROWS:
        name = pod.labels.get(row.label)
        if name and (not row.also or row.also in pod.labels):
            return Workload(row.kinds.get(pod.labels.get(row.kind_label, ""), row.kind), name)
    if pod.owner is None:
        return Workload("Pod", pod.name)
    for owner_row in OWNER_ROWS:
        if pod.owner.kind == owner_row.owner_kind and (name := owner_row.name_of(pod, pod.owner)):
            return Workload(owner_row.kind, name)
    return Workload(pod.owner.kind, pod.owner.name)


def _annotated(value: str) -> Workload | None:
    """What the annotation says; nothing where it is empty or too long to be a name."""
    kind, slash, name = value.strip().partition("/")
    if not slash:
        kind, name = "Workload", kind
    if not kind or not name or len(value) > MAX_NAME_CHARS:
        return None
    return Workload(kind.strip(), name.strip())
