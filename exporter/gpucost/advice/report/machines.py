"""What it ran on: nodes and what of them lay free, prices, and pods that wait for GPUs."""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from gpucost.advice.report import questions as ask
from gpucost.advice.report.asking import labels
from gpucost.advice.report.facts import Node, OtherPrice, Pending, Pool
from gpucost.advice.report.fold import HOUR
from gpucost.advice.report.questions import asked

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gpucost.advice.report.asking import Asker

DAY = 24 * HOUR
_WAITING = "cluster, namespace, resource"
_ALWAYS = 0.995
"""Of a range's evaluations: a restart of the ruler must not hide a node that is always free."""


def nodes(asker: Asker, weight: float, seen_seconds: float) -> tuple[Node, ...]:
    """The nodes that are there at the range's end."""
    within = {"range": asker.range_words}
    counts = {labels(it, "cluster, node"): it.value for it in asker.at(ask.NODE_GPUS)}
    free = {labels(it, "cluster, node"): it.value for it in asker.at(ask.NODE_FREE, **within)}
    least = {
        labels(it, "cluster, node"): it.value for it in asker.at(ask.NODE_LEAST_FREE, **within)
    }
    times = {
        labels(it, "cluster, node"): it.value for it in asker.at(ask.NODE_FREE_TIMES, **within)
    }
    models = {
        labels(it, "cluster, node"): it.labels.get("gpu_model", "") for it in asker.at(ask.PRICE)
    }
    found = {}
    for row in asker.at(ask.NODE_INFO):
        name = labels(row, "cluster, node")
        always = weight * times.get(name, 0.0) >= _ALWAYS * seen_seconds > 0
        found[name] = Node(
            cluster=name[0],
            name=name[1],
            node_pool=row.labels.get("node_pool", ""),
            instance_type=row.labels.get("instance_type", ""),
            region=row.labels.get("region", ""),
            zone=row.labels.get("zone", ""),
            capacity_type=row.labels.get("capacity_type", ""),
            provider=row.labels.get("provider", ""),
            gpu_model=models.get(name, ""),
            gpus=counts.get(name, 0.0),
            free_gpus=weight * free.get(name, 0.0) / seen_seconds if seen_seconds else 0.0,
            always_free_gpus=least.get(name, 0.0) if always else 0.0,
        )
    return tuple(found[name] for name in sorted(found))


def prices(asker: Asker, nodes: Sequence[Node]) -> tuple[OtherPrice, ...]:
    """What GPUs cost, and would cost under another capacity type."""
    pools = {(node.cluster, node.name): node.node_pool for node in nodes}
    own: defaultdict[Pool, list[float]] = defaultdict(list)
    where: dict[tuple[str, ...], Pool] = {}
    for row in asker.at(ask.PRICE):
        cluster, node, model = labels(row, "cluster, node, gpu_model")
        capacity = row.labels.get("capacity_type", "")
        pool = Pool(cluster, pools.get((cluster, node), ""), model, capacity)
        own[pool].append(row.value)
        where[cluster, node, model] = pool
    others: defaultdict[Pool, defaultdict[str, list[float]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for row in asker.at(ask.OTHER_PRICE):
        at = where.get(labels(row, "cluster, node, gpu_model"))
        if at is not None:
            others[at][row.labels.get("capacity_type", "")].append(row.value)
    return tuple(
        OtherPrice(
            pool,
            sum(usd) / len(usd),
            {capacity: sum(it) / len(it) for capacity, it in others[pool].items()},
        )
        for pool, usd in sorted(own.items())
    )


def node_usd(asker: Asker) -> dict[tuple[str, str], dict[int, float]]:
    """By node and day of UTC, as invoices have them; the first and the last may be parts."""
    found: defaultdict[tuple[str, str], dict[int, float]] = defaultdict(dict)
    at = asker.start
    while at < asker.end:
        until = min(at // DAY * DAY + DAY, asker.end)
        query = asked(ask.NODE_COST, asker.match, range=f"{until - at:.0f}s")
        day = datetime.fromtimestamp(at, UTC).toordinal()
        for row in asker.prometheus.at(query, until):
            cluster, node = labels(row, "cluster, node")
            found[cluster, node][day] = row.value
        asker.prometheus.tell(f"nodes: {(until - asker.start) / (asker.end - asker.start):.0%}")
        at = until
    return dict(found)


def pending(asker: Asker) -> tuple[Pending, ...] | None:
    """Pods that wait for GPUs; None where nobody tells."""
    rows = asker.at(ask.PENDING)
    pods = {labels(it, _WAITING): it.value for it in asker.at(ask.PENDING_PODS)}
    if not rows and not asker.prometheus.at("count(kube_pod_status_phase)", asker.end):
        asker.note(
            "no_pending",
            "kube-state-metrics is not in this Prometheus: whether pods wait for GPUs is not"
            " known.",
        )
        return None
    return tuple(
        Pending(
            cluster=row.labels.get("cluster", ""),
            namespace=row.labels.get("namespace", ""),
            pods=round(pods.get(labels(row, _WAITING), 0.0)),
            gpus=row.value,
            resource=row.labels.get("resource", ""),
        )
        for row in rows
    )
