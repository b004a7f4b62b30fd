"""The life of a release: upgrades, rollback, uninstall, an older chart; who admits its pods.

Of releases of its own, beside the one that the other steps measure.
"""

from __future__ import annotations

import json
import re
import secrets
import time
from typing import TYPE_CHECKING

import pytest
import requests
import yaml

from cluster.place import ROOT
from e2e.kube import CHART, CommandError, run
from e2e.pace import CYCLE_SECONDS

if TYPE_CHECKING:
    from e2e.kube import Kube

OLD_CHART = ROOT / "tests/helm/old"
GPUS, USD_PER_HOUR = 8, 6.88
"""Of the node, and of a GPU of it."""

Page = dict[str, float]


@pytest.mark.usefixtures("inside")
def test_upgrades_a_rollback_and_an_install_anew_lose_no_dollar(kube: Kube, namespace: str) -> None:
    name = "gpucost-lives"
    where = ("-n", namespace, "--wait", "--timeout=3m")
    # A folder of its own, gone with the machine; no earlier run has left anything in it.
    folder = f"--set=state.hostPath=/run/gpucost-lives-{secrets.token_hex(3)}"
    chart = (name, str(CHART), *where)
    run("helm", "install", *chart, folder, timeout=200)
    try:
        # New series are shown at 0 for a while, and dollars later than GPU-seconds where the node's
        # labels, and so its price, are known later: from the first that are shown, both are whole.
        kube.wait("dollars", lambda: _usd(_page(kube, namespace)) > 0)
        began, before = time.time(), _page(kube, namespace)
        run(
            "helm",
            "upgrade",
            *chart,
            "--reuse-values",
            "--set=podLabels.rollout=again",
            timeout=200,
        )
        run(
            "helm", "upgrade", *chart, "--reuse-values", "--set=rules.method=configMap", timeout=200
        )
        run("helm", "rollback", name, "1", *where, timeout=200)
        run("helm", "uninstall", name, *where, timeout=200)
        run("helm", "install", *chart, folder, timeout=200)
        ended, after = time.time(), _page(kube, namespace)
    finally:
        run("helm", "uninstall", name, *where, timeout=200)
    charged = _gpu_seconds(after) - _gpu_seconds(before)
    # A page is of the last cycle. Each of the restarts would have lost more than that.
    expected = pytest.approx(GPUS * (ended - began), abs=GPUS * CYCLE_SECONDS)
    assert charged == expected
    usd = _usd(after) - _usd(before)
    assert usd == pytest.approx(charged / 3600 * USD_PER_HOUR, rel=1e-6)
    # No series began anew, and none fell.
    fell = {series: value for series, value in before.items() if after.get(series, -1.0) < value}
    assert not fell


def _page(kube: Kube, namespace: str) -> Page:
    """The node's GPU-seconds and dollars, by series, as the release's exporter shows them."""
    pods = kube.get("-n", namespace, "pods", "-l", "app.kubernetes.io/name=gpucost")["items"]
    [address] = [
        pod["status"]["podIP"] for pod in pods if "deletionTimestamp" not in pod["metadata"]
    ]
    text = requests.get(f"http://{address}:10190/metrics", timeout=20).text
    found = re.findall(r"(?m)^(gpucost_gpu_(?:cost_usd|seconds)_total\{.*\}) (\S+)$", text)
    return {series: float(value) for series, value in found}


def _gpu_seconds(page: Page) -> float:
    return sum(value for series, value in page.items() if series.startswith("gpucost_gpu_seconds"))


def _usd(page: Page) -> float:
    return sum(value for series, value in page.items() if series.startswith("gpucost_gpu_cost"))


def test_from_the_first_chart_and_back_and_away(kube: Kube, namespace: str) -> None:
    name = "gpucost-older"
    where = ("-n", namespace, "--wait", "--timeout=3m")
    run("helm", "install", name, str(OLD_CHART), *where, timeout=200)
    upgrade = ("helm", "upgrade", name, str(CHART), *where, "--reuse-values")
    run(*upgrade, "--set=state.hostPath=/run/gpucost-older", timeout=200)
    run("helm", "rollback", name, "1", *where, timeout=200)
    run(*upgrade, "--set=state.enabled=false", timeout=200)
    assert "ready" in run("helm", "test", name, "-n", namespace, "--logs", timeout=180)
    run("helm", "uninstall", *where, name, timeout=200)
    kinds = "daemonsets,pods,services,configmaps,secrets,serviceaccounts,networkpolicies,cronjobs"
    ours = ("-l", f"app.kubernetes.io/instance={name}")
    assert kube("get", "clusterroles,clusterrolebindings", *ours) == ""
    # Pods of a DaemonSet go after it.
    kube.wait("nothing left", lambda: kube("get", kinds, "-n", namespace, *ours) == "")


@pytest.mark.parametrize(("level", "refusal"), [("baseline", "hostPath"), ("privileged", "")])
def test_pod_security_admits_it_at_the_level_that_is_stated(
    kube: Kube, namespace: str, level: str, refusal: str
) -> None:
    kube("label", "namespace", namespace, f"pod-security.kubernetes.io/enforce={level}")
    made = yaml.safe_load_all(run("helm", "template", "gpucost", str(CHART), "-n", namespace))
    [daemonset] = [each for each in made if each and each["kind"] == "DaemonSet"]
    template = daemonset["spec"]["template"]
    template["spec"]["serviceAccountName"] = "default"
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {**template["metadata"], "name": "gpucost", "namespace": namespace},
        "spec": template["spec"],
    }
    kube.wait("its account", lambda: bool(kube.get("-n", namespace, "serviceaccount", "default")))
    dry = ("apply", "--dry-run=server", "-f", "-")
    if refusal:
        with pytest.raises(CommandError, match=refusal):
            kube(*dry, stdin=json.dumps(pod))
    else:
        kube(*dry, stdin=json.dumps(pod))
