"""Which GPUs a model needs, how many, and what that costs: every offer tried, the best kept. Pure.

Nothing is rounded in anybody's favour: machines are paid whole, a replica's GPUs are of one
machine, and a MIG instance is priced as the part of its GPU that others cannot have.
"""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

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
from gpucost.sizing.offers import HOURS_PER_MONTH
from gpucost.sizing.precision import is_native
from gpucost.sizing.training import (
    BETWEEN_NODES_GB_S,
    Job,
    Trained,
    Trainer,
    trained,
    training_memory,
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

MOST_NODES = 64

OTHERS = "*"
"""Stands for the GPU models that were not measured."""

_MOST_SEQUENCES = 64
"""At a time through a GPU: beyond, nothing gets faster."""

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


class Fit(Struct, frozen=True):
    """A way to serve it, or to train it: so many replicas on so many machines.

    `limit` is what keeps it from being cheaper. Tokens are prompts and answers together; `demand`
    are the tokens a second that are paid for: what was asked for, or all that it can do.
    """

    gpu: GpuSpeed
    offer: Offer
    tensor_parallel: int
    replicas: int
    nodes: float
    usd_per_hour: float
    tokens_per_second: float
    demand_tokens_per_second: float
    limit: str
    work: Served | Trained
    memory_gib: float
    memory_parts_gib: Mapping[str, float]
    notes: tuple[str, ...] = ()
    micro_sequences: int = 0

    @property
    def memory_used_gib(self) -> float:
        """Of a replica at the demand, or of a GPU in training."""
        return sum(self.memory_parts_gib.values())

    @property
    def gpus(self) -> float:
        """How many are paid for; a part of one under MIG."""
        return self.nodes * self.offer.gpus

    @property
    def usd_per_month(self) -> float:
        """At list price, all month."""
        return self.usd_per_hour * HOURS_PER_MONTH

    @property
    def usd_per_million_tokens(self) -> float:
        """Of what is asked for, or of all that it can do."""
        return self.usd_per_hour / 3600 / self.demand_tokens_per_second * 1e6


class LeftOut(Struct, frozen=True):
    """A GPU that cannot do it, and why: for what (memory, latency, ...), and the figures."""

    gpu: str
    what: str
    detail: str = ""


class Recommended(Struct, frozen=True):
    """What can do it, the best first; MIG instances apart, since others must fill the rest."""

    fits: tuple[Fit, ...]
    left_out: tuple[LeftOut, ...]
    shared: tuple[Fit, ...] = ()


def recommend_serving(
    ask: Ask,
    gpus: Mapping[str, GpuSpeed],
    offered: Mapping[str, list[Offer]],
    *,
    mig: bool = True,
) -> Recommended:
    """The cheapest way on each GPU model, and on each MIG profile that is large enough."""
    fits: list[Fit] = []
    shared: list[Fit] = []
    left_out: list[LeftOut] = []
    for name, choices in offered.items():
        gpu = gpus.get(name)
        if gpu is None or gpu.half_tflops is None or gpu.bandwidth_gb_s is None:
            left_out.append(LeftOut(name, "its speed is not known"))
            continue
        found = _on_model(ask, gpu, choices)
        if isinstance(found, LeftOut):
            left_out.append(found)
        else:
            fits.append(found)
        if mig and ask.tensor_parallel in (None, 1):
            shared += _on_instances(ask, gpu, choices)
    order = _cost(by_token=ask.is_open)
    return Recommended(
        tuple(sorted(fits, key=order)), tuple(left_out), tuple(sorted(shared, key=order))
    )


def _cost(*, by_token: bool) -> Callable[[Fit], tuple[float, float, str]]:
    """What is compared: a month where there is a demand, else what tokens cost at full load."""
    if by_token:
        return lambda fit: (fit.usd_per_million_tokens, fit.usd_per_hour, fit.gpu.name)
    return lambda fit: (fit.usd_per_hour, fit.usd_per_million_tokens, fit.gpu.name)


# --- Serving ------------------------------------------------------------------------------------


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
    return min(fits, key=_cost(by_token=ask.is_open)) if fits else out


def _on_instances(ask: Ask, gpu: GpuSpeed, choices: list[Offer]) -> Iterator[Fit]:
    """The smallest MIG profile that does it, on the GPU that costs least."""
    offer = min(choices, key=lambda it: it.usd_per_gpu_hour)
    fits = []
    for part in instances(gpu):
        replica = _replica(ask, part, 1)
        if isinstance(replica, _Replica):
            fits.append(_plan(ask, replica, offer))
    if fits:
        yield min(fits, key=_cost(by_token=ask.is_open))


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
    if not is_native(gpu, ask.precision):
        yield f"{ask.precision.name} weights are computed in 16 bit here"
    if gpu.is_assumed:
        yield "its arithmetic is in no source: taken low"
    if service.tensor_parallel > 1 and not gpu.nvlink_gb_s:
        yield "without NVLink, or none is known: PCIe between GPUs"
    few = service.tensor_parallel > ask.model.kv_heads and not ask.model.kv_rank
    if few:
        yield f"more GPUs than the {ask.model.kv_heads} key heads: keys are kept more than once"


# --- Training -----------------------------------------------------------------------------------


class TrainingAsk(Struct, frozen=True):
    """What is to be trained: so many tokens, within so many days, or as cheaply as can be."""

    job: Job
    trainer: Trainer
    tokens: float | None = None
    days: float | None = None
    sequences: int | None = None


def recommend_training(
    ask: TrainingAsk, gpus: Mapping[str, GpuSpeed], offered: Mapping[str, list[Offer]]
) -> Recommended:
    """The cheapest machines of each GPU model that hold it, and are done in time."""
    fits: list[Fit] = []
    left_out: list[LeftOut] = []
    for name, choices in offered.items():
        gpu = gpus.get(name)
        if gpu is None or gpu.half_tflops is None or gpu.bandwidth_gb_s is None:
            left_out.append(LeftOut(name, "its speed is not known"))
            continue
        found = [fit for offer in choices for fit in _on_machines(ask, gpu, offer)]
        if found:
            fits.append(min(found, key=_cost(by_token=True)))
        else:
            left_out.append(_why_not(ask, gpu, choices))
    return Recommended(tuple(sorted(fits, key=_cost(by_token=True))), tuple(left_out))


def _on_machines(ask: TrainingAsk, gpu: GpuSpeed, offer: Offer) -> Iterator[Fit]:
    """The fewest of these machines that do it, machines doubling."""
    nodes = 1
    while nodes <= MOST_NODES:
        fit = _training_fit(ask, gpu, offer, nodes)
        if fit is not None:
            yield fit
            return
        nodes *= 2


def _training_fit(ask: TrainingAsk, gpu: GpuSpeed, offer: Offer, nodes: int) -> Fit | None:
    gpus = nodes * offer.gpus
    most = _MOST_SEQUENCES if ask.sequences is None else ask.sequences // gpus
    job = _fullest(ask.job, gpu, gpus, most)
    work = None if job is None else trained(job, ask.trainer, gpu, gpus, offer.gpus)
    if job is None or work is None:
        return None
    tokens = work.tokens_per_second * gpus
    if ask.tokens is not None and ask.days is not None and ask.tokens / tokens > ask.days * 86_400:
        return None
    held = training_memory(job, gpu, gpus)
    return Fit(
        gpu,
        offer,
        1,
        gpus,
        float(nodes),
        nodes * offer.usd_per_hour,
        tokens,
        tokens,
        work.limit,
        work,
        held.room / GIB,
        {
            "weights_and_states": held.weights_and_states / GIB,
            "activations": held.activations / GIB,
        },
        tuple(_training_notes(ask, gpu, offer, nodes)),
        job.micro_sequences,
    )


def _fullest(job: Job, gpu: GpuSpeed, gpus: int, most: int) -> Job | None:
    """As many sequences at a time as a GPU holds; None if not one, or if there is none for it."""
    found = None
    sequences = 1
    while sequences <= most:
        tried = replace(job, micro_sequences=sequences)
        if not training_memory(tried, gpu, gpus).fits:
            break
        found, sequences = tried, sequences * 2
    return found


def _training_notes(ask: TrainingAsk, gpu: GpuSpeed, offer: Offer, nodes: int) -> Iterator[str]:
    if gpu.is_assumed:
        yield "its arithmetic is in no source: taken low"
    if not is_native(gpu, ask.job.precision):
        yield f"{ask.job.precision.name} is computed in 16 bit here"
    if not ask.trainer.gathers:
        return
    if offer.gpus > 1 and not gpu.nvlink_gb_s:
        yield "without NVLink, or none is known: PCIe between GPUs"
    if nodes > 1:
        yield f"{BETWEEN_NODES_GB_S:g} GB/s for each GPU between machines is taken for granted"


def _why_not(ask: TrainingAsk, gpu: GpuSpeed, choices: list[Offer]) -> LeftOut:
    gpus = max(offer.gpus for offer in choices) * MOST_NODES
    if ask.sequences is not None:
        gpus = min(gpus, ask.sequences)
    held = training_memory(replace(ask.job, micro_sequences=1), gpu, gpus)
    if not held.fits:
        need = (held.weights_and_states + held.activations) / GIB
        detail = f"{need:.0f} GiB on each of {gpus}, which have {held.room / GIB:.0f}"
        return LeftOut(gpu.name, "memory", detail)
    if ask.days is not None:
        return LeftOut(gpu.name, f"not done in {ask.days:g} days")
    return LeftOut(gpu.name, "no machine", "holds it")
