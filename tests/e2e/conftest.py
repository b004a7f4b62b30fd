"""The ground of the steps: gpucost installed by Helm, a Prometheus that scrapes it, the truth.

`make e2e` runs them on the cluster of `make cluster`; with KUBECONFIG they run on that cluster,
without the steps that restart parts of the node.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from cluster.components import Components
from cluster.place import Place
from e2e.gpus import Gpus
from e2e.kube import CHART, Evidence, Kube, run
from e2e.pace import SCRAPE_SECONDS
from e2e.prom import Prometheus, reach
from e2e.truth import Truth

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

HERE = Path(__file__).parent
EVIDENCE = pytest.StashKey[Evidence]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A step that failed prints what it asked and was told."""
    report = yield
    evidence = item.stash.get(EVIDENCE, None)
    if report.failed and evidence is not None:
        report.sections.append(("evidence", evidence.text()))
    return report


@pytest.fixture
def evidence(request: pytest.FixtureRequest) -> Evidence:
    """What this step asks and is told."""
    found = Evidence()
    request.node.stash[EVIDENCE] = found
    return found


@pytest.fixture
def kube(release: None, evidence: Evidence) -> Kube:  # noqa: ARG001 - it need only be there
    """Kubectl."""
    return Kube(evidence)


@pytest.fixture(scope="session")
def release() -> None:
    """`helm install gpucost`, without values, and a Prometheus."""
    kube = Kube(Evidence())
    run("helm", "upgrade", "--install", "gpucost", str(CHART), "--timeout=2m", timeout=180)
    scrape = yaml.safe_load((CHART / "files/scrape-config.yaml").read_text())
    for discovery in (each for one in scrape for each in one["kubernetes_sd_configs"]):
        # Not those that some steps install beside it on the same node.
        discovery["namespaces"] = {"names": ["default"]}
    settings = {
        "global": {"scrape_interval": f"{SCRAPE_SECONDS}s", "scrape_timeout": f"{SCRAPE_SECONDS}s"},
        # The chart's own words otherwise, but for the pace: a step should not wait 15 s a turn.
        "scrape_configs": [one | {"scrape_interval": f"{SCRAPE_SECONDS}s"} for one in scrape],
    }
    kube("apply", "-f", str(HERE / "manifests/prometheus.yaml"))
    kube.apply(
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "prometheus", "namespace": "monitoring"},
            "data": {"prometheus.yaml": yaml.safe_dump(settings)},
        },
    )
    kube("rollout", "status", "daemonset/gpucost", "--timeout=2m", timeout=130)
    kube("-n", "monitoring", "rollout", "status", "deployment/prometheus", timeout=130)


@pytest.fixture
def prometheus(kube: Kube, evidence: Evidence) -> Prometheus:
    """The cluster's Prometheus, once it has scraped every exporter."""
    return reach(kube, evidence)


@pytest.fixture
def namespace(kube: Kube, request: pytest.FixtureRequest) -> Iterator[str]:
    """A namespace of the step's own, gone with all in it before the next step begins."""
    name = request.node.name.removeprefix("test_").replace("_", "-")[:40].strip("-")
    name = "".join(letter for letter in name if letter.isalnum() or letter == "-").lower()
    # Its own series too: a pod of the same name would go on where the one before ended.
    name += f"-{secrets.token_hex(3)}"
    kube("create", "namespace", name)
    yield name
    kube("-n", name, "delete", "pods,deployments,jobs", "--all", "--grace-period=1", timeout=120)
    kube("delete", "namespace", name, timeout=120)


@pytest.fixture
def truth() -> Iterator[Truth]:
    """Who holds what, from the kubelet."""
    with Truth() as found:
        yield found


@pytest.fixture(scope="session")
def inside() -> Components:
    """The parts of the node, of which the steps are a part too: pods reach them."""
    if not os.environ.get("GPUCOST_CLUSTER_INSIDE"):
        pytest.skip("needs the cluster of make cluster: runs on its node")
    return Components(Place.of_environment())


@pytest.fixture
def node(inside: Components) -> Components:
    """The parts of the node, to be restarted."""
    return inside


@pytest.fixture
def gpus(node: Components, evidence: Evidence) -> Iterator[Gpus]:  # noqa: ARG001 - its own only
    """The node's GPUs, to be others for this step."""
    found = Gpus(Place.of_environment().gpus / "settings.yaml", evidence)
    yield found
    found.put_back()
