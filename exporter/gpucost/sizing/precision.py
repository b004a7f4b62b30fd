"""The forms that weights are kept in, and the rate that a GPU computes them at. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from msgspec import Struct

if TYPE_CHECKING:
    from gpucost.sizing.gpus import GpuSpeed
    from gpucost.sizing.shapes import ModelShape

Rate = Literal["single", "half", "fp8", "int8"]
PrecisionName = Literal["fp32", "bf16", "fp16", "fp8", "int8", "fp4", "int4", "q4_k_m"]


class Precision(Struct, frozen=True):
    """A form of weights: bytes a parameter, the arithmetic it allows, and what it is in words.

    `rate` is the fastest arithmetic; a GPU without it turns weights into 16 bits as it goes.
    """

    name: PrecisionName
    weight_bytes: float
    rate: Rate
    text: str


PRECISIONS: dict[str, Precision] = {
    it.name: it
    for it in (
        Precision("fp32", 4.0, "single", "32 bit, as TF32: half the 16-bit rate"),
        Precision("bf16", 2.0, "half", "16 bit"),
        Precision("fp16", 2.0, "half", "16 bit"),
        Precision("fp8", 1.0, "fp8", "8-bit float"),
        Precision("int8", 1.0, "int8", "8-bit integer"),
        # 4 bits and an 8-bit scale of every 16 values (NVFP4), computed at least at the FP8 rate:
        # no table here has a rate of its own for it.
        Precision("fp4", 4.5 / 8, "fp8", "4-bit float, computed as FP8 where that exists"),
        # 4 bits and a 16-bit scale and zero of every 64 values, or like that (GPTQ, AWQ, NF4).
        Precision("int4", 4.5 / 8, "half", "4-bit weights, computed in 16 bit"),
        # llama.cpp's mix of 4- and 6-bit blocks comes to 4.85 bits.
        Precision("q4_k_m", 4.85 / 8, "half", "llama.cpp's Q4_K_M, computed in 16 bit"),
    )
}

HALF_BYTES = 2.0


def published(model: ModelShape) -> Precision:
    """What its weights are published in; 16 bit where that is not said."""
    return PRECISIONS[model.precision or "bf16"]


def tera_per_second(gpu: GpuSpeed, precision: Precision) -> float | None:
    """The dense rate in TFLOP/s that a GPU computes this form at; None is not known."""
    half = gpu.half_tflops
    if precision.rate == "single":
        return None if half is None else half / 2
    if precision.rate == "fp8":
        return gpu.fp8_tflops or half
    if precision.rate == "int8":
        # B300 and GB300 have next to no integer rate: there 16 bit is faster.
        return max((it for it in (gpu.int8_tops, half) if it), default=None)
    return half
