"""Every row of the workload table: (labels, owner) of a pod and the workload it names."""

from __future__ import annotations

import pytest

from gpucost.sources.workloads import (
    LABEL_ROWS,
    OWNER_ROWS,
    Owner,
    PodIdentity,
    Workload,
    workload_of,
)

CREATED = 1_764_000_000.0
"""2025-11-24T16:00:00Z."""
MINUTES = int(CREATED // 60)

RAY = {"ray.io/originated-from-cr-name": "tune", "ray.io/cluster": "tune-raycluster-x7k2p"}
TRAINING = "training.kubeflow.org/job-name"
OPERATOR = "training.kubeflow.org/operator-name"
JOBSET = "jobset.sigs.k8s.io/jobset-name"

ROWS = [
    # labels, owner, expected
    ({}, None, Workload("Pod", "pod-0")),
    ({"pod-template-hash": "5d9c"}, Owner("ReplicaSet", "llm-5d9c"), Workload("Deployment", "llm")),
    (
        {"pod-template-hash": "other"},
        Owner("ReplicaSet", "llm-5d9c"),
        Workload("ReplicaSet", "llm-5d9c"),
    ),
    ({}, Owner("ReplicaSet", "bare"), Workload("ReplicaSet", "bare")),
    (
        {"rollouts-pod-template-hash": "7f8"},
        Owner("ReplicaSet", "llm-canary-7f8"),
        Workload("Rollout", "llm-canary"),
    ),
    ({}, Owner("StatefulSet", "vllm"), Workload("StatefulSet", "vllm")),
    ({}, Owner("DaemonSet", "agent"), Workload("DaemonSet", "agent")),
    ({}, Owner("Job", "train"), Workload("Job", "train")),
    ({}, Owner("Job", f"nightly-{MINUTES}"), Workload("CronJob", "nightly")),
    ({}, Owner("Job", f"nightly-{MINUTES - 60 * 24}"), Workload("CronJob", "nightly")),
    ({}, Owner("Job", f"nightly-{int(CREATED)}"), Workload("CronJob", "nightly")),
    ({}, Owner("Job", "train-20251124"), Workload("Job", "train-20251124")),
    ({}, Owner("Job", "train-2025112416"), Workload("Job", "train-2025112416")),
    ({}, Owner("Job", f"train-{MINUTES + 5000}"), Workload("Job", f"train-{MINUTES + 5000}")),
    ({}, Owner("PyTorchJob", "llama"), Workload("PyTorchJob", "llama")),
    ({}, Owner("Node", "gpu-1"), Workload("Pod", "pod-0")),
    ({}, Owner("RayCluster", "tune-raycluster-x7k2p"), Workload("RayCluster", "tune")),
    ({}, Owner("RayCluster", "shared"), Workload("RayCluster", "shared")),
    ({**RAY, "ray.io/originated-from-crd": "RayJob"}, None, Workload("RayJob", "tune")),
    ({**RAY, "ray.io/originated-from-crd": "RayService"}, None, Workload("RayService", "tune")),
    ({**RAY, "ray.io/originated-from-crd": "RayCluster"}, None, Workload("RayCluster", "tune")),
    (
        {"leaderworkerset.sigs.k8s.io/name": "deepseek"},
        Owner("StatefulSet", "deepseek-0"),
        Workload("LeaderWorkerSet", "deepseek"),
    ),
    ({JOBSET: "pretrain"}, Owner("Job", "pretrain-workers-0"), Workload("JobSet", "pretrain")),
    (
        {JOBSET: "ft", "trainer.kubeflow.org/trainjob-ancestor-step": "trainer"},
        Owner("Job", "ft-node-0"),
        Workload("TrainJob", "ft"),
    ),
    *(
        ({TRAINING: "llama", OPERATOR: operator}, None, Workload(kind, "llama"))
        for operator, kind in [
            ("pytorchjob-controller", "PyTorchJob"),
            ("tfjob-controller", "TFJob"),
            ("mpijob-controller", "MPIJob"),
            ("mpi-operator", "MPIJob"),
            ("xgboostjob-controller", "XGBoostJob"),
            ("paddlejob-controller", "PaddleJob"),
            ("jaxjob-controller", "JAXJob"),
            ("mxjob-controller", "MXJob"),
            ("somebody-elses", "TrainingJob"),
        ]
    ),
    *(
        ({label: "app"}, Owner("ReplicaSet", "app-predictor-00001-deployment-x"), expected)
        for label, expected in [
            ("serving.kserve.io/inferenceservice", Workload("InferenceService", "app")),
            ("serving.knative.dev/service", Workload("KnativeService", "app")),
            (
                "nvidia.com/dynamo-graph-deployment-name",
                Workload("DynamoGraphDeployment", "app"),
            ),
            ("notebook-name", Workload("Notebook", "app")),
            ("workflows.argoproj.io/workflow", Workload("Workflow", "app")),
            ("sparkoperator.k8s.io/app-name", Workload("SparkApplication", "app")),
            ("spark-app-name", Workload("SparkApplication", "app")),
            ("spark-app-selector", Workload("SparkApplication", "app")),
            ("volcano.sh/job-name", Workload("VolcanoJob", "app")),
            ("vm.kubevirt.io/name", Workload("VirtualMachine", "app")),
            ("actions.github.com/scale-set-name", Workload("AutoscalingRunnerSet", "app")),
        ]
    ),
    ({"dag_id": "etl", "airflow_version": "3.0"}, None, Workload("AirflowDag", "etl")),
    ({"dag_id": "somebody-elses"}, None, Workload("Pod", "pod-0")),
]


@pytest.mark.parametrize(("labels", "owner", "expected"), ROWS)
def test_a_pod_belongs_to(labels: dict[str, str], owner: Owner | None, expected: Workload) -> None:
    pod = PodIdentity("pod-0", labels, owner=owner, created_at=CREATED)
    assert workload_of(pod) == expected


def test_every_row_of_the_table_is_tested() -> None:
    found = {expected.kind for _, _, expected in ROWS}
    assert {row.kind for row in LABEL_ROWS} <= found
    assert {row.kind for row in OWNER_ROWS} <= found
    assert {kind for row in LABEL_ROWS for kind in row.kinds.values()} <= found
    labels = {label for found_labels, _, _ in ROWS for label in found_labels}
    assert {row.label for row in LABEL_ROWS} <= labels


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("chat", Workload("Workload", "chat")),
        ("Deployment/chat", Workload("Deployment", "chat")),
        (" Service/chat ", Workload("Service", "chat")),
        ("", Workload("Pod", "pod-0")),
        ("/", Workload("Pod", "pod-0")),
        ("/chat", Workload("Pod", "pod-0")),
        ("Deployment/", Workload("Pod", "pod-0")),
        ("x" * 254, Workload("Pod", "pod-0")),
    ],
)
def test_the_annotation_wins_where_it_says_something(value: str, expected: Workload) -> None:
    pod = PodIdentity("pod-0", annotations={"gpucost.io/workload": value})
    assert workload_of(pod) == expected
    labelled = PodIdentity(
        "pod-0", {"notebook-name": "nb"}, {"gpucost.io/workload": value}, Owner("Job", "j")
    )
    if expected.kind != "Pod":
        assert workload_of(labelled) == expected
    else:
        assert workload_of(labelled) == Workload("Notebook", "nb")


def test_a_job_is_no_cron_job_while_its_pods_age_is_unknown() -> None:
    pod = PodIdentity("pod-0", owner=Owner("Job", f"nightly-{MINUTES}"))
    assert workload_of(pod).kind == "Job"
