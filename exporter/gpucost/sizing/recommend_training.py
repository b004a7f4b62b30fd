"""Machines to train a model with: the fewest that hold it and are done in time. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from gpucost.sizing.gpus import GIB
from gpucost.sizing.recommend import (
    Fit,
    LeftOut,
    Recommended,
    arithmetic_notes,
    cost,
    on_every_model,
)
from gpucost.sizing.training import (
    Job,
    Trainer,
    between_machines_gb_s,
    trained,
    training_memory,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from gpucost.sizing.gpus import GpuSpeed
    from gpucost.sizing.offers import Offer

MOST_NODES = 64

_MOST_SEQUENCES = 64
"""At a time through a GPU: beyond, nothing gets faster."""


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

    def way(gpu: GpuSpeed, choices: list[Offer]) -> Fit | LeftOut:
        found = [fit for offer in choices for fit in _on_machines(ask, gpu, offer)]
        if found:
            return min(found, key=cost(by_token=True))
        return _why_not(ask, gpu, choices)

    fits, left_out = on_every_model(gpus, offered, way)
    return Recommended(tuple(sorted(fits, key=cost(by_token=True))), tuple(left_out))


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
    yield from arithmetic_notes(gpu, ask.job.precision)
    if not ask.trainer.gathers:
        return
    if offer.gpus > 1 and not gpu.nvlink_gb_s:
        yield "without NVLink, or none is known: PCIe between GPUs"
    if nodes > 1:
        link = between_machines_gb_s(gpu, offer.gpus)
        yield f"{link:g} GB/s for each GPU between machines is taken for granted"


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
