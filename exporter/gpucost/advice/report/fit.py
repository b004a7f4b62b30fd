"""Finders of smaller fits: fewer replicas, a shared GPU, a MIG instance, a cheaper GPU. Pure.

The dollars are those of running: whoever holds a quarter of a GPU pays a quarter for the same work.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from gpucost.advice.promql import matchers
from gpucost.advice.report import patches
from gpucost.advice.report.evidence import dollars, of_workload, query
from gpucost.advice.report.facts import GIB, RUNNING, Action, Claim
from gpucost.pricing.names import plain
from gpucost.sizing.gpus import compute_part, instances

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gpucost.advice.report.facts import Facts, Level, Line
    from gpucost.sizing.gpus import GpuSpeed
    from gpucost.sizing.offers import Offer

UNDERUSED = 0.5
"""Mean activity from which nothing is looked for."""
ROOM = 0.85
"""What of a smaller GPU's compute its peak may take, and of its memory."""
MOST_SHARING = 4
"""Pods that take turns on one GPU: more wait too long for each other."""
WORTH = 0.1
"""Of its dollars, from which a change is worth it."""


def smaller(facts: Facts) -> Iterator[Action]:
    """All that would fit a workload which keeps its GPUs busy for less than half of the time."""
    for line in facts.lines:
        key = line.key
        mean, peak = line.activity, line.peak_activity
        if not key.namespace or mean is None or peak is None or mean >= UNDERUSED:
            continue
        if not line.usd.get("used") or line.running_usd < line.total_usd / 2:
            continue
        yield from _fewer(facts, line, peak)
        memory = line.memory_peak_bytes
        own = hardware_of(facts, key.gpu_model)
        if memory is None or own is None:
            continue
        gib = memory / GIB
        yield from _shared(facts, line, peak, gib, own)
        yield from _instance(facts, line, peak, gib, own)
        yield from _cheaper(facts, line, peak, gib, own)


def hardware_of(facts: Facts, model: str) -> GpuSpeed | None:
    """What is known of a model by NVML's name or a price list's."""
    return facts.hardware.get(plain(model))


def _fewer(facts: Facts, line: Line, peak: float) -> Iterator[Action]:
    """Replicas that the peak does not need; only whole GPUs of kinds that have replicas."""
    key, gpus = line.key, line.gpus
    if gpus is None or key.workload_kind not in patches.REPLICATED:
        return
    held = round(gpus)
    needed = max(1, math.ceil(gpus * peak / ROOM))
    if held < 2 or needed >= held:  # noqa: PLR2004 - one replica is the least
        return
    yield _action(
        facts,
        line,
        kind="fewer_replicas",
        title=f"Run {key.namespace}/{key.workload} on {needed} GPUs in place of {held}",
        do=f"Lower its replicas so that it holds {needed} GPUs, or let KEDA do it by load"
        " (docs/scaling.md).",
        why=f"Its GPUs were {line.activity:.0%} busy in the mean and {peak:.0%} at most.",
        ratio=1 - needed / gpus,
        confidence="medium",
        risk="medium",
        risk_words="Less room for peaks shorter than five minutes.",
    )


def _shared(facts: Facts, line: Line, peak: float, gib: float, own: GpuSpeed) -> Iterator[Action]:
    by_memory = int(ROOM * own.memory_gib / gib) if gib else MOST_SHARING
    by_time = int(ROOM / peak) if peak else MOST_SHARING
    pods = min(MOST_SHARING, by_memory, by_time)
    if pods < 2:  # noqa: PLR2004 - alone is not shared
        return
    key = line.key
    yield _action(
        facts,
        line,
        kind="time_slicing",
        title=f"Share the GPU of {key.namespace}/{key.workload} with {pods - 1} like it",
        do=f"Offer the GPUs of its pool {pods} times by time-slicing (the device plugin's"
        f" sharing.timeSlicing, replicas: {pods}).",
        why=f"{pods} times its peak of {peak:.0%} activity and {gib:.0f} GiB fit one"
        f" {own.memory_gib:.0f} GiB GPU.",
        ratio=1 - 1 / pods,
        confidence="low",
        risk="medium",
        risk_words="Neighbours share memory and wait for each other: no isolation, longer latency."
        " It saves only what others then take.",
    )


def _instance(facts: Facts, line: Line, peak: float, gib: float, own: GpuSpeed) -> Iterator[Action]:
    for it in instances(own):
        compute = compute_part(it)
        if gib <= ROOM * it.memory_gib and peak <= ROOM * compute and it.share < 1 - WORTH:
            key = line.key
            resource = f"nvidia.com/mig-{it.profile}"
            yield _action(
                facts,
                line,
                kind="mig",
                title=f"Move {key.namespace}/{key.workload} to a MIG instance {it.profile}",
                do=f"Ask for {resource} in place of nvidia.com/gpu, on a GPU that is cut so.",
                why=f"Its peaks are {gib:.0f} GiB and {peak:.0%} activity; {it.profile} has"
                f" {it.memory_gib:.0f} GiB and {compute:.0%} of the compute.",
                ratio=1 - it.share,
                confidence="medium",
                risk="medium",
                risk_words="The GPU must be drained to be cut, and it saves only what others take"
                " of the rest.",
                patch=patches.resource(key, resource),
            )
            return


def _cheaper(facts: Facts, line: Line, peak: float, gib: float, own: GpuSpeed) -> Iterator[Action]:
    """The cheapest GPU of the catalogue in the same region that its peaks fit."""
    key = line.key
    place = next(
        (it for it in facts.nodes if _is_on(it.cluster, it.node_pool, it.gpu_model, line)), None
    )
    price = next((it.usd_per_hour for it in facts.prices if it.pool == key.pool), None)
    if place is None or price is None or own.half_tflops is None or own.bandwidth_gb_s is None:
        return
    market = place.provider, place.region, key.capacity_type or "on_demand"
    best: tuple[float, Offer, float] | None = None
    for offer in facts.offers.get(market, ()):
        other, usd = hardware_of(facts, offer.gpu_model), offer.usd_per_gpu_hour
        if (
            other is None
            or other.half_tflops is None
            or other.bandwidth_gb_s is None
            or usd >= (1 - WORTH) * price
            or gib > ROOM * other.memory_gib
        ):
            continue
        slower = max(own.half_tflops / other.half_tflops, own.bandwidth_gb_s / other.bandwidth_gb_s)
        if peak * slower <= ROOM and (best is None or usd < best[0]):
            best = usd, offer, slower
    if best is None:
        return
    usd, offer, slower = best
    yield _action(
        facts,
        line,
        kind="cheaper_gpu",
        title=f"Move {key.namespace}/{key.workload} to {offer.gpu_model}",
        do=f"Run it on {offer.instance_type} ({place.region}): {usd:.2f} USD/h a GPU in place of"
        f" {price:.2f} (price list, {offer.source} {offer.day}).",
        why=f"Its peaks are {gib:.0f} GiB and {peak:.0%} activity, on {offer.gpu_model} about"
        f" {min(1.0, peak * slower):.0%}.",
        ratio=1 - usd / price,
        confidence="medium" if slower <= 2 else "low",  # noqa: PLR2004 - twice as slow
        risk="medium",
        risk_words="Every request takes longer by the ratio of the models; try its latency first.",
        expected=f"{offer.gpu_model} is slower by up to {slower:.1f} times (dense 16-bit rate and"
        " memory bandwidth).",
    )


def _is_on(cluster: str, node_pool: str, gpu_model: str, line: Line) -> bool:
    key = line.key
    return (cluster, node_pool, gpu_model) == (key.cluster, key.node_pool, key.gpu_model)


def _action(
    facts: Facts,
    line: Line,
    *,
    kind: str,
    title: str,
    do: str,
    why: str,
    ratio: float,
    confidence: Level,
    risk: Level,
    risk_words: str,
    expected: str = "",
    patch: str = "",
) -> Action:
    key = line.key
    peaks = matchers(cluster=key.cluster, namespace=key.namespace, workload=key.workload)
    return Action(
        kind=kind,
        group="fit",
        title=title,
        place=key.place,
        do=do,
        why=why,
        confidence=confidence,
        risk=risk,
        risk_words=risk_words,
        claims=tuple(
            Claim(key, state, min(1.0, max(0.0, ratio))) for state in RUNNING if line.usd.get(state)
        ),
        evidence=(
            dollars(facts, of_workload(key), "|".join(RUNNING)),
            query(
                facts,
                "peak activity",
                f"quantile_over_time(0.99, workload:gpucost_activity:ratio{{{peaks}}}[$range])",
            ),
            query(
                facts,
                "peak memory of its fullest GPU, bytes",
                f"max_over_time(workload:gpucost_memory_peak_bytes:max{{{peaks}}}[$range])",
            ),
        ),
        expected=expected,
        patch=patch,
    )
