"""Finders of a lower price for the same GPUs: spot, and a commitment for the floor. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpucost.advice.promql import matchers
from gpucost.advice.report import patches
from gpucost.advice.report.evidence import dollars, of_workload, query
from gpucost.advice.report.facts import Action, Claim, Place
from gpucost.advice.report.fold import WORKING
from gpucost.model import HOUR_SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gpucost.advice.report.facts import Facts, Pool, Query

RESTART_TOLERANT = (
    *("Job", "CronJob", "JobSet", "PyTorchJob", "MPIJob", "TFJob", "RayJob", "TrainJob"),
    *("XGBoostJob", "PaddleJob", "JAXJob", "Workflow", "SparkApplication", "VolcanoJob"),
)
"""Kinds that begin again, or from their checkpoint, when a node is taken away."""

REPLICATED = ("Deployment", "ReplicaSet", "InferenceService")
LEAST_REPLICAS = 2.0
HAS_STATE = ("StatefulSet", "Notebook")
SHORT_HOURS = 6
"""A hold that is over by then loses little when its node is taken away. How long one takes that
goes on is not known."""
NOT_FOR_SPOT = ("failing", "terminating")
"""States that are to be ended, not to be had for less."""
WORTH = 0.1
"""Of a price, from which another is worth it."""
LEAST_DAYS = 7
"""A floor that was seen for less time is none."""


def spot(facts: Facts) -> Iterator[Action]:
    """On-demand GPUs of work that can be lost and begun again."""
    prices = {it.pool: it for it in facts.prices}
    for line in facts.lines:
        key = line.key
        price = prices.get(key.pool)
        if key.capacity_type != "on_demand" or price is None or not line.usd.get("used"):
            continue
        other = price.other_usd_per_hour.get("spot")
        if other is None or other > (1 - WORTH) * price.usd_per_hour:
            continue
        tolerant = key.workload_kind in RESTART_TOLERANT
        replicated = key.workload_kind in REPLICATED and (line.gpus or 0.0) >= LEAST_REPLICAS
        over = line.held_hours > line.longest_hours or line.last_seconds + HOUR_SECONDS < facts.end
        short = over and line.longest_hours <= SHORT_HOURS and key.workload_kind not in HAS_STATE
        if not (tolerant or replicated or short):
            continue
        why = "Its replicas can be lost one by one."
        if short:
            most = f"{line.longest_hours} hours" if line.longest_hours != 1 else "an hour"
            why = f"It never held GPUs for more than {most}: little is lost."
        if tolerant:
            why = f"A {key.workload_kind} begins again where it stopped, if it checkpoints."
        yield Action(
            kind="spot",
            group="buy",
            title=f"Run {key.namespace}/{key.workload} on spot",
            place=key.place,
            do=f"Let it tolerate a spot node pool: {other:.2f} USD/h a GPU in place of"
            f" {price.usd_per_hour:.2f}.",
            why=why,
            confidence="medium" if tolerant or short else "low",
            risk="medium" if tolerant or short else "high",
            risk_words="Spot nodes are taken away within minutes, and at times there are none.",
            claims=tuple(
                Claim(key, state, 1 - other / price.usd_per_hour)
                for state, usd in line.usd.items()
                if usd and state not in NOT_FOR_SPOT
            ),
            evidence=(
                dollars(facts, of_workload(key), ".+"),
                *_price_queries(facts, key.pool, "spot"),
            ),
            patch=patches.spot(key),
        )


def reserved(facts: Facts) -> Iterator[Action]:
    """On-demand GPUs that were there in every hour."""
    if facts.seen_seconds < LEAST_DAYS * 86_400:
        return
    for price in facts.prices:
        pool = price.pool
        other = price.other_usd_per_hour.get("reserved")
        claimed = [
            (line, state)
            for line in facts.lines
            if line.key.pool == pool
            for state in WORKING
            if line.usd.get(state)
        ]
        total = sum(line.usd[state] for line, state in claimed)
        floor = facts.floors.get(pool, 0.0) * facts.seen_seconds / 3600.0
        if (
            pool.capacity_type != "on_demand"
            or other is None
            or other > (1 - WORTH) * price.usd_per_hour
            or not total
            or not floor
        ):
            continue
        gpus = facts.floors[pool] / price.usd_per_hour
        ratio = min(1.0, floor / total) * (1 - other / price.usd_per_hour)
        where = f"node pool {pool.node_pool}" if pool.node_pool else "its nodes"
        yield Action(
            kind="reserve",
            group="buy",
            title=f"Commit to {gpus:.3g} {pool.gpu_model} of {where}",
            place=Place(pool.cluster, node_pool=pool.node_pool),
            do=f"Reserve or commit to {gpus:.3g} of them: {other:.2f} USD/h a GPU in place of"
            f" {price.usd_per_hour:.2f}.",
            why=f"So many were at work in every hour of {facts.seen_seconds / 86_400:.0f} days;"
            " what was idle or free is not counted.",
            confidence="medium",
            risk="high",
            risk_words="A commitment is paid for a year or more, used or not.",
            claims=tuple(Claim(line.key, state, ratio) for line, state in claimed),
            evidence=(
                query(
                    facts,
                    "USD an hour, the least of any hour",
                    "min_over_time(sum(avg_over_time(workload:gpucost_cost_usd:rate5m"
                    f'{{{_pool(pool)},state=~"{"|".join(WORKING)}"}}[1h]))[$range:1h]) * 3600',
                ),
                *_price_queries(facts, pool, "reserved"),
            ),
        )


def _pool(pool: Pool) -> str:
    return matchers(
        cluster=pool.cluster,
        node_pool=pool.node_pool,
        gpu_model=pool.gpu_model,
        capacity_type=pool.capacity_type,
    )


def _price_queries(facts: Facts, pool: Pool, capacity_type: str) -> tuple[Query, ...]:
    own = matchers(cluster=pool.cluster, gpu_model=pool.gpu_model, capacity_type=pool.capacity_type)
    other = matchers(cluster=pool.cluster, gpu_model=pool.gpu_model, capacity_type=capacity_type)
    return (
        query(
            facts,
            "USD an hour of a GPU",
            f"avg(last_over_time(gpucost_gpu_price_usd_per_hour{{{own}}}[1d]))",
        ),
        query(
            facts,
            f"USD an hour of a GPU, {capacity_type}",
            f"avg(last_over_time(gpucost_gpu_alternative_price_usd_per_hour{{{other}}}[1d]))",
        ),
    )
