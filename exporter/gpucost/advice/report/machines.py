"""What it ran on: nodes and what of them lay free, prices, and pods that wait for GPUs."""

from __future__ import annotations

from collections import Counter, defaultdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from gpucost.advice.report import questions as ask
from gpucost.advice.report.asking import labels
from gpucost.advice.report.facts import WHOLE, Node, OtherPrice, Pending, Pool, mig_resource
from gpucost.advice.report.fold import HOUR
from gpucost.advice.report.questions import asked

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gpucost.advice.answer import Row
    from gpucost.advice.report.asking import Asker

Workload = tuple[str, ...]
"""Cluster, namespace and name."""

_POD = "cluster, namespace, pod"
_LEDGER = "cluster, node, month, ledger"
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
    now: defaultdict[tuple[str, ...], dict[str, float]] = defaultdict(dict)
    known_free = {labels(it, "cluster, node"): it.value for it in asker.at(ask.NODE_FREE_NOW)}
    for row in asker.at(ask.FREE_GPUS):
        node = labels(row, "cluster, node")
        now[node][WHOLE] = min(row.value, round(known_free.get(node, 0.0)))
    for row in asker.at(ask.FREE_INSTANCES):
        now[labels(row, "cluster, node")][mig_resource(row.labels.get("profile", ""))] = row.value
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
            free_now=now.get(name, {}),
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
    """By node and day of UTC, as invoices have them; the first and the last may be parts.

    A node spent in an hour what its ledgers' counters rose by, over hours that nobody saw too.
    """
    found: defaultdict[tuple[str, str], defaultdict[int, float]] = defaultdict(
        lambda: defaultdict(float)
    )
    stood: dict[tuple[str, ...], float] = {}
    for rows in asker.hourly(ask.NODE_LAST, "nodes"):
        hours: defaultdict[float, dict[tuple[str, ...], float]] = defaultdict(dict)
        for row in rows:
            for at, value in row.points:
                hours[at][labels(row, _LEDGER)] = value
        for at, values in sorted(hours.items()):
            if values.keys() - stood.keys():
                first = asker.prometheus.at(asked(ask.NODE_FIRST, asker.match), at)
                stood = {labels(it, _LEDGER): it.value for it in first} | stood
            day = datetime.fromtimestamp(at - HOUR, UTC).toordinal()
            for ledger, value in values.items():
                cluster, node, *_ = ledger
                found[cluster, node][day] += max(0.0, value - stood.get(ledger, value))
            stood |= values
    return {node: dict(days) for node, days in found.items()}


def node_types(asker: Asker) -> dict[tuple[str, str], str]:
    """The instance type of every node of the range; of one that came again as another, the last."""
    last: dict[tuple[str, str], tuple[float, str]] = {}
    for rows in asker.hourly(ask.NODE_TYPES, ""):
        for row in rows:
            cluster, node, instance_type = labels(row, "cluster, node, instance_type")
            seen = row.points[-1][0], instance_type
            last[cluster, node] = max(last.get((cluster, node), seen), seen)
    return {node: instance_type for node, (_, instance_type) in last.items()}


def pending(
    asker: Asker, peaks: Mapping[Workload, Mapping[str, float]]
) -> tuple[Pending, ...] | None:
    """Pods that wait for GPUs, by workload; None where nobody tells.

    `peaks` are bytes of the fullest GPU of a workload's pods, by GPU model.
    """
    rows = asker.at(ask.WAITING)
    if not rows and not asker.prometheus.at("count(kube_pod_status_phase)", asker.end):
        asker.note(
            "no_pending",
            "kube-state-metrics is not in this Prometheus: whether pods wait for GPUs is not"
            " known.",
        )
        return None
    owners = {labels(it, _POD): _workload(it) for it in asker.at(ask.WAITING_OWNER)} if rows else {}
    alike: Counter[tuple[str, str, str, str, float]] = Counter()
    for row in rows:
        if row.value <= 0:
            continue
        cluster, namespace, pod = labels(row, _POD)
        workload = owners.get((cluster, namespace, pod), pod)
        alike[cluster, namespace, workload, row.labels["resource"], row.value] += 1
    return tuple(
        Pending(*it, pods=pods, peak_bytes=peaks.get(it[:3], {}))
        for it, pods in sorted(alike.items())
    )


def _workload(owner: Row) -> str:
    """What the exporter calls it: a Deployment's ReplicaSet is the Deployment and a hash."""
    name = owner.labels.get("owner_name", "")
    of_replica_set = owner.labels.get("owner_kind") == "ReplicaSet"
    return name.rpartition("-")[0] or name if of_replica_set else name
