"""What part of a GPU a MIG instance is. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from gpucost.pricing.names import plain

if TYPE_CHECKING:
    from gpucost.model import Device, MigInstance

_MIG_SLICES = {"a30": 4, "rtx-pro-6000": 4, "rtx-pro-server-6000": 4, "rtx-pro-4500": 2}
"""Compute slices of partitioned GPUs that have not 7 (NVIDIA MIG user guide, supported
profiles); the key is a model's plain name or the start of it."""


def mig_share(device: Device, instance: MigInstance, split: Literal["compute", "memory"]) -> float:
    """The part of the GPU that a MIG instance is, 0 to 1.

    `compute`: its compute slices of the GPU's. `memory`: its GPU instance's memory of the GPU's,
    which compute instances of one GPU instance share by their slices (each of them reports all
    of it); by compute where a size is not known.
    """
    if split == "memory" and device.memory_bytes and instance.memory_bytes:
        siblings = [it.compute_slices for it in device.mig or () if it.gi == instance.gi]
        part = instance.compute_slices / max(sum(siblings), instance.compute_slices, 1)
        return min(1.0, part * instance.memory_bytes / device.memory_bytes)
    return min(1.0, instance.compute_slices / (device.mig_slices or mig_slices(device.model)))


def mig_slices(model: str) -> int:
    """Compute slices of a partitioned GPU, for where the driver was not asked."""
    name = plain(model)
    for start, slices in _MIG_SLICES.items():
        if name == start or name.startswith(f"{start}-"):
            return slices
    return 7
