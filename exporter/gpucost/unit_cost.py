"""What a request and a token cost: a pod's dollars over its work, in a trailing window. Pure.

The dollars are all that the pod was charged, idle time and all: this is what the work cost, not
what it could. So the figure falls when more is asked and rises when less is, and there is none
where nothing was asked.
"""

from __future__ import annotations

from math import fsum
from typing import TYPE_CHECKING

from msgspec.structs import replace

from gpucost.model import OUTCOMES, Count, Part, ServedPod, UnitCost, WorkSample

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gpucost.model import EngineReading, Ledger, ModelReading, Service, Snapshot, Usage
    from gpucost.serving import Counted, PodKey

MIN_WINDOW_SECONDS = 45.0
"""Over less, one long request more or less is the whole figure."""

MAX_SAMPLES = 60
"""Of a window; it is the two ends that count."""

SOME = 1e-6
"""Less than this of anything is none: what is left when floats are taken from each other."""

_HOUR = 3600.0
_MILLION = 1e6

Work = dict[Count, float]


def served(
    before: Mapping[PodKey, ServedPod],
    ledger: Ledger,
    snapshot: Snapshot,
    usages: Sequence[Usage],
    counted: Counted,
    window_seconds: float,
) -> Mapping[PodKey, ServedPod]:
    """The pods that answer, each with its window moved on if it has a new reading.

    One that falls silent keeps its window and shows nothing. The same mapping where nothing is
    new.
    """
    answering = {key for key, pod in before.items() if pod.models}
    if not counted.models and answering == snapshot.engines.keys():
        return before
    after: dict[PodKey, ServedPod] = {
        key: replace(pod, models=(), costs=())
        for key, pod in before.items()
        if key not in snapshot.engines and key in (snapshot.pods or {})
    }
    for key, reading in snapshot.engines.items():
        known = before.get(key)
        models = counted.models.get(key)
        if models is None:
            if known is not None and known.reading is reading:
                after[key] = known
            continue
        sample = _sample(key, reading, models, ledger, snapshot, usages)
        samples = moved_on(() if known is None else known.samples, sample, window_seconds)
        if ledger.gap is not None:
            samples = ()  # what is still to be charged is no part of this work
        pod = (snapshot.pods or {}).get(key)
        part = Part.ALONE if pod is None or pod.serving is None else pod.serving.part
        after[key] = ServedPod(reading, part, models, samples, unit_costs(models, samples, part))
    return after


def _sample(
    key: PodKey,
    reading: EngineReading,
    models: Sequence[tuple[Service, ModelReading]],
    ledger: Ledger,
    snapshot: Snapshot,
    usages: Sequence[Usage],
) -> WorkSample:
    """A pod's work as its page said it, with its cost at that moment.

    The ledger is charged up to the snapshot: what was spent since the page was read is taken off.
    """
    usd = _spent(key, ledger)
    if usd is not None:
        rate = fsum(
            rate.usd_per_second or 0.0
            for usage in usages
            if (usage.paid_by.holder.namespace, usage.paid_by.holder.pod) == key
            for rate in usage.rates
        )
        usd -= rate * max(0.0, snapshot.clock_seconds - reading.read_at)
    accounts = ((service, ledger.work.get(service)) for service, _ in models)
    return WorkSample(
        at=reading.read_at,
        usd=usd,
        counts={service: it.counts for service, it in accounts if it is not None},
    )


def _spent(key: PodKey, ledger: Ledger) -> float | None:
    """What a pod has been charged so far; None where it never had a price."""
    accounts = [
        it.account
        for payer, it in ledger.pods.items()
        if (payer.holder.namespace, payer.holder.pod) == key
    ]
    known = [account.usd for account in accounts if account.usd is not None]
    return fsum(value for usd in known for value in usd.values()) if known else None


def moved_on(
    samples: tuple[WorkSample, ...], sample: WorkSample, window_seconds: float
) -> tuple[WorkSample, ...]:
    """The window with one more sample: from the last before its beginning to the newest.

    It begins anew where the dollars fell (accounts of the pod have ended), and after a silence
    as long as itself.
    """
    if samples and (
        _fell(samples[-1].usd, sample.usd) or sample.at - samples[-1].at > window_seconds
    ):
        return (sample,)
    kept = list(samples)
    if len(kept) > 1 and kept[-1].at - kept[-2].at < window_seconds / MAX_SAMPLES:
        kept.pop()
    kept.append(sample)
    begins = sample.at - window_seconds
    first = max((i for i, it in enumerate(kept) if it.at <= begins), default=0)
    return tuple(kept[first:])


def _fell(before: float | None, after: float | None) -> bool:
    return before is not None and (after is None or after < before - 1e-9)


def unit_costs(
    models: Sequence[tuple[Service, ModelReading]], samples: Sequence[WorkSample], part: Part
) -> tuple[UnitCost, ...]:
    """What each service's work cost from the first of the samples to the last.

    The shares of a pod's services sum to 1. A pod that is a part of several has no cost of its
    own work: its cost is not that of what it counts.
    """
    if part is Part.HELPER:
        return tuple(UnitCost(service, batch=model.batch) for service, model in models)
    first = samples[0] if samples else None
    last = samples[-1] if samples else None
    seconds = 0.0 if first is None or last is None else last.at - first.at
    done = {service: _done(service, first, last) for service, _ in models}
    if seconds < MIN_WINDOW_SECONDS:
        done = {service: {} for service in done}
    usd = None
    if first is not None and last is not None and None not in (first.usd, last.usd):
        usd = (last.usd or 0.0) - (first.usd or 0.0)
    split, shares = shares_of(done)
    costs = []
    for service, model in models:
        own, share = done[service], shares.get(service)
        cost = None
        if part is Part.ALONE and usd is not None and usd > 0 and share is not None:
            cost = usd * share
        costs.append(_unit_cost(service, model, own, cost, share, split, seconds))
    return tuple(costs)


def _done(service: Service, first: WorkSample | None, last: WorkSample | None) -> Work:
    """What a service did between two samples; what the first does not know began after it."""
    if first is None or last is None:
        return {}
    before = first.counts.get(service, {})
    since = {
        count: value - before.get(count, 0.0)
        for count, value in last.counts.get(service, {}).items()
    }
    return {count: value if value >= SOME else 0.0 for count, value in since.items()}


def shares_of(done: Mapping[Service, Work]) -> tuple[str, Mapping[Service, float]]:
    """How a pod's cost is split among what it serves, and the shares.

    By the first of compute time, tokens and requests that all who worked have; no shares where
    nobody did. What alone is served has all of it, asked or not.
    """
    if len(done) == 1:
        return "whole", dict.fromkeys(done, 1.0)
    workers = [service for service, work in done.items() if _worked(work)]
    for split, weigh in (
        ("compute_time", _compute_seconds),
        ("tokens", _tokens),
        ("requests", _requests),
    ):
        weights = {service: weigh(done[service]) for service in workers}
        if workers and all(weights.values()):
            total = fsum(weight or 0.0 for weight in weights.values())
            return split, {service: (weights.get(service) or 0.0) / total for service in done}
    return "", {}


def _worked(work: Work) -> bool:
    return any(work.get(it, 0.0) > 0 for it in (*OUTCOMES, Count.INPUT, Count.OUTPUT))


def _compute_seconds(work: Work) -> float | None:
    if Count.PREFILL_SECONDS in work and Count.DECODE_SECONDS in work:
        return work[Count.PREFILL_SECONDS] + work[Count.DECODE_SECONDS]
    return work.get(Count.COMPUTE_SECONDS)


def _tokens(work: Work) -> float:
    return work.get(Count.INPUT, 0.0) + work.get(Count.OUTPUT, 0.0)


def _requests(work: Work) -> float:
    return fsum(work.get(outcome, 0.0) for outcome in OUTCOMES)


def _unit_cost(
    service: Service,
    model: ModelReading,
    work: Work,
    usd: float | None,
    share: float | None,
    split: str,
    seconds: float,
) -> UnitCost:
    batch = model.batch
    if batch is None and work.get(Count.BATCHES, 0.0) > 0:
        batch = work.get(Count.BATCHED, 0.0) / work[Count.BATCHES]
    requests = work.get(Count.SUCCESS, 0.0)
    method, per_input, per_output = ("", None, None) if usd is None else _per_token(work, usd)
    cached = work.get(Count.CACHED)
    saved = None
    if per_input is not None and cached is not None:
        saved = cached * per_input / seconds * _HOUR
    return UnitCost(
        service=service,
        share=share,
        split=split,
        usd_per_request=usd / requests if usd is not None and requests > 0 else None,
        method=method,
        usd_per_million_input=None if per_input is None else per_input * _MILLION,
        usd_per_million_output=None if per_output is None else per_output * _MILLION,
        cache_savings_usd_per_hour=saved,
        batch=batch,
    )


def _per_token(work: Work, usd: float) -> tuple[str, float | None, float | None]:
    """USD per computed input token and per output token: what both make is all of the cost.

    By the time that requests spent in prefill and in decode, where the engine has both and
    tokens for each; else a token is a token.
    """
    taken, made = work.get(Count.INPUT, 0.0), work.get(Count.OUTPUT, 0.0)
    prefill, decode = work.get(Count.PREFILL_SECONDS), work.get(Count.DECODE_SECONDS)
    if prefill is not None and decode is not None and taken > 0 and made > 0 and prefill > 0:
        per_second = usd / (prefill + decode)
        if decode > 0:
            return "prefill_decode_time", prefill * per_second / taken, decode * per_second / made
    if taken + made <= 0:
        return "", None, None
    each = usd / (taken + made)
    return "tokens", each if taken > 0 else None, each if made > 0 else None
