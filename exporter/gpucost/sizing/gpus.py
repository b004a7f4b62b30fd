"""What a GPU can do, whole or as a MIG instance: the roof of every estimate. Pure.

Rates are dense, without sparsity: vendors print the double.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from gpucost.pricing.mig import mig_slices
from gpucost.sizing.facts import Facts, FactsError, typed

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gpucost.pricing.names import GpuModel

GIB = 2**30

ASSUMED_FLOPS_PER_BYTE = 100.0
"""Of GPUs whose tensor rate no source has, for each byte of their bandwidth: less than nearly all
that are known have (T4 203, A40 215, RTX 4090 164), so that they never look better than they are.
What one stream is given depends on bandwidth alone."""

_WITHOUT_TENSOR_CORES = ("K520", "K80", "M60", "P4", "P40", "P100-16GB")

_PROFILE = re.compile(r"^(\d+)g\.(\d+)gb$")


class GpuSpeed(Struct, frozen=True, forbid_unknown_fields=True):
    """A GPU model, or a MIG instance of one. None is not known.

    `nvlink_gb_s` counts all links in both directions; 0 is none. `parts` is how many instances of
    this profile share the GPU by compute slices: 1 for the whole.
    """

    gpu_model: str
    memory_gib: float = 0.0
    bandwidth_gb_s: float | None = None
    fp16_tflops: float | None = None
    bf16_tflops: float | None = None
    fp8_tflops: float | None = None
    int8_tops: float | None = None
    nvlink_gb_s: float | None = None
    mig: str = ""
    profile: str = ""
    share: float = 1.0

    @property
    def name(self) -> str:
        """The model, and the profile of a MIG instance."""
        return f"{self.gpu_model} {self.profile}".strip()

    @property
    def half_tflops(self) -> float | None:
        """The rate of 16-bit tensor arithmetic; FP16 and BF16 run alike where both exist."""
        known = self.bf16_tflops or self.fp16_tflops
        if known or not self.is_assumed or self.bandwidth_gb_s is None:
            return known
        return self.bandwidth_gb_s * ASSUMED_FLOPS_PER_BYTE / 1e3

    @property
    def is_known(self) -> bool:
        """Whether there is enough for an estimate."""
        return self.half_tflops is not None and self.bandwidth_gb_s is not None

    @property
    def is_assumed(self) -> bool:
        """Whether no source has its arithmetic, which then stands low."""
        known = self.bf16_tflops or self.fp16_tflops
        return known is None and self.gpu_model not in _WITHOUT_TENSOR_CORES


def gpu_speeds(facts: Facts, models: Iterable[GpuModel]) -> dict[str, GpuSpeed]:
    """Every model whose speed is known, by its id in price lists. Raises FactsError."""
    memory = {model.id: model.memory_gib for model in models}
    found = {}
    for (name,), speed in typed(facts, "gpu", GpuSpeed, "gpu_model").items():
        gib = speed.memory_gib or memory.get(name)
        if not gib:
            raise FactsError(f"table gpu, {name}: no known model. Give memory_gib=... in its row.")
        found[name] = replace(speed, memory_gib=gib)
    return found


def compute_part(gpu: GpuSpeed) -> float:
    """Of a whole GPU's compute, what a MIG instance has by its slices."""
    match = _PROFILE.match(gpu.profile)
    return int(match[1]) / mig_slices(gpu.gpu_model) if match else 1.0


def instances(gpu: GpuSpeed) -> tuple[GpuSpeed, ...]:
    """The MIG instances of a GPU, smallest first.

    An instance has its slices' part of the compute, and of the bandwidth the part of the memory
    that it has (NVIDIA MIG user guide: a memory slice is an eighth of the memory and of its
    bandwidth). It has no NVLink.
    """
    found = []
    for profile in filter(None, gpu.mig.split(",")):
        match = _PROFILE.match(profile)
        if match is None:
            raise FactsError(f"table gpu, {gpu.gpu_model}: `{profile}` is no MIG profile")
        gib = float(match[2])
        compute = compute_part(replace(gpu, profile=profile))
        if compute == 1.0:
            continue
        memory = min(1.0, gib / gpu.memory_gib)
        found.append(
            replace(
                gpu,
                memory_gib=gib,
                bandwidth_gb_s=_part(gpu.bandwidth_gb_s, memory),
                fp16_tflops=_part(gpu.fp16_tflops, compute),
                bf16_tflops=_part(gpu.bf16_tflops, compute),
                fp8_tflops=_part(gpu.fp8_tflops, compute),
                int8_tops=_part(gpu.int8_tops, compute),
                nvlink_gb_s=0.0,
                mig="",
                profile=profile,
                share=max(compute, memory),
            )
        )
    return tuple(sorted(found, key=lambda it: (it.share, it.memory_gib)))


def _part(figure: float | None, part: float) -> float | None:
    return None if figure is None else figure * part
