"""How fast one's own serving really is, against the estimate of it. Pure.

An hour of a workload says how many requests a replica had in flight and how many tokens came out;
the estimate of the same model on the same GPUs with as many in flight says how many should have.
The median of their ratio over hours, and over workloads, corrects other estimates.
"""

from __future__ import annotations

from collections import defaultdict
from statistics import median
from typing import TYPE_CHECKING

from msgspec import Struct

from gpucost.advice.histories import both
from gpucost.sizing.engines import engine_named
from gpucost.sizing.inference import Request, Service, divides, served
from gpucost.sizing.precision import PRECISIONS, Precision, published
from gpucost.sizing.recommend_serving import OTHERS
from gpucost.sizing.shapes import find_shape

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from gpucost.advice.histories import History
    from gpucost.sizing.engines import Engine
    from gpucost.sizing.gpus import GpuSpeed
    from gpucost.sizing.shapes import ModelShape

LEAST_HOURS = 6
LEAST_IN_FLIGHT = 0.1
"""Of a replica: below, an hour says more of its pauses than of its speed."""

BELIEVED = 5.0
"""No ratio is further off than this many times: then the model, its precision or the GPU is not
what the names say."""

_MARKS = (
    (("fp8", "w8a8-fp8"), "fp8"),
    (("fp4", "nvfp4", "mxfp4"), "fp4"),
    (("awq", "gptq", "int4", "w4a16", "4bit"), "int4"),
    (("int8", "w8a8", "w8a16"), "int8"),
)
"""What served names have of their weights' precision."""


class Measured(Struct, frozen=True):
    """A workload that was measured: `factor` is how many times as fast as estimated."""

    workload: str
    gpu_model: str
    served_model: str
    hours: int
    factor: float


class LeftOut(Struct, frozen=True):
    """A workload that says nothing, and why."""

    workload: str
    reason: str


class Calibration(Struct, frozen=True):
    """Factors by GPU model (`OTHERS` for those that were not measured), and what they are from."""

    factors: dict[str, float]
    measured: tuple[Measured, ...]
    left_out: tuple[LeftOut, ...]
    remarks: tuple[str, ...] = ()


def calibrated(
    found: Iterable[History],
    engine: Engine,
    shapes: Mapping[str, ModelShape],
    gpus: Mapping[str, GpuSpeed],
    gpu_id: Callable[[str], str],
) -> Calibration:
    """What the workloads of this engine say. `gpu_id` is a GPU's name in tables by NVML's."""
    measured: list[Measured] = []
    left_out: list[LeftOut] = []
    for history in found:
        if not (history.engine or history.served_model):
            continue  # serves nothing
        name = "/".join(filter(None, history.key))
        outcome = _one(history, engine, shapes, gpus, gpu_id(history.gpu_model))
        if isinstance(outcome, str):
            left_out.append(LeftOut(name, outcome))
        else:
            measured.append(outcome)
    by_gpu: dict[str, list[float]] = defaultdict(list)
    for it in measured:
        by_gpu[it.gpu_model].append(it.factor)
    factors = {model: median(values) for model, values in by_gpu.items()}
    if factors:
        factors[OTHERS] = median(factors.values())
    return Calibration(factors, tuple(measured), tuple(left_out))


def _one(
    history: History,
    engine: Engine,
    shapes: Mapping[str, ModelShape],
    gpus: Mapping[str, GpuSpeed],
    gpu_model: str,
) -> Measured | str:
    """What a workload says, or why it says nothing."""
    if engine_named(history.engine) != engine:
        return f"its engine is {history.engine or 'not known'}"
    shape, gpu = find_shape(history.served_model, shapes), gpus.get(gpu_model)
    if shape is None:
        return f"{history.served_model or 'its model'} is in no table of models"
    if gpu is None:
        return f"the speed of {history.gpu_model or 'its GPU'} is not known"
    ratios = []
    for hour in both(
        history.hours, "running", "replicas", "gpus", "requests_per_second", "input_per_second",
        "output_per_second",
    ):  # fmt: skip
        ratio = _ratio(hour, engine, shape, gpu, precision_of(history.served_model, shape))
        if ratio is not None:
            ratios.append(ratio)
    if len(ratios) < LEAST_HOURS:
        return f"only {len(ratios)} hours have all figures and enough to do on whole GPUs"
    factor = median(ratios)
    if not 1 / BELIEVED < factor < BELIEVED:
        return f"it is {factor:.2g} times as fast as estimated, so hardly what its names say"
    name = "/".join(filter(None, history.key))
    return Measured(name, gpu_model, history.served_model, len(ratios), factor)


def _ratio(
    hour: tuple[float, ...], engine: Engine, shape: ModelShape, gpu: GpuSpeed, kept: Precision
) -> float | None:
    """Tokens that came out of a replica, of those estimated for as many requests in flight."""
    running, replicas, gpus, requests, taken_in, given_out = hour
    if not replicas or not requests or not given_out:
        return None
    parts, in_flight = round(gpus / replicas), running / replicas
    whole = parts >= 1 and abs(gpus / replicas - parts) < 0.1 * parts
    if not whole or in_flight < LEAST_IN_FLIGHT or not divides(shape, parts):
        return None
    service = Service(shape, kept, gpu, engine, parts)
    estimate = served(service, Request(taken_in / requests, given_out / requests), in_flight)
    if estimate is None:
        return None
    return given_out / replicas / estimate.output_tokens_per_second


def precision_of(served_model: str, shape: ModelShape) -> Precision:
    """What a served name says of its weights, else what the model is published in, or 16 bit."""
    name = served_model.casefold()
    for marks, precision in _MARKS:
        if any(mark in name for mark in marks):
            return PRECISIONS[precision]
    return published(shape)
