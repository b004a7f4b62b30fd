"""What NVML's raw answers mean; pure.

The rule of this file: a value that cannot be is dropped, never passed on and never a zero.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gpucost.model import Activity, Process, Signal

if TYPE_CHECKING:
    from collections.abc import Iterable

FULL_PERCENT = 100
NO_INSTANCE = 0xFFFFFFFF
MAX_PID = 1 << 22
"""Linux's PID_MAX_LIMIT on 64 bits."""

BROKEN_PROCESSES = ((535, 43), (535, 86))
"""From and below: drivers whose *RunningProcesses_v3 write longer entries than documented
(wookayin/gpustat issue 161). Their _v2 are right."""
PROCESS_LISTS = ("Compute", "Graphics", "MPSCompute")

RECOVERY_FAULTS = {
    1: "reset_required",  # GPU_RESET
    2: "reboot_required",  # NODE_REBOOT
    6: "reset_required",  # BUS_RESET
    7: "reboot_required",  # SYSTEM_REBOOT
}
"""nvmlDeviceGpuRecoveryAction_t to a fault. Draining (3, 4) and the IMEX domain (5) are left out:
the GPU still works meanwhile."""


def parse_samples(values: Iterable[int]) -> Activity | None:
    """Utilisation samples in per cent, evenly spaced by the driver. None of none."""
    usable = [value for value in values if value <= FULL_PERCENT]
    if not usable:
        return None
    return Activity(sum(usable) / len(usable) / 100.0, max(usable) / 100.0, Signal.NVML_SAMPLES)


def parse_rates(percent: int) -> Activity | None:
    """A utilisation rate in per cent."""
    if not 0 <= percent <= FULL_PERCENT:
        return None
    return Activity(percent / 100.0, percent / 100.0, Signal.NVML_RATES)


def parse_processes(entries: Iterable[Any], memory_bytes: int | None) -> tuple[Process, ...]:
    """Processes of one unit, one a PID (it may compute, draw and be an MPS client at once).

    Entries that cannot be are dropped: some drivers write garbage.
    """
    found: dict[int, int | None] = {}
    for entry in entries:
        pid, used = entry.pid, entry.usedGpuMemory
        if not 0 < pid <= MAX_PID:
            continue
        if used is not None and memory_bytes is not None and used > memory_bytes:
            continue
        known = found.get(pid)
        found[pid] = used if known is None else known if used is None else max(used, known)
    return tuple([Process(pid, used) for pid, used in found.items()])


def parse_instances(
    entries: Iterable[Any], memory_bytes: int | None
) -> dict[tuple[int, int], tuple[Process, ...]] | None:
    """A partitioned GPU's processes, by the ids of their GPU and compute instance.

    None where an entry does not say which: then any instance may have processes unseen.
    """
    found: dict[tuple[int, int], list[Any]] = {}
    for entry in entries:
        gi = entry.gpuInstanceId
        if gi == NO_INSTANCE:
            return None
        found.setdefault((gi, entry.computeInstanceId), []).append(entry)
    return {ids: parse_processes(own, memory_bytes) for ids, own in found.items()}


def parse_driver_version(text: str) -> tuple[int, ...]:
    """`535.54.03` as (535, 54, 3); empty for what is none."""
    parts = text.split(".")
    return tuple(map(int, parts)) if all(part.isdecimal() for part in parts) else ()


def process_lists(driver_version: str) -> tuple[tuple[tuple[str, tuple[()]], ...], ...]:
    """The calls for each kind of process list, the better first."""
    low, high = BROKEN_PROCESSES
    versions = (2,) if low <= parse_driver_version(driver_version) < high else (3, 2)
    return tuple(
        tuple((f"nvmlDeviceGet{kind}RunningProcesses_v{version}", ()) for version in versions)
        for kind in PROCESS_LISTS
    )


def parse_faults(
    *, recovery_action: int | None, remap_failed: bool | None, uncorrected_errors: int | None
) -> tuple[str, ...]:
    """Why a GPU cannot be used, in words that stay. None stands for what it does not tell.

    What it survives is no fault: corrected errors, rows remapped or waiting to be. Of the three,
    the error count is believed only where the GPU tells neither of the others, for newer ones
    contain an uncorrectable error and go on.
    """
    faults = []
    if recovery_action in RECOVERY_FAULTS:
        faults.append(RECOVERY_FAULTS[recovery_action])
    if remap_failed:
        faults.append("row_remap_failure")
    if recovery_action is None and remap_failed is None and uncorrected_errors:
        faults.append("ecc_uncorrectable")
    return tuple(faults)
