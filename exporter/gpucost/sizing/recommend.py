"""Which GPUs a model needs, how many, and what that costs: every offer tried, the best kept. Pure.

Nothing is rounded in anybody's favour: machines are paid whole, a replica's GPUs are of one
machine, and a MIG instance is priced as the part of its GPU that others cannot have. What is served
is in recommend_serving.py, what is trained in recommend_training.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from gpucost.sizing.offers import HOURS_PER_MONTH

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from gpucost.sizing.gpus import GpuSpeed
    from gpucost.sizing.inference import Served
    from gpucost.sizing.offers import Offer
    from gpucost.sizing.precision import Precision
    from gpucost.sizing.training import Trained


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


def on_every_model(
    gpus: Mapping[str, GpuSpeed],
    offered: Mapping[str, list[Offer]],
    way: Callable[[GpuSpeed, list[Offer]], Fit | LeftOut],
) -> tuple[list[Fit], list[LeftOut]]:
    """The way on each GPU model that has a price, or why there is none."""
    fits: list[Fit] = []
    left_out: list[LeftOut] = []
    for name, choices in offered.items():
        gpu = gpus.get(name)
        if gpu is None or not gpu.is_known:
            left_out.append(LeftOut(name, "its speed is not known"))
            continue
        found = way(gpu, choices)
        if isinstance(found, LeftOut):
            left_out.append(found)
        else:
            fits.append(found)
    return fits, left_out


def cost(*, by_token: bool) -> Callable[[Fit], tuple[float, float, str]]:
    """What is compared: a month where there is a demand, else what tokens cost at full load."""
    if by_token:
        return lambda fit: (fit.usd_per_million_tokens, fit.usd_per_hour, fit.gpu.name)
    return lambda fit: (fit.usd_per_hour, fit.usd_per_million_tokens, fit.gpu.name)


def arithmetic_notes(gpu: GpuSpeed, precision: Precision) -> Iterator[str]:
    """What is to be said of a GPU's arithmetic for weights of this form."""
    if precision.name == "bf16" and gpu.fp16_tflops and not gpu.bf16_tflops:
        yield "it has no bf16: fp16 is meant"
    if precision.rate == "fp8" and gpu.fp8_tflops is None:
        yield f"{precision.name} weights are computed in 16 bit here"
    if gpu.is_assumed:
        yield "its arithmetic is in no source: taken low"
