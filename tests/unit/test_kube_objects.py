"""Kubernetes' JSON to Pod and Node."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gpucost.config import Dcgm, Kubernetes
from gpucost.model import ContainerClaim, ContainerStatus, Reserved
from gpucost.sources.base import SourceError
from gpucost.sources.kube_objects import (
    PodObject,
    dcgm_url_of,
    decode,
    parse_ends,
    parse_node,
    parse_pod,
    parse_pod_list,
)

SETTINGS = Kubernetes()
AT = "2025-11-24T16:00:00Z"
SECONDS = 1_764_000_000.0

POD: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {
        "name": "llm-5d9c-x",
        "namespace": "serving",
        "uid": "u-1",
        "labels": {"pod-template-hash": "5d9c", "team": "search", "app": "llm"},
        "annotations": {"example.com/owner": "ada", "secret": "s3cr3t"},
        "ownerReferences": [{"kind": "ReplicaSet", "name": "llm-5d9c", "controller": True}],
        "creationTimestamp": "2025-11-24T15:00:00Z",
        "managedFields": [{"fieldsV1": {"f:x": {}}}],
    },
    "spec": {
        "nodeName": "gpu-1",
        "initContainers": [
            {"name": "fetch", "resources": {"requests": {"cpu": "1"}}},
            {"name": "proxy", "restartPolicy": "Always"},
        ],
        "containers": [
            {
                "name": "server",
                "resources": {"limits": {"nvidia.com/gpu": "2"}},
                "readinessProbe": {"httpGet": {"path": "/"}},
            },
            {"name": "logs", "resources": {}},
        ],
    },
    "status": {
        "phase": "Running",
        "podIP": "10.0.0.5",
        "startTime": "2025-11-24T15:30:00Z",
        "conditions": [
            {"type": "PodScheduled", "status": "True", "lastTransitionTime": AT},
            {"type": "Ready", "status": "True"},
        ],
        "initContainerStatuses": [
            {"name": "fetch", "state": {"terminated": {"exitCode": 0}}},
            {"name": "proxy", "state": {"running": {"startedAt": AT}}},
        ],
        "containerStatuses": [
            {
                "name": "server",
                "restartCount": 3,
                "state": {"waiting": {"reason": "CrashLoopBackOff"}},
                "lastState": {"terminated": {"exitCode": 137}},
            },
            {"name": "logs", "state": {"running": {}}},
        ],
    },
}


def changed(**parts: dict[str, Any]) -> dict[str, Any]:
    """POD with fields of its metadata, spec or status replaced."""
    return {key: {**POD[key], **parts.get(key, {})} for key in ("metadata", "spec", "status")}


class TestPod:
    def test_a_pod_is_reduced_to_what_the_ledger_needs(self) -> None:
        settings = Kubernetes(published_labels=("app*",), published_annotations=("example.com/*",))
        pod = parse_pod(POD, settings)
        assert (pod.namespace, pod.name, pod.uid, pod.phase) == (
            "serving",
            "llm-5d9c-x",
            "u-1",
            "Running",
        )
        assert (pod.workload, pod.workload_kind, pod.team) == ("llm", "Deployment", "search")
        assert pod.started_at == SECONDS
        assert pod.ready
        assert pod.ready_probe
        assert not pod.deleted
        assert not pod.finished
        assert pod.gpu_containers == ("server",)
        assert pod.labels == {"app": "llm"}
        assert pod.annotations == {"example.com/owner": "ada"}

    def test_containers_tell_why_they_wait_and_how_they_ended(self) -> None:
        assert parse_pod(POD, SETTINGS).containers == (
            ContainerStatus("fetch", last_exit_code=0, init=True),
            ContainerStatus("proxy", running=True),
            ContainerStatus("server", waiting="CrashLoopBackOff", restarts=3, last_exit_code=137),
            ContainerStatus("logs", running=True),
        )

    def test_text_and_decoded_json_are_the_same(self) -> None:
        assert parse_pod(json.dumps(POD), SETTINGS) == parse_pod(POD, SETTINGS)
        assert parse_pod(json.dumps(POD).encode(), SETTINGS) == parse_pod(POD, SETTINGS)

    def test_a_pod_just_bound_has_only_its_request(self) -> None:
        pod = parse_pod({"metadata": {"name": "p"}, "spec": POD["spec"]}, SETTINGS)
        assert (pod.namespace, pod.phase, pod.workload_kind) == ("default", "Pending", "Pod")
        assert pod.gpu_containers == ("server",)
        assert pod.containers == ()
        assert pod.started_at is None

    def test_every_field_may_be_null(self) -> None:
        for part in ("metadata", "spec", "status"):
            for field in POD[part]:
                if (part, field) not in (("metadata", "name"), ("metadata", "managedFields")):
                    parse_pod(changed(**{part: {field: None}}), SETTINGS)
        parse_pod({"metadata": {"name": "p"}, "spec": None, "status": None}, SETTINGS)

    def test_it_ended_when_its_last_container_did(self) -> None:
        def status(*moments: str | None) -> dict[str, Any]:
            states = [{"terminated": {"finishedAt": moment}} for moment in moments]
            return {
                "containerStatuses": [{"name": "main", "state": state} for state in states],
                "initContainerStatuses": [{"name": "fetch", "state": states[-1]}],
            }

        later = "2025-11-24T16:00:07Z"
        pods = [
            changed(metadata={"uid": uid}, status=it)
            for uid, it in (
                ("both", status(later, AT)),
                ("not told of one", status(later, None)),
                ("one runs", {"initContainerStatuses": None}),
                ("nothing ran", {"initContainerStatuses": None, "containerStatuses": None}),
            )
        ]
        assert parse_ends({"items": pods}) == {"both": SECONDS + 7}

    @pytest.mark.parametrize(
        ("status", "expected"),
        [
            ({}, SECONDS),
            ({"conditions": [{"type": "PodScheduled", "status": "False"}]}, SECONDS - 1800),
            ({"conditions": None}, SECONDS - 1800),
            ({"conditions": None, "startTime": None}, SECONDS - 3600),
        ],
    )
    def test_it_started_when_it_was_scheduled(
        self, status: dict[str, Any], expected: float
    ) -> None:
        assert parse_pod(changed(status=status), SETTINGS).started_at == expected

    @pytest.mark.parametrize(
        ("spec", "expected"),
        [
            ({"containers": [{"name": "a"}]}, False),
            ({"containers": [{"name": "a"}], "readinessGates": [{"conditionType": "x"}]}, True),
            (
                {
                    "containers": [{"name": "a"}],
                    "initContainers": [
                        {"name": "i", "readinessProbe": {}, "restartPolicy": "Always"}
                    ],
                },
                True,
            ),
            (
                {"containers": [{"name": "a"}], "initContainers": [{"readinessProbe": {}}]},
                False,
            ),
        ],
    )
    def test_a_readiness_probe_is_one_that_decides(
        self, spec: dict[str, Any], *, expected: bool
    ) -> None:
        found = {"metadata": {"name": "p"}, "spec": spec}
        assert parse_pod(found, SETTINGS).ready_probe is expected

    def test_of_each_gpu_resource_the_most_that_an_ordinary_init_container_asks_for(self) -> None:
        def asks(name: str, restart: str | None = None, **limits: str | int) -> dict[str, Any]:
            gpus = {f"nvidia.com/{it.replace('_', '-')}": count for it, count in limits.items()}
            return {"name": name, "resources": {"limits": gpus}, "restartPolicy": restart}

        init = [
            asks("a", gpu="2"),
            asks("b", gpu=3, cpu="9"),
            asks("c", mig_1g="1"),
            asks("side", "Always", gpu="8"),
            {"name": "d"},
        ]
        spec = {"initContainers": init, "containers": [asks("main", gpu="1")]}
        found = parse_pod({"metadata": {"name": "p"}, "spec": spec}, SETTINGS)
        assert found.init_gpus == {"nvidia.com/gpu": 3, "nvidia.com/mig-1g": 1}

    @pytest.mark.parametrize(
        ("resources", "expected"),
        [
            ({"limits": {"nvidia.com/gpu": "1"}}, True),
            ({"limits": {"nvidia.com/gpu": 1}}, True),
            ({"requests": {"nvidia.com/mig-1g.10gb": "1"}}, True),
            ({"limits": {"nvidia.com/gpu.shared": "1"}}, True),
            ({"limits": {"example.com/gpu": "1"}}, True),
            ({"claims": [{"name": "gpu"}]}, True),
            ({"limits": {"nvidia.com/gpu": "0"}}, False),
            ({"limits": {"cpu": "1"}, "claims": []}, False),
            ({}, False),
            (None, False),
        ],
    )
    def test_containers_that_ask_for_a_gpu(
        self, resources: dict[str, Any] | None, *, expected: bool
    ) -> None:
        spec = {"containers": [{"name": "main", "resources": resources}]}
        found = parse_pod({"metadata": {"name": "p"}, "spec": spec}, SETTINGS, ("example.com/gpu",))
        assert found.gpu_containers == (("main",) if expected else ())

    def test_a_deleted_pod_and_a_finished_one_say_so(self) -> None:
        assert parse_pod(changed(metadata={"deletionTimestamp": AT}), SETTINGS).deleted
        assert parse_pod(changed(status={"phase": "Succeeded"}), SETTINGS).finished

    def test_an_ended_container_tells_its_present_end_before_the_last(self) -> None:
        state = {"terminated": {"exitCode": 0}}
        last = {"terminated": {"exitCode": 1}}
        statuses = [{"name": "main", "state": state, "lastState": last}]
        pod = parse_pod(changed(status={"containerStatuses": statuses}), SETTINGS)
        assert pod.containers[-1].last_exit_code == 0

    def test_the_only_owner_counts_even_without_the_mark_of_a_controller(self) -> None:
        owners = [{"kind": "TFJob", "name": "t"}, {"kind": "Job", "name": "j"}]
        one = parse_pod(changed(metadata={"ownerReferences": owners[:1]}), SETTINGS)
        two = parse_pod(changed(metadata={"ownerReferences": owners}), SETTINGS)
        assert (one.workload_kind, two.workload_kind) == ("TFJob", "Pod")

    def test_the_team_is_the_first_label_present(self) -> None:
        labels = {"app.kubernetes.io/part-of": "suite", "gpucost.io/team": "infra", "team": "x"}
        assert parse_pod(changed(metadata={"labels": labels}), SETTINGS).team == "infra"
        assert parse_pod(changed(metadata={"labels": {}}), SETTINGS).team == ""

    def test_a_long_annotation_is_cut(self) -> None:
        found = changed(metadata={"annotations": {"a": "x" * 200_000}})
        settings = Kubernetes(published_annotations=("*",))
        assert len(parse_pod(found, settings).annotations["a"]) == 1024

    def test_what_a_pod_is_exempt_from_is_published_without_being_asked_for(self) -> None:
        found = changed(metadata={"annotations": {"gpucost.io/exempt": "idle", "b": "c"}})
        assert parse_pod(found, Kubernetes()).annotations == {"gpucost.io/exempt": "idle"}

    @pytest.mark.parametrize(
        ("document", "where"),
        [
            ({"metadata": {"name": 7}}, "$.metadata.name"),
            ({"metadata": {"name": "p", "labels": ["x"]}}, "$.metadata.labels"),
            ({"metadata": {"name": "p"}, "status": "Running"}, "$.status"),
            ({"metadata": {"name": "p", "creationTimestamp": "yesterday"}}, "creationTimestamp"),
            ({"spec": {}}, "metadata"),
            ([], "array"),
            ("not json", "malformed"),
            (b"\xff\xfe", "malformed"),
            ("[" * 100_000, ""),
        ],
    )
    def test_a_malformed_pod_says_where(self, document: Any, where: str) -> None:  # noqa: ANN401
        with pytest.raises(SourceError) as raised:
            parse_pod(document, SETTINGS)
        assert raised.value.kind == "malformed"
        assert where in str(raised.value)


class TestList:
    @pytest.mark.parametrize("kind", ["PodList", "List"])
    def test_pods_are_keyed_by_namespace_and_name(self, kind: str) -> None:
        other = {"metadata": {"name": "other", "namespace": "ml"}, "spec": {"nodeName": "gpu-2"}}
        text = json.dumps({"kind": kind, "items": [POD, other]})
        assert list(parse_pod_list(text, SETTINGS)) == [("serving", "llm-5d9c-x"), ("ml", "other")]
        assert list(parse_pod_list(text, SETTINGS, "gpu-1")) == [("serving", "llm-5d9c-x")]

    def test_an_empty_list_is_empty_and_a_missing_one_is_malformed(self) -> None:
        assert parse_pod_list('{"items": null}', SETTINGS) == {}
        with pytest.raises(SourceError):
            parse_pod_list("{}", SETTINGS)

    def test_one_malformed_pod_spoils_the_list(self) -> None:
        with pytest.raises(SourceError, match="items"):
            parse_pod_list({"items": [POD, {"metadata": 3}]}, SETTINGS)


def test_a_node_says_what_machine_it_is() -> None:
    node = parse_node(
        {
            "kind": "Node",
            "metadata": {
                "name": "gpu-1",
                "labels": {
                    "node.kubernetes.io/instance-type": "p5.48xlarge",
                    "topology.kubernetes.io/region": "us-east-1",
                    "topology.kubernetes.io/zone": "us-east-1a",
                    "karpenter.sh/nodepool": "h100",
                    "karpenter.sh/capacity-type": "spot",
                },
                "annotations": {"gpucost.io/gpu-usd-per-hour": "1.5"},
            },
            "spec": {"providerID": "aws:///us-east-1a/i-1"},
            "status": {"images": [{"names": ["x"]}]},
        }
    )
    assert (node.name, node.instance_type, node.region, node.zone) == (
        "gpu-1",
        "p5.48xlarge",
        "us-east-1",
        "us-east-1a",
    )
    assert (node.node_pool, node.capacity_type, node.provider) == ("h100", "spot", "aws")
    assert node.annotations == {"gpucost.io/gpu-usd-per-hour": "1.5"}
    assert node.labels["karpenter.sh/nodepool"] == "h100"


def test_a_bare_node_is_on_demand_and_nothing_else() -> None:
    node = parse_node({"metadata": {"name": "box"}})
    assert (node.capacity_type, node.provider, node.instance_type) == ("on_demand", "", "")


GPU_OPERATOR = {"app": "nvidia-dcgm-exporter"}


@pytest.mark.parametrize(
    ("labels", "status", "settings", "expected"),
    [
        (GPU_OPERATOR, {}, Dcgm(), "http://10.0.0.5:9400/metrics"),
        ({"app.kubernetes.io/name": "dcgm-exporter"}, {}, Dcgm(), "http://10.0.0.5:9400/metrics"),
        (
            {"app.kubernetes.io/name": "gke-managed-dcgm-exporter"},
            {},
            Dcgm(port=9500),
            "http://10.0.0.5:9500/metrics",
        ),
        (GPU_OPERATOR, {"podIP": "fd00::1"}, Dcgm(), "http://[fd00::1]:9400/metrics"),
        (GPU_OPERATOR, {"podIP": None}, Dcgm(), None),
        (GPU_OPERATOR, {"phase": "Pending"}, Dcgm(), None),
        (GPU_OPERATOR, {}, Dcgm(pod_selector={"mine": "yes"}), None),
        ({"mine": "yes"}, {}, Dcgm(pod_selector={"mine": "yes"}), "http://10.0.0.5:9400/metrics"),
        ({"app": "other"}, {}, Dcgm(), None),
    ],
)
def test_a_dcgm_exporter_is_found_by_its_labels(
    labels: dict[str, str], status: dict[str, Any], settings: Dcgm, expected: str | None
) -> None:
    found = decode(changed(metadata={"labels": labels}, status=status), PodObject)
    assert dcgm_url_of(found, settings) == expected


def test_a_dcgm_exporter_that_is_going_is_not_asked() -> None:
    meta = {"labels": GPU_OPERATOR, "deletionTimestamp": AT}
    assert dcgm_url_of(decode(changed(metadata=meta), PodObject), Dcgm()) is None


def test_a_container_has_its_runtimes_id_without_the_scheme() -> None:
    status = {
        "containerStatuses": [{"name": "a", "containerID": "containerd://c0ffee"}, {"name": "b"}]
    }
    found = parse_pod({"metadata": {"name": "p"}, "status": status}, SETTINGS)
    assert [container.id for container in found.containers] == ["c0ffee", ""]


def test_a_static_pod_runs_under_the_hash_of_its_manifest() -> None:
    hashed = {"kubernetes.io/config.hash": "abc", "kubernetes.io/config.mirror": "abc"}
    for stated, uid in ((hashed, "abc"), ({"kubernetes.io/config.hash": "abc"}, "")):
        found = parse_pod({"metadata": {"name": "p", "annotations": stated}}, SETTINGS)
        assert found.cgroup_uid == uid


def test_what_containers_take_of_which_claims() -> None:
    spec = {
        "resourceClaims": [
            {"name": "own", "resourceClaimName": "big"},
            {"name": "made", "resourceClaimTemplateName": "t"},
            {"name": "late", "resourceClaimTemplateName": "t"},
        ],
        "initContainers": [{"name": "i", "resources": {"claims": [{"name": "made"}]}}],
        "containers": [
            {"name": "a", "resources": {"claims": [{"name": "own", "request": "gpu"}]}},
            {"name": "b", "resources": {"claims": [{"name": "late"}, {"name": "none"}]}},
        ],
    }
    status = {
        "resourceClaimStatuses": [
            {"name": "made", "resourceClaimName": "p-made-x7"},
            {"name": "late"},
        ],
        "extendedResourceClaimStatus": {
            "resourceClaimName": "p-extended-x8",
            "requestMappings": [
                {"containerName": "b", "resourceName": "nvidia.com/gpu", "requestName": "r0"}
            ],
        },
    }
    found = parse_pod(
        {"metadata": {"name": "p", "namespace": "ml"}, "spec": spec, "status": status}, SETTINGS
    )
    assert found.claims == (
        ContainerClaim("i", "ml/p-made-x7"),
        ContainerClaim("a", "ml/big", "gpu"),
        ContainerClaim("b", "ml/p-extended-x8", "r0"),
    )


def test_the_parts_that_hami_reserved_are_their_containers() -> None:
    asks = {"limits": {"nvidia.com/gpu": "1"}}
    spec = {
        "initContainers": [{"name": "i", "resources": asks}],
        "containers": [{"name": "a"}, {"name": "b", "resources": asks}],
    }
    text = "GPU-0,NVIDIA,1024,0:;,,0,0:;GPU-1,NVIDIA,2048,50:;"
    meta = {"name": "p", "annotations": {"hami.io/vgpu-devices-allocated": text}}
    found = parse_pod({"metadata": meta, "spec": spec}, SETTINGS)
    assert found.reserved == (Reserved("b", "GPU-1", 2 << 30, 0.5),)
