"""What `helm install` makes: with no values a working exporter, and nothing beyond its needs."""

from __future__ import annotations

import re
import shutil
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import yaml

from gpucost import __version__, config
from helm_chart import CHART, NAMESPACE, Refused, install, lint

if TYPE_CHECKING:
    from pathlib import Path

    from helm_chart import Object, Release

META = yaml.safe_load((CHART / "Chart.yaml").read_text())


def mounts(release: Release) -> dict[str, tuple[str, Object]]:
    """Path in the container to the path on the node (or what else it is), and the mount."""
    volumes = {volume["name"]: volume for volume in release.pod["volumes"]}
    return {
        mount["mountPath"]: (
            volumes[mount["name"]].get("hostPath", {}).get("path", "not the node's"),
            mount,
        )
        for mount in release.container["volumeMounts"]
    }


def environment(release: Release) -> dict[str, Any]:
    return {each["name"]: each.get("value", each) for each in release.container["env"]}


def gpu_terms(release: Release) -> list[Any]:
    required = release.pod["affinity"]["nodeAffinity"][
        "requiredDuringSchedulingIgnoredDuringExecution"
    ]
    terms: list[Any] = required["nodeSelectorTerms"]
    return terms


# --- no values --------------------------------------------------------------------------------


def test_the_charts_app_version_is_gpucosts() -> None:
    assert META["appVersion"] == __version__
    assert META["kubeVersion"] == ">=1.25.0-0"
    assert install().container["image"] == f"gpucost:{__version__}"


def test_no_values_make_exactly_these_objects() -> None:
    assert sorted((each["kind"], each["metadata"]["name"]) for each in install().objects) == [
        ("ClusterRole", "gpucost"),
        ("ClusterRoleBinding", "gpucost"),
        ("ConfigMap", "gpucost"),
        ("DaemonSet", "gpucost"),
        ("Pod", "gpucost-test-ready"),
        ("Service", "gpucost"),
        ("ServiceAccount", "gpucost"),
    ]


def test_every_namespaced_object_is_in_the_releases_namespace() -> None:
    for each in install().objects:
        cluster_wide = each["kind"].startswith("ClusterRole")
        assert each["metadata"].get("namespace") == (None if cluster_wide else NAMESPACE)


def test_another_namespace_takes_the_place_of_the_releases_everywhere() -> None:
    values = """
scrape: {method: serviceMonitor}
networkPolicy: {enabled: true}
priceRefresh: {enabled: true, providers: [azure]}
rules: {method: configMap}
dashboards: {method: configMap}
"""
    ours, other = install(values), install(values + "namespaceOverride: elsewhere")
    assert str(ours).replace(NAMESPACE, "elsewhere") == str(other)
    assert NAMESPACE in str(ours)


def test_no_values_read_gpus_holders_and_names() -> None:
    release = install()
    assert release.container["args"] == [
        "serve",
        "--config=/etc/gpucost/config.yaml",
        "--listen=:10190",
        "--log-level=info",
        "--state-directory=/var/lib/gpucost",
    ]
    assert environment(release) == {
        "NODE_NAME": {
            "name": "NODE_NAME",
            "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}},
        },
        "NVIDIA_VISIBLE_DEVICES": "all",
        "NVIDIA_DRIVER_CAPABILITIES": "utility",
    }
    assert release.pod["serviceAccountName"] == "gpucost"
    assert release.pod["automountServiceAccountToken"] is True
    assert {path: source for path, (source, _) in mounts(release).items()} == {
        "/etc/gpucost": "not the node's",
        "/var/lib/kubelet/pod-resources": "/var/lib/kubelet/pod-resources",
        "/var/lib/gpucost": "/var/lib/gpucost",
    }


def test_the_socket_is_where_gpucost_looks_for_it() -> None:
    socket = config.Config().kubelet.socket
    assert str(socket).rpartition("/")[0] in mounts(install())


def test_lint_finds_nothing() -> None:
    assert lint() == []


def test_lint_would_find_a_broken_template(tmp_path: Path) -> None:
    chart = copied(tmp_path)
    (chart / "templates/bad.yaml").write_text("a: {{ .Values.nowhere.at.all }}\n")
    assert lint(chart=chart)


# --- what it may do ---------------------------------------------------------------------------


def test_it_may_list_and_watch_pods_and_nodes_and_nothing_else() -> None:
    release = install()
    assert release.one("ClusterRole")["rules"] == [
        {"apiGroups": [""], "resources": ["pods", "nodes"], "verbs": ["list", "watch"]}
    ]
    binding = release.one("ClusterRoleBinding")
    assert binding["roleRef"]["name"] == release.one("ClusterRole")["metadata"]["name"]
    assert binding["subjects"] == [
        {"kind": "ServiceAccount", "name": "gpucost", "namespace": NAMESPACE}
    ]


def test_dra_objects_may_be_asked_for_only_where_that_is_on() -> None:
    *_, slices, claims = install("rbac: {dra: true}").one("ClusterRole")["rules"]
    assert slices == {
        "apiGroups": ["resource.k8s.io"],
        "resources": ["resourceslices"],
        "verbs": ["list", "watch"],
    }
    assert (claims["resources"], claims["verbs"]) == (["resourceclaims"], ["get"])


def test_without_the_api_server_it_has_no_rights_and_no_token() -> None:
    release = install("config: {kubernetes: {enabled: false}}")
    assert not any("Role" in each["kind"] for each in release.objects)
    assert release.pod["automountServiceAccountToken"] is False


def test_the_security_context_is_as_tight_as_it_works() -> None:
    release = install()
    assert release.container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
        "runAsUser": 0,  # the kubelet's socket is root's
        "runAsGroup": 0,
        "runAsNonRoot": False,
    }
    assert release.pod["securityContext"] == {"seccompProfile": {"type": "RuntimeDefault"}}
    for of_the_host in ("hostNetwork", "hostPID", "hostIPC"):
        assert not release.pod.get(of_the_host)
    writable = [path for path, (_, mount) in mounts(release).items() if not mount.get("readOnly")]
    assert writable == ["/var/lib/gpucost"]


def test_without_the_kubelet_it_is_not_root_and_sees_nothing_of_the_node() -> None:
    release = install("config: {kubelet: {enabled: false}}")
    context = release.container["securityContext"]
    assert (context["runAsUser"], context["runAsNonRoot"]) == (65532, True)
    assert not any("hostPath" in volume for volume in release.pod["volumes"])


def test_a_users_security_context_goes_over_ours() -> None:
    release = install("""
securityContext: {seLinuxOptions: {type: spc_t}, readOnlyRootFilesystem: false}
podSecurityContext: {fsGroup: 7}
""")
    context = release.container["securityContext"]
    assert context["seLinuxOptions"] == {"type": "spc_t"}
    assert context["readOnlyRootFilesystem"] is False
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert release.pod["securityContext"]["fsGroup"] == 7
    assert release.pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}


# --- the driver -------------------------------------------------------------------------------


def test_a_runtime_class_is_used_where_one_is_named() -> None:
    assert "runtimeClassName" not in install().pod
    named = install("driver: {runtimeClassName: nvidia}")
    assert named.pod["runtimeClassName"] == "nvidia"


def test_a_drivers_folder_on_the_node_is_shown_to_a_privileged_container() -> None:
    release = install("driver: {mode: hostPath, runtimeClassName: nvidia}")
    assert mounts(release)["/usr/local/nvidia"][0] == "/home/kubernetes/bin/nvidia"
    assert environment(release)["LD_LIBRARY_PATH"] == "/usr/local/nvidia/lib64"
    assert environment(release)["NVIDIA_VISIBLE_DEVICES"] == "void"
    assert "runtimeClassName" not in release.pod
    context = release.container["securityContext"]
    assert context["privileged"] is True
    # The API server refuses these beside it.
    assert "allowPrivilegeEscalation" not in context
    assert "capabilities" not in context


def test_a_drivers_folder_needs_no_privilege_where_devices_come_otherwise() -> None:
    release = install("driver: {mode: hostPath, hostPath: {privileged: false, path: /opt/nvidia}}")
    assert mounts(release)["/usr/local/nvidia"][0] == "/opt/nvidia"
    context = release.container["securityContext"]
    assert "privileged" not in context
    assert context["capabilities"] == {"drop": ["ALL"]}


def test_without_a_driver_nvml_is_not_asked() -> None:
    release = install("{driver: {mode: none}, config: {nvml: {enabled: true}, cycle_seconds: 9}}")
    parsed = config.parse(release.config)
    assert not parsed.nvml.enabled
    assert parsed.dcgm.enabled
    assert parsed.cycle_seconds == 9
    assert environment(release)["NVIDIA_VISIBLE_DEVICES"] == "void"
    assert "/usr/local/nvidia" not in mounts(release)


# --- nodes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("label", "value"),
    [
        ("nvidia.com/gpu.present", "true"),
        ("feature.node.kubernetes.io/pci-10de.present", "true"),
        ("feature.node.kubernetes.io/pci-0302_10de.present", "true"),
        ("cloud.google.com/gke-accelerator", "nvidia-l4"),
        ("k8s.amazonaws.com/accelerator", "nvidia-tesla-t4"),
        ("eks.amazonaws.com/instance-gpu-manufacturer", "nvidia"),
        ("kubernetes.azure.com/accelerator", "nvidia"),
        ("karpenter.k8s.aws/instance-gpu-manufacturer", "nvidia"),
        ("karpenter.azure.com/sku-gpu-manufacturer", "nvidia"),
    ],
)
def test_a_node_that_anybody_labelled_as_a_gpu_node_gets_an_exporter(
    label: str, value: str
) -> None:
    assert selected({label: value})


@pytest.mark.parametrize(
    "labels",
    [
        {},
        {"nvidia.com/gpu.present": "false"},
        {"karpenter.k8s.aws/instance-gpu-manufacturer": "habana"},
        {"feature.node.kubernetes.io/pci-0300_1a03.present": "true"},
    ],
    ids=str,
)
def test_a_node_without_an_nvidia_gpu_gets_none(labels: dict[str, str]) -> None:
    assert not selected(labels)
    assert selected(labels, "gpuNodes: {labelledOnly: false}")


def test_no_exporter_is_asked_of_what_is_no_machine() -> None:
    values = "gpuNodes: {labelledOnly: false}"
    assert not selected({"eks.amazonaws.com/compute-type": "fargate"}, values)
    assert not selected({"type": "virtual-kubelet"}, values)


def test_labels_are_added_and_taken_away() -> None:
    values = "gpuNodes: {labels: {pool: [gpu, big], nvidia.com/gpu.present: null}}"
    assert selected({"pool": "big"}, values)
    assert not selected({"pool": "small"}, values)
    assert not selected({"nvidia.com/gpu.present": "true"}, values)
    assert selected({"cloud.google.com/gke-accelerator": "nvidia-l4"}, values)


def test_affinity_of_nodes_takes_the_place_of_ours_and_other_kinds_do_not() -> None:
    own = install(
        "affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: "
        "{nodeSelectorTerms: [{matchFields: []}]}}}"
    )
    assert gpu_terms(own) == [{"matchFields": []}]
    beside = install("affinity: {podAntiAffinity: {x: []}}")
    assert gpu_terms(beside) == gpu_terms(install())
    assert beside.pod["affinity"]["podAntiAffinity"] == {"x": []}


def test_no_label_at_all_is_refused_with_the_way_out() -> None:
    nothing = ", ".join(f"{label}: null" for label in default_labels())
    with pytest.raises(Refused, match=r"gpuNodes\.labelledOnly=false"):
        install(f"gpuNodes: {{labels: {{{nothing}}}}}")


def test_no_taint_keeps_the_exporter_from_a_gpu_node() -> None:
    assert install().pod["tolerations"] == [{"operator": "Exists"}]


def default_labels() -> dict[str, list[str]]:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    labels: dict[str, list[str]] = values["gpuNodes"]["labels"]
    return labels


def selected(labels: dict[str, str], values: str = "") -> bool:
    """Whether the scheduler would take a node with these labels: any term, all its conditions."""

    def holds(condition: Object) -> bool:
        value = labels.get(condition["key"])
        match condition["operator"]:
            case "Exists":
                return value is not None
            case "In":
                return value in condition["values"]
            case "NotIn":
                return value not in condition["values"]
        raise AssertionError(condition)

    release = install(values)
    assert release.pod["nodeSelector"] == {"kubernetes.io/os": "linux"}
    return any(all(map(holds, term["matchExpressions"])) for term in gpu_terms(release))


# --- settings ---------------------------------------------------------------------------------

SETTINGS = """
config:
  scrape_interval_seconds: 30
  idle_threshold_ratio: 0.00001
  billing_time_zone: Europe/Berlin
  dcgm: {max_bytes: 67108864, url: "http://127.0.0.1:9400/metrics"}
  kubernetes: {published_labels: ["app.kubernetes.io/*"]}
  prices:
    updated: 2026-11-22
    fallback: {H100: 1000000000, "NVIDIA L4": 0.7}
    discounts: [{ratio: 0.3, provider: aws}]
    table:
      - {instance_type: p5.48xlarge, capacity_type: reserved, node_usd_per_hour: 31.46}
      - {gpu_model: "1e5", on_premises: {capital_usd: 25000, lifetime_years: 4, usd_per_kwh: 0.2}}
"""


def test_settings_reach_gpucost_as_they_were_meant() -> None:
    meant = msgspec.convert(yaml.safe_load(SETTINGS)["config"], config.Config)
    assert config.parse(install(SETTINGS).config) == meant
    assert meant.idle_threshold_ratio == 1e-05
    assert meant.dcgm.max_bytes == 64 << 20


def test_no_settings_are_gpucosts_defaults() -> None:
    assert config.parse(install().config) == config.Config()


def test_other_settings_change_only_the_config_map_so_nothing_restarts() -> None:
    def without_settings(release: Release) -> list[Object]:
        return [each for each in release.objects if each["kind"] != "ConfigMap"]

    before, after = install(), install(SETTINGS)
    assert before.config != after.config
    assert without_settings(before) == without_settings(after)


def test_the_folder_of_the_settings_is_mounted_so_that_a_change_comes_through() -> None:
    release = install()
    _, mount = mounts(release)["/etc/gpucost"]
    assert "subPath" not in mount  # such a mount keeps the first file for good
    [volume] = [each for each in release.pod["volumes"] if each["name"] == mount["name"]]
    assert volume["configMap"]["name"] == release.one("ConfigMap")["metadata"]["name"]


# --- names, labels and scraping ---------------------------------------------------------------


def copied(directory: Path, **metadata: str) -> Path:
    """The chart somewhere else, of another version."""
    chart = directory / "gpucost"
    shutil.copytree(CHART, chart)
    (chart / "Chart.yaml").write_text(yaml.safe_dump({**META, **metadata}))
    return chart


def test_a_new_version_changes_the_pods_image_and_nothing_else_of_them(tmp_path: Path) -> None:
    chart = copied(tmp_path, version="9.8.7", appVersion="6.5.4")
    before, after = install(), install(chart=chart)
    assert after.container.pop("image") == "gpucost:6.5.4"
    before.container.pop("image")
    assert before.one("DaemonSet")["spec"] == after.one("DaemonSet")["spec"]
    # A Prometheus that follows annotations copies the Service's labels onto every series.
    assert before.one("Service") == after.one("Service")
    labels = after.one("ConfigMap")["metadata"]["labels"]
    assert labels["helm.sh/chart"] == "gpucost-9.8.7"
    assert labels["app.kubernetes.io/version"] == "6.5.4"


@pytest.mark.parametrize("name", ["gpucost", "costs", "a" * 53, "123"])
def test_selectors_find_the_pods_and_names_fit(name: str) -> None:
    release = install(name=name)
    daemonset = release.one("DaemonSet")
    selector = daemonset["spec"]["selector"]["matchLabels"]
    assert selector == {"app.kubernetes.io/name": "gpucost", "app.kubernetes.io/instance": name}
    assert release.one("Service")["spec"]["selector"] == selector
    assert selector.items() <= daemonset["spec"]["template"]["metadata"]["labels"].items()
    test = release.one("Pod")["metadata"]["labels"]
    assert not selector.items() <= test.items()
    for each in release.objects:
        assert re.fullmatch(r"[a-z0-9][a-z0-9-]{0,61}[a-z0-9]", each["metadata"]["name"])
        for value in each["metadata"].get("labels", {}).values():
            assert isinstance(value, str)
            assert len(value) <= 63


EVERYTHING = """
scrape: {method: podMonitor}
networkPolicy: {enabled: true}
priceRefresh: {enabled: true, providers: [azure]}
report: {enabled: true, prometheus: "http://p", claimName: reports}
rules: {method: prometheusRule}
dashboards: {method: configMap}
scaling:
  prometheus: {serverAddress: "http://p"}
  targets: [{name: chat, namespace: serving, minReplicas: 1, maxReplicas: 2}]
"""


@pytest.mark.parametrize("override", ["", f"fullnameOverride: {'x' * 52}"])
def test_names_of_everything_fit_too(override: str) -> None:
    objects = install(EVERYTHING + override, name="a" * 53).objects
    names = [(each["kind"], each["metadata"]["name"]) for each in objects]
    assert len(set(names)) == len(names) > 20
    for kind, name in names:
        # Of a Deployment's, DaemonSet's or CronJob's name others are made, which must fit as well.
        assert len(name) <= (52 if kind in {"CronJob", "DaemonSet"} else 63), (kind, name)


def test_what_is_made_depends_on_the_values_alone() -> None:
    """So it is the same in each render by Argo CD or Flux, and `kubectl apply` can take it."""
    for path in (CHART / "templates").rglob("*"):
        text = path.read_text() if path.is_file() else ""
        assert not re.search(r"\b(lookup|rand\w+|now|date|uuidv4|gen\w+|shuffle)\b ", text), path
        assert not re.search(r"\.Release\.(Revision|IsUpgrade|IsInstall)", text), path
    hooked = [
        each["kind"]
        for each in install(EVERYTHING).objects
        if "helm.sh/hook" in each["metadata"].get("annotations", {})
    ]
    assert hooked == ["Pod"]  # of `helm test`, which all of them leave out


def test_a_users_labels_do_not_push_out_ours() -> None:
    release = install("""
commonLabels: {cost-center: "7", app.kubernetes.io/name: other}
podLabels: {stage: live, app.kubernetes.io/instance: other}
""")
    labels = release.one("DaemonSet")["spec"]["template"]["metadata"]["labels"]
    assert labels["app.kubernetes.io/name"] == "gpucost"
    assert labels["app.kubernetes.io/instance"] == "gpucost"
    assert (labels["stage"], labels["cost-center"]) == ("live", "7")
    for each in release.objects:
        if each["kind"] != "Pod":
            assert each["metadata"]["labels"]["cost-center"] == "7"
            assert each["metadata"]["labels"]["app.kubernetes.io/name"] == "gpucost"


def asks_to_be_scraped(release: Release) -> list[str]:
    """The kinds of what carries the annotation."""
    daemonset = release.one("DaemonSet")
    carriers = {
        "DaemonSet": daemonset["metadata"],
        "pods": daemonset["spec"]["template"]["metadata"],
        "Service": release.one("Service")["metadata"],
        "test": release.one("Pod")["metadata"],
    }
    found = []
    for kind, metadata in carriers.items():
        annotations = metadata.get("annotations", {})
        if "prometheus.io/scrape" in annotations:
            assert annotations["prometheus.io/port"] == "10190"
            assert annotations["prometheus.io/path"] == "/metrics"
            found.append(kind)
    return found


@pytest.mark.parametrize(
    ("values", "carriers"),
    [
        ("", ["Service"]),
        ("scrape: {method: podAnnotations}", ["pods"]),
        ("scrape: {method: none}", []),
    ],
)
def test_exactly_one_thing_asks_to_be_scraped(values: str, carriers: list[str]) -> None:
    assert asks_to_be_scraped(install(values)) == carriers


@pytest.mark.parametrize("where", ["podAnnotations", "serviceAnnotations"])
def test_a_second_way_of_scraping_by_hand_is_refused(where: str) -> None:
    with pytest.raises(Refused, match="counted twice"):
        install(f'{where}: {{prometheus.io/scrape: "true"}}')


def test_the_service_names_each_exporter_by_itself() -> None:
    service = install("port: 9999").one("Service")["spec"]
    assert service["clusterIP"] == "None"
    assert [port["port"] for port in service["ports"]] == [9999]


# --- what the user is told, and helm test -----------------------------------------------------


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ("", "no node has one of the labels"),
        ("", "gpucost check"),
        ("", "pod-security.kubernetes.io/enforce=privileged"),
        ("", "driver.runtimeClassName=nvidia"),
        ("", "list prices that are shipped"),
        ("scrape: {method: none}", "needs a scrape config of yours"),
        ("driver: {mode: none}", "only through a dcgm-exporter"),
        ("config: {kubelet: {enabled: false}}", "nobody is charged"),
        ("config: {kubernetes: {enabled: false}}", "no workload and no team"),
        ("", "No rules, so nobody is paged"),
        ("", "No boards"),
    ],
)
def test_notes_say_what_to_look_at_and_what_is_missing(values: str, says: str) -> None:
    assert says in " ".join(install(values).notes.split())


def test_notes_do_not_speak_of_what_was_settled() -> None:
    notes = install("""
gpuNodes: {labelledOnly: false}
config: {prices: {fallback: {H100: 3}}}
rules: {method: configMap}
dashboards: {method: configMap}
""").notes
    for settled in ("no node has one", "list prices", "No rules", "No boards"):
        assert settled not in notes


def test_the_test_pod_is_nobody_and_has_no_rights() -> None:
    pod = install().one("Pod")
    assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"
    assert pod["spec"]["automountServiceAccountToken"] is False
    assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
    [container] = pod["spec"]["containers"]
    assert container["image"] == install().container["image"]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert container["args"][1:] == [f"gpucost.{NAMESPACE}.svc", "10190", "http"]
