"""The API server is away for an hour, forgets, or speaks out of order: the bill does not notice."""

from __future__ import annotations

import itertools
import json
import time
from typing import TYPE_CHECKING

import pytest

from gpucost.config import Dcgm, Kubernetes
from gpucost.cycle import Terms, advance
from gpucost.ledger import imbalance_usd
from gpucost.model import Holder, Holding, Holdings, Node, Report
from gpucost.pricing import Catalogue
from gpucost.reader import Direct
from gpucost.snapshot import Gatherer, Sources
from gpucost.sources.base import DeviceRead, HoldingsRead
from gpucost.sources.kubernetes import PodCollection
from kube_api import KubeApiServer, node, pod
from stage import NOW, by_label, gpu, priced, values
from watching import FAST, until, watching

if TYPE_CHECKING:
    from gpucost.sources.kubernetes import KubernetesSource

CYCLE = 5.0


class Clockwork:
    """The real source and core on a clock that the test winds; kubelet and driver are there."""

    def __init__(self, source: KubernetesSource) -> None:
        self.held: tuple[Holding, ...] = ()
        sources = Sources(
            nvml=Direct("nvml", lambda: DeviceRead((gpu(0, activity=0.5),))),
            kubelet=Direct("kubelet", lambda: HoldingsRead(Holdings(self.held))),
            kubernetes=Direct("kubernetes", source.read),
        )
        self._gatherer = Gatherer(sources, Node("gpu-1"))
        self._clock = 0.0
        self.report: Report | None = None

    def hold(self, name: str) -> None:
        """This pod has the GPU now, and no other."""
        self.held = (Holding(Holder("ml", name, "main"), "nvidia.com/gpu", "GPU-0"),)

    def run(self, seconds: float) -> Report:
        """So long, in cycles."""
        for _ in range(round(seconds / CYCLE)):
            self._clock += CYCLE
            snapshot = self._gatherer.gather(NOW + self._clock, self._clock)
            elapsed = 0.0 if self.report is None else CYCLE
            terms = Terms(priced(), Catalogue())
            self.report = advance(self.report, snapshot, elapsed, terms)
        assert self.report is not None
        return self.report


def test_an_hour_without_the_api_server_moves_no_dollar() -> None:
    """Who holds is the kubelet's word; a pod that came meanwhile is charged, under `unknown`."""
    with KubeApiServer() as server:
        server.put("nodes", node())
        server.put("pods", pod("before"))
        with watching(server) as source:
            clockwork = Clockwork(source)
            clockwork.hold("before")
            clockwork.run(600 + CYCLE)

            server.refusals = {"pods": [500] * 10_000, "nodes": [500] * 10_000}
            server.disconnect()
            until(lambda: source.read().stale)
            clockwork.run(1800)
            clockwork.hold("meanwhile")
            report = clockwork.run(1800)
            assert values(report, "gpucost_source_up", source="kubernetes") == [0]
            assert values(report, "gpucost_problems", source="kubernetes", kind="stale") == [2]
            [last_success] = values(
                report, "gpucost_source_last_success_timestamp_seconds", source="kubernetes"
            )
            assert last_success == NOW + 600 + CYCLE
            assert values(report, "gpucost_unpriced_gpus") == [0]

            server.refusals = {}
            server.put("pods", pod("meanwhile"))
            until(lambda: not source.read().stale)
            report = clockwork.run(600)
            assert values(report, "gpucost_source_up", source="kubernetes") == [1]
    seconds = by_label(report, "gpucost_pod_gpu_seconds_total", "pod", reveal=True)
    assert seconds.pop("meanwhile") == 2400
    assert not seconds  # those of `before` have ended; its workload's stay
    months = by_label(report, "gpucost_workload_gpu_seconds_total", "workload", reveal=True)
    assert months == {"before": 2400, "unknown": 2400}
    assert report.ledger.billed_usd == pytest.approx(4800 * 0.001)
    assert abs(imbalance_usd(report.ledger)) < 1e-9


def test_a_storm_of_410_is_met_with_patience_and_nothing_is_missed() -> None:
    with KubeApiServer() as server:
        server.put("nodes", node())
        with watching(server) as source:
            began = time.monotonic()
            asked = len(server.requests)
            for number in range(60):  # whatever it has, the server has forgotten
                server.put("pods", pod(f"p-{number}"))
                server.forget()
                server.disconnect()
                time.sleep(0.02)
            until(lambda: len(source.read().pods or {}) == 60)
            until(lambda: server.streams == 2)
            storms = time.monotonic() - began
            # A list and a watch for each of two kinds, no more often than the shortest wait.
            most = 4 * (storms / (FAST.backoff_first / 2) + 1)
            assert len(server.requests) - asked < most
            assert not source.read().stale


def test_events_in_any_order_leave_no_more_than_a_name_and_a_list_mends_it() -> None:
    life = [
        ("put", {**pod("a", phase="Pending")}),
        ("put", {**pod("a", phase="Running")}),
        ("put", {**pod("a", phase="Succeeded")}),
        ("drop", pod("a", phase="Succeeded")),
    ]
    for order in itertools.permutations(life):
        pods = PodCollection(Kubernetes(), Dcgm(), "gpu-1", ())
        for what, found in order:
            getattr(pods, what)(json.dumps(found))
        shown, _, malformed = pods.show()
        assert not malformed
        assert set(shown) <= {("ml", "a")}
        pods.replace(json.dumps({"items": []}))
        assert pods.show()[0] == {}


def test_a_pod_that_old_events_raise_again_is_charged_nothing() -> None:
    """The kubelet says who holds: what only the API server shows costs nothing."""
    with KubeApiServer() as server:
        server.put("nodes", node())
        server.put("pods", pod("a"))
        with watching(server) as source:
            clockwork = Clockwork(source)
            clockwork.hold("a")
            clockwork.run(100 + CYCLE)
            clockwork.held = ()
            server.delete("pods", "a", "ml")
            until(lambda: not source.read().pods)
            clockwork.run(100)
            old = {"type": "MODIFIED", "object": pod("a")}
            server.send(json.dumps(old).encode() + b"\n")
            until(lambda: source.read().pods)
            report = clockwork.run(100)
    assert by_label(report, "gpucost_pod_gpu_seconds_total", "pod", reveal=True) == {"a": 100}
    assert report.ledger.billed_usd == pytest.approx(300 * 0.001)
    assert abs(imbalance_usd(report.ledger)) < 1e-9
