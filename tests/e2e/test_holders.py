"""Pods that train, idle, start slowly, crash and finish, on devices that the kubelet gave."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from e2e.bill import bill
from e2e.kube import gpu_pod
from e2e.pace import EDGE_SECONDS

if TYPE_CHECKING:
    from e2e.kube import Kube
    from e2e.prom import Prometheus
    from e2e.truth import Truth

WATCHED_SECONDS = 90


def test_every_kind_of_pod_is_charged_what_it_held_and_told_apart(
    kube: Kube, prometheus: Prometheus, truth: Truth, namespace: str
) -> None:
    price = prometheus.value("max(gpucost_gpu_price_usd_per_hour)")
    assert price is not None
    crash = gpu_pod("crashes", namespace, ["crash", "--after", "3s"], restart="Always")
    slow = gpu_pod(
        "slow",
        namespace,
        ["start-slowly", "--after", "40s", "--busy", "0.8", "--memory", "30GiB", "--port", "8080"],
        container={"readinessProbe": {"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1}},
    )
    kube.apply(
        gpu_pod("trains", namespace, ["train", "--busy", "0.95", "--memory", "60GiB"], gpus=2),
        gpu_pod("idles", namespace, ["phases", "--memory", "10GiB", "busy:0.9:8s,idle:1h"]),
        gpu_pod("finishes", namespace, ["train", "--busy", "0.9", "--for", "30s"]),
        slow,
        crash,
    )
    names = {"trains", "idles", "finishes", "slow", "crashes"}
    kube.wait("all hold", lambda: {name for _, name in truth.held()} >= names)
    time.sleep(WATCHED_SECONDS)
    for name in names - {"finishes"}:
        kube.delete_pod(namespace, name)
    kube.wait("all let go", lambda: not truth.held())
    time.sleep(EDGE_SECONDS + 2)

    held = {name: seconds for (_, name), seconds in truth.seconds().items()}
    found = bill(prometheus, namespace)
    assert found.gpu_seconds.keys() == held.keys() == names
    for name in names:
        gpus = 2 if name == "trains" else 1
        charged = found.gpu_seconds[name]
        assert charged == pytest.approx(held[name], abs=gpus * EDGE_SECONDS), name
        assert found.usd[name] == pytest.approx(charged * price / 3600, rel=1e-6), name
    assert found.most("trains") == "used"
    assert found.most("idles") == "idle"
    assert found.most("finishes") == "used"
    assert "starting" in found.states("slow")
    assert "failing" in found.states("crashes")
