"""What a cluster's other exporters would say of the played fleet: inference servers through
gpucost, kube-state-metrics, Karpenter, and Prometheus of its own scrapes.

Names and labels are those of kube-state-metrics 2, Karpenter 1 and gpucost's catalogue.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from played_fleet import CLUSTER

if TYPE_CHECKING:
    from played_fleet import Page
    from real_prometheus import Labels

SERVED = {
    "chat": ("vllm", "meta-llama/Llama-3.1-70B-Instruct", 6.0),
    "embed": ("tei", "BAAI/bge-large-en-v1.5", 60.0),
    "rerank": ("vllm", "BAAI/bge-reranker-v2-m3", 18.0),
    "support-bot": ("sglang", "Qwen/Qwen3-8B", 3.0),
}
"""Workloads with an inference server: engine, model and requests per second at full activity."""

INPUT, CACHED, OUTPUT = 900.0, 600.0, 220.0
"""Tokens of a request: computed, from the cache, and generated."""


def labelled(name: str, **labels: str) -> Labels:
    return tuple(sorted((("__name__", name), ("cluster", CLUSTER), *labels.items())))


class Engines:
    """The inference servers of one node, driven by how active their pods are."""

    def __init__(self) -> None:
        self._requests: dict[tuple[str, str], float] = {}
        self._at: float | None = None

    def samples(self, page: Page) -> dict[Labels, float]:
        """Beside this page, which must be after the last."""
        seconds = 0.0 if self._at is None else page.at - self._at
        self._at = page.at
        cost = {
            (it["namespace"], it["pod"]): value
            for it, value in _of(page, "gpucost_pod_cost_usd_per_hour")
        }
        out: dict[Labels, float] = {}
        for it, activity in _of(page, "gpucost_pod_activity_ratio"):
            if it["workload"] not in SERVED:
                continue
            engine, model, at_full = SERVED[it["workload"]]
            rate = at_full * activity
            key = (it["namespace"], it["pod"])
            done = self._requests[key] = self._requests.get(key, 0.0) + rate * seconds
            name = {label: it[label] for label in ("instance", "job", "node", *_POD)}
            out |= _service(
                {**name, "engine": engine, "served_model": model}, done, rate, cost[key]
            )
        return out


_POD = ("namespace", "pod", "workload")


def _service(
    name: dict[str, str], done: float, rate: float, usd_per_hour: float
) -> dict[Labels, float]:
    out = {
        labelled("gpucost_pod_requests_total", **name, outcome="success"): 0.99 * done,
        labelled("gpucost_pod_requests_total", **name, outcome="error"): 0.01 * done,
        labelled("gpucost_pod_tokens_total", **name, direction="input"): INPUT * done,
        labelled("gpucost_pod_tokens_total", **name, direction="cached_input"): CACHED * done,
        labelled("gpucost_pod_tokens_total", **name, direction="output"): OUTPUT * done,
        labelled("gpucost_pod_requests_running", **name): math.ceil(2 * rate),
        labelled("gpucost_pod_requests_waiting", **name): max(0.0, round(rate - 3)),
        labelled("gpucost_pod_batch_size", **name): 1 + rate,
    }
    if rate:
        per_second = usd_per_hour / 3600
        unit = 1e6 * per_second / rate / (INPUT + 3 * OUTPUT)
        million = "gpucost_pod_cost_per_million_tokens_usd"
        more = {**name, "split": "whole", "method": "prefill_decode_time"}
        request = labelled("gpucost_pod_cost_per_request_usd", **name, split="whole")
        out |= {
            request: per_second / rate,
            labelled(million, **more, direction="input"): unit,
            labelled(million, **more, direction="output"): 3 * unit,
            labelled("gpucost_pod_cache_savings_usd_per_hour", **name): 3600
            * rate
            * CACHED
            * unit
            / 1e6,
        }
    return out


def _of(page: Page, metric: str) -> list[tuple[dict[str, str], float]]:
    return [
        (dict(labels), value)
        for labels, value in page.samples.items()
        if ("__name__", metric) in labels
    ]


def scrape(page: Page, node: str) -> dict[Labels, float]:
    """Prometheus's own series of a scrape."""
    name = {"instance": node, "job": "gpucost"}
    return {
        labelled("up", **name): 1.0,
        labelled("scrape_duration_seconds", **name): 0.012 + len(page.samples) / 1e5,
        labelled("scrape_samples_scraped", **name): float(len(page.samples)),
    }


def cluster(at: float, start: float) -> dict[Labels, float]:
    """What kube-state-metrics and Karpenter say at a moment, `start` being the day's beginning."""
    hours = (at - start) / 3600
    asked = (1, 2, 3, 2)[int(hours * 1.3) % 4]
    ready = (1, 2, 3, 2)[int((hours - 0.1) * 1.3) % 4]
    deployment = {"namespace": "serving", "deployment": "chat", "job": "kube-state-metrics"}
    hpa = {
        "namespace": "serving",
        "horizontalpodautoscaler": "keda-hpa-chat",
        "job": "kube-state-metrics",
    }
    target = {"scaletargetref_kind": "Deployment", "scaletargetref_name": "chat"}
    pool = {"nodepool": "l4", "job": "karpenter"}
    return {
        labelled("kube_deployment_spec_replicas", **deployment): asked,
        labelled("kube_deployment_status_replicas_ready", **deployment): ready,
        labelled("kube_horizontalpodautoscaler_info", **hpa, **target): 1,
        labelled("kube_horizontalpodautoscaler_status_desired_replicas", **hpa): asked,
        labelled("kube_horizontalpodautoscaler_spec_max_replicas", **hpa): 4,
        labelled("karpenter_nodeclaims_created_total", **pool, reason="provisioned"): hours // 5,
        labelled("karpenter_nodeclaims_terminated_total", **pool): max(0, hours - 2) // 5,
        labelled("karpenter_nodeclaims_disrupted_total", **pool, reason="underutilized"): max(
            0, hours - 2
        )
        // 5,
    }
