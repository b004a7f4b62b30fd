"""What others would say of the played fleet: inference servers, and a cluster's own exporters.

Names and labels are those of kube-state-metrics 2, Karpenter 1 and LiteLLM, and Prometheus's of its
scrapes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpucost.model import Count, EngineReading, ModelReading

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gpucost.model import Pod
    from played_fleet import Page
    from real_prometheus import Labels

CLUSTER = "demo"

SERVED = {
    "chat": ("vllm", "meta-llama/Llama-3.1-70B-Instruct", 6.0),
    "embed": ("vllm", "BAAI/bge-large-en-v1.5", 60.0),
    "rerank": ("vllm", "BAAI/bge-reranker-v2-m3", 18.0),
    "support-bot": ("sglang", "Qwen/Qwen3-8B", 3.0),
}
"""Workloads with an inference server: engine, model and requests per second at full activity."""

INPUT, CACHED, OUTPUT = 900.0, 600.0, 220.0
"""Tokens of a request: computed, from the cache, and generated."""


def labelled(name: str, **labels: str) -> Labels:
    """A series' name and labels, in the played cluster."""
    return tuple(sorted((("__name__", name), ("cluster", CLUSTER), *labels.items())))


class Engines:
    """The inference servers of one node: what they have done follows how active their pods are."""

    def __init__(self) -> None:
        """They begin when they are first read."""
        self._done: dict[tuple[str, str], float] = {}
        self._at: float | None = None

    def read(
        self,
        at: float,
        pods: Mapping[tuple[str, str], Pod],
        active: Mapping[tuple[str, str], float],
    ) -> dict[tuple[str, str], EngineReading]:
        """What they answer at a moment after the last, by pod; `active` is how active each is."""
        seconds = 0.0 if self._at is None else at - self._at
        self._at = at
        # The engine of a pod that comes again under its name counts anew.
        self._done = {key: done for key, done in self._done.items() if key in pods}
        out = {}
        for key, pod in pods.items():
            if pod.workload not in SERVED:
                continue
            engine, model, at_full = SERVED[pod.workload]
            rate = at_full * active.get(key, 0.0)
            done = self._done[key] = self._done.get(key, 0.0) + rate * seconds
            counts = {
                Count.FINISHED: done,
                Count.SUCCESS: 0.985 * done,
                Count.FAILURE: 0.005 * done,
                Count.ABORTED: 0.01 * done,
                Count.PROMPT: (INPUT + CACHED) * done,
                Count.CACHED: CACHED * done,
                Count.OUTPUT: OUTPUT * done,
                Count.PREFILL_SECONDS: 0.4 * done,
                Count.DECODE_SECONDS: 2.2 * done,
            }
            reading = ModelReading(
                engine,
                model,
                {count: {0: value} for count, value in counts.items()},
                running=float(round(2.3 * rate)),
                waiting=max(0.0, round(2.3 * rate) - 9.0),
                batch=1 + 2 * rate,
            )
            out[key] = EngineReading(read_at=at, models=(reading,))
        return out


def scrape(page: Page, node: str) -> dict[Labels, float]:
    """Prometheus's own series of a scrape."""
    name = {"instance": node, "job": "gpucost"}
    return {
        labelled("up", **name): 1.0,
        labelled("scrape_duration_seconds", **name): 0.012 + len(page.samples) / 1e5,
        labelled("scrape_samples_scraped", **name): float(len(page.samples)),
    }


def cluster(at: float, start: float) -> dict[Labels, float]:
    """What other exporters say at a moment, `start` being the day's beginning."""
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
    proxy = {"instance": "litellm-0", "job": "litellm"}
    small = {"team_alias": "assistant", "model": "gpt-5-mini"}
    large = {"team_alias": "None", "model": "claude-haiku-4-5"}
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
        labelled("litellm_spend_metric_total", **proxy, **small): 1.9 * hours,
        labelled("litellm_spend_metric_total", **proxy, **large): 0.4 * hours,
    }
