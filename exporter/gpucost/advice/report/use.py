"""What the dollars did: how busy and how full the GPUs were, and what was served."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from msgspec.structs import replace

from gpucost.advice.report import questions as ask
from gpucost.advice.report.asking import labels
from gpucost.advice.report.facts import Service
from gpucost.advice.report.questions import KEY

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gpucost.advice.report.asking import Asker
    from gpucost.advice.report.facts import Line

_WORKLOAD = "cluster, namespace, workload"
_LITTLE_BUSY = 0.1
"""Of the mean hour's tokens: an hour with fewer says nothing of a service's best."""


def told(asker: Asker, lines: Sequence[Line]) -> list[Line]:
    """The lines with GPUs, peaks and wishes."""
    within = {"range": asker.range_words}
    gpus = {labels(it, KEY): it.value for it in asker.at(ask.GPUS, **within)}
    peak = {labels(it, _WORKLOAD): it.value for it in asker.at(ask.PEAK, **within)}
    memory = {
        labels(it, f"{_WORKLOAD}, gpu_model"): it.value for it in asker.at(ask.MEMORY, **within)
    }
    exempt = {labels(it, _WORKLOAD) for it in asker.at(ask.EXEMPT)}
    found = []
    for line in lines:
        key = line.key
        workload = (key.cluster, key.namespace, key.workload)
        found.append(
            replace(
                line,
                gpus=gpus.get(tuple(getattr(key, name) for name in KEY.split(", "))),
                peak_activity=peak.get(workload),
                memory_peak_bytes=memory.get((*workload, key.gpu_model)),
                idle_is_wanted=workload in exempt,
            )
        )
    return found


def peaks(lines: Sequence[Line]) -> dict[tuple[str, ...], dict[str, float]]:
    """Bytes of the fullest GPU of each workload, by GPU model, where they are known."""
    found: defaultdict[tuple[str, ...], dict[str, float]] = defaultdict(dict)
    for line in lines:
        if line.memory_peak_bytes is not None:
            key = line.key
            workload = (key.cluster, key.namespace, key.workload)
            found[workload][key.gpu_model] = line.memory_peak_bytes
    return dict(found)


def services(asker: Asker, lines: Sequence[Line], weight: float) -> tuple[Service, ...]:
    """What each workload served. `weight` are the seconds that a sample stands for."""
    within = {"range": asker.range_words}
    usd: defaultdict[tuple[str, ...], float] = defaultdict(float)
    for line in lines:
        usd[line.key.cluster, line.key.namespace, line.key.workload] += line.total_usd
    engines: defaultdict[tuple[str, ...], set[tuple[str, str]]] = defaultdict(set)
    for row in asker.at(ask.SERVED, **within):
        engine = row.labels.get("engine", ""), row.labels.get("served_model", "")
        engines[labels(row, _WORKLOAD)].add(engine)
    if not engines:
        return ()
    requests = {labels(it, _WORKLOAD): it.value * weight for it in asker.at(ask.REQUESTS, **within)}
    tokens, hits = _tokens(asker, weight)
    batches = _batches(asker)
    found = []
    for workload, served in sorted(engines.items()):
        mean, best = batches.get(workload, (None, None))
        mine = tokens.get(workload, {})
        found.append(
            Service(
                cluster=workload[0],
                namespace=workload[1],
                workload=workload[2],
                served_models=tuple(sorted({model for _, model in served if model})),
                engines=tuple(sorted({engine for engine, _ in served if engine})),
                usd=usd.get(workload, 0.0),
                requests=requests.get(workload),
                tokens=mine.get("input", 0.0) + mine.get("output", 0.0) if mine else None,
                input_tokens=mine.get("input"),
                cached_tokens=mine.get("cached_input"),
                best_hit_ratio=hits.get(workload),
                batch=mean,
                best_batch=best,
            )
        )
    return tuple(found)


def _tokens(
    asker: Asker, weight: float
) -> tuple[dict[tuple[str, ...], dict[str, float]], dict[tuple[str, ...], float]]:
    """Tokens by workload and direction, and the hit ratio of each workload's best hour."""
    hourly: defaultdict[tuple[str, ...], dict[float, dict[str, float]]] = defaultdict(dict)
    for rows in asker.hourly(ask.TOKENS, "tokens"):
        for row in rows:
            mine = hourly[labels(row, _WORKLOAD)]
            direction = row.labels.get("direction", "")
            for at, value in row.points:
                mine.setdefault(at, {})[direction] = value * weight
    totals, best = {}, {}
    for workload, hours in hourly.items():
        total: defaultdict[str, float] = defaultdict(float)
        for states in hours.values():
            for direction, count in states.items():
                total[direction] += count
        totals[workload] = dict(total)
        prompt = (total["input"] + total["cached_input"]) / len(hours)
        ratios = [
            it["cached_input"] / asked_for
            for it in hours.values()
            if "cached_input" in it
            and (asked_for := it.get("input", 0.0) + it["cached_input"]) > _LITTLE_BUSY * prompt
        ]
        if ratios:
            best[workload] = max(ratios)
    return totals, best


def _batches(asker: Asker) -> dict[tuple[str, ...], tuple[float, float]]:
    """Mean batch of each workload, and that of its best hour."""
    hourly: defaultdict[tuple[str, ...], list[float]] = defaultdict(list)
    for rows in asker.hourly(ask.BATCH, "batches"):
        for row in rows:
            hourly[labels(row, _WORKLOAD)] += [value for _, value in row.points if value > 0]
    return {it: (sum(sizes) / len(sizes), max(sizes)) for it, sizes in hourly.items() if sizes}
