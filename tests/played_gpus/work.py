"""What programs do with GPUs, and how that looks to the driver.

A program tells the share of time it would keep a GPU busy were it alone, and the memory it has on
it. Programs that share a GPU by time-slicing get their turns: together no more than all of it,
each in proportion to what it wants.
"""

from __future__ import annotations

import msgspec

from fake_nvml import Gpu, Process

_MIB = 1 << 20


class Order(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a program says: a line of JSON. `gpus` are places among those it has; all if empty."""

    busy: float = 0.0
    memory_bytes: int = 256 * _MIB
    gpus: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Raises ValueError, which msgspec shows with the place of the field."""
        if not 0.0 <= self.busy <= 1.0:
            raise ValueError(f"busy is {self.busy:g}; give 0 to 1")
        if not 0 <= self.memory_bytes <= 1 << 50:
            raise ValueError(f"memory_bytes is {self.memory_bytes}; give 0 to 2^50")


class Work(msgspec.Struct, frozen=True):
    """An order in force: of a process of the host, on devices by UUID (of GPUs or MIG devices)."""

    pid: int
    devices: tuple[str, ...]
    order: Order


def play(gpus: list[Gpu], works: list[Work]) -> None:
    """Make the GPUs look as they do while exactly these programs run."""
    for gpu in gpus:
        gpu.processes = []
        gpu.reserved_bytes = min(gpu.reserved_bytes, gpu.memory_bytes or 0)
        if gpu.mig is None:
            mine = [work for work in works if gpu.uuid in work.devices]
            gpu.busy(_add(gpu, mine))
            gpu.used_bytes = _used(mine, (gpu.memory_bytes or 0) - gpu.reserved_bytes)
        else:
            _play_parts(gpu, works)


def _play_parts(gpu: Gpu, works: list[Work]) -> None:
    """MIG devices are busy each for itself; what the whole GPU shows follows from their slices."""
    busy, used = 0.0, 0
    for part in gpu.mig or ():
        mine = [work for work in works if part.uuid in work.devices]
        ratio = _add(gpu, mine, part.gi, part.ci)
        part.used_bytes = _used(mine, part.memory_bytes)
        if part.gpm is not None:
            part.gpm.graphics = part.gpm.sm = ratio
        busy += ratio * part.ci_slices / gpu.mig_slices
        used += part.used_bytes
    gpu.busy(min(1.0, busy))
    gpu.used_bytes = used


def _add(gpu: Gpu, mine: list[Work], gi: int | None = None, ci: int | None = None) -> float:
    """Add the processes; give the share of time in which any of them runs."""
    wanted = sum(work.order.busy for work in mine)
    turn = 1.0 / max(1.0, wanted)
    gpu.processes += [
        Process(
            work.pid,
            memory_bytes=work.order.memory_bytes,
            gi=gi,
            ci=ci,
            sm=work.order.busy * turn,
        )
        for work in mine
    ]
    return min(1.0, wanted)


def _used(mine: list[Work], room: int) -> int:
    return min(room, sum(work.order.memory_bytes for work in mine))
