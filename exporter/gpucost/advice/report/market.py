"""What else there is to run on: reads the package's own price list and speeds of GPUs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpucost.advice.report.facts import Hardware, Offer
from gpucost.facts_files import shipped_facts
from gpucost.prices import load_models, shipped
from gpucost.pricing.mig import mig_slices
from gpucost.pricing.names import index, plain
from gpucost.pricing.price_list import parse
from gpucost.sizing.gpus import gpu_speeds, instances

if TYPE_CHECKING:
    from collections.abc import Collection

    from gpucost.sizing.gpus import GpuSpeed


def hardware() -> dict[str, Hardware]:
    """Known GPU models by every plain name that they have, a list's or NVML's."""
    models = load_models()
    known = {
        plain(it.gpu_model): _hardware(it) for it in gpu_speeds(shipped_facts(), models).values()
    }
    return {name: known[model] for name, model in index(models).items() if model in known}


def _hardware(gpu: GpuSpeed) -> Hardware:
    parts = tuple(
        Hardware(
            model=it.gpu_model,
            memory_gib=it.memory_gib,
            half_tflops=it.half_tflops,
            bandwidth_gb_s=it.bandwidth_gb_s,
            profile=it.profile,
            compute=int(it.profile.partition("g")[0]) / mig_slices(it.gpu_model),
            share=it.share,
        )
        for it in instances(gpu)
    )
    return Hardware(
        model=gpu.gpu_model,
        memory_gib=gpu.memory_gib,
        half_tflops=gpu.half_tflops,
        bandwidth_gb_s=gpu.bandwidth_gb_s,
        instances=parts,
    )


def offers(regions: Collection[str]) -> tuple[Offer, ...]:
    """What the shipped price list has in these regions, by GPU; whole GPUs only."""
    with shipped() as lines:
        listed = parse(lines)
    return tuple(
        Offer(
            provider=it.provider,
            instance_type=it.name,
            model=it.gpu_model,
            gpus=it.gpu_count,
            region=place,
            capacity_type=price.capacity_type,
            usd_per_gpu_hour=price.usd_per_hour / it.gpu_count,
            source=f"{price.source} {listed.sources[price.source].day}",
        )
        for it in listed.types
        if it.gpu_model and it.gpu_count is not None and it.gpu_count >= 1
        for price in it.prices
        for place in price.places
        if place in regions
    )


def gpu_counts() -> dict[str, float]:
    """How many GPUs an instance type has, by its name in small letters."""
    with shipped() as lines:
        listed = parse(lines)
    return {it.name.casefold(): it.gpu_count for it in listed.types if it.gpu_count is not None}
