"""Finders of GPUs that nobody holds: to drain, cut anew, replace, or for pods that wait. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpucost.advice.promql import matchers
from gpucost.advice.report.evidence import given_back, query
from gpucost.advice.report.facts import GIB, WHOLE, Action, Claim, Pool, mig_resource
from gpucost.advice.report.fit import ROOM, hardware_of
from gpucost.advice.report.questions import WAITING, asked
from gpucost.sizing.gpus import instances

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gpucost.advice.report.facts import Facts, Key, Node, Pending, Query

MOST_NAMES = 5
"""Of nodes or workloads in one sentence."""

NODE_ADVICE = (
    (
        "drain",
        "Give back free GPUs of {pool}",
        "Lower the pool's minimum size, or let the autoscaler consolidate it.",
        "A pod that comes next waits for a node.",
    ),
    (
        "repartition",
        "Cut the GPUs of {pool} anew: no MIG instance covers a part of them",
        "Choose a MIG layout without a rest (nvidia-mig-parted, the GPU operator's MIG manager).",
        "The pods of these GPUs have to move first.",
    ),
    (
        "replace",
        "Replace broken GPUs of {pool}",
        "Drain and replace the node; ask the cloud for a credit.",
        "The pods of these GPUs have to move first.",
    ),
)
"""Advice of rules/advice.yaml, its title, what to do, and the risk."""


def free_capacity(facts: Facts) -> Iterator[Action]:
    """GPUs that nobody holds: nodes to drain, layouts to cut anew, what is broken."""
    for line in facts.lines:
        key = line.key
        if key.namespace:
            continue
        for kind, title, do, risk_words in NODE_ADVICE:
            claim = line.given_back(kind)
            if not claim.ratio:
                continue
            more, whole = _nodes(facts, key) if kind == "drain" else ("", True)
            evidence = [given_back(facts, key, kind)]
            if kind == "drain":
                evidence.append(_free_by_node(facts, key))
            yield Action(
                kind=kind,
                group="free",
                place=key.place,
                title=title.format(pool=_pool(key)),
                do=" ".join(filter(None, (do, more))),
                why=f"{line.usd[claim.state] / line.total_usd:.0%} of what its nodes bear"
                " themselves.",
                claims=(claim,),
                evidence=tuple(evidence),
                confidence="high" if whole else "medium",
                risk="low" if kind == "replace" else "medium",
                risk_words=risk_words,
            )


def _pool(key: Key) -> str:
    return f"node pool {key.node_pool}" if key.node_pool else f"{key.gpu_model} nodes"


def _on_pool(facts: Facts, key: Key) -> list[Node]:
    mine = key.pool
    return [
        it
        for it in facts.nodes
        if Pool(it.cluster, it.node_pool, it.gpu_model, it.capacity_type) == mine
    ]


def _nodes(facts: Facts, key: Key) -> tuple[str, bool]:
    """Which nodes could go, and whether they are all: the rest takes packing of pods."""
    mine = [it for it in _on_pool(facts, key) if it.gpus]
    if not mine:
        return "", False
    empty = [it for it in mine if it.always_free_gpus >= it.gpus - 0.01]
    if not empty:
        return "No node was empty all the time: pack pods on fewer nodes first.", False
    names = ", ".join(it.name for it in empty[:MOST_NAMES])
    more = f" and {len(empty) - MOST_NAMES} more" if len(empty) > MOST_NAMES else ""
    words = f"Nobody used any GPU of {names}{more} in all this time: drain them first."
    free = sum(it.free_gpus for it in mine)
    return words, sum(it.gpus for it in empty) > free - 1


# --- Pods elsewhere that wait ---------------------------------------------------------------------


def reallocate(facts: Facts) -> Iterator[Action]:
    """Pods that wait for GPUs and would fit on those that lie free elsewhere now."""
    pending = facts.pending or ()
    left = [it.pods for it in pending]
    for line in facts.lines:
        key = line.key
        nodes = _on_pool(facts, key)
        mean = sum(it.free_gpus for it in nodes)
        if not line.usd.get("unallocated") or not mean:
            continue
        free = [dict(it.free_now) for it in nodes]
        fits: list[str] = []
        names: list[str] = []
        taken = 0.0
        for number, it in enumerate(pending):
            why = _by_memory(facts, key, it) if it.cluster == key.cluster else None
            if why is None or not (here := _taken(free, it, left[number])):
                continue
            left[number] -= here
            taken += here * it.gpus * _size(facts, key, it)
            if len(names) < MOST_NAMES:
                names.append(f"{it.namespace}/{it.workload}")
            what = it.resource.removeprefix("nvidia_com_")
            fits.append(
                f"{here} of {it.pods} of {it.namespace}/{it.workload} ({it.gpus:g} {what}; {why})"
            )
        if fits:
            yield Action(
                kind="reallocate",
                group="free",
                place=key.place,
                title=f"Run on free GPUs of {_pool(key)} what waits: {', '.join(names)}",
                do=f"Of those that wait these would fit: {', '.join(fits[:MOST_NAMES])}. See what"
                " keeps them away (kubectl describe pod: node selector, affinity, taints, quota)"
                " before any GPU is bought.",
                why="They waited at the report's end, when so many GPUs of its nodes were free.",
                claims=(Claim(key, "unallocated", min(1.0, taken / mean)),),
                evidence=(
                    _free_by_node(facts, key),
                    query(
                        facts,
                        "GPUs that pods wait for",
                        asked(WAITING, matchers(cluster=key.cluster)),
                    ),
                ),
                confidence="low",
                risk="low",
                risk_words="Whether their software runs on this GPU is not known.",
                expected="What free GPUs cost is put to use, as long as pods wait as they do now.",
            )


def _taken(free: list[dict[str, float]], waiting: Pending, most: int) -> int:
    """How many of its pods find all their GPUs on one node; what they take is no longer free."""
    pods = 0
    for slots in free:
        here = min(most - pods, int(slots.get(waiting.resource, 0.0) // waiting.gpus))
        if here:
            slots[waiting.resource] -= here * waiting.gpus
            pods += here
    return pods


def _size(facts: Facts, key: Key, waiting: Pending) -> float:
    """Of a GPU, what one of what they ask for is."""
    own = hardware_of(facts, key.gpu_model)
    parts = instances(own) if own else ()
    return next((it.share for it in parts if mig_resource(it.profile) == waiting.resource), 1.0)


def _by_memory(facts: Facts, key: Key, waiting: Pending) -> str | None:
    """Why a GPU of this kind has the memory for them, or that it is not known; None: too little."""
    if waiting.resource != WHOLE:
        return "an instance of that size"
    own = hardware_of(facts, key.gpu_model)
    if not waiting.peak_bytes:
        return "the memory that they need is not known"
    peak = max(waiting.peak_bytes.values()) / GIB
    if key.gpu_model in waiting.peak_bytes:
        return "others of theirs run on this model"
    if own is None:
        return f"others of theirs held {peak:.0f} GiB a GPU, this model's memory is not known"
    if peak > ROOM * own.memory_gib:
        return None
    return f"others of theirs held {peak:.0f} GiB of a GPU, and this one has {own.memory_gib:.0f}"


def _free_by_node(facts: Facts, key: Key) -> Query:
    names = matchers(cluster=key.cluster)
    free = f'{{{names}{"," if names else ""}state="unallocated"}}'
    return query(
        facts,
        "free GPUs by node, mean of the times at which any were",
        f"avg_over_time(node:gpucost_gpus:rate5m{free}[$range])",
    )
