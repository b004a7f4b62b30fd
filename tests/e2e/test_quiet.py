"""What one exporter asks of the API server: by the server's own audit log."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest

from cluster.place import NODE, Place

if TYPE_CHECKING:
    from collections.abc import Iterator

    from e2e.kube import Kube

ACCOUNT = "system:serviceaccount:default:gpucost"
STEADY_SECONDS = 300
# It asks for its own node and the pods on it, never for the cluster.
FILTERS = {
    "pods": f"spec.nodeName%3D{NODE}",
    "nodes": f"metadata.name%3D{NODE}",
}


@pytest.mark.usefixtures("node", "prometheus")
def test_one_filtered_watch_a_kind_and_no_requests_but_their_renewals(kube: Kube) -> None:
    begin = time.time()
    kube("delete", "pod", "-l", "app.kubernetes.io/name=gpucost", timeout=120)
    kube("rollout", "status", "daemonset/gpucost", timeout=120)
    kube.wait("its watches", lambda: len(_asked(since=begin, verb="watch")) >= len(FILTERS))
    for request in _asked(since=begin):
        kind = request["objectRef"]["resource"]
        assert request["verb"] in {"list", "watch"}
        assert FILTERS[kind] in request["requestURI"], request["requestURI"]
    time.sleep(10)
    steady = time.time()
    time.sleep(STEADY_SECONDS)
    asked = _asked(since=steady)
    print(f"{len(asked)} requests in {STEADY_SECONDS} steady seconds")
    assert [request["verb"] for request in asked if request["verb"] != "watch"] == []
    # The server ends a watch after five to ten minutes (--min-request-timeout and its jitter).
    assert len(asked) <= len(FILTERS)


def _asked(since: float, verb: str | None = None) -> list[dict[str, Any]]:
    """Each request of the exporter's since then, once, in order."""
    begun = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(since))
    found = {
        event["auditID"]: event
        for event in _audit()
        if event["user"]["username"] == ACCOUNT and event["requestReceivedTimestamp"] >= begun
    }
    return [event for event in found.values() if verb in {None, event["verb"]}]


def _audit() -> Iterator[dict[str, Any]]:
    place = Place.of_environment()
    for line in (place.logs / "audit.log").read_text().splitlines():
        if ACCOUNT in line:
            yield json.loads(line)
