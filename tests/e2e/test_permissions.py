"""What the exporter's pod may do is what it needs: no less, and no more."""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any

import pytest

from e2e.kube import CommandError, run

if TYPE_CHECKING:
    from collections.abc import Callable

    from e2e.kube import Kube

Pod = dict[str, Any]
ACCOUNT = "system:serviceaccount:default:gpucost"


def test_a_copy_of_the_exporters_pod_lacks_nothing(kube: Kube) -> None:
    assert "fail" not in _check(kube, "whole", _exporter(kube))


def _without_the_kubelets_folder(pod: Pod) -> None:
    _drop_volume(pod, "pod-resources")


def _without_root(pod: Pod) -> None:
    _container(pod)["securityContext"] |= {"runAsUser": 65532, "runAsGroup": 65532}


def _without_the_driver(pod: Pod) -> None:
    # The image asks for the driver too.
    _set_env(pod, "NVIDIA_VISIBLE_DEVICES", "void")


def _without_a_token(pod: Pod) -> None:
    pod["spec"]["automountServiceAccountToken"] = False


def _without_its_nodes_name(pod: Pod) -> None:
    container = _container(pod)
    container["env"] = [entry for entry in container["env"] if entry["name"] != "NODE_NAME"]


def _without_its_settings(pod: Pod) -> None:
    _drop_volume(pod, "config")


@pytest.mark.parametrize(
    ("change", "broken"),
    [
        (_without_the_kubelets_folder, "source kubelet"),
        (_without_root, "source kubelet"),
        (_without_the_driver, "source nvml"),
        (_without_a_token, "source kubernetes"),
        (_without_its_nodes_name, "node_unknown"),
        (_without_its_settings, "/etc/gpucost/config.yaml"),
    ],
)
def test_what_the_pod_has_is_needed(kube: Kube, change: Callable[[Pod], None], broken: str) -> None:
    pod = _exporter(kube)
    change(pod)
    said = _check(kube, change.__name__.strip("_").replace("_", "-"), pod)
    assert any(broken in line for line in said.splitlines() if "ok  " not in line), said


def test_the_folder_of_the_ledger_is_needed(kube: Kube) -> None:
    pod = _exporter(kube)
    container = _container(pod)
    container["args"] = ["serve", "--state-directory=/var/lib/gpucost"]
    _drop_volume(pod, "state")
    said = _log_of(kube, "without-the-ledgers-folder", pod, "state: ")
    assert "/var/lib/gpucost" in said


@pytest.mark.parametrize("kind", ["pods", "nodes"])
@pytest.mark.parametrize("verb", ["list", "watch"])
def test_each_right_is_needed(kube: Kube, kind: str, verb: str) -> None:
    name = f"less-{verb}-{kind}"
    role = kube.get("clusterrole", "gpucost")
    rules = [
        {"apiGroups": rule["apiGroups"], "resources": [resource], "verbs": [right]}
        for rule in role["rules"]
        for resource in rule["resources"]
        for right in rule["verbs"]
        if (resource, right) != (kind, verb)
    ]
    rbac = "rbac.authorization.k8s.io"
    account = {"kind": "ServiceAccount", "name": name, "namespace": "default"}
    kube.apply(
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}},
        {
            "apiVersion": f"{rbac}/v1",
            "kind": "ClusterRole",
            "metadata": {"name": name},
            "rules": rules,
        },
        {
            "apiVersion": f"{rbac}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": name},
            "roleRef": {"apiGroup": rbac, "kind": "ClusterRole", "name": name},
            "subjects": [account],
        },
    )
    pod = _exporter(kube)
    pod["spec"]["serviceAccountName"] = name
    try:
        refused = f'cannot {verb} resource "{kind}"'
        if verb == "list":
            assert refused in _check(kube, name, pod)
        else:  # what was listed serves for a while; `check` would not wait so long
            _container(pod)["args"] = ["serve", "--config=/etc/gpucost/config.yaml"]
            _drop_volume(pod, "state")  # the exporter's own has it
            _log_of(kube, name, pod, refused)
    finally:
        kube("delete", "serviceaccount,clusterrole,clusterrolebinding", name)


def test_it_may_read_pods_and_nodes_and_nothing_else(kube: Kube) -> None:
    said = kube("auth", "can-i", "--list", f"--as={ACCOUNT}", "--no-headers")
    own = {
        line.split()[0]: line for line in said.splitlines() if line.startswith(("pods", "nodes"))
    }
    assert own.keys() == {"pods", "nodes"}
    assert all("[list watch]" in line for line in own.values())
    for words in (
        ["get", "secrets"],
        ["list", "secrets"],
        ["create", "pods"],
        ["delete", "pods"],
        ["patch", "nodes"],
        ["create", "pods/exec"],
        ["get", "nodes/proxy"],
        ["list", "configmaps"],
    ):
        with pytest.raises(CommandError):
            kube("auth", "can-i", *words, "--all-namespaces", f"--as={ACCOUNT}")


def test_it_has_no_capability_and_cannot_write(kube: Kube) -> None:
    inside = ["exec", "daemonset/gpucost", "--"]
    status = dict(
        line.split(":\t", 1) for line in kube(*inside, "cat", "/proc/1/status").splitlines()
    )
    assert int(status["CapEff"], 16) == 0
    assert int(status["CapBnd"], 16) == 0
    assert status["NoNewPrivs"] == "1"
    for path in ("/", "/tmp", "/etc/gpucost", "/var/lib/kubelet/pod-resources"):  # noqa: S108 - the pod's
        with pytest.raises(CommandError, match=r"Read-only|Permission denied|No such file"):
            kube(*inside, "touch", f"{path}/x")


def _exporter(kube: Kube) -> Pod:
    """A pod as the DaemonSet makes them, of its own, that checks what it has and ends."""
    template = kube.get("daemonset", "gpucost")["spec"]["template"]
    spec = copy.deepcopy(template["spec"]) | {"restartPolicy": "Never"}
    pod: Pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {}, "spec": spec}
    container = _container(pod)
    for probe in ("livenessProbe", "readinessProbe"):
        container.pop(probe, None)
    container["args"] = ["check", "--config=/etc/gpucost/config.yaml"]
    return pod


def _check(kube: Kube, name: str, pod: Pod) -> str:
    """What `gpucost check` says in that pod."""
    pod["metadata"]["name"] = name
    kube("create", "-f", "-", stdin=json.dumps(pod))
    try:
        kube.wait("it has ended", lambda: _phase(kube, name) in {"Succeeded", "Failed"})
        return kube("logs", name)
    finally:
        kube("delete", "pod", name, "--grace-period=0", "--force")


def _log_of(kube: Kube, name: str, pod: Pod, words: str) -> str:
    """What a pod logs, once that holds these words."""
    pod["metadata"]["name"] = name
    kube("create", "-f", "-", stdin=json.dumps(pod))
    try:
        kube.wait(f"it says {words!r}", lambda: words in run("kubectl", "logs", name))
        return kube("logs", name)
    finally:
        kube("delete", "pod", name, "--grace-period=0", "--force")


def _phase(kube: Kube, name: str) -> str:
    return str(kube.pod("default", name)["status"]["phase"])


def _container(pod: Pod) -> dict[str, Any]:
    found: dict[str, Any] = pod["spec"]["containers"][0]
    return found


def _set_env(pod: Pod, name: str, value: str) -> None:
    container = _container(pod)
    others = [entry for entry in container["env"] if entry["name"] != name]
    container["env"] = [*others, {"name": name, "value": value}]


def _drop_volume(pod: Pod, name: str) -> None:
    container = _container(pod)
    container["volumeMounts"] = [one for one in container["volumeMounts"] if one["name"] != name]
    pod["spec"]["volumes"] = [one for one in pod["spec"]["volumes"] if one["name"] != name]
