"""Finders of GPUs that can be given back: idle, never ready, failing, free or broken. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpucost.advice.promql import matchers
from gpucost.advice.report import patches
from gpucost.advice.report.evidence import dollars, of_workload, query
from gpucost.advice.report.facts import Action, Claim
from gpucost.advice.report.office import closed_hours, opening

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gpucost.advice.report.facts import Facts, Key, Level, Line, Query

SCALED_TO_ZERO = ("Deployment", "StatefulSet", "InferenceService", "ReplicaSet", "LeaderWorkerSet")
"""Kinds whose replicas can be taken to none and back."""

NEVER_USED = 0.005
"""Of the running dollars that were used: below it nobody has used it."""

IDLE_HOURS = 2
"""Hours without any work, from which a workload counts as idle at times."""

LONG_HOURS = 2
"""Of hours in which it only started, from which it is never ready: loading a model is not that."""

RESTART_USD = 0.05
"""Of the idle dollars, what waking and the last minutes before sleep take."""

MIN_STARTING = 0.1
"""Of its dollars, from which starting is worth a look."""


def _about(facts: Facts, line: Line, states: str) -> tuple[Query, ...]:
    return (dollars(facts, of_workload(line.key), states),)


def _name(key: Key) -> str:
    return f"{key.namespace}/{key.workload}" if key.workload else key.namespace


def _workload(
    line: Line,
    kind: str,
    title: str,
    do: str,
    why: str,
    claims: tuple[Claim, ...],
    evidence: tuple[Query, ...],
    confidence: Level,
    risk: Level,
    risk_words: str,
    patch: str = "",
) -> Action:
    key = line.key
    return Action(
        kind=kind,
        group="free",
        title=title,
        cluster=key.cluster,
        namespace=key.namespace,
        workload=key.workload,
        node_pool=key.node_pool,
        do=do,
        why=why,
        confidence=confidence,
        risk=risk,
        risk_words=risk_words,
        claims=claims,
        evidence=evidence,
        patch=patch,
    )


def idle(facts: Facts) -> Iterator[Action]:
    """Whole hours without any work: free it, close it out of hours, or let it sleep."""
    for line in facts.lines:
        key, spent = line.key, line.usd.get("idle", 0.0)
        if not key.namespace or line.idle_is_wanted or not spent or line.quiet_hours < IDLE_HOURS:
            continue
        hours = f"{line.quiet_hours} of the {line.held_hours} hours in which it held GPUs"
        evidence = _about(facts, line, "idle")
        if line.usd.get("used", 0.0) <= NEVER_USED * line.running_usd:
            yield _workload(
                line,
                "free_idle",
                f"Free {_name(key)}: it holds GPUs and uses none",
                patches.words_of_free(key),
                f"No work in {hours}.",
                (Claim(key, "idle", 1.0), Claim(key, "underused", 1.0)),
                evidence,
                "high",
                "low",
                "What it holds in GPU memory is lost; nobody has used it in this time.",
                patches.replicas(key, 0),
            )
            continue
        quiet = min(1.0, line.quiet_usd / spent)
        closed = closed_hours(line.week)
        if closed is not None:
            hours_open = opening(closed)
            ratio = min(
                1.0,
                sum(usd for usd, shut in zip(line.week.idle_usd, closed, strict=True) if shut)
                / spent,
            )
            yield _workload(
                line,
                "office_hours",
                f"Close {_name(key)} out of hours: its use follows the clock",
                f"Run it {hours_open.words} ({facts.zone}) and at no other time: officeHours of a"
                " scaling target, or a KEDA cron trigger.",
                f"In {sum(closed)} of the week's 168 hours it held GPUs and did next to nothing,"
                " week after week.",
                (Claim(key, "idle", ratio),),
                evidence,
                "high",
                "low",
                "Whoever comes out of hours waits or finds it closed.",
                patches.cron(key, hours_open, facts.zone),
            )
        if key.workload_kind in SCALED_TO_ZERO:
            profile = _profile(facts, key)
            yield _workload(
                line,
                "scale_to_zero",
                f"Let {_name(key)} sleep when nobody asks",
                f"Scale it to zero with KEDA: a scaling target with minReplicas: 0 and the profile"
                f" `{profile}` (docs/scaling.md).",
                f"No work in {hours}.",
                (Claim(key, "idle", quiet * (1 - RESTART_USD)),),
                evidence,
                "medium",
                "medium",
                "The first request after a pause waits for a cold start.",
                patches.scaling_target(key, profile),
            )
        elif closed is None:
            yield _workload(
                line,
                "end_when_done",
                f"End {_name(key)} when its work is done",
                "Let it end, or cull it when it is idle (a notebook's culler, a job's"
                " activeDeadlineSeconds), and start it again when it is needed.",
                f"No work in {hours}.",
                (Claim(key, "idle", quiet),),
                evidence,
                "medium",
                "medium",
                "State that is only in memory is lost.",
            )


def _profile(facts: Facts, key: Key) -> str:
    """KEDA's profile (docs/scaling.md): realtime where requests are counted, else batch."""
    mine = (key.cluster, key.namespace, key.workload)
    served = any((it.cluster, it.namespace, it.workload) == mine for it in facts.services)
    return "realtime" if served else "batch"


def not_ready(facts: Facts) -> Iterator[Action]:
    """Held by pods that crash, never become ready, take long to, or do not go."""
    for line in facts.lines:
        key, name = line.key, _name(line.key)
        failing, starting = line.usd.get("failing", 0.0), line.usd.get("starting", 0.0)
        leaving = line.usd.get("terminating", 0.0)
        never = failing + starting > 0 and not line.usd.get("used")
        if never and not line.running_usd and (failing or line.held_hours >= LONG_HOURS):
            yield _workload(
                line,
                "never_ready",
                f"Free {name}: it holds GPUs and has never become ready",
                f"{patches.words_of_free(key)} Then look at its events and logs: kubectl describe,"
                " kubectl logs --previous.",
                "It was never ready in this time.",
                (Claim(key, "failing", 1.0), Claim(key, "starting", 1.0)),
                _about(facts, line, "failing|starting"),
                "high",
                "low",
                "Nothing runs there.",
                patches.replicas(key, 0),
            )
            continue
        if failing:
            yield _workload(
                line,
                "failing",
                f"Mend {name}: its pods hold GPUs and crash",
                "Look at why (kubectl describe, kubectl logs --previous), and stop it until it is"
                " mended.",
                "Crash loops and image pulls that fail hold GPUs.",
                (Claim(key, "failing", 1.0),),
                _about(facts, line, "failing"),
                "high",
                "low",
                "Nothing runs there.",
            )
        if starting > MIN_STARTING * line.total_usd:
            yield _workload(
                line,
                "slow_start",
                f"Start {name} faster",
                "Keep the image and the model on the node or in a local cache; load weights in"
                " parallel.",
                f"{starting / line.total_usd:.0%} of its dollars go into starting.",
                (Claim(key, "starting", 0.5),),
                _about(facts, line, "starting"),
                "low",
                "low",
                "None that is known.",
            )
        if leaving:
            yield _workload(
                line,
                "terminating",
                f"Let go of {name}: deleted pods still hold GPUs",
                "Look for a finalizer, a long grace period or a process stuck in the driver.",
                "Pods that are being deleted hold GPUs.",
                (Claim(key, "terminating", 0.9),),
                _about(facts, line, "terminating"),
                "medium",
                "low",
                "A shorter grace period may cut off work that is being saved.",
            )


NODE_ADVICE = {
    "unallocated": (
        "drain",
        "Give back free GPUs of {pool}",
        "Lower the pool's minimum size, or let the autoscaler consolidate it.",
    ),
    "stranded": (
        "repartition",
        "Cut the GPUs of {pool} anew: no MIG instance covers a part of them",
        "Choose a MIG layout without a rest (nvidia-mig-parted, the GPU operator's MIG manager).",
    ),
    "unhealthy": (
        "replace",
        "Replace broken GPUs of {pool}",
        "Drain and replace the node; ask the cloud for a credit.",
    ),
}


def free_capacity(facts: Facts) -> Iterator[Action]:
    """GPUs that nobody holds: nodes to drain, and pods elsewhere that wait for some."""
    for line in facts.lines:
        key = line.key
        if key.namespace:
            continue
        for state, (kind, title, do) in NODE_ADVICE.items():
            if not (spent := line.usd.get(state, 0.0)):
                continue
            pool = f"node pool {key.node_pool}" if key.node_pool else f"{key.gpu_model} nodes"
            more, part = _nodes(facts, key) if kind == "drain" else ("", 1.0)
            waiting = _waiting(facts, key) if kind != "replace" else ""
            selector = matchers(
                cluster=key.cluster,
                namespace="",
                gpu_model=key.gpu_model,
                capacity_type=key.capacity_type,
                node_pool=key.node_pool,
            )
            evidence = [dollars(facts, selector, state)]
            if kind == "drain":
                names = matchers(cluster=key.cluster)
                evidence.append(
                    query(
                        facts,
                        "free GPUs by node, mean of the times at which any were",
                        "avg_over_time(node:gpucost_gpus:rate5m"
                        f'{{{names}{"," if names else ""}state="unallocated"}}[$range])',
                    )
                )
            yield Action(
                kind=kind,
                group="free",
                title=title.format(pool=pool),
                cluster=key.cluster,
                namespace="",
                workload="",
                node_pool=key.node_pool,
                do=" ".join(filter(None, (do, more, waiting))),
                why=f"{spent / line.total_usd:.0%} of what its nodes bear themselves.",
                confidence="high" if part == 1.0 else "medium",
                risk="medium" if kind != "replace" else "low",
                risk_words="A pod that comes next waits for a node."
                if kind == "drain"
                else "The pods of these GPUs have to move first.",
                claims=(Claim(key, state, part),),
                evidence=tuple(evidence),
            )


def _nodes(facts: Facts, key: Key) -> tuple[str, float]:
    """Which nodes could go, and the part of the free dollars that their going would save."""
    mine = [
        it
        for it in facts.nodes
        if (it.cluster, it.node_pool, it.gpu_model) == (key.cluster, key.node_pool, key.gpu_model)
        and it.gpus
    ]
    free = sum(it.free_gpus for it in mine)
    if not free:
        return "", 1.0
    empty = [it for it in mine if it.always_free_gpus >= it.gpus - 0.01]
    if empty:
        names = ", ".join(it.name for it in empty[:5])
        more = f" and {len(empty) - 5} more" if len(empty) > 5 else ""  # noqa: PLR2004 - as above
        words = f"Nobody used any GPU of {names}{more} in all this time: drain them first."
    else:
        words = "No node was empty all the time: free GPUs lie on nodes that others use."
    gone = sum(it.gpus for it in empty)
    # The rest lies beside others' work; whole nodes' worth of it can go once pods are packed.
    size = max(it.gpus for it in mine)
    packed = max(0.0, free - gone) // size * size
    return words, min(1.0, (gone + packed) / free) if gone + packed else 0.5


def _waiting(facts: Facts, key: Key) -> str:
    waiting = [it for it in facts.pending or () if it.cluster == key.cluster and it.gpus]
    if not waiting:
        return ""
    gpus = sum(it.gpus for it in waiting)
    pods = sum(it.pods for it in waiting)
    names = ", ".join(sorted({it.namespace for it in waiting})[:4])
    return (
        f"Meanwhile {pods} {'pod waits' if pods == 1 else 'pods wait'} for {gpus:g} GPUs"
        f" ({names}): let them run here, where these fit their memory, before any are bought."
    )
