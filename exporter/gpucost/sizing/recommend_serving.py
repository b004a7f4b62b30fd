"""Machines to serve a model with: replicas at their best, as many as are asked for. Pure."""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING

from msgspec import Struct

from gpucost.sizing.gpus import GIB, instances
from gpucost.sizing.inference import (
    Request,
    Served,
    Service,
    divides,
    memory,
    most_in_flight,
    served,
)
from gpucost.sizing.recommend import (
    Fit,
    LeftOut,
    Recommended,
    arithmetic_notes,
    cost,
    on_every_model,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from gpucost.sizing.engines import Engine
    from gpucost.sizing.gpus import GpuSpeed
    from gpucost.sizing.offers import Offer
    from gpucost.sizing.precision import Precision
    from gpucost.sizing.shapes import ModelShape

HEADROOM = 0.8
"""The part of a replica's best rate that it is given: arrivals come in bursts."""

OTHERS = "*"
"""Stands for the GPU models that were not measured."""

_PARTS = (1, 2, 4, 8, 16)


class Ask(Struct, frozen=True):
    """What is to be served. None is not asked for.

    `context_tokens` must fit, whatever the mean request has. Without a rate and without requests
    in flight, what a full machine serves is shown.
    """

    model: ModelShape
    precision: Precision
    engine: Engine
    request: Request
    context_tokens: float
    requests_per_second: float | None = None
    in_flight: float | None = None
    first_token_seconds: float | None = None
    between_tokens_seconds: float | None = None
    headroom: float = HEADROOM
    tensor_parallel: int | None = None
    factors: Mapping[str, float] = {}
    """How much faster than estimated one's own work was measured to be, by GPU model or OTHERS."""

    @property
    def is_open(self) -> bool:
        """Whether no demand is given: then tokens are compared, not months."""
        return self.requests_per_second is None and self.in_flight is None


def recommend_serving(
    ask: Ask,
    gpus: Mapping[str, GpuSpeed],
    offered: Mapping[str, list[Offer]],
    *,
    mig: bool = True,
) -> Recommended:
    """The cheapest way on each GPU model, and on each MIG profile that is large enough."""
    shared: list[Fit] = []

    def way(gpu: GpuSpeed, choices: list[Offer]) -> Fit | LeftOut:
        if mig and ask.tensor_parallel in (None, 1):
            shared.extend(_on_instances(ask, gpu, choices))
        return _on_model(ask, gpu, choices)

    fits, left_out = on_every_model(gpus, offered, way)
    order = cost(by_token=ask.is_open)
    return Recommended(
        tuple(sorted(fits, key=order)), tuple(left_out), tuple(sorted(shared, key=order))
    )


class _Replica(Struct, frozen=True):
    """A replica at its best: as many requests in flight as memory, engine and targets allow."""

    service: Service
    best: Served
    limit: str


def _on_model(ask: Ask, gpu: GpuSpeed, choices: list[Offer]) -> Fit | LeftOut:
    """The cheapest way on whole GPUs, or why there is none."""
    most = max(offer.gpus for offer in choices)
    out = LeftOut(gpu.name, "no machine", f"with {ask.tensor_parallel} of them")
    fits: list[Fit] = []
    for parts in _PARTS if ask.tensor_parallel is None else (ask.tensor_parallel,):
        if parts > most:
            break
        if not divides(ask.model, parts):
            out = LeftOut(gpu.name, "heads", f"{ask.model.heads} do not divide by {parts}")
            continue
        replica = _replica(ask, gpu, parts)
        if isinstance(replica, LeftOut):
            out = replica
            continue
        fits += [_plan(ask, replica, offer) for offer in choices if offer.gpus >= parts]
    return min(fits, key=cost(by_token=ask.is_open)) if fits else out


def _on_instances(ask: Ask, gpu: GpuSpeed, choices: list[Offer]) -> Iterator[Fit]:
    """The smallest MIG profile that does it, on the GPU that costs least."""
    offer = min(choices, key=lambda it: it.usd_per_gpu_hour)
    fits = []
    for part in instances(gpu):
        replica = _replica(ask, part, 1)
        if isinstance(replica, _Replica):
            fits.append(_plan(ask, replica, offer))
    if fits:
        yield min(fits, key=cost(by_token=ask.is_open))


def _replica(ask: Ask, gpu: GpuSpeed, parts: int) -> _Replica | LeftOut:
    """A replica at its best, or why it cannot be."""
    factor = ask.factors.get(gpu.gpu_model, ask.factors.get(OTHERS, 1.0))
    service = Service(ask.model, ask.precision, gpu, ask.engine.times(factor), parts)
    longest = memory(service, Request(ask.context_tokens, 0.0))
    if longest.requests < 1:
        have = (longest.room + longest.weights) / GIB
        need = (longest.weights + longest.kv_per_request) / GIB
        return LeftOut(gpu.name, "memory", f"{parts} have {have:.0f} of {need:.0f} GiB")
    most = max(1.0, most_in_flight(service, ask.request))
    full = most < service.engine.max_batch

    def missed(batch: float) -> str:
        return _missed_target(ask, _served(service, ask.request, batch))

    if miss := missed(1.0):
        return LeftOut(gpu.name, "latency", miss)
    batch, limit = most, "memory" if full else "batch"
    if missed(most):
        batch, limit = _largest(1.0, most, lambda it: not missed(it)), "latency"
    best = _served(service, ask.request, batch)
    return _Replica(service, best, best.step.limit if limit == "batch" else limit)


def _served(service: Service, request: Request, batch: float) -> Served:
    done = served(service, request, batch)
    if done is None:
        raise ValueError(f"{service.gpu.name}: its speed is not known")
    return done


def _missed_target(ask: Ask, done: Served) -> str:
    """Which target this misses; empty if none."""
    first, between = ask.first_token_seconds, ask.between_tokens_seconds
    if first is not None and done.first_token_seconds > first:
        return f"first token after {done.first_token_seconds * 1e3:.0f} ms"
    if between is not None and done.between_tokens_seconds > between:
        return f"{done.between_tokens_seconds * 1e3:.0f} ms between tokens"
    return ""


def _largest(low: float, high: float, good: Callable[[float], bool]) -> float:
    """The largest batch that is good, between one that is and one that is not."""
    while high - low > max(0.01, low * 1e-3):
        middle = (low + high) / 2
        if good(middle):
            low = middle
        else:
            high = middle
    return low


def _plan(ask: Ask, replica: _Replica, offer: Offer) -> Fit:
    """So many of these replicas as are asked for, on so many of these machines."""
    service, best = replica.service, replica.best
    gpu, parts = service.gpu, service.tensor_parallel
    each = offer.gpus // parts
    limit = replica.limit
    if ask.requests_per_second is not None:
        exact = ask.requests_per_second / (best.requests_per_second * ask.headroom)
        replicas = max(1, ceil(exact - 1e-9))
        rate = ask.requests_per_second / replicas
        in_flight = _in_flight(service, ask.request, rate, best)
    elif ask.in_flight is not None:
        replicas = max(1, ceil(ask.in_flight / best.batch - 1e-9))
        in_flight = ask.in_flight / replicas
    else:
        replicas, in_flight = each, best.batch
    done = _served(service, ask.request, max(1.0, in_flight))
    if replicas == 1 and in_flight < best.batch / 2:
        limit = "demand"
    per_request = ask.request.input_tokens + ask.request.output_tokens
    # What is shared is paid by the part that others cannot have, else machines are whole.
    nodes = replicas * gpu.share / offer.gpus if gpu.profile else float(ceil(replicas / each))
    tokens = best.requests_per_second * replicas * per_request
    if ask.requests_per_second is not None:
        demand = ask.requests_per_second * per_request
    else:
        demand = done.requests_per_second * replicas * per_request
    held = memory(service, ask.request)
    return Fit(
        gpu,
        offer,
        parts,
        replicas,
        nodes,
        nodes * offer.usd_per_hour,
        tokens,
        demand,
        limit,
        done,
        (held.room + held.weights) / GIB,
        {
            "weights": held.weights / GIB,
            "keys_and_values": done.batch * held.kv_per_request / GIB,
        },
        tuple(_notes(ask, service)),
    )


def _in_flight(service: Service, request: Request, rate: float, best: Served) -> float:
    """Requests in flight at a rate that a replica can do (Little: rate times time)."""
    if best.requests_per_second <= rate:
        return best.batch
    return _largest(
        0.0,
        best.batch,
        lambda it: it == 0.0 or _served(service, request, it).requests_per_second < rate,
    )


def _notes(ask: Ask, service: Service) -> Iterator[str]:
    gpu = service.gpu
    if gpu.profile:
        yield "the rest of the GPU must find other work"
    yield from arithmetic_notes(gpu, ask.precision)
    if service.tensor_parallel > 1 and not gpu.nvlink_gb_s:
        yield "without NVLink, or none is known: PCIe between GPUs"
    few = service.tensor_parallel > ask.model.kv_heads and not ask.model.kv_rank
    if few:
        yield f"more GPUs than the {ask.model.kv_heads} key heads: keys are kept more than once"
