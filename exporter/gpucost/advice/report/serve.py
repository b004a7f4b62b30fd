"""Finders for inference servers: more work out of the same GPUs. Pure.

What they save is an estimate: each says the range that is expected and whose word it is.
"""

from __future__ import annotations

import re
from collections import defaultdict
from statistics import quantiles
from typing import TYPE_CHECKING

from gpucost.advice.promql import matchers
from gpucost.advice.report.evidence import dollars, query
from gpucost.advice.report.facts import RUNNING, Action, Claim, Place

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gpucost.advice.report.facts import Facts, Line, Query, Service

LOW_BATCH = 0.6
"""Of its own best hour's batch."""
LOW_HITS = 0.1
"""Below its own best hour's hit ratio."""
LEAST_PEERS = 4
"""Services of one model, from which the dearer ones can be told."""
ABOVE = 1.1
"""Times the p75 of its peers."""
MOST = 0.5
"""Of a service's dollars: no estimate is taken for more."""

HALF_THE_BYTES = 0.5
"""A weight of FP8 has half the bytes of one of 16 bits."""

_WIDE = re.compile(r"(?i)(?<![a-z])(fp32|float32|bf16|bfloat16|fp16|float16)(?![0-9])")


def _lines(facts: Facts, service: Service) -> list[Line]:
    mine = (service.cluster, service.namespace, service.workload)
    return [it for it in facts.lines if (it.key.cluster, it.key.namespace, it.key.workload) == mine]


def _action(
    facts: Facts,
    service: Service,
    *,
    kind: str,
    title: str,
    do: str,
    why: str,
    ratio: float,
    expected: str,
    risk_words: str,
    evidence: tuple[Query, ...],
) -> Action:
    selector = _selector(service)
    return Action(
        kind=kind,
        group="fit",
        title=title,
        place=Place(service.cluster, service.namespace, service.workload),
        do=do,
        why=why,
        confidence="low",
        risk="medium",
        risk_words=risk_words,
        claims=tuple(
            Claim(line.key, state, min(MOST, ratio))
            for line in _lines(facts, service)
            for state in RUNNING
            if line.usd.get(state)
        ),
        evidence=(dollars(facts, selector, "|".join(RUNNING)), *evidence),
        expected=expected,
    )


def _selector(service: Service) -> str:
    return matchers(cluster=service.cluster, namespace=service.namespace, workload=service.workload)


def batching(facts: Facts) -> Iterator[Action]:
    """Batches smaller than what the service itself has reached, on more GPUs than one."""
    for it in facts.services:
        if it.batch is None or it.best_batch is None or it.batch >= LOW_BATCH * it.best_batch:
            continue
        if sum(line.gpus or 0.0 for line in _lines(facts, it)) < 2:  # noqa: PLR2004 - one cannot less
            continue
        gain = 1 - it.batch / it.best_batch
        yield _action(
            facts,
            it,
            kind="batch_more",
            title=f"Batch more in {it.namespace}/{it.workload}: fewer replicas, each fuller",
            do="Run fewer replicas so that each works on more requests at once, and raise the"
            " engine's limit (vLLM: --max-num-seqs) if it is reached.",
            why=f"It works on {it.batch:.1f} requests at once in the mean; its best hour had"
            f" {it.best_batch:.1f}.",
            ratio=gain / 2,
            expected=f"0 to {gain:.0%}, from its own best hour; half of that is counted.",
            risk_words="Longer time between tokens for each request.",
            evidence=(
                query(
                    facts,
                    "batch, mean of each hour: its maximum is the best hour",
                    f"max_over_time(avg_over_time(workload:gpucost_batch_size:avg"
                    f"{{{_selector(it)}}}[1h])[$range:1h])",
                ),
            ),
        )


def caching(facts: Facts) -> Iterator[Action]:
    """Prefix-cache hits below what the service itself has reached."""
    for it in facts.services:
        hits, best = it.hit_ratio, it.best_hit_ratio
        if hits is None or best is None or best - hits < LOW_HITS or not it.tokens:
            continue
        asked = (it.input_tokens or 0.0) + (it.cached_tokens or 0.0)
        gain = min(1.0, (best - hits) * asked / it.tokens)
        yield _action(
            facts,
            it,
            kind="cache_prefixes",
            title=f"Raise the prefix-cache hits of {it.namespace}/{it.workload}",
            do="Route requests with the same beginning to the same replica (an inference gateway's"
            " prefix-aware picker), put what is the same first in the prompt, leave the cache more"
            " memory.",
            why=f"{hits:.0%} of its input tokens came from the cache; in its best hour {best:.0%}.",
            ratio=gain / 2,
            expected=f"0 to {gain:.0%} of its tokens less to compute, from its own best hour; half"
            " of that is counted.",
            risk_words="Replicas that are asked unevenly.",
            evidence=(
                query(
                    facts,
                    "input tokens from the cache and computed, a second",
                    f"avg_over_time(workload:gpucost_tokens:rate5m{{{_selector(it)}}}[$range])",
                ),
            ),
        )


def dear_requests(facts: Facts) -> Iterator[Action]:
    """A request that costs more than with three of four peers that serve the same model."""
    peers: defaultdict[tuple[str, ...], list[tuple[float, Service]]] = defaultdict(list)
    for it in facts.services:
        if it.served_models and (usd := it.usd_per_request) is not None:
            peers[it.served_models].append((usd, it))
    for models, priced in peers.items():
        if len(priced) < LEAST_PEERS:
            continue
        p75 = quantiles((usd for usd, _ in priced), n=4, method="inclusive")[2]
        for usd, it in priced:
            if usd <= ABOVE * p75:
                continue
            yield _action(
                facts,
                it,
                kind="dear_requests",
                title=f"Look at {it.namespace}/{it.workload}: its requests cost more than its"
                " peers'",
                do="Compare its replicas, GPU and engine settings with the cheaper ones that serve"
                " the same model.",
                why=f"{usd:.6f} USD a request; three of four of the {len(priced)} services of"
                f" {', '.join(models)} cost {p75:.6f} or less.",
                ratio=(1 - p75 / usd) / 2,
                expected=f"0 to {1 - p75 / usd:.0%}, from its peers; half of that is counted.",
                risk_words="Its requests may be longer than theirs.",
                evidence=(
                    query(
                        facts,
                        "USD a request of the last hour, all services",
                        "workload:gpucost_cost_per_served_usd:ratio1h",
                    ),
                ),
            )


def precision(facts: Facts) -> Iterator[Action]:
    """Weights in 16 or 32 bits, where the served model's name says so, on GPUs that have FP8."""
    for it in facts.services:
        wide = next((name for name in it.served_models if _WIDE.search(name)), None)
        able = [line for line in _lines(facts, it) if _has_fp8(line.key.gpu_model)]
        if wide is None or not able:
            continue
        yield _action(
            facts,
            it,
            kind="narrower_precision",
            title=f"Serve {it.namespace}/{it.workload} in FP8",
            do="Serve FP8 weights (vLLM: --quantization fp8, or a published FP8 checkpoint), after"
            " an evaluation of your own.",
            why=f"The name of {wide} says 16 or 32 bits; these GPUs have FP8.",
            ratio=HALF_THE_BYTES / 2,
            expected=f"0 to {HALF_THE_BYTES:.0%}: weights of half the bytes, which is what decoding"
            " waits for; half of that is counted.",
            risk_words="Answers may get worse: evaluate before and after.",
            evidence=(),
        )


def _has_fp8(model: str) -> bool:
    return bool(re.search(r"H100|H200|H20\b|GH200|B200|B300|L4\b|L40|RTX PRO|Ada", model))
