"""What NVML's troubles are called, and what a person can do about them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpucost.model import Problem
from gpucost.sources.nvml_errors import Reaction

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gpucost.model import Device
    from gpucost.sources.nvml_calls import Unit

MISSES_TO_TELL = 3

FAULT_REMEDIES = {
    "lost": "The GPU fell off the bus: see dmesg (XID 79), drain and reboot the node.",
    "missing": "The driver no longer lists the GPU: see dmesg, drain and reboot the node.",
    "reset_required": "Drain the node, then `nvidia-smi --gpu-reset`, or reboot it.",
    "reboot_required": "Drain and reboot the node.",
    "row_remap_failure": "Its memory ran out of spare rows: have the GPU replaced.",
    "ecc_uncorrectable": "Drain the node and reset the GPU; if it returns, have it replaced.",
}
"""Every word that may stand in GpuReading.faults, and what to do."""

_DENIED_REMEDY = (
    "Give the container more rights: GPM needs CAP_SYS_ADMIN (some drivers: privileged), MIG"
    " needs privileged and NVIDIA_MIG_MONITOR_DEVICES=all."
)


def problems_of(units: Iterable[Unit]) -> tuple[Problem, ...]:
    """One Problem for each call that is denied or keeps failing, naming the devices."""
    found: dict[tuple[str, str, int, str], list[str]] = {}
    for unit in units:
        for name, silence in unit.silent.items():
            if silence.reaction is Reaction.DENIED:
                found.setdefault(("no_permission", name, silence.code, _DENIED_REMEDY), []).append(
                    unit.label
                )
            elif silence.reaction is Reaction.LATER and silence.misses >= MISSES_TO_TELL:
                remedy = "See dmesg on the node for what the driver says."
                found.setdefault(("call_fails", name, silence.code, remedy), []).append(unit.label)
    return tuple(
        Problem("nvml", kind, f"{name} fails with NVML error {code} on {_some(on)}.", remedy)
        for (kind, name, code, remedy), on in found.items()
    )


def _some(labels: list[str]) -> str:
    shown = 4
    more = len(labels) - shown
    return ", ".join(labels[:shown]) + (f" and {more} more" if more > 0 else "")


def gpu_unreadable(index: int, reason: str) -> Problem:
    """A GPU that cannot even be named, so that it is not in the reading."""
    return Problem(
        "nvml",
        "gpu_unreadable",
        f"GPU {index} is there and does not say who it is ({reason}).",
        "See nvidia-smi and dmesg on the node; it is tried again every few minutes.",
    )


def mig_unreadable(gpu: Unit) -> Problem:
    """A partitioned GPU whose parts the driver does not show."""
    return Problem(
        "nvml",
        "mig_unreadable",
        f"The MIG instances of {gpu.label} cannot be listed; the last known ones are shown.",
        "Run the container privileged with NVIDIA_MIG_MONITOR_DEVICES=all.",
    )


def gpu_fault(device: Device, word: str) -> Problem:
    """A GPU that cannot be used."""
    return Problem(
        "nvml",
        f"gpu_{word}",
        f"GPU {device.index} ({device.uuid}) cannot be used: {word.replace('_', ' ')}.",
        FAULT_REMEDIES[word],
    )
